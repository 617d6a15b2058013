//! The tree over nodes in memory: against a model, against its own history, and what it reads
//! and writes.

mod wired;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::boundary::Rule;
use super::cursor::{At, Cursor};
use super::merge::{Merged, merge};
use super::nodes::Nodes;
use super::{TreeError, diff, range, walk};
use crate::format::{
    Child, HashKeys, Inner, Key, Node, NodeRef, OWN_PACK, PackSlot, decode_node, encode_node,
};
use crate::types::{Ino, NodeId, PackId};

type Model = BTreeMap<Key, Bytes>;
type Batch = BTreeMap<Key, Option<Bytes>>;

/// Nodes in memory, encoded as in a pack.
struct Packs {
    keys: HashKeys,
    nodes: RefCell<HashMap<PackSlot, Bytes>>,
    reads: Cell<usize>,
    next_pack: Cell<u32>,
    /// A pack is closed after this many nodes.
    pack_nodes: u32,
    small: bool,
}

impl Packs {
    fn new(small: bool) -> Packs {
        Packs {
            keys: HashKeys::new(&[3; 32]),
            nodes: RefCell::default(),
            reads: Cell::new(0),
            next_pack: Cell::new(1),
            pack_nodes: 7,
            small,
        }
    }

    fn rule(&self) -> Rule<'_> {
        if self.small { Rule::small(&self.keys) } else { Rule::new(&self.keys) }
    }

    fn read(&self, at: &NodeRef) -> Result<Arc<Node>, TreeError> {
        self.reads.set(self.reads.get() + 1);
        let plain = self.nodes.borrow().get(&at.slot).cloned().expect("a node that was written");
        Ok(Arc::new(decode_node(plain, at.slot.pack).expect("a node as it was written")))
    }

    fn with<T>(
        &self,
        root: Option<NodeRef>,
        call: impl FnOnce(Nodes<'_>) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        let read = |at: &NodeRef| self.read(at);
        call(Nodes { root, read: &read })
    }

    /// A writer that packs like the real one: children in the open pack are named by zeros.
    fn writer(&self) -> impl FnMut(&Node) -> Result<NodeRef, TreeError> + '_ {
        let new_pack = || {
            let number = self.next_pack.replace(self.next_pack.get() + 1);
            PackId(*blake3::hash(&number.to_le_bytes()).as_bytes())
        };
        let mut pack = new_pack();
        let mut count = 0;
        move |node| {
            if count == self.pack_nodes {
                pack = new_pack();
                count = 0;
            }
            count += 1;
            let id_in_node = |child: &PackId| if *child == pack { OWN_PACK } else { *child };
            let plain = encode_node(node, id_in_node).expect("a node within its limits");
            let slot = PackSlot { pack, offset: count * 1_000_000, len: plain.len() as u32 + 52 };
            let id = self.keys.node(&plain);
            self.nodes.borrow_mut().insert(slot, plain);
            Ok(NodeRef { id, slot })
        }
    }

    fn merge(&self, root: Option<NodeRef>, batch: &Batch) -> Merged {
        let mut changes = batch.iter().map(|(key, value)| Ok((key.clone(), value.clone())));
        let mut write = self.writer();
        self.with(root, |old| merge(old, self.rule(), &mut changes, &mut write)).unwrap()
    }

    fn build(&self, model: &Model) -> Option<NodeRef> {
        let all = model.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        self.merge(None, &all).root
    }

    fn records(&self, root: Option<NodeRef>) -> Vec<(Key, Bytes)> {
        self.with(root, |nodes| range(nodes, &[], &[0xff; 300], usize::MAX)).unwrap()
    }

    /// What history must not change: each node's level, first key and number of items, and for a
    /// leaf its id. (An inner node's bytes name packs.)
    fn shape(&self, root: Option<NodeRef>) -> Vec<(u8, Vec<u8>, usize, Option<NodeId>)> {
        let mut shape = Vec::new();
        let mut visit = |at: &NodeRef, node: &Node| {
            let id = (node.level() == 0).then_some(at.id);
            shape.push((node.level(), node.key(0).to_vec(), node.len(), id));
            Ok(())
        };
        self.with(root, |nodes| walk::walk(nodes, &mut visit)).unwrap();
        shape
    }

    fn diff(&self, before: Option<NodeRef>, after: Option<NodeRef>) -> Vec<Difference> {
        let mut found = Vec::new();
        self.with(before, |before| {
            self.with(after, |after| {
                let mut visit = |key, old, new| found.push((key, old, new));
                diff::diff(before, after, &mut visit)
            })
        })
        .unwrap();
        found
    }

    fn reads_of<T>(&self, call: impl FnOnce() -> T) -> (T, usize) {
        self.reads.set(0);
        let result = call();
        (result, self.reads.get())
    }
}

