//! The command line with the real binary, the real kernel and a store in a directory: a
//! workspace's life, every way to leave, bad input, output for scripts. Run as root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_disk;
mod bad_input;
mod bad_line;
mod bad_store;
mod first_steps;
mod git;
mod idle;
mod leaving;
mod life;
mod replace;
mod s3_double;
mod scripts;
mod support;
mod verify;
