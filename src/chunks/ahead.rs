//! What was fetched before anybody asked for it, and what of that was read: the price and the
//! worth of fetching ahead. And whether somebody waits for the store now.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;

use super::frames::FrameId;
use super::stats::{Counter, Counters};
use crate::types::Clock;

/// Chunks fetched ahead whose use is still looked out for (some 150 bytes each).
const LOOKED_OUT_FOR: NonZeroUsize = NonZeroUsize::new(32 * 1024).expect("not zero");

/// Why a chunk was fetched that nobody had asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It lay beside one that was asked for.
    Neighbour,
    /// A reader was on its way there.
    Ahead,
    /// Readers go through everything.
    Sweep,
    /// It was among the first that an earlier mount read.
    Hot,
}

/// The chunks fetched ahead and not read yet. A leaf lock.
#[derive(Debug)]
pub(super) struct Ahead {
    waiting: Mutex<LruCache<FrameId, (Purpose, u64)>>,
}

impl Default for Ahead {
    fn default() -> Ahead {
        Ahead { waiting: Mutex::new(LruCache::new(LOOKED_OUT_FOR)) }
    }
}

impl Ahead {
    /// Notes frames that came, before those who wait for them are told.
    pub(super) fn fetched(
        &self,
        purpose: Purpose,
        frames: impl Iterator<Item = (FrameId, usize)>,
        counters: &Counters,
    ) {
        let mut waiting = self.waiting.lock();
        for (id, len) in frames {
            match purpose {
                Purpose::Neighbour => {}
                Purpose::Ahead => counters.ahead_bytes.add_len(len),
                Purpose::Sweep => counters.sweep_bytes.add_len(len),
                Purpose::Hot => counters.hot_bytes.add_len(len),
            }
            waiting.put(id, (purpose, len as u64));
        }
    }

    /// A chunk was found on the local disk.
    pub(super) fn used(&self, id: &FrameId, counters: &Counters) {
        let Some((purpose, len)) = self.waiting.lock().pop(id) else { return };
        used_counter(purpose, counters).add(len);
    }

    /// A chunk was waited for: by who asked the store for it, or by who found it on its way.
    pub(super) fn asked_for(&self, id: &FrameId, counters: &Counters) {
        match self.waiting.lock().pop(id) {
            None | Some((Purpose::Neighbour, _)) => {}
            Some((purpose, len)) => used_counter(purpose, counters).add(len),
        }
    }
}

fn used_counter(purpose: Purpose, counters: &Counters) -> &Counter {
    match purpose {
        Purpose::Neighbour => &counters.neighbour_used_bytes,
        Purpose::Ahead => &counters.ahead_used_bytes,
        Purpose::Sweep => &counters.sweep_used_bytes,
        Purpose::Hot => &counters.hot_used_bytes,
    }
}

/// The line counts as quiet when nobody has waited for it for so long: programs that read one thing
/// after the other think less in between.
const QUIET_AFTER: Duration = Duration::from_millis(100);

/// Requests that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    foreground: AtomicUsize,
    /// When the line will be quiet if nobody comes, in microseconds of the clock.
    quiet_from_micros: AtomicU64,
}

/// A foreground request, as long as it lives.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    traffic: &'a Traffic,
    clock: &'a dyn Clock,
}

impl Traffic {
    /// Notes that somebody waits, until the answer is dropped.
    pub(super) fn foreground<'a>(&'a self, clock: &'a dyn Clock) -> UnderWay<'a> {
        self.foreground.fetch_add(1, Ordering::Relaxed);
        UnderWay { traffic: self, clock }
    }

    /// Whether anybody waits.
    pub(super) fn has_foreground(&self) -> bool {
        self.foreground.load(Ordering::Relaxed) > 0
    }

    /// Whether nobody waits, and has not for a while.
    pub(super) fn is_quiet(&self, clock: &dyn Clock) -> bool {
        let from = Duration::from_micros(self.quiet_from_micros.load(Ordering::Relaxed));
        !self.has_foreground() && clock.monotonic() >= from
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let quiet_from = self.clock.monotonic() + QUIET_AFTER;
        let micros = u64::try_from(quiet_from.as_micros()).unwrap_or(u64::MAX);
        self.traffic.quiet_from_micros.fetch_max(micros, Ordering::Relaxed);
        self.traffic.foreground.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ManualClock;

    #[test]
    fn what_is_read_counts_once_for_the_purpose_it_came_for() {
        let (ahead, counters) = (Ahead::default(), Counters::default());
        let frames = |from: u8, to: u8| (from..to).map(|number| ([number; 32], 100));
        ahead.fetched(Purpose::Ahead, frames(0, 4), &counters);
        ahead.fetched(Purpose::Hot, frames(4, 8), &counters);
        ahead.fetched(Purpose::Neighbour, frames(8, 12), &counters);
        ahead.fetched(Purpose::Sweep, frames(12, 16), &counters);
        for number in [0, 0, 1, 4, 8, 9, 12, 50] {
            ahead.used(&[number; 32], &counters);
        }
        // On their way, and waited for: of use, but a neighbour so is none.
        for number in [2, 5, 10, 13] {
            ahead.asked_for(&[number; 32], &counters);
        }
        let stats = counters.snapshot();
        assert_eq!((stats.ahead_bytes, stats.ahead_used_bytes), (400, 300));
        assert_eq!((stats.hot_bytes, stats.hot_used_bytes), (400, 200));
        assert_eq!((stats.sweep_bytes, stats.sweep_used_bytes), (400, 200));
        assert_eq!(stats.neighbour_used_bytes, 200);
    }

    #[test]
    fn the_line_is_quiet_a_while_after_the_last_one_who_waited() {
        let (traffic, clock) = (Traffic::default(), ManualClock::default());
        assert!(traffic.is_quiet(&clock), "nobody ever waited");
        let (first, second) = (traffic.foreground(&clock), traffic.foreground(&clock));
        drop(first);
        clock.advance(QUIET_AFTER);
        assert!(traffic.has_foreground() && !traffic.is_quiet(&clock));
        drop(second);
        assert!(!traffic.has_foreground() && !traffic.is_quiet(&clock));
        clock.advance(QUIET_AFTER);
        assert!(traffic.is_quiet(&clock));
    }
}
