//! A workspace's life over a store that counts and fails as told: leases, seals, crashes,
//! resumes, and what each may cost.

// Clippy knows `#[test]` functions, but not the functions that they call.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
#![allow(missing_docs, reason = "nothing here is a library")]

mod bounds;
mod crash;
mod day;
mod lease;
mod room;
mod scale;
mod seals;
mod stores;
mod world;
mod writers;
