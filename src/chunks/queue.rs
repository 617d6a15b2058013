//! What waits to be fetched before it is asked for, and what of it may begin now.

use std::collections::VecDeque;
use std::fmt;

use crate::format::PackSlot;
use crate::types::{ChunkId, PackId};

use super::ahead::Purpose;
use super::flight::Need;
use super::window::{Piece, tree_window};

/// Bytes on their way at once while nobody waits: 25 ms of a line of 100 MB/s are 2.5 MB, and
/// requests begin and end at their own times.
const BYTES_AT_ONCE_MAX: u64 = 5_000_000;

/// The same for what no reader is on its way to, while a foreground request is under way.
const BYTES_BESIDE_FOREGROUND_MAX: u64 = 2_500_000;

/// Threads that work for no reader on its way; the others are for those.
const REST_THREADS_MAX: usize = 18;

/// Looks ahead of readers, and pieces that they found, that may wait; a reader that finds none
/// there fetches for itself.
pub(super) const AHEAD_LEN_MAX: usize = 256;

/// While so many pieces of a sweep wait, no more are looked for.
const SWEEP_LEN_ENOUGH: usize = 8;

/// ... and at most so many wait of what one look found.
const SWEEP_FOUND_MAX: usize = 4096;

/// Bytes of the hot set that are fetched between requests of the foreground before any of them was
/// read, and how many more for each that was. A program that does other work than last time
/// does not get it into its way.
const HOT_UNPROVEN_BYTES_MAX: u64 = 4 << 20;
const HOT_GROWTH: u64 = 2;

/// Chunks and their places.
pub(super) type ChunkList = Vec<(ChunkId, PackSlot)>;

/// How soon what a look finds is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// By a reader that has nothing yet: before what other readers have ahead of them.
    First,
    /// By a reader on its way.
    On,
    /// By those who go through everything: when nothing else may begin.
    Sweep,
}

/// Finds out which chunks a reader will want next, in a background thread.
pub(super) struct Scan {
    pub(super) find: Box<dyn FnOnce() -> ChunkList + Send>,
    pub(super) rank: Rank,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("rank", &self.rank).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct TreeWindow {
    pub(super) pack: PackId,
    pub(super) number: u64,
    /// Bytes of the pack.
    pub(super) pack_len: u64,
    pub(super) failures: u32,
}

impl TreeWindow {
    fn need(&self) -> Need {
        let range = tree_window(self.number);
        (self.pack, range.start..range.end.min(self.pack_len.max(range.start + 1)))
    }

    pub(super) fn bytes(&self) -> u64 {
        let (_, range) = self.need();
        range.end - range.start
    }
}

/// What a thread does next.
#[derive(Debug)]
pub(super) enum Work {
    Scan(Scan),
    Piece(Piece, Purpose),
    Window(TreeWindow),
}

impl Work {
    /// Bytes that it puts on the line.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Work::Scan(_) => 0,
            Work::Piece(piece, _) => piece.bytes(),
            Work::Window(window) => window.bytes(),
        }
    }

    pub(super) fn is_for_a_reader(&self) -> bool {
        matches!(self, Work::Scan(_) | Work::Piece(_, Purpose::Ahead))
    }
}

