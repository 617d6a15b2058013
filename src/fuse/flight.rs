//! Requests that were read and not yet answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::count::Opcode;
use crate::types::{Clock, Ino};

/// Shards keep the serving threads off each other's lock.
const SHARDS: usize = 16;

/// What a request is known to wait for from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitsFor {
    Nothing,
    /// A sync of the local disk, which may have much to write.
    Disk,
}

/// One request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) opcode: Opcode,
    pub(super) ino: Ino,
    pub(super) waits_for: WaitsFor,
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
    pub(super) fn enter(self: &Arc<Self>, unique: u64, request: Request) -> Ticket {
        self.shard(unique).lock().insert(unique, request);
        Ticket { table: Arc::clone(self), unique, request }
    }

    /// A request that waits longer than `patience` allows it, and for how long it has waited.
    pub(super) fn overdue(
        &self,
        patience: impl Fn(WaitsFor) -> Duration,
    ) -> Option<(Request, Duration)> {
        let now = self.clock.monotonic();
        let age = |request: &Request| now.saturating_sub(request.arrived);
        let overdue_of = |shard: &Mutex<HashMap<u64, Request>>| {
            let requests = shard.lock();
            requests.values().find(|request| age(request) > patience(request.waits_for)).copied()
        };
        let request = self.shards.iter().find_map(overdue_of)?;
        Some((request, age(&request)))
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

    fn request(opcode: Opcode, waits_for: WaitsFor, clock: &ManualClock) -> Request {
        Request { opcode, ino: Ino(7), waits_for, arrived: clock.monotonic() }
    }

    #[test]
    fn a_request_is_overdue_by_what_it_waits_for_until_it_is_answered() {
        let clock = Arc::new(ManualClock::default());
        let table = InFlight::new(clock.clone());
        let patience = |waits_for| match waits_for {
            WaitsFor::Nothing => Duration::from_secs(2),
            WaitsFor::Disk => Duration::from_secs(20),
        };
        let sync = table.enter(2, request(Opcode::FSync, WaitsFor::Disk, &clock));
        let read = table.enter(4, request(Opcode::Read, WaitsFor::Nothing, &clock));
        assert!(table.overdue(patience).is_none());
        clock.advance(Duration::from_secs(3));
        let (request, age) = table.overdue(patience).unwrap();
        assert_eq!((request.opcode, age.as_secs()), (Opcode::Read, 3));
        drop(read);
        assert!(table.overdue(patience).is_none(), "a sync may take longer");
        assert_eq!(table.len(), 1);
        clock.advance(Duration::from_secs(30));
        assert!(table.overdue(patience).is_some());
        drop(sync);
        assert_eq!(table.len(), 0);
    }
}
