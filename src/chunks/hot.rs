//! The hot set: which chunks were read first, in order, so that the next resume can fetch them
//! before they are asked for.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::format::{HOT_SET_LEN_MAX, PackSlot};
use crate::types::ChunkId;

/// The first chunks that were read: at most [`HOT_SET_LEN_MAX`] of them, and so many bytes of
/// their frames.
#[derive(Debug)]
pub(super) struct HotSet {
    bytes_max: u64,
    is_full: AtomicBool,
    touched: Mutex<Touched>,
}

#[derive(Debug, Default)]
struct Touched {
    seen: HashSet<ChunkId>,
    list: Vec<(ChunkId, PackSlot)>,
    bytes: u64,
}

impl HotSet {
    /// Keeps chunks of up to `bytes_max` bytes; 0: none.
    pub(super) fn new(bytes_max: u64) -> HotSet {
        let is_full = AtomicBool::new(bytes_max == 0);
        HotSet { bytes_max, is_full, touched: Mutex::default() }
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

    pub(super) fn list(&self) -> Vec<(ChunkId, PackSlot)> {
        self.touched.lock().list.clone()
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
