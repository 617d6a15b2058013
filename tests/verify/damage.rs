//! Each kind of stored object, damaged in each way: verification finds it, names it and the files
//! that it hits; a mount gives `EIO` for no other, and never a wrong byte.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dormouse::format::{
    Head, Key, KeyParts, Leaf, Node, NodeRef, PackKind, Snapshot, decode_frame, decode_node,
    decode_pack_header, head_key, pack_key,
};
use dormouse::types::WorkspaceName;
use dormouse::workspace::{Depth, Problem, ProblemKind, Store, VerifyReport, WorkspaceError};

use crate::memory::alone;
use crate::support::{
    self, Content, Objects, inodes, look_at, options, read_all, same_nonces, seed, seeded,
    seeded_world, try_verify, verify,
};
use crate::world::{World, checkpoint, hibernate, noise};

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let hash = blake3::hash(&self.0.to_le_bytes());
        let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
        (number % end as u64) as usize
    }
}

/// A workspace of two snapshots in several packs, and another one.
fn filled() -> World {
    let world = seeded_world();
    let mut options = world.options("writer");
    options.chunks.pack_bytes = 512 * 1024;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    for dir in ["a", "a/b", "c"] {
        files.mkdir(dir);
    }
    for i in 0..700 {
        let dir = ["a", "a/b", "c"][i as usize % 3];
        files.write(&format!("{dir}/small{i}"), &noise(i, 1 + i as usize * 11 % 3000));
    }
    let large = files.write("large", &noise(1000, 900_000));
    files.set_xattr(large, "user.kept", b"value");
    files.write("c/text", "all the same ".repeat(50_000).as_bytes());
    checkpoint(&workspace).unwrap();
    files.write("later", &noise(2000, 300_000));
    files.write_at(large, 100_000, &noise(2001, 50_000));
    files.unlink("c/small2");
    // A hibernation alone would settle on several threads, in any order.
    checkpoint(&workspace).unwrap();
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    let mut other = world.options("other");
    other.name = "v".parse().unwrap();
    let workspace = world.try_resume(&other).unwrap();
    world.files(&workspace).write("other", &noise(3000, 400_000));
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    same_nonces(&world);
    world
}

/// What can happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Missing,
    Emptied,
    Truncated(usize),
    Flipped(usize),
    Garbage(usize),
    Replaced,
}

impl Damage {
    /// All that are tried on an object of this length.
    fn all(len: usize, random: &mut Random) -> Vec<Damage> {
        let mut all = vec![Damage::Missing, Damage::Emptied, Damage::Replaced];
        all.extend([1, len / 2, len - 1].map(Damage::Truncated));
        // The first bytes, the last ones, and some between.
        let places = [0, 5, len - 1, len - 10, len - 30, random.below(len), random.below(len)];
        all.extend(places.map(Damage::Flipped));
        all.push(Damage::Garbage(random.below(len)));
        all
    }

    fn apply(self, objects: &Objects, key: &str, whole: &Bytes, other: &Bytes) {
        match self {
            Damage::Missing => objects.delete(key),
            Damage::Emptied => objects.put(key, Bytes::new()),
            Damage::Replaced => objects.put(key, other.clone()),
            Damage::Truncated(len) => objects.put(key, whole.slice(..len)),
            Damage::Flipped(at) => {
                let mut bytes = whole.to_vec();
                bytes[at] ^= 1 << (at % 8);
                objects.put(key, bytes);
            }
            Damage::Garbage(at) => {
                let mut bytes = whole.to_vec();
                let end = bytes.len().min(at + 65_536);
                bytes[at..end].copy_from_slice(&noise(at as u64, end - at));
                objects.put(key, bytes);
            }
        }
    }
}

/// Kinds of objects. Those of a kind stand for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Format,
    Head,
    Snapshot,
    TreePack,
    DataPack,
}

fn kind(key: &str, bytes: &[u8]) -> Of {
    match key {
        "format" => Of::Format,
        key if key.ends_with("/head") => Of::Head,
        key if key.contains("/snapshots/") => Of::Snapshot,
        _ => match decode_pack_header(bytes).unwrap() {
            PackKind::Tree => Of::TreePack,
            PackKind::Data => Of::DataPack,
        },
    }
}

