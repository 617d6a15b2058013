//! The hot inner pieces, each alone: the extent map, tree lookup and merge, frames and packs,
//! settling. `cargo bench --bench layers`; compare with `-- --save-baseline NAME` and
//! `-- --baseline NAME` on a quiet machine.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark's failure is a panic")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dormouse::chunks::{ChunkOptions, Chunks, Fetch};
use dormouse::format::{
    FrameKind, HashKeys, Key, PackBuilder, PackKind, decode_frame, encode_frame,
};
use dormouse::fs::{At, Caller, Filesystem};
use dormouse::local::{Local, LocalOptions};
use dormouse::remote::{MemoryStore, Remote, RemoteOptions};
use dormouse::tree::{Tree, TreeError};
use dormouse::types::{Clock, Ino, Name, SystemClock};
use dormouse::workspace::{ResumeOptions, Store, Workspace};

/// Records of the tree that is looked up in and merged into.
const RECORDS: u64 = 100_000;

/// A store in memory and a directory of its own.
struct Machine {
    clock: Arc<dyn Clock>,
    remote: Arc<Remote>,
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let remote = Remote::from_store(store, &RemoteOptions::default(), Arc::clone(&clock));
        let dir = tempfile::tempdir().unwrap();
        Machine { clock, remote: remote.unwrap(), dir }
    }

    fn chunks(&self) -> Arc<Chunks> {
        let local = Local::open(self.dir.path(), &LocalOptions::default(), self.clock.clone());
        let keys = HashKeys::new(&[7; 32]);
        let (local, remote) = (Arc::new(local.unwrap()), Arc::clone(&self.remote));
        Chunks::new(local, remote, keys, ChunkOptions::default(), self.clock.clone())
    }

    fn workspace(&self) -> Workspace {
        Store::init(Arc::clone(&self.remote), &*self.clock).unwrap();
        let mut options = ResumeOptions::new("w".parse().unwrap(), self.dir.path().join("cache"));
        options.create = true;
        options.upkeep.threads = false;
        options.upkeep.settle_cpu_percent = 100;
        Workspace::resume(Arc::clone(&self.remote), self.clock.clone(), &options).unwrap()
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Half noise and half zeros: compresses to about a half, as much content does.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = noise(seed, len);
    bytes.chunks_mut(64).for_each(|line| {
        let half = line.len() / 2;
        line[half..].fill(0);
    });
    bytes
}

fn make(fs: &Filesystem, name: &str) -> Ino {
    let caller = Caller::root(Fetch::LocalOnly);
    let name = Name::new(name.as_bytes()).unwrap();
    fs.create(&caller, At { directory: Ino::ROOT, name: &name }, 0o644, true).unwrap().ino
}

/// Reads and writes of a file in 10,000 extents.
fn extent_map(criterion: &mut Criterion) {
    let machine = Machine::new();
    let workspace = machine.workspace();
    let fs = workspace.fs();
    let caller = Caller::root(Fetch::LocalOnly);
    let ino = make(&fs, "fragmented");
    let page = noise(1, 4096);
    // Every other page, so that nothing merges.
    (0..10_000).for_each(|n| _ = fs.write(&caller, ino, n * 8192, &page, false).unwrap());
    let mut group = criterion.benchmark_group("extent map of 10,000");
    let mut at = 0;
    let mut next = move || {
        at = (at + 6151) % 10_000;
        at * 8192
    };
    group.bench_function("overwrite 4 KiB", |b| {
        b.iter(|| fs.write(&caller, ino, next(), &page, false).unwrap());
    });
    group.bench_function("read 4 KiB", |b| {
        b.iter(|| black_box(fs.read(&caller, ino, next(), 4096).unwrap()));
    });
    group.finish();
}

fn key(number: u64) -> Key {
    let name = format!("file-{number}.rs");
    Key::entry(Ino(2 + number / 100), number.wrapping_mul(0x9e37_79b9_7f4a_7c15), name.as_bytes())
}

