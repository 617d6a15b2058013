//! What every decoder promises of any bytes: it answers, without a panic, and what it accepts it
//! writes the same way again. Shared by the mutants of `tests/verify` and the fuzz targets of
//! `fuzz/`, so that a promise added here is tested by both.
//!
//! A check tells whether the bytes were accepted, and panics where a promise is broken.

use bytes::Bytes;
use dormouse::cli::Config;
use dormouse::control::{Command, Event};
use dormouse::format::{
    FRAME_HEADER_LEN, FormatError, Head, Key, Node, OWN_PACK, PACK_FOOTER_LEN, PACK_HEADER_LEN,
    PackBuilder, PackIndex, Snapshot, SnapshotName, StoreFormat, decode_attr, decode_entry,
    decode_extent, decode_frame, decode_frame_into, decode_node, decode_pack_header,
    decode_pack_index, encode_attr, encode_entry, encode_extent, encode_frame, encode_node, frames,
    parse_header,
};
use dormouse::remote::StoreUrl;
use dormouse::types::{PackId, WorkspaceName};

/// Longest plaintext that a damaged frame is decoded to in a place of its own.
const PLACE_LEN_MAX: usize = 16 << 10;

/// What is said of one structure.
pub type Check = fn(&[u8]) -> bool;

/// All structures that come from a store, from a file that a person wrote, or over a socket.
pub const STRUCTURES: [(&str, Check); 12] = [
    ("store-format", store_format),
    ("snapshot", snapshot),
    ("head", head),
    ("frame", frame),
    ("pack", pack),
    ("node", node),
    ("attr", attr),
    ("entry", entry),
    ("extent", extent),
    ("key", key),
    ("config", config),
    ("control", control),
];

/// Most bytes of memory that a check may take at once for input of this length. A frame may
/// unpack to 256 KiB, which is then packed and unpacked once more; a tree of TOML values takes
/// some hundred bytes for each of its shortest items.
pub fn memory_max(len: usize) -> usize {
    (2 << 20) + 400 * len
}

#[track_caller]
fn same(again: &[u8], bytes: &[u8]) -> bool {
    assert!(again == bytes, "it is written another way: {again:02x?}");
    true
}

pub fn store_format(bytes: &[u8]) -> bool {
    StoreFormat::decode(bytes).is_ok_and(|format| same(&format.encode().unwrap(), bytes))
}

pub fn snapshot(bytes: &[u8]) -> bool {
    let Ok(snapshot) = Snapshot::decode(bytes) else { return false };
    let id = Snapshot::id(bytes);
    let name: SnapshotName = snapshot.key(&id).parse().unwrap();
    assert_eq!(name.id, id);
    same(&snapshot.encode().unwrap(), bytes)
}

pub fn head(bytes: &[u8]) -> bool {
    Head::decode(bytes).is_ok_and(|head| same(&head.encode().unwrap(), bytes))
}

pub fn attr(bytes: &[u8]) -> bool {
    decode_attr(bytes).is_ok_and(|attr| same(&encode_attr(&attr), bytes))
}

pub fn entry(bytes: &[u8]) -> bool {
    decode_entry(bytes).is_ok_and(|entry| same(&encode_entry(entry), bytes))
}

pub fn extent(bytes: &[u8]) -> bool {
    decode_extent(bytes).is_ok_and(|extent| same(&encode_extent(&extent), bytes))
}

pub fn key(bytes: &[u8]) -> bool {
    let Ok(key) = Key::from_bytes(bytes) else { return false };
    assert!(key.parts().is_some() && key < key.successor());
    assert_eq!(key.ino().0.to_be_bytes(), bytes[..8]);
    same(key.as_bytes(), bytes)
}

/// One frame, and whatever may follow it.
pub fn frame(bytes: &[u8]) -> bool {
    for (at, header) in frames(bytes) {
        assert!(at + header.frame_len as usize <= bytes.len());
    }
    // It leaves the checksum to whoever compares the hash, so it meets what is damaged as well.
    if let Ok(header) = parse_header(bytes) {
        let mut place = vec![0; (header.plain_len as usize).min(PLACE_LEN_MAX)];
        let _ = decode_frame_into(bytes, &mut place);
    }
    let Ok((header, plain)) = decode_frame(bytes) else { return false };
    assert_eq!(parse_header(bytes), Ok(header));
    let mut place = vec![0; plain.len()];
    assert_eq!(decode_frame_into(bytes, &mut place), Ok(header));
    assert!(place == plain);
    assert_eq!(header.plain_len as usize, plain.len());
    assert!(plain.len() <= header.kind.plain_len_max());
    let alone = &bytes[..header.frame_len as usize];
    assert!(decode_frame(alone).is_ok_and(|(_, again)| again == plain));
    // The plaintext is what counts: zstd may pack it in many ways, and raw is one of them.
    let again = encode_frame(header.kind, &header.id, &plain);
    assert!(again.len() <= FRAME_HEADER_LEN + plain.len());
    let (found, unpacked) = decode_frame(&again).unwrap();
    assert_eq!((found.kind, found.id, found.plain_len), (header.kind, header.id, header.plain_len));
    assert!(unpacked == plain);
    true
}

