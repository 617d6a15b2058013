//! Stores that nobody but an enemy would write: refused by verification and by a mount, within
//! fixed memory and in bounded time, and what is beside them stays readable.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use dormouse::format::{
    Extent, Head, Key, Node, NodeRef, OWN_PACK, PackInfo, PackSlot, Source, encode_attr,
};
use dormouse::types::{Attr, Ino, Kind, NodeId, PackId};
use dormouse::workspace::{Depth, ProblemKind, VerifyReport};

use crate::forge::{Forge, Record, Says, attr, attr_record, extent_record, inner};
use crate::memory::{alone, peak_of};
use crate::support::{look_at, read_all, seeded_world, verify};
use crate::world::{World, checkpoint, noise};

/// Bytes of Rust's heap that one verification and one mount of any of these may take, together
/// with whatever other tests of this binary have at the time.
const MEMORY_MAX: usize = 96 << 20;

const DIR: Kind = Kind::Directory;
const FILE: Kind = Kind::File;

/// `/f` with content (inode 2), `/d` (3), `/d/g` with content (4).
struct Small {
    world: World,
    forge: Forge,
    records: Vec<Record>,
    says: Says,
    extent: Extent,
}

fn small() -> Small {
    let world = seeded_world();
    let forge = Forge::new(&world);
    let (pack, extents) = forge.chunks(&[&noise(1, 5000), &noise(2, 6000)]);
    let records = vec![
        attr_record(1, &attr(DIR, 3, 4096, 1)),
        forge.entry(1, b"f", 2, FILE),
        forge.entry(1, b"d", 3, DIR),
        attr_record(2, &attr(FILE, 1, 5000, 0)),
        extent_record(2, 0, &extents[0]),
        attr_record(3, &attr(DIR, 2, 4096, 1)),
        forge.entry(3, b"g", 4, FILE),
        attr_record(4, &attr(FILE, 1, 6000, 0)),
        extent_record(4, 0, &extents[1]),
    ];
    let says = Says {
        inodes: 4,
        bytes: 11_000,
        next_ino: 5,
        data_packs: vec![pack],
        head_records: Vec::new(),
    };
    Small { world, forge, records, says, extent: extents[0] }
}

impl Small {
    fn set(&mut self, record: Record) {
        self.remove(&record.0);
        self.records.push(record);
    }

    fn remove(&mut self, key: &Key) {
        self.records.retain(|(known, _)| known != key);
    }

    fn add_dir(&mut self, ino: u64, nlink: u32, parent: u64) {
        self.set(attr_record(ino, &attr(DIR, nlink, 4096, parent)));
    }

    fn add_entry(&mut self, directory: u64, name: &[u8], child: u64, kind: Kind) {
        let record = self.forge.entry(directory, name, child, kind);
        self.set(record);
    }

    fn set_attr(&mut self, ino: u64, attr: &Attr) {
        self.set(attr_record(ino, attr));
    }

    /// Seals it as a tree of one leaf.
    fn seal(&self) {
        let (root, pack) = self.forge.one_leaf(self.records.clone());
        self.forge.seal(root, vec![pack], self.says.clone());
    }

    /// Verifies and mounts it.
    fn judge(&self) -> VerifyReport {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (report, peak) = peak_of(|| {
            let report = verify(&self.world, Depth::Full);
            let cache = format!("look{}", NUMBER.fetch_add(1, Relaxed));
            if let Ok(workspace) = look_at(&self.world, &cache) {
                let seen = read_all(&self.world.files(&workspace));
                for (path, right) in [("/f", noise(1, 5000)), ("/d/g", noise(2, 6000))] {
                    if let Some(Ok(content)) = seen.get(path) {
                        assert!(
                            right.starts_with(content) || content.starts_with(&right),
                            "{path}"
                        );
                    }
                }
                workspace.close().unwrap();
            }
            report
        });
        assert!(peak < MEMORY_MAX, "{peak} bytes: {:?}", report.problems);
        report
    }

    /// Seals it, and expects a problem that says this.
    fn refused(&self, says: &str) -> VerifyReport {
        self.seal();
        self.refused_as_it_is(says)
    }

    fn refused_as_it_is(&self, says: &str) -> VerifyReport {
        let report = self.judge();
        assert!(!report.sound, "not found: {says}");
        let is_told = report.problems.iter().any(|problem| problem.what.contains(says));
        assert!(is_told, "{says:?} is not said: {:#?}", report.problems);
        report
    }

