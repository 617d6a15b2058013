//! The content-addressed store over the local disk and the object store: chunks of file content
//! and nodes of the sealed tree, by hash and place.
//!
//! Promises: every byte that is returned was verified by its keyed hash; one content is uploaded
//! once; concurrent misses of one range share one request; a chunk's place is told only after the
//! store acknowledged its pack; what could not be uploaded stays and is tried again; all memory
//! is bounded; no call waits for the store beyond its deadline, and with [`Fetch::LocalOnly`] none
//! waits at all. Must not know: files, directories, what a record means, heads and snapshots.

mod ahead;
mod confirm;
mod data_packs;
mod error;
mod fetch;
mod flight;
mod frames;
mod hot;
mod memory;
mod parts;
mod prefetch;
mod queue;
mod stats;
mod transfer;
mod tree_packs;
mod upload;
mod window;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::format::{HashKeys, Node, NodeRef, PackInfo, PackSlot, ZSTD_LEVEL};
use crate::local::Local;
use crate::remote::{Durable, Remote};
use crate::types::{ChunkId, Clock, PackId};

use data_packs::{DataPacks, PackLimits};
use fetch::{Below, Fetcher};
use hot::HotSet;
use prefetch::Prefetcher;
use queue::Scan;
use upload::Uploaders;

pub use error::ChunkError;
pub use fetch::Fetch;
pub use parts::ChunkPart;
pub use queue::Rank;
pub use stats::{ChunkStats, ReadAhead};
pub use tree_packs::{ClosedTree, FinishedTree, PackWriter};

const MIB: usize = 1 << 20;

/// Bytes fetched of a hot set whose chunks lie apart, for each byte that it may have.
pub const HOT_GAPS_SHARE: u64 = 4;

/// Limits of the layer.
#[derive(Debug, Clone)]
pub struct ChunkOptions {
    /// Bytes of decoded chunks in memory.
    pub memory_bytes_max: usize,
    /// Bytes of decoded tree nodes in memory.
    pub node_memory_bytes_max: usize,
    /// Bytes that the first miss in a place of a data pack fetches; at most 512 KiB.
    pub first_window_bytes: u64,
    /// Bytes that one request may fetch when misses come in sequence; at most 4 MiB. Who reads in
    /// sequence is fetched ahead of, so that it matters only where that does not keep up.
    pub window_bytes_max: u64,
    /// A data or tree pack is closed when it reaches this.
    pub pack_bytes: usize,
    /// How hard chunks are compressed, in the thread that adds them.
    pub zstd_level: i32,
    /// Data packs uploaded at once.
    pub upload_packs_at_once: usize,
    /// Bytes of tree packs that [`Chunks::prefetch_trees`] takes on in one call.
    pub prefetch_tree_bytes_max: u64,
    /// Bytes of the chunks read first that are remembered as the hot set; 0: none.
    pub hot_bytes_max: u64,
}

impl Default for ChunkOptions {
    fn default() -> ChunkOptions {
        ChunkOptions {
            memory_bytes_max: 32 * MIB,
            node_memory_bytes_max: 24 * MIB,
            first_window_bytes: 256 * 1024,
            window_bytes_max: MIB as u64,
            pack_bytes: 16 * MIB,
            zstd_level: ZSTD_LEVEL,
            upload_packs_at_once: 4,
            prefetch_tree_bytes_max: 1 << 30,
            hot_bytes_max: 64 << 20,
        }
    }
}

/// The chunk layer of one mount. Dropping it stops its threads, as [`Chunks::shutdown`] does.
#[derive(Debug)]
pub struct Chunks {
    fetcher: Arc<Fetcher>,
    packs: Arc<DataPacks>,
    uploaders: Uploaders,
    prefetcher: Prefetcher,
    options: ChunkOptions,
}

