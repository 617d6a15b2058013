//! A pack: one object of many frames, with its index at the end.
//!
//! ```text
//! header   magic DMPK | version u16 = 1 | kind u8 | 0 u8                          8 bytes
//! frames   one after the other, without gaps, from byte 8
//! index    per frame, in their order: id 32 | offset u32 | length u32            40 bytes each
//! footer   index offset u32 | frames u32 | version u16 | kind u8 | 0 u8 |
//!          crc32c u32 of the index and of the footer up to here | magic DMPE     20 bytes
//! ```
//! A pack's id is the plain BLAKE3 of all its bytes.

use bytes::Bytes;

use crate::types::PackId;

use super::FormatError;
use super::bytes::{Reader, Writer};
use super::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind, parse_header};

const WHAT: &str = "pack";
const MAGIC: &[u8; 4] = b"DMPK";
const END_MAGIC: &[u8; 4] = b"DMPE";
const VERSION: u16 = 1;

/// Bytes before the first frame.
pub const PACK_HEADER_LEN: usize = 8;

/// Bytes of one index entry.
pub const PACK_ENTRY_LEN: usize = 40;

/// Bytes after the index.
pub const PACK_FOOTER_LEN: usize = 20;

/// Longest pack. Writers aim at 16 MiB.
pub const PACK_LEN_MAX: u64 = 256 * 1024 * 1024;

/// What a pack's frames hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Chunks.
    Data = 1,
    /// Nodes.
    Tree = 2,
}

impl PackKind {
    /// The kind of its frames.
    #[must_use]
    pub fn frame_kind(self) -> FrameKind {
        match self {
            PackKind::Data => FrameKind::Chunk,
            PackKind::Tree => FrameKind::Node,
        }
    }

    fn from_u8(number: u8) -> Option<PackKind> {
        match number {
            1 => Some(PackKind::Data),
            2 => Some(PackKind::Tree),
            _ => None,
        }
    }
}

/// A pack and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackInfo {
    /// The pack.
    pub id: PackId,
    /// Bytes of the whole object.
    pub len: u64,
}

/// Where one frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackIndexEntry {
    /// Id of the chunk or node.
    pub id: [u8; 32],
    /// First byte of the frame in the pack.
    pub offset: u32,
    /// Bytes of the frame, header included.
    pub len: u32,
}

/// A pack's index. The entries lie one after the other and fill the pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIndex {
    /// What the pack holds.
    pub kind: PackKind,
    /// Its frames, in the order in which they lie.
    pub entries: Vec<PackIndexEntry>,
}

/// Builds a pack in memory.
#[derive(Debug)]
pub struct PackBuilder {
    kind: PackKind,
    bytes: Vec<u8>,
    entries: Vec<PackIndexEntry>,
}

impl PackBuilder {
    /// An empty pack.
    #[must_use]
    pub fn new(kind: PackKind) -> PackBuilder {
        let mut bytes = Writer::default();
        bytes.bytes(MAGIC).u16(VERSION).u8(kind as u8).u8(0);
        PackBuilder { kind, bytes: bytes.finish(), entries: Vec::new() }
    }

    /// Appends a whole frame of the pack's kind and returns its offset. Refuses another kind,
    /// bytes that are not one whole frame, and what would make the pack too long.
    pub fn push(&mut self, frame: &[u8]) -> Result<u32, FormatError> {
        let header = parse_header(frame)?;
        if header.kind != self.kind.frame_kind() {
            return Err(FormatError::Malformed { what: WHAT, why: "a frame of the wrong kind" });
        }
        if header.frame_len as usize != frame.len() {
            return Err(FormatError::Malformed { what: WHAT, why: "not one whole frame" });
        }
        let len = (self.len() + frame.len() + PACK_ENTRY_LEN) as u64;
        if len > PACK_LEN_MAX {
            return Err(FormatError::TooLong { what: WHAT, len, max: PACK_LEN_MAX });
        }
        let offset = self.bytes.len() as u32;
        self.entries.push(PackIndexEntry { id: header.id, offset, len: header.frame_len });
        self.bytes.extend_from_slice(frame);
        Ok(offset)
    }

    /// Bytes that the pack has if it is finished now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.entries.len() * PACK_ENTRY_LEN + PACK_FOOTER_LEN
    }

    /// Whether there is no frame in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The frames so far.
    #[must_use]
    pub fn entries(&self) -> &[PackIndexEntry] {
        &self.entries
    }

    /// The bytes of a frame that was pushed; none if there is no such range.
    #[must_use]
    pub fn frame(&self, offset: u32, len: u32) -> Option<&[u8]> {
        let start = offset as usize;
        self.bytes.get(start..start.checked_add(len as usize)?)
    }

    /// Ends the pack. Its id is the hash of the bytes, which are to be stored under it.
    #[must_use]
    pub fn finish(self) -> (PackId, Bytes) {
        let index_offset = self.bytes.len();
        let mut end = Writer::with_capacity(self.len() - index_offset);
        for entry in &self.entries {
            end.bytes(&entry.id).u32(entry.offset).u32(entry.len);
        }
        end.count(index_offset).count(self.entries.len());
        end.u16(VERSION).u8(self.kind as u8).u8(0);
        let mut end = end.finish();
        let crc = crc32c::crc32c(&end);
        end.extend_from_slice(&crc.to_le_bytes());
        end.extend_from_slice(END_MAGIC);
        let mut bytes = self.bytes;
        bytes.extend_from_slice(&end);
        (pack_id(&bytes), bytes.into())
    }
}

