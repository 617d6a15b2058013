//! A snapshot: the sealed root manifest of a workspace at one time.
//!
//! ```text
//! manifest (see manifest.rs), magic DMSN, version 1, body:
//! workspace    length u32, text          epoch        u64
//! created      secs i64, nanos u32       parents      count u32, snapshot id 32 each
//! root         0 u8, or 1 u8 and: node id 32, pack id 32, offset u32, length u32
//! tree packs   count u32, pack id 32 and length u64 each
//! next inode   u64    inodes u64    bytes u64
//! data packs added since the first parent: as tree packs
//! hot set      count u32, per chunk: chunk id 32, pack id 32, offset u32, length u32
//! reason       length u32, text
//! ```
//! Its id is the plain BLAKE3 of all its bytes, the envelope included.

use crate::types::{ChunkId, Epoch, Ino, NodeId, PackId, SnapshotId, Time, WorkspaceName};

use super::bytes::{Reader, Writer};
use super::manifest::Manifest;
use super::node::check_ref;
use super::{FormatError, NodeRef, PackInfo, PackSlot, snapshot_key};

const SNAPSHOT: Manifest =
    Manifest { what: "snapshot", magic: *b"DMSN", version: 1, body_len_max: 16 * 1024 * 1024 };

/// Most chunks in a hot set.
pub const HOT_SET_LEN_MAX: usize = 16 * 1024;

const PARENTS_MAX: usize = 16;
const REASON_LEN_MAX: usize = 256;
const PACKS_MAX: usize = 1 << 20;
const PACK_INFO_LEN: usize = 40;
const HOT_CHUNK_LEN: usize = 72;

/// A workspace at one time. Immutable once stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose it is.
    pub workspace: WorkspaceName,
    /// The snapshot that it continues, if any. (Room for more, should two ever be merged.)
    pub parents: Vec<SnapshotId>,
    /// When it was sealed, by the writer's clock.
    pub created: Time,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The tree; none if there are no records.
    pub root: Option<NodeRef>,
    /// All packs that hold live nodes of the tree.
    pub tree_packs: Vec<PackInfo>,
    /// First inode number never used.
    pub next_ino: Ino,
    /// Number of inodes.
    pub inodes: u64,
    /// Sum of all file sizes' allocated bytes.
    pub bytes: u64,
    /// Data packs uploaded for it that its first parent did not need.
    pub data_packs_added: Vec<PackInfo>,
    /// Chunks to fetch first after a resume, in order; at most [`HOT_SET_LEN_MAX`].
    pub hot_set: Vec<(ChunkId, PackSlot)>,
    /// `hibernate` or `checkpoint`.
    pub reason: String,
}

