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

/// Extents from here on may begin a leaf, so that a huge file is spread over many.
const EXTENT_NATURAL_FROM: u64 = 16 * 1024 * 1024;

/// Priority of a key as the first of a node: the lower, the rather.
pub(super) fn priority(keys: &HashKeys, key: &[u8]) -> u64 {
    let hash = keys.boundary(key);
    match KeyParts::parse(key) {
        Ok(KeyParts::Extent(_, offset)) if offset < EXTENT_NATURAL_FROM => hash | 1 << 63,
        _ => hash,
    }
}

/// Whether an item of this priority begins a node of `level`.
pub(super) fn is_natural(priority: u64, level: u8) -> bool {
    let shift = 56_u32.checked_sub(8 * u32::from(level));
    shift.is_some_and(|shift| priority >> shift == 0)
}

/// Cuts a run, given (encoded length, priority) of each item, and returns where each piece ends.
pub(super) fn cut(run: &[(usize, u64)]) -> Vec<usize> {
    let mut ends = Vec::new();
    // Parts still to look at, the leftmost on top.
    let mut parts = vec![(0, run.len())];
    while let Some((from, to)) = parts.pop() {
        let len: usize = run[from..to].iter().map(|(len, _)| len).sum();
        let lowest = (from + 1..to).min_by_key(|&item| run[item].1);
        match lowest {
            Some(middle) if len > NODE_CUT_LEN - NODE_HEADER_LEN => {
                parts.push((middle, to));
                parts.push((from, middle));
            }
            _ if from < to => ends.push(to),
            _ => {}
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Key;
    use crate::types::Ino;

    #[test]
    fn a_run_that_fits_is_one_piece_and_a_long_item_is_one_of_its_own() {
        assert_eq!(cut(&[]), []);
        assert_eq!(cut(&[(30_000, 9), (30_000, 1)]), [2]);
        assert_eq!(cut(&[(30_000, 9), (30_000, 8), (30_000, 1)]), [2, 3]);
        assert_eq!(cut(&[(70_000, 9)]), [1]);
        assert_eq!(cut(&[(100, 0), (70_000, 9), (100, 3)]), [1, 2, 3]);
    }

    #[test]
    fn an_ordinary_file_s_extents_begin_no_leaf() {
        let keys = HashKeys::new(&[7; 32]);
        let natural = |key: Key| is_natural(priority(&keys, key.as_bytes()), 0);
        let early = (0..64_000).filter(|i| natural(Key::extent(Ino(5), i * 256))).count();
        let late = (0..64_000).filter(|i| natural(Key::extent(Ino(5), (1 << 24) + i))).count();
        let attrs = (0..64_000).filter(|&i| natural(Key::attr(Ino(i)))).count();
        assert_eq!(early, 0);
        assert!((150..400).contains(&late), "{late}");
        assert!((150..400).contains(&attrs), "{attrs}");
    }
}
