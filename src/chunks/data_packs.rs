//! Writing chunks: each content once, many to a pack, packs to the store in the background.
//!
//! A chunk's way: *claimed* by the thread that compresses it, *pending* once its frame is in the
//! open pack, *placed* once that is closed and so has its name, *located* once the store
//! acknowledged the pack. Dedup looks at all of them, so one content is uploaded once however
//! many threads bring it. Only located chunks are remembered on
//! the local disk; nothing else needs to be, because the staging log has the bytes.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::format::{
    CHUNK_LEN_MAX, FRAME_HEADER_LEN, FormatError, FrameKind, PackBuilder, PackIndexEntry, PackKind,
    PackSlot, encode_frame_at,
};
use crate::remote::{Durable, RemoteError};
use crate::types::{ChunkId, PackId};

use super::ChunkError;
use super::fetch::Below;

/// Locations kept in memory beside those on the local disk (some 140 bytes each).
const RECENT_LOCATIONS: NonZeroUsize = NonZeroUsize::new(64 * 1024).expect("not zero");

/// How often a flush that waits asks whether it should go on.
const GO_ON_INTERVAL: Duration = Duration::from_millis(100);

/// Bounds of the packs under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackLimits {
    /// A pack is closed when it reaches this.
    pub(super) target_bytes: usize,
    /// Most bytes of frames, open, queued and being uploaded, before adding waits.
    pub(super) waiting_bytes_max: u64,
    /// For chunks.
    pub(super) zstd_level: i32,
}

/// Packs under way to the store, shared by the threads that add chunks and those that upload.
///
/// Lock order: `state` alone; no call into another layer is made under it.
#[derive(Debug)]
pub(super) struct DataPacks {
    pub(super) below: Below,
    pub(super) limits: PackLimits,
    pub(super) state: Mutex<State>,
    /// Anything in `state` changed that somebody may wait for.
    pub(super) changed: Condvar,
}

/// A closed pack that the store has not acknowledged.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Packs are numbered as they close.
    pub(super) number: u64,
    pub(super) pack: FinishedPack,
    /// Bytes that it counts in `waiting_bytes`.
    pub(super) frame_bytes: u64,
    /// The flush round in which its last upload failed; 0: none has.
    pub(super) failed_in_round: u64,
}

/// A closed pack: its bytes and the name that they have.
#[derive(Debug, Clone)]
pub(super) struct FinishedPack {
    pub(super) id: PackId,
    pub(super) bytes: Bytes,
    pub(super) entries: Arc<[PackIndexEntry]>,
}

impl FinishedPack {
    /// Hashes a pack's bytes: milliseconds, so not under the lock.
    fn new(builder: PackBuilder) -> FinishedPack {
        let entries = builder.entries().into();
        let (id, bytes) = builder.finish();
        FinishedPack { id, bytes, entries }
    }

    /// The chunks in it with their places.
    pub(super) fn slots(&self) -> impl Iterator<Item = (ChunkId, PackSlot)> {
        self.entries.iter().map(|entry| {
            let slot = PackSlot { pack: self.id, offset: entry.offset, len: entry.len };
            (ChunkId(entry.id), slot)
        })
    }
}

/// A pack that was closed and gets its name now.
struct Closing {
    number: u64,
    builder: PackBuilder,
    frame_bytes: u64,
}

/// Why the last upload failed, and when the next one may begin by itself.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) cause: RemoteError,
    pub(super) streak: u32,
    pub(super) retry_at: Duration,
}

#[derive(Debug)]
pub(super) struct State {
    open: PackBuilder,
    open_bytes: u64,
    /// Being compressed by some thread.
    claimed: HashSet<ChunkId>,
    /// In the open pack or a closed one that is not acknowledged; where, once that has its name.
    pub(super) pending: HashMap<ChunkId, Option<PackSlot>>,
    /// Packs closed that have no name yet.
    closing: usize,
    /// Acknowledged lately.
    pub(super) recent: LruCache<ChunkId, PackSlot>,
    /// Closed packs that no thread uploads now. Bounded by `waiting_bytes_max`.
    pub(super) queue: VecDeque<Waiting>,
    /// Numbers of closed packs that are not acknowledged, in the queue or being uploaded.
    pub(super) outstanding: BTreeSet<u64>,
    next_number: u64,
    /// Bytes of frames that are not acknowledged, room reserved by claims included.
    pub(super) waiting_bytes: u64,
    pub(super) failure: Option<Failure>,
    /// Flushes so far; a flush retries what failed before it at once.
    pub(super) round: u64,
    pub(super) flushes_waiting: u32,
    /// Acknowledged since the last flush returned them.
    pub(super) stored: Vec<Durable<PackId>>,
    pub(super) stopping: bool,
}

