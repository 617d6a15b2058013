//! Settling in the background: files that were left alone for a while become chunks and travel
//! to the store, so that a seal has little left to do.
//!
//! A piece stays staged until its chunks are stored; then its extents are exchanged, unless it
//! was changed meanwhile: then it is settled again later.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::chunks::Fetch;
use crate::format::{Key, KeyParts, Tag, decode_extent};
use crate::fs::{DirtyInode, SettledRegion, Stale};
use crate::local::Slot;
use crate::types::Ino;

use super::active::Active;
use super::cutter::{Cutter, Draft, Drafts, PieceKey};
use super::options::Upkeep;
use super::pace::{InUse, Pace, Traffic};
use super::plan::{Extents, PIECE_LEN, is_staged, piece_start};
use super::{Phase, WorkspaceError};

/// A file that is written without a pause is settled when it has so many staged bytes ...
const HOT_BYTES: u64 = 32 << 20;

/// ... or is that old, ...
const HOT_AGE: Duration = Duration::from_secs(30);

/// ... but not more often than this: its last piece may have to be cut again.
const HOT_INTERVAL: Duration = Duration::from_secs(5);

/// Staged bytes from which on settling goes on while programs use the mount, or this part of what
/// may be staged: they are on this machine only, and who hibernates has to wait for them.
const BEHIND_BYTES: u64 = 1 << 30;
const BEHIND_DIVISOR: u64 = 4;

/// ... and part of the time until the next checkpoint after which it does: else that would have to
/// settle all of it, and does not rest.
const BEHIND_AGE_DIVISOR: u32 = 2;

/// Bytes that one pass of making room brings to the store: those who wait get their turn after it.
const DRAIN_BYTES_MAX: u64 = 32 << 20;

/// What must be free of the disk, beyond its reserve, for a write to find room: the largest that
/// the kernel sends, and its records.
const DISK_ROOM_BYTES_MIN: u64 = 2 << 20;

/// Slots read at once.
const PAGE_SLOTS: usize = 4096;

/// Pieces on their way to the store.
#[derive(Debug, Default)]
pub struct Settling {
    /// Cut, and not yet exchanged.
    pub drafts: Drafts,
    /// Last write of each file when it was last cut, and when that was.
    seen: HashMap<Ino, Seen>,
    /// Packs stored when the drafts were last looked through.
    packs_seen: u64,
    in_use: InUse,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    last_write: Duration,
    cut_at: Duration,
}

/// Which files a pass takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that were left alone, and those written for too long; at a pace.
    Quiet,
    /// All, at a pace: before a checkpoint that nobody waits for.
    AllInTime,
    /// All.
    All,
    /// All, on several cores: for a hibernation, when nobody else works any more.
    AllAtOnce,
}

/// Threads that cut at once then. Each holds a piece and its compressed form.
const CUTTERS_MAX: usize = 4;

impl Settling {
    /// Whether the file should be cut now.
    fn takes(&self, file: &DirtyInode, now: Duration, quiet: Duration) -> bool {
        let seen = self.seen.get(&file.ino);
        if seen.is_some_and(|seen| seen.last_write == file.last_write) {
            return false;
        }
        let since_cut = seen.map(|seen| now.saturating_sub(seen.cut_at));
        let hot = file.bytes >= HOT_BYTES || now.saturating_sub(file.since) >= HOT_AGE;
        now.saturating_sub(file.last_write) >= quiet
            || hot && since_cut.is_none_or(|since| since >= HOT_INTERVAL)
    }

    /// Forgets what was seen: after a seal, or when drafts were lost.
    pub fn forget(&mut self) {
        self.drafts.clear();
        self.seen.clear();
    }
}