/// Another valid object for each kind.
fn stand_ins(objects: &Objects) -> BTreeMap<Of, Vec<(String, Bytes)>> {
    let mut all: BTreeMap<Of, Vec<(String, Bytes)>> = BTreeMap::new();
    for key in objects.list() {
        let bytes = objects.get(&key);
        all.entry(kind(&key, &bytes)).or_default().push((key, bytes));
    }
    let elsewhere = Objects::of(&seeded(World::new(), seed() + 1));
    let format = ("elsewhere".to_owned(), elsewhere.get("format"));
    all.get_mut(&Of::Format).unwrap().push(format);
    all
}

/// The paths of workspace `w`'s newest snapshot that a report says are hit.
fn hit(report: &VerifyReport, newest: &str) -> BTreeSet<String> {
    let affected = report.problems.iter().flat_map(|problem| &problem.affected);
    let newest = affected.filter(|affected| affected.snapshot.as_deref() == Some(newest));
    let mut paths = BTreeSet::new();
    for affected in newest {
        paths.extend(affected.paths.iter().cloned());
        if affected.everything {
            paths.insert("/".to_owned());
        }
    }
    paths
}

fn is_hit(path: &str, hit: &BTreeSet<String>) -> bool {
    let path = path.trim_end_matches('/');
    let above = |dir: &String| {
        let dir = dir.trim_end_matches('/');
        path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    hit.iter().any(above)
}

struct Trial<'a> {
    world: &'a World,
    right: &'a BTreeMap<String, Content>,
    newest: &'a str,
    of: Of,
    key: &'a str,
    damage: Damage,
    number: usize,
}

impl Trial<'_> {
    fn say(&self) -> String {
        let Trial { of, key, damage, .. } = self;
        format!("seed {}: {of:?} {key} {damage:?}", seed())
    }

    fn run(&self) {
        let full = try_verify(self.world, &options(self.world, Depth::Full));
        if self.of == Of::Format && self.damage != Damage::Replaced {
            let is_told = match &full {
                Err(WorkspaceError::NoStore) => self.damage == Damage::Missing,
                Err(WorkspaceError::Corrupt { what, .. }) => what == "format",
                Err(WorkspaceError::NewerFormat { what, .. }) => what == "format",
                _ => false,
            };
            assert!(is_told, "{}: {full:?}", self.say());
            assert!(Store::remains(&self.world.remote()).unwrap().is_some());
            assert!(look_at(self.world, &format!("trial{}", self.number)).is_err());
            return;
        }
        let full = full.unwrap_or_else(|error| panic!("{}: {error}", self.say()));
        self.names(&full);
        if self.of != Of::DataPack {
            let quick = verify(self.world, Depth::Quick);
            self.names(&quick);
        }
        self.mount(&full);
    }

    /// The report names the object, and nothing else but what is wrong because of it.
    fn names(&self, report: &VerifyReport) {
        assert!(!report.sound, "{}: not found", self.say());
        let told = |problem: &&Problem| problem.object == self.key;
        let problem = report.problems.iter().find(told);
        // A snapshot that is gone is known by those who were made from it.
        let Some(problem) = problem.or_else(|| {
            let id = self.key.rsplit_once('-')?.1;
            report.problems.iter().find(|problem| problem.object.ends_with(id))
        }) else {
            panic!("{}: not named in {:?}", self.say(), report.problems);
        };
        let kind = match self.damage {
            Damage::Missing => Some(ProblemKind::Missing),
            Damage::Emptied | Damage::Truncated(_)
                if matches!(self.of, Of::TreePack | Of::DataPack) =>
            {
                Some(ProblemKind::Size)
            }
            _ => None,
        };
        assert!(kind.is_none_or(|kind| problem.kind == kind), "{}: {problem:?}", self.say());
        if self.of != Of::Format {
            let others: Vec<_> = report.problems.iter().map(|problem| &problem.object).collect();
            assert_eq!(others.len(), 1, "{}: {others:?}", self.say());
        }
    }

    /// A mount gives the right bytes or `EIO`, and that for none but the files that are told.
    fn mount(&self, report: &VerifyReport) {
        let cache = format!("trial{}", self.number);
        let workspace = match look_at(self.world, &cache) {
            Ok(workspace) => workspace,
            Err(error) => {
                let own = self.of == Of::Head && self.key == "workspaces/w/head";
                assert!(own, "{}: {error}", self.say());
                return;
            }
        };
        let seen = read_all(&self.world.files(&workspace));
        let hit = hit(report, self.newest);
        let mut failed = BTreeSet::new();
        for (path, content) in &seen {
            match content {
                Ok(bytes) => assert!(Some(&Ok(bytes.clone())) == self.right.get(path), "{path}"),
                Err(errno) => {
                    assert_eq!(*errno, libc::EIO, "{}: {path}", self.say());
                    let is_told = is_hit(path, &hit) || self.of == Of::Format;
                    assert!(is_told, "{}: {path} is not in {hit:?}", self.say());
                    failed.insert(path.clone());
                }
            }
        }
        for path in self.right.keys().filter(|path| !seen.contains_key(*path)) {
            assert!(is_hit(path, &hit) || self.of == Of::Format, "{}: {path}", self.say());
        }
        if self.of == Of::DataPack {
            assert_eq!(failed, hit, "{}", self.say());
        }
        workspace.close().unwrap();
        drop(workspace);
        std::fs::remove_dir_all(self.world.dir(&cache)).unwrap();
    }
}

