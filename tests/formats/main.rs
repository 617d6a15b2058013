//! The store's formats: bytes that never change, values that survive a round trip, and damage
//! that is always noticed. `docs/format.md` describes what is tested here.

mod damage;
mod golden;
mod local_golden;
mod round_trip;
mod samples;