impl Active {
    /// Cuts the files that are due and exchanges the extents of pieces whose chunks are stored.
    /// Returns how many files were cut. Waits while too much is on its way to the store.
    pub fn settle(
        &self,
        settling: &mut Settling,
        which: Which,
        fetch: Fetch,
    ) -> Result<u64, WorkspaceError> {
        self.exchange_stored(settling, fetch)?;
        let now = self.clock.monotonic();
        let mut dirty = self.fs.dirty();
        // Files that were made together lie together, for those who read them together.
        dirty.sort_unstable_by_key(|file| file.ino);
        let inodes: HashSet<Ino> = dirty.iter().map(|file| file.ino).collect();
        settling.seen.retain(|ino, _| inodes.contains(ino));
        let quiet = self.options.upkeep.quiet_period;
        dirty.retain(|file| which != Which::Quiet || settling.takes(file, now, quiet));
        let percent = self.options.upkeep.settle_cpu_percent;
        let has_pace = matches!(which, Which::Quiet | Which::AllInTime);
        let percent = if has_pace { percent } else { 100 };
        let mut pace = Pace::new(percent, settling.in_use);
        if which == Which::AllAtOnce {
            self.settle_together(settling, &dirty, fetch)?;
        }
        let cut = dirty.len() as u64;
        for file in dirty {
            self.progress.check()?;
            let whole = (file.ino, u64::MAX);
            let seen = Seen { last_write: file.last_write, cut_at: now };
            // Before: if its drafts are forgotten meanwhile, it is cut again.
            settling.seen.insert(file.ino, seen);
            self.settle_file(settling, whole, &mut pace, fetch)?;
        }
        settling.in_use = pace.in_use();
        self.tally.lock().seals.files_settled += cut;
        self.exchange_stored(settling, fetch)?;
        Ok(cut)
    }

    /// Makes room in the local directory: brings written bytes to the store, the oldest first, up
    /// to a bound, exchanges their extents, and frees their place. Whether that got anywhere.
    pub fn drain(&self, fetch: Fetch) -> Result<bool, WorkspaceError> {
        self.check_writable()?;
        // Writers may use up at once what was there, or what others made: that was room too.
        let had_room = self.has_room()?;
        let in_hurry = self.hurry.up();
        let mut settling = self.settling.lock();
        drop(in_hurry);
        let drained = self.drain_some(&mut settling, fetch);
        if drained.is_err() {
            settling.forget();
        }
        drop(settling);
        let cut = drained?;
        let freed = self.local.sweep()?;
        self.throttle();
        Ok(cut > 0 || freed > 0 || had_room || self.has_room()?)
    }

    /// Whether an eighth of the budget and some of the disk are free, and less waits for the store
    /// than may.
    fn has_room(&self) -> Result<bool, WorkspaceError> {
        let usage = self.local.usage()?;
        let dirty = usage.journal_bytes + usage.rocksdb_bytes;
        let in_budget = dirty < usage.budget - usage.budget / 8;
        let reserve = self.options.local.disk_reserve_bytes;
        let on_disk = usage.disk_free >= reserve.saturating_add(DISK_ROOM_BYTES_MIN);
        Ok(in_budget && on_disk && !self.is_over_cap())
    }

    fn drain_some(&self, settling: &mut Settling, fetch: Fetch) -> Result<u64, WorkspaceError> {
        let mut dirty = self.fs.dirty();
        dirty.sort_unstable_by_key(|file| (file.since, file.ino));
        let (mut cut, mut pace) = (0, Pace::new(100, settling.in_use));
        for file in dirty {
            if cut >= DRAIN_BYTES_MAX {
                break;
            }
            let left = DRAIN_BYTES_MAX - cut;
            cut += self.settle_file(settling, (file.ino, left), &mut pace, fetch)?;
        }
        self.chunks.make_room()?;
        // Also those that needed no pack.
        settling.packs_seen = u64::MAX;
        self.exchange_stored(settling, fetch)?;
        Ok(cut)
    }

    /// Cuts a file's staged pieces, but for those whose draft is still right, until about
    /// `bytes_max` staged bytes are cut. Returns how many were.
    fn settle_file(
        &self,
        settling: &mut Settling,
        (ino, bytes_max): (Ino, u64),
        pace: &mut Pace,
        fetch: Fetch,
    ) -> Result<u64, WorkspaceError> {
        let mut cut = 0;
        for from in self.staged_pieces_of(ino)? {
            self.bound_drafts(settling, fetch)?;
            if let Some(draft) = self.settle_piece(&settling.drafts, (ino, from), fetch)? {
                cut += draft.staged_bytes;
                if draft.is_stored(|id| self.chunks.slot_of(id)) {
                    // All of it was there before: no pack will tell.
                    settling.packs_seen = u64::MAX;
                }
                settling.drafts.insert((ino, from), draft);
            }
            if cut >= bytes_max {
                break;
            }
            pace.rest(&self.hurry, || self.traffic());
        }
        Ok(cut)
    }

