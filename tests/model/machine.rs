//! A machine to try the filesystem on: a local directory over a store in memory, with the least
//! settling and sealing that makes records and bytes come from the store. (The real ones are the
//! workspace's.)

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dormouse::chunks::{ChunkOptions, Chunks, Fetch};
use dormouse::format::{
    Extent, HashKeys, Key, KeyParts, NodeRef, Source, Tag, decode_extent, encode_extent,
};
use dormouse::fs::{Caller, Filesystem, FsOptions, PIECE_LEN, Reclaim, SettledRegion, Stale};
use dormouse::local::{Local, LocalError, LocalOptions};
use dormouse::namespace::{Base, Counters, CutView, Namespace};
use dormouse::remote::{CountingStore, MemoryStore, Remote, RemoteOptions};
use dormouse::tree::{Tree, TreeError};
use dormouse::types::{Clock, Ino, ManualClock};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::ops::Cut;
use crate::power;

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
    /// The journal's records that were there when the directory was opened, all on the disk.
    pub recovered: u64,
    dir: Arc<TempDir>,
}

/// Less room than this in memory is left to others.
const MEMORY_BYTES_MIN: u64 = 1 << 30;

/// Waits as long as it takes: the clock stands still.
pub const WAIT: Fetch = Fetch::Until(Duration::MAX);

impl Machine {
    /// A new workspace on an empty store.
    pub fn new() -> Machine {
        let clock = Arc::new(ManualClock::default());
        let memory = MemoryStore::new(Arc::clone(&clock) as _);
        let store = CountingStore::new(Arc::new(memory));
        let sealed = Sealed { root: None, next_ino: Ino(2), counters: Counters::default() };
        let machine = Machine::start(store, clock, sealed, Arc::new(scratch()));
        machine.fs.make_root(&Caller::root(WAIT), 0o755).unwrap();
        machine.local.sync().unwrap();
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
        let local = Arc::new(open_free(dir.path(), &local_options, &time));
        let recovered = local.journal_ends().synced.seq;
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
        Machine { fs, chunks, local, store, clock, sealed, recovered, dir }
    }

    /// Drops everything without a close, as a kill would, and starts again on the same disk.
    pub fn crash(self) -> Machine {
        let Machine { fs, chunks, local, store, clock, sealed, dir, .. } = self;
        drop((fs, chunks, local));
        Machine::start(store, clock, sealed, dir)
    }

    /// Starts again on what a power cut leaves of the disk.
    pub fn power_cut(self, cut: Cut) -> Machine {
        let left = scratch();
        power::copy_still(self.dir.path(), left.path());
        // Not before the copy: what RocksDB had taken by then was synced before.
        let ends = self.local.journal_ends();
        let Machine { fs, chunks, local, store, clock, sealed, .. } = self;
        drop((fs, chunks, local));
        power::cut(left.path(), &ends, cut);
        let machine = Machine::start(store, clock, sealed, Arc::new(left));
        assert!(machine.recovered >= ends.synced.seq, "a record that was synced is lost");
        assert!(machine.recovered <= ends.appended.seq);
        machine
    }

    /// The last sealed state on a machine that has never seen it.
    pub fn resume_elsewhere(self) -> Machine {
        let Machine { fs, chunks, local, store, clock, sealed, dir, .. } = self;
        drop((fs, chunks, local, dir));
        Machine::start(store, clock, sealed, Arc::new(scratch()))
    }

    /// What settles and seals.
    pub fn sealer(&self) -> Sealer {
        let Machine { fs, chunks, local, .. } = self;
        Sealer { fs: Arc::clone(fs), chunks: Arc::clone(chunks), local: Arc::clone(local) }
    }

    /// Puts staged bytes into the store and refers to them there.
    pub fn settle(&self) {
        self.sealer().settle();
    }

    /// The regions of a file that hold staged bytes, and what replaces them.
    pub fn settled(&self, extents: Vec<(u64, Extent)>) -> Vec<SettledRegion> {
        self.sealer().settled(extents)
    }

