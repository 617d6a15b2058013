//! The layer over a store in memory that counts and fails, and a local directory of its own.

mod reading;
mod traffic;
mod tree_packs;
mod uploading;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::local::LocalOptions;
use crate::remote::{Call, CountingStore, FaultStore, MemoryStore, Op, RemoteOptions};
use crate::types::SystemClock;

const KIB: usize = 1024;

/// One machine: a local directory and the layer over it. Several can share a store.
struct Machine {
    store: Store,
    chunks: Arc<Chunks>,
    local: Arc<Local>,
    clock: Arc<dyn Clock>,
    dir: Arc<TempDir>,
}

/// A store, with its counters and faults.
#[derive(Clone)]
struct Store {
    memory: Arc<MemoryStore>,
    faults: Arc<FaultStore>,
    counting: Arc<CountingStore>,
    /// How long its clients wait.
    patience: Duration,
    /// Requests of a client at once.
    places: usize,
}

impl Store {
    fn new() -> Store {
        let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
        let faults = FaultStore::new(Arc::clone(&memory) as _, 1);
        let counting = CountingStore::new(Arc::clone(&faults) as _);
        Store { memory, faults, counting, patience: Duration::from_millis(1500), places: 32 }
    }

    fn machine(&self) -> Machine {
        self.machine_with(options())
    }

    fn machine_with(&self, options: ChunkOptions) -> Machine {
        self.machine_at(Arc::new(TempDir::new().unwrap()), options)
    }

    fn machine_at(&self, dir: Arc<TempDir>, options: ChunkOptions) -> Machine {
        self.machine_with_local(dir, options, &LocalOptions::default())
    }

    fn machine_with_local(
        &self,
        dir: Arc<TempDir>,
        options: ChunkOptions,
        local: &LocalOptions,
    ) -> Machine {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (deadline, concurrency_max) = (self.patience, self.places);
        let remote_options = RemoteOptions { deadline, concurrency_max, ..Default::default() };
        let store = Arc::clone(&self.counting) as _;
        let remote = Remote::from_store(store, &remote_options, Arc::clone(&clock)).unwrap();
        let local = Local::open(dir.path(), local, Arc::clone(&clock)).unwrap();
        let local = Arc::new(local);
        let keys = HashKeys::new(&[3; 32]);
        let chunks = Chunks::new(Arc::clone(&local), remote, keys, options, Arc::clone(&clock));
        Machine { store: self.clone(), chunks, local, clock, dir }
    }

    fn gets(&self) -> Vec<Call> {
        self.counting.log().into_iter().filter(|call| call.op == Op::Get).collect()
    }

    fn puts(&self) -> usize {
        self.counting.count(Op::Put, "")
    }
}

impl Machine {
    /// Enough time for everything that is not meant to fail.
    fn fetch(&self) -> Fetch {
        self.fetch_for(Duration::from_secs(20))
    }

    fn fetch_for(&self, time: Duration) -> Fetch {
        Fetch::Until(self.clock.monotonic() + time)
    }

    /// Adds and flushes; ids and places in order.
    fn store_all(&self, plains: &[Vec<u8>]) -> Vec<(ChunkId, PackSlot)> {
        let ids: Vec<_> = plains.iter().map(|p| self.chunks.add_chunk(p).unwrap()).collect();
        self.chunks.flush().unwrap();
        ids.iter().map(|id| (*id, self.chunks.slot_of(id).unwrap())).collect()
    }

    /// The same directory after the process has ended.
    fn restart(self) -> Machine {
        let Machine { store, chunks, local, dir, .. } = self;
        drop(chunks);
        local.close().unwrap();
        drop(local);
        store.machine_at(dir, options())
    }

    fn forget_local(&self) {
        self.local.evict_all().unwrap();
        self.chunks.forget_memory();
    }
}

/// As in production, but with packs that a test can fill.
fn options() -> ChunkOptions {
    let window_bytes_max = 4 * MIB as u64;
    ChunkOptions { pack_bytes: 4 * MIB, window_bytes_max, ..ChunkOptions::default() }
}

/// Bytes that don't compress, different for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn noises(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count as u64).map(|seed| noise(seed, len)).collect()
}

fn bytes_of(calls: &[Call]) -> u64 {
    calls.iter().map(|call| call.bytes).sum()
}
