//! Values by file offset, in order: one block of memory while they are few, as they are in most
//! files (a tree's smallest node takes a kilobyte), a tree when they are many.

use std::collections::{BTreeMap, btree_map};
use std::ops::{Bound, RangeBounds};

/// Most values in one block; inserting moves those behind.
const FEW_MAX: usize = 16;

/// A map by offset.
#[derive(Debug, Clone)]
pub(super) enum OffsetMap<V> {
    /// Ascending.
    Few(Vec<(u64, V)>),
    Many(BTreeMap<u64, V>),
}

/// A part of a map, ascending.
#[derive(Debug)]
pub(super) enum Range<'a, V> {
    Few(std::slice::Iter<'a, (u64, V)>),
    Many(btree_map::Range<'a, u64, V>),
}

impl<V> Default for OffsetMap<V> {
    fn default() -> OffsetMap<V> {
        OffsetMap::Few(Vec::new())
    }
}

impl<V> OffsetMap<V> {
    /// A map of these values, which are ascending, one for each offset.
    pub fn from_ascending(mut list: Vec<(u64, V)>) -> OffsetMap<V> {
        if list.len() > FEW_MAX {
            return OffsetMap::Many(list.into_iter().collect());
        }
        list.shrink_to_fit();
        OffsetMap::Few(list)
    }

    pub fn len(&self) -> usize {
        match self {
            OffsetMap::Few(list) => list.len(),
            OffsetMap::Many(tree) => tree.len(),
        }
    }

    /// The values at offsets in the range, whose start may not lie behind its end.
    pub fn range(&self, range: impl RangeBounds<u64>) -> Range<'_, V> {
        let list = match self {
            OffsetMap::Few(list) => list,
            OffsetMap::Many(tree) => return Range::Many(tree.range(range)),
        };
        let before = |bound: u64| list.partition_point(|&(offset, _)| offset < bound);
        let through = |bound: u64| list.partition_point(|&(offset, _)| offset <= bound);
        let start = match range.start_bound() {
            Bound::Included(&bound) => before(bound),
            Bound::Excluded(&bound) => through(bound),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&bound) => through(bound),
            Bound::Excluded(&bound) => before(bound),
            Bound::Unbounded => list.len(),
        };
        Range::Few(list[start..end].iter())
    }

    /// Sets the value at an offset.
    pub fn insert(&mut self, offset: u64, value: V) {
        match self {
            OffsetMap::Few(list) => match list.binary_search_by_key(&offset, |&(at, _)| at) {
                Ok(at) => list[at].1 = value,
                Err(at) if list.len() < FEW_MAX => {
                    // A vector's own first growth is to four.
                    if list.len() < 2 {
                        list.reserve_exact(1);
                    }
                    list.insert(at, (offset, value));
                }
                Err(_) => {
                    let mut tree: BTreeMap<u64, V> = std::mem::take(list).into_iter().collect();
                    tree.insert(offset, value);
                    *self = OffsetMap::Many(tree);
                }
            },
            OffsetMap::Many(tree) => _ = tree.insert(offset, value),
        }
    }

    /// Takes the value at an offset away, if there is one.
    pub fn remove(&mut self, offset: u64) {
        match self {
            OffsetMap::Few(list) => {
                if let Ok(at) = list.binary_search_by_key(&offset, |&(at, _)| at) {
                    list.remove(at);
                }
            }
            OffsetMap::Many(tree) => {
                tree.remove(&offset);
                // Not at the bound itself, where the next insertion would turn it back.
                if tree.len() <= FEW_MAX / 2 {
                    *self = OffsetMap::Few(std::mem::take(tree).into_iter().collect());
                }
            }
        }
    }
}

impl<V: PartialEq> PartialEq for OffsetMap<V> {
    fn eq(&self, other: &OffsetMap<V>) -> bool {
        self.len() == other.len() && self.range(..).eq(other.range(..))
    }
}

impl<V: Eq> Eq for OffsetMap<V> {}

impl<'a, V> Iterator for Range<'a, V> {
    type Item = (u64, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Range::Few(list) => list.next().map(|(offset, value)| (*offset, value)),
            Range::Many(tree) => tree.next().map(|(offset, value)| (*offset, value)),
        }
    }
}

impl<V> DoubleEndedIterator for Range<'_, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Range::Few(list) => list.next_back().map(|(offset, value)| (*offset, value)),
            Range::Many(tree) => tree.next_back().map(|(offset, value)| (*offset, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_tree_s_equal_at_every_size(
            steps in prop::collection::vec((0_u64..40, any::<u8>(), any::<bool>()), 0..200),
            from in 0_u64..41,
            len in 0_u64..41,
        ) {
            let mut plain = BTreeMap::new();
            let mut map = OffsetMap::default();
            for (offset, value, is_removed) in steps {
                if is_removed {
                    plain.remove(&offset);
                    map.remove(offset);
                } else {
                    plain.insert(offset, value);
                    map.insert(offset, value);
                }
                prop_assert_eq!(map.len(), plain.len());
                let to = from + len;
                prop_assert!(map.range(from..to).eq(plain.range(from..to).map(|(o, v)| (*o, v))));
                prop_assert!(map.range(from..=to).eq(plain.range(from..=to).map(|(o, v)| (*o, v))));
                let last = map.range(..to).next_back();
                prop_assert_eq!(last, plain.range(..to).next_back().map(|(o, v)| (*o, v)));
            }
            let again = OffsetMap::from_ascending(plain.into_iter().collect());
            prop_assert_eq!(&map, &again, "however it came to be");
        }
    }

    #[test]
    fn one_value_takes_the_memory_of_one() {
        let mut map = OffsetMap::default();
        map.insert(7, [0_u64; 11]);
        let OffsetMap::Few(list) = &map else { panic!("many") };
        assert_eq!(list.capacity(), 1);
    }
}
