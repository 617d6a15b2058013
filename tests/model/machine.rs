//! A machine to try the filesystem on: a local directory over a store in memory, with the least
//! settling and sealing that makes records and bytes come from the store. (The real ones are the
//! workspace's.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dormouse::chunks::{ChunkOptions, Chunks, Fetch};
use dormouse::format::{Extent, HashKeys, Key, KeyParts, NodeRef, Source, decode_extent};
use dormouse::fs::{Caller, Filesystem, FsOptions, PIECE_LEN, Reclaim, SettledRegion, Stale};
use dormouse::local::{Local, LocalOptions};
use dormouse::namespace::{Base, Counters, CutView, Namespace};
use dormouse::remote::{CountingStore, MemoryStore, Remote, RemoteOptions};
use dormouse::tree::{Tree, TreeError};
use dormouse::types::{Clock, Ino, ManualClock};
use tempfile::TempDir;

/// What a head would name.
#[derive(Debug, Clone, Copy)]
pub struct Sealed {
    root: Option<NodeRef>,
    next_ino: Ino,
    counters: Counters,
}

/// One mount.
pub struct Machine {
    pub fs: Arc<Filesystem>,
    pub chunks: Arc<Chunks>,
    pub local: Arc<Local>,
    pub store: Arc<CountingStore>,
    pub clock: Arc<ManualClock>,
    pub sealed: Sealed,
    dir: Arc<TempDir>,
}

/// Waits as long as it takes: the clock stands still.
pub const WAIT: Fetch = Fetch::Until(Duration::MAX);

impl Machine {
    /// A new workspace on an empty store.
    pub fn new() -> Machine {
        let clock = Arc::new(ManualClock::default());
        let memory = MemoryStore::new(Arc::clone(&clock) as _);
        let store = CountingStore::new(Arc::new(memory));
        let sealed = Sealed { root: None, next_ino: Ino(2), counters: Counters::default() };
        let machine = Machine::start(store, clock, sealed, Arc::new(TempDir::new().unwrap()));
        machine.fs.make_root(&Caller::root(WAIT), 0o755).unwrap();
        machine
    }

    fn start(
        store: Arc<CountingStore>,
        clock: Arc<ManualClock>,
        sealed: Sealed,
        dir: Arc<TempDir>,
    ) -> Machine {
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let keys = HashKeys::new(&[7; 32]);
        let options = RemoteOptions::default();
        let remote =
            Remote::from_store(Arc::clone(&store) as _, &options, Arc::clone(&time)).unwrap();
        let local_options = LocalOptions {
            // Small, so that records move to RocksDB and segments end while a test runs.
            memtable_bytes_max: 64 << 10,
            segment_bytes_max: 1 << 20,
            replay_bytes_max: 4 << 20,
            ..LocalOptions::default()
        };
        let local = Arc::new(Local::open(dir.path(), &local_options, Arc::clone(&time)).unwrap());
        let chunks = Chunks::new(
            Arc::clone(&local),
            remote,
            keys.clone(),
            ChunkOptions::default(),
            Arc::clone(&time),
        );
        let base =
            Base { tree: Tree::new(Arc::clone(&chunks), sealed.root), next_ino: sealed.next_ino };
        let namespace = Namespace::open(Arc::clone(&local), base, keys, sealed.counters).unwrap();
        let fs = Filesystem::new(
            Arc::new(namespace),
            Arc::clone(&chunks),
            Arc::clone(&local),
            &FsOptions::default(),
            time,
        );
        fs.recover(WAIT).unwrap();
        Machine { fs, chunks, local, store, clock, sealed, dir }
    }

    /// Drops everything without a close, as a kill would, and starts again on the same disk.
    pub fn crash(self) -> Machine {
        let Machine { fs, chunks, local, store, clock, sealed, dir } = self;
        drop((fs, chunks, local));
        Machine::start(store, clock, sealed, dir)
    }

    /// The last sealed state on a machine that has never seen it.
    pub fn resume_elsewhere(self) -> Machine {
        let Machine { fs, chunks, local, store, clock, sealed, dir } = self;
        drop((fs, chunks, local, dir));
        Machine::start(store, clock, sealed, Arc::new(TempDir::new().unwrap()))
    }

