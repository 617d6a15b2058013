//! What encoders write, built from the fuzzer's bytes, reads back as it was; and where there is
//! a checksum, one changed byte of it is noticed.

use arbitrary::{Arbitrary as _, Result, Unstructured};
use bytes::Bytes;

use crate::format::*;
use crate::properties;
use crate::types::*;

/// Builds one structure and looks at it.
pub fn check(bytes: &[u8]) -> bool {
    build(&mut Unstructured::new(bytes)).is_ok()
}

fn build(from: &mut Unstructured<'_>) -> Result<()> {
    match from.int_in_range(0..=6)? {
        0 => head(from),
        1 => snapshot(from),
        2 => store_format(from),
        3 => leaf(from),
        4 => inner(from),
        5 => frame(from),
        _ => pack(from),
    }
}

/// One byte is changed.
fn damaged(bytes: &[u8], from: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut damaged = bytes.to_vec();
    let at = from.choose_index(bytes.len())?;
    damaged[at] ^= from.int_in_range(1..=255)?;
    Ok(damaged)
}

fn many<'a, T>(
    from: &mut Unstructured<'a>,
    max: usize,
    one: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..from.int_in_range(0..=max)?).map(|_| one(from)).collect()
}

fn text(from: &mut Unstructured<'_>, len_max: usize) -> Result<String> {
    let mut text = String::arbitrary(from)?;
    while text.len() > len_max {
        text.pop();
    }
    Ok(text)
}

fn some_bytes(from: &mut Unstructured<'_>, len_max: usize) -> Result<Vec<u8>> {
    let len = from.int_in_range(0..=len_max)?;
    Ok(from.bytes(len.min(from.len()))?.to_vec())
}

fn time(from: &mut Unstructured<'_>) -> Result<Time> {
    Ok(Time { secs: i64::arbitrary(from)?, nanos: from.int_in_range(0..=999_999_999)? })
}

fn slot(from: &mut Unstructured<'_>) -> Result<PackSlot> {
    let len = from.int_in_range(FRAME_HEADER_LEN as u32..=(FRAME_HEADER_LEN + NODE_LEN_MAX) as u32);
    let len = len?;
    let offset = from.int_in_range(0..=u32::MAX - len)?;
    Ok(PackSlot { pack: PackId(<[u8; 32]>::arbitrary(from)?), offset, len })
}

fn node_ref(from: &mut Unstructured<'_>) -> Result<NodeRef> {
    Ok(NodeRef { id: NodeId(<[u8; 32]>::arbitrary(from)?), slot: slot(from)? })
}

fn option<'a, T>(
    from: &mut Unstructured<'a>,
    some: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Option<T>> {
    bool::arbitrary(from)?.then(|| some(from)).transpose()
}

fn pack_info(from: &mut Unstructured<'_>) -> Result<PackInfo> {
    Ok(PackInfo { id: PackId(<[u8; 32]>::arbitrary(from)?), len: u64::arbitrary(from)? })
}

fn workspace_name(from: &mut Unstructured<'_>) -> Result<WorkspaceName> {
    const ALLOWED: &[u8] = b"abcXYZ019._-";
    let mut name = String::from("w");
    for _ in 0..from.int_in_range(0..=127)? {
        name.push(char::from(*from.choose(ALLOWED)?));
    }
    Ok(name.parse().expect("only what is allowed"))
}

fn name(from: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut name = some_bytes(from, 255)?;
    name.iter_mut().filter(|byte| matches!(byte, b'/' | 0)).for_each(|byte| *byte = b'x');
    if matches!(&name[..], b"" | b"." | b"..") {
        name = b"name".to_vec();
    }
    Ok(name)
}

fn record_key(from: &mut Unstructured<'_>) -> Result<Key> {
    let ino = Ino(u64::arbitrary(from)?);
    Ok(match from.int_in_range(0..=4)? {
        0 => Key::attr(ino),
        1 => Key::entry(ino, u64::arbitrary(from)?, &name(from)?),
        2 => Key::xattr(ino, &name(from)?),
        3 => Key::extent(ino, u64::arbitrary(from)?),
        _ => Key::orphan(ino),
    })
}

