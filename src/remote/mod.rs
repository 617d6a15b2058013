//! The object store: S3, a local directory, memory, and decorators over them. The only async
//! code of the daemon is in here; everything above blocks on [`Remote`].
//!
//! Promises: an acknowledged `put` is durable and whole; a conditional put has one winner; every
//! call ends by its deadline; a message never holds a secret. Must not know: what the objects
//! mean.
//!
//! [`ObjectStore`] is one attempt at one request. [`Remote`] adds what every store needs: keys
//! checked, retries with jitter, deadlines, a limit on requests at once in which the foreground
//! goes first, an upload limit, counters.

mod client;
mod counting;
mod directory;
mod durable;
mod engine;
mod error;
mod fault;
mod jitter;
mod key;
mod limit;
mod memory;
mod options;
mod probe;
mod rate;
mod s3;
mod stats;
mod store;
mod ticket;
mod url;

pub use client::{GetRequest, Remote};
pub use counting::{Call, CountingStore, Op};
pub use directory::DirectoryStore;
pub use durable::{Durable, Stored};
pub use error::RemoteError;
pub use fault::{Fault, FaultStore, When};
pub use key::KEY_LEN_MAX;
pub use memory::MemoryStore;
pub use options::RemoteOptions;
pub use rate::RateLimitStore;
pub use s3::S3Store;
pub use stats::RemoteStats;
pub use store::{
    ConditionStyle, OBJECT_LEN_MAX, Object, ObjectMeta, ObjectStore, PutMode, Version,
};
pub use ticket::{Brake, Fetches, PutTicket, Turn};
pub use url::StoreUrl;