    fn paths(report: &VerifyReport) -> Vec<&str> {
        let affected = report.problems.iter().flat_map(|problem| &problem.affected);
        affected.flat_map(|affected| &affected.paths).map(String::as_str).collect()
    }
}

#[test]
fn what_the_forge_makes_is_sound_when_nothing_is_wrong() {
    let _alone = alone();
    let small = small();
    small.seal();
    let report = small.judge();
    assert!(report.sound, "{:?}", report.problems);
    assert_eq!((report.counts.records, report.counts.chunks_sound), (9, 2));
    let workspace = look_at(&small.world, "whole").unwrap();
    let seen = read_all(&small.world.files(&workspace));
    assert!(seen["/f"] == Ok(noise(1, 5000)) && seen["/d/g"] == Ok(noise(2, 6000)));
}

#[test]
fn directories_in_a_circle_are_found() {
    let _alone = alone();
    // From the root: /d/inside is /d again.
    let mut shared = small();
    shared.add_entry(3, b"inside", 3, DIR);
    shared.set_attr(3, &attr(DIR, 3, 4096, 1));
    let report = shared.refused("a directory with more than one name");
    assert_eq!(Small::paths(&report), ["/d"]);
    // Apart from the root: each is in the other.
    let mut apart = small();
    apart.add_dir(10, 3, 11);
    apart.add_dir(11, 3, 10);
    apart.add_entry(10, b"x", 11, DIR);
    apart.add_entry(11, b"y", 10, DIR);
    (apart.says.inodes, apart.says.next_ino) = (6, 12);
    apart.refused("a directory inside itself");
    // A rename that climbs from one to its top ends, too.
    let workspace = apart.world.resume("writer");
    let files = apart.world.files(&workspace);
    let name = |text: &str| dormouse::types::Name::new(text.as_bytes()).unwrap();
    let (x, y) = (name("x"), name("d"));
    let from = dormouse::fs::At { directory: Ino(1), name: &y };
    let to = dormouse::fs::At { directory: Ino(10), name: &x };
    let mode = dormouse::fs::RenameMode::Replace;
    let error = files.fs.rename(&files.caller(), from, to, mode).unwrap_err();
    assert_eq!(error.errno(), libc::EIO, "{error}");
}

#[test]
fn names_that_could_escape_are_refused_with_the_node_that_has_them() {
    let _alone = alone();
    let long = [b'x'; 256];
    for name in [&b"a/b"[..], b"..", b".", b"a\0b", b"", &long] {
        let mut small = small();
        small.add_entry(1, name, 4, FILE);
        let report = small.refused("malformed node: key");
        assert!(report.problems.iter().all(|problem| problem.kind == ProblemKind::Structure));
        assert!(report.problems[0].affected[0].everything);
    }
    // A name that is not at its hash can't be found by it.
    let mut small = small();
    let record = small.forge.entry(1, b"h", 4, FILE);
    small.set((Key::entry(Ino(1), 12, b"f2"), record.1));
    assert_eq!(Small::paths(&small.refused("not where its hash says")), ["/d/g"]);
}

#[test]
fn records_that_do_not_fit_together_are_found() {
    let _alone = alone();
    type Change = fn(&mut Small);
    let cases: &[(&str, Change)] = &[
        ("another link count than names", |s| s.set_attr(2, &attr(FILE, 2, 5000, 0))),
        ("another link count than names", |s| s.set_attr(1, &attr(DIR, 9, 4096, 1))),
        ("no attributes", |s| s.remove(&Key::attr(Ino(2)))),
        ("no name and no orphan's record", |s| {
            let name = s.forge.keys.name(b"f");
            s.remove(&Key::entry(Ino(1), name, b"f"));
        }),
        ("another kind than its entry says", |s| s.add_entry(1, b"f", 2, Kind::Symlink)),
        ("names another parent", |s| s.add_dir(3, 2, 3)),
        ("is named as an orphan", |s| s.set((Key::orphan(Ino(2)), Vec::new()))),
        ("is the root", |s| s.set_attr(1, &attr(FILE, 1, 0, 0))),
        ("records that its kind can't have", |s| {
            let record = extent_record(3, 0, &s.extent);
            s.set(record);
        }),
        ("more content than it says", |s| {
            let small = Attr { allocated: 10, ..attr(FILE, 1, 5000, 0) };
            s.set_attr(2, &small);
            s.says.bytes -= 4990;
        }),
        ("its attributes", |s| s.set_attr(2, &attr(FILE, 1, u64::MAX, 0))),
        ("an extent", |s| s.set((Key::extent(Ino(2), 0), vec![1; 7]))),
        ("an extent", |s| {
            let record = extent_record(2, 256 * 1024 - 1, &s.extent);
            s.set(record);
        }),
        ("an extent", |s| {
            let record = extent_record(2, u64::MAX - 10, &s.extent);
            s.set(record);
        }),
        ("extents that overlap", |s| {
            let record = extent_record(2, 100, &s.extent);
            s.set(record);
        }),
        ("a record of inode 0", |s| s.set_attr(0, &attr(FILE, 1, 0, 0))),
        ("a local record", |s| s.set((Key::local("namespace/counters"), vec![0; 16]))),
        ("inodes and", |s| s.says.inodes = 1 << 60),
        ("is the next new", |s| s.says.next_ino = 3),
    ];
    for (says, change) in cases {
        let mut small = small();
        change(&mut small);
        small.refused(says);
    }
}

