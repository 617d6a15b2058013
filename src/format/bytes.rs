//! Taking little-endian values off the front of a buffer and putting them on the end of one.

use crate::types::Time;

use super::FormatError;

/// Takes values off the front; every length is checked before anything is read or allocated.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors call them `what`.
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { bytes, what }
    }

    /// The error for a field that holds what it can't.
    pub(super) fn malformed(&self, why: &'static str) -> FormatError {
        FormatError::Malformed { what: self.what, why }
    }

    /// Takes the magic and the version byte, which must be these.
    pub(super) fn kind(&mut self, magic: &[u8; 4], version: u8) -> Result<(), FormatError> {
        if self.array()? != *magic {
            return Err(FormatError::WrongMagic { what: self.what });
        }
        match self.u8()? {
            found if found == version => Ok(()),
            0 => Err(self.malformed("version 0")),
            found => {
                let [found, supported] = [found, version].map(u16::from);
                Err(FormatError::NewerVersion { what: self.what, found, supported })
            }
        }
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or_else(|| self.truncated(N))?;
        self.bytes = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Seconds and nanoseconds.
    pub(super) fn time(&mut self) -> Result<Time, FormatError> {
        let secs = self.array().map(i64::from_le_bytes)?;
        let nanos = self.u32()?;
        if nanos >= 1_000_000_000 {
            return Err(self.malformed("nanoseconds"));
        }
        Ok(Time { secs, nanos })
    }

    /// 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed("flag")),
        }
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or_else(|| self.truncated(len))?;
        self.bytes = rest;
        Ok(head)
    }

    /// A `u32` count of items of at least `item_len` bytes each: at most `max`, and no more than
    /// the remaining bytes can hold, so that it is safe to allocate for.
    pub(super) fn count(&mut self, max: usize, item_len: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(FormatError::TooLong {
                what: self.what,
                len: count as u64,
                max: max as u64,
            });
        }
        if count > self.bytes.len() / item_len {
            return Err(self.truncated(count.saturating_mul(item_len)));
        }
        Ok(count)
    }

    /// Bytes with a `u32` length before them, at most `max`.
    pub(super) fn blob(&mut self, max: usize) -> Result<&'a [u8], FormatError> {
        let len = self.count(max, 1)?;
        self.take(len)
    }

    /// Text with a `u32` length before it, at most `max` bytes.
    pub(super) fn text(&mut self, max: usize) -> Result<&'a str, FormatError> {
        let bytes = self.blob(max)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed("text is not UTF-8"))
    }

    /// Bytes not taken yet.
    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Result<(), FormatError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed("bytes after the end")) }
    }

    fn truncated(&self, needed: usize) -> FormatError {
        FormatError::Truncated { what: self.what, needed: needed as u64 }
    }
}

/// Puts values on the end of a buffer.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// A writer with room for `capacity` bytes.
    pub(super) fn with_capacity(capacity: usize) -> Writer {
        Writer(Vec::with_capacity(capacity))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, number: u8) -> &mut Writer {
        self.bytes(&[number])
    }

    pub(super) fn u16(&mut self, number: u16) -> &mut Writer {
        self.bytes(&number.to_le_bytes())
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Writer {
        self.bytes(&number.to_le_bytes())
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Writer {
        self.bytes(&number.to_le_bytes())
    }

    pub(super) fn time(&mut self, time: Time) -> &mut Writer {
        self.bytes(&time.secs.to_le_bytes()).u32(time.nanos)
    }

    /// A length or count. Saturates: an encoder checks its limits, all far below, itself.
    pub(super) fn count(&mut self, count: usize) -> &mut Writer {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// A length and that many bytes.
    pub(super) fn blob(&mut self, bytes: &[u8]) -> &mut Writer {
        self.count(bytes.len()).bytes(bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
