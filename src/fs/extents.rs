//! The extent map of one file: pure algebra, no I/O.
//!
//! ```text
//! invariant   extents are sorted, do not overlap, are not empty, end at 2^63-1 at most,
//!             and none crosses a multiple of PIECE_LEN
//! one change  replace(range, new): what was in the range is gone, `new` is there instead;
//!             a write has one new extent, a hole or a truncation none, a shared copy many
//! ```
//! A change is computed as an [`Edit`] first, committed, and applied to the map afterwards.

use std::ops::Range;

use super::offsets::OffsetMap;
use crate::format::{Extent, Source, StagedAt};

/// Files are settled in pieces of this many bytes (the largest chunk), so no extent may cross a
/// multiple of it: the extents of a piece are then one range of records.
pub const PIECE_LEN: u64 = 256 * 1024;

/// The sorted extents of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ExtentMap {
    extents: OffsetMap<Extent>,
}

/// A change of a map, as records to remove and to put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Edit {
    /// Offsets whose extent goes away. None of them is put.
    pub removes: Vec<u64>,
    /// Extents to set, ascending.
    pub puts: Vec<(u64, Extent)>,
    /// Growth of the bytes that extents cover.
    pub covered: i64,
    /// Growth of the bytes that staged extents cover.
    pub staged: i64,
}

/// A part of a range: bytes of one source, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes; at least 1.
    pub len: u64,
    /// Where the bytes are; `None` for a hole.
    pub source: Option<Source>,
}

/// The place `by` bytes further on.
pub(super) fn advance(source: Source, by: u64) -> Source {
    match source {
        Source::Staged(StagedAt { segment, offset }) => {
            Source::Staged(StagedAt { segment, offset: offset.saturating_add(by) })
        }
        Source::Chunk { id, within, slot } => {
            // An extent is at most a piece long; a damaged record reads as a damaged chunk.
            let by = u32::try_from(by).unwrap_or(u32::MAX);
            Source::Chunk { id, within: within.saturating_add(by), slot }
        }
    }
}

/// Cuts one extent at multiples of [`PIECE_LEN`].
pub(super) fn split(offset: u64, extent: Extent) -> Vec<(u64, Extent)> {
    let end = offset + extent.len;
    let mut parts = Vec::with_capacity(1);
    let mut at = offset;
    while at < end {
        let stop = piece_end(at).min(end);
        let source = advance(extent.source, at - offset);
        parts.push((at, Extent { len: stop - at, source }));
        at = stop;
    }
    parts
}

/// End of the piece that `offset` is in.
fn piece_end(offset: u64) -> u64 {
    (offset / PIECE_LEN + 1) * PIECE_LEN
}

fn staged_len(extent: &Extent) -> u64 {
    match extent.source {
        Source::Staged(_) => extent.len,
        Source::Chunk { .. } => 0,
    }
}

/// Sums as signed: lengths within a file are below 2^63.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The part of an extent at `offset` that lies in `range`.
fn clip(offset: u64, extent: &Extent, range: &Range<u64>) -> Option<(u64, Extent)> {
    let start = offset.max(range.start);
    let end = (offset + extent.len).min(range.end);
    (start < end).then(|| {
        let source = advance(extent.source, start - offset);
        (start, Extent { len: end - start, source })
    })
}

/// Appends an extent, merged with the last one where file and source go on without a gap and no
/// piece border lies between.
fn push_merged(list: &mut Vec<(u64, Extent)>, offset: u64, extent: Extent) {
    if let Some((last_offset, last)) = list.last_mut() {
        let adjacent = *last_offset + last.len == offset && !offset.is_multiple_of(PIECE_LEN);
        if adjacent && advance(last.source, last.len) == extent.source {
            last.len += extent.len;
            return;
        }
    }
    list.push((offset, extent));
}

