use super::*;
use crate::format::{Child, Inner, Key};
use crate::remote::{Fault, RemoteError, When};
use crate::types::Ino;

/// A two-level tree of `count` leaves of about `len` bytes; leaves' references and the root's,
/// all real.
fn write_tree(machine: &Machine, count: u64, len: usize) -> (Vec<NodeRef>, NodeRef, FinishedTree) {
    let mut writer = machine.chunks.tree_writer();
    let mut children = Vec::new();
    for number in 0..count {
        let node = writer.add_node(&leaf(number, len)).unwrap();
        let tree_bytes = u64::from(node.slot.len);
        children.push(Child { key: Key::attr(Ino(number + 1)), node, tree_bytes });
    }
    let leaves: Vec<_> = children.iter().map(|child| child.node).collect();
    let root = writer.add_node(&Node::Inner(Inner { level: 1, children })).unwrap();
    let finished = writer.finish().unwrap();
    let leaves = leaves.into_iter().map(|node| finished.resolve(node)).collect();
    (leaves, finished.resolve(root), finished)
}

fn leaf(number: u64, len: usize) -> Node {
    let (key, value) = (Key::attr(Ino(number + 1)), noise(number, len));
    Node::leaf(std::iter::once((&key, value.as_slice()))).unwrap()
}

fn infos(finished: &FinishedTree) -> Vec<PackInfo> {
    finished.packs.iter().map(|(info, _)| *info).collect()
}

fn total_bytes(finished: &FinishedTree) -> u64 {
    finished.packs.iter().map(|(info, _)| info.len).sum()
}

#[test]
fn nodes_of_several_packs_find_each_other_on_another_machine() {
    let store = Store::new();
    let small = ChunkOptions { pack_bytes: 200 * KIB, ..options() };
    let (leaves, root, finished) = write_tree(&store.machine_with(small), 100, 10 * KIB);
    assert!(finished.packs.len() >= 5);
    assert_eq!(store.puts(), finished.packs.len());
    let cold = store.machine();
    let node = cold.chunks.node(&root, cold.fetch()).unwrap();
    let Node::Inner(inner) = &*node else { panic!("the root is an inner node") };
    for (number, child) in inner.children.iter().enumerate() {
        assert_eq!(child.node, leaves[number], "resolved by the decoder and by finish alike");
        let read = cold.chunks.node(&child.node, cold.fetch()).unwrap();
        assert_eq!(*read, leaf(number as u64, 10 * KIB));
    }
    assert_eq!(store.gets().len(), finished.packs.len());
}

#[test]
fn a_tree_without_a_new_node_makes_no_request() {
    let store = Store::new();
    let machine = store.machine();
    let finished = machine.chunks.tree_writer().finish().unwrap();
    assert!(finished.packs.is_empty());
    assert!(store.counting.log().is_empty());
}

#[test]
fn all_nodes_in_any_order_cost_one_get_for_each_2_mib_window() {
    let store = Store::new();
    let large = ChunkOptions { pack_bytes: 16 * MIB, ..options() };
    let (leaves, root, finished) = write_tree(&store.machine_with(large), 500, 50 * KIB);
    let cold = store.machine();
    store.counting.reset();
    cold.chunks.node(&root, cold.fetch()).unwrap();
    for step in 0..leaves.len() {
        let number = (step * 337) % leaves.len();
        let read = cold.chunks.node(&leaves[number], cold.fetch()).unwrap();
        assert_eq!(*read, leaf(number as u64, 50 * KIB));
    }
    let (gets, bytes) = (store.gets(), total_bytes(&finished));
    assert!(gets.len() as u64 <= 5 + bytes / MIB as u64, "{} of {bytes}", gets.len());
    assert!(bytes_of(&gets) < bytes + bytes / 25, "only the slack is fetched twice");
}

#[test]
fn a_node_longer_than_a_windows_slack_is_read_across_the_border() {
    let store = Store::new();
    let machine = store.machine_with(ChunkOptions { pack_bytes: 16 * MIB, ..options() });
    // One record each of nearly 64 KiB, two to a leaf: longer than the slack of a window.
    let mut writer = machine.chunks.tree_writer();
    let nodes: Vec<_> = (0..80_u64)
        .map(|number| {
            let keys = [Key::attr(Ino(2 * number + 1)), Key::attr(Ino(2 * number + 2))];
            let values = [noise(number, 60 * KIB), noise(1000 + number, 60 * KIB)];
            let records = keys.iter().zip(values.iter().map(Vec::as_slice));
            writer.add_node(&Node::leaf(records).unwrap()).unwrap()
        })
        .collect();
    let finished = writer.finish().unwrap();
    let cold = store.machine();
    for node in nodes {
        cold.chunks.node(&finished.resolve(node), cold.fetch()).unwrap();
    }
    let bound = 5 + total_bytes(&finished) / MIB as u64;
    assert!(store.gets().len() as u64 <= bound, "{}", store.gets().len());
}

#[test]
fn a_written_tree_is_local_to_its_writer() {
    let store = Store::new();
    let machine = store.machine();
    let (leaves, root, finished) = write_tree(&machine, 20, KIB);
    store.counting.reset();
    machine.chunks.node(&root, Fetch::LocalOnly).unwrap();
    for node in &leaves {
        machine.chunks.node(node, Fetch::LocalOnly).unwrap();
    }
    machine.chunks.prefetch_trees(&infos(&finished));
    assert!(machine.chunks.wait_for_prefetch(Duration::from_secs(20)));
    assert!(store.counting.log().is_empty());
}