fn head(from: &mut Unstructured<'_>) -> Result<()> {
    let frame_of = |from: &mut Unstructured<'_>| {
        let mut node = node_ref(from)?;
        let len = from.int_in_range(FRAME_HEADER_LEN..=4096)?;
        node.slot.len = len as u32;
        node.slot.offset = node.slot.offset.min(u32::MAX - node.slot.len);
        Ok((node, Bytes::from(vec![u8::arbitrary(from)?; len])))
    };
    let record = |from: &mut Unstructured<'_>| {
        let value = some_bytes(from, 200)?;
        Ok((Key::attr(Ino(u64::arbitrary(from)?)), Bytes::from(value)))
    };
    let lease = |from: &mut Unstructured<'_>| {
        let holder = CacheId(<[u8; 16]>::arbitrary(from)?);
        Ok(Lease { holder, host: text(from, 256)?, ttl_secs: u32::arbitrary(from)? })
    };
    let snapshot = |from: &mut Unstructured<'_>| {
        let id = SnapshotId(<[u8; 32]>::arbitrary(from)?);
        Ok(SnapshotRef { id, key: text(from, 1024)? })
    };
    let head = Head {
        nonce: <[u8; 16]>::arbitrary(from)?,
        workspace: workspace_name(from)?,
        epoch: Epoch(u64::arbitrary(from)?),
        lease: option(from, lease)?,
        snapshot: option(from, snapshot)?,
        root: option(from, node_ref)?,
        nodes: many(from, 4, frame_of)?,
        records: many(from, 8, record)?,
        tree_packs: many(from, 8, pack_info)?,
        next_ino: Ino(u64::arbitrary(from)?),
        inodes: u64::arbitrary(from)?,
        bytes: u64::arbitrary(from)?,
    };
    let bytes = head.encode().expect("within all limits");
    assert_eq!(Head::decode(&bytes), Ok(head));
    assert!(Head::decode(&damaged(&bytes, from)?).is_err());
    Ok(())
}

fn snapshot(from: &mut Unstructured<'_>) -> Result<()> {
    let hot =
        |from: &mut Unstructured<'_>| Ok((ChunkId(<[u8; 32]>::arbitrary(from)?), slot(from)?));
    let snapshot = Snapshot {
        workspace: workspace_name(from)?,
        parents: many(from, 16, |from| Ok(SnapshotId(<[u8; 32]>::arbitrary(from)?)))?,
        created: time(from)?,
        epoch: Epoch(u64::arbitrary(from)?),
        root: option(from, node_ref)?,
        tree_packs: many(from, 8, pack_info)?,
        next_ino: Ino(u64::arbitrary(from)?),
        inodes: u64::arbitrary(from)?,
        bytes: u64::arbitrary(from)?,
        data_packs_added: many(from, 8, pack_info)?,
        hot_set: many(from, 8, hot)?,
        reason: text(from, 256)?,
    };
    let bytes = snapshot.encode().expect("within all limits");
    assert_eq!(Snapshot::decode(&bytes), Ok(snapshot));
    assert!(Snapshot::decode(&damaged(&bytes, from)?).is_err());
    Ok(())
}

fn store_format(from: &mut Unstructured<'_>) -> Result<()> {
    let format = StoreFormat {
        version: StoreFormat::VERSION,
        store_id: <[u8; 16]>::arbitrary(from)?,
        secret: <[u8; 32]>::arbitrary(from)?,
        condition_style: u8::arbitrary(from)?,
        created: time(from)?,
    };
    let bytes = format.encode().expect("within all limits");
    assert_eq!(StoreFormat::decode(&bytes), Ok(format));
    assert!(StoreFormat::decode(&damaged(&bytes, from)?).is_err());
    Ok(())
}

