//! Orphans: inodes without a name that the kernel still knows. Each has a record that says so,
//! put in the commit that took the last name; reclaiming removes all records of the inode.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::inode::{CellState, Locked, Need};
use super::{Filesystem, FsError};
use crate::chunks::Fetch;
use crate::format::{Key, KeyParts, Tag};
use crate::local::Batch;
use crate::namespace::Change;
use crate::types::Ino;

/// About the most records that one commit of a reclaim removes.
const RECORDS_AT_ONCE: usize = 4096;

/// Orphans that are reclaimed together: a commit, and mostly also a look for records, serves all.
const INODES_AT_ONCE: usize = 128;

/// The orphans. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    inodes: Mutex<HashSet<Ino>>,
}

impl Orphans {
    pub fn add(&self, ino: Ino) {
        self.inodes.lock().insert(ino);
    }

    fn remove(&self, ino: Ino) {
        self.inodes.lock().remove(&ino);
    }

    pub fn contains(&self, ino: Ino) -> bool {
        self.inodes.lock().contains(&ino)
    }

    pub fn snapshot(&self) -> HashSet<Ino> {
        self.inodes.lock().clone()
    }
}

/// Which orphans to reclaim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaim {
    /// Those that the kernel has forgotten.
    Forgotten,
    /// All: the kernel's view is gone, or about to go.
    All,
}

impl Filesystem {
    /// Unlinked inodes that still live.
    #[must_use]
    pub fn orphan_count(&self) -> usize {
        self.orphans.inodes.lock().len()
    }

