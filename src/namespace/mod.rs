//! The overlay of changed records on the sealed base: one ordered key space. Also what goes with
//! it: inode numbers, counters, the mount's own state.
//!
//! Promises: a change is one atomic commit, counters included; an inode number is given out once,
//! ever; [`Namespace::rebase`] and [`Namespace::trim`] never change what a reader sees, and may be
//! interrupted anywhere.
//!
//! Must not know: what the records mean to POSIX, when a seal happens, what a lease is.

mod cut;
mod error;
mod merge;
mod totals;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::chunks::Fetch;
use crate::format::{HashKeys, Key, KeyParts, StagedAt, Tag};
use crate::local::{Batch, Local, Slot};
use crate::tree::Tree;
use crate::types::{Ino, Name};

pub use cut::CutView;
pub use error::NamespaceError;
pub use totals::{Counters, Quota};

use totals::Totals;

/// Inode numbers reserved by one commit: what a crash may leave unused.
const INO_RESERVE: u64 = 4096;

/// Records that `trim` looks at between two commits.
const TRIM_SLICE_RECORDS: usize = 1024;

/// State record: first inode number that is not reserved.
const STATE_NEXT_INO: &str = "namespace/next-ino";

/// The sealed tree under the overlay.
#[derive(Debug, Clone)]
pub struct Base {
    /// The tree.
    pub tree: Tree,
    /// All inodes of the tree are below this.
    pub next_ino: Ino,
}

/// Records to change as one, and how the totals move with them.
#[derive(Debug, Default)]
pub struct Change {
    /// The records.
    pub batch: Batch,
    /// By how much the totals of linked inodes grow.
    pub growth: Growth,
}

/// A movement of the totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    /// Inodes with at least one link.
    pub inodes: i64,
    /// Bytes that their extents cover.
    pub bytes: i64,
}

/// What a trim did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Records that left the overlay, because the base says the same.
    pub dropped: u64,
    /// Records that stay.
    pub kept: u64,
}

/// The records of a workspace.
///
/// Lock order: `ids`, then `totals`, then those of `Local`; callers hold their inode locks.
#[derive(Debug)]
pub struct Namespace {
    local: Arc<Local>,
    /// Read it only after the overlay was asked (see `get`).
    base: ArcSwap<Base>,
    keys: HashKeys,
    ids: Mutex<Ids>,
    totals: Totals,
}

#[derive(Debug)]
struct Ids {
    next: u64,
    /// Numbers below this may be given out: a record says that they were.
    reserved: u64,
}

impl Namespace {
    /// Puts the overlay of `local` on `base`. `counters` are the base's: they hold until the
    /// overlay has its own.
    pub fn open(
        local: Arc<Local>,
        base: Base,
        keys: HashKeys,
        counters: Counters,
    ) -> Result<Namespace, NamespaceError> {
        let reserved = match read_state(&local, STATE_NEXT_INO)? {
            Some(bytes) => state_u64(&bytes)?,
            None => 0,
        };
        let first = reserved.max(base.next_ino.0).max(Ino::ROOT.0 + 1);
        Ok(Namespace {
            totals: Totals::load(&local, counters)?,
            ids: Mutex::new(Ids { next: first, reserved: first }),
            base: ArcSwap::from_pointee(base),
            local,
            keys,
        })
    }

    /// Key of a name in a directory.
    #[must_use]
    pub fn entry_key(&self, directory: Ino, name: &Name) -> Key {
        Key::entry(directory, self.keys.name(name.as_bytes()), name.as_bytes())
    }

    /// The record with this key.
    pub fn get(&self, key: &Key, fetch: Fetch) -> Result<Option<Bytes>, NamespaceError> {
        match self.local.get(key.as_bytes())? {
            Some(Slot::Value(value)) => Ok(Some(value)),
            Some(Slot::Tombstone) => Ok(None),
            // The base is loaded after the overlay was asked: a record leaves the overlay only
            // when the base that is in force says the same.
            None => base_get(&self.base.load(), key, fetch),
        }
    }

