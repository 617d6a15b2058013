//! The local disk: the staging log, the overlay of changed records, the chunk cache, known chunk
//! locations. One directory per mounted workspace, locked by its owner.
//!
//! Promises: what `sync` returned for survives a power cut; without it a crash loses at most a
//! suffix of the commits, never one from the middle; a commit is handed to the kernel before it
//! returns, so that a killed process loses none. Must not know: what the records mean, or that
//! there is a remote store.

mod batch;
mod crash;
mod directory;
mod error;
mod options;

pub use batch::{Batch, Slot};
#[doc(hidden)]
pub use crash::crash_point;
pub use directory::{Cut, Local};
pub use error::LocalError;
pub use options::{LocalOptions, Usage};