#[test]
fn every_damage_of_every_object_is_found_and_named_and_hits_nothing_else() {
    let _alone = alone();
    let world = filled();
    let objects = Objects::of(&world);
    let workspace = look_at(&world, "before").unwrap();
    let right = read_all(&world.files(&workspace));
    assert!(right.len() > 700 && right.values().all(Result::is_ok));
    workspace.close().unwrap();
    let sound = verify(&world, Depth::Full);
    assert!(sound.sound, "{:?}", sound.problems);
    assert_eq!(sound.counts.chunks_sound, sound.counts.chunks);
    let name: WorkspaceName = "w".parse().unwrap();
    let head = Head::decode(&objects.get(&head_key(&name))).unwrap();
    let newest = head.snapshot.unwrap().id.to_string();
    let all = stand_ins(&objects);
    let count = |of: Of| all[&of].len();
    assert!(count(Of::TreePack) >= 3 && count(Of::DataPack) >= 3 && count(Of::Snapshot) == 3);
    let mut random = Random(seed());
    let mut number = 0;
    for (&of, list) in &all {
        for (at, (key, whole)) in list.iter().enumerate().filter(|(_, (key, _))| key != "elsewhere")
        {
            let other = &list[(at + 1) % list.len()].1;
            for damage in Damage::all(whole.len(), &mut random) {
                number += 1;
                damage.apply(&objects, key, whole, other);
                let (world, right, newest) = (&world, &right, newest.as_str());
                Trial { world, right, newest, of, key, damage, number }.run();
                objects.put(key, whole.clone());
            }
        }
    }
    assert!(number > 100, "{number}");
    assert!(verify(&world, Depth::Full).sound, "as before");
}

/// The leaves of a tree and where they are, read without a mount or a verification.
fn leaves(objects: &Objects, at: &NodeRef) -> Vec<(NodeRef, Leaf)> {
    let from = at.slot.offset as usize;
    let pack = objects.get(&pack_key(&at.slot.pack));
    let (_, plain) = decode_frame(&pack[from..from + at.slot.len as usize]).unwrap();
    match decode_node(plain.into(), at.slot.pack).unwrap() {
        Node::Leaf(leaf) => vec![(*at, leaf)],
        Node::Inner(inner) => {
            inner.children.iter().flat_map(|child| leaves(objects, &child.node)).collect()
        }
    }
}

