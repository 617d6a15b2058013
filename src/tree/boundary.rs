//! Where nodes begin: decided by the keys alone, so that equal record sets give equal leaves
//! whatever their history, and a change of a value moves no boundary.
//!
//! - An item's *priority* is the keyed hash of its key. Extents in the first 16 MiB of a file
//!   have the top bit set: they begin no node by themselves, so that all records of an ordinary
//!   file lie in one leaf and changing the file rewrites one leaf.
//! - An item whose priority is below 2^(56 - 8 level) begins a node of that level (a *natural*
//!   boundary: one key in 256 at level 0, one leaf in 256 at level 1, ...). What lies between
//!   two natural boundaries is a *run*.
//! - A run whose node would exceed 64 KiB is cut before the item, not the first, with the lowest
//!   priority, and its parts likewise, until each fits or is a single item.

use crate::format::{HashKeys, KeyParts, NODE_HEADER_LEN};

/// Longest node, unless a single item is longer.
const NODE_CUT_LEN: usize = 64 * 1024;

/// One item in 2^8 begins a node.
const NATURAL_BITS: u32 = 8;

/// Extents from here on may begin a leaf, so that a huge file is spread over many.
const EXTENT_NATURAL_FROM: u64 = 16 * 1024 * 1024;

/// The rule by which items are put into nodes. Part of the store format.
#[derive(Clone, Copy)]
pub(super) struct Rule<'a> {
    keys: &'a HashKeys,
    bits: u32,
    cut_len: usize,
}

impl<'a> Rule<'a> {
    /// The rule of a store with these keys.
    pub(super) fn new(keys: &'a HashKeys) -> Rule<'a> {
        Rule { keys, bits: NATURAL_BITS, cut_len: NODE_CUT_LEN }
    }

    /// A rule that makes high trees of few records.
    #[cfg(test)]
    pub(super) fn small(keys: &'a HashKeys) -> Rule<'a> {
        Rule { keys, bits: 2, cut_len: 600 }
    }

    /// Priority of a key as the first of a node: the lower, the rather.
    pub(super) fn priority(&self, key: &[u8]) -> u64 {
        let hash = self.keys.boundary(key);
        match KeyParts::parse(key) {
            Ok(KeyParts::Extent(_, offset)) if offset < EXTENT_NATURAL_FROM => hash | 1 << 63,
            _ => hash,
        }
    }

    /// Whether an item of this priority begins a node of `level`.
    pub(super) fn is_natural(&self, priority: u64, level: u8) -> bool {
        let shift = 64_u32.checked_sub(self.bits * (u32::from(level) + 1));
        shift.is_some_and(|shift| priority >> shift == 0)
    }

    /// Cuts a run, given (encoded length, priority) of each item: where each piece ends.
    pub(super) fn cut(&self, run: &[(usize, u64)]) -> Vec<usize> {
        let mut ends = Vec::new();
        // Parts still to look at, the leftmost on top.
        let mut parts = vec![(0, run.len())];
        while let Some((from, to)) = parts.pop() {
            let len: usize = run[from..to].iter().map(|(len, _)| len).sum();
            let lowest = (from + 1..to).min_by_key(|&item| run[item].1);
            match lowest {
                Some(middle) if len > self.cut_len - NODE_HEADER_LEN => {
                    parts.push((middle, to));
                    parts.push((from, middle));
                }
                _ if from < to => ends.push(to),
                _ => {}
            }
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Key;
    use crate::types::Ino;

    #[test]
    fn a_run_that_fits_is_one_piece_and_a_long_item_is_one_of_its_own() {
        let keys = HashKeys::new(&[7; 32]);
        let cut = |run: &[(usize, u64)]| Rule::new(&keys).cut(run);
        assert_eq!(cut(&[]), Vec::<usize>::new());
        assert_eq!(cut(&[(30_000, 9), (30_000, 1)]), [2]);
        assert_eq!(cut(&[(30_000, 9), (30_000, 8), (30_000, 1)]), [2, 3]);
        assert_eq!(cut(&[(70_000, 9)]), [1]);
        assert_eq!(cut(&[(100, 0), (70_000, 9), (100, 3)]), [1, 2, 3]);
    }

    #[test]
    fn an_ordinary_file_s_extents_begin_no_leaf() {
        let keys = HashKeys::new(&[7; 32]);
        let rule = Rule::new(&keys);
        let natural = |key: Key| rule.is_natural(rule.priority(key.as_bytes()), 0);
        let early = (0..64_000).filter(|i| natural(Key::extent(Ino(5), i * 256))).count();
        let late = (0..64_000).filter(|i| natural(Key::extent(Ino(5), (1 << 24) + i))).count();
        let attrs = (0..64_000).filter(|&i| natural(Key::attr(Ino(i)))).count();
        assert_eq!(early, 0);
        assert!((150..400).contains(&late), "{late}");
        assert!((150..400).contains(&attrs), "{attrs}");
    }

    #[test]
    fn a_level_s_boundaries_are_boundaries_of_the_levels_below() {
        let keys = HashKeys::new(&[7; 32]);
        let rule = Rule::new(&keys);
        for priority in [0, 1, (1 << 48) - 1, 1 << 48, (1 << 56) - 1, 1 << 56] {
            for level in 1..=15 {
                let natural = rule.is_natural(priority, level);
                assert!(!natural || rule.is_natural(priority, level - 1));
            }
        }
        assert!(rule.is_natural((1 << 56) - 1, 0) && !rule.is_natural(1 << 56, 0));
        assert!(rule.is_natural((1 << 48) - 1, 1) && !rule.is_natural(1 << 48, 1));
    }
}
