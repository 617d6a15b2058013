//! How much to fetch at a miss, and which misses travel in one request. Plain arithmetic over
//! byte ranges of packs; nothing here touches the network.

use std::num::NonZeroUsize;
use std::ops::Range;

use lru::LruCache;
use parking_lot::Mutex;

use crate::format::{CHUNK_LEN_MAX, FRAME_HEADER_LEN, PACK_HEADER_LEN, PACK_LEN_MAX, PackSlot};
use crate::types::{ChunkId, PackId};

/// Most bytes that the first miss in a place may fetch.
pub(super) const FIRST_WINDOW_BYTES_MAX: u64 = 512 * 1024;

/// Most bytes that one data request may fetch.
pub(super) const WINDOW_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A miss this close behind the last window goes on reading in sequence. Also the gap that two
/// wanted frames may have to share one request: fetching 64 KiB that nobody asked for costs less
/// than a second request.
const NEAR_BYTES: u64 = 64 * 1024;

/// What others bring is not fetched again if it is so much; less is, where what lies behind it is
/// wanted too: a round trip is longer.
pub(super) const WORTH_A_REQUEST_BYTES: u64 = 256 * 1024;

/// Most bytes that one request of the background fetches: what a foreground request may find
/// before it on the line.
pub(super) const PIECE_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes of a list of chunks that are looked at together for what lies near: the order in which
/// they are wanted is kept beyond that.
const PIECE_BATCH_BYTES: u64 = 8 * 1024 * 1024;

/// Packs whose last window is remembered (some 100 bytes each).
const PACKS_REMEMBERED: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

/// Tree packs are fetched in windows that begin at multiples of this.
pub(super) const TREE_WINDOW_BYTES: u64 = 2 * 1024 * 1024;

/// A tree window goes on this far behind its end, so that the node which lies across the border
/// is whole in the window where it begins.
pub(super) const TREE_WINDOW_SLACK_BYTES: u64 = 64 * 1024;

/// The bytes of a slot.
pub(super) fn slot_range(slot: &PackSlot) -> Range<u64> {
    let start = u64::from(slot.offset);
    start..start + u64::from(slot.len)
}

/// Whether a chunk's frame can be there. What the store says of places may be anything: a length
/// is what is fetched for it.
pub(super) fn is_chunk_slot(slot: &PackSlot) -> bool {
    let range = slot_range(slot);
    let len = slot.len as usize;
    (FRAME_HEADER_LEN..=FRAME_HEADER_LEN + CHUNK_LEN_MAX).contains(&len)
        && range.start >= PACK_HEADER_LEN as u64
        && range.end <= PACK_LEN_MAX
}

/// Number of the tree window in which a node at this offset begins.
pub(super) fn tree_window_of(offset: u64) -> u64 {
    offset / TREE_WINDOW_BYTES
}

/// The bytes fetched for a tree window; the store clamps them to the pack's end.
pub(super) fn tree_window(number: u64) -> Range<u64> {
    let start = number * TREE_WINDOW_BYTES;
    start..start + TREE_WINDOW_BYTES + TREE_WINDOW_SLACK_BYTES
}

/// How many windows hold a tree pack of `pack_len` bytes: what the last window's slack reaches
/// needs no window of its own.
pub(super) fn tree_windows(pack_len: u64) -> u64 {
    pack_len.saturating_sub(TREE_WINDOW_SLACK_BYTES).div_ceil(TREE_WINDOW_BYTES).max(1)
}

/// One request: a range of a pack that begins at a frame and holds all the wanted slots whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) pack: PackId,
    pub(super) range: Range<u64>,
    /// Indices into the list that was planned.
    pub(super) wanted: Vec<usize>,
    /// Up to here somebody wants it; what follows comes along if nobody else brings it.
    pub(super) wanted_end: u64,
}

