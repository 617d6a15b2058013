//! Reading: memory, then the cache on the local disk, then the store.
//!
//! Whatever is returned had its keyed hash compared on the way in: frames from the local cache
//! and from the store are both untrusted until opened; memory holds opened ones only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::format::{FrameKind, HashKeys, Node, NodeRef, PackSlot, decode_node, encode_frame};
use crate::local::Local;
use crate::remote::{Remote, RemoteError};
use crate::types::{ChunkId, Clock, NodeId, PackId};

use super::ahead::{Ahead, Traffic};
use super::flight::Flights;
use super::frames::{FrameId, open_frame};
use super::hot::HotSet;
use super::memory::ByteLru;
use super::stats::Counters;
use super::tree_packs::is_provisional;
use super::window::{WindowPlanner, is_chunk_slot};
use super::{ChunkError, ChunkOptions};

/// Most bytes of frames that one call has on its way at once; a longer list goes in rounds.
const FETCH_BYTES_AT_ONCE_MAX: u64 = 64 * 1024 * 1024;

/// Whether an operation may wait for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// No: what is not on this machine is [`ChunkError::NotLocal`], at once and without a
    /// request.
    LocalOnly,
    /// Yes, until the clock's `monotonic()` time is this. Waiting for somebody else's request
    /// counts.
    Until(Duration),
    /// Yes, each request for this long. For work of many steps that waits for other things in
    /// between, as a seal does for uploads: a deadline for all of it would pass meanwhile.
    Within(Duration),
}

impl Fetch {
    /// The deadline of a request that begins now, by `clock.monotonic()`; none: do not wait.
    #[must_use]
    pub fn deadline(self, clock: &dyn Clock) -> Option<Duration> {
        match self {
            Fetch::LocalOnly => None,
            Fetch::Until(deadline) => Some(deadline),
            Fetch::Within(wait) => Some(clock.monotonic() + wait),
        }
    }
}

/// The layers below, as every part of this layer needs them.
#[derive(Debug, Clone)]
pub(super) struct Below {
    pub(super) local: Arc<Local>,
    pub(super) remote: Arc<Remote>,
    pub(super) keys: HashKeys,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counters: Arc<Counters>,
    pub(super) hot: Arc<HotSet>,
}

impl Below {
    /// A frame from the local cache, opened; none where it is absent or damaged. Trouble with
    /// the cache is a miss: the store has everything that the cache has.
    pub(super) fn open_cached(&self, kind: FrameKind, id: &FrameId) -> Option<(Bytes, Vec<u8>)> {
        self.open_cached_with(id, |frame| {
            open_frame(&self.keys, kind, id, frame).map(|plain| (frame.clone(), plain))
        })
    }

    /// As [`Below::open_cached`], by `open`, which checks all of it.
    pub(super) fn open_cached_with<T>(
        &self,
        id: &FrameId,
        open: impl FnOnce(&Bytes) -> Result<T, String>,
    ) -> Option<T> {
        let frame = match self.local.cache_get(id) {
            Ok(frame) => frame?,
            Err(error) => {
                tracing::warn!(%error, "reading the chunk cache failed");
                return None;
            }
        };
        match open(&frame) {
            Ok(opened) => Some(opened),
            Err(cause) => {
                tracing::warn!(cause, "a frame in the chunk cache is damaged, dropping it");
                self.counters.cache_corrupt.add(1);
                self.uncache(id);
                None
            }
        }
    }

    /// Puts a frame into the local cache. Trouble is only told: it can be fetched again.
    pub(super) fn cache(&self, id: &FrameId, frame: &[u8]) {
        if let Err(error) = self.local.cache_put(id, frame) {
            tracing::debug!(%error, "could not cache a frame");
        }
    }

    /// Drops a damaged frame, so that the next one under its id takes its place.
    pub(super) fn uncache(&self, id: &FrameId) {
        if let Err(error) = self.local.cache_remove(id) {
            tracing::warn!(%error, "could not drop a damaged frame from the chunk cache");
        }
    }

    /// Whether the local cache has a frame (not whether it is intact).
    pub(super) fn is_cached(&self, id: &FrameId) -> bool {
        self.local.cache_has(id).unwrap_or(false)
    }
}

/// The reading half of the layer.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) below: Below,
    pub(super) flights: Arc<Flights>,
    pub(super) planner: WindowPlanner,
    pub(super) ahead: Ahead,
    pub(super) traffic: Traffic,
    chunks: ByteLru<ChunkId, Bytes>,
    // By pack too: a node's references to its own pack resolve to the pack it was read from.
    nodes: ByteLru<(NodeId, PackId), Arc<Node>>,
}

