//! The public face of a local directory.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::bell::Bell;
use super::cache::Cache;
use super::cut::Cut;
use super::journal::{Journal, JournalEnds};
use super::lock::DirLock;
use super::overlay::{Overlay, Pins};
use super::rocks::Rocks;
use super::usage::Space;
use super::{Batch, LocalError, LocalOptions, Slot, Usage, crash_point, known, marker, sweep};
use crate::format::{Key, PackSlot, StagedAt};
use crate::types::{CacheId, ChunkId, Clock, RequestId};

/// A sweep begins a new segment if the current one has this part of a full one's data.
const SWEEP_ROLL_PART: u64 = 16;

/// Writes that find no room sweep at most this often.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What a commit's records take in the journal, for the budget: an estimate on the safe side.
const RECORD_BYTES_ASSUMED: u64 = 16 << 10;

/// An open local directory. All methods may be called from any thread.
pub struct Local {
    dir: PathBuf,
    overlay: Arc<Overlay>,
    cache: Cache,
    space: Space,
    cache_id: CacheId,
    pins: Pins,
    sweep_roll_bytes: u64,
    clock: Arc<dyn Clock>,
    /// Held by the sweep under way; when a write last had to sweep.
    sweeping: Mutex<Option<Duration>>,
    /// Staged bytes that were live at the last sweep, plus all since.
    staged_live: AtomicU64,
    applier: Mutex<Option<JoinHandle<()>>>,
    committed: Bell,
    /// Last: freed after everything else is closed.
    _lock: DirLock,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("cache_id", &self.cache_id).finish_non_exhaustive()
    }
}

impl Local {
    /// Opens or creates the directory, takes its lock and replays the journal. Everything that
    /// was recovered is on the disk when this returns.
    ///
    /// Errors: `Locked` by another process, `Foreign` or `Version` for what is not ours to touch,
    /// `Corrupt` where synced bytes are damaged.
    pub fn open(
        dir: &Path,
        options: &LocalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Local, LocalError> {
        fs::create_dir_all(dir).map_err(|error| LocalError::io("create", dir, error))?;
        marker::refuse_foreign(dir)?;
        let lock = DirLock::take(dir)?;
        let cache_id = marker::read_or_create(dir)?;
        let space = Space::new(dir, options, Arc::clone(&clock));
        let rocks = Rocks::open(&dir.join("rocksdb"), options)?;
        let (applied, segment_bytes) = (rocks.applied()?, options.segment_bytes_max);
        let journal = Journal::open(&dir.join("journal"), cache_id, segment_bytes, applied)?;
        let cache = Cache::open(&dir.join("cache"), options.cache_bytes_max)?;
        if !marker::take_clean(dir)? {
            cache.index_again(&rocks)?;
        }
        let staged_live = AtomicU64::new(journal.bytes());
        let overlay = Arc::new(Overlay::open(journal, rocks, options)?);
        let local = Local {
            dir: dir.to_owned(),
            cache,
            space,
            cache_id,
            pins: Pins::default(),
            sweep_roll_bytes: options.segment_bytes_max / SWEEP_ROLL_PART,
            clock,
            sweeping: Mutex::new(None),
            staged_live,
            applier: Mutex::new(Some(spawn_applier(dir, &overlay)?)),
            overlay,
            committed: Bell::default(),
            _lock: lock,
        };
        local.sample_rocks()?;
        crash_point("local-opened");
        Ok(local)
    }

    /// The directory's own random id, made once and kept.
    #[must_use]
    pub fn cache_id(&self) -> CacheId {
        self.cache_id
    }

    /// What the overlay says of `key`; none: ask the base.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slot>, LocalError> {
        self.overlay.get(key)
    }

