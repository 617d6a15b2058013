//! What survives when the process or the disk gives out.
//!
//! A child (this binary again) works and reports each step that was acknowledged to it; the
//! parent kills it, at random or at a named crash point (`DORMOUSE_CRASH_POINT`), opens what is
//! left, and compares it with what was acknowledged. A failure prints its seed.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test's helpers")]

mod child;
mod full_disk;
mod kill;
mod workload;