    fn traffic(&self) -> Traffic {
        let budget = self.options.local.cache_bytes_max;
        let cap = match self.options.upkeep.unsynced_bytes_max {
            0 => budget,
            max => max.min(budget),
        };
        let now = self.clock.monotonic();
        let many = self.fs.dirty_bytes() >= BEHIND_BYTES.min(cap / BEHIND_DIVISOR);
        let since = self.tally.lock().changed_since;
        let age = since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let upkeep = &self.options.upkeep;
        let is_behind = many || is_checkpoint_near(upkeep, age);
        let is_late = !upkeep.unsynced_age_max.is_zero() && age >= upkeep.unsynced_age_max / 2;
        Traffic { now, operations: self.fs.operations(), is_behind, is_late }
    }

    /// Cuts a piece, unless its draft is still right or it has no staged bytes any more.
    fn settle_piece(
        &self,
        drafts: &Drafts,
        key: PieceKey,
        fetch: Fetch,
    ) -> Result<Option<Draft>, WorkspaceError> {
        let captured = self.extents(key, fetch)?;
        let known = drafts.get(&key).is_some_and(|draft| draft.captured == captured);
        if known || !captured.iter().any(|(_, extent)| is_staged(extent)) {
            return Ok(None);
        }
        Cutter { local: &self.local, chunks: &self.chunks }.cut(key, captured, fetch)
    }

    /// Cuts the pieces of these files on several threads, about in their order.
    fn settle_together(
        &self,
        settling: &mut Settling,
        files: &[DirtyInode],
        fetch: Fetch,
    ) -> Result<(), WorkspaceError> {
        let mut pieces: Vec<PieceKey> = Vec::new();
        for file in files {
            let starts = self.staged_pieces_of(file.ino)?;
            pieces.extend(starts.into_iter().map(|from| (file.ino, from)));
        }
        for pieces in pieces.chunks((self.options.upkeep.drafts_max / 2).max(1)) {
            self.bound_drafts(settling, fetch)?;
            let cut = self.cut_together(&settling.drafts, pieces, fetch)?;
            settling.drafts.extend(cut);
        }
        Ok(())
    }

    fn cut_together(
        &self,
        known: &Drafts,
        pieces: &[PieceKey],
        fetch: Fetch,
    ) -> Result<Vec<(PieceKey, Draft)>, WorkspaceError> {
        let next = AtomicUsize::new(0);
        let cut_some = || {
            let mut done = Vec::new();
            while let Some(&key) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.progress.check()?;
                done.extend(self.settle_piece(known, key, fetch)?.map(|draft| (key, draft)));
            }
            Ok::<_, WorkspaceError>(done)
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let helpers = cores.min(CUTTERS_MAX).min(pieces.len()).saturating_sub(1);
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(cut_some)).collect();
            let mut all = cut_some();
            for helper in helpers {
                let theirs = helper.join().unwrap_or(Err(WorkspaceError::Stopped));
                all = all.and_then(|mut all| {
                    all.extend(theirs?);
                    Ok(all)
                });
            }
            all
        })
    }

    /// Exchanges the extents of what is stored when there are many drafts; waits for the store
    /// where that is not enough.
    fn bound_drafts(&self, settling: &mut Settling, fetch: Fetch) -> Result<(), WorkspaceError> {
        let max = self.options.upkeep.drafts_max;
        if settling.drafts.len() < max {
            return Ok(());
        }
        self.exchange_stored(settling, fetch)?;
        if settling.drafts.len() >= max {
            self.chunks.make_room()?;
            settling.packs_seen = u64::MAX;
            self.exchange_stored(settling, fetch)?;
        }
        if settling.drafts.len() >= max {
            // What is stored nowhere now never will be: to be cut again.
            settling.forget();
        }
        Ok(())
    }

    /// Starts of the file's pieces that hold staged bytes.
    fn staged_pieces_of(&self, ino: Ino) -> Result<Vec<u64>, WorkspaceError> {
        let end = Key::tag_end(ino, Tag::Extent);
        let mut from = Key::tag_start(ino, Tag::Extent);
        let mut pieces = Vec::new();
        loop {
            let slots = self.namespace.overlay(&from, &end, PAGE_SLOTS)?;
            let Some((last, _)) = slots.last() else { return Ok(pieces) };
            from = last.successor();
            for (key, slot) in slots {
                let Some(KeyParts::Extent(_, offset)) = key.parts() else { continue };
                let Slot::Value(value) = slot else { continue };
                let staged = decode_extent(&value).is_ok_and(|extent| is_staged(&extent));
                let piece = piece_start(offset);
                if staged && pieces.last() != Some(&piece) {
                    pieces.push(piece);
                }
            }
        }
    }

    /// The live extents of a piece.
    fn extents(&self, (ino, from): PieceKey, fetch: Fetch) -> Result<Extents, WorkspaceError> {
        read_extents((ino, from), |start, end, limit| {
            Ok(self.namespace.range(start, end, limit, fetch)?)
        })
    }

    /// Exchanges the extents of pieces whose chunks are stored by now.
    fn exchange_stored(&self, settling: &mut Settling, fetch: Fetch) -> Result<(), WorkspaceError> {
        let stored = self.chunks.stats().data_packs_stored;
        if settling.drafts.is_empty() || stored == settling.packs_seen {
            return Ok(());
        }
        settling.packs_seen = stored;
        let drafts = std::mem::take(&mut settling.drafts);
        let mut regions: Vec<(Ino, Vec<SettledRegion>)> = Vec::new();
        for (key, draft) in drafts {
            match draft.region(key.1, |id| self.chunks.slot_of(id)) {
                Some(region) => match regions.last_mut() {
                    Some((ino, list)) if *ino == key.0 => list.push(region),
                    _ => regions.push((key.0, vec![region])),
                },
                None => _ = settling.drafts.insert(key, draft),
            }
        }
        for (ino, regions) in regions {
            self.fs.commit_settled(ino, &regions, Stale::Skip, fetch)?;
        }
        Ok(())
    }

    /// Staged bytes that no pack holds yet, and the files that they belong to.
    pub fn unsynced_bytes(&self) -> (u64, u64) {
        let dirty = self.fs.dirty();
        (dirty.iter().map(|file| file.bytes).sum(), dirty.len() as u64)
    }

    /// Shows in the progress that `bytes` more are cut.
    pub fn note_cut(&self, bytes: u64) {
        let rate = self.tally.lock().upload_rate;
        self.progress.add_bytes(bytes, rate);
        self.progress.phase(Phase::Settling);
    }
}

