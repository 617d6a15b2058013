//! The kernel's view: a thin adapter from FUSE requests to `fs`, and a mount's life.
//!
//! Promises: each request is answered exactly once and in bounded time, also when a handler
//! panics or the store hangs; the threads that read requests never wait for the store; this
//! process never waits on its own mount. Must not know: where bytes live, or what a store is.

mod adapter;
mod convert;
mod count;
mod device;
mod error;
mod flight;
mod helper;
mod init;
mod list;
mod mount;
mod mountinfo;
mod mountpoint;
mod news;
mod options;
mod pool;
mod prime;
mod read_ahead;
mod reply;
mod serve;
mod watchdog;
mod write;

pub use count::{Opcode, RequestCounts};
pub use error::FuseError;
pub use init::configure;
pub use mount::{Mounted, detach_dead, mount, mount_other};
pub use mountpoint::check_mountpoint;
pub use options::MountOptions;
pub use prime::first_open_name;
