//! `dormouse verify` and what a mount does with the same stores: each stored object damaged in
//! each way, structures that nobody but an enemy would write, and how much memory it takes.

// Clippy knows `#[test]` functions, but not the functions that they call.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
#![allow(missing_docs, dead_code, reason = "nothing here is a library")]

mod codecs;
mod damage;
mod forge;
#[path = "../codecs/memory.rs"]
mod heap;
mod hostile;
mod large;
mod memory;
#[path = "../codecs/properties.rs"]
mod properties;
#[path = "../formats/samples.rs"]
mod samples;
#[path = "../codecs/sealing.rs"]
mod sealing;
mod support;
#[path = "../workspace/world.rs"]
mod world;