    /// At most `limit` records with `from <= key < to`, ascending. Less than `limit` means that
    /// there are no more. Of one moment only as far as the caller's locks keep writers out.
    pub fn range(
        &self,
        from: &Key,
        to: &Key,
        limit: usize,
        fetch: Fetch,
    ) -> Result<Vec<(Key, Bytes)>, NamespaceError> {
        let mut overlay = |from: &[u8], limit| Ok(self.local.range(from, to.as_bytes(), limit)?);
        let mut base =
            |from: &[u8], to: &[u8], limit| base_range(&self.base.load(), (from, to), limit, fetch);
        merge::range(from, to, limit, &mut overlay, &mut base)
    }

    /// Commits a change atomically. Durability is `Local::commit`'s.
    pub fn commit(&self, change: Change) -> Result<(), NamespaceError> {
        let Change { mut batch, growth } = change;
        if growth == Growth::default() {
            return Ok(self.local.commit(batch)?);
        }
        self.totals.grow(growth, |record| {
            let (key, value) = record;
            batch.put(key, value);
            Ok(self.local.commit(batch)?)
        })
    }

    /// Appends `data` and commits the records that refer to it. `growth` must be what `build`'s
    /// change grows by; `build` calls nothing of this layer or below.
    pub fn commit_with_data(
        &self,
        data: &[&[u8]],
        growth: Growth,
        build: &mut dyn FnMut(StagedAt) -> Batch,
    ) -> Result<(), NamespaceError> {
        if growth == Growth::default() {
            return Ok(self.local.commit_with_data(data, build)?);
        }
        self.totals.grow(growth, |(key, value)| {
            Ok(self.local.commit_with_data(data, &mut |at| {
                let mut batch = build(at);
                batch.put(key.clone(), value.clone());
                batch
            })?)
        })
    }

    /// A number that no inode of this workspace ever had, also after a crash.
    pub fn alloc_ino(&self) -> Result<Ino, NamespaceError> {
        let mut ids = self.ids.lock();
        if ids.next == ids.reserved {
            let reserved = ids.next + INO_RESERVE;
            let mut batch = Batch::new();
            batch.put(Key::local(STATE_NEXT_INO), reserved.to_le_bytes().to_vec());
            self.local.commit(batch)?;
            ids.reserved = reserved;
        }
        let ino = Ino(ids.next);
        ids.next += 1;
        Ok(ino)
    }

    /// All inode numbers given out so far are below this.
    #[must_use]
    pub fn next_ino(&self) -> Ino {
        Ino(self.ids.lock().next)
    }

