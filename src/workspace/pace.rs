//! Keeps background settling to a share of one core, and to a small one of a core that others want,
//! so that it does not compete with the sandbox's own work. A seal waits for settling, so it takes
//! the pace off.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Longest rest at once: someone who is in a hurry waits no longer than this.
const REST_MAX: Duration = Duration::from_millis(50);

/// Shorter rests are saved up: a sleep costs more than it gives back.
const REST_MIN: Duration = Duration::from_millis(1);

/// Share of a core that somebody else wants as well.
const CONTENDED_PERCENT: u32 = 5;

/// Others want the core if this thread waits for it longer than the work that it then does,
/// divided by this. On a free core it waits some microseconds for each millisecond.
const CONTENDED_DIVISOR: u32 = 4;

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
    used: Used,
    /// What the scheduler says of this thread, where it does.
    schedstat: Option<File>,
}

/// What a thread has had of a core, and how long it waited for one.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    worked: Duration,
    waited: Duration,
}

impl Pace {
    /// At most `percent` of one core, 1 to 100; 100 never rests.
    pub fn new(percent: u32) -> Pace {
        let percent = percent.clamp(1, 100);
        // Opened here, so it is of the thread that works.
        let schedstat =
            if percent < 100 { File::open("/proc/thread-self/schedstat").ok() } else { None };
        let mut pace = Pace { percent, used: Used::default(), schedstat };
        pace.used = pace.used_by_now();
        pace
    }

    /// Rests for what was worked since the last rest.
    pub fn rest(&mut self, hurry: &Hurry) {
        if self.percent == 100 {
            return;
        }
        let now = self.used_by_now();
        let since = Used {
            worked: now.worked.saturating_sub(self.used.worked),
            waited: now.waited.saturating_sub(self.used.waited),
        };
        let mut owed = owed(since.worked, share(self.percent, since));
        if owed < REST_MIN {
            return;
        }
        self.used = now;
        while !owed.is_zero() && !hurry.is_up() {
            let piece = owed.min(REST_MAX);
            std::thread::sleep(piece);
            owed -= piece;
        }
    }

    fn used_by_now(&self) -> Used {
        let told = self.schedstat.as_ref().and_then(|file| {
            let mut text = [0; 80];
            let len = file.read_at(&mut text, 0).ok()?;
            parse_schedstat(text.get(..len)?)
        });
        told.unwrap_or_else(|| Used { worked: cpu_time(), waited: Duration::ZERO })
    }
}

/// Percent of a core that this thread may have, by what it met.
fn share(percent: u32, since: Used) -> u32 {
    let contended = since.waited > since.worked / CONTENDED_DIVISOR;
    if contended { percent.min(CONTENDED_PERCENT) } else { percent }
}

/// Nanoseconds on a core and waiting for one; then a count.
fn parse_schedstat(text: &[u8]) -> Option<Used> {
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let mut next = || Some(Duration::from_nanos(words.next()?.parse().ok()?));
    Some(Used { worked: next()?, waited: next()? })
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
    fn a_core_that_others_want_is_left_to_them() {
        let met = |worked, waited| Used {
            worked: Duration::from_millis(worked),
            waited: Duration::from_millis(waited),
        };
        assert_eq!(share(50, met(8, 0)), 50);
        assert_eq!(share(50, met(8, 2)), 50);
        assert_eq!(share(50, met(8, 3)), CONTENDED_PERCENT);
        assert_eq!(share(3, met(8, 3)), 3, "not more than was asked for");
    }

    #[test]
    fn what_the_scheduler_tells_is_read() {
        let used = parse_schedstat(b"120000000 7000000 44\n").unwrap();
        assert_eq!((used.worked.as_millis(), used.waited.as_millis()), (120, 7));
        assert!(parse_schedstat(b"").is_none());
        assert!(parse_schedstat(b"12 x 3").is_none());
        let pace = Pace::new(50);
        while cpu_time() < Duration::from_millis(2) {
            std::hint::black_box(blake3::hash(&[0; 4096]));
        }
        assert!(pace.used_by_now().worked > pace.used.worked || pace.schedstat.is_none());
    }

    #[test]
    fn who_is_in_a_hurry_takes_the_rest_off() {
        let hurry = Hurry::default();
        let waiting = hurry.up();
        // An hour of work is owed: it would rest for ever.
        let mut pace = Pace { percent: 1, used: Used::default(), schedstat: None };
        while cpu_time() < Duration::from_millis(2) {
            std::hint::black_box(blake3::hash(&[0; 4096]));
        }
        pace.rest(&hurry);
        drop(waiting);
        assert!(!hurry.is_up());
    }
}
