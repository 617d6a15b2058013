//! Fixed values of every structure.

use bytes::Bytes;
use dormouse::format::{
    Child, Extent, FrameKind, HashKeys, Head, Inner, Key, Lease, Node, NodeRef, OWN_PACK,
    PackBuilder, PackInfo, PackKind, PackSlot, Snapshot, SnapshotRef, Source, StoreFormat,
    encode_attr, encode_entry, encode_extent, encode_frame, encode_node,
};
use dormouse::types::{Attr, CacheId, ChunkId, Epoch, Ino, Kind, NodeId, PackId, SnapshotId, Time};

/// Bytes that look random and do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("dormouse golden noise").finalize_xof().fill(&mut bytes);
    bytes
}

pub fn keys() -> HashKeys {
    HashKeys::new(&std::array::from_fn(|i| i as u8))
}

pub fn slot(byte: u8) -> PackSlot {
    PackSlot { pack: PackId([byte; 32]), offset: 0x0102_0304, len: 0x0506 }
}

pub fn node_ref(byte: u8) -> NodeRef {
    NodeRef { id: NodeId([byte; 32]), slot: slot(byte + 1) }
}

pub fn attr(kind: Kind) -> Attr {
    let target: &[u8] = if kind == Kind::Symlink { b"../to/\xffthere" } else { b"" };
    Attr {
        kind,
        mode: 0o4755,
        uid: 1000,
        gid: 1001,
        nlink: 2,
        size: 0x0001_0203_0405,
        allocated: 4096,
        rdev: 0x0801,
        atime: Time::new(1_700_000_000, 1),
        mtime: Time::new(-5, 999_999_999),
        ctime: Time::new(0, 0),
        crtime: Time::new(i64::MAX, 7),
        target: target.into(),
        parent: if kind == Kind::Directory { Ino(77) } else { Ino::META },
    }
}

pub fn extent() -> Extent {
    let source = Source::Chunk { id: ChunkId([4; 32]), within: 512, slot: slot(5) };
    Extent { len: 0x3_f000, source }
}

/// One record of each kind that a leaf may hold.
pub fn records() -> Vec<(Key, Vec<u8>)> {
    let entry = dormouse::format::EntryRecord { ino: Ino(9), kind: Kind::File };
    vec![
        (Key::orphan(Ino(12)), vec![]),
        (Key::attr(Ino(1)), encode_attr(&attr(Kind::Directory))),
        (Key::entry(Ino(1), 0x1122_3344_5566_7788, b"name \xff"), encode_entry(entry)),
        (Key::attr(Ino(9)), encode_attr(&attr(Kind::File))),
        (Key::xattr(Ino(9), b"user.note"), b"value".to_vec()),
        (Key::extent(Ino(9), 0), encode_extent(&extent())),
        (Key::attr(Ino(0x0102_0304_0506_0708)), encode_attr(&attr(Kind::Symlink))),
    ]
}

pub fn leaf() -> Node {
    let records = records();
    let records = records.iter().map(|(key, value)| (key, value.as_slice()));
    Node::leaf(records).expect("records")
}

pub fn inner() -> Node {
    let child = |ino, node| Child { key: Key::attr(Ino(ino)), node, tree_bytes: 0x0a0b_0c0d };
    let mut own = node_ref(3);
    own.slot.pack = OWN_PACK;
    Node::Inner(Inner { level: 2, children: vec![child(1, own), child(500, node_ref(6))] })
}

pub fn plain(node: &Node) -> Bytes {
    encode_node(node, |pack| *pack).expect("a node within its limits")
}

/// A frame that is stored raw: its bytes do not depend on the version of zstd.
pub fn raw_frame() -> Vec<u8> {
    let plain = noise(100);
    encode_frame(FrameKind::Chunk, keys().chunk(&plain).as_bytes(), &plain)
}

pub fn zstd_plain() -> Vec<u8> {
    b"the same again, ".repeat(500)
}

pub fn pack() -> (PackId, Bytes) {
    let mut pack = PackBuilder::new(PackKind::Data);
    for len in [100, 0, 3000] {
        let plain = noise(len);
        let frame = encode_frame(FrameKind::Chunk, keys().chunk(&plain).as_bytes(), &plain);
        pack.push(&frame).expect("a frame of the pack's kind");
    }
    pack.finish()
}

pub fn store_format() -> StoreFormat {
    StoreFormat {
        version: StoreFormat::VERSION,
        store_id: [1; 16],
        secret: std::array::from_fn(|i| i as u8),
        condition_style: 2,
        created: Time::new(1_700_000_000, 123),
    }
}

pub fn packs(count: u8) -> Vec<PackInfo> {
    (1..=count).map(|i| PackInfo { id: PackId([i; 32]), len: u64::from(i) << 20 }).collect()
}

pub fn snapshot() -> Snapshot {
    Snapshot {
        workspace: "agent-7".parse().expect("a name"),
        parents: vec![SnapshotId([8; 32])],
        created: Time::new(1_700_000_000, 456),
        epoch: Epoch(3),
        root: Some(node_ref(1)),
        tree_packs: packs(2),
        next_ino: Ino(1001),
        inodes: 900,
        bytes: 1 << 33,
        data_packs_added: packs(3),
        hot_set: vec![(ChunkId([5; 32]), slot(6)), (ChunkId([7; 32]), slot(8))],
        reason: "hibernate".to_owned(),
    }
}

pub fn head() -> Head {
    let id = SnapshotId([9; 32]);
    let frame = Bytes::from(noise(slot(0).len as usize));
    Head {
        nonce: [0xab; 16],
        workspace: "agent-7".parse().expect("a name"),
        epoch: Epoch(4),
        lease: Some(Lease { holder: CacheId([2; 16]), host: "büro-1".to_owned(), ttl_secs: 600 }),
        snapshot: Some(SnapshotRef { id, key: snapshot().key(&id) }),
        root: Some(node_ref(1)),
        nodes: vec![(node_ref(1), frame.clone()), (node_ref(2), frame)],
        records: vec![(Key::attr(Ino(9)), encode_attr(&attr(Kind::File)).into())],
        tree_packs: packs(2),
        next_ino: Ino(1001),
        inodes: 900,
        bytes: 1 << 33,
    }
}

pub fn first_head() -> Head {
    Head {
        nonce: [1; 16],
        workspace: "w".parse().expect("a name"),
        epoch: Epoch(1),
        lease: None,
        snapshot: None,
        root: None,
        nodes: vec![],
        records: vec![],
        tree_packs: vec![],
        next_ino: Ino(2),
        inodes: 0,
        bytes: 0,
    }
}
