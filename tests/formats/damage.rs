//! Whatever the bytes: no panic, no unbounded allocation; and where there is a checksum, no
//! change goes unnoticed.

use bytes::Bytes;
use dormouse::format::{
    FormatError, Head, KeyParts, Node, PACK_FOOTER_LEN, Snapshot, StoreFormat, decode_attr,
    decode_entry, decode_extent, decode_frame, decode_node, decode_pack_header, decode_pack_index,
    encode_extent, encode_node, frames, parse_header,
};
use dormouse::types::PackId;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::round_trip::{heads, inners, leaves, snapshots};
use crate::samples;

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Cut(Index),
    Insert(Index, u8),
    Swap(Index, Index),
}

impl Damage {
    /// The damaged bytes; none if they are the same as before.
    fn apply(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut damaged = bytes.to_vec();
        match self {
            Damage::Set(at, byte) => damaged[at.index(bytes.len())] = *byte,
            Damage::Cut(at) => damaged.truncate(at.index(bytes.len())),
            Damage::Insert(at, byte) => damaged.insert(at.index(bytes.len()), *byte),
            Damage::Swap(one, two) => damaged.swap(one.index(bytes.len()), two.index(bytes.len())),
        }
        (damaged != bytes).then_some(damaged)
    }
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, two)| Damage::Swap(one, two)),
    ]
}

/// Uses a node in every way that a reader would.
fn use_node(node: &Node) {
    for index in 0..node.len() {
        assert_eq!(node.search(node.key(index)), Ok(index));
        if let Node::Leaf(leaf) = node {
            let (key, value) = leaf.record(index);
            assert!(key.parts().is_some());
            _ = (decode_attr(&value), decode_entry(&value), decode_extent(&value));
        }
    }
    assert!(node.memory_bytes() > 0);
}

