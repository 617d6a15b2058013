//! Journal records: one per commit.
//!
//! ```text
//! 0       4            8     16         20          24            28
//! | magic | header crc | seq | data len | batch len | payload crc | data ... | batch ...
//! | u32   | u32        | u64 | u32      | u32       | u32         |
//!
//! header crc    CRC-32C of bytes 8 to 27
//! payload crc   CRC-32C of data and batch
//! seq           1 for a directory's first commit, then each its predecessor's plus one
//! batch         changes: kind u8 | key len u16 | value len u32 | key | value
//!               kind 0 tombstone, 1 value, 2 base (the overlay says nothing); value only for 1
//!               kind 3, at most once: the request of the kernel that the commit carries out;
//!               key = connection u64 | unique u64, value = result u64
//! ```
//! Data comes first, so that an extent points at raw bytes in the segment file.

use bytes::Bytes;

use crate::format::Key;
use crate::local::CarriedOut;
use crate::local::memtable::State;
use crate::types::{ConnectionId, RequestId};

/// Bytes before a record's data.
pub(in crate::local) const HEADER_LEN: usize = 28;

/// Longest data and batch together. A bound for decoders; commits are far smaller.
pub(in crate::local) const PAYLOAD_LEN_MAX: usize = 256 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"DMJ1");
const CHANGE_HEADER_LEN: usize = 7;
const CARRIED_OUT: u8 = 3;

/// A record's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) seq: u64,
    pub(super) data_len: u32,
    pub(super) batch_len: u32,
    pub(super) payload_crc: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..20].copy_from_slice(&self.data_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.batch_len.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[8..]);
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// None: these bytes are not a record's header.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Header> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if u32_at(0) != MAGIC || u32_at(4) != crc32c::crc32c(&bytes[8..]) {
            return None;
        }
        let header = Header {
            seq: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            data_len: u32_at(16),
            batch_len: u32_at(20),
            payload_crc: u32_at(24),
        };
        (header.payload_len() <= PAYLOAD_LEN_MAX as u64).then_some(header)
    }

    pub(super) fn payload_len(&self) -> u64 {
        u64::from(self.data_len) + u64::from(self.batch_len)
    }

    pub(super) fn record_len(&self) -> u64 {
        HEADER_LEN as u64 + self.payload_len()
    }
}

/// One change as it is encoded.
#[derive(Debug, Clone, Copy)]
pub(in crate::local) enum Change<'a> {
    Tombstone,
    Value(&'a [u8]),
    Base,
}

/// Appends a change to a batch. Keys and values are within the bounds of `format`.
pub(in crate::local) fn encode_change(out: &mut Vec<u8>, key: &Key, change: Change<'_>) {
    let (kind, value) = match change {
        Change::Tombstone => (0, &[][..]),
        Change::Value(value) => (1, value),
        Change::Base => (2, &[][..]),
    };
    put_change(out, kind, key.as_bytes(), value);
}

/// Appends to a batch that it carries a request out.
pub(in crate::local) fn encode_carried_out(out: &mut Vec<u8>, done: &CarriedOut) {
    let RequestId { connection, unique } = done.request;
    let mut key = [0; 16];
    key[..8].copy_from_slice(&connection.0.to_le_bytes());
    key[8..].copy_from_slice(&unique.to_le_bytes());
    put_change(out, CARRIED_OUT, &key, &done.result.to_le_bytes());
}

fn put_change(out: &mut Vec<u8>, kind: u8, key: &[u8], value: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// A batch, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::local) struct Decoded {
    /// The changes, in order.
    pub(in crate::local) changes: Vec<(Key, State)>,
    /// The request that it carries out.
    pub(in crate::local) carried_out: Option<CarriedOut>,
}

/// A batch's content; an error's text says what is wrong.
pub(super) fn decode_batch(batch: &[u8]) -> Result<Decoded, &'static str> {
    let mut decoded = Decoded::default();
    let mut rest = batch;
    while let Some((head, tail)) = rest.split_first_chunk::<CHANGE_HEADER_LEN>() {
        let key_len = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let value_len = u32::from_le_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let (key, tail) = tail.split_at_checked(key_len).ok_or("a key is cut off")?;
        let (value, tail) = tail.split_at_checked(value_len).ok_or("a value is cut off")?;
        rest = tail;
        if head[0] == CARRIED_OUT {
            let done = decode_carried_out(key, value).ok_or("a request is malformed")?;
            decoded.carried_out = Some(done);
            continue;
        }
        let key = Key::from_bytes(key).map_err(|_| "a key is malformed")?;
        let state = match head[0] {
            0 if value.is_empty() => State::Tombstone,
            1 => State::Value(Bytes::copy_from_slice(value)),
            2 if value.is_empty() => State::Base,
            _ => return Err("a change is of no known kind"),
        };
        decoded.changes.push((key, state));
    }
    if rest.is_empty() { Ok(decoded) } else { Err("bytes are left over") }
}

fn decode_carried_out(key: &[u8], value: &[u8]) -> Option<CarriedOut> {
    let (words, rest) = key.as_chunks::<8>();
    let [connection, unique] = words.try_into().ok().filter(|_| rest.is_empty())?;
    let request = RequestId {
        connection: ConnectionId(u64::from_le_bytes(connection)),
        unique: u64::from_le_bytes(unique),
    };
    Some(CarriedOut { request, result: u64::from_le_bytes(value.try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Ino;

    #[test]
    fn a_header_reads_back_and_any_flipped_bit_is_seen() {
        let header = Header { seq: 1 << 40, data_len: 7, batch_len: 9, payload_crc: 0xabcd };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_payload_over_the_bound_is_no_record() {
        let len = PAYLOAD_LEN_MAX as u32;
        let header = Header { seq: 1, data_len: len, batch_len: 1, payload_crc: 0 };
        assert_eq!(Header::decode(&header.encode()), None);
    }

    #[test]
    fn a_batch_reads_back_and_every_cut_of_it_is_refused() {
        let mut batch = Vec::new();
        let (a, b) = (Key::attr(Ino(1)), Key::extent(Ino(2), 4096));
        encode_change(&mut batch, &a, Change::Value(b"value"));
        let whole = batch.len();
        encode_change(&mut batch, &b, Change::Tombstone);
        encode_change(&mut batch, &a, Change::Base);
        let request = RequestId { connection: ConnectionId(7), unique: 1 << 40 };
        let done = CarriedOut { request, result: u64::MAX };
        encode_carried_out(&mut batch, &done);
        let Decoded { changes: decoded, carried_out } = decode_batch(&batch).unwrap();
        assert_eq!(carried_out, Some(done));
        assert!(decode_batch(&batch[..batch.len() - 1]).is_err());
        let value = State::Value(Bytes::from_static(b"value"));
        assert_eq!(decoded, [(a.clone(), value), (b, State::Tombstone), (a, State::Base)]);
        for cut in 1..whole {
            assert!(decode_batch(&batch[..cut]).is_err(), "cut at {cut}");
        }
    }
}
