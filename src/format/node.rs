//! Tree nodes: leaves of records and inner nodes of children, as the plaintext of a frame.
//!
//! ```text
//! header   magic DMND | version u8 = 1 | level u8 | 0 u16 | items u32           12 bytes
//! level 0  per record: key length u16 | value length u32 | key | value
//! above    per child:  key length u16 | node id 32 | pack id 32 | frame offset u32 |
//!                      frame length u32 | tree bytes u64 | key
//! ```
//! Keys ascend strictly. A child's key is the first key below it, its level is one less than its
//! parent's. Its tree bytes are the lengths of all frames of its subtree, its own included.
//! A pack id of zeros stands for the pack that the node itself was read from. A node's id is the
//! keyed hash of its plaintext, with those zeros.

use bytes::Bytes;

use crate::types::{NodeId, PackId};

use super::bytes::{Reader, Writer};
use super::frame::{FRAME_HEADER_LEN, NODE_LEN_MAX};
use super::{FormatError, Key, PackSlot};

const WHAT: &str = "node";
const MAGIC: &[u8; 4] = b"DMND";
const VERSION: u8 = 1;

/// In an encoded node: the pack that the node itself is in.
pub const OWN_PACK: PackId = PackId([0; 32]);

/// Bytes of a node before its items.
pub const NODE_HEADER_LEN: usize = 12;

/// Longest value of a record (the kernel's limit for an extended attribute; the others are
/// shorter).
pub const VALUE_LEN_MAX: usize = 64 * 1024;

/// Highest level of a node. With some 250 children a node, level 8 is out of reach.
pub const LEVEL_MAX: u8 = 15;

/// Bytes of a record in a leaf without its key and value.
const RECORD_FIXED_LEN: usize = 6;

/// Bytes of a child in an inner node without its key.
const CHILD_FIXED_LEN: usize = 82;

/// A node in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeRef {
    /// The node.
    pub id: NodeId,
    /// Where its frame is.
    pub slot: PackSlot,
}

/// A decoded node. It has at least one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Level 0: records.
    Leaf(Leaf),
    /// Above: children.
    Inner(Inner),
}

/// A leaf: the plaintext and where its records begin. Searching it allocates nothing; a value
/// shares the plaintext's buffer.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    plain: Bytes,
    starts: Box<[u32]>,
}

/// An inner node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// 1 and up.
    pub level: u8,
    /// Sorted by key.
    pub children: Vec<Child>,
}

/// A child of an inner node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// First key below it.
    pub key: Key,
    /// The child; zeros in place of its parent's pack are already resolved.
    pub node: NodeRef,
    /// Bytes of all frames of its subtree, its own included.
    pub tree_bytes: u64,
}

impl Node {
    /// A leaf of records, to be written. None if there are none. The keys must ascend strictly
    /// and the values be within their limit: [`encode_node`] checks the node's length only, and
    /// a decoder refuses the rest.
    #[must_use]
    pub fn leaf<'a>(records: impl Iterator<Item = (&'a Key, &'a [u8])>) -> Option<Node> {
        let mut out = header(0);
        let mut starts = Vec::new();
        for (key, value) in records {
            starts.push(u32::try_from(out.len()).ok()?);
            let key = key.as_bytes();
            out.u16(key.len() as u16).count(value.len()).bytes(key).bytes(value);
        }
        let plain = with_count(out, starts.len()).into();
        (!starts.is_empty()).then(|| Node::Leaf(Leaf { plain, starts: starts.into() }))
    }

    /// 0 for a leaf.
    #[must_use]
    pub fn level(&self) -> u8 {
        match self {
            Node::Leaf(_) => 0,
            Node::Inner(inner) => inner.level,
        }
    }

    /// Number of records or children; at least 1.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }

    /// Never: the decoder refuses an empty node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Key of item `index`, which must be below [`Node::len`].
    #[must_use]
    pub fn key(&self, index: usize) -> &[u8] {
        match self {
            Node::Leaf(leaf) => leaf.key(index),
            Node::Inner(inner) => inner.children[index].key.as_bytes(),
        }
    }

    /// The item with this key, or the place where it would stand.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        match self {
            Node::Leaf(leaf) => leaf.search(key),
            Node::Inner(inner) => {
                inner.children.binary_search_by(|child| child.key.as_bytes().cmp(key))
            }
        }
    }

    /// Roughly the bytes that it takes in memory, for a cache's budget.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.plain.len() + 4 * leaf.starts.len() + 64,
            Node::Inner(inner) => {
                let keys = inner.children.iter().map(|child| child.key.as_bytes().len() + 16);
                inner.children.len() * size_of::<Child>() + keys.sum::<usize>() + 64
            }
        }
    }
}

