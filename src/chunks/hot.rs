//! The hot set: which chunks were read first, in order, so that the next resume can fetch them
//! before they are asked for.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::format::{HOT_SET_LEN_MAX, PackSlot};
use crate::types::ChunkId;

/// The first [`HOT_SET_LEN_MAX`] chunks that were read.
#[derive(Debug, Default)]
pub(super) struct HotSet {
    is_full: AtomicBool,
    touched: Mutex<Touched>,
}

#[derive(Debug, Default)]
struct Touched {
    seen: HashSet<ChunkId>,
    list: Vec<(ChunkId, PackSlot)>,
}

impl HotSet {
    /// Notes a read, if it is this chunk's first and there is room.
    pub(super) fn note(&self, id: &ChunkId, slot: &PackSlot) {
        if self.is_full.load(Ordering::Relaxed) {
            return;
        }
        let mut touched = self.touched.lock();
        if touched.list.len() >= HOT_SET_LEN_MAX {
            touched.seen = HashSet::new();
            self.is_full.store(true, Ordering::Relaxed);
        } else if touched.seen.insert(*id) {
            touched.list.push((*id, *slot));
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
        let hot = HotSet::default();
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
}