#[test]
fn extents_that_name_what_is_not_there_hit_their_file_only() {
    let _alone = alone();
    type Change = fn(&mut Extent);
    let cases: &[(&str, Change)] = &[
        ("it is not in the store", |extent| slot(extent).pack = PackId([9; 32])),
        ("would be outside of it", |extent| slot(extent).offset = 4_000_000_000),
        ("would be outside of it", |extent| slot(extent).offset = 0),
        ("the chunk at", |extent| slot(extent).offset += 1),
        ("an extent", |extent| slot(extent).len = u32::MAX),
        ("an extent", |extent| slot(extent).len = 10),
        ("another chunk is there", |extent| {
            if let Source::Chunk { id, .. } = &mut extent.source {
                id.0[0] ^= 1;
            }
        }),
        ("bytes where 5100 are needed", |extent| {
            if let Source::Chunk { within, .. } = &mut extent.source {
                *within = 100;
            }
        }),
    ];
    for (says, change) in cases {
        let mut small = small();
        let mut extent = small.extent;
        change(&mut extent);
        small.set(extent_record(2, 0, &extent));
        let report = small.refused(says);
        assert_eq!(Small::paths(&report), ["/f"], "{says}");
        let workspace = look_at(&small.world, "beside").unwrap();
        let seen = read_all(&small.world.files(&workspace));
        // The length of a frame stands in the frame, too: a mount that finds it there is right.
        assert!([Err(libc::EIO), Ok(noise(1, 5000))].contains(&seen["/f"]), "{says}");
        assert!(seen["/d/g"] == Ok(noise(2, 6000)), "{says}");
    }
}

fn slot(extent: &mut Extent) -> &mut PackSlot {
    match &mut extent.source {
        Source::Chunk { slot, .. } => slot,
        Source::Staged(_) => unreachable!("a stored extent"),
    }
}

/// Seals a tree whose root is whatever this writes into its pack.
fn with_root(
    small: &Small,
    write: impl FnOnce(&mut crate::forge::TreePack<'_>) -> NodeRef,
) -> PackInfo {
    let mut pack = small.forge.tree_pack();
    let root = write(&mut pack);
    let (root, info) = pack.end(root);
    small.forge.seal(root, vec![info], small.says.clone());
    info
}

#[test]
fn nodes_that_claim_more_than_they_have_are_refused() {
    let _alone = alone();
    let header = |level: u8, count: u32| {
        let mut plain = b"DMND\x01".to_vec();
        plain.extend([level, 0, 0]);
        plain.extend(count.to_le_bytes());
        plain
    };
    for plain in [
        header(0, u32::MAX),
        header(3, u32::MAX),
        header(0, 0),
        header(200, 1),
        // One record, of a value that is longer than any.
        [header(0, 1), vec![9, 0, 0xff, 0xff, 0xff, 0xff], vec![0; 64]].concat(),
        // One child of 2^60 bytes at the end of a pack of 4 GiB.
        [
            header(1, 1),
            vec![9, 0],
            vec![5; 64],
            0xffff_ff00_u32.to_le_bytes().to_vec(),
            200_u32.to_le_bytes().to_vec(),
            (1_u64 << 60).to_le_bytes().to_vec(),
            Key::attr(Ino(1)).as_bytes().to_vec(),
        ]
        .concat(),
        vec![0; 200_000],
        Vec::new(),
    ] {
        let small = small();
        with_root(&small, |pack| pack.plain(plain.into()));
        let report = small.judge();
        assert!(!report.sound && report.problems[0].affected[0].everything, "{report:?}");
    }
}

#[test]
fn frames_that_blow_up_are_refused_before_they_do() {
    let _alone = alone();
    // A gigabyte of zeros in 30 KB, said to be what a node or chunk may have at most, and less.
    let zeros = std::io::Read::take(std::io::repeat(0), 1 << 30);
    let bomb = zstd::stream::encode_all(zeros, 19).unwrap();
    for plain_len in [256 * 1024, 200_000, u32::MAX] {
        let small = small();
        let frame = |kind: u8, id: &[u8; 32]| {
            let mut frame = b"DMFR\x01".to_vec();
            frame.extend([kind, 1, 0]);
            frame.extend(plain_len.to_le_bytes());
            frame.extend((bomb.len() as u32).to_le_bytes());
            frame.extend(id);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), &bomb);
            frame.extend(crc.to_le_bytes());
            frame.extend(&bomb);
            frame
        };
        let frame = frame(2, &[3; 32]);
        let mut pack = small.forge.tree_pack();
        if plain_len == u32::MAX {
            assert!(pack.builder.push(&frame).is_err(), "no writer takes it");
            continue;
        }
        let root = pack.frame(NodeId([3; 32]), &frame);
        let (root, info) = pack.end(root);
        small.forge.seal(root, vec![info], small.says.clone());
        small.refused_as_it_is("the compressed bytes are damaged");
    }
}

