//! Reading ahead across files: who reads one file after the other, or through a large one, on a
//! cold cache gets what follows before asking for it.
//!
//! What follows is what comes next in the order of keys: the rest of the file, then the files
//! made after it. Files that were made together have neighbouring inode numbers, and lie together
//! in packs. Reads near each other make a *region*, in whatever order they come; how far a region
//! is fetched ahead grows with what was read in it, so that what is fetched in vain stays in
//! proportion. A region begins with a read that had to wait for the store: on a warm cache there
//! is none, and nothing is done here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Filesystem;
use crate::chunks::{Chunks, Fetch};
use crate::format::{Key, KeyParts, PackSlot, Source, Tag, decode_extent};
use crate::namespace::Namespace;
use crate::types::{ChunkId, Ino};

/// Regions at once: readers that are told apart.
const REGIONS_MAX: usize = 16;

/// A read this many inodes before or behind a region belongs to it.
const NEAR_INODES: u64 = 64;

/// Bytes fetched ahead that nobody may have read yet, beside as many as were read.
const UNREAD_BYTES_MAX: u64 = 32 << 20;

/// What is fetched ahead in a region before much was read there: a part of what may be unread, so
/// that a few regions can begin; at least this much.
const START_PART: u64 = 4;
const START_BYTES_MIN: u64 = 256 * 1024;

/// ... at most this much in the first region; twice as much with each one that was read on in.
const START_BYTES_FIRST: u64 = 1 << 20;

/// Bytes fetched ahead for each byte read.
const GROWTH: u64 = 4;

/// Most bytes that a region is ahead of its reader: who reads small files is slower than the
/// line, and so makes up for a part of the large one that follows.
const AHEAD_BYTES_MAX: u64 = 48 << 20;

/// Where so many regions of the last ones were read on in, one read is enough to go ahead of.
const RUNS_TRUSTED: u32 = 3;

/// A file read beyond this is read in sequence.
const FIRST_CHUNK_BYTES: u64 = 256 * 1024;

/// A region in which nothing was read while so many reads came elsewhere is forgotten.
const FORGOTTEN_AFTER_READS: u64 = 4096;

/// Records looked at for one wish: small files have some five each, a large directory many.
const RECORDS_MAX: usize = 32 * 1024;

/// Records read at once.
const RECORDS_AT_ONCE: usize = 1024;

/// A place in the order of keys: inode, offset in the file.
type Place = (u64, u64);

/// Where readers on a cold cache are. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// How many regions there are: a warm read looks no further.
    count: AtomicUsize,
    regions: Mutex<Regions>,
}

#[derive(Debug, Default)]
struct Regions {
    list: Vec<Region>,
    next_id: u64,
    ticks: u64,
    /// Regions that were read on in, less those that were not, of late.
    runs: u32,
    /// A reader has turned back: they read in another order than that of the keys.
    is_scattered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    id: u64,
    /// First place read.
    from: Place,
    /// Where to look for more: all before was read or asked for.
    to: Place,
    last: Place,
    /// Bytes of content read.
    read: u64,
    /// Bytes of content asked for ahead.
    asked: u64,
    /// Read in more than one place.
    is_run: bool,
    /// A look is under way.
    is_looking: bool,
    /// The next look begins before the region.
    looks_behind: bool,
    used_at: u64,
}

/// What to fetch ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    region: u64,
    from: Place,
    bytes: u64,
}

/// What a look found.
#[derive(Debug, Default)]
struct Found {
    chunks: Vec<(ChunkId, PackSlot)>,
    bytes: u64,
    /// Behind the last record looked at.
    to: Place,
    /// There is nothing more, or it can't be known here.
    ended: bool,
}

impl Ahead {
    /// Notes a read of stored bytes; `missed` if it had to wait for the store. What to fetch
    /// ahead now, if anything.
    pub fn read(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        missed: bool,
        chunks: &Chunks,
    ) -> Option<Wish> {
        if !missed && self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let (fetched, used) = chunks.read_ahead_bytes();
        let start_bytes = start_bytes(fetched, used);
        let mut regions = self.regions.lock();
        let wish = regions.read((ino.0, offset), len, missed, start_bytes);
        self.count.store(regions.list.len(), Ordering::Relaxed);
        wish
    }

