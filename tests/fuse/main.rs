//! The kernel's view: what programs see through a real mount, what it costs in requests, and how
//! a mount ends. Needs root and `/dev/fuse`.

// Clippy knows `#[test]` functions, but not the functions that they call.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs, reason = "nothing here is a library")]

mod content;
mod endings;
mod faults;
mod harness;
mod lifecycle;
mod metadata;
mod names;
mod programs;
mod requests;
mod scheduling;