fn tree(criterion: &mut Criterion) {
    let machine = Machine::new();
    let chunks = machine.chunks();
    let until = Fetch::Until(machine.clock.monotonic() + Duration::from_secs(3600));
    let mut keys: Vec<Key> = (0..RECORDS).map(key).collect();
    keys.sort_unstable();
    let merge = |tree: &Tree, changes: &mut dyn Iterator<Item = (Key, Vec<u8>)>| {
        let mut changes = changes.map(|(key, value)| Ok::<_, TreeError>((key, Some(value.into()))));
        let mut writer = chunks.tree_writer();
        let merged = tree.merge(&mut changes, &mut writer, until).unwrap();
        let finished = writer.finish().unwrap();
        Tree::new(Arc::clone(&chunks), merged.root.map(|root| finished.resolve(root)))
    };
    let base =
        merge(&Tree::empty(Arc::clone(&chunks)), &mut keys.iter().map(|k| (k.clone(), vec![7; 9])));
    let mut group = criterion.benchmark_group("tree of 100,000 records");
    let mut place = 0;
    group.bench_function("lookup", |b| {
        b.iter(|| {
            place = (place + 7919) % keys.len();
            black_box(base.get(keys[place].as_bytes(), until).unwrap())
        });
    });
    group.sample_size(20);
    group.bench_function("merge 100 changes", |b| {
        let mut round = 0_u64;
        b.iter(|| {
            round += 1;
            let changed = keys.iter().step_by(keys.len() / 100);
            let mut changes = changed.map(|k| (k.clone(), round.to_le_bytes().to_vec()));
            black_box(merge(&base, &mut changes))
        });
    });
    group.finish();
}

fn frames_and_packs(criterion: &mut Criterion) {
    let plain = content(3, 256 << 10);
    let keys = HashKeys::new(&[7; 32]);
    let id = keys.chunk(&plain);
    let frame = encode_frame(FrameKind::Chunk, &id.0, &plain);
    let mut group = criterion.benchmark_group("256 KiB chunk");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("hash", |b| b.iter(|| black_box(keys.chunk(&plain))));
    group.bench_function("frame", |b| {
        b.iter(|| black_box(encode_frame(FrameKind::Chunk, &id.0, &plain)));
    });
    group.bench_function("unframe", |b| b.iter(|| black_box(decode_frame(&frame).unwrap())));
    group.finish();
    let mut group = criterion.benchmark_group("pack of 100 frames");
    group.throughput(Throughput::Bytes(frame.len() as u64 * 100));
    group.sample_size(20);
    group.bench_function("push and finish", |b| {
        b.iter(|| {
            let mut pack = PackBuilder::new(PackKind::Data);
            (0..100).for_each(|_| _ = pack.push(&frame).unwrap());
            black_box(pack.finish())
        });
    });
    group.finish();
}

/// 64 files of 64 KiB, from the journal to chunks in a pack.
fn settle(criterion: &mut Criterion) {
    const FILES: u64 = 64;
    let machine = Machine::new();
    let workspace = machine.workspace();
    let fs = workspace.fs();
    let caller = Caller::root(Fetch::LocalOnly);
    let files: Vec<Ino> = (0..FILES).map(|n| make(&fs, &format!("f{n}"))).collect();
    let mut group = criterion.benchmark_group("settle");
    group.throughput(Throughput::Bytes(FILES << 16));
    group.sample_size(20);
    let mut round = 0;
    let mut write_all = || {
        round += 1;
        for (number, ino) in files.iter().enumerate() {
            let bytes = content(round * FILES + number as u64, 64 << 10);
            fs.write(&caller, *ino, 0, &bytes, false).unwrap();
        }
    };
    let settle = |()| assert_eq!(workspace.settle(true).unwrap(), FILES);
    group.bench_function("64 files of 64 KiB", |b| {
        b.iter_batched(&mut write_all, settle, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group! {
    name = layers;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = extent_map, tree, frames_and_packs, settle
}
criterion_main!(layers);
