//! Single flight: a range of a pack that is on its way is waited for, never asked for twice.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::remote::{Object, RemoteError};
use crate::types::{Clock, PackId};

use super::window::{WORTH_A_REQUEST_BYTES, Window};

/// Flights that are remembered when they have landed.
const LANDED_REMEMBERED: usize = 256;

/// A range of a pack that somebody needs.
pub(super) type Need = (PackId, Range<u64>);

/// How a flight ended.
#[derive(Debug, Clone)]
pub(super) enum Landing {
    /// The bytes from the window's start on; shorter than the window where the pack ends.
    Bytes(Bytes),
    /// The store's failure.
    Failed(RemoteError),
    /// Its leader went away without an answer (a panic): somebody else must lead.
    Abandoned,
}

impl Landing {
    pub(super) fn of(answer: Result<Object, RemoteError>) -> Landing {
        match answer {
            Ok(object) => Landing::Bytes(object.bytes),
            Err(error) => Landing::Failed(error),
        }
    }
}

/// One request under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) pack: PackId,
    pub(super) range: Range<u64>,
    /// When its leader gives up. A waiter with more time tries again itself.
    pub(super) deadline: Duration,
    landing: Mutex<Option<Landing>>,
    landed: Condvar,
}

/// All requests under way.
///
/// Lock order: the table, then the planner's lock (inside the `plan` callback), or then one
/// flight's `landing`; nothing is held while a request runs.
#[derive(Debug, Default)]
pub(super) struct Flights {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    flying: HashMap<PackId, Vec<Arc<Flight>>>,
    /// The last ones that brought bytes.
    landed: VecDeque<Need>,
}

impl Table {
    /// A flight that brings all of a range.
    fn covering(&self, pack: &PackId, range: &Range<u64>) -> Option<&Arc<Flight>> {
        let covers = |flight: &&Arc<Flight>| {
            flight.range.start <= range.start && range.end <= flight.range.end
        };
        self.flying.get(pack)?.iter().find(covers)
    }

    /// Where what comes along after `from` is to end, `to` at the latest: where a flight begins, or
    /// one of the last has begun, that brings all of the rest, or so much that what lies behind it
    /// is worth a request of its own. Those that touch count as one.
    fn end(&self, pack: &PackId, from: u64, to: u64) -> u64 {
        let flying = self.flying.get(pack).into_iter().flatten().map(|flight| &flight.range);
        let landed = self.landed.iter().filter(|(of, _)| of == pack).map(|(_, range)| range);
        let begins_here = |range: &&Range<u64>| (from..to).contains(&range.start);
        let mut ranges: Vec<_> = flying.chain(landed).filter(begins_here).collect();
        ranges.sort_by_key(|range| range.start);
        let mut brought = from..from;
        for range in ranges {
            if range.start > brought.end {
                brought = range.clone();
            }
            brought.end = brought.end.max(range.end);
            if brought.end >= to || brought.end - brought.start >= WORTH_A_REQUEST_BYTES {
                return brought.start;
            }
        }
        to
    }
}

/// A flight that the holder must fly. Dropping it takes the flight off the table; one that was
/// never landed counts as abandoned.
#[derive(Debug)]
pub(super) struct Lead {
    flights: Arc<Flights>,
    pub(super) flight: Arc<Flight>,
    /// Indices of the needs that it serves.
    pub(super) wanted: Vec<usize>,
}

/// Who brings what.
#[derive(Debug)]
pub(super) struct Departure {
    /// Needs that a flight of somebody else covers.
    pub(super) joined: Vec<(usize, Arc<Flight>)>,
    /// Flights for the others.
    pub(super) led: Vec<Lead>,
}