impl Window {
    /// One of which all is wanted.
    pub(super) fn whole(pack: PackId, range: Range<u64>, wanted: Vec<usize>) -> Window {
        let wanted_end = range.end;
        Window { pack, range, wanted, wanted_end }
    }
}

/// Decides the windows, and remembers where the last one of each pack ended, so that misses in
/// sequence fetch ever more at once.
#[derive(Debug)]
pub(super) struct WindowPlanner {
    first_bytes: u64,
    bytes_max: u64,
    last: Mutex<LruCache<PackId, Last>>,
}

/// The last window of a pack.
#[derive(Debug, Clone, Copy)]
struct Last {
    end: u64,
    /// How far the run of misses has grown.
    bytes: u64,
}

impl WindowPlanner {
    /// First misses fetch `first_bytes`, sequential ones up to `bytes_max`; both are capped.
    pub(super) fn new(first_bytes: u64, bytes_max: u64) -> WindowPlanner {
        let first_bytes = first_bytes.min(FIRST_WINDOW_BYTES_MAX);
        WindowPlanner {
            first_bytes,
            bytes_max: bytes_max.clamp(first_bytes, WINDOW_BYTES_MAX),
            last: Mutex::new(LruCache::new(PACKS_REMEMBERED)),
        }
    }

    /// The fewest windows that bring all of `slots`, in pack and offset order.
    pub(super) fn plan(&self, slots: &[PackSlot]) -> Vec<Window> {
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|&index| slots[index]);
        let mut windows: Vec<Window> = Vec::new();
        for index in order {
            let (slot, range) = (&slots[index], slot_range(&slots[index]));
            match windows.last_mut() {
                Some(window) if window.pack == slot.pack && fits(window, &range) => {
                    window.range.end = window.range.end.max(range.end);
                    window.wanted_end = window.wanted_end.max(range.end);
                    window.wanted.push(index);
                }
                _ => {
                    let end = range.end.max(range.start + self.window_bytes(slot));
                    let (wanted, wanted_end) = (vec![index], range.end);
                    let range = range.start..end;
                    windows.push(Window { pack: slot.pack, range, wanted, wanted_end });
                }
            }
        }
        let mut last = self.last.lock();
        for window in &windows {
            let Range { start, end } = window.range;
            let bytes = (end - start).max(self.first_bytes);
            last.put(window.pack, Last { end, bytes });
        }
        windows
    }

    /// How far to fetch from a slot on: more each time when this goes on where the last window
    /// of the pack ended (it may have cut the slot's frame).
    fn window_bytes(&self, slot: &PackSlot) -> u64 {
        let range = slot_range(slot);
        match self.last.lock().peek(&slot.pack) {
            Some(last) if range.end > last.end && range.start <= last.end + NEAR_BYTES => {
                (last.bytes * 2).min(self.bytes_max)
            }
            _ => self.first_bytes,
        }
    }
}

/// A range of a data pack to fetch in the background, and the chunks that it is fetched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) pack: PackId,
    /// From the first byte of a frame to the last of one.
    pub(super) range: Range<u64>,
    pub(super) chunks: Vec<(ChunkId, PackSlot)>,
}

impl Piece {
    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// What of it is to be fetched next from this offset on, if anything: up to what came by
    /// another way, or is on it.
    pub(super) fn next(
        &self,
        from: u64,
        comes: impl Fn(&ChunkId, &PackSlot) -> bool,
    ) -> Option<Range<u64>> {
        let mut next: Option<Range<u64>> = None;
        for (id, slot) in &self.chunks {
            let range = slot_range(slot);
            if range.start < from || comes(id, slot) {
                continue;
            }
            match &mut next {
                Some(next) if range.start >= next.end + WORTH_A_REQUEST_BYTES => break,
                Some(next) => next.end = next.end.max(range.end),
                None => next = Some(range),
            }
        }
        next
    }
}