fn leaf(from: &mut Unstructured<'_>) -> Result<()> {
    let mut records = many(from, 40, |from| Ok((record_key(from)?, some_bytes(from, 300)?)))?;
    records.sort();
    records.dedup_by(|one, two| one.0 == two.0);
    let Some(node) = Node::leaf(records.iter().map(|(key, value)| (key, value.as_slice()))) else {
        return Ok(());
    };
    let plain = encode_node(&node, |pack| *pack).expect("within all limits");
    let decoded = decode_node(plain.clone(), PackId([9; 32])).expect("what was encoded");
    let Node::Leaf(found) = &decoded else { panic!("a leaf was written") };
    assert!(found.records().eq(records.iter().map(|(key, value)| (key.as_bytes(), &value[..]))));
    // A node has no checksum of its own, its frame has.
    properties::node(&damaged(&plain, from)?);
    Ok(())
}

fn inner(from: &mut Unstructured<'_>) -> Result<()> {
    let child = |from: &mut Unstructured<'_>| {
        let node = node_ref(from)?;
        let tree_bytes = from.int_in_range(u64::from(node.slot.len)..=u64::MAX)?;
        Ok(Child { key: record_key(from)?, node, tree_bytes })
    };
    let mut children = many(from, 20, child)?;
    children.sort_by(|one, two| one.key.cmp(&two.key));
    children.dedup_by(|one, two| one.key == two.key);
    let own = PackId([9; 32]);
    if children.is_empty() || children.iter().any(|child| child.node.slot.pack == OWN_PACK) {
        return Ok(());
    }
    if bool::arbitrary(from)? {
        children[0].node.slot.pack = own;
    }
    let node = Node::Inner(Inner { level: from.int_in_range(1..=LEVEL_MAX)?, children });
    let written = |pack: &PackId| if *pack == own { OWN_PACK } else { *pack };
    let plain = encode_node(&node, written).expect("within all limits");
    assert_eq!(decode_node(plain.clone(), own), Ok(node));
    properties::node(&damaged(&plain, from)?);
    Ok(())
}

fn frame_of(kind: FrameKind, from: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut plain = some_bytes(from, 600)?;
    // Some that compress, and some that are as long as they may be.
    let times = from.int_in_range(0..=kind.plain_len_max() / plain.len().max(1))?;
    if bool::arbitrary(from)? {
        plain = plain.repeat(times);
    }
    let frame = encode_frame(kind, &<[u8; 32]>::arbitrary(from)?, &plain);
    Ok((plain, frame))
}

fn frame(from: &mut Unstructured<'_>) -> Result<()> {
    let kind = *from.choose(&[FrameKind::Chunk, FrameKind::Node])?;
    let (plain, frame) = frame_of(kind, from)?;
    let (header, found) = decode_frame(&frame).expect("what was encoded");
    assert!(found == plain && header.kind == kind && header.frame_len as usize == frame.len());
    assert!(decode_frame(&damaged(&frame, from)?).is_err());
    Ok(())
}

fn pack(from: &mut Unstructured<'_>) -> Result<()> {
    let kind = *from.choose(&[PackKind::Data, PackKind::Tree])?;
    let frames = many(from, 6, |from| frame_of(kind.frame_kind(), from))?;
    let mut builder = PackBuilder::new(kind);
    for (_, frame) in &frames {
        builder.push(frame).expect("a frame of the pack's kind");
    }
    let (id, bytes) = builder.finish();
    assert_eq!(pack_id(&bytes), id);
    let index = decode_pack_index(&bytes, bytes.len() as u64).expect("what was encoded");
    assert_eq!((index.kind, index.entries.len()), (kind, frames.len()));
    for (entry, (plain, frame)) in index.entries.iter().zip(&frames) {
        let start = entry.offset as usize;
        assert!(bytes[start..][..entry.len as usize] == frame[..]);
        assert!(decode_frame(&bytes[start..]).is_ok_and(|(_, found)| found == *plain));
    }
    properties::pack(&damaged(&bytes, from)?);
    Ok(())
}
