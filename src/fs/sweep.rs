//! Sweeping: who goes through everything gets everything.
//!
//! A program that reads many small files in an order that is not that of the keys (`find | xargs
//! cat`, `grep -r`) begins a region in each place ([`super::ahead`]), and each begins with a round
//! trip in which the line carries next to nothing. Once readers were seen in several places, and
//! left little out there, the rest of the workspace is fetched too, in the order of keys, when
//! nobody else wants the line. First the *heads* of all files, for each that is missed costs a
//! round trip; then the rest of the large ones, whose readers wait for their beginning only.
//!
//! What is unread of it stays in proportion to what was read, and it stops where the cache would
//! have to drop something for it.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::ahead::{Found, Place, Whose, Wish};
use crate::chunks::ReadAhead;

/// Neighbouring inodes whose reads are counted together, and how many such places are remembered.
const PLACE_INODES: u64 = 16;
const PLACES: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Nothing is swept before so many files were read in these places.
const FILES_MIN: u64 = 64;

/// ... and at least this part of the inodes there: directories and links have some as well, and
/// some places were only begun.
const DENSITY_PART: u64 = 3;

/// Bytes swept that nobody may have read yet, beside [`GROWTH`] for each byte fetched ahead that
/// was read.
const UNREAD_BYTES_MAX: u64 = 32 << 20;
const GROWTH: u64 = 4;

/// Bytes of content looked for at once.
const LOOK_BYTES: u64 = 8 << 20;

/// How much of each file is fetched before the rest of any.
pub(super) const HEAD_BYTES: u64 = 1 << 20;

/// Part of what the cache may come to that it may have while there is a sweep.
const CACHE_PART: u64 = 2;

/// After a look that found metadata missing, so many reads go by before the next.
const READS_BETWEEN: u64 = 1024;

/// What of the files a round of the sweep takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Up to [`HEAD_BYTES`].
    Heads,
    /// All that is not here.
    Rest,
}

/// How far the sweep has come.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    round: Option<Round>,
    /// Everything was looked at.
    is_over: bool,
    is_looking: bool,
    /// Not before so many reads.
    pause_until: u64,
}

/// Once around all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    part: Part,
    /// Where it began, and what it looks at last.
    from: Place,
    at: Place,
    /// It has come to the end of the keys, and begun at the first one.
    is_round: bool,
}

/// What decides whether there is a sweep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    /// Readers go on where they begin, in several places, and leave little out.
    pub(super) is_dense: bool,
    pub(super) read: ReadAhead,
    pub(super) cache_bytes: u64,
    pub(super) cache_bytes_max: u64,
}

/// How many files are read of those that there are where something is read: the places read in
/// last, by inode. Who looks at a part of the files everywhere reads few in each.
#[derive(Debug)]
pub(super) struct Density {
    places: LruCache<u64, u64>,
    files: u64,
}

impl Default for Density {
    fn default() -> Density {
        Density { places: LruCache::new(PLACES), files: 0 }
    }
}

impl Density {
    /// The beginning of a file was read.
    pub(super) fn file(&mut self, ino: u64) {
        let place = ino / PLACE_INODES;
        let before = self.places.get(&place).copied().unwrap_or(0);
        // A file that is read again and again fills its place and no more.
        if before >= PLACE_INODES {
            return;
        }
        self.files += 1;
        if let Some((forgotten, files)) = self.places.push(place, before + 1)
            && forgotten != place
        {
            self.files -= files;
        }
    }

    pub(super) fn is_high(&self) -> bool {
        let inodes = self.places.len() as u64 * PLACE_INODES;
        self.files >= FILES_MIN && self.files * DENSITY_PART >= inodes
    }
}

impl Evidence {
    fn allows(&self) -> bool {
        let ReadAhead { used_bytes, sweep_bytes, sweep_used_bytes, .. } = self.read;
        let used = used_bytes.saturating_add(sweep_used_bytes);
        let unread = sweep_bytes.saturating_sub(sweep_used_bytes).saturating_add(LOOK_BYTES);
        self.is_dense
            && unread <= UNREAD_BYTES_MAX.saturating_add(used.saturating_mul(GROWTH))
            && self.cache_bytes.saturating_add(unread) <= self.cache_bytes_max / CACHE_PART
    }
}

impl Sweep {
    /// Whether reads are of interest.
    pub(super) fn is_under_way(&self) -> bool {
        self.round.is_some() && !self.is_over
    }

    /// Where to look next, if anywhere now. `reads` were counted up to now, the last one `at`.
    pub(super) fn wish(&mut self, evidence: &Evidence, reads: u64, at: Place) -> Option<Wish> {
        if self.is_over || self.is_looking || reads < self.pause_until || !evidence.allows() {
            return None;
        }
        let from = (at.0, 0);
        let begin = Round { part: Part::Heads, from, at: from, is_round: false };
        let round = *self.round.get_or_insert(begin);
        self.is_looking = true;
        Some(Wish { whose: Whose::Sweep(round.part), from: round.at, bytes: LOOK_BYTES })
    }

    /// Notes how far a wish was looked after.
    pub(super) fn looked(&mut self, found: &Found, reads: u64) {
        self.is_looking = false;
        let Some(round) = &mut self.round else { return };
        if found.lacks_metadata {
            self.pause_until = reads + READS_BETWEEN;
        }
        // A look that gets nowhere is at the end, too.
        let is_at_end = !found.lacks_metadata && (found.ended || found.to <= round.at);
        let is_done = round.is_round && (is_at_end || found.to >= round.from);
        match (is_done, round.part) {
            (true, Part::Heads) => {
                let from = round.from;
                *round = Round { part: Part::Rest, from, at: from, is_round: false };
            }
            (true, Part::Rest) => self.is_over = true,
            (false, _) if is_at_end => (round.at, round.is_round) = ((0, 0), true),
            (false, _) => round.at = found.to,
        }
    }

