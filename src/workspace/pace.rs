//! Keeps background settling to a share of one core, so that it does not compete with the
//! sandbox's own work. A seal waits for settling, so it takes the pace off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Longest rest at once: someone who is in a hurry waits no longer than this.
const REST_MAX: Duration = Duration::from_millis(50);

/// Shorter rests are saved up: a sleep costs more than it gives back.
const REST_MIN: Duration = Duration::from_millis(1);

/// How many wait for settling to be done at full speed.
#[derive(Debug, Default)]
pub struct Hurry(AtomicUsize);

/// Someone waits as long as this lives.
#[derive(Debug)]
pub struct InHurry<'a>(&'a Hurry);

impl Hurry {
    /// Settling rests no more until the answer is dropped.
    pub fn up(&self) -> InHurry<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        InHurry(self)
    }

    fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for InHurry<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pace of one pass, in the thread that makes it.
#[derive(Debug)]
pub struct Pace {
    percent: u32,
    rested_at: Duration,
}

impl Pace {
    /// At most `percent` of one core, 1 to 100; 100 never rests.
    pub fn new(percent: u32) -> Pace {
        Pace { percent: percent.clamp(1, 100), rested_at: cpu_time() }
    }

    /// Rests for what was worked since the last rest.
    pub fn rest(&mut self, hurry: &Hurry) {
        if self.percent == 100 {
            return;
        }
        let now = cpu_time();
        let mut owed = owed(now.saturating_sub(self.rested_at), self.percent);
        if owed < REST_MIN {
            return;
        }
        self.rested_at = now;
        while !owed.is_zero() && !hurry.is_up() {
            let piece = owed.min(REST_MAX);
            std::thread::sleep(piece);
            owed -= piece;
        }
    }
}

/// Rest after which `worked` was `percent` of the time.
fn owed(worked: Duration, percent: u32) -> Duration {
    worked * (100 - percent) / percent
}

/// Processor time of this thread; zero, and so no rest, where the system does not tell.
fn cpu_time() -> Duration {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(Duration::ZERO, |usage| {
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_makes_up_the_share() {
        let worked = Duration::from_millis(30);
        assert_eq!(owed(worked, 100), Duration::ZERO);
        assert_eq!(owed(worked, 50), Duration::from_millis(30));
        assert_eq!(owed(worked, 25), Duration::from_millis(90));
        assert_eq!(owed(worked, 1), Duration::from_millis(2970));
    }

    #[test]
    fn who_is_in_a_hurry_takes_the_rest_off() {
        let hurry = Hurry::default();
        let waiting = hurry.up();
        // An hour of work is owed: it would rest for ever.
        let mut pace = Pace { percent: 1, rested_at: Duration::ZERO };
        while cpu_time() < Duration::from_millis(2) {
            std::hint::black_box(blake3::hash(&[0; 4096]));
        }
        pace.rest(&hurry);
        drop(waiting);
        assert!(!hurry.is_up());
    }
}