/// What the foreground does while somebody looks for work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Somebody waits for the store.
    pub(super) has_foreground: bool,
    /// Nobody waits for it, and nobody has for a while.
    pub(super) is_quiet: bool,
    /// Bytes of the hot set that were read.
    pub(super) hot_used_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) scans: VecDeque<Scan>,
    pub(super) ahead: VecDeque<Piece>,
    pub(super) windows: VecDeque<TreeWindow>,
    pub(super) hot: VecDeque<Piece>,
    /// Looks of a sweep, and what they found.
    pub(super) sweep_scans: VecDeque<Scan>,
    pub(super) sweep: VecDeque<Piece>,
    /// Bytes on their way.
    pub(super) bytes: u64,
    /// Bytes of the hot set that were begun.
    hot_begun_bytes: u64,
    /// Threads at work.
    pub(super) busy: usize,
    /// Those of them that work for no reader.
    pub(super) rest_busy: usize,
    /// A thread looks now and then whether the foreground lets something begin.
    pub(super) is_watched: bool,
    pub(super) threads: Vec<std::thread::JoinHandle<()>>,
    pub(super) stopping: bool,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        let looks = self.scans.len() + self.sweep_scans.len();
        looks + self.ahead.len() + self.windows.len() + self.hot.len() + self.sweep.len()
    }

    /// Whether so many bytes more may be put on the line. One request always may.
    fn has_room(&self, bytes: u64, beside_foreground: bool) -> bool {
        let max = if beside_foreground { BYTES_BESIDE_FOREGROUND_MAX } else { BYTES_AT_ONCE_MAX };
        self.bytes == 0 || self.bytes + bytes <= max
    }

    /// The next work, if there is any that may begin.
    pub(super) fn take(&mut self, now: Moment) -> Option<Work> {
        if let Some(scan) = self.scans.pop_front() {
            return Some(Work::Scan(scan));
        }
        if let Some(piece) = self.ahead.front() {
            // The request beside it is often its own reader's.
            let may = self.has_room(piece.bytes(), false);
            let piece = if may { self.ahead.pop_front() } else { None };
            return piece.map(|piece| Work::Piece(piece, Purpose::Ahead));
        }
        if self.rest_busy >= REST_THREADS_MAX {
            return None;
        }
        if let Some(window) = self.windows.front() {
            let may = self.has_room(window.bytes(), now.has_foreground);
            return if may { self.windows.pop_front().map(Work::Window) } else { None };
        }
        self.take_hot(now).or_else(|| self.take_sweep())
    }

    fn take_hot(&mut self, now: Moment) -> Option<Work> {
        let bytes = self.hot.front()?.bytes();
        let worth = now.hot_used_bytes.saturating_mul(HOT_GROWTH) + HOT_UNPROVEN_BYTES_MAX;
        let is_in_the_way = !now.is_quiet && self.hot_begun_bytes + bytes > worth;
        if is_in_the_way || !self.has_room(bytes, now.has_foreground) {
            return None;
        }
        self.hot_begun_bytes += bytes;
        self.hot.pop_front().map(|piece| Work::Piece(piece, Purpose::Hot))
    }

    fn take_sweep(&mut self) -> Option<Work> {
        if self.sweep.len() < SWEEP_LEN_ENOUGH
            && let Some(scan) = self.sweep_scans.pop_front()
        {
            return Some(Work::Scan(scan));
        }
        let bytes = self.sweep.front()?.bytes();
        // Who goes through everything waits for the line, not for one of his requests.
        let may = self.has_room(bytes, false);
        let piece = if may { self.sweep.pop_front() } else { None };
        piece.map(|piece| Work::Piece(piece, Purpose::Sweep))
    }

    /// Takes in what a look found.
    pub(super) fn add_found(&mut self, pieces: Vec<Piece>, rank: Rank) {
        let room = AHEAD_LEN_MAX.saturating_sub(self.ahead.len());
        let fitting = pieces.into_iter();
        match rank {
            Rank::First => {
                let pieces: Vec<_> = fitting.take(room).collect();
                pieces.into_iter().rev().for_each(|piece| self.ahead.push_front(piece));
            }
            Rank::On => self.ahead.extend(fitting.take(room)),
            Rank::Sweep => self.sweep.extend(fitting.take(SWEEP_FOUND_MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const QUIET: Moment = Moment { has_foreground: false, is_quiet: true, hot_used_bytes: 0 };
    const BESIDE: Moment = Moment { has_foreground: true, is_quiet: false, hot_used_bytes: 0 };
    const BETWEEN: Moment = Moment { has_foreground: false, ..BESIDE };

    fn piece(pack: u8, bytes: u64) -> Piece {
        Piece { pack: PackId([pack; 32]), range: 8..8 + bytes, chunks: Vec::new() }
    }

    /// Takes all that may begin, and tells which packs.
    fn begin(queue: &mut Queue, now: Moment) -> Vec<u8> {
        let mut packs = Vec::new();
        while let Some(work) = queue.take(now) {
            queue.bytes += work.bytes();
            packs.push(match &work {
                Work::Piece(piece, _) => piece.pack.0[0],
                Work::Window(window) => window.pack.0[0],
                Work::Scan(_) => 0,
            });
        }
        packs
    }

    #[test]
    fn readers_go_first_then_metadata_then_the_hot_set_within_the_bytes_at_once() {
        let mut queue = Queue::default();
        queue.hot.extend([piece(1, MIB), piece(2, MIB)]);
        queue.windows.push_back(TreeWindow {
            pack: PackId([3; 32]),
            number: 0,
            pack_len: MIB,
            failures: 0,
        });
        queue.ahead.extend([piece(4, MIB), piece(5, MIB)]);
        queue.scans.push_back(Scan { find: Box::new(Vec::new), rank: Rank::First });
        assert_eq!(begin(&mut queue, QUIET), [0, 4, 5, 3, 1]);
        queue.bytes -= MIB;
        assert_eq!(begin(&mut queue, QUIET), [2]);
    }

    #[test]
    fn beside_a_foreground_request_only_half_as_much_begins_but_never_nothing() {
        let mut queue = Queue::default();
        let beside = Moment { hot_used_bytes: 64 * MIB, ..BESIDE };
        queue.hot.extend((1..=9).map(|pack| piece(pack, MIB)));
        assert_eq!(begin(&mut queue, beside), [1, 2]);
        assert_eq!(begin(&mut queue, QUIET), [3, 4]);
        queue.bytes -= 2 * MIB;
        assert!(begin(&mut queue, beside).is_empty(), "what is on its way is enough");
        queue.bytes = 0;
        queue.hot.push_front(piece(10, 8 * MIB));
        assert_eq!(begin(&mut queue, beside), [10]);
    }

    #[test]
    fn a_hot_set_of_which_nothing_is_read_keeps_out_of_the_way_until_it_is_quiet() {
        let mut queue = Queue::default();
        queue.hot.extend((1..=40).map(|pack| piece(pack, MIB)));
        let begun = |queue: &mut Queue, now| {
            let mut begun = 0;
            loop {
                queue.bytes = 0;
                match begin(queue, now).len() {
                    0 => return begun,
                    more => begun += more,
                }
            }
        };
        assert_eq!(begun(&mut queue, BETWEEN), 4, "unproven");
        assert_eq!(begun(&mut queue, BESIDE), 0);
        let used = |hot_used_bytes| Moment { hot_used_bytes, ..BESIDE };
        assert_eq!(begun(&mut queue, used(MIB)), 2, "two for each that was read");
        assert_eq!(begun(&mut queue, used(3 * MIB)), 4);
        assert_eq!(begun(&mut queue, QUIET), 30, "all");
    }

    #[test]
    fn a_sweep_gets_what_all_others_leave_and_looks_only_when_little_is_left_of_it() {
        let mut queue = Queue::default();
        let scan = || Scan { find: Box::new(Vec::new), rank: Rank::Sweep };
        queue.sweep_scans.push_back(scan());
        queue.ahead.push_back(piece(1, MIB));
        queue.hot.push_back(piece(2, MIB));
        assert_eq!(begin(&mut queue, QUIET), [1, 2, 0]);
        queue.add_found((3..=20).map(|pack| piece(pack, MIB)).collect(), Rank::Sweep);
        queue.sweep_scans.push_back(scan());
        // Also beside a request of the foreground: it is most likely his who reads everything.
        assert_eq!(begin(&mut queue, BESIDE), [3, 4]);
        queue.bytes = 0;
        queue.ahead.push_back(piece(30, MIB));
        queue.hot.push_back(piece(31, MIB));
        assert_eq!(begin(&mut queue, BESIDE), [30, 31, 5, 6]);
        while queue.sweep.len() >= SWEEP_LEN_ENOUGH {
            assert_eq!(queue.sweep_scans.len(), 1);
            queue.bytes = 0;
            begin(&mut queue, QUIET);
        }
        assert_eq!(queue.sweep_scans.len(), 0);
    }

    #[test]
    fn of_what_a_sweep_finds_only_so_much_waits() {
        let mut queue = Queue::default();
        queue.add_found((0..5000).map(|_| piece(1, 100)).collect(), Rank::Sweep);
        assert_eq!(queue.sweep.len(), SWEEP_FOUND_MAX);
    }
}
