//! Reading parts of chunks to where they are wanted.
//!
//! A large chunk that is wanted whole is decoded into its place, and not kept in memory: who reads
//! a file once through needs neither a copy of it nor what it would drive out.

use std::ops::Range;

use crate::format::{FrameKind, PackSlot, parse_header};
use crate::types::ChunkId;

use super::ChunkError;
use super::fetch::{Fetch, Fetcher};
use super::frames::{open_frame, open_frame_into};

/// Shorter parts are copied from chunks that are kept.
const DIRECT_LEN_MIN: usize = 64 << 10;

/// A part of a chunk that is wanted.
#[derive(Debug, Clone)]
pub struct ChunkPart {
    /// The chunk.
    pub id: ChunkId,
    /// Where it is in the store.
    pub slot: PackSlot,
    /// Where the part begins in the chunk's plaintext.
    pub within: usize,
    /// Where it goes; it has that length.
    pub to: Range<usize>,
}

impl ChunkPart {
    /// Whether this frame's plaintext is just what is wanted, and large.
    fn is_direct(&self, frame: &[u8]) -> bool {
        let len = self.to.len();
        self.within == 0
            && len >= DIRECT_LEN_MIN
            && parse_header(frame).is_ok_and(|header| header.plain_len as usize == len)
    }

    fn copy(&self, plain: &[u8], out: &mut [u8]) -> Result<(), ChunkError> {
        let part = plain.get(self.within..).and_then(|rest| rest.get(..self.to.len()));
        let part = part.ok_or_else(|| ChunkError::Corrupt {
            what: format!("chunk {}", self.id),
            pack: self.slot.pack,
            cause: format!("an extent reaches beyond its {} bytes", plain.len()),
        })?;
        out[self.to.clone()].copy_from_slice(part);
        Ok(())
    }
}

impl Fetcher {
    /// Fills the parts' places in `out`; tells whether any of them was not local. After an error
    /// the places hold anything.
    pub(super) fn read_parts(
        &self,
        parts: &[ChunkPart],
        out: &mut [u8],
        fetch: Fetch,
    ) -> Result<bool, ChunkError> {
        let mut missing = Vec::new();
        for part in parts {
            if !self.local_part(part, out)? {
                missing.push(part);
            }
        }
        if missing.is_empty() {
            return Ok(false);
        }
        let wanted: Vec<_> = missing.iter().map(|part| (part.id, part.slot)).collect();
        let plains = self.read_missing(&wanted, fetch)?;
        for (part, plain) in missing.iter().zip(&plains) {
            part.copy(plain, out)?;
        }
        Ok(true)
    }

    /// Whether the part was local, and is in its place now.
    fn local_part(&self, part: &ChunkPart, out: &mut [u8]) -> Result<bool, ChunkError> {
        let (kind, id) = (FrameKind::Chunk, &part.id.0);
        if let Some(plain) = self.in_memory(&part.id) {
            return part.copy(&plain, out).map(|()| true);
        }
        let opened = self.below.open_cached_with(id, |frame| {
            if part.is_direct(frame) {
                let place = &mut out[part.to.clone()];
                open_frame_into(&self.below.keys, kind, id, frame, place).map(|()| None)
            } else {
                open_frame(&self.below.keys, kind, id, frame).map(Some)
            }
        });
        let Some(opened) = opened else { return Ok(false) };
        self.note_cached(&part.id);
        match opened {
            None => self.below.hot.note(&part.id, &part.slot),
            Some(plain) => {
                let plain = self.remember_chunk(&part.id, &part.slot, plain);
                part.copy(&plain, out)?;
            }
        }
        Ok(true)
    }
}