    /// Notes how far a wish was looked after. A region in which all is local is of no more use.
    fn looked(&self, wish: &Wish, found: &Found, all_local: bool) {
        let mut regions = self.regions.lock();
        regions.looked(wish, found, all_local);
        self.count.store(regions.list.len(), Ordering::Relaxed);
    }
}

/// How much to fetch ahead in a new place: less where much of what was fetched is unread.
fn start_bytes(fetched: u64, used: u64) -> u64 {
    let unread = fetched.saturating_sub(used);
    let allowance = UNREAD_BYTES_MAX.saturating_add(used).saturating_sub(unread);
    (allowance / START_PART).max(START_BYTES_MIN)
}

impl Regions {
    fn read(&mut self, at: Place, len: u64, missed: bool, start_bytes: u64) -> Option<Wish> {
        let start_bytes = start_bytes.min(START_BYTES_FIRST << self.runs.min(RUNS_TRUSTED));
        self.ticks += 1;
        if self.ticks.is_multiple_of(FORGOTTEN_AFTER_READS) {
            let since = self.ticks - FORGOTTEN_AFTER_READS;
            self.list.retain(|region| region.used_at >= since);
        }
        let end = (at.0, at.1.saturating_add(len));
        let near = |region: &Region| {
            at.0.saturating_add(NEAR_INODES) >= region.from.0
                && at.0 <= region.to.0.saturating_add(NEAR_INODES)
        };
        let Some(region) = self.list.iter_mut().rfind(|region| near(region)) else {
            if missed {
                return self.begin(at, end, len, start_bytes);
            }
            return None;
        };
        region.used_at = self.ticks;
        if !region.is_run && (at.0 != region.last.0 || at.1 >= FIRST_CHUNK_BYTES) {
            region.is_run = true;
            self.runs = (self.runs + 1).min(2 * RUNS_TRUSTED);
        }
        if at.0 < region.from.0 {
            region.looks_behind = true;
            self.is_scattered = true;
        }
        region.last = at;
        region.read = region.read.saturating_add(len);
        region.from = region.from.min(at);
        // The reader has come further than was looked, or turned back to before the region.
        if end > region.to && !region.is_looking {
            region.to = end;
        }
        region.wish(start_bytes)
    }

    fn begin(&mut self, at: Place, end: Place, len: u64, start_bytes: u64) -> Option<Wish> {
        if self.list.len() >= REGIONS_MAX {
            let oldest = (0..self.list.len()).min_by_key(|&index| self.list[index].used_at)?;
            self.list.swap_remove(oldest);
        }
        self.next_id += 1;
        if self.list.last().is_some_and(|region| !region.is_run) {
            self.runs = self.runs.saturating_sub(1);
        }
        let mut region = Region {
            id: self.next_id,
            from: at,
            to: end,
            last: at,
            read: len,
            asked: 0,
            is_run: self.runs >= RUNS_TRUSTED,
            is_looking: false,
            looks_behind: self.is_scattered,
            used_at: self.ticks,
        };
        let wish = region.wish(start_bytes);
        self.list.push(region);
        wish
    }

    fn looked(&mut self, wish: &Wish, found: &Found, all_local: bool) {
        let Some(at) = self.list.iter().position(|region| region.id == wish.region) else { return };
        if all_local || found.ended {
            self.list.swap_remove(at);
            return;
        }
        let region = &mut self.list[at];
        region.is_looking = false;
        region.to = region.to.max(found.to);
        region.asked = region.asked.saturating_add(found.bytes);
    }
}