impl ExtentMap {
    /// Builds a map from records in ascending order; says what is wrong with them if they break
    /// the invariant (but for piece borders, which only cost speed).
    pub fn from_records(
        records: impl IntoIterator<Item = (u64, Extent)>,
    ) -> Result<ExtentMap, &'static str> {
        let mut extents = Vec::new();
        let mut free_from = 0;
        for (offset, extent) in records {
            let end = offset.checked_add(extent.len).filter(|&end| end <= i64::MAX as u64);
            let Some(end) = end else { return Err("an extent ends beyond the largest file") };
            if offset < free_from || extent.len == 0 {
                return Err("extents overlap");
            }
            free_from = end;
            extents.push((offset, extent));
        }
        Ok(ExtentMap { extents: OffsetMap::from_ascending(extents) })
    }

    /// Number of extents.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Bytes of the range that extents cover.
    pub fn covered_bytes(&self, range: Range<u64>) -> u64 {
        self.overlapping(range).map(|(_, extent)| extent.len).sum()
    }

    /// Number of extents that begin in the range.
    pub fn count_in(&self, range: Range<u64>) -> usize {
        if range.is_empty() { 0 } else { self.extents.range(range).count() }
    }

    /// Offset of the `n`th extent (from 0) that begins in the range.
    pub fn nth_in(&self, range: Range<u64>, n: usize) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        self.extents.range(range).nth(n).map(|(offset, _)| offset)
    }

    /// The parts of extents that lie in the range, ascending.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Extent)> + '_ {
        let first = match self.extents.range(..range.start).next_back() {
            Some((offset, extent)) if offset + extent.len > range.start => offset,
            _ => range.start,
        };
        let stop = range.end.max(first);
        self.extents
            .range(first..stop)
            .filter_map(move |(offset, extent)| clip(offset, extent, &range))
    }

    /// The whole range as parts of extents and holes, ascending and without a gap.
    pub fn slices(&self, range: Range<u64>) -> Vec<Slice> {
        let mut slices = Vec::new();
        let mut at = range.start;
        for (offset, extent) in self.overlapping(range.clone()) {
            if at < offset {
                slices.push(Slice { offset: at, len: offset - at, source: None });
            }
            slices.push(Slice { offset, len: extent.len, source: Some(extent.source) });
            at = offset + extent.len;
        }
        if at < range.end {
            slices.push(Slice { offset: at, len: range.end - at, source: None });
        }
        slices
    }

    /// The extents that begin in the range or cross into it, whole, ascending.
    pub fn whole(&self, range: Range<u64>) -> Vec<(u64, Extent)> {
        let first = match self.extents.range(..range.start).next_back() {
            Some((offset, extent)) if offset + extent.len > range.start => offset,
            _ => range.start,
        };
        let stop = range.end.max(first);
        self.extents.range(first..stop).map(|(offset, extent)| (offset, *extent)).collect()
    }

    /// First byte at or after `from` that an extent covers.
    pub fn next_data(&self, from: u64) -> Option<u64> {
        self.overlapping(from..i64::MAX as u64).next().map(|(offset, _)| offset)
    }

    /// First byte at or after `from` that no extent covers.
    pub fn next_hole(&self, from: u64) -> u64 {
        let mut at = from;
        for (offset, extent) in self.overlapping(from..i64::MAX as u64) {
            if offset > at {
                break;
            }
            at = offset + extent.len;
        }
        at
    }

    /// The change that leaves exactly `new` in the range. `new` is ascending, without overlap,
    /// and lies in the range; it is cut at piece borders and merged with its neighbours.
    pub fn replace(&self, range: Range<u64>, new: &[(u64, Extent)]) -> Edit {
        if range.is_empty() {
            return Edit::default();
        }
        let before = self.touched(&range);
        let mut after = Vec::with_capacity(new.len() + 2);
        for (offset, extent) in &before {
            if let Some((offset, left)) = clip(*offset, extent, &(0..range.start)) {
                push_merged(&mut after, offset, left);
            }
        }
        for &(offset, extent) in new {
            for (offset, part) in split(offset, extent) {
                push_merged(&mut after, offset, part);
            }
        }
        for (offset, extent) in &before {
            if let Some((offset, right)) = clip(*offset, extent, &(range.end..u64::MAX)) {
                push_merged(&mut after, offset, right);
            }
        }
        Edit::between(&before, &after)
    }

    /// Extents in the range, and those just before and just after that could merge with a new one.
    fn touched(&self, range: &Range<u64>) -> Vec<(u64, Extent)> {
        let before = self.extents.range(..range.start).next_back();
        let before = before.filter(|&(offset, extent)| offset + extent.len >= range.start);
        let inside = self.extents.range(range.start..=range.end);
        before.into_iter().chain(inside).map(|(offset, extent)| (offset, *extent)).collect()
    }

    /// Applies a change that was computed from this map.
    pub fn apply(&mut self, edit: &Edit) {
        for &offset in &edit.removes {
            self.extents.remove(offset);
        }
        for &(offset, extent) in &edit.puts {
            self.extents.insert(offset, extent);
        }
    }
}