impl Snapshot {
    /// Encodes it. Refuses what [`Snapshot::decode`] would refuse for its length.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        check_count("snapshot parents", self.parents.len(), PARENTS_MAX)?;
        check_count("snapshot reason", self.reason.len(), REASON_LEN_MAX)?;
        check_count("hot set", self.hot_set.len(), HOT_SET_LEN_MAX)?;
        let mut out = Writer::default();
        out.blob(self.workspace.as_str().as_bytes()).u64(self.epoch.0).time(self.created);
        out.count(self.parents.len());
        self.parents.iter().for_each(|id| _ = out.bytes(id.as_bytes()));
        write_root(&mut out, self.root.as_ref());
        write_packs(&mut out, &self.tree_packs);
        out.u64(self.next_ino.0).u64(self.inodes).u64(self.bytes);
        write_packs(&mut out, &self.data_packs_added);
        out.count(self.hot_set.len());
        for (id, slot) in &self.hot_set {
            out.bytes(id.as_bytes());
            write_slot(&mut out, slot);
        }
        out.blob(self.reason.as_bytes());
        SNAPSHOT.seal(out)
    }

    /// Decodes one; all or nothing.
    pub fn decode(bytes: &[u8]) -> Result<Snapshot, FormatError> {
        let (_, mut reader) = SNAPSHOT.open(bytes)?;
        let workspace = read_workspace(&mut reader)?;
        let epoch = Epoch(reader.u64()?);
        let created = reader.time()?;
        let count = reader.count(PARENTS_MAX, SnapshotId::LEN)?;
        let mut parents = Vec::with_capacity(count);
        for _ in 0..count {
            parents.push(SnapshotId(reader.array()?));
        }
        let root = read_root(&mut reader)?;
        let tree_packs = read_packs(&mut reader)?;
        let next_ino = Ino(reader.u64()?);
        let [inodes, bytes] = [reader.u64()?, reader.u64()?];
        let data_packs_added = read_packs(&mut reader)?;
        let count = reader.count(HOT_SET_LEN_MAX, HOT_CHUNK_LEN)?;
        let mut hot_set = Vec::with_capacity(count);
        for _ in 0..count {
            hot_set.push((ChunkId(reader.array()?), read_slot(&mut reader)?));
        }
        let reason = reader.text(REASON_LEN_MAX)?.to_owned();
        reader.end()?;
        Ok(Snapshot {
            workspace,
            parents,
            created,
            epoch,
            root,
            tree_packs,
            next_ino,
            inodes,
            bytes,
            data_packs_added,
            hot_set,
            reason,
        })
    }

    /// Id of the snapshot with these encoded bytes.
    #[must_use]
    pub fn id(bytes: &[u8]) -> SnapshotId {
        SnapshotId(*blake3::hash(bytes).as_bytes())
    }

    /// Key of its object.
    #[must_use]
    pub fn key(&self, id: &SnapshotId) -> String {
        snapshot_key(&self.workspace, self.created, id)
    }
}

pub(super) fn check_count(what: &'static str, len: usize, max: usize) -> Result<(), FormatError> {
    if len > max {
        return Err(FormatError::TooLong { what, len: len as u64, max: max as u64 });
    }
    Ok(())
}

pub(super) fn read_workspace(reader: &mut Reader<'_>) -> Result<WorkspaceName, FormatError> {
    let name = reader.text(256)?;
    name.parse().map_err(|_| reader.malformed("workspace name"))
}

pub(super) fn write_slot(out: &mut Writer, slot: &PackSlot) {
    out.bytes(slot.pack.as_bytes()).u32(slot.offset).u32(slot.len);
}

fn read_slot(reader: &mut Reader<'_>) -> Result<PackSlot, FormatError> {
    let pack = PackId(reader.array()?);
    Ok(PackSlot { pack, offset: reader.u32()?, len: reader.u32()? })
}

pub(super) fn write_node_ref(out: &mut Writer, node: &NodeRef) {
    out.bytes(node.id.as_bytes());
    write_slot(out, &node.slot);
}

pub(super) fn read_node_ref(reader: &mut Reader<'_>) -> Result<NodeRef, FormatError> {
    let node = NodeRef { id: NodeId(reader.array()?), slot: read_slot(reader)? };
    check_ref(&node).map_err(|why| reader.malformed(why))?;
    Ok(node)
}

pub(super) fn write_root(out: &mut Writer, root: Option<&NodeRef>) {
    match root {
        None => _ = out.u8(0),
        Some(root) => write_node_ref(out.u8(1), root),
    }
}

pub(super) fn read_root(reader: &mut Reader<'_>) -> Result<Option<NodeRef>, FormatError> {
    if reader.flag()? { read_node_ref(reader).map(Some) } else { Ok(None) }
}

pub(super) fn write_packs(out: &mut Writer, packs: &[PackInfo]) {
    out.count(packs.len());
    packs.iter().for_each(|pack| _ = out.bytes(pack.id.as_bytes()).u64(pack.len));
}

pub(super) fn read_packs(reader: &mut Reader<'_>) -> Result<Vec<PackInfo>, FormatError> {
    let count = reader.count(PACKS_MAX, PACK_INFO_LEN)?;
    let mut packs = Vec::with_capacity(count);
    for _ in 0..count {
        packs.push(PackInfo { id: PackId(reader.array()?), len: reader.u64()? });
    }
    Ok(packs)
}
