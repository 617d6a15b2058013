//! A million files, and a thousand snapshots.

use bytes::Bytes;
use dormouse::format::{Extent, Source, encode_frame};
use dormouse::format::{FrameKind, Key, NodeRef, PackBuilder, PackInfo, PackKind, PackSlot};
use dormouse::types::Kind;
use dormouse::workspace::Depth;

use crate::forge::{Forge, Record, Says, attr, attr_record, extent_record, inner};
use crate::memory::{alone, peak_of};
use crate::support::{seed, seeded, seeded_world, verify};
use crate::world::{World, checkpoint};

/// Bytes of records in a leaf.
const LEAF_BYTES: usize = 60_000;

/// Children of an inner node.
const CHILDREN: usize = 250;

/// Writes a tree of records that come in order, as they come.
struct Tree<'a> {
    forge: &'a Forge,
    pack: Option<PackBuilder>,
    packs: Vec<PackInfo>,
    open: Vec<Record>,
    open_bytes: usize,
    /// Key, place and subtree's bytes of the leaves so far.
    leaves: Vec<(Key, NodeRef, u64)>,
}

impl Tree<'_> {
    fn add(&mut self, record: Record) {
        self.open_bytes += record.0.as_bytes().len() + record.1.len() + 6;
        self.open.push(record);
        if self.open_bytes > LEAF_BYTES {
            self.close_leaf();
        }
    }

    fn close_leaf(&mut self) {
        let key = self.open[0].0.clone();
        let node = self.forge.leaf(std::mem::take(&mut self.open));
        self.open_bytes = 0;
        let mut pack = self.forge.tree_pack();
        pack.builder = self.pack.take().unwrap_or(PackBuilder::new(PackKind::Tree));
        let leaf = pack.node(&node);
        self.leaves.push((key, leaf, u64::from(leaf.slot.len)));
        self.pack = Some(pack.builder);
        if self.pack.as_ref().is_some_and(|pack| pack.len() > 16 << 20) {
            self.close_pack();
        }
    }

    /// What was in the open pack has a place from now on.
    fn close_pack(&mut self) {
        let Some(pack) = self.pack.take() else { return };
        let info = self.forge.put(pack);
        for (_, node, _) in &mut self.leaves {
            if node.slot.pack == dormouse::format::OWN_PACK {
                node.slot.pack = info.id;
            }
        }
        self.packs.push(info);
    }

    fn end(mut self) -> (NodeRef, Vec<PackInfo>) {
        self.close_leaf();
        self.close_pack();
        let mut level = 0;
        let mut items = self.leaves;
        while items.len() > 1 {
            level += 1;
            let mut pack = PackBuilder::new(PackKind::Tree);
            let mut above = Vec::new();
            for children in items.chunks(CHILDREN) {
                let node = inner(level, children.to_vec());
                let plain = dormouse::format::encode_node(&node, |pack| *pack).unwrap();
                let id = self.forge.keys.node(&plain);
                let frame = encode_frame(FrameKind::Node, id.as_bytes(), &plain);
                let offset = pack.push(&frame).unwrap();
                let slot =
                    PackSlot { pack: dormouse::format::OWN_PACK, offset, len: frame.len() as u32 };
                let below: u64 = children.iter().map(|(_, _, bytes)| *bytes).sum();
                let bytes = below + u64::from(slot.len);
                above.push((children[0].0.clone(), NodeRef { id, slot }, bytes));
            }
            let info = self.forge.put(pack);
            above.iter_mut().for_each(|(_, node, _)| node.slot.pack = info.id);
            self.packs.push(info);
            items = above;
        }
        (items[0].1, self.packs)
    }
}