impl Chunks {
    /// Builds the layer; makes no request and starts no thread.
    #[must_use]
    pub fn new(
        local: Arc<Local>,
        remote: Arc<Remote>,
        keys: HashKeys,
        options: ChunkOptions,
        clock: Arc<dyn Clock>,
    ) -> Arc<Chunks> {
        let counters = Arc::default();
        let hot = Arc::new(HotSet::new(options.hot_bytes_max));
        let below = Below { local, remote, keys, clock, counters, hot };
        let fetcher = Arc::new(Fetcher::new(below.clone(), &options));
        // All of them in memory: one is open, or waits for its turn, while the others travel.
        let packs_at_once = options.upload_packs_at_once.max(2);
        let limits = PackLimits {
            target_bytes: options.pack_bytes,
            waiting_bytes_max: (options.pack_bytes.max(MIB) * packs_at_once) as u64,
            zstd_level: options.zstd_level,
        };
        let packs = Arc::new(DataPacks::new(below, limits));
        Arc::new(Chunks {
            uploaders: Uploaders::new(Arc::clone(&packs), options.upload_packs_at_once),
            prefetcher: Prefetcher::new(Arc::clone(&fetcher)),
            fetcher,
            packs,
            options,
        })
    }

    /// A chunk's plaintext, at most 256 KiB. From memory, else from the local cache, else from
    /// `slot` in the store, together with what lies behind it in the pack: a first miss makes
    /// one request of at most 512 KiB; misses in sequence fetch more at once.
    pub fn read(&self, id: &ChunkId, slot: &PackSlot, fetch: Fetch) -> Result<Bytes, ChunkError> {
        let mut plain = self.read_many(&[(*id, *slot)], fetch)?;
        // One is asked for, so one comes.
        plain.pop().ok_or(ChunkError::NotLocal)
    }

    /// Many chunks' plaintexts, in the order asked for. What has to come from the store comes in
    /// one round trip, near ranges of a pack in one request. All or an error.
    pub fn read_many(
        &self,
        wanted: &[(ChunkId, PackSlot)],
        fetch: Fetch,
    ) -> Result<Vec<Bytes>, ChunkError> {
        self.fetcher.read_many(wanted, fetch)
    }

    /// Reads parts of chunks to their places in `out`, otherwise as [`Chunks::read_many`]. Tells
    /// whether any of them was not local. After an error their places hold anything.
    pub fn read_parts(
        &self,
        parts: &[ChunkPart],
        out: &mut [u8],
        fetch: Fetch,
    ) -> Result<bool, ChunkError> {
        self.fetcher.read_parts(parts, out, fetch)
    }

    /// Fetches what readers will want into the local cache, in the background; `rank` says before
    /// what else. `scan` finds out what that is; it runs in a background thread, for a sweep only
    /// when nothing else may begin. False: too much is looked for already; `scan` will not run.
    #[must_use]
    pub fn prefetch_ahead(
        &self,
        scan: impl FnOnce() -> Vec<(ChunkId, PackSlot)> + Send + 'static,
        rank: Rank,
    ) -> bool {
        self.prefetcher.add_scan(Scan { find: Box::new(scan), rank })
    }

    /// A decoded tree node. A miss fetches its aligned 2 MiB window of the tree pack and caches
    /// every node in it.
    pub fn node(&self, node: &NodeRef, fetch: Fetch) -> Result<Arc<Node>, ChunkError> {
        self.fetcher.node(node, fetch)
    }

    /// A node's frame, to be put where it can be read without its pack.
    pub fn node_frame(&self, node: &NodeRef, fetch: Fetch) -> Result<Bytes, ChunkError> {
        self.fetcher.node_frame(node, fetch)
    }

    /// Takes in nodes that came by another way than their packs (in the head), without a request.
    /// Damaged ones are left out and fetched when they are touched. Returns how many were good.
    pub fn seed_nodes(&self, nodes: &[(NodeRef, Bytes)]) -> usize {
        nodes.iter().filter(|(node, frame)| self.fetcher.seed_node(node, frame)).count()
    }

    /// Whether a chunk can most likely be read without the store. The cache may still drop it,
    /// or find it damaged.
    #[must_use]
    pub fn is_local(&self, id: &ChunkId) -> bool {
        self.fetcher.is_local(id)
    }

