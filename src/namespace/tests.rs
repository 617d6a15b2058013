//! The pure merge against maps; the rest over a local directory and a tree in a store in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::chunks::{ChunkOptions, Chunks};
use crate::local::LocalOptions;
use crate::remote::{MemoryStore, Remote, RemoteOptions};
use crate::types::{Clock, SystemClock};

const WAIT: Fetch = Fetch::Until(Duration::MAX);

type Overlay = BTreeMap<Key, Slot>;
type Records = BTreeMap<Key, Bytes>;

fn key(number: u64) -> Key {
    Key::extent(Ino(7), number)
}

fn value(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number])
}

fn slot() -> impl Strategy<Value = Slot> {
    prop_oneof![any::<u8>().prop_map(|n| Slot::Value(value(n))), Just(Slot::Tombstone)]
}

fn both(overlay: &Overlay, base: &Records) -> Records {
    let mut both = base.clone();
    for (key, slot) in overlay {
        match slot {
            Slot::Value(value) => both.insert(key.clone(), value.clone()),
            Slot::Tombstone => both.remove(key),
        };
    }
    both
}

proptest! {
    #[test]
    fn a_merged_range_is_what_two_maps_say(
        overlay in prop::collection::btree_map((0_u64..300).prop_map(key), slot(), 0..200),
        base in prop::collection::btree_map(
            (0_u64..300).prop_map(key), any::<u8>().prop_map(value), 0..200
        ),
        from in 0_u64..300,
        span in 0_u64..320,
        limit in 1_usize..100,
    ) {
        let (from, to) = (key(from), key(from + span));
        let mut read_overlay = |from: &[u8], limit: usize| {
            let slots = overlay.iter().filter(|(key, _)| {
                key.as_bytes() >= from && **key < to
            });
            Ok(slots.take(limit).map(|(key, slot)| (key.clone(), slot.clone())).collect())
        };
        let mut read_base = |from: &[u8], to: &[u8], limit: usize| {
            let records =
                base.iter().filter(|(key, _)| key.as_bytes() >= from && key.as_bytes() < to);
            Ok(records.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        };
        let merged = merge::range(&from, &to, limit, &mut read_overlay, &mut read_base).unwrap();
        let expected: Vec<_> = both(&overlay, &base)
            .into_iter()
            .filter(|(key, _)| *key >= from && *key < to)
            .take(limit)
            .collect();
        prop_assert_eq!(merged, expected);
    }
}

/// A namespace on its own machine.
struct Machine {
    namespace: Namespace,
    chunks: Arc<Chunks>,
    local: Arc<Local>,
    dir: TempDir,
}

fn start(dir: TempDir) -> Machine {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    let remote = Remote::from_store(store, &RemoteOptions::default(), Arc::clone(&clock)).unwrap();
    let local = Local::open(dir.path(), &LocalOptions::default(), Arc::clone(&clock)).unwrap();
    let local = Arc::new(local);
    let keys = HashKeys::new(&[1; 32]);
    let options = ChunkOptions::default();
    let chunks = Chunks::new(Arc::clone(&local), remote, keys.clone(), options, clock);
    let base = Base { tree: Tree::empty(Arc::clone(&chunks)), next_ino: Ino(2) };
    let counters = Counters { inodes: 1, bytes: 0 };
    let namespace = Namespace::open(Arc::clone(&local), base, keys, counters).unwrap();
    Machine { namespace, chunks, local, dir }
}

impl Machine {
    fn new() -> Machine {
        start(TempDir::new().unwrap())
    }

    fn crash(self) -> Machine {
        let Machine { namespace, chunks, local, dir } = self;
        drop((namespace, chunks, local));
        start(dir)
    }

    fn put(&self, number: u64, new: Option<u8>) {
        let mut batch = Batch::new();
        match new {
            Some(new) => batch.put(key(number), value(new)),
            None => batch.delete(key(number)),
        }
        self.namespace.commit(Change { batch, growth: Growth::default() }).unwrap();
    }

    /// Makes the tree of what a cut shows the new base.
    fn rebase(&self) {
        let base = self.namespace.with_cut(|view| {
            let changes = view.changes(&[], usize::MAX).unwrap();
            let mut writer = self.chunks.tree_writer();
            let mut changes = changes.into_iter().map(Ok);
            let merged = view.base().tree.merge(&mut changes, &mut writer, WAIT).unwrap();
            let finished = writer.finish().unwrap();
            let root = merged.root.map(|root| finished.resolve(root));
            let tree = Tree::new(Arc::clone(&self.chunks), root);
            Base { tree, next_ino: view.next_ino() }
        });
        self.namespace.rebase(base.unwrap(), &[("test/base", Some(vec![1]))]).unwrap();
    }

    fn records(&self) -> Records {
        let (from, to) = (key(0), key(u64::MAX));
        self.namespace.range(&from, &to, usize::MAX, WAIT).unwrap().into_iter().collect()
    }

    fn slots(&self) -> usize {
        self.namespace.overlay(&key(0), &key(u64::MAX), usize::MAX).unwrap().len()
    }
}

#[test]
fn a_trim_drops_what_the_base_says_and_nobody_sees_a_difference() {
    let machine = Machine::new();
    for _ in 0..6 {
        machine.namespace.alloc_ino().unwrap();
    }
    for number in 0..3000 {
        machine.put(number, Some(number as u8));
    }
    machine.put(5, None);
    machine.rebase();
    // Between the cut and the trim, writers went on.
    machine.put(7, Some(99));
    machine.put(8, None);
    let before = machine.records();
    assert_eq!(before.len(), 2998);
    let trimmed = machine.namespace.trim(WAIT).unwrap();
    assert_eq!(machine.records(), before);
    // Left: the two changes, this layer's two records, and the test's.
    assert_eq!((trimmed.dropped, machine.slots()), (2998, 2));
    assert_eq!(machine.namespace.trim(WAIT).unwrap().dropped, 0, "a second trim finds nothing");
    assert_eq!(machine.namespace.state("test/base").unwrap().as_deref(), Some(&[1][..]));
    machine.rebase();
    machine.namespace.trim(WAIT).unwrap();
    assert_eq!((machine.slots(), machine.records()), (0, before));
}

#[test]
fn readers_see_each_record_while_the_base_is_switched_and_trimmed() {
    let machine = Machine::new();
    for _ in 0..6 {
        machine.namespace.alloc_ino().unwrap();
    }
    for number in 0..500 {
        machine.put(number, Some(number as u8));
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for start in 0..2 {
            let (machine, done) = (&machine, &done);
            scope.spawn(move || {
                let mut number = start;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    number = (number + 7) % 500;
                    let found = machine.namespace.get(&key(number), WAIT).unwrap();
                    assert_eq!(found, Some(value(number as u8)));
                }
                assert_eq!(machine.records().len(), 500);
            });
        }
        for _ in 0..10 {
            machine.rebase();
            machine.namespace.trim(WAIT).unwrap();
            machine.put(1, Some(1));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn an_inode_number_is_never_given_out_twice_also_after_a_crash() {
    let mut machine = Machine::new();
    let mut last = Ino::ROOT;
    for _ in 0..3 {
        for _ in 0..INO_RESERVE + 10 {
            let ino = machine.namespace.alloc_ino().unwrap();
            assert!(ino > last, "{ino} after {last}");
            last = ino;
        }
        assert!(machine.namespace.next_ino() > last);
        machine = machine.crash();
    }
}

#[test]
fn totals_are_exact_with_concurrent_commits_and_after_a_crash() {
    let machine = Machine::new();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let machine = &machine;
            scope.spawn(move || {
                for number in 0..200 {
                    let mut batch = Batch::new();
                    batch.put(key(thread * 1000 + number), value(0));
                    let bytes = if number % 3 == 2 { -5 } else { 10 };
                    let growth = Growth { inodes: 1, bytes };
                    machine.namespace.commit(Change { batch, growth }).unwrap();
                }
            });
        }
    });
    let expected = Counters { inodes: 801, bytes: 4 * (134 * 10 - 66 * 5) };
    assert_eq!(machine.namespace.counters(), expected);
    let cut = machine.namespace.with_cut(|view| view.counters().unwrap()).unwrap();
    assert_eq!(cut, expected);
    assert_eq!(machine.crash().namespace.counters(), expected);
}

#[test]
fn a_quota_refuses_growth_beyond_it_and_nothing_else() {
    let machine = Machine::new();
    machine.namespace.set_quota(Quota { inodes_max: Some(2), bytes_max: Some(100) });
    let grow = |inodes, bytes| {
        let mut batch = Batch::new();
        batch.put(key(bytes as u64), value(1));
        machine.namespace.commit(Change { batch, growth: Growth { inodes, bytes } })
    };
    grow(1, 100).unwrap();
    assert!(matches!(grow(0, 1), Err(NamespaceError::Quota)));
    assert!(matches!(grow(1, 0), Err(NamespaceError::Quota)));
    assert_eq!(machine.namespace.get(&key(1), WAIT).unwrap(), None, "a refused commit is none");
    grow(-1, 0).unwrap();
    grow(0, -50).unwrap();
    grow(0, 50).unwrap();
}
