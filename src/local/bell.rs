//! Lets a background thread sleep until something is committed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Counts commits, and wakes who waits for the next one. A commit that nobody waits for pays two
/// atomic operations. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicU64,
    sleepers: AtomicUsize,
    sleeping: Mutex<()>,
    heard: Condvar,
}

impl Bell {
    /// How often it was rung.
    pub(super) fn count(&self) -> u64 {
        self.rung.load(Ordering::SeqCst)
    }

    /// Wakes all who wait. Counting comes before looking for sleepers, and a sleeper says that it
    /// is one before it looks at the count: one of the two sees the other.
    pub(super) fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.sleeping.lock());
            self.heard.notify_all();
        }
    }

    /// Waits until it was rung more often than `count`, at most so long.
    pub(super) fn wait(&self, count: u64, timeout: Duration) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut sleeping = self.sleeping.lock();
        if self.count() == count {
            self.heard.wait_for(&mut sleeping, timeout);
        }
        drop(sleeping);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const FOR_EVER: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_rung_before_the_wait_ends_it_at_once() {
        let bell = Bell::default();
        let count = bell.count();
        bell.ring();
        bell.wait(count, FOR_EVER);
        bell.wait(bell.count(), Duration::from_millis(1));
    }

    #[test]
    fn no_ring_is_missed_by_several_sleepers() {
        let bell = Arc::new(Bell::default());
        let sleep = || {
            let bell = Arc::clone(&bell);
            std::thread::spawn(move || {
                let mut count = 0;
                while count < 10_000 {
                    bell.wait(count, FOR_EVER);
                    count = bell.count();
                }
            })
        };
        let sleepers: Vec<_> = (0..3).map(|_| sleep()).collect();
        for _ in 0..10_000 {
            bell.ring();
        }
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
        assert_eq!(bell.sleepers.load(Ordering::SeqCst), 0);
    }
}
