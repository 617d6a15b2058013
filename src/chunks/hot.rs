//! The hot set: which chunks were read first, in order, and which were written last, so that the
//! next resume can fetch them before they are asked for. Who comes back goes on where they were: a
//! compiler reads what it wrote, a program its log, git its index.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::format::{HOT_SET_LEN_MAX, PackSlot};
use crate::types::ChunkId;

/// The first chunks that were read and the last that were written: at most [`HOT_SET_LEN_MAX`] of
/// them, and so many bytes of their frames.
#[derive(Debug)]
pub(super) struct HotSet {
    bytes_max: u64,
    is_full: AtomicBool,
    touched: Mutex<Touched>,
    written: Mutex<Written>,
}

/// A chunk and its place.
type Placed = (ChunkId, PackSlot);

/// What was stored last: at most half of what the hot set may be, so that one large upload does
/// not come down again whole.
#[derive(Debug, Default)]
struct Written {
    /// Oldest first.
    packs: VecDeque<Vec<Placed>>,
    len: usize,
    bytes: u64,
}

impl Written {
    fn add(&mut self, pack: Vec<Placed>) {
        self.len += pack.len();
        self.bytes += bytes_of(&pack);
        self.packs.push_back(pack);
    }

    fn drop_oldest(&mut self) {
        if let Some(pack) = self.packs.pop_front() {
            self.len -= pack.len();
            self.bytes -= bytes_of(&pack);
        }
    }
}

fn bytes_of(pack: &[Placed]) -> u64 {
    pack.iter().map(|(_, slot)| u64::from(slot.len)).sum()
}

#[derive(Debug, Default)]
struct Touched {
    seen: HashSet<ChunkId>,
    list: Vec<Placed>,
    bytes: u64,
}

impl HotSet {
    /// Keeps chunks of up to `bytes_max` bytes; 0: none.
    pub(super) fn new(bytes_max: u64) -> HotSet {
        let is_full = AtomicBool::new(bytes_max == 0);
        HotSet { bytes_max, is_full, touched: Mutex::default(), written: Mutex::default() }
    }

    /// Notes a read, if it is this chunk's first and there is room.
    pub(super) fn note(&self, id: &ChunkId, slot: &PackSlot) {
        if self.is_full.load(Ordering::Relaxed) {
            return;
        }
        let mut touched = self.touched.lock();
        let bytes = touched.bytes + u64::from(slot.len);
        if touched.list.len() >= HOT_SET_LEN_MAX || bytes > self.bytes_max {
            touched.seen = HashSet::new();
            self.is_full.store(true, Ordering::Relaxed);
        } else if touched.seen.insert(*id) {
            touched.list.push((*id, *slot));
            touched.bytes = bytes;
        }
    }

    /// Notes what a pack that is now stored has.
    pub(super) fn note_written(&self, mut pack: Vec<Placed>) {
        let (len_max, bytes_max) = (HOT_SET_LEN_MAX / 2, self.bytes_max / 2);
        let mut bytes = 0;
        pack.retain(|(_, slot)| {
            bytes += u64::from(slot.len);
            bytes <= bytes_max
        });
        pack.truncate(len_max);
        if pack.is_empty() {
            return;
        }
        let mut written = self.written.lock();
        written.add(pack);
        while written.len > len_max || written.bytes > bytes_max {
            written.drop_oldest();
        }
    }

    /// What was read, first ones first.
    pub(super) fn first_reads(&self) -> Vec<Placed> {
        self.touched.lock().list.clone()
    }

    /// What was read, first ones first, then what was written, last packs first.
    pub(super) fn list(&self) -> Vec<Placed> {
        let touched = self.touched.lock();
        let (mut list, mut bytes) = (touched.list.clone(), touched.bytes);
        drop(touched);
        let mut seen: HashSet<_> = list.iter().map(|(id, _)| *id).collect();
        let written = self.written.lock();
        for &(id, slot) in written.packs.iter().rev().flatten() {
            bytes += u64::from(slot.len);
            if list.len() >= HOT_SET_LEN_MAX || bytes > self.bytes_max {
                break;
            }
            if seen.insert(id) {
                list.push((id, slot));
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PackId;

    #[test]
    fn first_reads_are_kept_in_order_once_and_up_to_the_bound() {
        let hot = HotSet::new(u64::MAX);
        let slot = PackSlot { pack: PackId([0; 32]), offset: 8, len: 60 };
        let id = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            ChunkId(id)
        };
        for number in [3, 1, 3, 2, 1] {
            hot.note(&id(number), &slot);
        }
        let ids: Vec<_> = hot.list().iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [id(3), id(1), id(2)]);
        for number in 0..2 * HOT_SET_LEN_MAX {
            hot.note(&id(number), &slot);
        }
        assert_eq!(hot.list().len(), HOT_SET_LEN_MAX);
    }

    #[test]
    fn what_was_written_last_comes_after_what_was_read_and_takes_half_of_the_room() {
        let hot = HotSet::new(1000);
        let slot = PackSlot { pack: PackId([0; 32]), offset: 8, len: 100 };
        let placed = |number| (ChunkId([number; 32]), slot);
        hot.note(&placed(1).0, &slot);
        for first in [10, 20, 30] {
            hot.note_written(vec![placed(first), placed(first + 1), placed(1)]);
        }
        let numbers = |hot: &HotSet| hot.list().iter().map(|(id, _)| id.0[0]).collect::<Vec<_>>();
        assert_eq!(numbers(&hot), [1, 30, 31], "the older packs are too many bytes");
        hot.note_written((40..60).map(placed).collect());
        assert_eq!(numbers(&hot), [1, 40, 41, 42, 43, 44], "a large pack, in part");
        (2..9).for_each(|number| hot.note(&placed(number).0, &slot));
        assert_eq!(numbers(&hot), [1, 2, 3, 4, 5, 6, 7, 8, 40, 41]);
    }

    #[test]
    fn bytes_are_bounded_too_and_none_means_off() {
        let slot = PackSlot { pack: PackId([0; 32]), offset: 8, len: 60 };
        let (hot, off) = (HotSet::new(150), HotSet::new(0));
        for number in 0..9 {
            hot.note(&ChunkId([number; 32]), &slot);
            off.note(&ChunkId([number; 32]), &slot);
        }
        assert_eq!((hot.list().len(), off.list().len()), (2, 0));
    }
}
