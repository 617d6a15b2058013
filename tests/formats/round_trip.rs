//! What is encoded comes back.

use bytes::Bytes;
use dormouse::format::{
    CHUNK_LEN_MAX, Child, FrameKind, HEAD_NODES_BYTES_MAX, HEAD_RECORDS_BYTES_MAX, Head, Inner,
    Key, Lease, Node, NodeRef, PACK_FOOTER_LEN, PackBuilder, PackIndexEntry, PackInfo, PackKind,
    PackSlot, Snapshot, SnapshotRef, StoreFormat, decode_frame, decode_node, decode_pack_index,
    encode_frame, encode_node,
};
use dormouse::format::{FormatError, frames, pack_id};
use dormouse::types::{CacheId, ChunkId, Epoch, Ino, NodeId, PackId, SnapshotId, Time};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::samples;

fn slots() -> impl Strategy<Value = PackSlot> {
    (any::<[u8; 32]>(), 0..1_u32 << 30, 52_u32..200_000).prop_map(|(pack, offset, len)| PackSlot {
        pack: PackId(pack),
        offset,
        len,
    })
}

fn node_refs() -> impl Strategy<Value = NodeRef> {
    (any::<[u8; 32]>(), slots()).prop_map(|(id, slot)| NodeRef { id: NodeId(id), slot })
}

fn pack_infos() -> impl Strategy<Value = Vec<PackInfo>> {
    vec((any::<[u8; 32]>(), any::<u64>()), 0..5).prop_map(|packs| {
        packs.into_iter().map(|(id, len)| PackInfo { id: PackId(id), len }).collect()
    })
}

fn times() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0_u32..1_000_000_000).prop_map(|(secs, nanos)| Time { secs, nanos })
}

pub fn keys() -> impl Strategy<Value = Key> {
    let ino = || (1_u64..200).prop_map(Ino);
    prop_oneof![
        ino().prop_map(Key::attr),
        ino().prop_map(Key::orphan),
        (ino(), any::<u64>(), "[a-z]{1,255}").prop_map(|(ino, hash, name)| Key::entry(
            ino,
            hash,
            name.as_bytes()
        )),
        (ino(), vec(any::<u8>(), 1..=255)).prop_map(|(ino, name)| Key::xattr(ino, &name)),
        (ino(), any::<u64>()).prop_map(|(ino, offset)| Key::extent(ino, offset)),
    ]
}

pub fn leaves() -> impl Strategy<Value = Node> {
    btree_map(keys(), vec(any::<u8>(), 0..200), 1..50).prop_map(|records| {
        let records = records.iter().map(|(key, value)| (key, value.as_slice()));
        Node::leaf(records).expect("records")
    })
}

pub fn inners() -> impl Strategy<Value = Node> {
    let child = (node_refs(), 0_u64..1 << 40);
    (1_u8..=15, btree_map(keys(), child, 1..50)).prop_map(|(level, children)| {
        let children = children.into_iter().map(|(key, (node, below))| Child {
            key,
            node,
            tree_bytes: below + u64::from(node.slot.len),
        });
        Node::Inner(Inner { level, children: children.collect() })
    })
}

pub fn snapshots() -> impl Strategy<Value = Snapshot> {
    let ids = (vec(any::<[u8; 32]>(), 0..=16), option::of(node_refs()));
    let packs = (pack_infos(), pack_infos());
    let hot_set = vec((any::<[u8; 32]>().prop_map(ChunkId), slots()), 0..10);
    let rest = (times(), any::<[u64; 4]>(), "[ -~]{0,40}");
    (ids, packs, hot_set, rest).prop_map(|((parents, root), packs, hot_set, rest)| {
        let (created, [epoch, next_ino, inodes, bytes], reason) = rest;
        Snapshot {
            workspace: "agent-7".parse().expect("a name"),
            parents: parents.into_iter().map(SnapshotId).collect(),
            created,
            epoch: Epoch(epoch),
            root,
            tree_packs: packs.0,
            next_ino: Ino(next_ino),
            inodes,
            bytes,
            data_packs_added: packs.1,
            hot_set,
            reason,
        }
    })
}

pub fn heads() -> impl Strategy<Value = Head> {
    let lease = (any::<[u8; 16]>(), "[a-zü-]{0,60}", any::<u32>())
        .prop_map(|(id, host, ttl_secs)| Lease { holder: CacheId(id), host, ttl_secs });
    let snapshot = (any::<[u8; 32]>(), "[a-z/0-9-]{0,120}")
        .prop_map(|(id, key)| SnapshotRef { id: SnapshotId(id), key });
    let node = (node_refs(), 52_usize..3000).prop_map(|(mut node, len)| {
        node.slot.len = len as u32;
        (node, Bytes::from(samples::noise(len)))
    });
    let record = ((1_u64..9999), vec(any::<u8>(), 0..200))
        .prop_map(|(ino, value)| (Key::attr(Ino(ino)), Bytes::from(value)));
    let references = (option::of(lease), option::of(snapshot), option::of(node_refs()));
    let inline = (vec(node, 0..4), vec(record, 0..20), pack_infos());
    (any::<[u8; 16]>(), references, inline, any::<[u64; 4]>()).prop_map(
        |(nonce, (lease, snapshot, root), (nodes, records, tree_packs), numbers)| {
            let [epoch, next_ino, inodes, bytes] = numbers;
            Head {
                nonce,
                workspace: "w.1_x-".parse().expect("a name"),
                epoch: Epoch(epoch),
                lease,
                snapshot,
                root,
                nodes,
                records,
                tree_packs,
                next_ino: Ino(next_ino),
                inodes,
                bytes,
            }
        },
    )
}

