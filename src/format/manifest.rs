//! The envelope of the small objects that are not content-named frames.
//!
//! ```text
//! | magic 4 | version u16 | 0 u16 | body length u32 | body | checksum 16 |
//! ```
//! The checksum is the first 16 bytes of the BLAKE3 of everything before it.

use super::FormatError;
use super::bytes::{Reader, Writer};

const HEADER_LEN: usize = 12;
const CHECKSUM_LEN: usize = 16;

/// One kind of manifest.
pub(super) struct Manifest {
    /// What messages call it.
    pub(super) what: &'static str,
    /// First four bytes.
    pub(super) magic: [u8; 4],
    /// Version written, and newest read.
    pub(super) version: u16,
    /// Longest body.
    pub(super) body_len_max: usize,
}

impl Manifest {
    /// Wraps a body. Refuses one that [`Manifest::open`] would refuse.
    pub(super) fn seal(&self, body: Writer) -> Result<Vec<u8>, FormatError> {
        let body = body.finish();
        self.check_len(body.len())?;
        let mut out = Writer::with_capacity(HEADER_LEN + body.len() + CHECKSUM_LEN);
        out.bytes(&self.magic).u16(self.version).u16(0).blob(&body);
        let mut out = out.finish();
        let checksum = checksum(&out);
        out.extend_from_slice(&checksum);
        Ok(out)
    }

    /// Checks the envelope and gives its version and body.
    pub(super) fn open<'a>(&self, bytes: &'a [u8]) -> Result<(u16, Reader<'a>), FormatError> {
        let mut reader = Reader::new(bytes, self.what);
        if reader.array()? != self.magic {
            return Err(FormatError::WrongMagic { what: self.what });
        }
        let version = reader.u16()?;
        if version > self.version {
            let (what, supported) = (self.what, self.version);
            return Err(FormatError::NewerVersion { what, found: version, supported });
        }
        if version == 0 || reader.u16()? != 0 {
            return Err(reader.malformed("header"));
        }
        let body_len = reader.u32()? as usize;
        self.check_len(body_len)?;
        let body = reader.take(body_len)?;
        let found: [u8; CHECKSUM_LEN] = reader.array()?;
        reader.end()?;
        if found != checksum(&bytes[..HEADER_LEN + body_len]) {
            return Err(FormatError::Checksum { what: self.what });
        }
        Ok((version, Reader::new(body, self.what)))
    }

    fn check_len(&self, len: usize) -> Result<(), FormatError> {
        if len > self.body_len_max {
            let [len, max] = [len, self.body_len_max].map(|len| len as u64);
            return Err(FormatError::TooLong { what: self.what, len, max });
        }
        Ok(())
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}