#[test]
fn trees_that_are_none_are_refused() {
    let _alone = alone();
    // A child that is its own parent's place; no node can hold its own hash.
    let own = small();
    with_root(&own, |pack| {
        let slot = PackSlot { pack: OWN_PACK, offset: 8, len: 200 };
        let me = NodeRef { id: NodeId([8; 32]), slot };
        pack.node(&inner(1, vec![(Key::attr(Ino(1)), me, 1 << 20)]))
    });
    own.refused_as_it_is("node 0808");

    // A level that does not go down, a first key and a size that are not the child's.
    let first = || Key::attr(Ino(1));
    let cases = [
        ("another level", 2, first(), 0),
        ("another first key", 1, Key::orphan(Ino(7)), 0),
        ("another size", 1, first(), 1000),
    ];
    for (says, level, key, more) in cases {
        let small = small();
        let leaf = small.forge.leaf(small.records.clone());
        with_root(&small, |pack| {
            let leaf = pack.node(&leaf);
            pack.node(&inner(level, vec![(key, leaf, u64::from(leaf.slot.len) + more)]))
        });
        small.refused_as_it_is(says);
    }

    // A pack that the snapshot does not list.
    let unlisted = small();
    let (leaf, _) = unlisted.forge.one_leaf(unlisted.records.clone());
    let other = unlisted.forge.one_leaf(vec![attr_record(1, &attr(DIR, 2, 4096, 1))]).1;
    unlisted.forge.seal(leaf, vec![other], unlisted.says.clone());
    unlisted.refused_as_it_is("does not list its pack");

    // A pack of an absurd length.
    let absurd = small();
    let (root, pack) = absurd.forge.one_leaf(absurd.records.clone());
    let packs = vec![PackInfo { len: u64::MAX, ..pack }];
    absurd.forge.seal(root, packs, absurd.says.clone());
    absurd.refused_as_it_is("where 18446744073709551615 were written");
}

