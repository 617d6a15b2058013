//! One atomic commit's records.

use bytes::Bytes;

use crate::format::Key;
use crate::types::RequestId;

/// What the overlay says of a key. A key without a slot is left to the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// The record's value.
    Value(Bytes),
    /// The record is gone, also where the base has it.
    Tombstone,
}

/// That a commit carries a request of the kernel out, so that the request is not carried out once
/// more when it comes again after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarriedOut {
    /// The request.
    pub request: RequestId,
    /// What it is to be answered with, in the words of whoever carries it out.
    pub result: u64,
}

/// A created file has its attributes, its entry, its directory's attributes and the counters.
const RECORDS_USUAL: usize = 6;

/// Records that change together: after a crash either all of them are there or none. Of two
/// changes of one key the later one holds.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(super) records: Vec<(Key, Slot)>,
    pub(super) carried_out: Option<CarriedOut>,
    upkeep: bool,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// An empty batch of a change that frees room (settling, sealing, reclaiming): it is let in
    /// where the budget or the disk's reserve refuses others. Else what is full stays full.
    #[must_use]
    pub fn for_upkeep() -> Batch {
        Batch { upkeep: true, ..Batch::default() }
    }

    /// Whether it was made by [`Batch::for_upkeep`].
    #[must_use]
    pub fn is_upkeep(&self) -> bool {
        self.upkeep
    }

    /// Notes in the same commit that a request is carried out by it. An empty batch notes nothing.
    pub fn carry_out(&mut self, done: CarriedOut) {
        self.carried_out = Some(done);
    }

    /// Sets a record.
    pub fn put(&mut self, key: Key, value: impl Into<Bytes>) {
        self.push(key, Slot::Value(value.into()));
    }

    /// Removes a record, also the base's.
    pub fn delete(&mut self, key: Key) {
        self.push(key, Slot::Tombstone);
    }

    fn push(&mut self, key: Key, slot: Slot) {
        if self.records.is_empty() {
            // As many as most changes have, at once.
            self.records.reserve(RECORDS_USUAL);
        }
        self.records.push((key, slot));
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Key, Slot)> {
        self.records.iter()
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}