impl Region {
    fn wish(&mut self, start_bytes: u64) -> Option<Wish> {
        if !self.is_run || self.is_looking {
            return None;
        }
        let read_ahead = self.read.saturating_mul(GROWTH).saturating_add(start_bytes);
        let credit = read_ahead.min(AHEAD_BYTES_MAX);
        let outstanding = self.asked.saturating_sub(self.read);
        if self.looks_behind {
            self.looks_behind = false;
            self.is_looking = true;
            self.from = (self.from.0.saturating_sub(NEAR_INODES), 0);
            let bytes = credit.saturating_sub(outstanding).max(START_BYTES_FIRST);
            return Some(Wish { region: self.id, from: self.from, bytes });
        }
        if outstanding > credit / 2 {
            return None;
        }
        self.is_looking = true;
        Some(Wish { region: self.id, from: self.to, bytes: credit - outstanding })
    }
}

impl Filesystem {
    /// Has the background look what follows, and fetch it.
    pub(super) fn read_ahead(&self, wish: Wish) {
        let ahead = Arc::clone(&self.ahead);
        let namespace = Arc::downgrade(&self.namespace);
        let chunks = Arc::downgrade(&self.chunks);
        self.chunks.prefetch_ahead(move || {
            let (Some(namespace), Some(chunks)) = (namespace.upgrade(), chunks.upgrade()) else {
                return Vec::new();
            };
            let found = look(&namespace, &wish);
            let missing = found.chunks.iter().filter(|(id, _)| !chunks.is_local(id)).copied();
            let missing: Vec<_> = missing.collect();
            ahead.looked(&wish, &found, missing.is_empty());
            missing
        });
    }
}

