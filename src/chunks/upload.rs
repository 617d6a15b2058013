//! Uploading closed data packs: a few threads, retries with backoff, and what follows an
//! acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::format::pack_key;
use crate::local::crash_point;
use crate::remote::{Durable, PutMode, RemoteError, Stored};

use super::ChunkError;
use super::data_packs::{DataPacks, Failure, FinishedPack, State, Waiting};

/// Pause after a failed upload (each of which has had the client's own retries); doubles with
/// every further failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The threads that upload. They are started by the first pack, so that a mount that only reads
/// has none.
#[derive(Debug)]
pub(super) struct Uploaders {
    packs: Arc<DataPacks>,
    threads_max: usize,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Uploaders {
    pub(super) fn new(packs: Arc<DataPacks>, threads_max: usize) -> Uploaders {
        Uploaders { packs, threads_max: threads_max.max(1), threads: Mutex::new(Vec::new()) }
    }

    /// Makes sure that at least one thread uploads.
    pub(super) fn start(&self) -> Result<(), ChunkError> {
        let mut threads = self.threads.lock();
        if !threads.is_empty() {
            return Ok(());
        }
        for number in 0..self.threads_max {
            let packs = Arc::clone(&self.packs);
            let thread = std::thread::Builder::new().name(format!("dormouse-upload-{number}"));
            match thread.spawn(move || run(&packs)) {
                Ok(thread) => threads.push(thread),
                Err(error) if threads.is_empty() => {
                    return Err(ChunkError::Unavailable(RemoteError::Unavailable {
                        key: "upload".to_owned(),
                        waited: Duration::ZERO,
                        cause: format!("no thread for it: {error}"),
                    }));
                }
                // Fewer threads do the same work.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Stops and joins the threads; one in the middle of an upload ends with it.
    pub(super) fn shutdown(&self) {
        self.packs.stop();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("an upload thread panicked");
            }
        }
    }
}

fn run(packs: &DataPacks) {
    while let Some((pack, round)) = packs.next_upload() {
        packs.upload(pack, round);
    }
}

impl DataPacks {
    /// Waits for a pack that may be uploaded; none: stop. The round is that of its attempt.
    fn next_upload(&self) -> Option<(Waiting, u64)> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            let now = self.below.clock.monotonic();
            let next = (0..state.queue.len()).find(|&at| state.may_upload(&state.queue[at], now));
            if let Some(pack) = next.and_then(|at| state.queue.remove(at)) {
                return Some((pack, state.round));
            }
            let pause = state.failure.as_ref().map(|failure| failure.retry_at.saturating_sub(now));
            match pause.filter(|_| !state.queue.is_empty()) {
                Some(pause) => {
                    self.changed.wait_for(&mut state, pause);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }

    fn upload(&self, pack: Waiting, round: u64) {
        let finished = pack.pack.clone();
        let attempt = Attempt { packs: self, round, pack: Some(pack) };
        let key = pack_key(&finished.id);
        crash_point("upload.begun");
        let put = self.below.remote.submit_put(&key, finished.bytes.clone(), PutMode::Any);
        match put.wait() {
            Ok(stored) => {
                crash_point("upload.stored");
                self.locate(&finished, stored);
                crash_point("upload.located");
                attempt.succeeded();
            }
            Err(error) => attempt.failed(error),
        }
    }

    /// What follows an acknowledgement: the frames can be fetched again from now on, so they go
    /// to the cache, and their places are known.
    fn locate(&self, pack: &FinishedPack, stored: Stored) {
        let slots: Vec<_> = pack.slots().collect();
        for (id, slot) in &slots {
            let (start, end) = (slot.offset as usize, (slot.offset + slot.len) as usize);
            self.below.cache(&id.0, &pack.bytes[start..end]);
        }
        if let Err(error) = self.below.local.known_put(&slots) {
            // Kept in memory all the same; forgetting it costs an upload.
            tracing::warn!(%error, "could not note where uploaded chunks are");
        }
        self.below.hot.note_written(slots.clone());
        let size = stored.size();
        let mut state = self.state.lock();
        for (id, slot) in slots {
            state.recent.put(id, slot);
            state.pending.remove(&id);
        }
        state.stored.push(Durable::new(pack.id, stored));
        drop(state);
        // Who sees the count finds the places.
        let counters = &self.below.counters;
        counters.data_packs_stored.add(1);
        counters.data_pack_bytes_stored.add(size);
    }
}

impl State {
    /// A failed pack is tried again when its pause is over, or at once for a flush that began
    /// after the failure.
    fn may_upload(&self, pack: &Waiting, now: Duration) -> bool {
        let rested = self.failure.as_ref().is_none_or(|failure| now >= failure.retry_at);
        rested || (self.flushes_waiting > 0 && pack.failed_in_round < self.round)
    }
}

/// A pack that is being uploaded. If the thread panics, the pack goes back into the queue.
struct Attempt<'a> {
    packs: &'a DataPacks,
    round: u64,
    pack: Option<Waiting>,
}

impl Attempt<'_> {
    fn succeeded(mut self) {
        let Some(pack) = self.pack.take() else { return };
        let mut state = self.packs.state.lock();
        state.outstanding.remove(&pack.number);
        state.waiting_bytes -= pack.frame_bytes;
        state.failure = None;
        drop(state);
        self.packs.changed.notify_all();
    }

    fn failed(mut self, cause: RemoteError) {
        self.give_back(cause);
    }

    fn give_back(&mut self, cause: RemoteError) {
        let Some(mut pack) = self.pack.take() else { return };
        self.packs.below.counters.upload_failures.add(1);
        pack.failed_in_round = self.round;
        let now = self.packs.below.clock.monotonic();
        let mut state = self.packs.state.lock();
        let streak = state.failure.as_ref().map_or(0, |failure| failure.streak);
        let pause = BACKOFF_FIRST.saturating_mul(1 << streak.min(16)).min(BACKOFF_MAX);
        let retry_at = now + pause;
        state.failure = Some(Failure { cause: cause.clone(), streak: streak + 1, retry_at });
        state.queue.push_front(pack);
        drop(state);
        self.packs.changed.notify_all();
        tracing::warn!(error = %cause, ?pause, "a pack was not uploaded, trying again later");
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.give_back(RemoteError::Unavailable {
            key: "upload".to_owned(),
            waited: Duration::ZERO,
            cause: "the upload broke off".to_owned(),
        });
    }
}
