//! What becomes of a piece of a file: pure decisions, no I/O.
//!
//! A file is cut at multiples of 256 KiB. A piece with staged bytes becomes one chunk that spans
//! its first to its last byte (holes inside count as zeros in the chunk, but stay holes in the
//! file), unless that needs a fetch from the store; then only its staged runs become chunks.
//! Too many small extents are worth the fetch.

use crate::format::{Extent, PackSlot, Source};
use crate::types::ChunkId;

/// Files are cut at multiples of this; no extent crosses one.
pub const PIECE_LEN: u64 = 256 * 1024;

/// A piece that would have more extents than this is fetched and made one chunk.
pub const PIECE_EXTENTS_MAX: usize = 16;

/// Extents of a piece by file offset.
pub type Extents = Vec<(u64, Extent)>;

/// A chunk to be made: a range of the file and the extents that it holds bytes of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlan {
    /// First byte, in the file.
    pub start: u64,
    /// End, exclusive, in the file; at most [`PIECE_LEN`] after the start.
    pub end: u64,
    /// Contiguous ranges of content in it: start and length. The rest is holes.
    pub runs: Vec<(u64, u64)>,
}

/// What to do with a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PiecePlan {
    /// Chunks to make.
    pub chunks: Vec<ChunkPlan>,
    /// Extents that stay as they are.
    pub kept: Extents,
}

/// Start of the piece that holds the byte at `offset`.
#[must_use]
pub fn piece_start(offset: u64) -> u64 {
    offset - offset % PIECE_LEN
}

/// Whether any of these extents is staged.
#[must_use]
pub fn is_staged(extent: &Extent) -> bool {
    matches!(extent.source, Source::Staged(_))
}

/// Decides for a piece with these extents (sorted, not overlapping, within one piece).
#[must_use]
pub fn plan(extents: &Extents, is_local: impl Fn(&ChunkId, &PackSlot) -> bool) -> PiecePlan {
    let cached = extents.iter().all(|(_, extent)| match &extent.source {
        Source::Staged(_) => true,
        Source::Chunk { id, slot, .. } => is_local(id, slot),
    });
    if cached {
        return whole(extents);
    }
    let kept: Extents = extents.iter().filter(|(_, e)| !is_staged(e)).copied().collect();
    let chunks: Vec<ChunkPlan> = runs(extents.iter().filter(|(_, extent)| is_staged(extent)))
        .into_iter()
        .map(|(start, len)| ChunkPlan { start, end: start + len, runs: vec![(start, len)] })
        .collect();
    if kept.len() + chunks.len() > PIECE_EXTENTS_MAX {
        return whole(extents);
    }
    PiecePlan { chunks, kept }
}

fn whole(extents: &Extents) -> PiecePlan {
    let runs = runs(extents.iter());
    let chunk = runs.first().zip(runs.last()).map(|(&(start, _), &(last, len))| ChunkPlan {
        start,
        end: last + len,
        runs: runs.clone(),
    });
    PiecePlan { chunks: chunk.into_iter().collect(), kept: Extents::new() }
}

/// Contiguous ranges that these extents cover.
fn runs<'a>(extents: impl Iterator<Item = &'a (u64, Extent)>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (offset, extent) in extents {
        match runs.last_mut() {
            Some((start, len)) if *start + *len == *offset => *len += extent.len,
            _ => runs.push((*offset, extent.len)),
        }
    }
    runs
}

/// Whether the extents are sorted, do not overlap and stay inside the piece at `from`.
#[must_use]
pub fn is_piece(from: u64, extents: &Extents) -> bool {
    let mut next = from;
    for (offset, extent) in extents {
        let end = offset.checked_add(extent.len);
        match end {
            Some(end) if *offset >= next && end - from <= PIECE_LEN => next = end,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::StagedAt;
    use crate::types::PackId;

    fn staged(offset: u64, len: u64) -> (u64, Extent) {
        let source = Source::Staged(StagedAt { segment: 1, offset });
        (offset, Extent { len, source })
    }

    fn chunk(offset: u64, len: u64) -> (u64, Extent) {
        let slot = PackSlot { pack: PackId([1; 32]), offset: 0, len: 9 };
        (offset, Extent { len, source: Source::Chunk { id: ChunkId([7; 32]), within: 0, slot } })
    }

    #[test]
    fn a_piece_that_is_all_here_becomes_one_chunk_with_its_holes_kept() {
        let extents = vec![staged(10, 10), chunk(20, 5), staged(100, 1)];
        let planned = plan(&extents, |_, _| true);
        assert_eq!(planned.kept, []);
        assert_eq!(
            planned.chunks,
            [ChunkPlan { start: 10, end: 101, runs: vec![(10, 15), (100, 1)] }]
        );
    }

    #[test]
    fn without_the_old_chunk_here_only_the_written_runs_become_chunks() {
        let extents = vec![staged(0, 4), staged(4, 4), chunk(8, 100), staged(200, 8)];
        let planned = plan(&extents, |_, _| false);
        assert_eq!(planned.kept, [chunk(8, 100)]);
        assert_eq!(
            planned.chunks,
            [
                ChunkPlan { start: 0, end: 8, runs: vec![(0, 8)] },
                ChunkPlan { start: 200, end: 208, runs: vec![(200, 8)] },
            ]
        );
    }

    #[test]
    fn many_small_extents_are_worth_a_fetch() {
        let mut extents = Extents::new();
        for i in 0..9 {
            extents.push(staged(i * 20, 10));
            extents.push(chunk(i * 20 + 10, 10));
        }
        assert_eq!(plan(&extents, |_, _| false).chunks.len(), 1);
        extents.truncate(16);
        assert_eq!(plan(&extents, |_, _| false).chunks.len(), 8);
    }

    #[test]
    fn extents_that_overlap_or_leave_the_piece_are_told() {
        assert!(is_piece(0, &vec![staged(0, 4), staged(4, 4)]));
        assert!(!is_piece(0, &vec![staged(0, 5), staged(4, 4)]));
        assert!(!is_piece(0, &vec![staged(PIECE_LEN - 1, 2)]));
        assert!(is_piece(PIECE_LEN, &vec![staged(PIECE_LEN, PIECE_LEN)]));
    }
}