/// The pieces that bring these chunks, about in their order: those that lie near each other come
/// together, and nothing is fetched but them and the gaps between.
pub(super) fn pieces(list: &[(ChunkId, PackSlot)]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let mut bytes = 0;
        let is_over = |(_, slot): &(ChunkId, PackSlot)| {
            bytes += u64::from(slot.len);
            bytes > PIECE_BATCH_BYTES
        };
        let count = rest.iter().position(is_over).unwrap_or(rest.len()).max(1);
        let (batch, later) = rest.split_at(count);
        rest = later;
        let mut batch = batch.to_vec();
        batch.sort_by_key(|(_, slot)| *slot);
        for (id, slot) in batch {
            let range = slot_range(&slot);
            match pieces.last_mut() {
                Some(piece) if piece.pack == slot.pack && joins(&piece.range, &range) => {
                    piece.range.end = piece.range.end.max(range.end);
                    piece.chunks.push((id, slot));
                }
                _ => pieces.push(Piece { pack: slot.pack, range, chunks: vec![(id, slot)] }),
            }
        }
    }
    pieces
}

/// Whether a range goes on near where a piece ends, and there is room for it.
fn joins(piece: &Range<u64>, range: &Range<u64>) -> bool {
    let near = range.start >= piece.start && range.start <= piece.end + NEAR_BYTES;
    near && range.end.saturating_sub(piece.start) <= PIECE_BYTES_MAX
}