impl DataPacks {
    pub(super) fn new(below: Below, limits: PackLimits) -> DataPacks {
        let state = State {
            open: PackBuilder::new(PackKind::Data),
            open_bytes: 0,
            claimed: HashSet::new(),
            pending: HashMap::new(),
            closing: 0,
            recent: LruCache::new(RECENT_LOCATIONS),
            queue: VecDeque::new(),
            outstanding: BTreeSet::new(),
            next_number: 1,
            waiting_bytes: 0,
            failure: None,
            round: 0,
            flushes_waiting: 0,
            stored: Vec::new(),
            stopping: false,
        };
        DataPacks { below, limits, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Takes in one chunk. See [`super::Chunks::add_chunk`].
    pub(super) fn add(&self, plain: &[u8]) -> Result<ChunkId, ChunkError> {
        if plain.len() > CHUNK_LEN_MAX {
            let [len, max] = [plain.len(), CHUNK_LEN_MAX].map(|len| len as u64);
            return Err(FormatError::TooLong { what: "chunk", len, max }.into());
        }
        let id = self.below.keys.chunk(plain);
        let counters = &self.below.counters;
        match self.claim(id)?.filter(|_| self.slot_of(&id).is_none()) {
            Some(claim) => self.add_claimed(plain, &claim)?,
            None => {
                counters.chunks_deduplicated.add(1);
                counters.deduplicated_bytes.add_len(plain.len());
            }
        }
        counters.chunks_added.add(1);
        counters.added_bytes.add_len(plain.len());
        Ok(id)
    }

    /// Compresses, outside of the lock, and puts the frame into the open pack.
    fn add_claimed(&self, plain: &[u8], claim: &Claim<'_>) -> Result<(), ChunkError> {
        let reserved = (plain.len() + FRAME_HEADER_LEN) as u64;
        self.reserve(reserved)?;
        let frame = encode_frame_at(self.limits.zstd_level, FrameKind::Chunk, &claim.id.0, plain);
        self.push(&frame, claim.id, reserved)
    }

    /// Claims a chunk for this thread; none: it is pending. Waits while another thread has it.
    fn claim(&self, id: ChunkId) -> Result<Option<Claim<'_>>, ChunkError> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return Err(ChunkError::Closed);
            }
            if state.pending.contains_key(&id) {
                return Ok(None);
            }
            if state.claimed.insert(id) {
                return Ok(Some(Claim { packs: self, id }));
            }
            self.changed.wait(&mut state);
        }
    }

    /// Where a chunk is in the store; none: not there, as far as is known here.
    pub(super) fn slot_of(&self, id: &ChunkId) -> Option<PackSlot> {
        let recent = {
            let mut state = self.state.lock();
            // Only what is nowhere is ever pending: no need to ask the disk.
            if state.pending.contains_key(id) {
                return None;
            }
            state.recent.get(id).copied()
        };
        recent.or_else(|| match self.below.local.known_get(id) {
            Ok(slot) => slot,
            Err(error) => {
                // Costs an upload at most.
                tracing::warn!(%error, "could not look up where a chunk is");
                None
            }
        })
    }

    /// Waits until `bytes` more may be pending. Fails at once when there is no room and the
    /// store is failing: what waits then only grows.
    fn reserve(&self, bytes: u64) -> Result<(), ChunkError> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return Err(ChunkError::Closed);
            }
            if state.waiting_bytes + bytes <= self.limits.waiting_bytes_max {
                state.waiting_bytes += bytes;
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(ChunkError::Unavailable(failure.cause.clone()));
            }
            self.changed.wait(&mut state);
        }
    }

    fn push(&self, frame: &[u8], id: ChunkId, reserved: u64) -> Result<(), ChunkError> {
        let mut state = self.state.lock();
        state.waiting_bytes -= reserved;
        state.open.push(frame)?;
        let len = frame.len() as u64;
        state.waiting_bytes += len;
        state.open_bytes += len;
        state.pending.insert(id, None);
        let is_full = state.open.len() >= self.limits.target_bytes;
        let closing = if is_full { state.close_open() } else { None };
        drop(state);
        self.enqueue(closing);
        Ok(())
    }

    /// Names a closed pack and puts it into the queue.
    fn enqueue(&self, closing: Option<Closing>) {
        if let Some(Closing { number, builder, frame_bytes }) = closing {
            let pack = FinishedPack::new(builder);
            let mut state = self.state.lock();
            for (id, slot) in pack.slots() {
                state.pending.insert(id, Some(slot));
            }
            state.closing -= 1;
            state.queue.push_back(Waiting { number, pack, frame_bytes, failed_in_round: 0 });
        }
        self.changed.notify_all();
    }

    /// Closes the open pack, so that every chunk added before has a place.
    pub(super) fn close(&self) -> Result<(), ChunkError> {
        let closing = self.state.lock().close_open();
        self.enqueue(closing);
        let mut state = self.state.lock();
        while state.closing > 0 {
            if state.stopping {
                return Err(ChunkError::Closed);
            }
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    /// Where a chunk is, or will be when its pack is acknowledged.
    pub(super) fn place_of(&self, id: &ChunkId) -> Option<PackSlot> {
        let pending = self.state.lock().pending.get(id).copied().flatten();
        pending.or_else(|| self.slot_of(id))
    }

    /// Closes the open pack and waits until every pack closed so far is acknowledged. On a
    /// failure everything stays pending, and the next flush tries again at once.
    /// Asks `go_on` now and then, and gives up with `Closed` when it says no.
    pub(super) fn drain(&self, go_on: &dyn Fn() -> bool) -> Result<(), ChunkError> {
        let mut state = self.state.lock();
        let closing = state.close_open();
        // Before the pack can be uploaded: a failure counts for this round.
        state.round += 1;
        let (round, end) = (state.round, state.next_number);
        state.flushes_waiting += 1;
        drop(state);
        self.enqueue(closing);
        let mut state = self.state.lock();
        let result = loop {
            if state.outstanding.range(..end).next().is_none() {
                break Ok(());
            }
            if let Some(cause) = state.failed_since(round, end) {
                break Err(ChunkError::Unavailable(cause));
            }
            if state.stopping || !go_on() {
                break Err(ChunkError::Closed);
            }
            self.changed.wait_for(&mut state, GO_ON_INTERVAL);
        };
        state.flushes_waiting -= 1;
        result
    }

    /// The packs acknowledged since the last call.
    pub(super) fn take_stored(&self) -> Vec<Durable<PackId>> {
        std::mem::take(&mut self.state.lock().stored)
    }

    /// Forgets where chunks of acknowledged packs are.
    pub(super) fn forget_places(&self) {
        self.state.lock().recent.clear();
    }

    /// Bytes of frames that the store has not acknowledged.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.state.lock().waiting_bytes
    }

    /// True when closed packs are not yet acknowledged: uploaders are needed.
    pub(super) fn has_outstanding(&self) -> bool {
        !self.state.lock().outstanding.is_empty()
    }

    /// Makes all who wait in here, and all uploaders, give up.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
    }
}

impl State {
    /// Takes the open pack, if there is anything in it: to be named and put into the queue.
    fn close_open(&mut self) -> Option<Closing> {
        if self.open.is_empty() {
            return None;
        }
        let builder = std::mem::replace(&mut self.open, PackBuilder::new(PackKind::Data));
        let frame_bytes = std::mem::take(&mut self.open_bytes);
        let number = self.next_number;
        self.next_number += 1;
        self.outstanding.insert(number);
        self.closing += 1;
        Some(Closing { number, builder, frame_bytes })
    }

    /// Why a pack closed before `end` could not be uploaded in this round of flushing or later.
    fn failed_since(&self, round: u64, end: u64) -> Option<RemoteError> {
        let failed = |pack: &Waiting| pack.number < end && pack.failed_in_round >= round;
        if self.queue.iter().any(failed) {
            self.failure.as_ref().map(|failure| failure.cause.clone())
        } else {
            None
        }
    }
}

/// The right to compress one chunk. Dropping it lets the next thread look again.
struct Claim<'a> {
    packs: &'a DataPacks,
    id: ChunkId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.packs.state.lock().claimed.remove(&self.id);
        self.packs.changed.notify_all();
    }
}
