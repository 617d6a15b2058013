//! The kernel's view: what programs see through a real mount, what it costs in requests, and how
//! a mount ends. Needs root and `/dev/fuse`.

mod content;
mod harness;
mod lifecycle;
mod metadata;
mod names;
mod programs;
mod requests;
