//! Reading a file's bytes, and finding its data and holes.

use super::attr::require_file;
use super::extents::Slice;
use super::inode::Need;
use super::request::{Caller, Seek};
use super::{Filesystem, FsError};
use crate::chunks::Fetch;
use crate::format::{PackSlot, Source};
use crate::types::{ChunkId, Ino};

/// Most bytes that one read gives.
pub const READ_LEN_MAX: u32 = 16 << 20;

/// A part of a read that must be copied out of a chunk.
#[derive(Debug)]
struct ChunkPart {
    chunk: ChunkId,
    slot: PackSlot,
    within: usize,
    /// Where in the answer, and how much.
    at: usize,
    len: usize,
}

impl Filesystem {
    /// Reads up to `len` bytes ([`READ_LEN_MAX`] at most); fewer only at the end of the file.
    /// Holes read zero. Waits for at most one batch of requests to the store.
    pub fn read(
        &self,
        caller: &Caller,
        ino: Ino,
        offset: u64,
        len: u32,
    ) -> Result<Vec<u8>, FsError> {
        let (mut bytes, parts) =
            self.read_only(caller.fetch, || self.read_staged_parts(ino, offset, len))?;
        self.read_chunk_parts(&parts, &mut bytes, caller.fetch, (ino, offset))?;
        Ok(bytes)
    }

    /// The answer with its staged parts and holes, and what is to be read from chunks. Staged
    /// bytes are read under the inode's lock, which keeps them from being replaced and swept.
    fn read_staged_parts(
        &self,
        ino: Ino,
        offset: u64,
        len: u32,
    ) -> Result<(Vec<u8>, Vec<ChunkPart>), FsError> {
        let cell = self.filled(ino, Need::Content)?;
        let state = cell.state.read();
        let attr = state.attr()?;
        require_file(attr)?;
        let end = attr.size.min(offset.saturating_add(u64::from(len.min(READ_LEN_MAX))));
        let Some(content) = state.content.as_ref().filter(|_| offset < end) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let mut bytes = vec![0; (end - offset) as usize];
        let mut parts = Vec::new();
        for slice in content.extents.slices(offset..end) {
            let at = (slice.offset - offset) as usize;
            let Slice { len, source, .. } = slice;
            let len = len as usize;
            match source {
                None => {}
                Some(Source::Staged(place)) => {
                    self.local.read_staged(place, &mut bytes[at..at + len])?;
                }
                Some(Source::Chunk { id, within, slot }) => {
                    parts.push(ChunkPart { chunk: id, slot, within: within as usize, at, len });
                }
            }
        }
        Ok((bytes, parts))
    }

    fn read_chunk_parts(
        &self,
        parts: &[ChunkPart],
        bytes: &mut [u8],
        fetch: Fetch,
        (ino, offset): (Ino, u64),
    ) -> Result<(), FsError> {
        if parts.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = parts.iter().map(|part| (part.chunk, part.slot)).collect();
        let (chunks, missed) = self.chunks.read_noting(&wanted, fetch)?;
        let wishes = self.ahead.read(ino, offset, bytes.len() as u64, missed, &self.chunks);
        for wish in wishes.into_iter().flatten() {
            self.read_ahead(wish);
        }
        for (part, chunk) in parts.iter().zip(&chunks) {
            let ChunkPart { within, at, len, .. } = *part;
            let Some(content) = chunk.get(within..within + len) else {
                let what = format!("an extent reaches beyond its chunk {}", part.chunk);
                return Err(FsError::Corrupt { ino, what });
            };
            bytes[at..at + len].copy_from_slice(content);
        }
        Ok(())
    }

    /// The next byte of data, or of a hole, at or after `offset`; the end of the file counts as a
    /// hole. `BeyondEnd` if `offset` is at or behind the end or no data follows.
    pub fn lseek(
        &self,
        caller: &Caller,
        ino: Ino,
        offset: u64,
        seek: Seek,
    ) -> Result<u64, FsError> {
        self.read_only(caller.fetch, || {
            let cell = self.filled(ino, Need::Content)?;
            let state = cell.state.read();
            let attr = state.attr()?;
            require_file(attr)?;
            let content = state.content.as_ref().filter(|_| offset < attr.size);
            let extents = &content.ok_or(FsError::BeyondEnd)?.extents;
            match seek {
                Seek::Data => extents.next_data(offset).ok_or(FsError::BeyondEnd),
                Seek::Hole => Ok(extents.next_hole(offset).min(attr.size)),
            }
        })
    }
}
