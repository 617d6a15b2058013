//! The newest records, in memory and in order, until they go to RocksDB.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::Slot;
use super::journal::Position;
use crate::format::Key;

/// Bytes that a record takes in memory beside its key and value: allocations and tree nodes.
const RECORD_OVERHEAD_BYTES: usize = 160;

/// A slot as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Value(Bytes),
    Tombstone,
    /// The overlay says nothing, whatever older tables have. Becomes a delete in RocksDB.
    Base,
}

impl State {
    /// What callers see.
    pub(super) fn slot(&self) -> Option<Slot> {
        match self {
            State::Value(value) => Some(Slot::Value(value.clone())),
            State::Tombstone => Some(Slot::Tombstone),
            State::Base => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            State::Value(value) => value.len(),
            State::Tombstone | State::Base => 0,
        }
    }
}

impl From<Slot> for State {
    fn from(slot: Slot) -> State {
        match slot {
            Slot::Value(value) => State::Value(value),
            Slot::Tombstone => State::Tombstone,
        }
    }
}

/// An ordered table of states.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    map: BTreeMap<Key, State>,
    bytes: usize,
}

impl Memtable {
    pub(super) fn insert(&mut self, key: Key, state: State) {
        let key_len = key.as_bytes().len();
        self.bytes += state.len();
        match self.map.insert(key, state) {
            Some(old) => self.bytes -= old.len(),
            None => self.bytes += key_len + RECORD_OVERHEAD_BYTES,
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&State> {
        self.map.get(key)
    }

    /// The states with `from <= key < to`; `from < to`, or it panics.
    pub(super) fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = (&'a Key, &'a State)> {
        self.map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &State)> {
        self.map.iter()
    }

    /// An estimate of the memory that the table takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A table that takes no more records, and how far the journal is in it.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) table: Memtable,
    /// Every record of the journal up to here is in this table, an older one, or RocksDB.
    pub(super) upto: Position,
}
