//! Which files have staged bytes, since when, and how many.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Filesystem, FsError};
use crate::format::{Key, KeyParts, Source, Tag, decode_extent};
use crate::local::Slot;
use crate::types::Ino;

/// Overlay records read at once.
const RECORDS_AT_ONCE: usize = 1024;

/// A file with staged bytes. Times are of `Clock::monotonic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyInode {
    /// The file.
    pub ino: Ino,
    /// When it became dirty; after a restart, when it was found.
    pub since: Duration,
    /// When it was last written.
    pub last_write: Duration,
    /// Bytes that staged extents cover.
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct State {
    since: Duration,
    last_write: Duration,
    /// Negative for a while after a restart: replaced bytes that the scan did not count yet.
    bytes: i64,
}

/// The dirty files, without orphans. A leaf lock; an entry changes under its inode's lock.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    states: HashMap<Ino, State>,
    /// Sum of all states' bytes.
    bytes: i64,
}

impl Dirty {
    /// Notes that an inode's staged bytes grew; `written` if by a write just now.
    pub fn grow(&self, ino: Ino, bytes: i64, now: Duration, written: bool) {
        if bytes == 0 && !written {
            return;
        }
        let mut files = self.files.lock();
        files.bytes += bytes;
        let fresh = State { since: now, last_write: now, bytes: 0 };
        let state = files.states.entry(ino).or_insert(fresh);
        state.bytes += bytes;
        if written {
            state.last_write = now;
        }
        if state.bytes == 0 {
            files.states.remove(&ino);
        }
    }

    /// Sets what a scan under the inode's lock found.
    fn set(&self, ino: Ino, bytes: i64, now: Duration) {
        let before = self.files.lock().states.get(&ino).map_or(0, |state| state.bytes);
        self.grow(ino, bytes - before, now, false);
    }

    /// The inode has lost its last name or its last record.
    pub fn remove(&self, ino: Ino) {
        let mut files = self.files.lock();
        if let Some(state) = files.states.remove(&ino) {
            files.bytes -= state.bytes;
        }
    }
}

impl Filesystem {
    /// Files with staged bytes, in no order, without orphans: those are never settled. From
    /// memory; complete once [`Filesystem::recover`] has returned.
    #[must_use]
    pub fn dirty(&self) -> Vec<DirtyInode> {
        let files = self.dirty.files.lock();
        let listed = files.states.iter().filter_map(|(&ino, state)| {
            let bytes = u64::try_from(state.bytes).ok().filter(|&bytes| bytes > 0)?;
            let State { since, last_write, .. } = *state;
            Some(DirtyInode { ino, since, last_write, bytes })
        });
        listed.collect()
    }

    /// Bytes that the staged extents of all dirty files cover.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        u64::try_from(self.dirty.files.lock().bytes).unwrap_or(0)
    }

    /// Finds the staged extents that an earlier mount left in the overlay.
    pub(super) fn scan_dirty(&self) -> Result<(), FsError> {
        let end = Key::tag_end(Ino(u64::MAX), Tag::Extent);
        let mut from = Key::attr(Ino::ROOT);
        loop {
            let page = self.namespace.overlay(&from, &end, RECORDS_AT_ONCE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let last_ino = last.ino();
            let mut inos: Vec<Ino> = page.iter().filter_map(staged_ino).collect();
            inos.dedup();
            for &ino in &inos {
                self.count_staged(ino)?;
            }
            // The last inode was counted as a whole if it had a staged extent in this page; if
            // not, go on behind its last record.
            from = if inos.last() == Some(&last_ino) {
                Key::attr(Ino(last_ino.0.saturating_add(1)))
            } else {
                last.successor()
            };
        }
    }

    /// Counts the staged bytes of one inode in the overlay, under its lock.
    fn count_staged(&self, ino: Ino) -> Result<(), FsError> {
        let cell = self.inodes.cell(ino);
        let _unchanged = cell.state.read();
        if self.orphans.contains(ino) {
            return Ok(());
        }
        let end = Key::tag_end(ino, Tag::Extent);
        let mut from = Key::tag_start(ino, Tag::Extent);
        let mut bytes = 0;
        loop {
            let page = self.namespace.overlay(&from, &end, RECORDS_AT_ONCE)?;
            let Some((last, _)) = page.last() else { break };
            from = last.successor();
            bytes += page.iter().filter_map(staged_bytes).sum::<i64>();
        }
        self.dirty.set(ino, bytes, self.clock.monotonic());
        Ok(())
    }
}

fn staged_ino((key, slot): &(Key, Slot)) -> Option<Ino> {
    staged_bytes(&(key.clone(), slot.clone())).map(|_| key.ino())
}

fn staged_bytes((key, slot): &(Key, Slot)) -> Option<i64> {
    let (Some(KeyParts::Extent(..)), Slot::Value(value)) = (key.parts(), slot) else {
        return None;
    };
    let extent = decode_extent(value).ok()?;
    match extent.source {
        Source::Staged(_) => i64::try_from(extent.len).ok(),
        Source::Chunk { .. } => None,
    }
}