/// A tree of a few dozen nodes that share their children so that there are 20^12 ways from the
/// root to a leaf.
fn thicket(small: &Small) {
    with_root(small, |pack| {
        let leaf_at = |ino: u64| small.forge.leaf(vec![attr_record(ino, &attr(FILE, 1, 0, 0))]);
        let mut first = pack.node(&small.forge.leaf(small.records.clone()));
        let mut bytes = u64::from(first.slot.len);
        // Nineteen subtrees that all nodes of the level above share, after their own first ones.
        let mut shared: Vec<(Key, NodeRef, u64)> = (1000..1019)
            .map(|ino| {
                let leaf = pack.node(&leaf_at(ino));
                (Key::attr(Ino(ino)), leaf, u64::from(leaf.slot.len))
            })
            .collect();
        for level in 1..=12 {
            let mut above = Vec::new();
            // Before all that is shared.
            for start in (0..19).map(|nth| 1000 - 20 * u64::from(level) + nth) {
                // Each begins with a leaf's chain of its own, and goes on with what is shared.
                let mut chain = pack.node(&leaf_at(start));
                let mut len = u64::from(chain.slot.len);
                for below in 1..level {
                    chain = pack.node(&inner(below, vec![(Key::attr(Ino(start)), chain, len)]));
                    len += u64::from(chain.slot.len);
                }
                let mut children = vec![(Key::attr(Ino(start)), chain, len)];
                children.extend(shared.iter().cloned());
                let sum: u64 = children.iter().map(|(_, _, bytes)| *bytes).sum();
                let node = pack.node(&inner(level, children));
                above.push((Key::attr(Ino(start)), node, sum + u64::from(node.slot.len)));
            }
            let mut children = vec![(Key::attr(Ino(1)), first, bytes)];
            children.extend(shared);
            let sum: u64 = children.iter().map(|(_, _, bytes)| *bytes).sum();
            first = pack.node(&inner(level, children));
            bytes = sum + u64::from(first.slot.len);
            shared = above;
        }
        let mut children = vec![(Key::attr(Ino(1)), first, bytes)];
        children.extend(shared);
        pack.node(&inner(13, children))
    });
}

#[test]
fn shared_subtrees_do_not_make_a_walk_without_end() {
    let _alone = alone();
    let small = small();
    thicket(&small);
    small.refused_as_it_is("its keys are among another's");
    // A seal goes through all inner nodes: it says so instead.
    let workspace = small.world.resume("writer");
    small.world.files(&workspace).write("new", b"content");
    let error = checkpoint(&workspace).unwrap_err();
    assert!(error.to_string().contains("last key of node"), "{error}");
}

#[test]
fn a_head_whose_inline_parts_are_not_its_tree_s_is_found() {
    let _alone = alone();
    let mut small = small();
    let planted = encode_attr(&Attr { mode: 0o4777, ..attr(FILE, 1, 5000, 0) });
    small.says.head_records = vec![(Key::attr(Ino(2)), Bytes::from(planted))];
    let report = small.refused("are not those in snapshot");
    assert_eq!(Small::paths(&report), ["/f"]);
    assert_eq!(report.problems[0].object, "workspaces/w/head");

    let key = "workspaces/w/head";
    small.says.head_records.clear();
    small.seal();
    let mut head = Head::decode(&small.forge.objects.get(key)).unwrap();
    let root = head.root.unwrap();
    head.nodes = vec![(root, Bytes::from(noise(5, root.slot.len as usize)))];
    small.forge.objects.put(key, head.encode().unwrap());
    small.refused_as_it_is("that stands in it is damaged");
    let workspace = look_at(&small.world, "planted").unwrap();
    let seen = read_all(&small.world.files(&workspace));
    assert!(seen["/f"] == Ok(noise(1, 5000)), "it is fetched from its pack instead");
    head.nodes.clear();
    head.inodes += 1;
    small.forge.objects.put(key, head.encode().unwrap());
    small.refused_as_it_is("it says other things of its snapshot");
}

#[test]
fn objects_of_absurd_size_are_not_taken_in() {
    let _alone = alone();
    let small = small();
    small.seal();
    let objects = &small.forge.objects;
    let big = Bytes::from(vec![0; 40 << 20]);
    for key in objects.list().iter().filter(|key| key.starts_with("workspaces/")) {
        let whole = objects.get(key);
        objects.put(key, big.clone());
        let (report, peak) = peak_of(|| verify(&small.world, Depth::Full));
        assert!(report.problems.iter().any(|p| p.object == *key), "{:?}", report.problems);
        assert!(peak < MEMORY_MAX, "{peak}");
        objects.put(key, whole);
    }
}

#[test]
fn a_leaf_may_be_as_long_as_the_format_allows_and_no_longer() {
    let _alone = alone();
    let small = small();
    let mut records = small.records.clone();
    for i in 0..3 {
        records.push((Key::xattr(Ino(2), format!("user.{i}").as_bytes()), vec![i; 65_536]));
    }
    let (root, pack) = small.forge.one_leaf(records.clone());
    small.forge.seal(root, vec![pack], small.says.clone());
    assert!(verify(&small.world, Depth::Full).sound);
    records.push((Key::xattr(Ino(2), b"user.more"), vec![9; 65_536]));
    let plain = match small.forge.leaf(records) {
        node @ Node::Leaf(_) => dormouse::format::encode_node(&node, |_| OWN_PACK),
        Node::Inner(_) => unreachable!("a leaf"),
    };
    assert!(plain.is_err());
}
