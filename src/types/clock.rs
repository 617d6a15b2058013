//! Time comes in from here only, so that tests decide what time it is.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use super::Time;

/// A source of time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall-clock time, for timestamps in files and manifests. May jump; never compared with
    /// another machine's.
    fn now(&self) -> Time;

    /// Time since an arbitrary start; never goes back. For ages, deadlines and rates.
    fn monotonic(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Time {
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock {
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        *self.lock() += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        let elapsed = *self.lock();
        let secs = i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX);
        Time::new(secs.saturating_add(1_700_000_000), elapsed.subsec_nanos())
    }

    fn monotonic(&self) -> Duration {
        *self.lock()
    }
}