    /// A look that will not be made.
    pub(super) fn not_looked(&mut self) {
        self.is_looking = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const READ: ReadAhead =
        ReadAhead { bytes: 6 * MIB, used_bytes: 4 * MIB, sweep_bytes: 0, sweep_used_bytes: 0 };
    const EVIDENCE: Evidence =
        Evidence { is_dense: true, read: READ, cache_bytes: 0, cache_bytes_max: 10 << 30 };

    fn reading(change: impl FnOnce(&mut ReadAhead)) -> Evidence {
        let mut evidence = EVIDENCE;
        change(&mut evidence.read);
        evidence
    }

    fn found(to: Place) -> Found {
        Found { to, ..Found::default() }
    }

    #[test]
    fn only_who_reads_most_of_what_is_there_is_swept_for() {
        assert!(EVIDENCE.allows());
        assert!(!Evidence { is_dense: false, ..EVIDENCE }.allows());
    }

    #[test]
    fn files_are_dense_where_most_of_those_that_lie_together_are_read() {
        let after = |inodes: &mut dyn Iterator<Item = u64>| {
            let mut density = Density::default();
            inodes.for_each(|ino| density.file(ino));
            density
        };
        assert!(after(&mut (100..100 + FILES_MIN)).is_high());
        assert!(!after(&mut (100..99 + FILES_MIN)).is_high(), "too few to tell");
        assert!(after(&mut (0..5000).step_by(2)).is_high());
        assert!(!after(&mut (0..5000).step_by(4)).is_high(), "a quarter of them");
        // Far apart, as whole directories in no order.
        assert!(
            after(&mut (0..20).flat_map(|number| (0..12).map(move |i| number * 777 + i))).is_high()
        );
        assert!(!after(&mut (0..5000).map(|number| number * 100)).is_high());
        let mut late = after(&mut (0..5000).map(|number| number * 100));
        (0..1000).for_each(|ino| late.file(ino));
        assert!(late.is_high(), "what was long ago does not count");
        let mut again = Density::default();
        (0..10_000).for_each(|_| again.file(7));
        assert!(!again.is_high(), "one file");
    }

    #[test]
    fn what_is_unread_stays_in_proportion_to_what_was_read() {
        // 4 MiB were read: 32 + 4 * 4 may be unread, with the look that follows.
        assert!(reading(|read| read.sweep_bytes = 40 * MIB).allows());
        assert!(!reading(|read| read.sweep_bytes = 41 * MIB).allows());
        let both = |read: &mut ReadAhead| {
            (read.sweep_bytes, read.sweep_used_bytes) = (50 * MIB, 2 * MIB);
        };
        assert!(reading(both).allows());
    }

    #[test]
    fn a_cache_that_would_have_to_drop_something_gets_nothing() {
        let small = Evidence { cache_bytes_max: 100 * MIB, ..EVIDENCE };
        assert!(Evidence { cache_bytes: 42 * MIB, ..small }.allows());
        assert!(!Evidence { cache_bytes: 43 * MIB, ..small }.allows());
    }

    #[test]
    fn it_goes_round_the_keys_twice_from_where_the_reader_was_and_ends() {
        let mut sweep = Sweep::default();
        assert!(!sweep.is_under_way());
        for part in [Part::Heads, Part::Rest] {
            // (what a look finds, where it begins)
            let ended = |to| Found { ended: true, ..found(to) };
            let looks = [
                (found((600, 0)), (500, 0)),
                (found((900, 4096)), (600, 0)),
                (ended((900, 4096)), (900, 4096)),
                (found((300, 0)), (0, 0)),
                (found((501, 0)), (300, 0)),
            ];
            for (found, from) in looks {
                let wish = sweep.wish(&EVIDENCE, 1, (500, 77)).unwrap();
                assert_eq!((wish.whose, wish.from), (Whose::Sweep(part), from));
                assert_eq!(sweep.wish(&EVIDENCE, 1, (500, 77)), None, "one look at a time");
                assert!(sweep.is_under_way());
                sweep.looked(&found, 1);
            }
        }
        assert!(!sweep.is_under_way());
        assert_eq!(sweep.wish(&EVIDENCE, 1, (500, 77)), None);
    }

    #[test]
    fn a_look_that_gets_nowhere_does_not_come_again() {
        let mut sweep = Sweep::default();
        for _ in 0..4 {
            let wish = sweep.wish(&EVIDENCE, 1, (500, 0)).unwrap();
            sweep.looked(&found(wish.from), 1);
        }
        assert_eq!(sweep.wish(&EVIDENCE, 1, (500, 0)), None);
    }

    #[test]
    fn where_metadata_is_missing_it_waits_and_goes_on_from_there() {
        let mut sweep = Sweep::default();
        sweep.wish(&EVIDENCE, 1, (500, 0)).unwrap();
        sweep.not_looked();
        sweep.wish(&EVIDENCE, 1, (700, 0)).unwrap();
        let lacks = |to| Found { ended: true, lacks_metadata: true, ..found(to) };
        sweep.looked(&lacks((510, 0)), 1);
        assert_eq!(sweep.wish(&EVIDENCE, READS_BETWEEN, (700, 0)), None);
        let wish = sweep.wish(&EVIDENCE, 1 + READS_BETWEEN, (700, 0)).unwrap();
        assert_eq!(wish.from, (510, 0));
    }
}