impl Fetcher {
    pub(super) fn new(below: Below, options: &ChunkOptions) -> Fetcher {
        Fetcher {
            below,
            flights: Arc::default(),
            planner: WindowPlanner::new(options.first_window_bytes, options.window_bytes_max),
            ahead: Ahead::default(),
            traffic: Traffic::default(),
            chunks: ByteLru::new(options.memory_bytes_max),
            nodes: ByteLru::new(options.node_memory_bytes_max),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.bytes() + self.nodes.bytes()
    }

    pub(super) fn forget_memory(&self) {
        self.chunks.clear();
        self.nodes.clear();
    }

    pub(super) fn is_local(&self, id: &ChunkId) -> bool {
        self.chunks.contains(id) || self.below.is_cached(&id.0)
    }

    /// Chunks' plaintexts, in the order asked for.
    pub(super) fn read_many(
        &self,
        wanted: &[(ChunkId, PackSlot)],
        fetch: Fetch,
    ) -> Result<Vec<Bytes>, ChunkError> {
        let found: Vec<Option<Bytes>> =
            wanted.iter().map(|(id, slot)| self.local_chunk(id, slot)).collect();
        let missing = wanted.iter().zip(&found).filter(|(_, found)| found.is_none());
        let missing: Vec<_> = missing.map(|(wanted, _)| *wanted).collect();
        let mut fetched = self.read_missing(&missing, fetch)?.into_iter();
        Ok(found.into_iter().filter_map(|plain| plain.or_else(|| fetched.next())).collect())
    }

    /// As [`Fetcher::read_many`], where none of them was local a moment ago.
    pub(super) fn read_missing(
        &self,
        wanted: &[(ChunkId, PackSlot)],
        fetch: Fetch,
    ) -> Result<Vec<Bytes>, ChunkError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = fetch.deadline(&*self.below.clock).ok_or(ChunkError::NotLocal)?;
        let mut plains = Vec::with_capacity(wanted.len());
        for round in rounds(wanted, |(_, slot)| u64::from(slot.len)) {
            self.read_round(round, deadline, &mut plains)?;
        }
        Ok(plains)
    }

    fn local_chunk(&self, id: &ChunkId, slot: &PackSlot) -> Option<Bytes> {
        if let Some(plain) = self.in_memory(id) {
            return Some(plain);
        }
        let (_, plain) = self.below.open_cached(FrameKind::Chunk, &id.0)?;
        self.note_cached(id);
        Some(self.remember_chunk(id, slot, plain))
    }

    pub(super) fn in_memory(&self, id: &ChunkId) -> Option<Bytes> {
        let plain = self.chunks.get(id)?;
        self.below.counters.memory_hits.add(1);
        Some(plain)
    }

    /// Notes that a chunk was read from the local cache.
    pub(super) fn note_cached(&self, id: &ChunkId) {
        self.below.counters.cache_hits.add(1);
        self.ahead.used(&id.0, &self.below.counters);
    }

    pub(super) fn remember_chunk(&self, id: &ChunkId, slot: &PackSlot, plain: Vec<u8>) -> Bytes {
        self.below.hot.note(id, slot);
        let plain = Bytes::from(plain);
        self.chunks.insert(*id, plain.clone(), plain.len());
        plain
    }

    fn read_round(
        &self,
        round: &[(ChunkId, PackSlot)],
        deadline: Duration,
        plains: &mut Vec<Bytes>,
    ) -> Result<(), ChunkError> {
        let list: Vec<_> = round.iter().map(|(id, slot)| (id.0, *slot)).collect();
        if let Some((id, slot)) = list.iter().find(|(_, slot)| !is_chunk_slot(slot)) {
            let (what, pack) = (format!("chunk {}", ChunkId(*id)), slot.pack);
            let cause = String::from("no frame can lie where its extent says");
            return Err(ChunkError::Corrupt { what, pack, cause });
        }
        let counters = &self.below.counters;
        counters.misses.add_len(list.len());
        counters.chunk_wanted_bytes.add(list.iter().map(|(_, slot)| u64::from(slot.len)).sum());
        let opened = self.fetch_opened(FrameKind::Chunk, &list, deadline);
        for ((id, slot), plain) in round.iter().zip(opened) {
            self.ahead.asked_for(&id.0, &self.below.counters);
            plains.push(self.remember_chunk(id, slot, plain?));
        }
        // They are in the store, as was just seen: a copy of them needs no upload.
        if let Err(error) = self.below.local.known_put(round) {
            tracing::debug!(%error, "could not note where chunks are");
        }
        Ok(())
    }

    /// One decoded node.
    pub(super) fn node(&self, node: &NodeRef, fetch: Fetch) -> Result<Arc<Node>, ChunkError> {
        let key = (node.id, node.slot.pack);
        if let Some(decoded) = self.nodes.get(&key) {
            self.below.counters.memory_hits.add(1);
            return Ok(decoded);
        }
        let plain = self.node_plain(node, fetch)?;
        self.remember_node(node, plain)
    }

    /// One node's frame: as cached, else made again from its plaintext.
    pub(super) fn node_frame(&self, node: &NodeRef, fetch: Fetch) -> Result<Bytes, ChunkError> {
        if let Some((frame, _)) = self.below.open_cached(FrameKind::Node, &node.id.0) {
            self.below.counters.cache_hits.add(1);
            return Ok(frame);
        }
        let plain = self.fetch_node(node, fetch)?;
        Ok(encode_frame(FrameKind::Node, &node.id.0, &plain).into())
    }

