//! A workspace's life over a store that counts and fails as told: leases, seals, crashes,
//! resumes, and what each may cost.

mod bounds;
mod crash;
mod lease;
mod seals;
mod world;