/// Whether changes of this age will soon be sealed by a checkpoint that nobody asked for.
fn is_checkpoint_near(upkeep: &Upkeep, age: Duration) -> bool {
    let due = match (upkeep.checkpoint_interval, upkeep.unsynced_age_max / 2) {
        (Duration::ZERO, Duration::ZERO) => return false,
        (Duration::ZERO, due) | (due, Duration::ZERO) => due,
        (one, other) => one.min(other),
    };
    age >= due / BEHIND_AGE_DIVISOR
}

/// Reads all extents of a piece through `range`.
pub fn read_extents(
    (ino, from): PieceKey,
    mut range: impl FnMut(&Key, &Key, usize) -> Result<Vec<(Key, bytes::Bytes)>, WorkspaceError>,
) -> Result<Extents, WorkspaceError> {
    let end = Key::extent(ino, from + PIECE_LEN);
    let mut start = Key::extent(ino, from);
    let mut extents = Extents::new();
    loop {
        let page = range(&start, &end, PAGE_SLOTS)?;
        for (key, value) in &page {
            let extent = decode_extent(value).map_err(|cause| {
                WorkspaceError::format(&format!("an extent of inode {ino}"), cause)
            })?;
            if let Some(KeyParts::Extent(_, offset)) = key.parts() {
                extents.push((offset, extent));
            }
        }
        match page.last() {
            Some((last, _)) if page.len() >= PAGE_SLOTS => start = last.successor(),
            _ => return Ok(extents),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settling_goes_on_in_the_second_half_of_the_time_until_a_checkpoint() {
        let secs = Duration::from_secs;
        let near = |interval, age_max, age| {
            let (checkpoint_interval, unsynced_age_max) = (secs(interval), secs(age_max));
            let upkeep = Upkeep { checkpoint_interval, unsynced_age_max, ..Upkeep::default() };
            is_checkpoint_near(&upkeep, secs(age))
        };
        assert_eq!((near(60, 300, 29), near(60, 300, 30)), (false, true));
        assert_eq!((near(0, 300, 74), near(0, 300, 75)), (false, true));
        assert_eq!((near(60, 0, 29), near(60, 0, 30)), (false, true));
        assert_eq!((near(600, 300, 74), near(600, 300, 75)), (false, true));
        assert!(!near(0, 0, 1_000_000), "there is none");
    }
}
