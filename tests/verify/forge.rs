//! Stores made by the format's own writers, with right hashes: only what they say is wrong.

use bytes::Bytes;
use dormouse::format::{
    Child, EntryRecord, Extent, FrameKind, HashKeys, Head, Inner, Key, Node, NodeRef, OWN_PACK,
    PackBuilder, PackInfo, PackKind, PackSlot, Snapshot, SnapshotRef, Source, StoreFormat,
    encode_attr, encode_entry, encode_extent, encode_frame, encode_node, head_key, pack_key,
};
use dormouse::types::{Attr, Epoch, Ino, Kind, NodeId, Time, WorkspaceName};

use crate::support::Objects;
use crate::world::World;

pub type Record = (Key, Vec<u8>);

/// Writes into a world's store.
pub struct Forge {
    pub keys: HashKeys,
    pub objects: Objects,
}

/// A tree pack that is being written.
pub struct TreePack<'a> {
    forge: &'a Forge,
    pub builder: PackBuilder,
}

/// What a snapshot says beside its tree.
#[derive(Debug, Clone)]
pub struct Says {
    pub inodes: u64,
    pub bytes: u64,
    pub next_ino: u64,
    pub data_packs: Vec<PackInfo>,
    pub head_records: Vec<(Key, Bytes)>,
}

impl Forge {
    pub fn new(world: &World) -> Forge {
        let objects = Objects::of(world);
        let keys = StoreFormat::decode(&objects.get("format")).unwrap().keys();
        Forge { keys, objects }
    }

    pub fn tree_pack(&self) -> TreePack<'_> {
        TreePack { forge: self, builder: PackBuilder::new(PackKind::Tree) }
    }

    /// Stores a pack.
    pub fn put(&self, builder: PackBuilder) -> PackInfo {
        let (id, bytes) = builder.finish();
        let len = bytes.len() as u64;
        self.objects.put(&pack_key(&id), bytes);
        PackInfo { id, len }
    }

    /// Stores chunks in one data pack: the pack and the extents of whole chunks.
    pub fn chunks(&self, contents: &[&[u8]]) -> (PackInfo, Vec<Extent>) {
        let mut builder = PackBuilder::new(PackKind::Data);
        let mut slots = Vec::new();
        for content in contents {
            let id = self.keys.chunk(content);
            let frame = encode_frame(FrameKind::Chunk, id.as_bytes(), content);
            let offset = builder.push(&frame).unwrap();
            slots.push((id, offset, frame.len() as u32, content.len() as u64));
        }
        let info = self.put(builder);
        let extent = |(id, offset, len, plain_len)| {
            let slot = PackSlot { pack: info.id, offset, len };
            Extent { len: plain_len, source: Source::Chunk { id, within: 0, slot } }
        };
        (info, slots.into_iter().map(extent).collect())
    }

    pub fn entry(&self, directory: u64, name: &[u8], child: u64, kind: Kind) -> Record {
        let key = Key::entry(Ino(directory), self.keys.name(name), name);
        (key, encode_entry(EntryRecord { ino: Ino(child), kind }))
    }

    /// One leaf of these records, which are put in order.
    pub fn leaf(&self, mut records: Vec<Record>) -> Node {
        records.sort();
        Node::leaf(records.iter().map(|(key, value)| (key, value.as_slice()))).unwrap()
    }

    /// Stores a tree of one leaf.
    pub fn one_leaf(&self, records: Vec<Record>) -> (NodeRef, PackInfo) {
        let mut pack = self.tree_pack();
        let root = pack.node(&self.leaf(records));
        pack.end(root)
    }

    /// Stores snapshot and head of workspace `w`.
    pub fn seal(&self, root: NodeRef, tree_packs: Vec<PackInfo>, says: Says) {
        let workspace: WorkspaceName = "w".parse().unwrap();
        let snapshot = Snapshot {
            workspace: workspace.clone(),
            parents: Vec::new(),
            created: Time::new(1_800_000_000, 0),
            epoch: Epoch(1),
            root: Some(root),
            tree_packs: tree_packs.clone(),
            next_ino: Ino(says.next_ino),
            inodes: says.inodes,
            bytes: says.bytes,
            data_packs_added: says.data_packs,
            hot_set: Vec::new(),
            reason: "hibernate".to_owned(),
        };
        let bytes = snapshot.encode().unwrap();
        let id = Snapshot::id(&bytes);
        let key = snapshot.key(&id);
        self.objects.put(&key, bytes);
        let head = Head {
            nonce: [7; 16],
            workspace: workspace.clone(),
            epoch: Epoch(1),
            lease: None,
            snapshot: Some(SnapshotRef { id, key }),
            root: Some(root),
            nodes: Vec::new(),
            records: says.head_records,
            tree_packs,
            next_ino: snapshot.next_ino,
            inodes: snapshot.inodes,
            bytes: snapshot.bytes,
        };
        self.objects.put(&head_key(&workspace), head.encode().unwrap());
    }
}

impl TreePack<'_> {
    /// Adds a node. The place is in this pack until [`TreePack::end`].
    pub fn node(&mut self, node: &Node) -> NodeRef {
        self.plain(encode_node(node, |_| OWN_PACK).unwrap())
    }

    /// Adds whatever a node's plaintext may be.
    pub fn plain(&mut self, plain: Bytes) -> NodeRef {
        let id = self.forge.keys.node(&plain);
        self.frame(id, &encode_frame(FrameKind::Node, id.as_bytes(), &plain))
    }

    /// Adds whatever a frame may be.
    pub fn frame(&mut self, id: NodeId, frame: &[u8]) -> NodeRef {
        let offset = self.builder.push(frame).unwrap();
        NodeRef { id, slot: PackSlot { pack: OWN_PACK, offset, len: frame.len() as u32 } }
    }

    /// Stores the pack, and says where the root is then.
    pub fn end(self, root: NodeRef) -> (NodeRef, PackInfo) {
        let info = self.forge.put(self.builder);
        let slot = PackSlot { pack: info.id, ..root.slot };
        (NodeRef { slot, ..root }, info)
    }
}

/// An inner node.
pub fn inner(level: u8, children: Vec<(Key, NodeRef, u64)>) -> Node {
    let child = |(key, node, tree_bytes)| Child { key, node, tree_bytes };
    Node::Inner(Inner { level, children: children.into_iter().map(child).collect() })
}

pub fn attr(kind: Kind, nlink: u32, size: u64, parent: u64) -> Attr {
    Attr {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        nlink,
        size,
        allocated: if kind == Kind::File { size } else { 0 },
        rdev: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        crtime: Time::default(),
        target: Box::default(),
        parent: Ino(parent),
    }
}

pub fn attr_record(ino: u64, attr: &Attr) -> Record {
    (Key::attr(Ino(ino)), encode_attr(attr))
}

pub fn extent_record(ino: u64, offset: u64, extent: &Extent) -> Record {
    (Key::extent(Ino(ino), offset), encode_extent(extent))
}
