//! What the layer did since it was built: for `status`, metrics, receipts and tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the start; `*_waiting` and `*_left` are as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ChunkStats {
    /// Chunks and nodes served from memory.
    pub memory_hits: u64,
    /// Chunks and nodes served from the cache on the local disk, verified.
    pub cache_hits: u64,
    /// Chunks and nodes asked for that had to come from the store.
    pub misses: u64,
    /// Frames in the cache on the local disk that failed their check and were fetched again.
    pub cache_corrupt: u64,
    /// Frames from the store that failed their check and were fetched again.
    pub fetched_corrupt: u64,
    /// Requests for pack ranges, prefetch included.
    pub fetch_requests: u64,
    /// Bytes of chunk frames that readers asked for and that were not local.
    pub chunk_wanted_bytes: u64,
    /// Bytes of data packs received, neighbours included.
    pub chunk_fetched_bytes: u64,
    /// Bytes of tree packs received.
    pub node_fetched_bytes: u64,
    /// Chunks whose frames were received, neighbours included.
    pub chunks_fetched: u64,
    /// Nodes whose frames were received, neighbours included.
    pub nodes_fetched: u64,
    /// Chunks given to `add_chunk`.
    pub chunks_added: u64,
    /// Plaintext bytes of these.
    pub added_bytes: u64,
    /// Those of them that were in the store or on their way to it.
    pub chunks_deduplicated: u64,
    /// Plaintext bytes of these.
    pub deduplicated_bytes: u64,
    /// Data packs that the store acknowledged.
    pub data_packs_stored: u64,
    /// Their bytes.
    pub data_pack_bytes_stored: u64,
    /// Tree packs that the store acknowledged.
    pub tree_packs_stored: u64,
    /// Their bytes.
    pub tree_pack_bytes_stored: u64,
    /// Uploads that failed and are or were tried again.
    pub upload_failures: u64,
    /// Bytes of data packs, open or closed, that the store has not acknowledged yet.
    pub upload_bytes_waiting: u64,
    /// Bytes that background prefetch still means to fetch.
    pub prefetch_bytes_left: u64,
    /// Bytes of chunk frames fetched ahead of readers.
    pub ahead_bytes: u64,
    /// Those of them that were read since.
    pub ahead_used_bytes: u64,
    /// Bytes of chunk frames fetched for readers who go through everything.
    pub sweep_bytes: u64,
    /// Those of them that were read since.
    pub sweep_used_bytes: u64,
    /// Bytes of chunk frames fetched because an earlier mount read them first.
    pub hot_bytes: u64,
    /// Those of them that were read since.
    pub hot_used_bytes: u64,
    /// Bytes of chunk frames that came along with others and were read since.
    pub neighbour_used_bytes: u64,
    /// Bytes of decoded chunks and nodes in memory.
    pub memory_bytes: u64,
}

/// Bytes of frames that were fetched ahead of readers, and those of them that were read since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadAhead {
    /// Fetched for readers on their way.
    pub bytes: u64,
    /// Those of them that were read.
    pub used_bytes: u64,
    /// Fetched for readers who go through everything.
    pub sweep_bytes: u64,
    /// Those of them that were read.
    pub sweep_used_bytes: u64,
}

/// A counter that many threads raise.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_len(&self, len: usize) {
        self.add(len as u64);
    }

    pub(super) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The counters behind [`ChunkStats`].
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            /// The totals now; what is measured elsewhere is for the caller to fill in.
            pub(super) fn snapshot(&self) -> ChunkStats {
                ChunkStats { $($name: self.$name.get(),)* ..ChunkStats::default() }
            }
        }
    };
}

counters!(
    memory_hits,
    cache_hits,
    misses,
    cache_corrupt,
    fetched_corrupt,
    fetch_requests,
    chunk_wanted_bytes,
    chunk_fetched_bytes,
    node_fetched_bytes,
    chunks_fetched,
    nodes_fetched,
    chunks_added,
    added_bytes,
    chunks_deduplicated,
    deduplicated_bytes,
    data_packs_stored,
    data_pack_bytes_stored,
    tree_packs_stored,
    tree_pack_bytes_stored,
    upload_failures,
    prefetch_bytes_left,
    ahead_bytes,
    ahead_used_bytes,
    sweep_bytes,
    sweep_used_bytes,
    hot_bytes,
    hot_used_bytes,
    neighbour_used_bytes,
);
