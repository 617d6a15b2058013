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
use super::sweep::{Density, Evidence, HEAD_BYTES, Part, Sweep};
use crate::chunks::{Chunks, Fetch, Rank, ReadAhead};
use crate::format::{Key, KeyParts, PackSlot, Source, Tag, decode_extent};
use crate::namespace::Namespace;
use crate::types::{ChunkId, Ino};

/// Regions at once: readers that are told apart.
const REGIONS_MAX: usize = 16;

/// A read this many inodes before or behind a region belongs to it.
const NEAR_INODES: u64 = 64;

/// Bytes fetched ahead that nobody may have read yet, beside [`GROWTH`] for each that was read.
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

/// Part of what the local cache may come to that is fetched ahead of readers and not read yet: more
/// would drive out what is about to be read.
const CACHE_PART: u64 = 4;

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
pub(super) type Place = (u64, u64);

/// Where readers on a cold cache are. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// How many regions there are, and one more for a sweep: a warm read looks no further.
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
    /// How much is read of what there is where something is read.
    density: Density,
    sweep: Sweep,
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

/// How much may be fetched ahead now.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// In a place where nothing was read before.
    start_bytes: u64,
    /// Of one reader.
    region_bytes_max: u64,
    /// Of all readers.
    all_bytes_max: u64,
    /// At once, so that what is unread stays in proportion to what was read of it.
    wish_bytes_max: u64,
}

impl Bounds {
    fn now(read: ReadAhead, cache_bytes_max: u64) -> Bounds {
        let ReadAhead { bytes: fetched, used_bytes: used, .. } = read;
        let all_bytes_max = cache_bytes_max / CACHE_PART;
        // There may be several readers.
        let region_bytes_max = (all_bytes_max / 2).min(AHEAD_BYTES_MAX);
        let start_bytes = start_bytes(fetched, used).min(region_bytes_max / 2);
        let wish_bytes_max = wish_bytes(fetched, used);
        Bounds { start_bytes, region_bytes_max, all_bytes_max, wish_bytes_max }
    }
}

/// What to fetch ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) whose: Whose,
    pub(super) from: Place,
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Region {
        id: u64,
        /// Its reader has nothing yet.
        is_first: bool,
    },
    Sweep(Part),
}

/// What a look found that is not on this machine.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) chunks: Vec<(ChunkId, PackSlot)>,
    /// Bytes of content that these are.
    pub(super) bytes: u64,
    /// Behind the last record looked at.
    pub(super) to: Place,
    /// There is nothing more, or it can't be known here.
    pub(super) ended: bool,
    /// The look came to metadata that is not here.
    pub(super) lacks_metadata: bool,
}

impl Ahead {
    /// Notes a read of stored bytes; `missed` if it had to wait for the store. What to fetch
    /// ahead now, if anything: for this reader, and for one who goes through everything.
    pub fn read(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        missed: bool,
        chunks: &Chunks,
    ) -> [Option<Wish>; 2] {
        if !missed && self.count.load(Ordering::Relaxed) == 0 {
            return [None; 2];
        }
        let (read, cache_bytes_max) = (chunks.read_ahead(), chunks.cache_bytes_max());
        let bounds = Bounds::now(read, cache_bytes_max);
        let mut regions = self.regions.lock();
        let at = (ino.0, offset);
        let wish = regions.read(at, len, missed, bounds);
        let is_dense = regions.runs >= RUNS_TRUSTED && regions.density.is_high();
        let cache_bytes = chunks.cache_bytes();
        let evidence = Evidence { is_dense, read, cache_bytes, cache_bytes_max };
        let reads = regions.ticks;
        let sweep = regions.sweep.wish(&evidence, reads, at);
        self.note_count(&regions);
        [wish, sweep]
    }

