//! Dormouse: a content-addressed FUSE filesystem for sandboxes that sleep.
//!
//! Each folder is a layer and imports only what is below it; `tests/tidy.rs` checks that.
//! `docs/architecture.md` is the map.

pub mod types;

pub mod format;

pub mod local;
pub mod remote;

pub mod chunks;
pub mod tree;

pub mod namespace;

pub mod fs;

pub mod workspace;

pub mod control;
pub mod fuse;

pub mod cli;
