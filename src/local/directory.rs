//! The public face of a local directory.
#![allow(unused_variables, clippy::todo, reason = "signatures first; the bodies follow")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{Batch, LocalError, LocalOptions, Slot, Usage};
use crate::format::{Key, PackSlot, StagedAt};
use crate::types::{CacheId, ChunkId, Clock};

/// An open local directory.
#[derive(Debug)]
pub struct Local {}

/// The overlay as it was at one commit boundary. Staged bytes that it refers to stay readable
/// while it lives.
#[derive(Debug)]
pub struct Cut<'a> {
    local: &'a Local,
}

impl Local {
    /// Opens or creates the directory, takes its lock and replays the journal.
    pub fn open(
        dir: &Path,
        options: &LocalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Local, LocalError> {
        todo!()
    }

    /// The directory's own random id, made once and kept.
    #[must_use]
    pub fn cache_id(&self) -> CacheId {
        todo!()
    }

    /// What the overlay says of `key`; none: ask the base.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slot>, LocalError> {
        todo!()
    }

    /// The first `limit` slots with `from <= key < to`, ascending, tombstones included. All of
    /// one moment while `limit` is reached within the records in memory.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Slot)>, LocalError> {
        todo!()
    }

    /// Commits records atomically. When this returns, they are with the kernel: a killed process
    /// does not lose them; a power cut may, as part of a suffix, until [`Local::sync`].
    pub fn commit(&self, batch: Batch) -> Result<(), LocalError> {
        todo!()
    }

    /// Appends `data` and commits the records that refer to it, as one. `build` gets the place of
    /// the first byte; the others follow it. It runs under the commit lock: no calls into this
    /// layer from there.
    pub fn commit_with_data(
        &self,
        data: &[&[u8]],
        build: &mut dyn FnMut(StagedAt) -> Batch,
    ) -> Result<(), LocalError> {
        todo!()
    }

    /// Takes each record whose slot still equals the expected one out of the overlay, so that the
    /// base answers for it. Journaled. Returns how many were.
    pub fn drop_clean(&self, expected: &[(Key, Slot)]) -> Result<usize, LocalError> {
        todo!()
    }

    /// Returns when every commit that returned before this call survives a power cut.
    pub fn sync(&self) -> Result<(), LocalError> {
        todo!()
    }

    /// Rounds of `fdatasync` so far; concurrent callers of [`Local::sync`] share one.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        todo!()
    }

    /// Runs `f` with the overlay as of now, synced. Writers go on meanwhile.
    pub fn with_cut<R>(&self, f: impl FnOnce(&Cut<'_>) -> R) -> Result<R, LocalError> {
        todo!()
    }

    /// Fills `buf` with staged bytes from `at` on. Safe while the record that names them can't be
    /// replaced (inode lock) or a cut that holds it lives; else be ready for `NotStaged`.
    pub fn read_staged(&self, at: StagedAt, buf: &mut [u8]) -> Result<(), LocalError> {
        todo!()
    }

    /// Deletes journal segments that are applied and that no live extent or cut refers to.
    /// Returns the bytes freed. Reads the whole overlay: for the background.
    pub fn sweep(&self) -> Result<u64, LocalError> {
        todo!()
    }

    /// A cached frame, whole (its checksum was compared), or none.
    pub fn cache_get(&self, id: &[u8; 32]) -> Result<Option<Bytes>, LocalError> {
        todo!()
    }

    /// Caches a frame that can be fetched again: not durable, evicted when room is needed. A
    /// frame that is there already is left.
    pub fn cache_put(&self, id: &[u8; 32], frame: &[u8]) -> Result<(), LocalError> {
        todo!()
    }

    /// Whether a frame is cached, without reading it.
    pub fn cache_has(&self, id: &[u8; 32]) -> Result<bool, LocalError> {
        todo!()
    }

    /// Evicts least recently used frames until the cache has at most this many bytes.
    pub fn evict_to(&self, bytes: u64) -> Result<(), LocalError> {
        todo!()
    }

    /// Empties the cache.
    pub fn evict_all(&self) -> Result<(), LocalError> {
        todo!()
    }

    /// Where a chunk is in the store, if that is known here.
    pub fn known_get(&self, id: &ChunkId) -> Result<Option<PackSlot>, LocalError> {
        todo!()
    }

    /// Remembers where chunks are in the store. Not durable: forgetting costs an upload.
    pub fn known_put(&self, slots: &[(ChunkId, PackSlot)]) -> Result<(), LocalError> {
        todo!()
    }

    /// Forgets all locations (their packs may be gone).
    pub fn known_clear(&self) -> Result<(), LocalError> {
        todo!()
    }

    /// What the directory uses of its budget.
    pub fn usage(&self) -> Result<Usage, LocalError> {
        todo!()
    }

    /// Applies everything and stops: the next open is fast. Later calls that write return
    /// `Closed`. Dropping without it is like a crash: nothing committed is lost.
    pub fn close(&self) -> Result<(), LocalError> {
        todo!()
    }
}

impl Cut<'_> {
    /// As [`Local::get`], at the cut.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slot>, LocalError> {
        todo!()
    }

    /// As [`Local::range`], at the cut.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Slot)>, LocalError> {
        todo!()
    }
}
