//! The bytes of format version 1. These files never change: a store written by any release must
//! be readable by every later one. A new version gets new files beside them. To write files that
//! are missing: `DORMOUSE_WRITE_GOLDEN=1 cargo test --release --test formats golden`.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dormouse::format::{
    FrameKind, Head, Key, PackKind, Snapshot, StoreFormat, decode_attr, decode_entry,
    decode_extent, decode_frame, decode_node, decode_pack_header, decode_pack_index, encode_frame,
    frames, pack_id,
};
use dormouse::types::{Ino, Kind, PackId};

use crate::samples;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/golden").join(name)
}

/// The golden bytes; where there are none and it is asked for, makes them from `bytes`.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = path(name);
    if std::env::var_os("DORMOUSE_WRITE_GOLDEN").is_some() && !path.exists() {
        fs::write(&path, bytes).expect("a golden file that can be written");
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Checks that `bytes` are the golden ones and gives those.
fn same_as_golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let golden = golden(name, bytes);
    let first = golden.iter().zip(bytes).position(|(golden, found)| golden != found);
    let lens = (golden.len(), bytes.len());
    assert!(golden == bytes, "{name}: differs at {first:?}, lengths {lens:?}");
    golden
}

#[test]
fn heads_are_written_and_read_as_ever() {
    for (name, head) in [("head.v1", samples::head()), ("head-first.v1", samples::first_head())] {
        let golden = same_as_golden(name, &head.encode().unwrap());
        assert_eq!(Head::decode(&golden), Ok(head));
    }
}

#[test]
fn snapshots_are_written_and_read_as_ever() {
    let snapshot = samples::snapshot();
    let golden = same_as_golden("snapshot.v1", &snapshot.encode().unwrap());
    assert_eq!(Snapshot::decode(&golden), Ok(snapshot.clone()));
    let id = Snapshot::id(&golden);
    assert_eq!(
        snapshot.key(&id),
        format!("workspaces/agent-7/snapshots/00000001700000000000-{id}")
    );
}

#[test]
fn the_store_format_is_written_and_read_as_ever() {
    let format = samples::store_format();
    let golden = same_as_golden("store-format.v1", &format.encode().unwrap());
    assert_eq!(StoreFormat::decode(&golden), Ok(format.clone()));
    let shown = format!("{format:?} {:?}", format.keys());
    assert!(!shown.contains("1, 2, 3"), "the secret is in {shown}");
}

#[test]
fn nodes_are_written_and_read_as_ever() {
    let own_pack = PackId([0xee; 32]);
    let golden = same_as_golden("node-leaf.v1", &samples::plain(&samples::leaf()));
    assert_eq!(decode_node(golden.into(), own_pack), Ok(samples::leaf()));

    let golden = same_as_golden("node-inner.v1", &samples::plain(&samples::inner()));
    let dormouse::format::Node::Inner(mut expected) = samples::inner() else { unreachable!() };
    expected.children[0].node.slot.pack = own_pack;
    let node = decode_node(golden.into(), own_pack);
    assert_eq!(node, Ok(dormouse::format::Node::Inner(expected)));
}

#[test]
fn records_are_read_as_ever() {
    let golden = golden("node-leaf.v1", &samples::plain(&samples::leaf()));
    let node = decode_node(golden.into(), PackId([0; 32])).unwrap();
    let dormouse::format::Node::Leaf(leaf) = node else { panic!("a leaf") };
    let value = |key: Key| {
        let index = leaf.search(key.as_bytes()).expect("the record");
        leaf.value(index)
    };
    assert_eq!(decode_attr(&value(Key::attr(Ino(1)))), Ok(samples::attr(Kind::Directory)));
    assert_eq!(decode_attr(&value(Key::attr(Ino(9)))), Ok(samples::attr(Kind::File)));
    let symlink = Key::attr(Ino(0x0102_0304_0506_0708));
    assert_eq!(decode_attr(&value(symlink)), Ok(samples::attr(Kind::Symlink)));
    let entry = decode_entry(&value(Key::entry(Ino(1), 0x1122_3344_5566_7788, b"name \xff")));
    assert_eq!(entry.map(|entry| (entry.ino, entry.kind)), Ok((Ino(9), Kind::File)));
    assert_eq!(decode_extent(&value(Key::extent(Ino(9), 0))), Ok(samples::extent()));
    assert_eq!(value(Key::xattr(Ino(9), b"user.note")), "value");
    assert_eq!(value(Key::orphan(Ino(12))), "");
}

#[test]
fn frames_are_written_and_read_as_ever() {
    let golden = same_as_golden("frame-raw.v1", &samples::raw_frame());
    let (header, plain) = decode_frame(&golden).unwrap();
    assert_eq!((header.kind, header.frame_len as usize), (FrameKind::Chunk, golden.len()));
    assert_eq!(plain, samples::noise(100));

    // Read only: another version of zstd may well pack it otherwise.
    let plain = samples::zstd_plain();
    let id = samples::keys().node(&plain);
    let frame = encode_frame(FrameKind::Node, id.as_bytes(), &plain);
    let stored = self::golden("frame-zstd.v1", &frame);
    assert!(stored.len() < plain.len() / 2);
    let (header, found) = decode_frame(&stored).unwrap();
    assert_eq!((header.kind, header.id), (FrameKind::Node, *id.as_bytes()));
    assert_eq!(found, plain);
}

#[test]
fn packs_are_written_and_read_as_ever() {
    let (id, bytes) = samples::pack();
    let golden = Bytes::from(same_as_golden("pack.v1", &bytes));
    assert_eq!(pack_id(&golden), id);
    assert_eq!(decode_pack_header(&golden), Ok(PackKind::Data));
    let index = decode_pack_index(&golden, golden.len() as u64).unwrap();
    assert_eq!((index.kind, index.entries.len()), (PackKind::Data, 3));
    let forward: Vec<_> = frames(&golden[8..])
        .map(|(at, header)| (header.id, at as u32 + 8, header.frame_len))
        .collect();
    let listed: Vec<_> =
        index.entries.iter().map(|entry| (entry.id, entry.offset, entry.len)).collect();
    assert_eq!(forward, listed);
    for (entry, len) in index.entries.iter().zip([100, 0, 3000]) {
        let (_, plain) = decode_frame(&golden[entry.offset as usize..]).unwrap();
        assert_eq!(plain, samples::noise(len));
        assert_eq!(samples::keys().chunk(&plain).as_bytes(), &entry.id);
    }
}

#[test]
fn keyed_hashes_are_as_ever() {
    let keys = samples::keys();
    let boundary = keys.boundary(Key::attr(Ino(1)).as_bytes());
    let hashes = format!(
        "chunk {}\nnode {}\nname {:016x}\nboundary {boundary:016x}\n",
        keys.chunk(b"content"),
        keys.node(b"content"),
        keys.name(b"content"),
    );
    same_as_golden("hashes.v1", hashes.as_bytes());
}