    /// Takes in a node that came by another way than its pack. False where it is damaged.
    pub(super) fn seed_node(&self, node: &NodeRef, frame: &[u8]) -> bool {
        let opened = open_frame(&self.below.keys, FrameKind::Node, &node.id.0, frame);
        let Ok(plain) = opened else { return false };
        self.below.cache(&node.id.0, frame);
        self.remember_node(node, plain).is_ok()
    }

    fn node_plain(&self, node: &NodeRef, fetch: Fetch) -> Result<Vec<u8>, ChunkError> {
        if let Some((_, plain)) = self.below.open_cached(FrameKind::Node, &node.id.0) {
            self.below.counters.cache_hits.add(1);
            return Ok(plain);
        }
        self.fetch_node(node, fetch)
    }

    fn fetch_node(&self, node: &NodeRef, fetch: Fetch) -> Result<Vec<u8>, ChunkError> {
        if is_provisional(&node.slot.pack) {
            return Err(ChunkError::NotLocal);
        }
        let deadline = fetch.deadline(&*self.below.clock).ok_or(ChunkError::NotLocal)?;
        self.below.counters.misses.add(1);
        let mut opened = self.fetch_opened(FrameKind::Node, &[(node.id.0, node.slot)], deadline);
        opened.pop().unwrap_or(Err(ChunkError::NotLocal))
    }

    fn remember_node(&self, node: &NodeRef, plain: Vec<u8>) -> Result<Arc<Node>, ChunkError> {
        let decoded = decode_node(plain.into(), node.slot.pack);
        let decoded = decoded.map_err(|error| ChunkError::Corrupt {
            what: format!("node {}", node.id),
            pack: node.slot.pack,
            cause: error.to_string(),
        })?;
        let bytes = decoded.memory_bytes();
        let decoded = Arc::new(decoded);
        self.nodes.insert((node.id, node.slot.pack), Arc::clone(&decoded), bytes);
        Ok(decoded)
    }

    /// Fetches frames and opens them; what does not open is fetched once more, by itself.
    /// One result per frame asked for, in order.
    fn fetch_opened(
        &self,
        kind: FrameKind,
        list: &[(FrameId, PackSlot)],
        deadline: Duration,
    ) -> Vec<Result<Vec<u8>, ChunkError>> {
        let fetched = self.fetch_frames(kind, list, deadline);
        let mut damaged = Vec::new();
        let mut results: Vec<_> = (list.iter().zip(fetched).enumerate())
            .map(|(index, (asked, frame))| {
                let opened = self.open_fetched(kind, asked, frame);
                if matches!(opened, Err(ChunkError::Corrupt { .. })) {
                    damaged.push(index);
                }
                opened
            })
            .collect();
        if damaged.is_empty() {
            return results;
        }
        self.below.counters.fetched_corrupt.add_len(damaged.len());
        for &index in &damaged {
            tracing::warn!(slot = ?list[index].1, "a fetched frame is damaged, fetching again");
            // Its neighbourhood was cached before it was opened.
            self.below.uncache(&list[index].0);
        }
        let again: Vec<PackSlot> = damaged.iter().map(|&index| list[index].1).collect();
        for (&index, frame) in damaged.iter().zip(self.fetch_exact(&again, deadline)) {
            if let Ok(frame) = &frame {
                self.below.cache(&list[index].0, frame);
            }
            results[index] = self.open_fetched(kind, &list[index], frame);
            if results[index].is_err() {
                self.below.uncache(&list[index].0);
            }
        }
        results
    }

    fn open_fetched(
        &self,
        kind: FrameKind,
        (id, slot): &(FrameId, PackSlot),
        frame: Result<Bytes, RemoteError>,
    ) -> Result<Vec<u8>, ChunkError> {
        let cause = match frame {
            Ok(frame) => match open_frame(&self.below.keys, kind, id, &frame) {
                Ok(plain) => return Ok(plain),
                Err(cause) => cause,
            },
            Err(RemoteError::Corrupt { cause, .. }) => cause,
            Err(RemoteError::Absent { key }) => {
                return Err(ChunkError::Missing {
                    pack: slot.pack,
                    cause: format!("there is no object {key}"),
                });
            }
            Err(error) => return Err(ChunkError::Unavailable(error)),
        };
        let what = match kind {
            FrameKind::Chunk => format!("chunk {}", ChunkId(*id)),
            FrameKind::Node => format!("node {}", NodeId(*id)),
        };
        Err(ChunkError::Corrupt { what, pack: slot.pack, cause })
    }
}

/// Cuts a list into runs that have at most [`FETCH_BYTES_AT_ONCE_MAX`] bytes each.
fn rounds<T>(list: &[T], len_of: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let (mut runs, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, item) in list.iter().enumerate() {
        let len = len_of(item);
        if bytes + len > FETCH_BYTES_AT_ONCE_MAX && at > start {
            runs.push(&list[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += len;
    }
    runs.push(&list[start..]);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_hold_everything_once_and_keep_their_bound() {
        let list: Vec<usize> = (0..1000).collect();
        let runs = rounds(&list, |_| 1 << 20);
        assert_eq!(runs.concat(), list);
        assert!(runs.iter().all(|run| run.len() == 64 || run.last() == Some(&999)));
    }
}