    /// Notes how far a wish was looked after. A region in which all is local is of no more use.
    fn looked(&self, wish: &Wish, found: &Found) {
        let mut regions = self.regions.lock();
        match wish.whose {
            Whose::Region { id, .. } => regions.looked(id, found),
            Whose::Sweep(_) => {
                let reads = regions.ticks;
                regions.sweep.looked(found, reads);
            }
        }
        self.note_count(&regions);
    }

    /// Notes that nobody will look after a wish.
    fn not_looked(&self, wish: &Wish) {
        let mut regions = self.regions.lock();
        match wish.whose {
            Whose::Region { id, .. } => regions.looked(id, &Found::default()),
            Whose::Sweep(_) => regions.sweep.not_looked(),
        }
        self.note_count(&regions);
    }

    fn note_count(&self, regions: &Regions) {
        let count = regions.list.len() + usize::from(regions.sweep.is_under_way());
        self.count.store(count, Ordering::Relaxed);
    }
}

/// How much to fetch ahead in a new place: less where much of what was fetched is unread.
fn start_bytes(fetched: u64, used: u64) -> u64 {
    let unread = fetched.saturating_sub(used);
    let allowance = UNREAD_BYTES_MAX.saturating_add(used).saturating_sub(unread);
    (allowance / START_PART).max(START_BYTES_MIN)
}

/// How much to fetch ahead at once, so that no more is unread than is in proportion.
fn wish_bytes(fetched: u64, used: u64) -> u64 {
    let unread = fetched.saturating_sub(used);
    let allowance = UNREAD_BYTES_MAX.saturating_add(used.saturating_mul(GROWTH));
    allowance.saturating_sub(unread).max(START_BYTES_MIN)
}

impl Regions {
    fn read(&mut self, at: Place, len: u64, missed: bool, bounds: Bounds) -> Option<Wish> {
        let start_bytes_max = START_BYTES_FIRST << self.runs.min(RUNS_TRUSTED);
        let start_bytes = bounds.start_bytes.min(start_bytes_max);
        let mut bounds = Bounds { start_bytes, ..bounds };
        self.ticks += 1;
        if at.1 == 0 {
            self.density.file(at.0);
        }
        if self.ticks.is_multiple_of(FORGOTTEN_AFTER_READS) {
            let since = self.ticks - FORGOTTEN_AFTER_READS;
            self.list.retain(|region| region.used_at >= since);
        }
        let end = (at.0, at.1.saturating_add(len));
        let near = |region: &Region| region.is_near(at);
        let Some(found) = self.list.iter().rposition(near) else {
            if missed {
                bounds.region_bytes_max = bounds.region_bytes_max.min(self.room(None, bounds));
                return self.begin(at, end, len, bounds);
            }
            return None;
        };
        let id = self.list[found].id;
        bounds.region_bytes_max = bounds.region_bytes_max.min(self.room(Some(id), bounds));
        let region = self.list.iter_mut().find(|region| region.id == id)?;
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
        region.wish(bounds)
    }

    /// Bytes that may be ahead of one reader beside the others. Where those leave nothing, the
    /// ones that were silent longest are forgotten.
    fn room(&mut self, reader: Option<u64>, bounds: Bounds) -> u64 {
        loop {
            let others = self.list.iter().filter(|region| Some(region.id) != reader);
            let outstanding: u64 = others.clone().map(Region::outstanding).sum();
            let room = bounds.all_bytes_max.saturating_sub(outstanding);
            if room >= bounds.start_bytes || outstanding == 0 {
                return room;
            }
            let silent = others.min_by_key(|region| region.used_at).map(|region| region.id);
            self.list.retain(|region| Some(region.id) != silent);
        }
    }

    fn begin(&mut self, at: Place, end: Place, len: u64, bounds: Bounds) -> Option<Wish> {
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
        let wish = region.wish(bounds);
        self.list.push(region);
        wish
    }

