//! Whether a worker starves: a decision over what was seen of it, without clocks or threads.

use std::time::Duration;

/// A runnable worker that got less than one part in this many of a core starves.
const SHARE_MIN: u32 = 20;

/// First and longest time that a worker which starved is left plain.
pub(super) const RELIEF_MIN: Duration = Duration::from_millis(50);
pub(super) const RELIEF_MAX: Duration = Duration::from_millis(500);

/// A core is free if nothing ran on it for at least one part in this many of the relief. On one
/// that is not, there is nothing to gain by yielding: no idle core has to be woken.
const FREE_MIN: u32 = 5;

/// One that starves again this soon after its relief is relieved for twice as long.
const AGAIN: Duration = Duration::from_millis(100);

/// Two looks that lie further apart tell nothing: the process was stopped, or the machine slept.
pub(super) const LOOKS_APART_MAX: Duration = Duration::from_secs(1);

/// What was seen of a worker at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Time of the look.
    pub(super) at: Duration,
    /// Processor time that it has had in its life.
    pub(super) cpu: Duration,
    /// It runs, or would if it were let.
    pub(super) is_runnable: bool,
}

/// What is to be done with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It starves: make it like any other thread.
    Promote,
    /// Make it yield to every other thread.
    Lower,
}

/// How a worker fares. A new one is plain, and lowered at the first look.
#[derive(Debug, Default)]
pub(super) struct Fare {
    is_lowered: bool,
    /// While it is lowered.
    last: Option<Look>,
    plain_until: Duration,
    relief: Duration,
    /// When the relief began or was last prolonged, and for how long its core had been idle in
    /// all by then.
    relieved_at: (Duration, Option<Duration>),
}

impl Fare {
    /// Takes a look into account. What it says is to be done at once: the next look is judged
    /// as if it had been. `idle` tells for how long the worker's core has been idle in all, if
    /// that can be known; it is asked seldom.
    pub(super) fn judge(
        &mut self,
        look: Look,
        idle: impl FnOnce() -> Option<Duration>,
    ) -> Option<Change> {
        if !self.is_lowered {
            if look.at < self.plain_until {
                return None;
            }
            let idle = idle();
            if !self.was_free(look.at, idle) {
                self.relief = (self.relief * 2).min(RELIEF_MAX);
                self.relieve(look.at, idle);
                return None;
            }
            self.is_lowered = true;
            self.last = None;
            return Some(Change::Lower);
        }
        let last = self.last.replace(look)?;
        if !starved(last, look) {
            return None;
        }
        let is_again = look.at.saturating_sub(self.plain_until) < AGAIN;
        self.relief = match is_again && !self.relief.is_zero() {
            true => (self.relief * 2).min(RELIEF_MAX),
            false => RELIEF_MIN,
        };
        self.relieve(look.at, idle());
        self.is_lowered = false;
        Some(Change::Promote)
    }

    /// Until when it is plain; zero while it is lowered and must be watched.
    pub(super) fn plain_until(&self) -> Duration {
        if self.is_lowered { Duration::ZERO } else { self.plain_until }
    }

    fn relieve(&mut self, at: Duration, idle: Option<Duration>) {
        self.plain_until = at + self.relief;
        self.relieved_at = (at, idle);
    }

    /// Whether the worker's core was free since the relief began. Taken to be so when a worker is
    /// new, and where it can't be known: then time alone decides.
    fn was_free(&self, at: Duration, idle: Option<Duration>) -> bool {
        let (since, Some(idle_before)) = self.relieved_at else { return true };
        let Some(idle) = idle else { return true };
        idle.saturating_sub(idle_before) * FREE_MIN >= at.saturating_sub(since)
    }

    /// Whether it must be known that the worker is runnable, or may be taken to sleep: it slept
    /// at the last look and has not run since, and no request waits that could have woken it.
    pub(super) fn is_asleep(&self, cpu: Duration, requests_wait: bool) -> bool {
        let slept = |last: Look| !last.is_runnable && last.cpu == cpu;
        !requests_wait && self.last.is_some_and(slept)
    }
}