impl Leaf {
    /// Number of records; at least 1.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Never: the decoder refuses an empty leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Key of record `index`, which must be below [`Leaf::len`].
    #[must_use]
    pub fn key(&self, index: usize) -> &[u8] {
        let (key, _, _) = self.bounds(index);
        &self.plain[key.0..key.1]
    }

    /// Value of record `index`, which must be below [`Leaf::len`]; shares the leaf's buffer.
    #[must_use]
    pub fn value(&self, index: usize) -> Bytes {
        let (_, start, end) = self.bounds(index);
        self.plain.slice(start..end)
    }

    /// The value's bytes, without taking a share of the buffer.
    #[must_use]
    pub fn value_bytes(&self, index: usize) -> &[u8] {
        let (_, start, end) = self.bounds(index);
        &self.plain[start..end]
    }

    /// Record `index`, which must be below [`Leaf::len`]; the value shares the leaf's buffer.
    #[must_use]
    pub fn record(&self, index: usize) -> (Key, Bytes) {
        (Key::from_checked(self.key(index)), self.value(index))
    }

    /// The record with this key, or where it would stand.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let plain: &[u8] = &self.plain;
        self.starts.binary_search_by(|&start| {
            let start = start as usize;
            let key_len = u16::from_le_bytes([plain[start], plain[start + 1]]) as usize;
            plain[start + RECORD_FIXED_LEN..][..key_len].cmp(key)
        })
    }

    /// The records in key order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        (0..self.len()).map(|index| (self.key(index), self.value_bytes(index)))
    }

    /// (key's range, value's start, value's end). The decoder has checked that they are inside.
    fn bounds(&self, index: usize) -> ((usize, usize), usize, usize) {
        let start = self.starts[index] as usize;
        let fixed = &self.plain[start..start + RECORD_FIXED_LEN];
        let key_len = u16::from_le_bytes([fixed[0], fixed[1]]) as usize;
        let value_len = u32::from_le_bytes([fixed[2], fixed[3], fixed[4], fixed[5]]) as usize;
        let key = start + RECORD_FIXED_LEN;
        let value = key + key_len;
        ((key, value), value, value + value_len)
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Leaf({} records, {} bytes)", self.len(), self.plain.len())
    }
}

/// Bytes that a record adds to a leaf.
#[must_use]
pub fn record_len(key: &[u8], value: &[u8]) -> usize {
    RECORD_FIXED_LEN + key.len() + value.len()
}

/// Bytes that a child adds to an inner node.
#[must_use]
pub fn child_len(key: &[u8]) -> usize {
    CHILD_FIXED_LEN + key.len()
}

fn header(level: u8) -> Writer {
    let mut out = Writer::with_capacity(8 * 1024);
    out.bytes(MAGIC).u8(VERSION).u8(level).u16(0).u32(0);
    out
}

fn with_count(out: Writer, count: usize) -> Vec<u8> {
    let mut plain = out.finish();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    plain[NODE_HEADER_LEN - 4..NODE_HEADER_LEN].copy_from_slice(&count.to_le_bytes());
    plain
}

/// Encodes a node's plaintext. `pack_id` says what to write for each child's pack: a writer
/// gives [`OWN_PACK`] for the pack that this node goes to, and the real id for any other. Refuses
/// what no decoder would accept for its length or level.
pub fn encode_node(node: &Node, pack_id: impl Fn(&PackId) -> PackId) -> Result<Bytes, FormatError> {
    let plain = match node {
        Node::Leaf(leaf) => leaf.plain.clone(),
        Node::Inner(inner) => {
            let mut out = header(inner.level);
            for Child { key, node, tree_bytes } in &inner.children {
                let key = key.as_bytes();
                out.u16(key.len() as u16).bytes(node.id.as_bytes());
                out.bytes(pack_id(&node.slot.pack).as_bytes());
                out.u32(node.slot.offset).u32(node.slot.len).u64(*tree_bytes).bytes(key);
            }
            with_count(out, inner.children.len()).into()
        }
    };
    if plain.len() > NODE_LEN_MAX {
        let [len, max] = [plain.len(), NODE_LEN_MAX].map(|len| len as u64);
        return Err(FormatError::TooLong { what: WHAT, len, max });
    }
    if node.level() > LEVEL_MAX {
        let [len, max] = [node.level(), LEVEL_MAX].map(u64::from);
        return Err(FormatError::TooLong { what: "node level", len, max });
    }
    Ok(plain)
}

