//! A frame: one chunk or node as stored.
//!
//! ```text
//!  0      4         5      6          7   8            12           16   48            52
//! | magic | version | kind | encoding | 0 | plain len  | stored len | id | crc32c      | stored
//! | DMFR  | u8 = 1  | u8   | u8       |   | u32        | u32        | 32 | of all else | bytes
//! ```
//! The id is the keyed hash of the plaintext, so it is checked after decoding, by whoever has
//! the keys. The crc32c covers bytes 0 to 47 and the stored bytes: it tells damage from a wrong
//! id without keys.

use std::cell::RefCell;

use super::FormatError;
use super::bytes::{Reader, Writer};

const WHAT: &str = "frame";
/// The first bytes of every frame, for finding one in the middle of a pack.
pub const FRAME_MAGIC: &[u8; 4] = b"DMFR";
const VERSION: u8 = 1;

/// Bytes of a frame before its stored bytes.
pub const FRAME_HEADER_LEN: usize = 52;

/// Longest plaintext of a chunk.
pub const CHUNK_LEN_MAX: usize = 256 * 1024;

/// Longest plaintext of a node. Nodes are cut at 64 KiB; only a single long record exceeds that.
pub const NODE_LEN_MAX: usize = 256 * 1024;

/// Usual zstd level: measured on source trees, lower and higher ones are no better a deal.
pub const ZSTD_LEVEL: i32 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A piece of file content.
    Chunk = 1,
    /// A tree node.
    Node = 2,
}

impl FrameKind {
    /// Longest plaintext of this kind.
    #[must_use]
    pub fn plain_len_max(self) -> usize {
        match self {
            FrameKind::Chunk => CHUNK_LEN_MAX,
            FrameKind::Node => NODE_LEN_MAX,
        }
    }
}

/// How the stored bytes are made from the plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Encoding {
    Raw = 0,
    Zstd = 1,
}

/// What a frame says of itself. Lengths are within their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it holds.
    pub kind: FrameKind,
    /// Id of the chunk or node.
    pub id: [u8; 32],
    /// Bytes of the plaintext.
    pub plain_len: u32,
    /// Bytes of the whole frame, header included.
    pub frame_len: u32,
}

/// Encodes a frame: zstd at [`ZSTD_LEVEL`], or raw where that would gain less than 5 %. `plain`
/// must be within `kind`'s limit; a longer one gives a frame that every decoder refuses.
#[must_use]
pub fn encode_frame(kind: FrameKind, id: &[u8; 32], plain: &[u8]) -> Vec<u8> {
    encode_frame_at(ZSTD_LEVEL, kind, id, plain)
}

/// [`encode_frame`] at another zstd level.
#[must_use]
pub fn encode_frame_at(level: i32, kind: FrameKind, id: &[u8; 32], plain: &[u8]) -> Vec<u8> {
    debug_assert!(plain.len() <= kind.plain_len_max(), "{} bytes of {kind:?}", plain.len());
    let packed = compress(level, plain).filter(|packed| packed.len() < plain.len() / 20 * 19);
    let (encoding, stored) = match &packed {
        Some(packed) => (Encoding::Zstd, packed.as_slice()),
        None => (Encoding::Raw, plain),
    };
    let mut out = Writer::with_capacity(FRAME_HEADER_LEN + stored.len());
    out.bytes(FRAME_MAGIC).u8(VERSION).u8(kind as u8).u8(encoding as u8).u8(0);
    out.count(plain.len()).count(stored.len()).bytes(id);
    let mut out = out.finish();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), stored);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(stored);
    out
}

/// Reads the header at the front of `bytes`, which need not hold the whole frame. Checks
/// everything but the checksum, so a header alone proves nothing.
pub fn parse_header(bytes: &[u8]) -> Result<FrameHeader, FormatError> {
    parse(bytes).map(|(header, _, _)| header)
}

/// Decodes the frame at the front of `bytes`; bytes after it are ignored. Checks the checksum
/// and the lengths, not the id. Allocates at most the kind's longest plaintext.
pub fn decode_frame(bytes: &[u8]) -> Result<(FrameHeader, Vec<u8>), FormatError> {
    let (header, encoding, crc) = parse(bytes)?;
    let stored = stored_bytes(bytes, &header)?;
    if crc != crc32c::crc32c_append(crc32c::crc32c(&bytes[..FRAME_HEADER_LEN - 4]), stored) {
        return Err(FormatError::Checksum { what: WHAT });
    }
    let plain = match encoding {
        Encoding::Raw => stored.to_vec(),
        Encoding::Zstd => decompress(stored, header.plain_len as usize)?,
    };
    Ok((header, plain))
}