/// An answer that names everything would be right of any damage: of one leaf's frame, exactly
/// the files are told that have records in it.
#[test]
fn a_leaf_s_damaged_frame_hits_the_files_in_it_and_no_others() {
    let _alone = alone();
    let world = filled();
    let objects = Objects::of(&world);
    let name: WorkspaceName = "w".parse().unwrap();
    let head = Head::decode(&objects.get(&head_key(&name))).unwrap();
    let snapshot = head.snapshot.unwrap();
    let newest = snapshot.id.to_string();
    let root = Snapshot::decode(&objects.get(&snapshot.key)).unwrap().root.unwrap();
    let workspace = look_at(&world, "before").unwrap();
    let paths = inodes(&world.files(&workspace));
    workspace.close().unwrap();
    assert!(paths.len() > 700);
    let (mut tried, mut unreadable, mut told) = (0, 0, BTreeSet::new());
    for (at, leaf) in leaves(&objects, &root) {
        let keys: Vec<Key> = leaf.records().map(|(key, _)| Key::from_bytes(key).unwrap()).collect();
        // With a name is lost which file it was.
        if keys.iter().any(|key| matches!(key.parts(), Some(KeyParts::Entry(..)))) {
            continue;
        }
        let inos: BTreeSet<_> = keys.iter().map(Key::ino).collect();
        let inside = paths.iter().filter(|(_, ino)| inos.contains(ino));
        let right: BTreeSet<String> = inside.map(|(path, _)| path.clone()).collect();
        assert!(!right.is_empty() && right.len() < paths.len() - 1, "{}", right.len());
        tried += 1;
        let key = pack_key(&at.slot.pack);
        let whole = objects.get(&key);
        let middle = at.slot.offset + at.slot.len / 2;
        Damage::Flipped(middle as usize).apply(&objects, &key, &whole, &whole);
        for depth in [Depth::Quick, Depth::Full] {
            let report = verify(&world, depth);
            assert_eq!(hit(&report, &newest), right, "{key}, frame at {}", at.slot.offset);
            let all = report.problems.iter().flat_map(|problem| &problem.affected);
            let of_newest: Vec<_> =
                all.filter(|one| one.snapshot.as_deref() == Some(&newest)).collect();
            assert_eq!(of_newest.len(), 1, "{of_newest:?}");
            assert!(!of_newest[0].everything);
            assert_eq!(of_newest[0].files, right.len() as u64);
        }
        let cache = format!("leaf{tried}");
        let workspace = look_at(&world, &cache).unwrap();
        let seen = read_all(&world.files(&workspace));
        workspace.close().unwrap();
        let failed = seen.iter().filter(|(_, content)| content.is_err()).map(|(path, _)| path);
        for path in failed {
            assert!(right.contains(path), "{path} is not told");
            unreadable += 1;
        }
        told.extend(right);
        objects.put(&key, whole);
    }
    assert!(tried >= 2 && unreadable > 0, "{tried} leaves, {unreadable} files");
    assert!(told.len() > paths.len() / 2, "{} of {} files", told.len(), paths.len());
    assert!(verify(&world, Depth::Full).sound, "as before");
}

#[test]
fn a_sample_reads_some_packs_and_the_same_again_with_its_seed() {
    let _alone = alone();
    let world = filled();
    let read = |percent, seed| {
        let report = verify(&world, Depth::Sample { percent, seed });
        assert!(report.sound);
        report.counts.data_packs_read
    };
    let packs = verify(&world, Depth::Full).counts.data_packs;
    assert_eq!(read(100, 1), packs);
    assert_eq!(read(50, 7), read(50, 7));
    let some: Vec<u64> = (0..20).map(|seed| read(50, seed)).collect();
    assert!(some.iter().any(|read| (1..packs).contains(read)), "{some:?}");
}

