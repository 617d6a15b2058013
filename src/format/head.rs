//! A head: the one mutable object of a workspace, changed only by compare-and-swap.
//!
//! ```text
//! manifest (see manifest.rs), magic DMHD, version 1, body:
//! nonce        16 random bytes           workspace    length u32, text
//! epoch        u64
//! lease        0 u8, or 1 u8 and: cache id 16, time to live u32 (s), host: length u32, text
//! snapshot     0 u8, or 1 u8 and: snapshot id 32, key: length u32, text
//! root         0 u8, or 1 u8 and: node id 32, pack id 32, offset u32, length u32
//! tree packs   count u32, pack id 32 and length u64 each
//! next inode   u64    inodes u64    bytes u64
//! nodes        count u32, per node: node id 32, pack id 32, offset u32, length u32,
//!              the frame: length u32, bytes
//! records      count u32, per record: key: length u32, bytes; value: length u32, bytes
//! ```
//! The nonce makes each head's bytes, and so its ETag, unlike any other's: a swap against an old
//! version can't win because the same state came back.

use bytes::Bytes;

use crate::types::{CacheId, Epoch, Ino, SnapshotId, WorkspaceName};

use super::bytes::{Reader, Writer};
use super::manifest::Manifest;
use super::snapshot::{
    check_count, read_node_ref, read_packs, read_root, read_workspace, write_node_ref, write_packs,
    write_root,
};
use super::{FormatError, Key, KeyParts, NodeRef, PackInfo};

const HEAD: Manifest =
    Manifest { what: "head", magic: *b"DMHD", version: 1, body_len_max: 4 * 1024 * 1024 };

/// Most bytes of inline frames. A head is read at every resume, so it must stay small.
pub const HEAD_NODES_BYTES_MAX: usize = 256 * 1024;

/// Most bytes of inline records, keys and values.
pub const HEAD_RECORDS_BYTES_MAX: usize = 64 * 1024;

const NODES_MAX: usize = 1024;
const RECORDS_MAX: usize = 1024;
const NODE_REF_LEN: usize = 72;
const HOST_LEN_MAX: usize = 256;
const OBJECT_KEY_LEN_MAX: usize = 1024;

/// The state of a workspace: who may write, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Random, new for each head that is written.
    pub nonce: [u8; 16],
    /// Whose it is.
    pub workspace: WorkspaceName,
    /// Raised by one with each acquisition of the lease.
    pub epoch: Epoch,
    /// Who may write; none after a clean hibernation.
    pub lease: Option<Lease>,
    /// The newest snapshot; none in a workspace that was never sealed.
    pub snapshot: Option<SnapshotRef>,
    /// The snapshot's tree; none if there are no records.
    pub root: Option<NodeRef>,
    /// Frames of the tree's first nodes: the root and the nodes down to the root directory's
    /// leaf, in that order, at most [`HEAD_NODES_BYTES_MAX`] together.
    pub nodes: Vec<(NodeRef, Bytes)>,
    /// Attr records of the root directory's children in the order of its entries, as many as fit
    /// into [`HEAD_RECORDS_BYTES_MAX`]: with them the first listing needs no other node.
    pub records: Vec<(Key, Bytes)>,
    /// The snapshot's tree packs.
    pub tree_packs: Vec<PackInfo>,
    /// First inode number never used.
    pub next_ino: Ino,
    /// Number of inodes.
    pub inodes: u64,
    /// Sum of all files' allocated bytes.
    pub bytes: u64,
}

/// The right to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The local state directory whose owner holds it.
    pub holder: CacheId,
    /// Name of the holder's machine, for people; at most 256 bytes.
    pub host: String,
    /// Seconds after the head's last modification (by the store's clock) at which it expires.
    pub ttl_secs: u32,
}

/// A snapshot in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRef {
    /// The snapshot.
    pub id: SnapshotId,
    /// Key of its object.
    pub key: String,
}

