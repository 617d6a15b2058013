//! Record values.
//!
//! ```text
//! Attr    kind u8 | mode u16 | uid u32 | gid u32 | nlink u32 | rdev u32 | size u64 |
//!         allocated u64 | atime, mtime, ctime, crtime: secs i64, nanos u32 each |
//!         symlinks only: target bytes to the end | directories only: parent inode u64
//! Entry   inode u64 | kind u8
//! Xattr   the value itself
//! Extent  length u64 | 0 u8 | segment u64 | offset u64                      staged, local only
//!         length u64 | 1 u8 | chunk id 32 | offset within the chunk u32 |
//!                      pack id 32 | frame offset u32 | frame length u32     in a chunk
//! Orphan  empty
//! ```

use crate::types::{Attr, ChunkId, Ino, Kind, PackId};

use super::bytes::Reader;
use super::{CHUNK_LEN_MAX, FormatError};

/// Longest symlink target (Linux `PATH_MAX` less the NUL).
const TARGET_LEN_MAX: usize = 4095;

/// What a directory entry leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRecord {
    /// The child.
    pub ino: Ino,
    /// The child's kind, so that `readdir` needs no attributes.
    pub kind: Kind,
}

/// A frame's place in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackSlot {
    /// The pack.
    pub pack: PackId,
    /// First byte of the frame (its header) in the pack.
    pub offset: u32,
    /// Bytes of the frame, header included.
    pub len: u32,
}

/// Place of written bytes in the local staging log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StagedAt {
    /// The log segment's number.
    pub segment: u64,
    /// Byte offset in the segment's file.
    pub offset: u64,
}

/// Where an extent's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the staging log; only on this machine.
    Staged(StagedAt),
    /// In a stored chunk.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Offset of the extent's first byte within the chunk's plaintext.
        within: u32,
        /// Where the chunk's frame is.
        slot: PackSlot,
    },
}

/// A range of a file; its offset is in the key. A range with no extent is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes; at least 1.
    pub len: u64,
    /// Where they are.
    pub source: Source,
}

/// Encodes an attribute record.
#[must_use]
pub fn encode_attr(attr: &Attr) -> Vec<u8> {
    // To the byte: a longer buffer costs the record another allocation.
    let tail = if attr.kind == Kind::Directory { 8 } else { attr.target.len() };
    let mut out = Vec::with_capacity(83 + tail);
    out.push(attr.kind as u8);
    out.extend_from_slice(&((attr.mode & 0o7777) as u16).to_le_bytes());
    for number in [attr.uid, attr.gid, attr.nlink, attr.rdev] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&attr.size.to_le_bytes());
    out.extend_from_slice(&attr.allocated.to_le_bytes());
    for time in [attr.atime, attr.mtime, attr.ctime, attr.crtime] {
        out.extend_from_slice(&time.secs.to_le_bytes());
        out.extend_from_slice(&time.nanos.to_le_bytes());
    }
    if attr.kind == Kind::Directory {
        out.extend_from_slice(&attr.parent.0.to_le_bytes());
    } else {
        out.extend_from_slice(&attr.target);
    }
    out
}

/// Decodes an attribute record.
pub fn decode_attr(bytes: &[u8]) -> Result<Attr, FormatError> {
    let mut reader = Reader::new(bytes, "attribute record");
    let kind = Kind::from_u8(reader.u8()?).ok_or_else(|| reader.malformed("kind"))?;
    let mode = u32::from(reader.u16()?);
    let [uid, gid, nlink, rdev] = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
    let [size, allocated] = [reader.u64()?, reader.u64()?];
    let [atime, mtime] = [reader.time()?, reader.time()?];
    let [ctime, crtime] = [reader.time()?, reader.time()?];
    let parent = match kind {
        Kind::Directory => Ino(reader.u64()?),
        _ => Ino::META,
    };
    let target = reader.rest();
    let target_fits =
        if kind == Kind::Symlink { target.len() <= TARGET_LEN_MAX } else { target.is_empty() };
    let parent_fits = (kind == Kind::Directory) == (parent != Ino::META);
    if mode > 0o7777 || !target_fits || !parent_fits {
        return Err(reader.malformed("mode, target or parent"));
    }
    let target = target.into();
    Ok(Attr {
        kind,
        mode,
        uid,
        gid,
        nlink,
        size,
        allocated,
        rdev,
        atime,
        mtime,
        ctime,
        crtime,
        target,
        parent,
    })
}

/// Encodes an entry record.
#[must_use]
pub fn encode_entry(entry: EntryRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    out.extend_from_slice(&entry.ino.0.to_le_bytes());
    out.push(entry.kind as u8);
    out
}

/// Decodes an entry record.
pub fn decode_entry(bytes: &[u8]) -> Result<EntryRecord, FormatError> {
    let mut reader = Reader::new(bytes, "entry record");
    let ino = Ino(reader.u64()?);
    let kind = Kind::from_u8(reader.u8()?).ok_or_else(|| reader.malformed("kind"))?;
    reader.end()?;
    if ino == Ino::META {
        return Err(reader.malformed("inode"));
    }
    Ok(EntryRecord { ino, kind })
}

/// Encodes an extent record.
#[must_use]
pub fn encode_extent(extent: &Extent) -> Vec<u8> {
    let mut out = Vec::with_capacity(85);
    out.extend_from_slice(&extent.len.to_le_bytes());
    match &extent.source {
        Source::Staged(at) => {
            out.push(0);
            out.extend_from_slice(&at.segment.to_le_bytes());
            out.extend_from_slice(&at.offset.to_le_bytes());
        }
        Source::Chunk { id, within, slot } => {
            out.push(1);
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&within.to_le_bytes());
            out.extend_from_slice(slot.pack.as_bytes());
            out.extend_from_slice(&slot.offset.to_le_bytes());
            out.extend_from_slice(&slot.len.to_le_bytes());
        }
    }
    out
}

/// Decodes an extent record.
pub fn decode_extent(bytes: &[u8]) -> Result<Extent, FormatError> {
    let mut reader = Reader::new(bytes, "extent record");
    let len = reader.u64()?;
    let source = match reader.u8()? {
        0 => Source::Staged(StagedAt { segment: reader.u64()?, offset: reader.u64()? }),
        1 => Source::Chunk {
            id: ChunkId(reader.array()?),
            within: reader.u32()?,
            slot: PackSlot {
                pack: PackId(reader.array()?),
                offset: reader.u32()?,
                len: reader.u32()?,
            },
        },
        _ => return Err(reader.malformed("source")),
    };
    reader.end()?;
    if len == 0 || len > i64::MAX as u64 {
        return Err(reader.malformed("length"));
    }
    if let Source::Chunk { within, .. } = &source
        && u64::from(*within).saturating_add(len) > CHUNK_LEN_MAX as u64
    {
        return Err(reader.malformed("range beyond the longest chunk"));
    }
    Ok(Extent { len, source })
}
