//! How other processes talk to a mount's daemon: HTTP over a Unix socket for status, metrics,
//! checkpoint, hibernation and leaving, and the registry that finds the socket of a mountpoint.
//!
//! Promises: only the owner's processes reach the socket (directory 0700, socket 0600); a
//! command's answer ends with exactly one result or refusal; an entry of a daemon that no longer
//! runs is recognized as stale, also when its process number was given to another process.
//! Must not know: what the commands do (the daemon passes them in), or FUSE.

mod client;
mod metrics;
mod registry;
mod server;
mod wire;

pub use client::{Client, ClientError};
pub use metrics::{Facts, Sample, SampleKind, render};
pub use registry::{Liveness, Process, Registration, Registry, RegistryError, process_start_ticks};
pub use server::{Handlers, Server, serve};
pub use wire::{Command, Event, Refusal};