    fn looked(&mut self, id: u64, found: &Found) {
        let Some(at) = self.list.iter().position(|region| region.id == id) else { return };
        if found.bytes == 0 || found.ended {
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
    /// Whether a read belongs here. Who is in the middle of a large file goes on there, and shares
    /// his region with nobody who reads beside it: what is ahead of each counts by itself.
    fn is_near(&self, at: Place) -> bool {
        let inside = at.0.saturating_add(NEAR_INODES) >= self.from.0
            && at.0 <= self.to.0.saturating_add(NEAR_INODES);
        let is_here = self.last.0 == at.0;
        if at.1 >= FIRST_CHUNK_BYTES {
            return is_here;
        }
        let is_in_large = self.last.1 >= FIRST_CHUNK_BYTES;
        // Behind a large file that was read to about its end.
        let is_next = self.last.0 < at.0 && self.last.0 < self.to.0;
        inside && (is_here || !is_in_large || is_next)
    }

    /// Bytes asked for ahead that were not read, as far as is known.
    fn outstanding(&self) -> u64 {
        self.asked.saturating_sub(self.read)
    }

    fn wish(&mut self, bounds: Bounds) -> Option<Wish> {
        if !self.is_run || self.is_looking {
            return None;
        }
        let read_ahead = self.read.saturating_mul(GROWTH).saturating_add(bounds.start_bytes);
        let credit = read_ahead.min(bounds.region_bytes_max);
        let outstanding = self.outstanding();
        if self.looks_behind {
            self.looks_behind = false;
            self.is_looking = true;
            self.from = (self.from.0.saturating_sub(NEAR_INODES), 0);
            let least = START_BYTES_FIRST.min(bounds.region_bytes_max);
            let bytes = credit.saturating_sub(outstanding).min(bounds.wish_bytes_max).max(least);
            let whose = Whose::Region { id: self.id, is_first: false };
            return Some(Wish { whose, from: self.from, bytes });
        }
        if outstanding > credit / 2 {
            return None;
        }
        self.is_looking = true;
        let bytes = (credit - outstanding).min(bounds.wish_bytes_max);
        let whose = Whose::Region { id: self.id, is_first: self.asked == 0 };
        Some(Wish { whose, from: self.to, bytes })
    }
}

impl Filesystem {
    /// Has the background look what follows, and fetch it.
    pub(super) fn read_ahead(&self, wish: Wish) {
        let ahead = Arc::clone(&self.ahead);
        let namespace = Arc::downgrade(&self.namespace);
        let chunks = Arc::downgrade(&self.chunks);
        let scan = move || {
            let (Some(namespace), Some(chunks)) = (namespace.upgrade(), chunks.upgrade()) else {
                return Vec::new();
            };
            let found = look(&namespace, &wish, |id| chunks.is_local(id));
            ahead.looked(&wish, &found);
            found.chunks
        };
        let rank = match wish.whose {
            Whose::Region { is_first: true, .. } => Rank::First,
            Whose::Region { is_first: false, .. } => Rank::On,
            Whose::Sweep(_) => Rank::Sweep,
        };
        if !self.chunks.prefetch_ahead(scan, rank) {
            // Too many are waited for.
            self.ahead.not_looked(&wish);
        }
    }
}

/// Finds the chunks that follow and are not here, by metadata that is. What is here already, for it
/// was fetched for somebody else or ahead of him, is passed over.
fn look(namespace: &Namespace, wish: &Wish, is_local: impl Fn(&ChunkId) -> bool) -> Found {
    let mut found = Found { to: wish.from, ..Found::default() };
    let end = Key::tag_end(Ino(u64::MAX), Tag::Extent);
    let mut from = Key::extent(Ino(wish.from.0), wish.from.1);
    let mut records = 0;
    let is_heads = wish.whose == Whose::Sweep(Part::Heads);
    'pages: while found.bytes < wish.bytes && records < RECORDS_MAX {
        let page = namespace.range(&from, &end, RECORDS_AT_ONCE, Fetch::LocalOnly);
        let Ok(page) = page else {
            // Metadata comes first anyway; the reader's own way there brings it.
            (found.ended, found.lacks_metadata) = (records == 0, true);
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
            if is_heads && offset >= HEAD_BYTES {
                // The next file, without a look at what this one may have in thousands.
                let next = ino.0.saturating_add(1);
                found.to = (next, 0);
                from = Key::extent(Ino(next), 0);
                continue 'pages;
            }
            let Ok(extent) = decode_extent(value) else { continue };
            found.to = (ino.0, offset.saturating_add(extent.len));
            match extent.source {
                Source::Chunk { id, slot, .. } if !is_local(&id) => {
                    found.chunks.push((id, slot));
                    found.bytes = found.bytes.saturating_add(extent.len);
                }
                _ => {}
            }
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
    const BOUNDS: Bounds = Bounds {
        start_bytes: 1 << 20,
        region_bytes_max: AHEAD_BYTES_MAX,
        all_bytes_max: 1 << 40,
        wish_bytes_max: 1 << 40,
    };

    fn looked(regions: &mut Regions, wish: &Wish, found: &Found) {
        let Whose::Region { id, .. } = wish.whose else { panic!("{wish:?}") };
        regions.looked(id, found);
    }

    fn found(to: Place, bytes: u64) -> Found {
        Found { bytes, to, ..Found::default() }
    }

    #[test]
    fn one_file_read_alone_is_not_read_ahead_of_and_a_second_one_is() {
        let mut regions = Regions::default();
        assert_eq!(regions.read((100, 0), 4 * KIB, true, BOUNDS), None);
        assert_eq!(regions.read((100, 4 * KIB), 4 * KIB, false, BOUNDS), None, "the same file");
        let wish = regions.read((101, 0), 4 * KIB, false, BOUNDS).unwrap();
        assert_eq!(wish.from, (101, 4 * KIB));
        assert!(wish.bytes >= BOUNDS.start_bytes && wish.bytes < BOUNDS.start_bytes + 64 * KIB);
        assert_eq!(regions.read((102, 0), 4 * KIB, false, BOUNDS), None, "being looked after");
        assert_eq!(regions.read((5000, 0), 4 * KIB, true, BOUNDS), None, "elsewhere");
    }

    #[test]
    fn what_is_ahead_grows_with_what_was_read_and_has_a_bound() {
        let mut regions = Regions::default();
        let mut at = 0;
        let mut ahead = Vec::new();
        for _ in 0..400 {
            if let Some(wish) = regions.read((7, at), 128 * KIB, true, BOUNDS) {
                ahead.push(wish.bytes);
                let to = (7, wish.from.1 + wish.bytes);
                looked(&mut regions, &wish, &found(to, wish.bytes));
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
        regions.read((100, 0), KIB, true, BOUNDS);
        let wish = regions.read((101, 0), KIB, false, BOUNDS).unwrap();
        let ended = Found { ended: true, ..found((200, 0), 10 * KIB) };
        let mut other = regions.list.clone();
        looked(&mut regions, &wish, &ended);
        assert_eq!(regions.list, []);
        regions.list.append(&mut other);
        looked(&mut regions, &wish, &found((200, 0), 0));
        assert_eq!(regions.list, []);
    }

    #[test]
    fn a_region_that_nobody_reads_any_more_is_forgotten() {
        let mut regions = Regions::default();
        regions.read((100, 0), KIB, true, BOUNDS);
        regions.read((9000, 0), KIB, true, BOUNDS);
        for _ in 0..2 * FORGOTTEN_AFTER_READS {
            regions.read((9000, 0), KIB, false, BOUNDS);
        }
        assert_eq!(regions.list.len(), 1);
    }

    #[test]
    fn a_reader_that_turns_back_gets_what_lies_before_it_too_and_so_do_those_after_it() {
        let mut regions = Regions::default();
        regions.read((500, 0), KIB, true, BOUNDS);
        let wish = regions.read((490, 0), KIB, true, BOUNDS).unwrap();
        assert_eq!(wish.from, (490 - NEAR_INODES, 0));
        looked(&mut regions, &wish, &found((510, 0), 20 * KIB));
        let wish = regions.read((480, 0), KIB, false, BOUNDS).unwrap();
        assert_eq!(wish.from, (510, 0), "once, and on from there");
        regions.read((9000, 0), KIB, true, BOUNDS);
        let wish = regions.read((9003, 0), KIB, true, BOUNDS).unwrap();
        assert_eq!(wish.from, (9000 - NEAR_INODES, 0));
    }

    #[test]
    fn where_all_places_were_read_on_in_the_first_read_in_a_new_one_is_enough() {
        let mut regions = Regions::default();
        for number in 1..=u64::from(RUNS_TRUSTED) {
            assert!(regions.read((number * 1000, 0), KIB, true, BOUNDS).is_none());
            assert!(regions.read((number * 1000 + 1, 0), KIB, true, BOUNDS).is_some());
        }
        assert!(regions.read((90_000, 0), KIB, true, BOUNDS).is_some());
        let mut single = Regions::default();
        for number in 1..100 {
            assert!(single.read((number * 1000, 0), KIB, true, BOUNDS).is_none());
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
    fn readers_of_large_files_beside_each_other_have_regions_of_their_own() {
        let mut regions = Regions::default();
        let mut asked = [0; 3];
        for step in 0..64 {
            for file in 0..3 {
                let at = (100 + file, step * 128 * KIB);
                if let Some(wish) = regions.read(at, 128 * KIB, true, BOUNDS) {
                    let begins = at.1 < FIRST_CHUNK_BYTES;
                    assert!(begins || wish.from.0 == at.0, "what is ahead of this reader");
                    asked[file as usize] += wish.bytes;
                    let to = (at.0, wish.from.1 + wish.bytes);
                    looked(&mut regions, &wish, &found(to, wish.bytes));
                }
            }
        }
        assert_eq!(regions.list.len(), 3);
        assert!(asked.iter().all(|&bytes| bytes >= 8 << 20), "{asked:?}");
        // Behind the last one, when that was looked beyond.
        regions.list[2].to = (103, 0);
        regions.read((103, 0), KIB, true, BOUNDS);
        assert_eq!(regions.list.len(), 3);
    }

    #[test]
    fn what_is_unread_stays_in_proportion_to_what_was_read_of_it() {
        assert_eq!(wish_bytes(0, 0), UNREAD_BYTES_MAX);
        assert_eq!(wish_bytes(UNREAD_BYTES_MAX, 0), START_BYTES_MIN);
        assert_eq!(wish_bytes(40 << 20, 10 << 20), (32 + 40 - 30) << 20);
    }

    #[test]
    fn all_readers_together_are_within_what_the_cache_bears_and_silent_ones_make_room() {
        let bounds = Bounds { all_bytes_max: 8 << 20, region_bytes_max: 8 << 20, ..BOUNDS };
        let mut regions = Regions::default();
        for number in 1..50 {
            for file in 0..3 {
                let at = (number * 1000 + file, 0);
                if let Some(wish) = regions.read(at, 900 * KIB, file == 0, bounds) {
                    assert!(wish.bytes >= bounds.start_bytes / 2, "{wish:?}");
                    looked(&mut regions, &wish, &found((at.0 + 9, 0), wish.bytes));
                }
                let unread: u64 = regions.list.iter().map(Region::outstanding).sum();
                assert!(unread <= bounds.all_bytes_max, "{unread}");
            }
        }
    }

    #[test]
    fn readers_far_apart_have_regions_of_their_own_up_to_a_bound() {
        let mut regions = Regions::default();
        for number in 0..100 {
            regions.read((number * 1000, 0), KIB, true, BOUNDS);
        }
        assert_eq!(regions.list.len(), REGIONS_MAX);
        assert!(regions.list.iter().all(|region| region.from.0 >= 84_000), "the oldest go");
        assert_eq!(regions.read((1, 0), KIB, false, BOUNDS), None, "a warm read begins none");
    }
}
