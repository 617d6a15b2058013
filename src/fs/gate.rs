//! Who may change something, and when: the gate that every mutating operation passes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use super::room::{Lack, Room};
use super::{FsError, Missing};
use crate::chunks::Fetch;
use crate::types::Clock;

/// Longest delay that one write is put under.
const DELAY_MAX: Duration = Duration::from_millis(100);

/// Longest sleep before the clock is asked again.
const WAIT_SLICE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Nothing changes for now: a hibernation is under way.
    Frozen,
    /// Mounted read-only, for good.
    ReadOnly,
    /// The workspace was taken over, for good.
    Fenced,
}

/// The gate. Its lock is taken before any inode's and held for one operation.
#[derive(Debug)]
pub(super) struct Gate {
    mode: RwLock<Mode>,
    /// Signals a thaw to those who wait for it.
    thawed: (Mutex<()>, Condvar),
    delay_micros: AtomicU64,
    /// Bytes that may still be written; the largest number: any.
    credit: AtomicU64,
}

/// The right to change something, while it lives.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    _mode: RwLockReadGuard<'a, Mode>,
}

impl Gate {
    pub fn new(read_only: bool) -> Gate {
        Gate {
            mode: RwLock::new(if read_only { Mode::ReadOnly } else { Mode::Open }),
            thawed: (Mutex::new(()), Condvar::new()),
            delay_micros: AtomicU64::new(0),
            credit: AtomicU64::new(u64::MAX),
        }
    }

    /// Lets one change in. A frozen gate answers `NotLocal(Missing::Thaw)`.
    pub fn enter(&self) -> Result<Admitted<'_>, FsError> {
        let mode = self.mode.read();
        match *mode {
            Mode::Open => Ok(Admitted { _mode: mode }),
            Mode::Frozen => Err(FsError::NotLocal(Missing::Thaw)),
            Mode::ReadOnly => Err(FsError::ReadOnly),
            Mode::Fenced => Err(FsError::Fenced),
        }
    }

    /// Waits until the gate is no longer frozen; `Frozen` at the deadline.
    pub fn wait_for_thaw(&self, fetch: Fetch, clock: &dyn Clock) -> Result<(), FsError> {
        let deadline = fetch.deadline(clock).ok_or(FsError::Frozen)?;
        let mut guard = self.thawed.0.lock();
        while *self.mode.read() == Mode::Frozen {
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Err(FsError::Frozen);
            }
            self.thawed.1.wait_for(&mut guard, left.min(WAIT_SLICE));
        }
        Ok(())
    }

    /// Lets no more changes in, and returns when those under way have ended.
    pub fn freeze(&self) {
        let mut mode = self.mode.write();
        if *mode == Mode::Open {
            *mode = Mode::Frozen;
        }
    }

    pub fn thaw(&self) {
        self.leave_frozen(Mode::Open);
    }

    /// Refuses changes from now on.
    pub fn fence(&self) {
        *self.mode.write() = Mode::Fenced;
        self.signal();
    }

    fn leave_frozen(&self, next: Mode) {
        let mut mode = self.mode.write();
        if *mode == Mode::Frozen {
            *mode = next;
        }
        drop(mode);
        self.signal();
    }

    fn signal(&self) {
        drop(self.thawed.0.lock());
        self.thawed.1.notify_all();
    }

    pub fn is_fenced(&self) -> bool {
        *self.mode.read() == Mode::Fenced
    }

    /// Sets what writes of data meet until the next call: a delay each, and after so many bytes
    /// (`u64::MAX`: never) that they are not let in.
    pub fn set_admission(&self, delay: Duration, credit: u64) {
        let micros = u64::try_from(delay.min(DELAY_MAX).as_micros()).unwrap_or(0);
        self.delay_micros.store(micros, Ordering::Relaxed);
        self.credit.store(credit, Ordering::Relaxed);
    }

    /// Takes the toll of one write of so many bytes; holds no lock. Callers that may not wait get
    /// `NotLocal(Missing::Turn)`.
    pub fn admit_data(&self, bytes: u64, fetch: Fetch, room: &Room) -> Result<(), FsError> {
        if self.credit.load(Ordering::Relaxed) == 0 {
            return Err(room.lacking(Lack::Unsynced));
        }
        let micros = self.delay_micros.load(Ordering::Relaxed);
        if micros > 0 {
            if fetch == Fetch::LocalOnly {
                return Err(FsError::NotLocal(Missing::Turn));
            }
            std::thread::sleep(Duration::from_micros(micros));
        }
        let spent = |left: u64| (left != u64::MAX).then(|| left.saturating_sub(bytes));
        // An error says that there is no bound.
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent);
        Ok(())
    }
}