/// Runnable at both ends, and next to nothing in between. Once would not do: at any instant one
/// of many short runs may be waiting for the very thread that looks.
fn starved(from: Look, to: Look) -> bool {
    let apart = to.at.saturating_sub(from.at);
    let ran = to.cpu.saturating_sub(from.cpu);
    from.is_runnable
        && to.is_runnable
        && !apart.is_zero()
        && apart <= LOOKS_APART_MAX
        && ran * SHARE_MIN < apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at_micros: u64, cpu_micros: u64, is_runnable: bool) -> Look {
        let (at, cpu) = (Duration::from_micros(at_micros), Duration::from_micros(cpu_micros));
        Look { at, cpu, is_runnable }
    }

    fn unknown() -> Option<Duration> {
        None
    }

    /// A worker that was lowered at time 0.
    fn lowered() -> Fare {
        let mut fare = Fare::default();
        assert_eq!(fare.judge(look(0, 0, false), unknown), Some(Change::Lower));
        fare
    }

    #[test]
    fn one_that_waits_through_two_looks_is_promoted_and_later_lowered() {
        let mut fare = lowered();
        assert_eq!(fare.judge(look(2_000, 0, true), unknown), None, "it may just have been woken");
        let second = look(4_000, 99, true);
        assert_eq!(fare.plain_until(), Duration::ZERO);
        assert_eq!(fare.judge(second, unknown), Some(Change::Promote), "under 5%");
        assert_eq!(fare.plain_until(), Duration::from_millis(54));
        assert_eq!(fare.judge(look(53_000, 20_000, true), unknown), None);
        assert_eq!(fare.judge(look(54_000, 20_000, true), unknown), Some(Change::Lower));
    }

    #[test]
    fn one_that_runs_or_sleeps_is_left_alone() {
        for (second, what) in [
            (look(4_000, 100, true), "5% of a core"),
            (look(4_000, 2_000, true), "a whole core"),
            (look(4_000, 0, false), "asleep again"),
            (look(2_000, 0, true), "no time has passed"),
            (look(2_000_000, 0, true), "the process was stopped"),
        ] {
            let mut fare = lowered();
            assert_eq!(fare.judge(look(2_000, 0, true), unknown), None);
            assert_eq!(fare.judge(second, unknown), None, "{what}");
        }
        let mut fare = lowered();
        assert_eq!(fare.judge(look(2_000, 0, false), unknown), None);
        assert_eq!(fare.judge(look(4_000, 0, true), unknown), None, "woken since");
    }

    /// Starves from `at` on: the relief that it gets.
    fn relief(fare: &mut Fare, at: u64) -> u64 {
        assert_eq!(fare.judge(look(at, 0, true), unknown), None);
        assert_eq!(fare.judge(look(at + 2_000, 0, true), unknown), Some(Change::Promote));
        let from = at + 2_000;
        let ends = |ms: &u64| fare.judge(look(from + ms * 1_000, 0, true), unknown).is_some();
        (1..=1_000).find(ends).unwrap()
    }

    #[test]
    fn relief_grows_while_it_goes_on_and_begins_anew_after_a_calm() {
        let mut fare = lowered();
        let mut at = 2_000;
        for expected in [50, 100, 200, 400, 500, 500] {
            let got = relief(&mut fare, at);
            assert_eq!(got, expected);
            at += 2_000 + got * 1_000 + 2_000;
        }
        at += 200_000;
        assert_eq!(relief(&mut fare, at), 50);
    }

    #[test]
    fn relief_lasts_until_the_core_is_free() {
        let mut fare = lowered();
        let ms = Duration::from_millis;
        fare.judge(look(2_000, 0, true), unknown);
        let promoted = fare.judge(look(4_000, 0, true), || Some(ms(1_000)));
        assert_eq!(promoted, Some(Change::Promote));
        // 9 ms of 50 are less than a fifth; then twice the time is asked about.
        assert_eq!(fare.judge(look(54_000, 0, true), || Some(ms(1_009))), None);
        let unasked = || -> Option<Duration> { unreachable!("not over yet") };
        assert_eq!(fare.judge(look(153_000, 0, true), unasked), None);
        assert_eq!(fare.judge(look(154_000, 0, true), || Some(ms(1_009))), None);
        let lowered = fare.judge(look(354_000, 0, true), || Some(ms(1_049)));
        assert_eq!(lowered, Some(Change::Lower), "40 of 200 ms");
    }

    #[test]
    fn what_slept_and_did_not_run_is_asleep_unless_a_request_waits() {
        let mut fare = lowered();
        let at = Duration::from_micros;
        assert!(!fare.is_asleep(at(0), false), "not known yet");
        fare.judge(look(2_000, 7, false), unknown);
        assert!(fare.is_asleep(at(7), false));
        assert!(!fare.is_asleep(at(7), true), "it may have been woken for it");
        assert!(!fare.is_asleep(at(8), false), "it has run");
        fare.judge(look(4_000, 9, true), unknown);
        assert!(!fare.is_asleep(at(9), false));
    }
}
