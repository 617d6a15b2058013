//! FUSE over io_uring: requests come and go in rings that we share with the kernel, one queue per
//! core, so that a request's answer and the wait for the next are one system call, and both sides
//! stay on the core of the program that asks.
//!
//! The kernel (fs/fuse/dev_uring.c) wants a queue with at least one buffer for each possible core
//! before it uses any. It goes on sending FORGET and INTERRUPT over `/dev/fuse`, and takes news
//! there only.
//!
//! Promises: as over `/dev/fuse`, each request is answered exactly once, also when a handler
//! panics, and the end of the connection ends everything here. The buffers' size has a bound.
//! `docs/decisions/0008-io-uring.md` has the reasons and measurements.

mod abi;
mod buffer;
mod device;
mod inbox;

mod plan;
mod session;
mod worker;

pub use plan::NoUring;
pub(super) use plan::Plan;
pub(super) use session::Session;
