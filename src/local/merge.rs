//! Several ordered tables and RocksDB read as one: the newest says what a key's slot is.

use std::iter::Peekable;
use std::ops::ControlFlow;

use rocksdb::DBRawIterator;

use super::memtable::State;
use super::{LocalError, Slot, rocks};
use crate::format::Key;

/// One table's records of the range.
pub(super) type Source<'a> = Box<dyn Iterator<Item = (&'a Key, &'a State)> + 'a>;

/// A slot as the merge meets it.
pub(super) enum Found<'a> {
    /// In a table.
    Memory(&'a Key, &'a State),
    /// In RocksDB: key and encoded slot.
    Disk(&'a [u8], &'a [u8]),
}

impl Found<'_> {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Found::Memory(key, _) => key.as_bytes(),
            Found::Disk(key, _) => key,
        }
    }

    /// The record's value; none for a tombstone.
    pub(super) fn value(&self) -> Option<&[u8]> {
        match self {
            Found::Memory(_, State::Value(value)) => Some(value),
            Found::Memory(..) => None,
            Found::Disk(_, encoded) => rocks::slot_value(encoded),
        }
    }

    /// Key and slot to keep; none where the overlay says nothing.
    pub(super) fn to_slot(&self) -> Result<Option<(Key, Slot)>, LocalError> {
        match self {
            Found::Memory(key, state) => Ok(state.slot().map(|slot| ((*key).clone(), slot))),
            Found::Disk(key, encoded) => {
                let key = Key::from_bytes(key)
                    .map_err(|_| LocalError::corrupt("a key in RocksDB's overlay family"))?;
                Ok(Some((key, rocks::decode_slot(encoded)?)))
            }
        }
    }
}

/// Visits every key of `sources` (newest first) and `disk` (oldest; already bounded by the end of
/// the range) from `from` on in order, with its newest state, until `visit` breaks.
pub(super) fn merge(
    sources: Vec<Source<'_>>,
    mut disk: DBRawIterator<'_>,
    from: &[u8],
    visit: &mut dyn FnMut(Found<'_>) -> Result<ControlFlow<()>, LocalError>,
) -> Result<(), LocalError> {
    let mut sources: Vec<_> = sources.into_iter().map(Iterator::peekable).collect();
    disk.seek(from);
    loop {
        let newest = smallest(&mut sources);
        let flow = match (newest, disk.item()) {
            (None, None) => break,
            (None, Some((key, encoded))) => {
                let flow = visit(Found::Disk(key, encoded))?;
                disk.next();
                flow
            }
            (Some((key, _)), Some((disk_key, encoded))) if disk_key < key.as_bytes() => {
                let flow = visit(Found::Disk(disk_key, encoded))?;
                disk.next();
                flow
            }
            (Some((key, state)), disk_item) => {
                let hides = disk_item.is_some_and(|(disk_key, _)| disk_key == key.as_bytes());
                if hides {
                    disk.next();
                }
                pass(&mut sources, key);
                visit(Found::Memory(key, state))?
            }
        };
        if flow.is_break() {
            return Ok(());
        }
    }
    disk.status().map_err(rocks::failed)
}

/// The smallest key at the front of the sources, with the newest of its states.
fn smallest<'a>(sources: &mut [Peekable<Source<'a>>]) -> Option<(&'a Key, &'a State)> {
    let mut best: Option<(&'a Key, &'a State)> = None;
    for source in sources {
        if let Some(&(key, state)) = source.peek()
            && best.is_none_or(|(best_key, _)| key < best_key)
        {
            best = Some((key, state));
        }
    }
    best
}

/// Takes `key` off the front of every source that has it there.
fn pass<'a>(sources: &mut [Peekable<Source<'a>>], key: &Key) {
    for source in sources {
        source.next_if(|(front, _)| *front == key);
    }
}