#[test]
fn each_pack_is_read_once_in_large_ranges_however_many_snapshots_name_it() {
    let _alone = alone();
    let world = seeded_world();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let file = files.write("file", &noise(1, 10 << 20));
    for i in 0..30_u64 {
        files.write(&format!("small{i}"), &noise(100 + i, 5000));
        files.write_at(file, i * 1000, b"a little");
        checkpoint(&workspace).unwrap();
    }
    hibernate(&workspace).unwrap();
    let objects = Objects::of(&world);
    let packs: Vec<String> =
        objects.list().into_iter().filter(|k| k.starts_with("packs/")).collect();
    let bytes: u64 = packs.iter().map(|key| objects.get(key).len() as u64).sum();
    world.counts.reset();
    let report = verify(&world, Depth::Full);
    assert!(report.sound, "{:?}", report.problems);
    // The last seal found nothing that had changed.
    assert_eq!(report.workspaces[0].snapshots, 30);
    let named = report.counts.tree_packs + report.counts.data_packs;
    assert_eq!(report.unreferenced.packs + named, packs.len() as u64);
    assert_eq!(report.counts.bytes_read + report.unreferenced.pack_bytes, bytes);
    // Format, head, snapshots; of the packs only the first is longer than one range.
    let gets = world.counts.stats().gets;
    assert!(gets <= 1 + 1 + 30 + named + 3, "{gets} GETs for {named} packs");
}

#[test]
fn one_snapshot_alone_can_be_verified() {
    let _alone = alone();
    let world = filled();
    let objects = Objects::of(&world);
    let store = Store::open(world.remote()).unwrap();
    let name: WorkspaceName = "w".parse().unwrap();
    let list = store.snapshots(&name).unwrap();
    // A pack that only the second snapshot names.
    let second = list[1].id.parse().unwrap();
    let key = objects.list().into_iter().find(|key| key.ends_with(&list[1].id)).unwrap();
    let snapshot = dormouse::format::Snapshot::decode(&objects.get(&key)).unwrap();
    objects.delete(&dormouse::format::pack_key(&snapshot.data_packs_added[0].id));
    for (id, sound) in [(list[0].id.parse().unwrap(), true), (second, false)] {
        let one = support::options(&world, Depth::Full);
        let one = dormouse::workspace::VerifyOptions {
            workspace: Some(name.clone()),
            snapshot: Some(id),
            ..one
        };
        let report = try_verify(&world, &one).unwrap();
        assert_eq!(report.sound, sound, "{:?}", report.problems);
        assert_eq!(report.workspaces[0].snapshots, 1);
    }
}

#[test]
fn what_nothing_refers_to_is_told_and_is_no_damage() {
    let _alone = alone();
    let world = filled();
    let objects = Objects::of(&world);
    let name: WorkspaceName = "w".parse().unwrap();
    let key = head_key(&name);
    let older = objects.get(&key);
    let workspace = world.resume("writer");
    world.files(&workspace).write("more", &noise(9, 100_000));
    checkpoint(&workspace).unwrap();
    let named = verify(&world, Depth::Full);
    assert!(named.sound && named.unreferenced.packs == 0, "{named:?}");
    objects.put("workspaces/w/note", "what is this".to_owned());
    objects.put("packs/00/short", "and this".to_owned());
    let report = verify(&world, Depth::Full);
    assert!(report.sound, "{:?}", report.problems);
    assert_eq!(report.unreferenced.strangers, ["packs/00/short", "workspaces/w/note"]);
    // A head that was put back from before the lease was taken anew.
    objects.put(&key, older);
    let report = verify(&world, Depth::Full);
    assert_eq!(report.unreferenced.snapshots.len(), 1);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].what.contains("older"), "{:?}", report.problems);
    assert_eq!(report.problems[0].object, key);
}

#[test]
fn damage_on_the_way_is_not_damage_of_the_store() {
    let _alone = alone();
    use dormouse::remote::{Fault, Op, When};
    let world = filled();
    world.faults.inject(When::next(Op::Get, "packs/"), Fault::Corrupt(100));
    world.faults.inject(When::next(Op::Get, "packs/"), Fault::Truncate(1000));
    let report = verify(&world, Depth::Full);
    assert!(report.sound, "{:?}", report.problems);
    assert!(world.faults.injected() >= 1);
    world.faults.heal();
    world.faults.set_outage(true);
    let failed = try_verify(&world, &options(&world, Depth::Full));
    assert!(matches!(failed, Err(WorkspaceError::Unavailable { .. })), "{failed:?}");
}

