//! Journal records: they are read again after a crash, from a disk that may have torn them.

#[path = "../../../src/local/journal/record.rs"]
mod record;

use record::{Change, HEADER_LEN, Header, decode_batch, encode_carried_out, encode_change};

use super::memtable::State;

/// One record: what recovery does with the bytes at the end of a segment.
pub fn check(bytes: &[u8]) -> bool {
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else { return false };
    let Some(header) = Header::decode(head) else { return false };
    assert_eq!(&header.encode(), head, "a header is written another way");
    assert_eq!(header.record_len(), HEADER_LEN as u64 + header.payload_len());
    let data_len = header.data_len as usize;
    let Some(payload) = payload.get(..header.payload_len() as usize) else { return false };
    if crc32c::crc32c(payload) != header.payload_crc {
        return false;
    }
    let batch = &payload[data_len..];
    let Ok(decoded) = decode_batch(batch) else { return false };
    let mut again = Vec::new();
    for (key, state) in &decoded.changes {
        let change = match state {
            State::Value(value) => Change::Value(value),
            State::Tombstone => Change::Tombstone,
            State::Base => Change::Base,
        };
        encode_change(&mut again, key, change);
    }
    match &decoded.carried_out {
        None => assert!(again == batch, "a batch is written another way"),
        // It may stand anywhere, and of several the last counts.
        Some(done) => {
            encode_carried_out(&mut again, done);
            assert_eq!(decode_batch(&again), Ok(decoded));
        }
    }
    true
}

/// A record of all kinds of changes.
pub fn sample() -> Vec<u8> {
    use dormouse::format::Key;
    use dormouse::local::CarriedOut;
    use dormouse::types::{ConnectionId, Ino, RequestId};

    let data = b"bytes of a file";
    let mut batch = Vec::new();
    encode_change(&mut batch, &Key::attr(Ino(7)), Change::Value(b"value"));
    encode_change(&mut batch, &Key::extent(Ino(7), 4096), Change::Tombstone);
    encode_change(&mut batch, &Key::entry(Ino(1), 99, b"name"), Change::Base);
    let request = RequestId { connection: ConnectionId(77), unique: 12 };
    encode_carried_out(&mut batch, &CarriedOut { request, result: 4096 });
    let payload = [&data[..], &batch].concat();
    let payload_crc = crc32c::crc32c(&payload);
    let [data_len, batch_len] = [data.len() as u32, batch.len() as u32];
    let header = Header { seq: 3, data_len, batch_len, payload_crc };
    [&header.encode()[..], &payload].concat()
}
