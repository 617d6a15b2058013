//! Reads a range of the overlay and of the base as one.

use bytes::Bytes;

use super::NamespaceError;
use crate::format::Key;
use crate::local::Slot;

type Slots = Vec<(Key, Slot)>;
pub(super) type Records = Vec<(Key, Bytes)>;

/// Reads overlay slots from a key on, at most so many.
type ReadSlots<'a> = dyn FnMut(&[u8], usize) -> Result<Slots, NamespaceError> + 'a;

/// Reads base records between two keys, at most so many.
type ReadRecords<'a> = dyn FnMut(&[u8], &[u8], usize) -> Result<Records, NamespaceError> + 'a;

/// Most overlay slots read at once: tombstones count, but make no record.
const SLOTS_AT_ONCE_MAX: usize = 4096;

/// The least key greater than `key`.
pub(super) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// At most `limit` records with `from <= key < to`. Fewer mean that there are no more.
///
/// `overlay(from, limit)` reads slots below `to`; `base(from, to, limit)` reads base records and
/// is called after the overlay was asked about the same keys.
pub(super) fn range(
    from: &Key,
    to: &Key,
    limit: usize,
    overlay: &mut ReadSlots<'_>,
    base: &mut ReadRecords<'_>,
) -> Result<Records, NamespaceError> {
    let mut merged: Records = Vec::new();
    let mut from = from.as_bytes().to_vec();
    while merged.len() < limit {
        let wanted = limit - merged.len();
        let at_once = wanted.clamp(16, SLOTS_AT_ONCE_MAX);
        let slots = overlay(&from, at_once)?;
        // Up to here the overlay is known; beyond, the next round asks it.
        let known = match slots.last() {
            Some((last, _)) if slots.len() >= at_once => successor(last.as_bytes()),
            _ => to.as_bytes().to_vec(),
        };
        let last_round = known == to.as_bytes();
        let resumed = merge_known(&mut merged, limit, slots, (&from, &known), base)?;
        match resumed {
            Some(next) => from = next,
            None if last_round => break,
            None => from = known,
        }
    }
    Ok(merged)
}

/// Merges slots with the base's records of `from..known`. Returns where to go on if the base had
/// more than was read of it.
fn merge_known(
    merged: &mut Records,
    limit: usize,
    slots: Slots,
    (from, known): (&[u8], &[u8]),
    base: &mut ReadRecords<'_>,
) -> Result<Option<Vec<u8>>, NamespaceError> {
    let at_once = (limit - merged.len()).clamp(16, SLOTS_AT_ONCE_MAX);
    let records = base(from, known, at_once)?;
    let stop = match records.last() {
        Some((last, _)) if records.len() >= at_once => Some(successor(last.as_bytes())),
        _ => None,
    };
    let in_reach = |key: &Key| stop.as_deref().is_none_or(|stop| key.as_bytes() < stop);
    let mut slots = slots.into_iter().filter(|(key, _)| in_reach(key)).peekable();
    let mut records = records.into_iter().peekable();
    while merged.len() < limit {
        let take_slot = match (slots.peek(), records.peek()) {
            (None, None) => break,
            (Some((slot, _)), Some((record, _))) => slot <= record,
            (slot, _) => slot.is_some(),
        };
        if !take_slot {
            merged.extend(records.next());
            continue;
        }
        let Some((key, slot)) = slots.next() else { break };
        records.next_if(|(record, _)| *record == key);
        if let Slot::Value(value) = slot {
            merged.push((key, value));
        }
    }
    Ok(stop)
}