/// Verifies while a writer seals at the beginning of each of these steps.
fn verify_beside_a_writer(world: &World, steps: &[&str], mut seal: impl FnMut()) -> VerifyReport {
    let store = Store::open(world.remote()).unwrap();
    let mut left = steps.to_vec();
    let mut watch = |view: &dormouse::workspace::VerifyView| {
        if let Some(at) = left.iter().position(|step| *step == view.step) {
            left.remove(at);
            seal();
        }
        std::ops::ControlFlow::Continue(())
    };
    let report = store.verify(&options(world, Depth::Full), &mut watch).unwrap();
    assert!(left.is_empty(), "there is no step {left:?}");
    report
}

#[test]
fn what_is_sealed_meanwhile_is_not_missing() {
    let world = filled();
    let workspace = world.resume("writer");
    let files = world.files(&workspace);
    let mut number = 0;
    let mut seal = || {
        number += 1;
        files.write(&format!("meanwhile{number}"), &noise(5000 + number, 50_000));
        checkpoint(&workspace).unwrap();
    };
    // After everything was listed and before the head is read: its packs are in no listing, and
    // with the second seal neither is a snapshot before the newest.
    for (seals, snapshots) in [(1, 3), (3, 6)] {
        let report = verify_beside_a_writer(&world, &["heads and snapshots"], || {
            (0..seals).for_each(|_| seal());
        });
        assert!(report.sound, "{:?}", report.problems);
        let found = report.workspaces.iter().find(|workspace| workspace.name == "w").unwrap();
        assert_eq!(found.snapshots, snapshots);
        assert!(report.unreferenced.snapshots.is_empty(), "{:?}", report.unreferenced);
    }
    let later = ["looking for packs", "reading metadata", "checking trees"];
    let report = verify_beside_a_writer(&world, &later, seal);
    assert!(report.sound, "{:?}", report.problems);
}

#[test]
fn a_head_or_snapshot_that_is_damaged_on_the_way_is_read_again() {
    use dormouse::remote::{Fault, Op, When};
    let world = filled();
    for key in ["workspaces/w/head", "workspaces/w/snapshots/"] {
        for fault in [Fault::Corrupt(40), Fault::Truncate(50)] {
            world.faults.inject(When::next(Op::Get, key), fault);
            let report = verify(&world, Depth::Quick);
            assert!(report.sound, "{:?}", report.problems);
        }
    }
    assert_eq!(world.faults.injected(), 4);
}

/// Written at the beginning of a piece that was sealed before, and unlinked while open: the
/// checkpoint kept the whole old piece beside the rest of it, and was called damaged (found by
/// `scripts/torture faults`).
#[test]
fn a_checkpoint_of_an_unlinked_open_file_that_was_written_to_is_sound() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let inos =
        [(0, "begin"), (262_144, "piece"), (300_000, "middle"), (0, "short")].map(|(at, f)| {
            let ino = files.write(f, &noise(at, 700_000));
            (at, f, ino)
        });
    checkpoint(&workspace).unwrap();
    for (at, file, ino) in inos {
        let directory = dormouse::types::Ino::ROOT;
        files.fs.lookup(&files.caller(), directory, &crate::world::name(file)).unwrap();
        files.write_at(ino, at, &noise(7, 5000));
        files.unlink(file);
    }
    let before = inos.map(|(_, _, ino)| files.read_ino(ino));
    for _ in 0..2 {
        files.write("other", &noise(4, 1000));
        checkpoint(&workspace).unwrap();
        let report = verify(&world, Depth::Full);
        assert!(report.sound, "{:#?}", report.problems);
    }
    assert!(before == inos.map(|(_, _, ino)| files.read_ino(ino)), "they are open still");
    hibernate(&workspace).unwrap();
    assert!(verify(&world, Depth::Full).sound);
}