    /// Puts staged bytes into the store and refers to them there.
    pub fn settle(&self) {
        for dirty in self.fs.dirty() {
            let extents = self.fs.extents(dirty.ino, 0..u64::MAX, WAIT).unwrap();
            let regions = self.settled(extents);
            assert!(!regions.is_empty(), "a dirty file without staged extents: {dirty:?}");
            let replaced = self.fs.commit_settled(dirty.ino, &regions, Stale::Skip, WAIT);
            assert_eq!(replaced.unwrap(), regions.len() as u64);
        }
        assert!(self.fs.dirty().is_empty(), "all was settled");
    }

    /// The regions of a file that hold staged bytes, and what replaces them: one chunk for each
    /// staged extent.
    pub fn settled(&self, extents: Vec<(u64, Extent)>) -> Vec<SettledRegion> {
        let mut pieces: BTreeMap<u64, Vec<(u64, Extent)>> = BTreeMap::new();
        for (offset, extent) in extents {
            pieces.entry(offset / PIECE_LEN).or_default().push((offset, extent));
        }
        pieces.retain(|_, extents| extents.iter().any(|(_, extent)| is_staged(extent)));
        let mut ids = BTreeMap::new();
        for (offset, extent) in pieces.values().flatten() {
            let Source::Staged(at) = extent.source else { continue };
            let mut bytes = vec![0; extent.len as usize];
            self.local.read_staged(at, &mut bytes).unwrap();
            ids.insert(*offset, self.chunks.add_chunk(&bytes).unwrap());
        }
        self.chunks.flush().unwrap();
        let seal = |(offset, extent): &(u64, Extent)| {
            let source = ids.get(offset).map_or(extent.source, |id| {
                let slot = self.chunks.slot_of(id).unwrap();
                Source::Chunk { id: *id, within: 0, slot }
            });
            (*offset, Extent { len: extent.len, source })
        };
        let region = |(piece, captured): (u64, Vec<(u64, Extent)>)| SettledRegion {
            from: piece * PIECE_LEN,
            to: (piece + 1) * PIECE_LEN,
            sealed: captured.iter().map(seal).collect(),
            captured,
        };
        pieces.into_iter().map(region).collect()
    }

    /// Seals the state: all records but staged extents of orphans go into a tree in the store,
    /// which becomes the base.
    pub fn seal(&mut self) {
        self.settle();
        let namespace = Arc::clone(self.fs.namespace());
        let sealed = namespace.with_cut(|view| self.write_tree(view)).unwrap();
        self.sealed = sealed;
        let tree = Tree::new(Arc::clone(&self.chunks), sealed.root);
        namespace.rebase(Base { tree, next_ino: sealed.next_ino }, &[]).unwrap();
        namespace.trim(WAIT).unwrap();
        self.local.sweep().unwrap();
    }

    fn write_tree(&self, view: &CutView<'_>) -> Sealed {
        let mut from = Vec::new();
        let mut changes = Vec::new();
        loop {
            let page = view.changes(&from, 50).unwrap();
            let Some((last, _)) = page.last() else { break };
            from = last.successor().as_bytes().to_vec();
            changes.extend(page);
        }
        let mut changes = changes.into_iter().filter(|(key, value)| {
            let extent = match (key.parts(), value) {
                (Some(KeyParts::Extent(..)), Some(value)) => decode_extent(value).ok(),
                _ => None,
            };
            !extent.is_some_and(|extent| is_staged(&extent))
        });
        let mut changes = changes.by_ref().map(Ok::<_, TreeError>);
        let mut writer = self.chunks.tree_writer();
        let merged = view.base().tree.merge(&mut changes, &mut writer, WAIT).unwrap();
        let finished = writer.finish().unwrap();
        Sealed {
            root: merged.root.map(|root| finished.resolve(root)),
            next_ino: view.next_ino(),
            counters: view.counters().unwrap(),
        }
    }

    /// Drops everything that can be fetched again.
    pub fn evict(&self) {
        self.chunks.forget_memory();
        self.local.evict_all().unwrap();
    }

    /// Before the kernel's view ends for good.
    pub fn reclaim_all(&self) {
        self.fs.reclaim_orphans(Reclaim::All, WAIT).unwrap();
        assert_eq!(self.fs.orphan_count(), 0);
    }

    /// Overlay records that are not the mount's own.
    pub fn overlay_records(&self) -> usize {
        let end = Key::extent(Ino(u64::MAX), u64::MAX);
        self.fs.namespace().overlay(&Key::attr(Ino::ROOT), &end, usize::MAX).unwrap().len()
    }
}

fn is_staged(extent: &Extent) -> bool {
    matches!(extent.source, Source::Staged(_))
}