/// `/<thousand>/<file>`, each file with a chunk of its own.
fn forge_files(world: &World, files: u64) {
    let forge = Forge::new(world);
    let mut tree = Tree {
        forge: &forge,
        pack: None,
        packs: Vec::new(),
        open: Vec::new(),
        open_bytes: 0,
        leaves: Vec::new(),
    };
    let folders = files / 1000;
    let folder = |number: u64| 2 + number * 1001;
    tree.add(attr_record(1, &attr(Kind::Directory, 2 + folders as u32, 4096, 1)));
    let mut entries: Vec<Record> = (0..folders)
        .map(|n| forge.entry(1, format!("dir{n}").as_bytes(), folder(n), Kind::Directory))
        .collect();
    entries.sort();
    entries.into_iter().for_each(|record| tree.add(record));
    let mut data_packs = Vec::new();
    for number in 0..folders {
        let contents: Vec<Vec<u8>> =
            (0..1000).map(|i| format!("content of file {i} in {number}").into_bytes()).collect();
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let (pack, extents): (PackInfo, Vec<Extent>) = forge.chunks(&contents);
        data_packs.push(pack);
        tree.add(attr_record(folder(number), &attr(Kind::Directory, 2, 4096, 1)));
        let mut entries: Vec<Record> = (0..1000)
            .map(|i| {
                let name = format!("file{i}");
                forge.entry(folder(number), name.as_bytes(), folder(number) + 1 + i, Kind::File)
            })
            .collect();
        entries.sort();
        entries.into_iter().for_each(|record| tree.add(record));
        for (i, extent) in extents.iter().enumerate() {
            let ino = folder(number) + 1 + i as u64;
            assert!(matches!(extent.source, Source::Chunk { .. }));
            tree.add(attr_record(ino, &attr(Kind::File, 1, extent.len, 0)));
            tree.add(extent_record(ino, 0, extent));
        }
    }
    let (root, packs) = tree.end();
    let bytes = (0..folders).flat_map(|n| (0..1000).map(move |i| (n, i)));
    let bytes = bytes.map(|(n, i)| format!("content of file {i} in {n}").len() as u64).sum();
    let says = Says {
        inodes: 1 + folders + files,
        bytes,
        next_ino: folder(folders),
        data_packs,
        head_records: Vec::<(Key, Bytes)>::new(),
    };
    forge.seal(root, packs, says);
}

fn verify_files(files: u64, memory_max: usize) {
    let world = seeded(World::in_directory(), seed());
    forge_files(&world, files);
    let (report, peak) = peak_of(|| verify(&world, Depth::Full));
    assert!(report.sound, "{:?}", report.problems);
    assert_eq!(report.counts.chunks_sound, files);
    assert_eq!(report.workspaces[0].inodes, 1 + files / 1000 + files);
    eprintln!("{files} files: {} MiB, {:?}", peak >> 20, report.counts);
    assert!(peak < memory_max, "{peak} bytes for {files} files");
}

#[test]
fn thirty_thousand_files_take_little_memory() {
    let _alone = alone();
    // Other tests of this binary run beside it.
    verify_files(30_000, 128 << 20);
}

#[test]
#[ignore = "a minute; to be run alone, as it measures memory"]
fn a_million_files_take_less_than_200_mib() {
    let _alone = alone();
    verify_files(1_000_000, 200 << 20);
}

#[test]
fn hundreds_of_snapshots_cost_what_changed_between_them() {
    let _alone = alone();
    const SNAPSHOTS: u64 = 200;
    let world = seeded_world();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let dir = files.mkdir("d");
    for i in 0..3000 {
        files.create_in(dir, &format!("file{i}"));
    }
    for i in 0..SNAPSHOTS {
        files.write(&format!("new{i}"), &i.to_le_bytes());
        if i % 3 == 0 {
            files.unlink(&format!("d/file{i}"));
        }
        checkpoint(&workspace).unwrap();
    }
    let report = verify(&world, Depth::Full);
    assert!(report.sound, "{:?}", report.problems);
    assert_eq!(report.workspaces[0].snapshots, SNAPSHOTS);
    let once = report.workspaces[0].inodes * 2;
    // All records of the first, and for each further snapshot those of a few leaves.
    assert!(report.counts.records < once + SNAPSHOTS * 3000, "{:?}", report.counts);
    workspace.close().unwrap();
}