    /// Removes orphans for good; with [`Reclaim::All`] also while changes are frozen. Returns how
    /// many. What is left (in use, or frozen) is for a later call: make one now and then. One whose
    /// records are damaged keeps no other: its error is returned when the others are gone.
    pub fn reclaim_orphans(&self, which: Reclaim, fetch: Fetch) -> Result<u64, FsError> {
        let is_due = |ino: &Ino| which == Reclaim::All || !self.lookups.is_held(*ino);
        let mut due: Vec<Ino> = self.orphans.snapshot().into_iter().filter(is_due).collect();
        due.sort_unstable();
        let mut reclaimed = 0;
        let mut failure = None;
        for group in due.chunks(INODES_AT_ONCE) {
            match self.reclaim(group, which, Fetch::LocalOnly) {
                Ok(gone) => reclaimed += gone,
                // What one lacks is fetched for it alone: an operation starts again for each
                // thing that it lacks, and not without end.
                Err(_) => {
                    for ino in group {
                        match self.reclaim(std::slice::from_ref(ino), which, fetch) {
                            Ok(gone) => reclaimed += gone,
                            Err(error) if error.is_damage() => _ = failure.get_or_insert(error),
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
        }
        failure.map_or(Ok(reclaimed), Err)
    }

    /// The mount was taken over from a daemon that died: the kernel may know every inode there is.
    /// To be called before anything else is done.
    pub fn inherit(&self) {
        self.lookups.inherit(self.namespace.next_ino());
    }

    /// Orphans of which the kernel must be asked whether it still knows them, now and then.
    #[must_use]
    pub fn inherited_orphans(&self) -> Vec<Ino> {
        let orphans = self.orphans.inodes.lock();
        let unsure = |ino: &&Ino| self.lookups.is_inherited(**ino) && self.lookups.is_held(**ino);
        orphans.iter().filter(unsure).copied().collect()
    }

    /// The kernel does not know this orphan any more: it ends.
    pub fn disown(&self, ino: Ino) {
        if self.orphans.contains(ino) {
            self.lookups.disown(ino);
            self.reclaim_if_forgotten(ino);
        }
    }

    /// Takes up what an earlier mount left: finds orphans and reclaims those, and finds files
    /// with staged bytes. For the background, once after the mount.
    pub fn recover(&self, fetch: Fetch) -> Result<(), FsError> {
        // Orphans of this mount are in the list already; adding one again that is reclaimed
        // meanwhile does no harm: it is found gone.
        for ino in self.namespace.orphans(fetch)? {
            self.orphans.add(ino);
            self.dirty.remove(ino);
        }
        let reclaimed = self.reclaim_orphans(Reclaim::Forgotten, fetch);
        // Files with staged bytes are found all the same.
        self.scan_dirty()?;
        reclaimed.map(drop)
    }

    /// Reclaims an inode that just lost its last name or its last lookup, if both are gone. What
    /// can't be done at once is left to `reclaim_orphans`.
    pub(super) fn reclaim_if_forgotten(&self, ino: Ino) {
        self.reclaim_all_forgotten([ino].into_iter());
    }

    /// The same for several.
    pub(super) fn reclaim_all_forgotten(&self, inos: impl Iterator<Item = Ino>) {
        let is_due = |ino: &Ino| self.orphans.contains(*ino) && !self.lookups.is_held(*ino);
        let mut due: Vec<Ino> = inos.filter(is_due).collect();
        due.sort_unstable();
        due.dedup();
        for group in due.chunks(INODES_AT_ONCE) {
            let Err(error) = self.reclaim(group, Reclaim::Forgotten, Fetch::LocalOnly) else {
                continue;
            };
            match group {
                &[ino] if error.is_unexpected() => {
                    tracing::warn!(%ino, %error, "an unlinked inode could not be reclaimed yet");
                }
                [_] => {}
                // One of them; not the others.
                _ => group.iter().for_each(|&ino| self.reclaim_if_forgotten(ino)),
            }
        }
    }

    /// Removes all records of orphans, ascending and each once, together. Those that are none, or
    /// are in use again, stay. Returns how many went.
    fn reclaim(&self, inos: &[Ino], which: Reclaim, fetch: Fetch) -> Result<u64, FsError> {
        self.with_fetch(fetch, || {
            let admitted = self.gate.enter();
            if which == Reclaim::Forgotten && admitted.is_err() {
                return Ok(0);
            }
            let mut cells = Vec::with_capacity(inos.len());
            for &ino in inos {
                match self.filled(ino, Need::Attr) {
                    Ok(cell) => cells.push(cell),
                    // Reclaimed already, or by another mount whose snapshot kept the record.
                    Err(FsError::NotFound) => self.forget_orphan(ino)?,
                    Err(error) => return Err(error),
                }
            }
            let mut locked = Locked::write(&cells);
            locked.retain(|cell, state| {
                let is_held = || self.lookups.is_held(cell.ino);
                !state.gone
                    && state.attr.as_ref().is_some_and(|attr| attr.nlink == 0)
                    && (which == Reclaim::All || !is_held())
            });
            let inos: Vec<Ino> = locked.all().map(|(cell, _)| cell.ino).collect();
            self.remove_records(&inos)?;
            for (cell, state) in locked.all() {
                *state = CellState { gone: true, ..CellState::default() };
                self.inodes.set_extents(cell, 0);
                self.orphans.remove(cell.ino);
                self.lookups.gone(cell.ino);
                self.dirty.remove(cell.ino);
            }
            Ok(inos.len() as u64)
        })
    }

    fn forget_orphan(&self, ino: Ino) -> Result<(), FsError> {
        if self.get(&Key::orphan(ino))?.is_some() {
            let mut batch = Batch::for_upkeep();
            batch.delete(Key::orphan(ino));
            self.namespace.commit(Change { batch, ..Change::default() })?;
        }
        self.orphans.remove(ino);
        self.lookups.gone(ino);
        Ok(())
    }

    /// Removes inodes' records, in commits of bounded size, attributes and orphan records after
    /// all others: a crash between leaves orphans that are reclaimed later.
    fn remove_records(&self, inos: &[Ino]) -> Result<(), FsError> {
        let mut batch = Batch::for_upkeep();
        // The records of inodes with consecutive numbers stand together: one look for all.
        for run in inos.chunk_by(|one, next| next.0 - one.0 == 1) {
            let (Some(&first), Some(&last)) = (run.first(), run.last()) else { continue };
            let to = Key::tag_end(last, Tag::Extent);
            let mut from = Key::attr(first).successor();
            loop {
                let page = self.range(&from, &to, RECORDS_AT_ONCE)?;
                let more = page.len() == RECORDS_AT_ONCE;
                if let Some((last, _)) = page.last() {
                    from = last.successor();
                }
                let is_attr = |key: &Key| matches!(key.parts(), Some(KeyParts::Attr(_)));
                for (key, _) in page.into_iter().filter(|(key, _)| !is_attr(key)) {
                    batch.delete(key);
                }
                if batch.len() >= RECORDS_AT_ONCE {
                    self.remove(std::mem::replace(&mut batch, Batch::for_upkeep()))?;
                }
                if !more {
                    break;
                }
            }
        }
        for &ino in inos {
            batch.delete(Key::attr(ino));
            batch.delete(Key::orphan(ino));
        }
        self.remove(batch)
    }

    fn remove(&self, batch: Batch) -> Result<(), FsError> {
        if !batch.is_empty() {
            self.namespace.commit(Change { batch, ..Change::default() })?;
        }
        Ok(())
    }
}