    /// Takes in a chunk of at most 256 KiB ([`ChunkError::Invalid`] beyond) for upload. What is
    /// in the store or on its way there costs only a hash. Compresses in the caller's thread;
    /// full packs go to the store in the background. Nothing is durable before
    /// [`Chunks::flush`], and nothing here survives the process: the staging log does.
    ///
    /// Waits while as much as the limits allow is on its way; when the store is failing too,
    /// the answer is its error, the chunk was not taken, and it can be added again later.
    pub fn add_chunk(&self, plain: &[u8]) -> Result<ChunkId, ChunkError> {
        let id = self.packs.add(plain)?;
        if self.packs.has_outstanding() {
            self.uploaders.start()?;
        }
        Ok(id)
    }

    /// Closes the open pack and waits until the store has acknowledged every chunk added before
    /// this call: then [`Chunks::slot_of`] knows their places. Returns the packs acknowledged
    /// since the last flush that succeeded. On error everything stays pending; the next flush
    /// tries again at once. Without anything pending it makes no request.
    pub fn flush(&self) -> Result<Vec<Durable<PackId>>, ChunkError> {
        self.flush_while(&|| true)
    }

    /// As [`Chunks::flush`], but gives up with [`ChunkError::Closed`] soon after `go_on` says no.
    /// Everything stays pending then, too. `go_on` calls nothing of this layer.
    pub fn flush_while(
        &self,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Durable<PackId>>, ChunkError> {
        self.drain(go_on)?;
        Ok(self.packs.take_stored())
    }

    /// Takes nothing for stored any more but what the local disk knows
    /// (`Local::known_clear`): a pack that the store acknowledged is not there.
    pub fn forget_places(&self) {
        self.packs.forget_places();
    }

    /// Uploads what is pending, as [`Chunks::flush`] does, but leaves the packs to be told by the
    /// next flush: for making room in the middle of adding.
    pub fn make_room(&self) -> Result<(), ChunkError> {
        self.drain(&|| true)
    }

    fn drain(&self, go_on: &dyn Fn() -> bool) -> Result<(), ChunkError> {
        if self.packs.waiting_bytes() > 0 {
            self.uploaders.start()?;
        }
        self.packs.drain(go_on)
    }

    /// Where a chunk is in the store: only a place that the store acknowledged, or from which it
    /// was read. None: add it (again). After [`Chunks::flush`] it is known for all chunks added,
    /// and remembered on the local disk.
    #[must_use]
    pub fn slot_of(&self, id: &ChunkId) -> Option<PackSlot> {
        self.packs.slot_of(id)
    }

    /// Closes the open pack: every chunk added before this call has a place from then on
    /// ([`Chunks::place_of`]), and its upload begins. Waits for no upload.
    pub fn close_pack(&self) -> Result<(), ChunkError> {
        if self.packs.waiting_bytes() > 0 {
            self.uploaders.start()?;
        }
        self.packs.close()
    }

    /// As [`Chunks::slot_of`], but also a place that the store has not acknowledged yet. Nothing
    /// that becomes visible may name it before the [`Chunks::flush`] that follows has succeeded.
    #[must_use]
    pub fn place_of(&self, id: &ChunkId) -> Option<PackSlot> {
        self.packs.place_of(id)
    }

    /// A writer for the nodes of one seal.
    #[must_use]
    pub fn tree_writer(&self) -> PackWriter {
        PackWriter::new(Arc::clone(&self.fetcher), self.options.pack_bytes)
    }

    /// Fetches whole tree packs in the background, in this order, but for what was fetched
    /// before. At most half of what the cache may come to is filled like this.
    pub fn prefetch_trees(&self, packs: &[PackInfo]) {
        let bytes_max = self.options.prefetch_tree_bytes_max.min(self.cache_bytes_max() / 2);
        self.prefetcher.add_trees(packs, bytes_max);
    }

    /// Bytes that the local cache may come to, as things stand.
    #[must_use]
    pub fn cache_bytes_max(&self) -> u64 {
        self.fetcher.below.local.cache_bytes_max()
    }

    /// Bytes that the local cache has.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.fetcher.below.local.cache_bytes()
    }