/// Id of the pack with these bytes.
#[must_use]
pub fn pack_id(bytes: &[u8]) -> PackId {
    PackId(*blake3::hash(bytes).as_bytes())
}

/// Decodes the index from the last bytes of a pack of `pack_len` bytes. If `tail` is too short,
/// [`FormatError::Truncated`] says how many bytes from the pack's end are needed.
pub fn decode_pack_index(tail: &[u8], pack_len: u64) -> Result<PackIndex, FormatError> {
    if pack_len > PACK_LEN_MAX {
        return Err(FormatError::TooLong { what: WHAT, len: pack_len, max: PACK_LEN_MAX });
    }
    if (tail.len() as u64) > pack_len {
        return Err(FormatError::Malformed { what: WHAT, why: "more tail than pack" });
    }
    let Some(start) = tail.len().checked_sub(PACK_FOOTER_LEN) else {
        return Err(FormatError::Truncated { what: WHAT, needed: PACK_FOOTER_LEN as u64 });
    };
    let mut footer = Reader::new(&tail[start..], WHAT);
    let [index_offset, count] = [footer.u32()?, footer.u32()?];
    let version = footer.u16()?;
    let [kind, reserved] = footer.array()?;
    let crc = footer.u32()?;
    if footer.array()? != *END_MAGIC {
        return Err(FormatError::WrongMagic { what: WHAT });
    }
    check_version(version)?;
    let index_len = u64::from(count) * PACK_ENTRY_LEN as u64;
    let end_len = index_len + PACK_FOOTER_LEN as u64;
    if u64::from(index_offset) + end_len != pack_len {
        return Err(FormatError::Malformed { what: WHAT, why: "index offset" });
    }
    let index = usize::try_from(end_len).ok().and_then(|end_len| tail.len().checked_sub(end_len));
    let Some(index) = index else {
        return Err(FormatError::Truncated { what: WHAT, needed: end_len });
    };
    if crc != crc32c::crc32c(&tail[index..tail.len() - 8]) {
        return Err(FormatError::Checksum { what: WHAT });
    }
    let kind = PackKind::from_u8(kind).ok_or(footer.malformed("kind"))?;
    if reserved != 0 {
        return Err(footer.malformed("reserved byte"));
    }
    let entries = decode_entries(&tail[index..start], index_offset)?;
    Ok(PackIndex { kind, entries })
}

fn decode_entries(bytes: &[u8], index_offset: u32) -> Result<Vec<PackIndexEntry>, FormatError> {
    let mut entries = Vec::with_capacity(bytes.len() / PACK_ENTRY_LEN);
    let mut next = PACK_HEADER_LEN as u32;
    for entry in bytes.chunks_exact(PACK_ENTRY_LEN) {
        let mut reader = Reader::new(entry, WHAT);
        let id = reader.array()?;
        let [offset, len] = [reader.u32()?, reader.u32()?];
        if offset != next || (len as usize) < FRAME_HEADER_LEN {
            return Err(reader.malformed("frame offset or length"));
        }
        next = offset.checked_add(len).ok_or(reader.malformed("frame length"))?;
        entries.push(PackIndexEntry { id, offset, len });
    }
    if next != index_offset {
        return Err(FormatError::Malformed { what: WHAT, why: "frames do not fill the pack" });
    }
    Ok(entries)
}

/// Decodes the header of a pack: the first bytes of the object.
pub fn decode_pack_header(bytes: &[u8]) -> Result<PackKind, FormatError> {
    let mut reader = Reader::new(bytes, WHAT);
    if reader.array()? != *MAGIC {
        return Err(FormatError::WrongMagic { what: WHAT });
    }
    check_version(reader.u16()?)?;
    let kind = PackKind::from_u8(reader.u8()?).ok_or(reader.malformed("kind"))?;
    if reader.u8()? != 0 {
        return Err(reader.malformed("reserved byte"));
    }
    Ok(kind)
}

fn check_version(found: u16) -> Result<(), FormatError> {
    match found {
        VERSION => Ok(()),
        0 => Err(FormatError::Malformed { what: WHAT, why: "version 0" }),
        _ => Err(FormatError::NewerVersion { what: WHAT, found, supported: VERSION }),
    }
}

/// The whole frames in a range of a pack that begins at a frame: (offset within the range,
/// header). Ends at the first byte that is not a whole frame, be it the index, a frame cut off by
/// the range's end, or damage; only decoding a frame proves it.
pub fn frames(range: &[u8]) -> impl Iterator<Item = (usize, FrameHeader)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = parse_header(range.get(at..)?).ok()?;
        let start = at;
        at = at.checked_add(header.frame_len as usize).filter(|&end| end <= range.len())?;
        Some((start, header))
    })
}
