//! Where chunks are in the store: what a new chunk with the same content need not be uploaded for.

use rocksdb::WriteBatch;

use super::LocalError;
use super::rocks::{self, Family, Rocks};
use crate::format::PackSlot;
use crate::types::{ChunkId, PackId};

const SLOT_LEN: usize = 40;

pub(super) fn get(rocks: &Rocks, id: &ChunkId) -> Result<Option<PackSlot>, LocalError> {
    let found =
        rocks.db.get_pinned_cf_opt(rocks.family(Family::Known), id.as_bytes(), &rocks.reads);
    Ok(found.map_err(rocks::failed)?.and_then(|bytes| decode(&bytes)))
}

pub(super) fn put(rocks: &Rocks, slots: &[(ChunkId, PackSlot)]) -> Result<(), LocalError> {
    let mut batch = WriteBatch::default();
    for (id, slot) in slots {
        let mut encoded = [0; SLOT_LEN];
        encoded[..32].copy_from_slice(slot.pack.as_bytes());
        encoded[32..36].copy_from_slice(&slot.offset.to_le_bytes());
        encoded[36..].copy_from_slice(&slot.len.to_le_bytes());
        batch.put_cf(rocks.family(Family::Known), id.as_bytes(), encoded);
    }
    rocks.write(batch)
}

pub(super) fn clear(rocks: &Rocks) -> Result<(), LocalError> {
    let mut batch = WriteBatch::default();
    // Longer than any id, so that the largest one is within the range too.
    batch.delete_range_cf(rocks.family(Family::Known), &[][..], &[u8::MAX; ChunkId::LEN + 1]);
    rocks.write(batch)
}

/// None: damaged, and so not known.
fn decode(bytes: &[u8]) -> Option<PackSlot> {
    let bytes: &[u8; SLOT_LEN] = bytes.try_into().ok()?;
    let mut pack = [0; 32];
    pack.copy_from_slice(&bytes[..32]);
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some(PackSlot { pack: PackId(pack), offset: word(32), len: word(36) })
}
