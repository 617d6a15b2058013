//! Pauses between attempts: exponential with full jitter, so that many clients that failed
//! together do not come back together
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Longest first pause.
const PAUSE_FIRST_MAX: Duration = Duration::from_millis(50);

/// Longest pause of all.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Numbers that need to be spread, not secret: SplitMix64 (Steele et al., OOPSLA 2014).
#[derive(Debug)]
pub(super) struct Jitter(AtomicU64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Jitter {
        Jitter(AtomicU64::new(seed))
    }

    /// The next number of the sequence.
    pub(super) fn number(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// How long to wait after this many failures (from 1): anything up to 50 ms doubled for
    /// each, at most 3 s.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = PAUSE_FIRST_MAX.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let most = doubled.min(PAUSE_MAX).as_micros() as u64;
        Duration::from_micros(self.number() % (most + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_fill_a_growing_range_up_to_the_cap() {
        let jitter = Jitter::new(7);
        for failures in 1..40 {
            let most = (PAUSE_FIRST_MAX * (1 << (failures - 1).min(10))).min(PAUSE_MAX);
            let pauses: Vec<_> = (0..200).map(|_| jitter.pause(failures)).collect();
            assert!(pauses.iter().all(|pause| *pause <= most), "{failures}");
            assert!(pauses.iter().any(|pause| *pause < most / 4), "{failures}: not spread");
            assert!(pauses.iter().any(|pause| *pause > most / 4 * 3), "{failures}: not spread");
        }
    }
}
