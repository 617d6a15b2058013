//! How long bytes and answers take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Waits below this are not worth a timer; what they let through is made up by the next wait.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// What a wire that was free for so long or longer lets through at once, as the buffers on a real
/// line do. Without it the time in which the proxy fetches the next piece would be lost, and one
/// connection alone would never fill the line.
const SLACK: Duration = Duration::from_millis(10);

/// Pieces of a body are not cut smaller.
const PIECE_BYTES_MIN: usize = 256;

/// Both directions of the line, and its latency.
#[derive(Debug)]
pub struct Line {
    latency_millis: AtomicU64,
    pub up: Wire,
    pub down: Wire,
}

impl Line {
    pub fn new(latency_millis: u64, bytes_per_sec: u64) -> Line {
        Line {
            latency_millis: AtomicU64::new(latency_millis),
            up: Wire::new(bytes_per_sec),
            down: Wire::new(bytes_per_sec),
        }
    }

    pub fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_millis.load(Ordering::Relaxed))
    }

    pub fn set(&self, latency_millis: u64, bytes_per_sec: u64) {
        self.latency_millis.store(latency_millis, Ordering::Relaxed);
        self.up.bytes_per_sec.store(bytes_per_sec, Ordering::Relaxed);
        self.down.bytes_per_sec.store(bytes_per_sec, Ordering::Relaxed);
    }
}

/// One direction: bytes pass one after the other, whichever connection they are of.
#[derive(Debug)]
pub struct Wire {
    bytes_per_sec: AtomicU64,
    /// When everything that was sent up to now will have passed.
    free_at: Mutex<Option<Instant>>,
}

impl Wire {
    pub fn new(bytes_per_sec: u64) -> Wire {
        Wire { bytes_per_sec: AtomicU64::new(bytes_per_sec), free_at: Mutex::default() }
    }

    /// Largest piece that is sent at once: on a very slow line bytes trickle, so that whoever waits
    /// sees that something comes.
    pub fn piece_bytes_max(&self) -> usize {
        match self.bytes_per_sec.load(Ordering::Relaxed) {
            0 => usize::MAX,
            rate => usize::try_from(rate / 4).unwrap_or(usize::MAX).max(PIECE_BYTES_MIN),
        }
    }

    /// Sends `bytes` at `now`; gives the time at which they have passed, if it is worth a wait.
    pub fn pass(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.bytes_per_sec.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut free_at = self.free_at.lock();
        let earliest = now - SLACK;
        let passed = free_at.map_or(earliest, |free| free.max(earliest)) + takes;
        *free_at = Some(passed);
        (passed.saturating_duration_since(now) >= WAIT_MIN).then_some(passed)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn bytes_pass_one_after_the_other_and_an_idle_wire_saves_up_no_more_than_its_slack() {
        let wire = Wire::new(1_000_000);
        let start = Instant::now() + Duration::from_secs(10);
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(wire.pass(start, 10_000), None, "the slack");
        assert_eq!(wire.pass(start, 5_000), Some(after(5)));
        assert_eq!(wire.pass(start, 5_000), Some(after(10)), "behind the first");
        assert_eq!(wire.pass(after(12), 12_000), Some(after(22)), "2 ms late are made up");
        assert_eq!(wire.pass(after(500), 12_000), Some(after(502)), "half a second is not");
        assert_eq!(wire.pass(after(502), 500), None, "too short to wait");
        assert_eq!(wire.pass(after(502), 500), Some(after(503)), "but not forgotten");
        assert_eq!(Wire::new(0).pass(start, 1 << 30), None);
    }
}
