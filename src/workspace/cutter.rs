//! Makes chunks of a staged piece: reads its bytes, hands them to the chunk layer, and remembers
//! which extents will stand for it once the store has them.

use std::collections::BTreeMap;

use crate::chunks::{ChunkError, Chunks, Fetch};
use crate::format::{Extent, PackSlot, Source};
use crate::fs::SettledRegion;
use crate::local::{Local, LocalError};
use crate::types::{ChunkId, Ino};

use super::WorkspaceError;
use super::plan::{self, ChunkPlan, Extents, PIECE_LEN};

/// Piece by inode and start.
pub type PieceKey = (Ino, u64);

/// Pieces whose chunks are under way.
pub type Drafts = BTreeMap<PieceKey, Draft>;

/// A piece whose chunks were made and are stored, or on their way.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its extents when its bytes were read.
    pub captured: Extents,
    /// Staged bytes in it.
    pub staged_bytes: u64,
    chunks: Vec<(ChunkPlan, ChunkId)>,
    kept: Extents,
}

/// What a cutter reads from and writes to.
#[derive(Debug, Clone, Copy)]
pub struct Cutter<'a> {
    /// Home of the staged bytes.
    pub local: &'a Local,
    /// Where chunks go.
    pub chunks: &'a Chunks,
}

impl Cutter<'_> {
    /// Makes the chunks of the piece `key` with these extents. None if staged bytes are gone: the
    /// piece was changed since its extents were read (never while a cut holds them).
    pub fn cut(
        &self,
        key: PieceKey,
        captured: Extents,
        fetch: Fetch,
    ) -> Result<Option<Draft>, WorkspaceError> {
        if !plan::is_piece(key.1, &captured) {
            return Err(WorkspaceError::Corrupt {
                what: format!("inode {}", key.0),
                cause: format!("extents overlap or leave their piece at byte {}", key.1),
            });
        }
        let planned = plan::plan(&captured, |id, _| self.chunks.is_local(id));
        let mut chunks = Vec::with_capacity(planned.chunks.len());
        for chunk in planned.chunks {
            match self.read(&chunk, &captured, fetch)? {
                Some(plain) => chunks.push((chunk, self.add(&plain)?)),
                None => return Ok(None),
            }
        }
        let staged = captured.iter().filter(|(_, extent)| plan::is_staged(extent));
        let staged_bytes = staged.map(|(_, extent)| extent.len).sum();
        Ok(Some(Draft { captured, staged_bytes, chunks, kept: planned.kept }))
    }

    /// Adds a chunk. Where there is no room because uploads failed, they are tried again first:
    /// the failure that is reported is today's, not that of an outage that has passed.
    fn add(&self, plain: &[u8]) -> Result<ChunkId, WorkspaceError> {
        match self.chunks.add_chunk(plain) {
            Err(ChunkError::Unavailable(_)) => {
                self.chunks.make_room()?;
                Ok(self.chunks.add_chunk(plain)?)
            }
            added => Ok(added?),
        }
    }

    /// The bytes of a chunk-to-be; holes are zeros.
    fn read(
        &self,
        chunk: &ChunkPlan,
        extents: &Extents,
        fetch: Fetch,
    ) -> Result<Option<Vec<u8>>, WorkspaceError> {
        let mut plain = vec![0; (chunk.end - chunk.start).min(PIECE_LEN) as usize];
        let inside = |(offset, extent): &&(u64, Extent)| {
            *offset >= chunk.start && offset + extent.len <= chunk.end
        };
        for (offset, extent) in extents.iter().filter(inside) {
            let at = (offset - chunk.start) as usize;
            let target = &mut plain[at..at + extent.len as usize];
            if !self.read_extent(extent, target, fetch)? {
                return Ok(None);
            }
        }
        Ok(Some(plain))
    }

    fn read_extent(
        &self,
        extent: &Extent,
        target: &mut [u8],
        fetch: Fetch,
    ) -> Result<bool, WorkspaceError> {
        match extent.source {
            Source::Staged(at) => match self.local.read_staged(at, target) {
                Ok(()) => Ok(true),
                Err(LocalError::NotStaged(_)) => Ok(false),
                Err(error) => Err(error.into()),
            },
            Source::Chunk { id, within, slot } => {
                let plain = self.chunks.read(&id, &slot, fetch)?;
                let from = within as usize;
                let part = plain.get(from..from + target.len());
                let part = part.ok_or_else(|| WorkspaceError::Corrupt {
                    what: format!("chunk {id}"),
                    cause: String::from("shorter than an extent says"),
                })?;
                target.copy_from_slice(part);
                Ok(true)
            }
        }
    }
}

impl Draft {
    /// Whether all its chunks are in the store.
    pub fn is_stored(&self, slot_of: impl Fn(&ChunkId) -> Option<PackSlot>) -> bool {
        self.chunks.iter().all(|(_, id)| slot_of(id).is_some())
    }

    /// The piece's new extents, if all its chunks are in the store.
    pub fn region(
        &self,
        from: u64,
        slot_of: impl Fn(&ChunkId) -> Option<PackSlot>,
    ) -> Option<SettledRegion> {
        let mut sealed = self.kept.clone();
        for (chunk, id) in &self.chunks {
            let slot = slot_of(id)?;
            for (start, len) in &chunk.runs {
                // Within a piece of 256 KiB.
                let within = (start - chunk.start) as u32;
                sealed.push((
                    *start,
                    Extent { len: *len, source: Source::Chunk { id: *id, within, slot } },
                ));
            }
        }
        sealed.sort_by_key(|(offset, _)| *offset);
        let captured = self.captured.clone();
        Some(SettledRegion { from, to: from + PIECE_LEN, captured, sealed })
    }
}
