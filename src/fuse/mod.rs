//! The kernel's view: a thin adapter from FUSE requests to `fs`, and a mount's life.
//!
//! Promises: each request is answered exactly once and in bounded time, also when a handler
//! panics or the store hangs; the threads that read requests never wait for the store; this
//! process never waits on its own mount. Must not know: where bytes live, or what a store is.

mod adapter;
mod answer;
mod convert;
mod count;
mod device;
mod direct;
mod dispatch;
mod error;
mod flight;
mod governor;
mod helper;
mod init;
mod kept;
mod killed;
mod list;
mod mount;
mod mountinfo;
mod mountpoint;
mod news;
mod operations;
mod options;
mod pace;
mod pool;
mod prime;
mod read_ahead;
mod reply;
mod serve;
mod uring;
mod watchdog;
mod wire;
mod write;

pub use count::{Opcode, RequestCounts};
pub use error::{FuseError, NoUring};
pub use init::configure;
pub use kept::Connection;
pub use mount::{
    Enlist, Mounted, adopt, detach_dead, end_connection, has_ended, mount, mount_other,
    offers_uring,
};
pub use mountpoint::check_mountpoint;
pub use options::{MountOptions, Scheduling, Transport, TransportChoice};
pub use prime::first_open_name;