    /// Seals the state with nobody else at work.
    pub fn seal(&mut self) {
        self.sealed = self.sealer().seal(&mut || {});
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

/// The least settling and sealing that does what the workspace's do.
pub struct Sealer {
    fs: Arc<Filesystem>,
    chunks: Arc<Chunks>,
    local: Arc<Local>,
}

impl Sealer {
    fn settle(&self) {
        for dirty in self.fs.dirty() {
            let extents = self.fs.extents(dirty.ino, 0..u64::MAX, WAIT).unwrap();
            let regions = self.settled(extents);
            assert!(!regions.is_empty(), "a dirty file without staged extents: {dirty:?}");
            let replaced = self.fs.commit_settled(dirty.ino, &regions, Stale::Skip, WAIT);
            assert_eq!(replaced.unwrap(), regions.len() as u64);
        }
        assert!(self.fs.dirty().is_empty(), "all was settled");
    }

    /// The pieces that hold staged bytes. In each, a run of extents without a hole becomes one
    /// chunk if a part of it is staged.
    fn settled(&self, extents: Vec<(u64, Extent)>) -> Vec<SettledRegion> {
        let mut pieces: BTreeMap<u64, Vec<(u64, Extent)>> = BTreeMap::new();
        for (offset, extent) in extents {
            pieces.entry(offset / PIECE_LEN).or_default().push((offset, extent));
        }
        pieces.retain(|_, extents| extents.iter().any(|(_, extent)| is_staged(extent)));
        let mut regions = Vec::new();
        let mut new_chunks = Vec::new();
        for (piece, captured) in pieces {
            let touches = |a: &(u64, Extent), b: &(u64, Extent)| a.0 + a.1.len == b.0;
            for run in captured.chunk_by(touches) {
                if run.iter().any(|(_, extent)| is_staged(extent)) {
                    let bytes: Vec<u8> =
                        run.iter().flat_map(|(_, extent)| self.bytes(extent)).collect();
                    let id = self.chunks.add_chunk(&bytes).unwrap();
                    new_chunks.push((piece, run[0].0, bytes.len() as u64, Some(id)));
                } else {
                    let kept =
                        run.iter().map(|(offset, extent)| (piece, *offset, extent.len, None));
                    new_chunks.extend(kept);
                }
            }
            let (from, to) = (piece * PIECE_LEN, (piece + 1) * PIECE_LEN);
            regions.push(SettledRegion { from, to, captured, sealed: Vec::new() });
        }
        self.chunks.flush().unwrap();
        for (piece, offset, len, id) in new_chunks {
            let region =
                regions.iter_mut().find(|region| region.from == piece * PIECE_LEN).unwrap();
            let old = region.captured.iter().find(|(at, _)| *at == offset).unwrap().1;
            let source = id.map_or(old.source, |id| {
                let slot = self.chunks.slot_of(&id).unwrap();
                Source::Chunk { id, within: 0, slot }
            });
            region.sealed.push((offset, Extent { len, source }));
        }
        regions
    }

    fn bytes(&self, extent: &Extent) -> Vec<u8> {
        let len = extent.len as usize;
        match &extent.source {
            Source::Staged(at) => {
                let mut bytes = vec![0; len];
                self.local.read_staged(*at, &mut bytes).unwrap();
                bytes
            }
            Source::Chunk { id, within, slot } => {
                let plain = self.chunks.read(id, slot, WAIT).unwrap();
                plain[*within as usize..*within as usize + len].to_vec()
            }
        }
    }

    /// Seals the state of a cut: all its records, but staged extents of orphans, go into a tree
    /// in the store, which becomes the base. `meanwhile` runs after the cut was taken.
    pub fn seal(self, meanwhile: &mut dyn FnMut()) -> Sealed {
        let namespace = Arc::clone(self.fs.namespace());
        let (sealed, settled) = namespace
            .with_cut(|view| {
                let orphans = view.orphans(WAIT).unwrap();
                let mut changes = view_changes(view);
                let is_staged_key = |key: &Key, value: &Option<Bytes>| match (key.parts(), value) {
                    (Some(KeyParts::Extent(..)), Some(value)) => {
                        is_staged(&decode_extent(value).unwrap())
                    }
                    _ => false,
                };
                let mut dirty: Vec<Ino> = changes
                    .iter()
                    .filter(|(key, value)| is_staged_key(key, value))
                    .map(|(key, _)| key.ino())
                    .collect();
                dirty.dedup();
                changes.retain(|key, value| !is_staged_key(key, value));
                let mut settled = Vec::new();
                for ino in dirty.into_iter().filter(|ino| !orphans.contains(ino)) {
                    let regions = self.settled(view_extents(view, ino));
                    for region in &regions {
                        for (offset, _) in &region.captured {
                            changes.insert(Key::extent(ino, *offset), None);
                        }
                        for (offset, extent) in &region.sealed {
                            let value = encode_extent(extent).into();
                            changes.insert(Key::extent(ino, *offset), Some(value));
                        }
                    }
                    settled.push((ino, regions));
                }
                meanwhile();
                (self.write_tree(view, changes), settled)
            })
            .unwrap();
        for (ino, regions) in settled {
            self.fs.commit_settled(ino, &regions, Stale::Shadow, WAIT).unwrap();
        }
        let tree = Tree::new(Arc::clone(&self.chunks), sealed.root);
        namespace.rebase(Base { tree, next_ino: sealed.next_ino }, &[]).unwrap();
        namespace.trim(WAIT).unwrap();
        self.local.sweep().unwrap();
        sealed
    }

    fn write_tree(&self, view: &CutView<'_>, changes: BTreeMap<Key, Option<Bytes>>) -> Sealed {
        let mut changes = changes.into_iter().map(Ok::<_, TreeError>);
        let mut writer = self.chunks.tree_writer();
        let merged = view.base().tree.merge(&mut changes, &mut writer, WAIT).unwrap();
        let finished = writer.finish().unwrap();
        Sealed {
            root: merged.root.map(|root| finished.resolve(root)),
            next_ino: view.next_ino(),
            counters: view.counters().unwrap(),
        }
    }
}

fn view_changes(view: &CutView<'_>) -> BTreeMap<Key, Option<Bytes>> {
    let mut from = Vec::new();
    let mut changes = BTreeMap::new();
    loop {
        // A small page, so that pages are joined.
        let page = view.changes(&from, 50).unwrap();
        let Some((last, _)) = page.last() else { return changes };
        from = last.successor().as_bytes().to_vec();
        changes.extend(page);
    }
}

fn view_extents(view: &CutView<'_>, ino: Ino) -> Vec<(u64, Extent)> {
    let (from, to) = (Key::tag_start(ino, Tag::Extent), Key::tag_end(ino, Tag::Extent));
    let records = view.range(&from, &to, usize::MAX, WAIT).unwrap();
    let extent = |(key, value): &(Key, Bytes)| match key.parts() {
        Some(KeyParts::Extent(_, offset)) => (offset, decode_extent(value).unwrap()),
        other => panic!("{other:?} among the extents"),
    };
    records.iter().map(extent).collect()
}

fn is_staged(extent: &Extent) -> bool {
    matches!(extent.source, Source::Staged(_))
}

/// A directory in memory, where there is room: a kill leaves the kernel's memory alone, and what a
/// power cut leaves is made by [`power::cut`]. (`TMPDIR` says where else.)
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let free = statvfs(memory).map_or(0, |is| is.blocks_available() * is.fragment_size());
    let mut named = tempfile::Builder::new();
    named.prefix("dormouse-model-");
    match std::env::var_os("TMPDIR").is_none() && free >= MEMORY_BYTES_MIN {
        true => named.tempdir_in(memory).unwrap(),
        false => named.tempdir().unwrap(),
    }
}

/// Opens the directory; a thread of the machine before that was looking ahead may be the last that
/// holds it, for a moment. A kill would have ended it at once.
fn open_free(dir: &Path, options: &LocalOptions, clock: &Arc<dyn Clock>) -> Local {
    for _ in 0..20_000 {
        match Local::open(dir, options, Arc::clone(clock)) {
            Err(LocalError::Locked { .. }) => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays locked", dir.display());
}