/// As [`decode_frame`], with the plaintext to where it is wanted: it must have just that length.
/// Leaves the checksum to whoever compares the hash, which proves more. After an error `plain`
/// holds anything.
pub fn decode_frame_into(bytes: &[u8], plain: &mut [u8]) -> Result<FrameHeader, FormatError> {
    let (header, encoding, _) = parse(bytes)?;
    let stored = stored_bytes(bytes, &header)?;
    if header.plain_len as usize != plain.len() {
        let [len, max] = [u64::from(header.plain_len), plain.len() as u64];
        return Err(FormatError::TooLong { what: WHAT, len, max });
    }
    match encoding {
        Encoding::Raw => plain.copy_from_slice(stored),
        Encoding::Zstd => decompress_into(stored, plain)?,
    }
    Ok(header)
}

fn stored_bytes<'a>(bytes: &'a [u8], header: &FrameHeader) -> Result<&'a [u8], FormatError> {
    let frame_len = header.frame_len as usize;
    let needed = u64::from(header.frame_len);
    bytes.get(FRAME_HEADER_LEN..frame_len).ok_or(FormatError::Truncated { what: WHAT, needed })
}

fn parse(bytes: &[u8]) -> Result<(FrameHeader, Encoding, u32), FormatError> {
    if bytes.len() < FRAME_HEADER_LEN {
        return Err(FormatError::Truncated { what: WHAT, needed: FRAME_HEADER_LEN as u64 });
    }
    let mut reader = Reader::new(bytes, WHAT);
    reader.kind(FRAME_MAGIC, VERSION)?;
    let kind = match reader.u8()? {
        1 => FrameKind::Chunk,
        2 => FrameKind::Node,
        _ => return Err(reader.malformed("kind")),
    };
    let encoding = match reader.u8()? {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        _ => return Err(reader.malformed("encoding")),
    };
    if reader.u8()? != 0 {
        return Err(reader.malformed("reserved byte"));
    }
    let [plain_len, stored_len] = [reader.u32()?, reader.u32()?];
    let max = kind.plain_len_max();
    if plain_len as usize > max {
        let [len, max] = [u64::from(plain_len), max as u64];
        return Err(FormatError::TooLong { what: WHAT, len, max });
    }
    let stored_fits = match encoding {
        Encoding::Raw => stored_len == plain_len,
        Encoding::Zstd => stored_len < plain_len,
    };
    if !stored_fits {
        return Err(reader.malformed("stored length"));
    }
    let id = reader.array()?;
    let crc = reader.u32()?;
    let frame_len = FRAME_HEADER_LEN as u32 + stored_len;
    Ok((FrameHeader { kind, id, plain_len, frame_len }, encoding, crc))
}

thread_local! {
    // A zstd context takes longer to make than a small chunk takes to pack.
    static PACK: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> =
        const { RefCell::new(None) };
    static UNPACK: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// None where zstd fails (it then is stored raw).
fn compress(level: i32, plain: &[u8]) -> Option<Vec<u8>> {
    PACK.with_borrow_mut(|context| {
        if context.as_ref().is_none_or(|(made_for, _)| *made_for != level) {
            *context = zstd::bulk::Compressor::new(level).ok().map(|made| (level, made));
        }
        context.as_mut()?.1.compress(plain).ok()
    })
}

/// Allocates just `plain_len` bytes: zstd fails when the content is longer.
fn decompress(stored: &[u8], plain_len: usize) -> Result<Vec<u8>, FormatError> {
    let plain = with_decompressor(|context| context.decompress(stored, plain_len).ok());
    plain.filter(|plain| plain.len() == plain_len).ok_or(FormatError::Compression { what: WHAT })
}

/// Fails unless the content is as long as its place.
fn decompress_into(stored: &[u8], plain: &mut [u8]) -> Result<(), FormatError> {
    let len = with_decompressor(|context| context.decompress_to_buffer(stored, plain).ok());
    let is_whole = len == Some(plain.len());
    is_whole.then_some(()).ok_or(FormatError::Compression { what: WHAT })
}

fn with_decompressor<T>(
    run: impl FnOnce(&mut zstd::bulk::Decompressor<'static>) -> Option<T>,
) -> Option<T> {
    UNPACK.with_borrow_mut(|context| {
        if context.is_none() {
            *context = zstd::bulk::Decompressor::new().ok();
        }
        run(context.as_mut()?)
    })
}