impl Flights {
    /// Splits `needs` into those that are on their way and those to fetch; `plan` turns the
    /// latter (given by index) into windows, which are on the table before anyone else looks. What
    /// only comes along with a window ends where a flight begins, or one of the last has begun.
    pub(super) fn depart(
        self: &Arc<Flights>,
        needs: &[(usize, Need)],
        deadline: Duration,
        plan: impl FnOnce(&[usize]) -> Vec<Window>,
    ) -> Departure {
        let mut departure = Departure { joined: Vec::new(), led: Vec::new() };
        let mut missing = Vec::new();
        let mut table = self.table.lock();
        for (index, (pack, range)) in needs {
            match table.covering(pack, range) {
                Some(flight) => departure.joined.push((*index, Arc::clone(flight))),
                None => missing.push(*index),
            }
        }
        if missing.is_empty() {
            return departure;
        }
        for Window { pack, mut range, wanted, wanted_end } in plan(&missing) {
            let (landing, landed) = (Mutex::new(None), Condvar::new());
            range.end = table.end(&pack, wanted_end, range.end);
            let flight = Arc::new(Flight { pack, range, deadline, landing, landed });
            table.flying.entry(pack).or_default().push(Arc::clone(&flight));
            departure.led.push(Lead { flights: Arc::clone(self), flight, wanted });
        }
        departure
    }

    /// Whether somebody brings this range of a pack.
    pub(super) fn bring(&self, pack: &PackId, range: &Range<u64>) -> bool {
        self.table.lock().covering(pack, range).is_some()
    }
}

impl Lead {
    /// Hands the result to all who wait. A flight that brought bytes stays on the table until this
    /// is dropped, so that who comes now is served too: drop it when they can be found elsewhere.
    /// One that failed leaves it at once: who has more time must not find it again and again.
    pub(super) fn land(&self, landing: Landing) {
        if !matches!(landing, Landing::Bytes(_)) {
            self.leave(false);
        }
        *self.flight.landing.lock() = Some(landing);
        self.flight.landed.notify_all();
    }

