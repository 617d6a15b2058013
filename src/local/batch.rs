//! One atomic commit's records.

use bytes::Bytes;

use crate::format::Key;

/// What the overlay says of a key. A key without a slot is left to the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// The record's value.
    Value(Bytes),
    /// The record is gone, also where the base has it.
    Tombstone,
}

/// Records that change together: after a crash either all of them are there or none. Of two
/// changes of one key the later one holds.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(super) records: Vec<(Key, Slot)>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets a record.
    pub fn put(&mut self, key: Key, value: impl Into<Bytes>) {
        self.records.push((key, Slot::Value(value.into())));
    }

    /// Removes a record, also the base's.
    pub fn delete(&mut self, key: Key) {
        self.records.push((key, Slot::Tombstone));
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