/// A whole pack, and the ends of it from which an index can be read.
pub fn pack(bytes: &[u8]) -> bool {
    let header = decode_pack_header(bytes);
    let len = bytes.len() as u64;
    let Ok(index) = decode_pack_index(bytes, len) else { return false };
    let end = |len: usize| &bytes[bytes.len() - len..];
    let needed = match decode_pack_index(end(PACK_FOOTER_LEN), len) {
        Err(FormatError::Truncated { needed, .. }) => needed as usize,
        other => {
            assert_eq!(other, Ok(index.clone()), "without frames, the footer is enough");
            PACK_FOOTER_LEN
        }
    };
    assert_eq!(decode_pack_index(end(needed), len), Ok(index.clone()));
    let mut next = PACK_HEADER_LEN as u32;
    for entry in &index.entries {
        assert_eq!(entry.offset, next);
        next = entry.offset + entry.len;
    }
    assert!(next as usize + needed == bytes.len());
    if header == Ok(index.kind)
        && let Some(again) = rebuilt(&index, bytes)
    {
        same(&again, bytes);
    }
    true
}

/// The pack made anew of its frames; none where its index does not say what they say.
fn rebuilt(index: &PackIndex, bytes: &[u8]) -> Option<Bytes> {
    let mut builder = PackBuilder::new(index.kind);
    for entry in &index.entries {
        let frame = &bytes[entry.offset as usize..][..entry.len as usize];
        builder.push(frame).ok()?;
    }
    (builder.entries() == index.entries).then(|| builder.finish().1)
}

/// A node's plaintext, and the values in it.
pub fn node(bytes: &[u8]) -> bool {
    let pack = PackId([0x77; 32]);
    let Ok(node) = decode_node(Bytes::copy_from_slice(bytes), pack) else { return false };
    assert!(!node.is_empty() && node.memory_bytes() > 0);
    for at in 0..node.len() {
        assert_eq!(node.search(node.key(at)), Ok(at));
        if let Node::Leaf(leaf) = &node {
            let (key, value) = leaf.record(at);
            assert!(key.parts().is_some());
            attr(&value);
            entry(&value);
            extent(&value);
        }
    }
    let again = encode_node(&node, |id| if *id == pack { OWN_PACK } else { *id }).unwrap();
    // A child in a pack that happens to have our id would be written as one in its own pack.
    let is_own = |id: &PackId| bytes.windows(PackId::LEN).any(|window| window == id.as_bytes());
    is_own(&pack) || same(&again, bytes)
}

/// A configuration file, and the names that it or a command line may hold.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    names(text);
    match Config::parse(text) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
        Ok(config) => {
            names(config.store.url.as_deref().unwrap_or_default());
            // A comment is nobody's setting.
            let again = Config::parse(&format!("{text}\n# a comment\n")).unwrap();
            assert_eq!(format!("{again:?}"), format!("{config:?}"));
            true
        }
    }
}

/// Names are printed as they are read.
fn names(text: &str) {
    if let Ok(url) = text.parse::<StoreUrl>() {
        assert_eq!(url.to_string().parse(), Ok(url));
    }
    if let Ok(name) = text.parse::<WorkspaceName>() {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['/', '\0']) && text != "." && text != "..");
    }
    if let Ok(name) = text.parse::<SnapshotName>() {
        assert!(text.ends_with(&format!("{:020}-{}", name.created_unix_ms, name.id)));
    }
}

/// A request to a daemon: the path that it is posted to, a line feed, the body. Or an event of
/// an answer, as a client reads it.
pub fn control(bytes: &[u8]) -> bool {
    let event = serde_json::from_slice::<Event>(bytes);
    if let Ok(event) = &event {
        let again = serde_json::to_vec(event).unwrap();
        assert_eq!(&serde_json::from_slice::<Event>(&again).unwrap(), event);
    }
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let Ok(path) = std::str::from_utf8(&bytes[..end]) else { return event.is_ok() };
    let body = bytes.get(end + 1..).unwrap_or_default();
    match Command::parse(path, body) {
        Err(message) => {
            assert!(!message.is_empty());
            event.is_ok()
        }
        Ok(command) => {
            assert_eq!(command.path(), path);
            let again = serde_json::to_vec(&command).unwrap();
            assert_eq!(Command::parse(path, &again), Ok(command));
            true
        }
    }
}