proptest! {
    #[test]
    fn manifests_come_back(
        head in heads(), snapshot in snapshots(), secret in any::<[u8; 32]>(), created in times(),
    ) {
        let bytes = head.encode().unwrap();
        prop_assert_eq!(Head::decode(&bytes), Ok(head));
        let bytes = snapshot.encode().unwrap();
        prop_assert_eq!(Snapshot::decode(&bytes), Ok(snapshot));
        let format = StoreFormat { secret, created, ..samples::store_format() };
        let bytes = format.encode().unwrap();
        prop_assert_eq!(StoreFormat::decode(&bytes), Ok(format));
    }

    #[test]
    fn nodes_come_back(node in prop_oneof![leaves(), inners()]) {
        let plain = encode_node(&node, |pack| *pack).unwrap();
        prop_assert_eq!(decode_node(plain, PackId([0xfe; 32])), Ok(node));
    }

    #[test]
    fn frames_come_back(plain in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..5000)) {
        let id = samples::keys().chunk(&plain);
        let mut frame = encode_frame(FrameKind::Chunk, id.as_bytes(), &plain);
        let len = frame.len();
        frame.extend_from_slice(b"what follows in the pack");
        let (header, found) = decode_frame(&frame).unwrap();
        prop_assert_eq!((header.id, header.plain_len as usize), (id.0, plain.len()));
        prop_assert_eq!(header.frame_len as usize, len);
        prop_assert!(len <= plain.len() + 52);
        prop_assert_eq!(found, plain);
    }

    #[test]
    fn packs_come_back(lens in vec(0_usize..3000, 0..20)) {
        let mut pack = PackBuilder::new(PackKind::Tree);
        let mut expected = Vec::new();
        for len in lens {
            let plain = samples::noise(len);
            let id = samples::keys().node(&plain).0;
            let frame = encode_frame(FrameKind::Node, &id, &plain);
            let offset = pack.push(&frame).unwrap();
            prop_assert_eq!(pack.frame(offset, frame.len() as u32), Some(frame.as_slice()));
            expected.push(PackIndexEntry { id, offset, len: frame.len() as u32 });
        }
        let len = pack.len();
        let (id, bytes) = pack.finish();
        prop_assert_eq!(bytes.len(), len);
        prop_assert_eq!(pack_id(&bytes), id);
        // From as little of the end as it says that it needs.
        let end = |len: usize| &bytes[bytes.len() - len..];
        let needed = match decode_pack_index(end(PACK_FOOTER_LEN), len as u64) {
            Err(FormatError::Truncated { needed, .. }) => needed as usize,
            other => { prop_assert!(other.is_ok()); PACK_FOOTER_LEN }
        };
        let index = decode_pack_index(end(needed), len as u64).unwrap();
        prop_assert_eq!(&index.entries, &expected);
        let forward: Vec<_> = frames(&bytes[8..]).map(|(at, header)| {
            PackIndexEntry { id: header.id, offset: at as u32 + 8, len: header.frame_len }
        }).collect();
        prop_assert_eq!(forward, expected);
    }
}

#[test]
fn a_frame_that_compresses_is_small_and_one_that_does_not_is_raw() {
    let zeros = encode_frame(FrameKind::Chunk, &[0; 32], &vec![0; CHUNK_LEN_MAX]);
    assert!(zeros.len() < 200, "{}", zeros.len());
    let noise = encode_frame(FrameKind::Chunk, &[0; 32], &samples::noise(CHUNK_LEN_MAX));
    assert_eq!(noise.len(), CHUNK_LEN_MAX + 52);
    assert_eq!(decode_frame(&noise).unwrap().1, samples::noise(CHUNK_LEN_MAX));
}

#[test]
fn a_head_keeps_of_its_nodes_and_records_what_fits() {
    let mut head = samples::head();
    let big = |len: usize| {
        let mut node = samples::node_ref(1);
        node.slot.len = len as u32;
        (node, Bytes::from(vec![0; len]))
    };
    head.nodes = vec![big(100_000), big(100_000), big(100_000), big(60)];
    let value = Bytes::from(vec![0; 30_000]);
    head.records = (1..5).map(|ino| (Key::attr(Ino(ino)), value.clone())).collect();
    let bytes = head.encode().unwrap();
    assert!(bytes.len() < HEAD_NODES_BYTES_MAX + HEAD_RECORDS_BYTES_MAX + 4096);
    let found = Head::decode(&bytes).unwrap();
    assert_eq!(found.nodes, head.nodes[..2]);
    assert_eq!(found.records, head.records[..2]);
}

#[test]
fn a_pack_takes_whole_frames_of_its_kind_only() {
    let mut pack = PackBuilder::new(PackKind::Tree);
    let chunk = samples::raw_frame();
    assert!(pack.push(&chunk).is_err());
    let node = encode_frame(FrameKind::Node, &[0; 32], b"node");
    assert!(pack.push(&node[..node.len() - 1]).is_err());
    assert!(pack.push(&[node.as_slice(), b"x"].concat()).is_err());
    assert!(pack.is_empty());
    assert_eq!(pack.push(&node), Ok(8));
}

#[test]
fn what_no_decoder_would_take_is_not_encoded() {
    let mut head = samples::head();
    head.lease.as_mut().unwrap().host = "h".repeat(257);
    assert!(matches!(head.encode(), Err(FormatError::TooLong { .. })));
    let mut snapshot = samples::snapshot();
    snapshot.hot_set = vec![snapshot.hot_set[0]; 16 * 1024 + 1];
    assert!(matches!(snapshot.encode(), Err(FormatError::TooLong { .. })));
    let value = vec![0; 256 * 1024];
    let node = Node::leaf([(&Key::attr(Ino(1)), value.as_slice())].into_iter()).unwrap();
    assert!(matches!(encode_node(&node, |pack| *pack), Err(FormatError::TooLong { .. })));
}
