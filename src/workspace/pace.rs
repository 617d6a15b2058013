//! Keeps background settling to a share of one core, and to a small one where it would compete with
//! the sandbox's own work: on a core that others want, and while programs use the mount. Two cores
//! of a virtual machine are often one core's two threads, so also a free one is not free: a third
//! of what an append took was settling of what came before it. It catches up when they pause, when
//! much waits for it or a checkpoint is near, and for a seal, which takes the pace off.

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

/// Share of a core that somebody else wants as well, or while the mount is used.
const YIELDING_PERCENT: u32 = 5;

/// Operations in a second from which on programs use the mount.
const USED_OPERATIONS: f64 = 200.0;

/// Shortest and longest time over which operations are counted. After a longer one nothing is
/// known of now (the machine or the daemon may have slept), and programs go first.
const COUNTED_MIN: Duration = Duration::from_millis(100);
const COUNTED_MAX: Duration = Duration::from_secs(2);

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

/// What the mount is at, when settling looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// When that was.
    pub now: Duration,
    /// Operations since the mount.
    pub operations: u64,
    /// Whether so much waits to be settled that it can't wait for a pause.
    pub is_behind: bool,
    /// Whether it can't wait at all.
    pub is_late: bool,
}

/// Whether programs use the mount; from one pass to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct InUse {
    counted: Traffic,
    is_used: bool,
}

impl InUse {
    fn look(&mut self, traffic: Traffic) {
        let time = traffic.now.saturating_sub(self.counted.now);
        if time >= COUNTED_MIN {
            let operations = traffic.operations.saturating_sub(self.counted.operations);
            self.is_used =
                time > COUNTED_MAX || operations as f64 >= USED_OPERATIONS * time.as_secs_f64();
            self.counted = traffic;
        }
    }
}

/// The pace of one pass, in the thread that makes it.
#[derive(Debug)]
pub struct Pace {
    percent: u32,
    used: Used,
    in_use: InUse,
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
    /// At most `percent` of one core, 1 to 100; 100 never rests. `in_use`: what the pass before
    /// found.
    pub fn new(percent: u32, in_use: InUse) -> Pace {
        let percent = percent.clamp(1, 100);
        // Opened here, so it is of the thread that works.
        let schedstat =
            if percent < 100 { File::open("/proc/thread-self/schedstat").ok() } else { None };
        let mut pace = Pace { percent, used: Used::default(), in_use, schedstat };
        pace.used = pace.used_by_now();
        pace
    }

    /// Rests for what was worked since the last rest.
    pub fn rest(&mut self, hurry: &Hurry, traffic: impl FnOnce() -> Traffic) {
        if self.percent == 100 {
            return;
        }
        let traffic = traffic();
        self.in_use.look(traffic);
        if traffic.is_late {
            return;
        }
        let now = self.used_by_now();
        let since = Used {
            worked: now.worked.saturating_sub(self.used.worked),
            waited: now.waited.saturating_sub(self.used.waited),
        };
        let yields = self.in_use.is_used && !traffic.is_behind;
        let mut owed = owed(since.worked, share(self.percent, since, yields));
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

    /// For the next pass.
    pub fn in_use(&self) -> InUse {
        self.in_use
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
fn share(percent: u32, since: Used, yields: bool) -> u32 {
    let contended = since.waited > since.worked / CONTENDED_DIVISOR;
    if contended || yields { percent.min(YIELDING_PERCENT) } else { percent }
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
        assert_eq!(share(50, met(8, 0), false), 50);
        assert_eq!(share(50, met(8, 2), false), 50);
        assert_eq!(share(50, met(8, 3), false), YIELDING_PERCENT);
        assert_eq!(share(3, met(8, 3), false), 3, "not more than was asked for");
        assert_eq!(share(50, met(8, 0), true), YIELDING_PERCENT);
    }

    #[test]
    fn a_mount_is_in_use_while_operations_come() {
        let at = |millis, operations| Traffic {
            now: Duration::from_millis(millis),
            operations,
            ..Traffic::default()
        };
        let mut in_use = InUse::default();
        in_use.look(at(1000, 199));
        assert!(!in_use.is_used);
        in_use.look(at(1050, 1000));
        assert!(!in_use.is_used, "too short a time tells nothing");
        in_use.look(at(1100, 1000));
        assert!(in_use.is_used);
        in_use.look(at(2100, 1100));
        assert!(!in_use.is_used);
        in_use.look(at(60_000, 1100));
        assert!(in_use.is_used, "after a sleep programs go first");
    }

    #[test]
    fn what_the_scheduler_tells_is_read() {
        let used = parse_schedstat(b"120000000 7000000 44\n").unwrap();
        assert_eq!((used.worked.as_millis(), used.waited.as_millis()), (120, 7));
        assert!(parse_schedstat(b"").is_none());
        assert!(parse_schedstat(b"12 x 3").is_none());
        let pace = Pace::new(50, InUse::default());
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
        let (used, in_use) = (Used::default(), InUse::default());
        let mut pace = Pace { percent: 1, used, in_use, schedstat: None };
        while cpu_time() < Duration::from_millis(2) {
            std::hint::black_box(blake3::hash(&[0; 4096]));
        }
        pace.rest(&hurry, Traffic::default);
        drop(waiting);
        assert!(!hurry.is_up());
    }
}
