//! Requests that were read and not yet answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::count::Opcode;
use crate::types::{Clock, Ino};

/// Shards keep the serving threads off each other's lock.
const SHARDS: usize = 16;

/// One request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) opcode: Opcode,
    pub(super) ino: Ino,
    /// Monotonic time at which it was read.
    pub(super) arrived: Duration,
}

/// The table. Lock order: a shard's lock is a leaf, held for a few instructions.
#[derive(Debug)]
pub(super) struct InFlight {
    shards: [Mutex<HashMap<u64, Request>>; SHARDS],
    clock: Arc<dyn Clock>,
}

impl InFlight {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<InFlight> {
        Arc::new(InFlight { shards: std::array::from_fn(|_| Mutex::default()), clock })
    }

    /// Enters a request; it leaves when the ticket is dropped.
    pub(super) fn enter(self: &Arc<Self>, unique: u64, opcode: Opcode, ino: Ino) -> Ticket {
        let request = Request { opcode, ino, arrived: self.clock.monotonic() };
        self.shard(unique).lock().insert(unique, request);
        Ticket { table: Arc::clone(self), unique, request }
    }

    /// The request that waits longest, and for how long.
    pub(super) fn oldest(&self) -> Option<(Request, Duration)> {
        let now = self.clock.monotonic();
        let oldest_of = |shard: &Mutex<HashMap<u64, Request>>| {
            shard.lock().values().min_by_key(|request| request.arrived).copied()
        };
        let oldest =
            self.shards.iter().filter_map(oldest_of).min_by_key(|request| request.arrived)?;
        Some((oldest, now.saturating_sub(oldest.arrived)))
    }

    /// Requests under way.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, unique: u64) -> &Mutex<HashMap<u64, Request>> {
        // The kernel counts uniques up in steps of two.
        &self.shards[(unique / 2) as usize % SHARDS]
    }
}

/// A request's place in the table.
#[derive(Debug)]
pub(super) struct Ticket {
    table: Arc<InFlight>,
    unique: u64,
    pub(super) request: Request,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.table.shard(self.unique).lock().remove(&self.unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ManualClock;

    #[test]
    fn the_oldest_request_is_known_until_it_is_answered() {
        let clock = Arc::new(ManualClock::default());
        let table = InFlight::new(clock.clone());
        assert!(table.oldest().is_none());
        let first = table.enter(2, Opcode::Read, Ino(7));
        clock.advance(Duration::from_secs(3));
        let second = table.enter(4, Opcode::Write, Ino(8));
        let (request, age) = table.oldest().unwrap();
        assert_eq!((request.opcode, request.ino, age.as_secs()), (Opcode::Read, Ino(7), 3));
        drop(first);
        assert_eq!(table.oldest().unwrap().0.opcode, Opcode::Write);
        assert_eq!(table.len(), 1);
        drop(second);
        assert_eq!(table.len(), 0);
    }
}
