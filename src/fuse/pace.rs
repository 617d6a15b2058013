//! How long syncing the local disk takes, and so where it is best waited for.
//!
//! Handing a request to another thread and its answer back costs two wake-ups of idle cores, 50 us
//! and more on a virtual machine: half of what a fast disk needs for a sync. So while syncs have
//! been quick, the thread that read the request does them itself, one such thread at a time; a
//! disk that becomes slow is found out by the first slow sync and waited for elsewhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Longest usual sync that a thread which reads requests does itself.
const QUICK: Duration = Duration::from_micros(400);

/// Weight of the newest of a number of syncs in what is usual: one in so many.
const NEWEST_SHARE: u64 = 8;

/// What syncs took; shared by the serving threads.
#[derive(Debug)]
pub(super) struct Pace {
    usual_nanos: AtomicU64,
    is_taken: AtomicBool,
}

/// The right to sync on a thread that reads requests; given back when dropped.
#[derive(Debug)]
pub(super) struct Inline<'a>(&'a Pace);

impl Default for Pace {
    /// Slow until it is known to be quick.
    fn default() -> Pace {
        let usual_nanos = AtomicU64::new(2 * QUICK.as_nanos() as u64);
        Pace { usual_nanos, is_taken: AtomicBool::new(false) }
    }
}

impl Pace {
    /// Takes note of a sync's duration.
    pub(super) fn took(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / NEWEST_SHARE;
        let usual = self.usual_nanos.load(Ordering::Relaxed);
        // Two at once may count as one: it is a guess in any case.
        let usual = (usual - usual / NEWEST_SHARE).saturating_add(nanos);
        self.usual_nanos.store(usual, Ordering::Relaxed);
    }

    /// The right to sync right here, if that is usually quick and nobody else has it.
    pub(super) fn inline(&self) -> Option<Inline<'_>> {
        let is_quick = self.usual_nanos.load(Ordering::Relaxed) <= QUICK.as_nanos() as u64;
        (is_quick && !self.is_taken.swap(true, Ordering::Acquire)).then(|| Inline(self))
    }
}

impl Drop for Inline<'_> {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_go_inline_once_they_have_been_quick_and_stop_when_one_was_slow() {
        let pace = Pace::default();
        assert!(pace.inline().is_none(), "not known yet");
        for _ in 0..20 {
            pace.took(Duration::from_micros(100));
        }
        let inline = pace.inline().expect("they are quick");
        assert!(pace.inline().is_none(), "one at a time");
        drop(inline);
        assert!(pace.inline().is_some());
        pace.took(Duration::from_millis(10));
        assert!(pace.inline().is_none(), "the disk has become slow");
    }

    #[test]
    fn one_that_takes_a_little_longer_changes_nothing() {
        let pace = Pace::default();
        (0..50).for_each(|_| pace.took(Duration::from_micros(100)));
        pace.took(Duration::from_micros(900));
        assert!(pace.inline().is_some());
    }
}
