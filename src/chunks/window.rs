//! How much to fetch at a miss, and which misses travel in one request. Plain arithmetic over
//! byte ranges of packs; nothing here touches the network.

use std::num::NonZeroUsize;
use std::ops::Range;

use lru::LruCache;
use parking_lot::Mutex;

use crate::format::PackSlot;
use crate::types::PackId;

/// Most bytes that the first miss in a place may fetch.
pub(super) const FIRST_WINDOW_BYTES_MAX: u64 = 512 * 1024;

/// Most bytes that one data request may fetch.
pub(super) const WINDOW_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A miss this close behind the last window goes on reading in sequence. Also the gap that two
/// wanted frames may have to share one request: fetching 64 KiB that nobody asked for costs less
/// than a second request.
const NEAR_BYTES: u64 = 64 * 1024;

/// A run of misses whose windows have grown to this is read ahead of.
const READ_AHEAD_FROM_BYTES: u64 = 2 * 1024 * 1024;

/// Packs whose last window is remembered (some 100 bytes each).
const PACKS_REMEMBERED: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

/// Tree packs are fetched in windows that begin at multiples of this.
pub(super) const TREE_WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// A tree window goes on this far behind its end, so that the node which lies across the border
/// is whole in the window where it begins.
pub(super) const TREE_WINDOW_SLACK_BYTES: u64 = 64 * 1024;

/// The bytes of a slot.
pub(super) fn slot_range(slot: &PackSlot) -> Range<u64> {
    let start = u64::from(slot.offset);
    start..start + u64::from(slot.len)
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
    start: u64,
    end: u64,
    /// How far the run of misses has grown.
    bytes: u64,
    /// Where the first frame behind the window begins, once that is known and until it is read
    /// ahead.
    next: Option<u64>,
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
                    window.wanted.push(index);
                }
                _ => {
                    let end = range.end.max(range.start + self.window_bytes(slot));
                    let range = range.start..end;
                    windows.push(Window { pack: slot.pack, range, wanted: vec![index] });
                }
            }
        }
        let mut last = self.last.lock();
        for window in &windows {
            let Range { start, end } = window.range;
            let bytes = (end - start).max(self.first_bytes);
            last.put(window.pack, Last { start, end, bytes, next: None });
        }
        windows
    }

    /// Notes where the first frame behind a fetched window begins; none: the pack has no more.
    pub(super) fn landed(&self, pack: &PackId, range: &Range<u64>, next: Option<u64>) {
        if let Some(last) = self.last.lock().peek_mut(pack) {
            // Only if no other window was planned meanwhile.
            if last.end == range.end {
                last.next = next;
            }
        }
    }

    /// What to read ahead, now that `slot` is being read: where a run of misses has shown that
    /// the pack is read in sequence, and the reader is in its last window, the window behind it.
    pub(super) fn read_ahead(&self, slot: &PackSlot) -> Option<Window> {
        let mut last = self.last.lock();
        let last = last.peek_mut(&slot.pack)?;
        if last.bytes < READ_AHEAD_FROM_BYTES.min(self.bytes_max)
            || !(last.start..last.end).contains(&u64::from(slot.offset))
        {
            return None;
        }
        let start = last.next.take()?;
        let range = start..start + self.bytes_max;
        *last = Last { start, end: range.end, bytes: self.bytes_max, next: None };
        Some(Window { pack: slot.pack, range, wanted: Vec::new() })
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

    #[test]
    fn a_sequential_reader_is_read_ahead_of_one_window_at_a_time() {
        let planner = planner();
        let mut at = 8;
        let mut windows = planner.plan(&[slot(1, at, 9000)]);
        for _ in 0..4 {
            let range = windows[0].range.clone();
            planner.landed(&windows[0].pack, &range, Some(range.end - 100));
            at = u32::try_from(range.end).unwrap() - 100;
            if range.end - range.start < READ_AHEAD_FROM_BYTES {
                assert_eq!(planner.read_ahead(&slot(1, 8, 9000)), None, "not a long run yet");
                windows = planner.plan(&[slot(1, at, 9000)]);
            }
        }
        let last = windows[0].range.clone();
        assert_eq!(planner.read_ahead(&slot(1, 8, 9000)), None, "read elsewhere");
        let in_last = slot(1, u32::try_from(last.start).unwrap(), 9000);
        let ahead = planner.read_ahead(&in_last).unwrap();
        assert_eq!(ahead.range, last.end - 100..last.end - 100 + (4 << 20));
        assert_eq!(planner.read_ahead(&in_last), None, "once");
        planner.landed(&ahead.pack, &ahead.range, Some(ahead.range.end - 50));
        assert_eq!(planner.read_ahead(&in_last), None, "the reader is not there yet");
        let there = slot(1, u32::try_from(ahead.range.start).unwrap(), 9000);
        assert_eq!(planner.read_ahead(&there).unwrap().range.start, ahead.range.end - 50);
        planner.landed(&ahead.pack, &ahead.range, None);
        assert_eq!(planner.read_ahead(&there), None, "nothing behind the pack's last frame");
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