type Difference = (Key, Option<Bytes>, Option<Bytes>);

fn apply(model: &mut Model, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => _ = model.insert(key.clone(), value.clone()),
            None => _ = model.remove(key),
        }
    }
}

fn expected_diff(before: &Model, after: &Model) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .map(|key| (key.clone(), before.get(key).cloned(), after.get(key).cloned()))
        .filter(|(_, old, new)| old != new)
        .collect()
}

fn keys() -> impl Strategy<Value = Key> {
    let ino = (1_u64..60).prop_map(Ino);
    prop_oneof![
        3 => ino.clone().prop_map(Key::attr),
        2 => (ino.clone(), 0_u64..40).prop_map(|(ino, hash)| Key::entry(ino, hash, b"name")),
        1 => (ino.clone(), 0_u8..4).prop_map(|(ino, name)| Key::xattr(ino, &[b'a' + name])),
        2 => (ino, 0_u64..40).prop_map(|(ino, mib)| Key::extent(ino, mib << 20)),
    ]
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let value = (any::<u8>(), prop_oneof![9 => 0_usize..120, 1 => 300_usize..900])
        .prop_map(|(byte, len)| Bytes::from(vec![byte; len]));
    let change = proptest::option::weighted(0.6, value);
    proptest::collection::vec(proptest::collection::btree_map(keys(), change, 0..150), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_tree_says_what_a_map_says_and_knows_no_history(batches in batches()) {
        let packs = Packs::new(true);
        let (mut model, mut root) = (Model::new(), None);
        for batch in &batches {
            let before = (model.clone(), root);
            apply(&mut model, batch);
            let merged = packs.merge(root, batch);
            root = merged.root;

            let expected: Vec<_> = model.clone().into_iter().collect();
            prop_assert_eq!(packs.records(root), expected);
            prop_assert_eq!(packs.shape(root), packs.shape(packs.build(&model)));
            let live = packs.with(root, walk::pack_bytes).unwrap().values().sum::<u64>();
            prop_assert_eq!(merged.tree_bytes, live);
            prop_assert_eq!(packs.diff(before.1, root), expected_diff(&before.0, &model));
            for key in batch.keys() {
                let value = packs.with(root, |nodes| nodes.get(key.as_bytes())).unwrap();
                prop_assert_eq!(value.as_ref(), model.get(key));
            }
            if model == before.0 {
                prop_assert_eq!(root, before.1);
                prop_assert_eq!(merged.leaves_written + merged.inners_written, 0);
            }
        }
    }

    #[test]
    fn ranges_begin_and_end_where_they_should(
        batch in proptest::collection::btree_map(keys(), Just(Some(Bytes::new())), 0..200),
        from in keys(), to in keys(), limit in 0_usize..40,
    ) {
        let packs = Packs::new(true);
        let root = packs.merge(None, &batch).root;
        let found = packs
            .with(root, |nodes| range(nodes, from.as_bytes(), to.as_bytes(), limit))
            .unwrap();
        let expected: Vec<_> = batch
            .keys()
            .filter(|key| **key >= from && **key < to)
            .take(limit)
            .map(|key| (key.clone(), Bytes::new()))
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_two_trees_differ_in_what_their_records_differ(
        one in proptest::collection::btree_map(keys(), Just(Bytes::from("1")), 0..200),
        two in proptest::collection::btree_map(keys(), Just(Bytes::from("2")), 0..200),
        shared in proptest::collection::btree_map(keys(), Just(Bytes::from("3")), 0..200),
    ) {
        let packs = Packs::new(true);
        let join = |own: &Model| -> Model {
            own.clone().into_iter().chain(shared.clone()).collect()
        };
        let (one, two) = (join(&one), join(&two));
        let (before, after) = (packs.build(&one), packs.build(&two));
        prop_assert_eq!(packs.diff(before, after), expected_diff(&one, &two));
    }
}

/// `count` files as they stand in a tree: attributes and one extent each, and 100 of them in
/// each directory.
fn files(count: u64) -> Model {
    let mut model = Model::new();
    for file in 0..count {
        let ino = Ino(1000 + file);
        let directory = Ino(2 + file / 100);
        let noise = blake3::hash(&file.to_le_bytes());
        let attr: Vec<u8> = noise.as_bytes().iter().chain(&[7; 51]).copied().collect();
        model.insert(Key::attr(ino), attr.into());
        model.insert(Key::extent(ino, 0), Bytes::from(noise.to_hex().to_string()));
        let name = format!("file-{file}");
        let hash = u64::from_le_bytes(std::array::from_fn(|i| noise.as_bytes()[i]));
        model.insert(Key::entry(directory, hash, name.as_bytes()), Bytes::from_static(&[1; 9]));
    }
    model
}

fn changed(inos: impl Iterator<Item = u64>, stamp: u8) -> Batch {
    inos.flat_map(|ino| {
        let ino = Ino(ino);
        let attr = (Key::attr(ino), Some(Bytes::from(vec![stamp; 83])));
        [attr, (Key::extent(ino, 0), Some(Bytes::from(vec![stamp; 64])))]
    })
    .collect()
}

#[test]
fn changing_files_rewrites_at_most_a_leaf_for_each() {
    let packs = Packs::new(false);
    let model = files(10_000);
    let all = model.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    let built = packs.merge(None, &all);
    assert!(built.leaves_written > 20, "{built:?}");
    assert!(built.tree_bytes / built.leaves_written > 16 * 1024, "{built:?}");
    let mut root = built.root;
    for round in 0..50_u64 {
        let start = blake3::hash(&round.to_le_bytes()).as_bytes()[0];
        let inos = (0..20).map(|i| 1000 + (u64::from(start) * 37 + i * 499) % 10_000);
        let merged = packs.merge(root, &changed(inos, round as u8));
        assert!(merged.leaves_written <= 20, "round {round}: {merged:?}");
        assert!(merged.inners_written <= 2, "round {round}: {merged:?}");
        root = merged.root;
    }
}

#[test]
fn merging_what_is_there_already_writes_nothing() {
    let packs = Packs::new(false);
    let model = files(2_000);
    let root = packs.build(&model);
    let same: Batch = model.iter().step_by(7).map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    let mut absent = same;
    absent.insert(Key::attr(Ino(77_777_777)), None);
    let merged = packs.merge(root, &absent);
    assert_eq!(merged.root, root);
    assert_eq!((merged.leaves_written, merged.inners_written, merged.bytes_written), (0, 0, 0));
    let merged = packs.merge(root, &Batch::new());
    assert_eq!(merged.root, root);
    assert!(merged.tree_bytes > 0);
}

#[test]
fn a_merge_reads_only_the_runs_that_change() {
    let packs = Packs::new(false);
    let root = packs.build(&files(20_000));
    let leaves = packs.shape(root).iter().filter(|(level, ..)| *level == 0).count();
    let batch = changed(std::iter::once(9_000), 1);
    let (_, reads) = packs.reads_of(|| packs.merge(root, &batch));
    assert!(reads < leaves / 4, "{reads} reads, {leaves} leaves");
}

#[test]
fn a_difference_reads_only_what_differs() {
    let packs = Packs::new(false);
    let before = packs.build(&files(20_000));
    let after = packs.merge(before, &changed([1_500, 9_000, 20_500].into_iter(), 1)).root;
    let (found, reads) = packs.reads_of(|| packs.diff(before, after));
    assert_eq!(found.len(), 6);
    // Two roots, and at most two levels on both sides for each of three places.
    assert!(reads <= 2 + 2 * 2 * 3, "{reads}");
    let (found, reads) = packs.reads_of(|| packs.diff(after, after));
    assert_eq!((found.len(), reads), (0, 0));
}

#[test]
fn a_million_records_stream_through_a_merge() {
    let mut packs = Packs::new(false);
    packs.pack_nodes = 1_000;
    let taken = Cell::new(0_i64);
    let written = Cell::new(0_i64);
    let most = Cell::new(0_i64);
    let mut changes = (0..1_000_000_u64).map(|ino| {
        taken.set(taken.get() + 1);
        most.set(most.get().max(taken.get() - written.get()));
        Ok((Key::attr(Ino(1 + ino)), Some(Bytes::from_static(&[5; 83]))))
    });
    let mut to_packs = packs.writer();
    let mut write = |node: &Node| {
        if let Node::Leaf(leaf) = node {
            written.set(written.get() + leaf.len() as i64);
        }
        to_packs(node)
    };
    let merged =
        packs.with(None, |old| merge(old, packs.rule(), &mut changes, &mut write)).unwrap();
    assert_eq!(written.get(), 1_000_000);
    // The longest run: a gap between natural boundaries of 256 records on average.
    assert!(most.get() < 256 * 20, "{} records at once", most.get());
    assert!(merged.leaves_written > 2_000, "{merged:?}");
    let (value, reads) =
        packs.reads_of(|| packs.with(merged.root, |n| n.get(Key::attr(Ino(777_777)).as_bytes())));
    assert_eq!(value.unwrap().unwrap().len(), 83);
    assert_eq!(reads, 3);
}

#[test]
fn a_tree_can_shrink_to_one_leaf_and_to_nothing() {
    let packs = Packs::new(true);
    let model = files(300);
    let root = packs.build(&model);
    assert!(packs.shape(root)[0].0 >= 3, "high enough to shrink");
    let (last, value) = model.last_key_value().unwrap();
    let mut batch: Batch = model.keys().map(|key| (key.clone(), None)).collect();
    batch.insert(last.clone(), Some(value.clone()));
    let shrunk = packs.merge(root, &batch).root;
    assert_eq!(packs.shape(shrunk).len(), 1);
    assert_eq!(packs.records(shrunk), [(last.clone(), value.clone())]);
    batch.insert(last.clone(), None);
    let gone = packs.merge(root, &batch);
    assert_eq!((gone.root, gone.tree_bytes), (None, 0));
}

#[test]
fn relocated_nodes_leave_their_packs_and_nothing_else_moves() {
    let packs = Packs::new(true);
    let model = files(300);
    let root = packs.build(&model);
    let used = packs.with(root, walk::pack_bytes).unwrap();
    let condemned: HashSet<_> = used.keys().copied().take(3).collect();
    let mut write = packs.writer();
    let moved = packs.with(root, |nodes| walk::relocate(nodes, &condemned, &mut write)).unwrap();
    assert_eq!(packs.shape(moved.root), packs.shape(root));
    assert_eq!(packs.records(moved.root), model.into_iter().collect::<Vec<_>>());
    let now = packs.with(moved.root, walk::pack_bytes).unwrap();
    assert!(now.keys().all(|pack| !condemned.contains(pack)));
    assert_eq!(now.values().sum::<u64>(), moved.tree_bytes);
    assert!(moved.leaves_written < packs.shape(root).len() as u64 / 2);
    let none = packs.with(root, |nodes| {
        walk::relocate(nodes, &HashSet::new(), &mut |_| panic!("nothing to write"))
    });
    assert_eq!(none.unwrap().root, root);
}

#[test]
fn a_range_that_is_empty_reads_no_node_beyond_it() {
    // A directory listed to its end, whose last entry is the last record of its leaf: the next leaf
    // was fetched from the store to see that the listing was over.
    let packs = Packs::new(true);
    let model = files(300);
    let root = packs.build(&model);
    let keys: Vec<&Key> = model.keys().collect();
    for pair in keys.windows(2) {
        let (_, path) = packs.reads_of(|| packs.with(root, |nodes| nodes.get(pair[0].as_bytes())));
        let after = pair[0].successor();
        let (found, reads) = packs.reads_of(|| {
            packs.with(root, |nodes| range(nodes, after.as_bytes(), pair[1].as_bytes(), 9)).unwrap()
        });
        assert_eq!(found, []);
        // A cursor reads the root twice.
        assert!(reads <= path + 1, "{reads} nodes between {pair:?}, {path} to the first");
    }
}

#[test]
fn a_path_leads_from_the_root_to_the_leaf_of_a_key() {
    let packs = Packs::new(true);
    let root = packs.build(&files(300));
    let key = Key::attr(Ino(1_100));
    let path = packs.with(root, |nodes| nodes.path_to(key.as_bytes())).unwrap();
    assert_eq!(path[0], root.unwrap());
    let leaf = packs.read(path.last().unwrap()).unwrap();
    assert!(matches!(&*leaf, Node::Leaf(leaf) if leaf.search(key.as_bytes()).is_ok()));
    let before_all = packs.with(root, |nodes| nodes.path_to(Key::attr(Ino(0)).as_bytes()));
    assert_eq!(before_all.unwrap().len(), path.len());
}

#[test]
fn changes_out_of_order_and_local_state_are_refused() {
    let packs = Packs::new(true);
    let refused = |keys: &[Key]| {
        let mut changes = keys.iter().map(|key| Ok((key.clone(), Some(Bytes::new()))));
        let mut write = packs.writer();
        let merged = packs.with(None, |old| merge(old, packs.rule(), &mut changes, &mut write));
        assert!(matches!(merged, Err(TreeError::BadChange(_))), "{merged:?}");
    };
    refused(&[Key::attr(Ino(2)), Key::attr(Ino(1))]);
    refused(&[Key::attr(Ino(2)), Key::attr(Ino(2))]);
    refused(&[Key::local("base")]);
}

#[test]
fn a_child_that_is_not_what_its_parent_says_is_damage() {
    let packs = Packs::new(true);
    let mut write = packs.writer();
    let (key, other) = (Key::attr(Ino(5)), Key::attr(Ino(6)));
    let leaf = Node::leaf([(&key, &b"value"[..])].into_iter()).unwrap();
    let leaf = write(&leaf).unwrap();
    let inner = |level, key: &Key, node| {
        let children = vec![Child { key: key.clone(), node, tree_bytes: 100_000 }];
        Node::Inner(Inner { level, children })
    };
    let wrong_key = write(&inner(1, &other, leaf)).unwrap();
    let wrong_level = write(&inner(2, &key, leaf)).unwrap();
    for root in [wrong_key, wrong_level] {
        let scan = packs.with(Some(root), |nodes| {
            let mut cursor = Cursor::new(nodes)?;
            cursor.settle()?;
            Ok(matches!(cursor.at(), Some(At::Record(..))))
        });
        assert!(matches!(scan, Err(TreeError::Corrupt { .. })), "{scan:?}");
        let get = packs.with(Some(root), |nodes| nodes.get(other.as_bytes()));
        assert!(matches!(get, Err(TreeError::Corrupt { .. })), "{get:?}");
    }
}

#[test]
fn the_rule_of_boundaries_is_as_ever() {
    // Part of the store format: with another rule, a merge into an old tree is still correct, but
    // equal content no longer has equal leaves.
    let packs = Packs::new(false);
    let root = packs.build(&files(10_000));
    let mut hasher = blake3::Hasher::new();
    for (level, key, items, leaf) in packs.shape(root) {
        hasher.update(&[level]).update(&key).update(&(items as u64).to_le_bytes());
        leaf.iter().for_each(|id| _ = hasher.update(id.as_bytes()));
    }
    assert_eq!(hasher.finalize().to_hex()[..16], *"0fabfcbb4dac6522");
}