fn decode_everything(bytes: &[u8]) {
    _ = Head::decode(bytes);
    _ = Snapshot::decode(bytes);
    _ = StoreFormat::decode(bytes);
    _ = parse_header(bytes);
    _ = decode_frame(bytes);
    _ = frames(bytes).count();
    _ = decode_pack_header(bytes);
    _ = decode_pack_index(bytes, bytes.len() as u64);
    _ = decode_pack_index(bytes, 1 << 20);
    _ = (KeyParts::parse(bytes), decode_attr(bytes), decode_entry(bytes), decode_extent(bytes));
    if let Ok(node) = decode_node(Bytes::copy_from_slice(bytes), PackId([0; 32])) {
        use_node(&node);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_bytes_make_a_decoder_panic(
        bytes in vec(any::<u8>(), 0..300),
        magic in prop_oneof![
            Just(b"DMHD\x01\0\0\0"), Just(b"DMSN\x01\0\0\0"), Just(b"DMST\x01\0\0\0"),
            Just(b"DMFR\x01\x01\x01\0"), Just(b"DMFR\x01\x02\0\0"), Just(b"DMPK\x01\0\x01\0"),
            Just(b"DMND\x01\0\0\0"), Just(b"DMND\x01\x02\0\0"),
        ],
    ) {
        decode_everything(&bytes);
        decode_everything(&[magic.as_slice(), &bytes].concat());
        // The end of a pack: count, version, kind, checksum, magic.
        decode_everything(&[&bytes, b"\x01\0\0\0\x01\0\x01\0abcdDMPE".as_slice()].concat());
    }

    #[test]
    fn a_damaged_manifest_is_never_taken(
        head in heads(), snapshot in snapshots(), damage in damages(),
    ) {
        if let Some(bytes) = damage.apply(&head.encode().unwrap()) {
            prop_assert!(Head::decode(&bytes).is_err());
        }
        if let Some(bytes) = damage.apply(&snapshot.encode().unwrap()) {
            prop_assert!(Snapshot::decode(&bytes).is_err());
        }
        if let Some(bytes) = damage.apply(&samples::store_format().encode().unwrap()) {
            prop_assert!(StoreFormat::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_damaged_frame_is_never_taken(damage in damages(), compressed in any::<bool>()) {
        let plain = if compressed { samples::zstd_plain() } else { samples::noise(500) };
        let kind = dormouse::format::FrameKind::Chunk;
        let frame = dormouse::format::encode_frame(kind, &[7; 32], &plain);
        if let Some(bytes) = damage.apply(&frame) {
            prop_assert!(decode_frame(&bytes).is_err());
        }
    }

    #[test]
    fn a_damaged_pack_index_is_never_taken(damage in damages()) {
        let (_, pack) = samples::pack();
        let index_len = 3 * 40 + PACK_FOOTER_LEN;
        let (front, end) = pack.split_at(pack.len() - index_len);
        if let Some(end) = damage.apply(end) {
            let bytes = [front, &end].concat();
            prop_assert!(decode_pack_index(&bytes, bytes.len() as u64).is_err());
            prop_assert!(decode_pack_index(&bytes, pack.len() as u64).is_err());
        }
    }

    #[test]
    fn a_damaged_node_has_another_id_and_is_safe_to_use(
        node in prop_oneof![leaves(), inners()], damage in damages(),
    ) {
        let plain = encode_node(&node, |pack| *pack).unwrap();
        if let Some(damaged) = damage.apply(&plain) {
            let keys = samples::keys();
            prop_assert_ne!(keys.node(&damaged), keys.node(&plain));
            if let Ok(node) = decode_node(damaged.into(), PackId([0; 32])) {
                use_node(&node);
            }
        }
    }
}

#[test]
fn every_cut_manifest_and_frame_is_refused() {
    let head = samples::head().encode().unwrap();
    let snapshot = samples::snapshot().encode().unwrap();
    let format = samples::store_format().encode().unwrap();
    let frame = samples::raw_frame();
    for len in 0..head.len() {
        assert!(Head::decode(&head[..len]).is_err(), "{len}");
    }
    for len in 0..snapshot.len() {
        assert!(Snapshot::decode(&snapshot[..len]).is_err(), "{len}");
    }
    for len in 0..format.len() {
        assert!(StoreFormat::decode(&format[..len]).is_err(), "{len}");
    }
    for len in 0..frame.len() {
        let error = decode_frame(&frame[..len]).unwrap_err();
        assert!(matches!(error, FormatError::Truncated { .. }), "{len}: {error}");
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let newer = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] = 2;
        bytes
    };
    let found = [
        Head::decode(&newer(&samples::head().encode().unwrap(), 4)).unwrap_err(),
        Snapshot::decode(&newer(&samples::snapshot().encode().unwrap(), 4)).unwrap_err(),
        StoreFormat::decode(&newer(&samples::store_format().encode().unwrap(), 4)).unwrap_err(),
        decode_frame(&newer(&samples::raw_frame(), 4)).unwrap_err(),
        decode_pack_header(&newer(&samples::pack().1, 4)).unwrap_err(),
        {
            let pack = samples::pack().1;
            let pack = newer(&pack, pack.len() - 12);
            decode_pack_index(&pack, pack.len() as u64).unwrap_err()
        },
        {
            let plain = newer(&samples::plain(&samples::leaf()), 4);
            decode_node(plain.into(), PackId([0; 32])).unwrap_err()
        },
    ];
    for error in found {
        let is_newer = matches!(error, FormatError::NewerVersion { found: 2, supported: 1, .. });
        assert!(is_newer, "{error}");
        assert!(error.to_string().contains("version 2"), "{error}");
    }
}

#[test]
fn another_kind_of_object_is_said_to_be_one() {
    let head = samples::head().encode().unwrap();
    assert_eq!(Snapshot::decode(&head), Err(FormatError::WrongMagic { what: "snapshot" }));
    assert_eq!(Head::decode(b"<html>"), Err(FormatError::WrongMagic { what: "head" }));
}

#[test]
fn a_frame_s_length_bounds_what_is_unpacked() {
    // A small frame that says it is small, but unpacks to 100 MB.
    let bomb = zstd::bulk::compress(&vec![0; 100_000_000], 1).unwrap();
    let mut frame = b"DMFR\x01\x01\x01\0".to_vec();
    frame.extend_from_slice(&(bomb.len() as u32 + 1).to_le_bytes());
    frame.extend_from_slice(&(bomb.len() as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 32]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), &bomb);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(&bomb);
    assert_eq!(decode_frame(&frame), Err(FormatError::Compression { what: "frame" }));
    // One that says it is too long is not even tried.
    frame[8..12].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    assert!(matches!(decode_frame(&frame), Err(FormatError::TooLong { .. })));
}

#[test]
fn local_state_in_a_node_is_refused() {
    let key = dormouse::format::Key::local("base");
    let node = Node::leaf([(&key, &b"evil"[..])].into_iter()).unwrap();
    let plain = encode_node(&node, |pack| *pack).unwrap();
    let error = decode_node(plain, PackId([0; 32])).unwrap_err();
    assert!(matches!(error, FormatError::Malformed { .. }), "{error}");
}

#[test]
fn an_extent_can_t_reach_beyond_a_chunk() {
    let mut extent = samples::extent();
    extent.len = 256 * 1024 - 512;
    assert_eq!(decode_extent(&encode_extent(&extent)), Ok(extent));
    extent.len += 1;
    assert!(decode_extent(&encode_extent(&extent)).is_err());
    extent.len = 0;
    assert!(decode_extent(&encode_extent(&extent)).is_err());
}
