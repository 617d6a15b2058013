//! Reading a file's bytes, and finding its data and holes.

use super::attr::require_file;
use super::extents::Slice;
use super::inode::Need;
use super::request::{Caller, Seek};
use super::{Filesystem, FsError};
use crate::chunks::{ChunkPart, Fetch};
use crate::format::Source;
use crate::types::{Buffer, Ino};

/// Most bytes that one read gives.
pub const READ_LEN_MAX: u32 = 16 << 20;

impl Filesystem {
    /// Reads up to `len` bytes ([`READ_LEN_MAX`] at most); fewer only at the end of the file.
    /// Holes read zero. Waits for at most one batch of requests to the store.
    pub fn read(
        &self,
        caller: &Caller,
        ino: Ino,
        offset: u64,
        len: u32,
    ) -> Result<Buffer, FsError> {
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
    ) -> Result<(Buffer, Vec<ChunkPart>), FsError> {
        let cell = self.filled(ino, Need::Content)?;
        let state = cell.state.read();
        let attr = state.attr()?;
        require_file(attr)?;
        let end = attr.size.min(offset.saturating_add(u64::from(len.min(READ_LEN_MAX))));
        let Some(content) = state.content.as_ref().filter(|_| offset < end) else {
            return Ok((Buffer::default(), Vec::new()));
        };
        // The slices leave nothing out.
        let mut bytes = Buffer::unwritten((end - offset) as usize);
        let mut parts = Vec::new();
        for slice in content.extents.slices(offset..end) {
            let at = (slice.offset - offset) as usize;
            let Slice { len, source, .. } = slice;
            let len = len as usize;
            match source {
                None => bytes[at..at + len].fill(0),
                Some(Source::Staged(place)) => {
                    self.local.read_staged(place, &mut bytes[at..at + len])?;
                }
                Some(Source::Chunk { id, within, slot }) => {
                    parts.push(ChunkPart { id, slot, within: within as usize, to: at..at + len });
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
        let missed = self.chunks.read_parts(parts, bytes, fetch)?;
        let wishes = self.ahead.read(ino, offset, bytes.len() as u64, missed, &self.chunks);
        for wish in wishes.into_iter().flatten() {
            self.read_ahead(wish);
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