/// Whether a window reaches, or may grow, to hold a range that begins behind its start.
fn fits(window: &Window, range: &Range<u64>) -> bool {
    let inside = range.end <= window.range.end;
    let near = range.start <= window.range.end + NEAR_BYTES;
    inside || (near && range.end - window.range.start <= WINDOW_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(pack: u8, offset: u32, len: u32) -> PackSlot {
        PackSlot { pack: PackId([pack; 32]), offset, len }
    }

    fn planner() -> WindowPlanner {
        WindowPlanner::new(256 << 10, 4 << 20)
    }

    fn lens(windows: &[Window]) -> Vec<u64> {
        windows.iter().map(|w| w.range.end - w.range.start).collect()
    }

    #[test]
    fn a_first_miss_fetches_its_neighbourhood_and_never_over_512_kib() {
        assert_eq!(lens(&planner().plan(&[slot(1, 5000, 100)])), [256 << 10]);
        let greedy = WindowPlanner::new(64 << 20, 64 << 20);
        assert_eq!(lens(&greedy.plan(&[slot(1, 5000, 100)])), [512 << 10]);
        let whole = planner().plan(&[slot(1, 0, (256 << 10) + 50)]);
        assert_eq!(lens(&whole), [(256 << 10) + 50], "a large frame comes whole and alone");
    }

    #[test]
    fn sequential_misses_double_the_window_up_to_its_bound() {
        let planner = planner();
        let mut at = 48;
        let mut seen = Vec::new();
        for _ in 0..7 {
            let windows = planner.plan(&[slot(1, at, 9000)]);
            seen.extend(lens(&windows));
            // The next miss is the frame that the window's end has cut.
            at = u32::try_from(windows[0].range.end).unwrap() - 100;
        }
        assert_eq!(seen, [256, 512, 1024, 2048, 4096, 4096, 4096].map(|kib| kib << 10));
        assert_eq!(lens(&planner.plan(&[slot(1, 48, 9000)])), [256 << 10], "a jump starts over");
        assert_eq!(lens(&planner.plan(&[slot(2, at, 9000)])), [256 << 10], "another pack too");
    }

    fn ids(piece: &Piece) -> Vec<ChunkId> {
        piece.chunks.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn pieces_join_what_is_near_within_their_bound_and_keep_the_order_of_batches() {
        let chunk = |number: u8| ChunkId([number; 32]);
        let small = [
            (chunk(1), slot(1, 500_000, 1000)),
            (chunk(2), slot(2, 8, 1000)),
            (chunk(3), slot(1, 8, 1000)),
            (chunk(4), slot(1, 60_000, 1000)),
            (chunk(5), slot(1, 60_000, 1000)),
        ];
        let found: Vec<_> =
            pieces(&small).into_iter().map(|p| (p.range.start, p.range.end, ids(&p))).collect();
        assert_eq!(
            found,
            [
                (8, 61_000, vec![chunk(3), chunk(4), chunk(5)]),
                (500_000, 501_000, vec![chunk(1)]),
                (8, 1008, vec![chunk(2)]),
            ]
        );
        // 50 MiB of large frames, the last ones first.
        let large: Vec<_> = (0..200)
            .rev()
            .map(|i| (chunk(i), slot(1, 8 + u32::from(i) * 262_200, 262_200)))
            .collect();
        let found = pieces(&large);
        assert!(found.iter().all(|piece| piece.range.end - piece.range.start <= PIECE_BYTES_MAX));
        assert!(found.len() <= 72, "three frames to a piece: {}", found.len());
        assert_eq!(found.iter().map(|piece| piece.chunks.len()).sum::<usize>(), 200);
        assert!(ids(&found[0]).iter().all(|id| id.0[0] >= 168), "the first batch first");
        // Its first and last frame came by another way.
        let own = ids(&found[0]);
        let middle = |id: &ChunkId, _: &PackSlot| *id != own[1];
        assert_eq!(found[0].next(0, middle), Some(slot_range(&found[0].chunks[1].1)));
        assert_eq!(found[0].next(0, |_, _| true), None);
        // The one in the middle did.
        let ends = |id: &ChunkId, _: &PackSlot| *id == own[1];
        let [first, _, last] = [0, 1, 2].map(|at| slot_range(&found[0].chunks[at].1));
        assert_eq!(found[0].next(0, ends), Some(first.clone()));
        assert_eq!(found[0].next(first.end, ends), Some(last.clone()));
        assert_eq!(found[0].next(last.end, ends), None);
        assert_eq!(pieces(&[]), []);
    }

    #[test]
    fn near_slots_share_a_window_and_far_ones_do_not() {
        let far = 10 << 20;
        let slots = [slot(1, far, 10), slot(1, 48, 10), slot(2, 48, 10), slot(1, 3000, 10)];
        let windows = planner().plan(&slots);
        let wanted: Vec<_> = windows.iter().map(|w| w.wanted.clone()).collect();
        assert_eq!(wanted, [vec![1, 3], vec![0], vec![2]]);
    }

    #[test]
    fn every_slot_is_whole_in_its_window_and_no_window_is_over_the_bound() {
        let slots: Vec<_> = (0..60).map(|i| slot(1, 48 + i * 262_200, 262_200)).collect();
        let windows = planner().plan(&slots);
        assert_eq!(windows.iter().map(|w| w.wanted.len()).sum::<usize>(), slots.len());
        for window in &windows {
            assert!(window.range.end - window.range.start <= WINDOW_BYTES_MAX);
            for &index in &window.wanted {
                let range = slot_range(&slots[index]);
                assert!(window.range.start <= range.start && range.end <= window.range.end);
            }
        }
        assert_eq!(windows.len(), 4, "15 frames of 256 KiB fit one window");
    }

    #[test]
    fn tree_windows_cover_a_pack_without_a_stub_at_its_end() {
        assert_eq!(tree_windows(0), 1);
        assert_eq!(tree_windows(1000), 1);
        assert_eq!(tree_windows(TREE_WINDOW_BYTES + 1000), 1);
        assert_eq!(tree_windows(TREE_WINDOW_BYTES + TREE_WINDOW_SLACK_BYTES), 1);
        assert_eq!(tree_windows(TREE_WINDOW_BYTES + TREE_WINDOW_SLACK_BYTES + 1), 2);
        assert_eq!(tree_windows(4 * TREE_WINDOW_BYTES), 4);
    }
}
