//! Orphans: inodes without a name that the kernel still knows. Each has a record that says so,
//! put in the commit that took the last name; reclaiming removes all records of the inode.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::inode::{CellState, Need};
use super::{Filesystem, FsError};
use crate::chunks::Fetch;
use crate::format::{Key, Tag};
use crate::local::Batch;
use crate::namespace::Change;
use crate::types::Ino;

/// Most records that one commit of a reclaim removes.
const RECORDS_AT_ONCE: usize = 4096;

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
    /// many. What is left (in use, or frozen) is for a later call: make one now and then.
    pub fn reclaim_orphans(&self, which: Reclaim, fetch: Fetch) -> Result<u64, FsError> {
        let mut reclaimed = 0;
        for ino in self.orphans.snapshot() {
            if which == Reclaim::All || !self.lookups.is_held(ino) {
                reclaimed += u64::from(self.reclaim(ino, which, fetch)?);
            }
        }
        Ok(reclaimed)
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
        self.reclaim_orphans(Reclaim::Forgotten, fetch)?;
        self.scan_dirty()
    }

    /// Reclaims an inode that just lost its last name or its last lookup, if both are gone. What
    /// can't be done at once is left to `reclaim_orphans`.
    pub(super) fn reclaim_if_forgotten(&self, ino: Ino) {
        if !self.orphans.contains(ino) || self.lookups.is_held(ino) {
            return;
        }
        if let Err(error) = self.reclaim(ino, Reclaim::Forgotten, Fetch::LocalOnly)
            && error.is_unexpected()
        {
            tracing::warn!(%ino, %error, "an unlinked inode could not be reclaimed yet");
        }
    }

    /// Removes all records of an orphan. False if it is none, or is in use again.
    fn reclaim(&self, ino: Ino, which: Reclaim, fetch: Fetch) -> Result<bool, FsError> {
        self.with_fetch(fetch, || {
            let admitted = self.gate.enter();
            if which == Reclaim::Forgotten && admitted.is_err() {
                return Ok(false);
            }
            let cell = match self.filled(ino, Need::Attr) {
                Ok(cell) => cell,
                // Reclaimed already, or by another mount whose snapshot kept the record.
                Err(FsError::NotFound) => return self.forget_orphan(ino),
                Err(error) => return Err(error),
            };
            let mut state = cell.state.write();
            if state.gone || state.attr.as_ref().is_none_or(|attr| attr.nlink > 0) {
                return Ok(false);
            }
            if which == Reclaim::Forgotten && self.lookups.is_held(ino) {
                return Ok(false);
            }
            self.remove_records(ino)?;
            *state = CellState { gone: true, ..CellState::default() };
            self.inodes.set_extents(&cell, 0);
            self.orphans.remove(ino);
            self.lookups.gone(ino);
            self.dirty.remove(ino);
            Ok(true)
        })
    }

    fn forget_orphan(&self, ino: Ino) -> Result<bool, FsError> {
        if self.get(&Key::orphan(ino))?.is_some() {
            let mut batch = Batch::for_upkeep();
            batch.delete(Key::orphan(ino));
            self.namespace.commit(Change { batch, ..Change::default() })?;
        }
        self.orphans.remove(ino);
        self.lookups.gone(ino);
        Ok(false)
    }

    /// Removes an inode's records, in commits of bounded size, the attributes and the orphan
    /// record in the last one: a crash between leaves an orphan that is reclaimed later.
    fn remove_records(&self, ino: Ino) -> Result<(), FsError> {
        let to = Key::tag_end(ino, Tag::Extent);
        let mut from = Key::attr(ino).successor();
        loop {
            let page = self.range(&from, &to, RECORDS_AT_ONCE)?;
            let more = page.len() == RECORDS_AT_ONCE;
            if let Some((last, _)) = page.last() {
                from = last.successor();
            }
            let mut batch = Batch::for_upkeep();
            for (key, _) in page {
                batch.delete(key);
            }
            if !more {
                batch.delete(Key::attr(ino));
                batch.delete(Key::orphan(ino));
            }
            self.namespace.commit(Change { batch, ..Change::default() })?;
            if !more {
                return Ok(());
            }
        }
    }
}
