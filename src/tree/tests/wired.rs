//! The tree over the real chunk layer: a store in memory and a local directory per machine.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::chunks::{ChunkOptions, Chunks, Fetch};
use crate::local::{Local, LocalOptions};
use crate::remote::{MemoryStore, Remote, RemoteOptions};
use crate::tree::Tree;
use crate::types::{Clock, SystemClock};

struct Machine {
    chunks: Arc<Chunks>,
    clock: Arc<dyn Clock>,
    _dir: TempDir,
}

fn machine(store: &Arc<MemoryStore>) -> Machine {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = Arc::clone(store) as _;
    let remote = Remote::from_store(store, &RemoteOptions::default(), Arc::clone(&clock)).unwrap();
    let dir = TempDir::new().unwrap();
    let local = Local::open(dir.path(), &LocalOptions::default(), Arc::clone(&clock)).unwrap();
    let keys = HashKeys::new(&[3; 32]);
    let options = ChunkOptions { pack_bytes: 100_000, ..ChunkOptions::default() };
    let chunks = Chunks::new(Arc::new(local), remote, keys, options, Arc::clone(&clock));
    Machine { chunks, clock, _dir: dir }
}

impl Machine {
    fn fetch(&self) -> Fetch {
        Fetch::Until(self.clock.monotonic() + Duration::from_secs(20))
    }

    fn merge(&self, root: Option<NodeRef>, batch: &Batch) -> (Tree, Merged, usize) {
        let mut writer = self.chunks.tree_writer();
        let mut changes = batch.iter().map(|(key, value)| Ok((key.clone(), value.clone())));
        let tree = Tree::new(Arc::clone(&self.chunks), root);
        let merged = tree.merge(&mut changes, &mut writer, self.fetch()).unwrap();
        let finished = writer.finish().unwrap();
        let root = merged.root.map(|root| finished.resolve(root));
        (Tree::new(Arc::clone(&self.chunks), root), merged, finished.packs.len())
    }
}

fn all(tree: &Tree, fetch: Fetch) -> Vec<(Key, Bytes)> {
    let mut found = Vec::new();
    tree.scan(fetch, &mut |key, value| {
        found.push((key, value));
        true
    })
    .unwrap();
    found
}

#[test]
fn a_tree_written_on_one_machine_is_read_merged_and_compared_on_another() {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    let writer = machine(&store);
    let mut model = files(5_000);
    let batch: Batch = model.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    let (tree, merged, packs) = writer.merge(None, &batch);
    assert!(packs >= 3, "{packs}: children in several packs");
    assert_eq!(tree.live_bytes(writer.fetch()).unwrap(), merged.tree_bytes);

    let reader = machine(&store);
    let cold = Tree::new(Arc::clone(&reader.chunks), tree.root());
    let key = Key::attr(Ino(1_234));
    assert!(matches!(cold.get(key.as_bytes(), Fetch::LocalOnly), Err(TreeError::NotLocal)));
    let value = Bytes::from_static(b"hint");
    let hints = HashMap::from([(key.clone(), value.clone())]);
    let hinted = cold.clone().with_hints(Arc::new(hints));
    assert_eq!(hinted.get(key.as_bytes(), Fetch::LocalOnly).unwrap(), Some(value));
    assert_eq!(all(&cold, reader.fetch()), model.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(cold.get(key.as_bytes(), Fetch::LocalOnly).unwrap(), model.get(&key).cloned());

    let changes = changed([1_500, 5_999].into_iter(), 9);
    apply(&mut model, &changes);
    let (after, merged, packs) = reader.merge(cold.root(), &changes);
    assert_eq!((merged.leaves_written, packs), (2, 1));
    assert_eq!(all(&after, reader.fetch()), model.clone().into_iter().collect::<Vec<_>>());
    let mut found = Vec::new();
    cold.diff(&after, reader.fetch(), &mut |key, _, value| found.push((key, value))).unwrap();
    assert_eq!(found, changes.into_iter().collect::<Vec<_>>());

    // Out of all packs but the newest.
    let used = after.pack_bytes(reader.fetch()).unwrap();
    let newest = after.root().unwrap().slot.pack;
    let old: HashSet<_> = used.into_keys().filter(|pack| *pack != newest).collect();
    let mut writer = reader.chunks.tree_writer();
    let moved = after.relocate(&old, &mut writer, reader.fetch()).unwrap();
    let finished = writer.finish().unwrap();
    let root = finished.resolve(moved.root.unwrap());
    let moved = Tree::new(Arc::clone(&reader.chunks), Some(root));
    let used = moved.pack_bytes(reader.fetch()).unwrap();
    // Written again, equal frames in equal order are an equal pack.
    let written: HashSet<_> = finished.packs.iter().map(|(info, _)| info.id).collect();
    assert!(used.keys().all(|pack| written.contains(pack) || *pack == newest));
    assert_eq!(all(&moved, reader.fetch()), model.into_iter().collect::<Vec<_>>());
}

#[test]
fn seeded_nodes_answer_without_a_request() {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    let writer = machine(&store);
    let batch = files(5_000).into_iter().map(|(key, value)| (key, Some(value))).collect();
    let (tree, ..) = writer.merge(None, &batch);
    let key = Key::attr(Ino(1_000));
    let path = tree.path_to(key.as_bytes(), writer.fetch()).unwrap();
    let nodes: Vec<_> = path
        .iter()
        .map(|node| (*node, writer.chunks.node_frame(node, writer.fetch()).unwrap()))
        .collect();
    let reader = machine(&store);
    assert_eq!(reader.chunks.seed_nodes(&nodes), nodes.len());
    let cold = Tree::new(Arc::clone(&reader.chunks), tree.root());
    assert!(cold.get(key.as_bytes(), Fetch::LocalOnly).unwrap().is_some());
}