/// Finds the chunks that follow, by metadata that is on this machine.
fn look(namespace: &Namespace, wish: &Wish) -> Found {
    let mut found = Found { to: wish.from, ..Found::default() };
    let end = Key::tag_end(Ino(u64::MAX), Tag::Extent);
    let mut from = Key::extent(Ino(wish.from.0), wish.from.1);
    let mut records = 0;
    while found.bytes < wish.bytes && records < RECORDS_MAX {
        let page = namespace.range(&from, &end, RECORDS_AT_ONCE, Fetch::LocalOnly);
        let Ok(page) = page else {
            // Metadata comes first anyway; the reader's own way there brings it.
            found.ended = records == 0;
            return found;
        };
        let Some((last, _)) = page.last() else {
            found.ended = true;
            return found;
        };
        from = last.successor();
        records += page.len();
        for (key, value) in &page {
            let Some(KeyParts::Extent(ino, offset)) = key.parts() else { continue };
            let Ok(extent) = decode_extent(value) else { continue };
            if let Source::Chunk { id, slot, .. } = extent.source {
                found.chunks.push((id, slot));
                found.bytes = found.bytes.saturating_add(extent.len);
            }
            found.to = (ino.0, offset.saturating_add(extent.len));
            if found.bytes >= wish.bytes {
                return found;
            }
        }
        found.to = found.to.max((last.ino().0, 0));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const START_BYTES: u64 = 1 << 20;

    fn found(to: Place, bytes: u64) -> Found {
        Found { bytes, to, ..Found::default() }
    }

    #[test]
    fn one_file_read_alone_is_not_read_ahead_of_and_a_second_one_is() {
        let mut regions = Regions::default();
        assert_eq!(regions.read((100, 0), 4 * KIB, true, START_BYTES), None);
        assert_eq!(
            regions.read((100, 4 * KIB), 4 * KIB, false, START_BYTES),
            None,
            "the same file"
        );
        let wish = regions.read((101, 0), 4 * KIB, false, START_BYTES).unwrap();
        assert_eq!(wish.from, (101, 4 * KIB));
        assert!(wish.bytes >= START_BYTES && wish.bytes < START_BYTES + 64 * KIB);
        assert_eq!(regions.read((102, 0), 4 * KIB, false, START_BYTES), None, "being looked after");
        assert_eq!(regions.read((5000, 0), 4 * KIB, true, START_BYTES), None, "elsewhere");
    }

    #[test]
    fn what_is_ahead_grows_with_what_was_read_and_has_a_bound() {
        let mut regions = Regions::default();
        let mut at = 0;
        let mut ahead = Vec::new();
        for _ in 0..400 {
            if let Some(wish) = regions.read((7, at), 128 * KIB, true, START_BYTES) {
                ahead.push(wish.bytes);
                let to = (7, wish.from.1 + wish.bytes);
                regions.looked(&wish, &found(to, wish.bytes), false);
            }
            let region = &regions.list[0];
            assert!(region.asked.saturating_sub(region.read) <= AHEAD_BYTES_MAX);
            at += 128 * KIB;
        }
        assert!(ahead.len() < 20, "{} looks for 50 MiB", ahead.len());
        assert!(ahead.iter().any(|&bytes| bytes >= AHEAD_BYTES_MAX / 2), "{ahead:?}");
    }

    #[test]
    fn a_region_in_which_all_is_local_or_that_has_ended_asks_no_more() {
        let mut regions = Regions::default();
        regions.read((100, 0), KIB, true, START_BYTES);
        let wish = regions.read((101, 0), KIB, false, START_BYTES).unwrap();
        let ended = Found { ended: true, ..found((200, 0), 10 * KIB) };
        let mut other = regions.list.clone();
        regions.looked(&wish, &ended, false);
        assert_eq!(regions.list, []);
        regions.list.append(&mut other);
        regions.looked(&wish, &found((200, 0), KIB), true);
        assert_eq!(regions.list, []);
    }

    #[test]
    fn a_region_that_nobody_reads_any_more_is_forgotten() {
        let mut regions = Regions::default();
        regions.read((100, 0), KIB, true, START_BYTES);
        regions.read((9000, 0), KIB, true, START_BYTES);
        for _ in 0..2 * FORGOTTEN_AFTER_READS {
            regions.read((9000, 0), KIB, false, START_BYTES);
        }
        assert_eq!(regions.list.len(), 1);
    }

    #[test]
    fn a_reader_that_turns_back_gets_what_lies_before_it_too_and_so_do_those_after_it() {
        let mut regions = Regions::default();
        regions.read((500, 0), KIB, true, START_BYTES);
        let wish = regions.read((490, 0), KIB, true, START_BYTES).unwrap();
        assert_eq!(wish.from, (490 - NEAR_INODES, 0));
        regions.looked(&wish, &found((510, 0), 20 * KIB), false);
        let wish = regions.read((480, 0), KIB, false, START_BYTES).unwrap();
        assert_eq!(wish.from, (510, 0), "once, and on from there");
        regions.read((9000, 0), KIB, true, START_BYTES);
        let wish = regions.read((9003, 0), KIB, true, START_BYTES).unwrap();
        assert_eq!(wish.from, (9000 - NEAR_INODES, 0));
    }

    #[test]
    fn where_all_places_were_read_on_in_the_first_read_in_a_new_one_is_enough() {
        let mut regions = Regions::default();
        for number in 1..=u64::from(RUNS_TRUSTED) {
            assert!(regions.read((number * 1000, 0), KIB, true, START_BYTES).is_none());
            assert!(regions.read((number * 1000 + 1, 0), KIB, true, START_BYTES).is_some());
        }
        assert!(regions.read((90_000, 0), KIB, true, START_BYTES).is_some());
        let mut single = Regions::default();
        for number in 1..100 {
            assert!(single.read((number * 1000, 0), KIB, true, START_BYTES).is_none());
        }
    }

    #[test]
    fn less_is_fetched_ahead_where_much_of_it_is_unread() {
        assert_eq!(start_bytes(0, 0), 8 << 20);
        assert_eq!(start_bytes(28 << 20, 0), 1 << 20);
        assert_eq!(start_bytes(100 << 20, 10 << 20), START_BYTES_MIN);
        assert!(start_bytes(100 << 20, 60 << 20) >= 8 << 20);
    }

    #[test]
    fn readers_far_apart_have_regions_of_their_own_up_to_a_bound() {
        let mut regions = Regions::default();
        for number in 0..100 {
            regions.read((number * 1000, 0), KIB, true, START_BYTES);
        }
        assert_eq!(regions.list.len(), REGIONS_MAX);
        assert!(regions.list.iter().all(|region| region.from.0 >= 84_000), "the oldest go");
        assert_eq!(regions.read((1, 0), KIB, false, START_BYTES), None, "a warm read begins none");
    }
}
