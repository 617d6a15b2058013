//! Measuring the memory of one test at a time.

pub use crate::heap::{own_peak_of, peak_of};

/// To be held by each test here: some measure the memory of the whole process.
pub fn alone() -> parking_lot::MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    ONE_AT_A_TIME.lock()
}