impl Edit {
    /// The change from one list of extents to another.
    pub fn between(before: &[(u64, Extent)], after: &[(u64, Extent)]) -> Edit {
        let mut edit = Edit::default();
        for (_, extent) in before {
            edit.covered -= signed(extent.len);
            edit.staged -= signed(staged_len(extent));
        }
        for (_, extent) in after {
            edit.covered += signed(extent.len);
            edit.staged += signed(staged_len(extent));
        }
        let find = |list: &[(u64, Extent)], offset: u64| {
            let at = list.binary_search_by_key(&offset, |&(offset, _)| offset).ok()?;
            Some(list[at].1)
        };
        edit.removes = before
            .iter()
            .map(|&(offset, _)| offset)
            .filter(|&offset| find(after, offset).is_none())
            .collect();
        edit.puts = after
            .iter()
            .filter(|&&(offset, extent)| find(before, offset) != Some(extent))
            .copied()
            .collect();
        edit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A map as plain bytes: each byte's place in the log, or none.
    type Plain = Vec<Option<u64>>;

    const LEN: u64 = 64;
    /// Scales the small test offsets so that they cross piece borders.
    const UNIT: u64 = PIECE_LEN / 8;

    fn staged(at: u64, len: u64) -> Extent {
        Extent { len, source: Source::Staged(StagedAt { segment: 1, offset: at }) }
    }

    fn plain(map: &ExtentMap) -> Plain {
        let mut bytes = vec![None; LEN as usize];
        for slice in map.slices(0..LEN * UNIT) {
            let Some(Source::Staged(at)) = slice.source else { continue };
            for unit in slice.offset / UNIT..(slice.offset + slice.len) / UNIT {
                bytes[unit as usize] = Some(at.offset + unit * UNIT - slice.offset);
            }
        }
        bytes
    }

    fn check_invariant(map: &ExtentMap) {
        let mut free_from = 0;
        for (offset, extent) in map.extents.range(..) {
            assert!(offset >= free_from && extent.len > 0);
            free_from = offset + extent.len;
            assert!(piece_end(offset) >= free_from, "crosses a piece border");
        }
    }

    proptest! {
        #[test]
        fn a_map_says_what_an_array_of_bytes_would(
            changes in prop::collection::vec((0..LEN, 1..=LEN, 0_u8..3), 1..40)
        ) {
            let mut map = ExtentMap::default();
            let mut bytes: Plain = vec![None; LEN as usize];
            let mut log = 0;
            for (start, len, what) in changes {
                let end = (start + len).min(LEN);
                let range = start * UNIT..end * UNIT;
                let new = match what {
                    0 => vec![],
                    _ => vec![(range.start, staged(log, range.end - range.start))],
                };
                for unit in start..end {
                    let at = log + (unit - start) * UNIT;
                    bytes[unit as usize] = (what > 0).then_some(at);
                }
                // One write in two goes on in the log where the last one ended: they can merge.
                log += range.end - range.start + if what == 1 { 0 } else { 7 };
                let covered = map.covered_bytes(0..u64::MAX);
                let edit = map.replace(range, &new);
                map.apply(&edit);
                check_invariant(&map);
                prop_assert_eq!(plain(&map), bytes.clone());
                let now = map.covered_bytes(0..u64::MAX);
                prop_assert_eq!(now as i64 - covered as i64, edit.covered);
                prop_assert_eq!(edit.staged, edit.covered);
                for from in 0..LEN {
                    let is_data = |unit: u64| bytes[unit as usize].is_some();
                    let holds = |data: bool| (from..LEN).find(|&unit| is_data(unit) == data);
                    prop_assert_eq!(map.next_data(from * UNIT), holds(true).map(|u| u * UNIT));
                    let hole = holds(false).unwrap_or(LEN);
                    prop_assert_eq!(map.next_hole(from * UNIT), hole * UNIT);
                }
            }
        }
    }

    #[test]
    fn writes_that_go_on_in_file_and_log_become_one_extent() {
        let mut map = ExtentMap::default();
        for i in 0..10 {
            let edit = map.replace(i * 100..(i + 1) * 100, &[(i * 100, staged(5 + i * 100, 100))]);
            map.apply(&edit);
        }
        assert_eq!(map.whole(0..1000), [(0, staged(5, 1000))]);
    }

    #[test]
    fn merged_extents_stop_at_piece_borders() {
        let mut map = ExtentMap::default();
        let edit = map.replace(0..3 * PIECE_LEN, &[(0, staged(9, 3 * PIECE_LEN))]);
        assert_eq!(edit.puts.len(), 3);
        map.apply(&edit);
        let inside = PIECE_LEN / 2..PIECE_LEN;
        let same = map.slices(inside.clone());
        let edit =
            map.replace(inside, &[(same[0].offset, staged(9 + PIECE_LEN / 2, PIECE_LEN / 2))]);
        assert!(
            edit == Edit::default(),
            "writing the same reference again changes nothing: {edit:?}"
        );
    }

    #[test]
    fn records_that_overlap_are_refused() {
        assert!(ExtentMap::from_records([(0, staged(0, 10)), (9, staged(50, 5))]).is_err());
        assert!(ExtentMap::from_records([(u64::MAX - 3, staged(0, 10))]).is_err());
        assert!(ExtentMap::from_records([(0, staged(0, 10)), (10, staged(50, 5))]).is_ok());
    }
}
