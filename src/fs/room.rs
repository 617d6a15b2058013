//! Room for what is written. A write that finds the budget spent, the disk full or too much not
//! in the store waits while the background brings written bytes to the store and frees their
//! place; it is refused when that gets nowhere, or at its deadline. Nothing is held meanwhile.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Filesystem, FsError, Missing};
use crate::chunks::Fetch;
use crate::types::Clock;

/// Longest sleep before the clock is asked again.
const WAIT_SLICE: Duration = Duration::from_millis(200);

/// What a write lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Room on the local disk.
    Disk,
    /// Room in the budget of the local directory.
    Budget,
    /// Room under the cap of bytes that are not in the store.
    Unsynced,
}

impl Lack {
    /// What a write is told that can't wait, or has waited in vain.
    pub(super) fn refusal(self) -> FsError {
        match self {
            Lack::Disk => FsError::DiskFull,
            Lack::Budget => FsError::Spent,
            Lack::Unsynced => FsError::NoSpace,
        }
    }
}

/// Those who wait for room and the one who makes it. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Room {
    state: Mutex<State>,
    /// Somebody waits for room.
    wanted: Condvar,
    /// A pass has ended, or there will be none.
    made: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody makes room when it is wanted.
    is_served: bool,
    /// The last pass got nowhere, or takes too long: nobody waits for the next.
    is_stuck: bool,
    /// The newest pass that somebody waits for. Those whose pass has ended want none, also where
    /// they have not been scheduled since: a pass for them would find nothing to do.
    pass_wanted: u64,
    /// The one who makes room is to look around, though nobody waits.
    is_nudged: bool,
    passes_begun: u64,
    passes_ended: u64,
}

impl State {
    fn is_wanted(&self) -> bool {
        self.pass_wanted > self.passes_begun
    }
}

impl Room {
    /// A refusal for want of room as something to wait for, where waiting may help.
    pub fn or_wait(&self, error: FsError) -> FsError {
        let lack = match error {
            FsError::DiskFull => Lack::Disk,
            FsError::Spent => Lack::Budget,
            other => return other,
        };
        self.lacking(lack)
    }

    /// What a write is told that lacks this.
    pub fn lacking(&self, lack: Lack) -> FsError {
        let state = self.state.lock();
        match state.is_served && !state.is_stuck {
            true => FsError::NotLocal(Missing::Room(lack)),
            false => lack.refusal(),
        }
    }

    /// Waits for a pass that begins from now on; the refusal if it got nowhere or does not come
    /// in time.
    pub fn wait(&self, lack: Lack, fetch: Fetch, clock: &dyn Clock) -> Result<(), FsError> {
        let deadline = fetch.deadline(clock).ok_or_else(|| lack.refusal())?;
        let mut state = self.state.lock();
        let pass = state.passes_begun + 1;
        state.pass_wanted = pass;
        self.wanted.notify_all();
        loop {
            if state.passes_ended >= pass {
                break if state.is_stuck { Err(lack.refusal()) } else { Ok(()) };
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                // Whoever comes next need not wait as long in vain.
                state.is_stuck = true;
            }
            if !state.is_served || left.is_zero() {
                break Err(lack.refusal());
            }
            self.made.wait_for(&mut state, left.min(WAIT_SLICE));
        }
    }

    /// Waits until somebody wants room, at most so long; whether somebody does.
    fn wait_until_wanted(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.is_wanted() && !state.is_nudged {
            self.wanted.wait_for(&mut state, timeout);
        }
        state.is_nudged = false;
        state.is_wanted()
    }

    /// A pass by `work`, which tells whether it got anywhere.
    fn pass(&self, work: impl FnOnce() -> bool) {
        self.state.lock().passes_begun += 1;
        let got_anywhere = work();
        let mut state = self.state.lock();
        state.passes_ended = state.passes_begun;
        state.is_stuck = !got_anywhere;
        drop(state);
        self.made.notify_all();
    }
}

impl Filesystem {
    /// Says whether somebody makes room from now on ([`Filesystem::make_room`]) when it is wanted.
    pub fn serve_room(&self, is_served: bool) {
        let mut state = self.room.state.lock();
        state.is_served = is_served;
        state.is_stuck = false;
        drop(state);
        self.room.made.notify_all();
    }

    /// Waits until somebody wants room, at most so long; whether somebody does.
    #[must_use]
    pub fn wait_for_room_wanted(&self, timeout: Duration) -> bool {
        self.room.wait_until_wanted(timeout)
    }

    /// Ends a [`Filesystem::wait_for_room_wanted`] under way, or the next one.
    pub fn wake_room_maker(&self) {
        self.room.state.lock().is_nudged = true;
        self.room.wanted.notify_all();
    }

    /// Whether passes get nowhere: writes that lack room are refused until one does.
    #[must_use]
    pub fn is_room_stuck(&self) -> bool {
        self.room.state.lock().is_stuck
    }

    /// A pass of making room by `work`, which tells whether it got anywhere.
    pub fn make_room(&self, work: impl FnOnce() -> bool) {
        self.room.pass(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SystemClock;

    #[test]
    fn without_anyone_to_make_room_or_when_that_is_stuck_nobody_waits() {
        let room = Room::default();
        assert!(matches!(room.or_wait(FsError::Spent), FsError::Spent));
        room.state.lock().is_served = true;
        let waits = room.or_wait(FsError::DiskFull);
        assert!(matches!(waits, FsError::NotLocal(Missing::Room(Lack::Disk))));
        assert!(matches!(room.or_wait(FsError::NotFound), FsError::NotFound));
        room.state.lock().is_stuck = true;
        assert!(matches!(room.or_wait(FsError::DiskFull), FsError::DiskFull));
        assert!(matches!(room.lacking(Lack::Unsynced), FsError::NoSpace));
    }

    #[test]
    fn a_wait_ends_at_its_deadline_or_when_the_maker_goes() {
        let (room, clock) = (Room::default(), SystemClock::new());
        room.state.lock().is_served = true;
        let soon = Fetch::Within(Duration::from_millis(20));
        assert!(matches!(room.wait(Lack::Budget, soon, &clock), Err(FsError::Spent)));
        room.state.lock().is_served = false;
        let late = Fetch::Within(Duration::from_secs(1 << 20));
        assert!(matches!(room.wait(Lack::Budget, late, &clock), Err(FsError::Spent)));
    }

    #[test]
    fn one_pass_is_wanted_for_those_who_wait_and_none_more_before_they_have_woken() {
        let (room, clock) = (Room::default(), SystemClock::new());
        room.state.lock().is_served = true;
        let late = Fetch::Within(Duration::from_secs(3600));
        std::thread::scope(|scope| {
            let waiters: Vec<_> =
                (0..8).map(|_| scope.spawn(|| room.wait(Lack::Budget, late, &clock))).collect();
            let mut passes = 0;
            while waiters.iter().any(|waiter| !waiter.is_finished()) {
                if room.wait_until_wanted(Duration::from_millis(1)) {
                    room.pass(|| true);
                    passes += 1;
                }
            }
            assert!((1..=8).contains(&passes), "{passes} passes for 8 who wait once");
            for waiter in waiters {
                assert!(waiter.join().unwrap().is_ok());
            }
        });
        // What nobody wants any more leaves no want behind.
        assert!(!room.wait_until_wanted(Duration::ZERO));
    }
}