#[test]
fn a_node_of_an_open_pack_is_read_from_the_cache_or_not_at_all() {
    let store = Store::new();
    let machine = store.machine();
    let mut writer = machine.chunks.tree_writer();
    let node = writer.add_node(&leaf(1, KIB)).unwrap();
    assert_eq!(*machine.chunks.node(&node, machine.fetch()).unwrap(), leaf(1, KIB));
    assert_eq!(writer.size().0, 1);
    machine.chunks.forget_memory();
    machine.local.evict_all().unwrap();
    let answer = machine.chunks.node(&node, machine.fetch());
    assert!(matches!(answer, Err(ChunkError::NotLocal)));
    assert!(store.counting.log().is_empty(), "there is nothing to ask the store for");
    let finished = writer.finish().unwrap();
    let read = machine.chunks.node(&finished.resolve(node), machine.fetch()).unwrap();
    assert_eq!(*read, leaf(1, KIB));
}

#[test]
fn prefetch_brings_every_node_once_even_after_a_restart() {
    let store = Store::new();
    let large = ChunkOptions { pack_bytes: 16 * MIB, ..options() };
    let (leaves, root, finished) = write_tree(&store.machine_with(large), 300, 50 * KIB);
    let cold = store.machine();
    store.counting.reset();
    cold.chunks.prefetch_trees(&infos(&finished));
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    let gets = store.gets().len();
    assert!(gets <= 8, "15 MiB in windows of two: {gets}");
    assert_eq!(cold.chunks.stats().prefetch_bytes_left, 0);
    cold.chunks.node(&root, Fetch::LocalOnly).unwrap();
    for node in &leaves {
        cold.chunks.node(node, Fetch::LocalOnly).unwrap();
    }
    let cold = cold.restart();
    cold.chunks.prefetch_trees(&infos(&finished));
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    assert_eq!(store.gets().len(), gets, "what is there is not fetched again");
}

#[test]
fn a_reader_joins_the_window_that_prefetch_has_under_way() {
    let store = Store::new();
    let (leaves, _, finished) = write_tree(&store.machine(), 20, 10 * KIB);
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::every(Op::Get, ""), Fault::Latency(Duration::from_millis(300)));
    cold.chunks.prefetch_trees(&infos(&finished));
    std::thread::sleep(Duration::from_millis(100));
    cold.chunks.node(&leaves[7], cold.fetch()).unwrap();
    assert_eq!(store.gets().len(), 1);
}

#[test]
fn prefetch_survives_a_failure_and_tries_again() {
    let store = Store::new();
    let (leaves, _, finished) = write_tree(&store.machine(), 20, 10 * KIB);
    let cold = store.machine();
    let refused = RemoteError::Denied { cause: "for a while".to_owned() };
    store.faults.inject(When::next(Op::Get, ""), Fault::Answer(refused));
    cold.chunks.prefetch_trees(&infos(&finished));
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    cold.chunks.node(&leaves[3], Fetch::LocalOnly).unwrap();
}

#[test]
fn prefetched_chunks_are_local_and_the_byte_cap_holds() {
    let store = Store::new();
    let plains = noises(100, 64 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    cold.chunks.prefetch_chunks(&slots, MIB as u64);
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    assert!(slots[..15].iter().all(|(id, _)| cold.chunks.is_local(id)));
    let fetched = cold.chunks.stats().chunk_fetched_bytes;
    assert!(fetched <= (MIB + 256 * KIB) as u64, "{fetched}");
}

#[test]
fn nodes_from_the_head_need_no_request_and_damaged_ones_are_left_out() {
    let store = Store::new();
    let writer = store.machine();
    let (leaves, root, _) = write_tree(&writer, 5, KIB);
    let frame = |node: &NodeRef| writer.chunks.node_frame(node, writer.fetch()).unwrap();
    let mut nodes = vec![(root, frame(&root)), (leaves[0], frame(&leaves[0]))];
    let mut damaged = frame(&leaves[1]).to_vec();
    damaged[100] ^= 1;
    nodes.push((leaves[1], damaged.into()));
    nodes.push((leaves[2], frame(&leaves[3])));
    let cold = store.machine();
    store.counting.reset();
    assert_eq!(cold.chunks.seed_nodes(&nodes), 2);
    cold.chunks.node(&root, Fetch::LocalOnly).unwrap();
    cold.chunks.forget_memory();
    cold.chunks.node(&leaves[0], Fetch::LocalOnly).unwrap();
    let answer = cold.chunks.node(&leaves[1], Fetch::LocalOnly);
    assert!(matches!(answer, Err(ChunkError::NotLocal)));
    assert!(store.counting.log().is_empty());
    cold.chunks.node(&leaves[1], cold.fetch()).unwrap();
}

#[test]
fn a_tree_pack_that_can_not_be_uploaded_fails_the_writer() {
    let store = Store::new();
    let machine = store.machine();
    store.faults.set_outage(true);
    let mut writer = machine.chunks.tree_writer();
    writer.add_node(&leaf(1, KIB)).unwrap();
    assert!(matches!(writer.finish(), Err(ChunkError::Unavailable(_))));
}