    fn leave(&self, brought: bool) {
        let mut table = self.flights.table.lock();
        if brought {
            table.landed.truncate(LANDED_REMEMBERED - 1);
            table.landed.push_front((self.flight.pack, self.flight.range.clone()));
        }
        let Some(flights) = table.flying.get_mut(&self.flight.pack) else { return };
        flights.retain(|flight| !Arc::ptr_eq(flight, &self.flight));
        if flights.is_empty() {
            table.flying.remove(&self.flight.pack);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let brought = {
            let mut landing = self.flight.landing.lock();
            matches!(landing.get_or_insert(Landing::Abandoned), Landing::Bytes(_))
        };
        self.flight.landed.notify_all();
        self.leave(brought);
    }
}

impl Flight {
    /// The result, or none when `deadline` comes first.
    pub(super) fn wait(&self, deadline: Duration, clock: &dyn Clock) -> Option<Landing> {
        let mut landing = self.landing.lock();
        loop {
            if let Some(landing) = landing.as_ref() {
                return Some(landing.clone());
            }
            let left = deadline.checked_sub(clock.monotonic()).filter(|left| !left.is_zero())?;
            self.landed.wait_for(&mut landing, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ManualClock, SystemClock};

    const PACK: PackId = PackId([1; 32]);

    fn window(range: Range<u64>, wanted: &[usize]) -> Vec<Window> {
        let wanted_end = range.start + 1;
        vec![Window { pack: PACK, range, wanted: wanted.to_vec(), wanted_end }]
    }

    fn forever() -> Duration {
        Duration::from_secs(1 << 30)
    }

    #[test]
    fn a_covered_range_joins_and_an_uncovered_one_leads() {
        let flights = Arc::new(Flights::default());
        let first = flights.depart(&[(0, (PACK, 10..20))], forever(), |list| window(0..100, list));
        assert_eq!((first.joined.len(), first.led.len()), (0, 1));
        let needs = [(0, (PACK, 90..100)), (1, (PACK, 99..101)), (2, (PackId([2; 32]), 0..1))];
        let second = flights.depart(&needs, forever(), |list| {
            assert_eq!(list, [1, 2]);
            window(99..200, &[1])
        });
        assert_eq!(second.joined[0].0, 0);
        first.led[0].land(Landing::Bytes(Bytes::from_static(b"x")));
        let landing = second.joined[0].1.wait(forever(), &SystemClock::new());
        assert!(matches!(landing, Some(Landing::Bytes(bytes)) if bytes == "x"));
        drop((first, second));
        assert!(flights.table.lock().flying.is_empty(), "landed flights leave the table");
    }

    #[test]
    fn what_comes_along_ends_where_another_flight_begins_and_what_is_wanted_does_not() {
        const UNIT: u64 = WORTH_A_REQUEST_BYTES / 10;
        let flights = Arc::new(Flights::default());
        let range = |units: Range<u64>| units.start * UNIT..units.end * UNIT;
        let fly = |units: Range<u64>| {
            let need = [(0, (PACK, range(units.start..units.start + 1)))];
            flights.depart(&need, forever(), |list| window(range(units), list)).led.remove(0)
        };
        let flown = |lead: &Lead| lead.flight.range.start / UNIT..lead.flight.range.end / UNIT;
        let middle = fly(50..61);
        assert_eq!(flown(&fly(0..100)), 0..50, "one that is flying");
        middle.land(Landing::Bytes(Bytes::new()));
        drop(middle);
        assert_eq!(flown(&fly(40..100)), 40..50, "one that has landed");
        assert_eq!(flown(&fly(51..100)), 51..100, "it began before");
        assert_eq!(flown(&fly(0..40)), 0..40, "the others brought nothing");
        let short = fly(200..205);
        assert_eq!(flown(&fly(190..210)), 190..210, "there is more behind a short one");
        assert_eq!(flown(&fly(190..205)), 190..200, "it brings all of the rest");
        let _next = fly(205..212);
        assert_eq!(flown(&fly(190..220)), 190..200, "two in sequence are as good as a long one");
        drop(short);
        let wanted_end = range(0..51).end;
        let across =
            || vec![Window { pack: PACK, range: range(49..70), wanted: vec![0], wanted_end }];
        let lead = flights.depart(&[(0, (PACK, range(49..51)))], forever(), |_| across());
        assert_eq!(flown(&lead.led[0]), 49..70, "somebody wants what lies across");
        (0..2000).for_each(|at| fly(at * 100..at * 100 + 1).land(Landing::Bytes(Bytes::new())));
        assert_eq!(flights.table.lock().landed.len(), LANDED_REMEMBERED);
    }

    #[test]
    fn a_leader_that_vanishes_wakes_those_who_wait() {
        let flights = Arc::new(Flights::default());
        let lead = flights.depart(&[(0, (PACK, 0..1))], forever(), |list| window(0..9, list));
        let joined = flights.depart(&[(0, (PACK, 0..1))], forever(), |_| Vec::new()).joined;
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| joined[0].1.wait(forever(), &SystemClock::new()));
            drop(lead);
            assert!(matches!(waiter.join().unwrap(), Some(Landing::Abandoned)));
        });
    }

    /// One who had more time than the flight found it on the table again at once, until its leader
    /// had stored what its other flights had brought.
    #[test]
    fn a_flight_that_brought_nothing_is_joined_by_nobody() {
        let flights = Arc::new(Flights::default());
        let need = [(0, (PACK, 0..1))];
        let lead = flights.depart(&need, forever(), |list| window(0..9, list)).led.remove(0);
        lead.land(Landing::Abandoned);
        let next = flights.depart(&need, forever(), |list| window(0..9, list));
        assert_eq!((next.joined.len(), next.led.len()), (0, 1));
        drop(lead);
        assert_eq!(flights.depart(&need, forever(), |_| Vec::new()).joined.len(), 1);
    }

    #[test]
    fn waiting_ends_at_the_waiters_deadline() {
        let flights = Arc::new(Flights::default());
        let lead = flights.depart(&[(0, (PACK, 0..1))], forever(), |list| window(0..9, list));
        let clock = ManualClock::default();
        clock.advance(Duration::from_secs(5));
        assert!(lead.led[0].flight.wait(Duration::from_secs(5), &clock).is_none());
    }
}
