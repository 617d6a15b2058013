//! The vocabulary: ids, names, attributes, time, threads, blocks of bytes. Imports nothing of ours.
//!
//! A value that exists is valid: parsing and range checks are in the constructors, and the layers
//! above trust them. Only clocks and the stock of blocks have a state.

mod attr;
mod buffer;
mod clock;
mod id;
mod name;
mod request;
mod standing;

pub use attr::{Attr, Kind, Time};
pub use buffer::Buffer;
pub use clock::{Clock, ManualClock, SystemClock};
pub use id::{CacheId, ChunkId, Epoch, IdError, Ino, NodeId, PackId, SnapshotId};
pub use name::{NAME_LEN_MAX, Name, NameError, WorkspaceName, WorkspaceNameError};
pub use request::{ConnectionId, RequestId};
pub use standing::{Class, Cores, Standing, ThreadId};