    /// The totals of linked inodes.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.totals.now()
    }

    /// Sets the most that the totals may grow to; commits beyond fail with `Quota`.
    pub fn set_quota(&self, quota: Quota) {
        self.totals.set_quota(quota);
    }

    /// The limits of the totals.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.totals.quota()
    }

    /// The tree under the overlay.
    #[must_use]
    pub fn base(&self) -> Arc<Base> {
        self.base.load_full()
    }

    /// Inodes that were unlinked but still open.
    pub fn orphans(&self, fetch: Fetch) -> Result<HashSet<Ino>, NamespaceError> {
        cut::read_orphans(&mut |from, to| self.range(from, to, cut::ORPHANS_AT_ONCE, fetch))
    }

    /// A record of the mount's own state. Names that begin with `namespace/` are this layer's.
    pub fn state(&self, name: &str) -> Result<Option<Bytes>, NamespaceError> {
        Ok(read_state(&self.local, name)?)
    }

    /// Sets records of the mount's own state, atomically; `None` removes one.
    pub fn set_state(&self, records: &[(&str, Option<Vec<u8>>)]) -> Result<(), NamespaceError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::for_upkeep();
        for (name, value) in records {
            match value {
                Some(value) => batch.put(Key::local(name), value.clone()),
                None => batch.delete(Key::local(name)),
            }
        }
        Ok(self.local.commit(batch)?)
    }

    /// Puts a new base under the overlay, and sets `state` records that name it. The overlay on
    /// the new base must say what it says on the old one: each key that the two answer
    /// differently has a slot in the overlay. Follow it with [`Namespace::trim`].
    pub fn rebase(
        &self,
        base: Base,
        state: &[(&str, Option<Vec<u8>>)],
    ) -> Result<(), NamespaceError> {
        self.set_state(state)?;
        self.base.store(Arc::new(base));
        Ok(())
    }

    /// Drops the overlay's records that the base answers equally, a slice at a time, while
    /// readers and writers go on. Not to be run while a seal is between its cut and its rebase.
    pub fn trim(&self, fetch: Fetch) -> Result<Trimmed, NamespaceError> {
        let mut trimmed = Trimmed::default();
        let mut from = Key::tag_start(Ino::META, Tag::Attr).as_bytes().to_vec();
        let end = Key::tag_end(Ino(u64::MAX), Tag::Local);
        loop {
            let slots = self.local.range(&from, end.as_bytes(), TRIM_SLICE_RECORDS)?;
            let Some((last, _)) = slots.last() else { return Ok(trimmed) };
            from = merge::successor(last.as_bytes());
            let base = self.base.load_full();
            let mut clean = Vec::new();
            let seen = slots.len() as u64;
            for (key, slot) in slots {
                if is_local(&key) {
                    continue;
                }
                let same = match (&slot, base_get(&base, &key, fetch)?) {
                    (Slot::Value(value), Some(based)) => *value == based,
                    (Slot::Tombstone, None) => true,
                    _ => false,
                };
                if same {
                    clean.push((key, slot));
                }
            }
            let dropped = self.local.drop_clean(&clean)? as u64;
            trimmed.dropped += dropped;
            trimmed.kept += seen - dropped;
        }
    }

    /// The live overlay's slots with `from <= key < to`, at most `limit`, tombstones included.
    pub fn overlay(
        &self,
        from: &Key,
        to: &Key,
        limit: usize,
    ) -> Result<Vec<(Key, Slot)>, NamespaceError> {
        Ok(self.local.range(from.as_bytes(), to.as_bytes(), limit)?)
    }

    /// Whether the overlay has a slot for this key.
    pub fn has_slot(&self, key: &Key) -> Result<bool, NamespaceError> {
        Ok(self.local.get(key.as_bytes())?.is_some())
    }

    /// Runs `f` with the workspace as it is at one commit boundary. Writers go on meanwhile; the
    /// base must not be changed meanwhile.
    pub fn with_cut<R>(&self, f: impl FnOnce(&CutView<'_>) -> R) -> Result<R, NamespaceError> {
        let base = self.base.load_full();
        Ok(self.local.with_cut(|cut| {
            // Read after the cut was taken: every inode in it has a smaller number.
            let next_ino = self.next_ino();
            f(&CutView::new(cut, &base, next_ino, self.totals.initial()))
        })?)
    }
}

/// Whether this is the mount's own state, which is never sealed.
fn is_local(key: &Key) -> bool {
    matches!(key.parts(), Some(KeyParts::Local(_)))
}

fn read_state(local: &Local, name: &str) -> Result<Option<Bytes>, crate::local::LocalError> {
    Ok(match local.get(Key::local(name).as_bytes())? {
        Some(Slot::Value(value)) => Some(value),
        Some(Slot::Tombstone) | None => None,
    })
}

fn state_u64(bytes: &[u8]) -> Result<u64, NamespaceError> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| NamespaceError::Corrupt("a state record's length".into()))?;
    Ok(u64::from_le_bytes(bytes))
}

fn base_get(base: &Base, key: &Key, fetch: Fetch) -> Result<Option<Bytes>, NamespaceError> {
    if is_local(key) || key.ino() >= base.next_ino {
        return Ok(None);
    }
    Ok(base.tree.get(key.as_bytes(), fetch)?)
}

fn base_range(
    base: &Base,
    (from, to): (&[u8], &[u8]),
    limit: usize,
    fetch: Fetch,
) -> Result<Vec<(Key, Bytes)>, NamespaceError> {
    let ino = from.first_chunk::<8>().map_or(0, |ino| u64::from_be_bytes(*ino));
    if ino >= base.next_ino.0 {
        return Ok(Vec::new());
    }
    Ok(base.tree.range(from, to, limit, fetch)?)
}
