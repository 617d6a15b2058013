//! The totals of linked inodes and their bytes, exact also after a crash.
//!
//! They are one record, put into each commit that moves them: as absolute values, so that they
//! must be computed in the order of the commits. Hence the lock around the commit, which costs
//! nothing beyond the order that the journal imposes anyway. The record is 16 bytes, and the
//! memtable keeps only its last value.

use parking_lot::Mutex;

use super::{Growth, NamespaceError, read_state};
use crate::format::Key;
use crate::local::{Local, LocalError, Slot};

/// State record: inodes u64 LE | bytes u64 LE.
const STATE_COUNTERS: &str = "namespace/counters";

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inodes with at least one link, the root included.
    pub inodes: u64,
    /// Bytes that their extents cover.
    pub bytes: u64,
}

/// The most there may be; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Inodes.
    pub inodes_max: Option<u64>,
    /// Bytes that extents cover.
    pub bytes_max: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Totals {
    state: Mutex<State>,
    /// The base's counters at open, for a cut of an overlay that never moved them.
    initial: Counters,
}

#[derive(Debug)]
struct State {
    counters: Counters,
    quota: Quota,
}

impl Totals {
    pub fn load(local: &Local, initial: Counters) -> Result<Totals, NamespaceError> {
        let counters = match read_state(local, STATE_COUNTERS)? {
            Some(bytes) => decode(&bytes)?,
            None => initial,
        };
        let state = Mutex::new(State { counters, quota: Quota::default() });
        Ok(Totals { state, initial })
    }

    /// Moves the totals if `commit` succeeds with the record that says so.
    pub fn grow(
        &self,
        growth: Growth,
        commit: impl FnOnce((Key, Vec<u8>)) -> Result<(), NamespaceError>,
    ) -> Result<(), NamespaceError> {
        let mut state = self.state.lock();
        let next = Counters {
            inodes: state.counters.inodes.saturating_add_signed(growth.inodes),
            bytes: state.counters.bytes.saturating_add_signed(growth.bytes),
        };
        let over = |growth: i64, next: u64, max: Option<u64>| {
            growth > 0 && max.is_some_and(|max| next > max)
        };
        let quota = &state.quota;
        if over(growth.inodes, next.inodes, quota.inodes_max)
            || over(growth.bytes, next.bytes, quota.bytes_max)
        {
            return Err(NamespaceError::Quota);
        }
        commit((Key::local(STATE_COUNTERS), encode(next)))?;
        state.counters = next;
        Ok(())
    }

    pub fn now(&self) -> Counters {
        self.state.lock().counters
    }

    pub fn initial(&self) -> Counters {
        self.initial
    }

    pub fn quota(&self) -> Quota {
        self.state.lock().quota
    }

    pub fn set_quota(&self, quota: Quota) {
        self.state.lock().quota = quota;
    }
}

/// The totals at a cut: `get` reads its slots.
pub(super) fn at_cut(
    get: impl FnOnce(&[u8]) -> Result<Option<Slot>, LocalError>,
    initial: Counters,
) -> Result<Counters, NamespaceError> {
    match get(Key::local(STATE_COUNTERS).as_bytes())? {
        Some(Slot::Value(bytes)) => decode(&bytes),
        Some(Slot::Tombstone) | None => Ok(initial),
    }
}

fn encode(counters: Counters) -> Vec<u8> {
    [counters.inodes.to_le_bytes(), counters.bytes.to_le_bytes()].concat()
}

fn decode(bytes: &[u8]) -> Result<Counters, NamespaceError> {
    let (halves, tail) = bytes.as_chunks::<8>();
    match (halves, tail) {
        ([inodes, bytes], []) => {
            Ok(Counters { inodes: u64::from_le_bytes(*inodes), bytes: u64::from_le_bytes(*bytes) })
        }
        _ => Err(NamespaceError::Corrupt("the counters' length".into())),
    }
}