impl Head {
    /// Encodes it. Inline nodes and records beyond their caps are left out, from the first that
    /// does not fit. Refuses what [`Head::decode`] would refuse for its length.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Writer::default();
        out.bytes(&self.nonce).blob(self.workspace.as_str().as_bytes()).u64(self.epoch.0);
        match &self.lease {
            None => _ = out.u8(0),
            Some(lease) => {
                check_count("lease host", lease.host.len(), HOST_LEN_MAX)?;
                out.u8(1).bytes(lease.holder.as_bytes()).u32(lease.ttl_secs);
                out.blob(lease.host.as_bytes());
            }
        }
        match &self.snapshot {
            None => _ = out.u8(0),
            Some(snapshot) => {
                check_count("snapshot key", snapshot.key.len(), OBJECT_KEY_LEN_MAX)?;
                out.u8(1).bytes(snapshot.id.as_bytes()).blob(snapshot.key.as_bytes());
            }
        }
        write_root(&mut out, self.root.as_ref());
        write_packs(&mut out, &self.tree_packs);
        out.u64(self.next_ino.0).u64(self.inodes).u64(self.bytes);
        let nodes = self.nodes_that_fit();
        out.count(nodes.len());
        for (node, frame) in nodes {
            write_node_ref(&mut out, node);
            out.blob(frame);
        }
        let records = self.records_that_fit();
        out.count(records.len());
        for (key, value) in records {
            out.blob(key.as_bytes()).blob(value);
        }
        HEAD.seal(out)
    }

    /// Decodes one; all or nothing. The frames are not looked into.
    pub fn decode(bytes: &[u8]) -> Result<Head, FormatError> {
        let (_, mut reader) = HEAD.open(bytes)?;
        let nonce = reader.array()?;
        let workspace = read_workspace(&mut reader)?;
        let epoch = Epoch(reader.u64()?);
        let lease = read_lease(&mut reader)?;
        let snapshot = match reader.flag()? {
            false => None,
            true => {
                let id = SnapshotId(reader.array()?);
                Some(SnapshotRef { id, key: reader.text(OBJECT_KEY_LEN_MAX)?.to_owned() })
            }
        };
        let root = read_root(&mut reader)?;
        let tree_packs = read_packs(&mut reader)?;
        let next_ino = Ino(reader.u64()?);
        let [inodes, bytes] = [reader.u64()?, reader.u64()?];
        let nodes = read_nodes(&mut reader)?;
        let records = read_records(&mut reader)?;
        reader.end()?;
        Ok(Head {
            nonce,
            workspace,
            epoch,
            lease,
            snapshot,
            root,
            nodes,
            records,
            tree_packs,
            next_ino,
            inodes,
            bytes,
        })
    }

    fn nodes_that_fit(&self) -> &[(NodeRef, Bytes)] {
        let lens = self.nodes.iter().take(NODES_MAX).map(|(_, frame)| frame.len());
        &self.nodes[..count_that_fits(lens, HEAD_NODES_BYTES_MAX)]
    }

    fn records_that_fit(&self) -> &[(Key, Bytes)] {
        let lens = self.records.iter().take(RECORDS_MAX).map(record_bytes);
        &self.records[..count_that_fits(lens, HEAD_RECORDS_BYTES_MAX)]
    }
}

fn count_that_fits(lens: impl Iterator<Item = usize>, mut left: usize) -> usize {
    let fits = |len: &usize| {
        let rest = left.checked_sub(*len);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    lens.take_while(fits).count()
}

fn record_bytes((key, value): &(Key, Bytes)) -> usize {
    key.as_bytes().len() + value.len()
}

fn read_lease(reader: &mut Reader<'_>) -> Result<Option<Lease>, FormatError> {
    if !reader.flag()? {
        return Ok(None);
    }
    let holder = CacheId(reader.array()?);
    let ttl_secs = reader.u32()?;
    Ok(Some(Lease { holder, host: reader.text(HOST_LEN_MAX)?.to_owned(), ttl_secs }))
}

fn read_nodes(reader: &mut Reader<'_>) -> Result<Vec<(NodeRef, Bytes)>, FormatError> {
    let count = reader.count(NODES_MAX, NODE_REF_LEN + 4)?;
    let mut nodes = Vec::with_capacity(count);
    let mut left = HEAD_NODES_BYTES_MAX;
    for _ in 0..count {
        let node = read_node_ref(reader)?;
        let frame = reader.blob(left)?;
        left -= frame.len();
        if frame.len() != node.slot.len as usize {
            return Err(reader.malformed("inline node's length"));
        }
        nodes.push((node, Bytes::copy_from_slice(frame)));
    }
    Ok(nodes)
}

fn read_records(reader: &mut Reader<'_>) -> Result<Vec<(Key, Bytes)>, FormatError> {
    let count = reader.count(RECORDS_MAX, 8)?;
    let mut records = Vec::with_capacity(count);
    let mut left = HEAD_RECORDS_BYTES_MAX;
    for _ in 0..count {
        let key = reader.blob(left)?;
        left -= key.len();
        let value = reader.blob(left)?;
        left -= value.len();
        let key = Key::from_bytes(key).map_err(|_| reader.malformed("key"))?;
        if !matches!(key.parts(), Some(KeyParts::Attr(_))) {
            return Err(reader.malformed("inline record that is no attributes"));
        }
        records.push((key, Bytes::copy_from_slice(value)));
    }
    Ok(records)
}