    /// The first `limit` slots with `from <= key < to`, ascending, tombstones included. All of
    /// one moment, unless more than `limit` records in memory were dropped as clean.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Slot)>, LocalError> {
        self.overlay.range(from, to, limit)
    }

    /// Commits records atomically. When this returns, they are with the kernel: a killed process
    /// does not lose them; a power cut may, as part of a suffix, until [`Local::sync`].
    ///
    /// Errors: `Full`, `Quota` (records alone may go somewhat over it), `Poisoned`, `TooLarge`
    /// (256 MiB), `Closed`. After an error nothing of it is there. A batch for upkeep meets neither
    /// the budget nor the reserve.
    pub fn commit(&self, batch: Batch) -> Result<(), LocalError> {
        if !batch.is_upkeep() {
            self.admit(0)?;
        }
        let mut batch = Some(batch);
        self.overlay.commit(&[], &mut |_| batch.take().unwrap_or_default())?;
        self.committed.ring();
        Ok(())
    }

    /// Appends `data` and commits the records that refer to it, as one. `build` gets the place of
    /// the first byte; the others follow it. It runs at most once, under the commit lock: no
    /// calls into this layer from there. Durability and errors are [`Local::commit`]'s.
    pub fn commit_with_data(
        &self,
        data: &[&[u8]],
        build: &mut dyn FnMut(StagedAt) -> Batch,
    ) -> Result<(), LocalError> {
        let len = data.iter().map(|part| part.len() as u64).sum();
        self.admit(len)?;
        self.overlay.commit(data, build)?;
        self.staged_live.fetch_add(len, Ordering::Relaxed);
        self.committed.ring();
        Ok(())
    }

    /// What a request of the kernel is to be answered with that a commit has carried out, here or
    /// in the process before, and that is not known to be answered.
    #[must_use]
    pub fn carried_out(&self, request: &RequestId) -> Option<u64> {
        self.overlay.requests.result(request)
    }

    /// The request was answered: it does not come again.
    pub fn answered(&self, request: &RequestId) {
        self.overlay.requests.answered(request);
    }

    /// Forgets all requests carried out but these: no others come again.
    pub fn forget_requests_but(&self, those: &[RequestId]) {
        self.overlay.requests.forget_but(those);
    }

    /// Commits so far, of this process; and calls of [`Local::wake_waiters`].
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.committed.count()
    }

    /// Waits until there are more commits than `commits`, at most so long.
    pub fn wait_for_commit(&self, commits: u64, timeout: Duration) {
        self.committed.wait(commits, timeout);
    }

    /// Ends every [`Local::wait_for_commit`].
    pub fn wake_waiters(&self) {
        self.committed.ring();
    }

    /// Whether `len` bytes of data (0: records alone) may be written. Dead bytes go first, then
    /// the cache.
    fn admit(&self, len: u64) -> Result<(), LocalError> {
        let assumed = len + RECORD_BYTES_ASSUMED;
        let admitted = match self.space.admit(len, len > 0, self.overlay.journal.bytes()) {
            Err(LocalError::Full | LocalError::Quota { .. }) => {
                self.sweep_if_due()?;
                self.trim_cache(self.overlay.journal.bytes() + assumed)?;
                self.space.admit(len, len > 0, self.overlay.journal.bytes())
            }
            result => result,
        };
        admitted?;
        let after = self.overlay.journal.bytes() + assumed;
        let is_over = after + self.cache.bytes() > self.space.budget();
        if is_over { self.trim_cache(after) } else { Ok(()) }
    }

    /// Sweeps for a write that found no room, unless that was tried just now.
    fn sweep_if_due(&self) -> Result<(), LocalError> {
        let Some(mut swept_at) = self.sweeping.try_lock() else { return Ok(()) };
        let now = self.clock.monotonic();
        if swept_at.is_some_and(|at| now < at + SWEEP_PAUSE) {
            return Ok(());
        }
        let result = self.sweep_locked();
        // From the end on, so that writes get their turn however long it took.
        *swept_at = Some(self.clock.monotonic());
        match result {
            // RocksDB's disk is full too: that is what the write is told anyway.
            Ok(_) | Err(LocalError::Full) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn trim_cache(&self, journal: u64) -> Result<(), LocalError> {
        let limit = self.space.cache_limit(self.cache.bytes(), journal)?;
        self.cache.evict_to(&self.overlay.rocks, limit)
    }

    /// Takes each record whose slot still equals the expected one out of the overlay, so that the
    /// base answers for it. Journaled. Returns how many were.
    pub fn drop_clean(&self, expected: &[(Key, Slot)]) -> Result<usize, LocalError> {
        self.overlay.drop_clean(expected)
    }

    /// Returns when every commit that returned before this call survives a power cut. After an
    /// error (`Poisoned`) nothing more is promised of anything not synced before.
    pub fn sync(&self) -> Result<(), LocalError> {
        self.overlay.journal.sync()
    }

    /// The disk's failure after which every commit and sync is [`LocalError::Poisoned`]; none while
    /// writes are taken.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.overlay.journal.failure()
    }

    /// Where the journal ends on the disk, which is what a power cut leaves at least, and with the
    /// kernel. What RocksDB has lies before the first.
    #[must_use]
    pub fn journal_ends(&self) -> JournalEnds {
        self.overlay.journal.ends()
    }

    /// Rounds of `fdatasync` so far; concurrent callers of [`Local::sync`] share one.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        self.overlay.journal.sync_rounds()
    }

    /// Runs `f` with the overlay as of now, synced. Writers go on meanwhile.
    pub fn with_cut<R>(&self, f: impl FnOnce(&Cut<'_>) -> R) -> Result<R, LocalError> {
        let (view, pin) =
            self.overlay.view(|writer| Ok(self.pins.pin(writer.position().segment)))?;
        self.overlay.journal.sync_to(view.upto.seq)?;
        Ok(f(&Cut { view, _pin: pin }))
    }

    /// Fills `buf` with staged bytes from `at` on. Safe while the record that names them can't be
    /// replaced (inode lock) or a cut that holds it lives; else be ready for `NotStaged`.
    pub fn read_staged(&self, at: StagedAt, buf: &mut [u8]) -> Result<(), LocalError> {
        self.overlay.journal.read(at, buf)
    }

    /// Deletes journal segments that are applied and that no live extent or cut refers to.
    /// Returns the bytes freed. Reads the whole overlay and waits for RocksDB: for the background.
    pub fn sweep(&self) -> Result<u64, LocalError> {
        let _sweeping = self.sweeping.lock();
        self.sweep_locked()
    }

    fn sweep_locked(&self) -> Result<u64, LocalError> {
        let before = self.staged_live.load(Ordering::Relaxed);
        let swept = sweep::sweep(&self.overlay, &self.pins, self.sweep_roll_bytes)?;
        let since = self.staged_live.load(Ordering::Relaxed).saturating_sub(before);
        self.staged_live.store(swept.live + since, Ordering::Relaxed);
        self.sample_rocks()?;
        Ok(swept.freed)
    }

    fn sample_rocks(&self) -> Result<u64, LocalError> {
        let bytes = self.overlay.rocks.bytes()?;
        self.space.rocks_bytes.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// A cached frame, whole (its checksum was compared), or none.
    pub fn cache_get(&self, id: &[u8; 32]) -> Result<Option<Bytes>, LocalError> {
        self.cache.get(&self.overlay.rocks, id)
    }

    /// Caches a frame that can be fetched again: not durable, evicted when room is needed. A
    /// frame that is there already is left; one for which there is no room is not cached.
    pub fn cache_put(&self, id: &[u8; 32], frame: &[u8]) -> Result<(), LocalError> {
        let limit = self.space.cache_limit(self.cache.bytes(), self.overlay.journal.bytes())?;
        self.cache.put(&self.overlay.rocks, id, frame, limit)
    }

    /// Bytes that the cache may come to, as things stand: the budget's and the disk's rest. 0 where
    /// the disk does not tell.
    #[must_use]
    pub fn cache_bytes_max(&self) -> u64 {
        let journal = self.overlay.journal.bytes();
        self.space.cache_limit(self.cache.bytes(), journal).unwrap_or(0)
    }

    /// Bytes of the cache's files.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// Whether a frame is cached, without reading it.
    pub fn cache_has(&self, id: &[u8; 32]) -> Result<bool, LocalError> {
        self.cache.has(&self.overlay.rocks, id)
    }

    /// Forgets a cached frame: its checksum is right, but its content is not.
    pub fn cache_remove(&self, id: &[u8; 32]) -> Result<(), LocalError> {
        self.cache.remove(&self.overlay.rocks, id)
    }

    /// Evicts least recently used frames until the cache has at most this many bytes.
    pub fn evict_to(&self, bytes: u64) -> Result<(), LocalError> {
        self.cache.evict_to(&self.overlay.rocks, bytes)
    }

    /// Empties the cache.
    pub fn evict_all(&self) -> Result<(), LocalError> {
        self.cache.clear(&self.overlay.rocks)
    }

    /// Where a chunk is in the store, if that is known here.
    pub fn known_get(&self, id: &ChunkId) -> Result<Option<PackSlot>, LocalError> {
        known::get(&self.overlay.rocks, id)
    }

    /// Remembers where chunks are in the store. Not durable: forgetting costs an upload.
    pub fn known_put(&self, slots: &[(ChunkId, PackSlot)]) -> Result<(), LocalError> {
        known::put(&self.overlay.rocks, slots)
    }

    /// Forgets all locations (their packs may be gone).
    pub fn known_clear(&self) -> Result<(), LocalError> {
        known::clear(&self.overlay.rocks)
    }

    /// What the directory uses of its budget.
    pub fn usage(&self) -> Result<Usage, LocalError> {
        let (journal_bytes, cache_bytes) = (self.overlay.journal.bytes(), self.cache.bytes());
        let rocksdb_bytes = self.sample_rocks()?;
        Ok(Usage {
            journal_bytes,
            staged_live_bytes: self.staged_live.load(Ordering::Relaxed),
            cache_bytes,
            rocksdb_bytes,
            total: journal_bytes + cache_bytes + rocksdb_bytes,
            budget: self.space.budget(),
            disk_free: self.space.disk_free()?,
            disk_reserve: self.space.reserve(),
        })
    }

    /// Applies everything and stops: the next open is fast. Later calls that write return
    /// `Closed`; reads still work. Dropping without it is like a kill: nothing committed is lost.
    pub fn close(&self) -> Result<(), LocalError> {
        self.overlay.close();
        let applied = self.overlay.applier.wait_for_all();
        self.stop_applier();
        applied?;
        self.overlay.rocks.flush()?;
        crash_point("local-closed");
        marker::leave_clean(&self.dir)
    }

    fn stop_applier(&self) {
        self.overlay.applier.stop();
        if let Some(thread) = self.applier.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that moves records to RocksDB panicked");
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop_applier();
    }
}

fn spawn_applier(dir: &Path, overlay: &Arc<Overlay>) -> Result<JoinHandle<()>, LocalError> {
    let overlay = Arc::clone(overlay);
    std::thread::Builder::new()
        .name("local-apply".to_owned())
        .spawn(move || overlay.applier.run(&overlay))
        .map_err(|error| LocalError::io("start a thread for", dir, error))
}