/// Decodes a node's plaintext, read from a frame in `own_pack`. Checks the structure, the order
/// of the keys and that each key is one; not the id, nor the values.
pub fn decode_node(plain: Bytes, own_pack: PackId) -> Result<Node, FormatError> {
    if plain.len() > NODE_LEN_MAX {
        let [len, max] = [plain.len(), NODE_LEN_MAX].map(|len| len as u64);
        return Err(FormatError::TooLong { what: WHAT, len, max });
    }
    let mut reader = Reader::new(&plain, WHAT);
    reader.kind(MAGIC, VERSION)?;
    let level = reader.u8()?;
    if level > LEVEL_MAX {
        return Err(reader.malformed("level"));
    }
    if reader.u16()? != 0 {
        return Err(reader.malformed("reserved bytes"));
    }
    let item_len = if level == 0 { RECORD_FIXED_LEN } else { CHILD_FIXED_LEN };
    let count = reader.count(NODE_LEN_MAX, item_len)?;
    if count == 0 {
        return Err(reader.malformed("no items"));
    }
    if level == 0 {
        let starts = decode_leaf(&mut reader, plain.len(), count)?;
        Ok(Node::Leaf(Leaf { plain, starts }))
    } else {
        let children = decode_children(&mut reader, count, own_pack)?;
        Ok(Node::Inner(Inner { level, children }))
    }
}

fn decode_leaf(
    reader: &mut Reader<'_>,
    plain_len: usize,
    count: usize,
) -> Result<Box<[u32]>, FormatError> {
    let mut starts = Vec::with_capacity(count);
    let mut last: &[u8] = &[];
    for _ in 0..count {
        starts.push((plain_len - reader.left()) as u32);
        let key_len = reader.u16()?;
        let value_len = reader.u32()? as usize;
        if value_len > VALUE_LEN_MAX {
            let [len, max] = [value_len, VALUE_LEN_MAX].map(|len| len as u64);
            return Err(FormatError::TooLong { what: "record value", len, max });
        }
        let key = reader.take(key_len as usize)?;
        check_key(reader, last, key)?;
        reader.take(value_len)?;
        last = key;
    }
    reader.end()?;
    Ok(starts.into())
}

fn decode_children(
    reader: &mut Reader<'_>,
    count: usize,
    own_pack: PackId,
) -> Result<Vec<Child>, FormatError> {
    let mut children = Vec::with_capacity(count);
    let mut last: &[u8] = &[];
    for _ in 0..count {
        let key_len = reader.u16()?;
        let id = NodeId(reader.array()?);
        let pack = match PackId(reader.array()?) {
            OWN_PACK => own_pack,
            pack => pack,
        };
        let [offset, len] = [reader.u32()?, reader.u32()?];
        let tree_bytes = reader.u64()?;
        let node = NodeRef { id, slot: PackSlot { pack, offset, len } };
        check_ref(&node).map_err(|why| reader.malformed(why))?;
        if tree_bytes < u64::from(len) {
            return Err(reader.malformed("tree bytes"));
        }
        let key = reader.take(key_len as usize)?;
        check_key(reader, last, key)?;
        last = key;
        children.push(Child { key: Key::from_checked(key), node, tree_bytes });
    }
    reader.end()?;
    Ok(children)
}

/// A frame is at least its header and at most the longest node stored raw.
pub(super) fn check_ref(node: &NodeRef) -> Result<(), &'static str> {
    let len = node.slot.len as usize;
    let fits = (FRAME_HEADER_LEN..=FRAME_HEADER_LEN + NODE_LEN_MAX).contains(&len);
    if fits && node.slot.offset.checked_add(node.slot.len).is_some() {
        Ok(())
    } else {
        Err("frame offset or length")
    }
}

fn check_key(reader: &Reader<'_>, last: &[u8], key: &[u8]) -> Result<(), FormatError> {
    match super::KeyParts::parse(key) {
        Err(_) => Err(reader.malformed("key")),
        // A store must not be able to plant a mount's local state.
        Ok(super::KeyParts::Local(_)) => Err(reader.malformed("a local record")),
        Ok(_) if key <= last => Err(reader.malformed("keys are not in order")),
        Ok(_) => Ok(()),
    }
}