    /// Fetches chunks into the local cache in the background, about in this order, up to
    /// `bytes_max` bytes of frames, after all tree packs; those that lie near each other in a pack
    /// in one request. What lies between is fetched too, to at most [`HOT_GAPS_SHARE`] times as
    /// much in all. At most a quarter of what the cache may come to is filled like this.
    pub fn prefetch_chunks(&self, list: &[(ChunkId, PackSlot)], bytes_max: u64) {
        let room = self.cache_bytes_max() / 4;
        let fetched_bytes_max = bytes_max.saturating_mul(HOT_GAPS_SHARE).min(room);
        self.prefetcher.add_hot(list, bytes_max.min(room), fetched_bytes_max);
    }

    /// The chunks read so far, first ones first, then those stored last, at most
    /// [`crate::format::HOT_SET_LEN_MAX`] of them and `hot_bytes_max` bytes: what the next resume
    /// should prefetch.
    #[must_use]
    pub fn hot_set(&self) -> Vec<(ChunkId, PackSlot)> {
        self.fetcher.below.hot.list()
    }

    /// The part of the hot set that was read.
    #[must_use]
    pub fn first_reads(&self) -> Vec<(ChunkId, PackSlot)> {
        self.fetcher.below.hot.first_reads()
    }

    /// Waits until there is nothing to prefetch; false: `timeout` came first.
    #[must_use]
    pub fn wait_for_prefetch(&self, timeout: Duration) -> bool {
        self.prefetcher.wait_idle(timeout)
    }

    /// Asks the store for each pack, one HEAD each, at once: size and version must be those that
    /// were acknowledged. [`ChunkError::Missing`] names the first that is not as it must be.
    pub fn confirm(&self, packs: &[Durable<PackId>]) -> Result<(), ChunkError> {
        let expected: Vec<_> = packs.iter().map(Into::into).collect();
        confirm::confirm(&self.fetcher.below, &expected)
    }

    /// As [`Chunks::confirm`], for packs whose upload this process has not seen: sizes only.
    pub fn confirm_sizes(&self, packs: &[PackInfo]) -> Result<(), ChunkError> {
        let expected: Vec<_> = packs.iter().map(Into::into).collect();
        confirm::confirm(&self.fetcher.below, &expected)
    }

    /// The store's hash keys.
    #[must_use]
    pub fn keys(&self) -> &HashKeys {
        &self.fetcher.below.keys
    }

    /// Drops what is in memory, not on the disk.
    pub fn forget_memory(&self) {
        self.fetcher.forget_memory();
    }

    /// What [`Chunks::prefetch_ahead`] has fetched up to now, and what of it was read.
    #[must_use]
    pub fn read_ahead(&self) -> ReadAhead {
        let counters = &self.fetcher.below.counters;
        ReadAhead {
            bytes: counters.ahead_bytes.get(),
            used_bytes: counters.ahead_used_bytes.get(),
            sweep_bytes: counters.sweep_bytes.get(),
            sweep_used_bytes: counters.sweep_used_bytes.get(),
        }
    }

    /// Totals since the layer was built.
    #[must_use]
    pub fn stats(&self) -> ChunkStats {
        ChunkStats {
            memory_bytes: self.fetcher.memory_bytes() as u64,
            upload_bytes_waiting: self.packs.waiting_bytes(),
            ..self.fetcher.below.counters.snapshot()
        }
    }

    /// Stops the background threads and joins them, after the uploads that they have under way;
    /// prefetch is broken off.
    /// Those who wait in `add_chunk` or `flush` get [`ChunkError::Closed`]; reads go on.
    pub fn shutdown(&self) {
        self.uploaders.shutdown();
        self.prefetcher.shutdown();
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.shutdown();
    }
}
