//! The heart: a workspace's life from resume to hibernation. Lease and epoch, settling written
//! bytes into chunks, sealing snapshots, moving the head.
//!
//! Promises: whatever a head names is in the store before the head is moved; a snapshot holds a
//! state that existed; a writer whose epoch was passed can never move the head; nothing that was
//! acknowledged leaves the local directory before a sealed snapshot holds it. Must not know: that
//! there is a kernel, a mountpoint or a command line.

mod active;
mod background;
mod cutter;
mod error;
mod head;
mod inline;
mod known_head;
mod lease;
mod local_state;
mod options;
mod pace;
mod packs;
mod plan;
mod progress;
mod receipt;
mod resume;
mod seal;
mod settle;
mod status;
mod store;
mod stream;
mod verify;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

pub use error::WorkspaceError;
pub use options::{ResumeOptions, Upkeep};
pub use progress::{Phase, Progress, ProgressView};
pub use receipt::{Receipt, StoreCounts};
pub use status::{
    AheadCounts, ChunkCounts, LeaseStatus, LocalStatus, SealCounts, Status, Unsynced,
};
pub use store::{SnapshotInfo, Store, WorkspaceInfo};
pub use verify::{
    Affected, Depth, Problem, ProblemKind, Unreferenced, VerifiedWorkspace, VerifyCounts,
    VerifyOptions, VerifyReport, VerifyView, VerifyWatch,
};

use active::Active;
use background::Threads;
use seal::Reason;
use settle::Which;

use crate::fs::Filesystem;
use crate::remote::Remote;
use crate::types::Clock;

/// How often a watcher is shown the progress.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// First and longest wait between tries of a hibernation while the store is away.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Is shown the progress of a seal several times a second; `Break` stops the seal.
pub type Watch<'a> = dyn FnMut(&ProgressView) -> ControlFlow<()> + 'a;

/// A resumed workspace. Dropping it stops its threads and seals nothing; the local directory
/// keeps what was not sealed.
pub struct Workspace {
    active: Arc<Active>,
    /// Taken out when the workspace is closed.
    threads: Mutex<Option<Threads>>,
}

impl Workspace {
    /// Opens the workspace and takes its lease (unless read-only): two dependent round trips,
    /// GETs of head and format together, then one conditional PUT of the head.
    pub fn resume(
        remote: Arc<Remote>,
        clock: Arc<dyn Clock>,
        options: &ResumeOptions,
    ) -> Result<Workspace, WorkspaceError> {
        let active = Arc::new(resume::resume(remote, clock, options)?);
        if options.upkeep.prefetch {
            active.chunks.prefetch_trees(&active.mount.lock().base_packs);
        }
        let threads = match options.upkeep.threads {
            true => Some(
                Threads::start(&active)
                    .map_err(|cause| WorkspaceError::NoThreads { cause: cause.to_string() })?,
            ),
            false => {
                active.recover();
                None
            }
        };
        Ok(Workspace { active, threads: Mutex::new(threads) })
    }

    /// Its files.
    #[must_use]
    pub fn fs(&self) -> Arc<Filesystem> {
        Arc::clone(&self.active.fs)
    }

    /// How far the running seal is, and the way to stop it.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.active.progress)
    }

    /// Facts about the mount; makes no request.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::of(&self.active)
    }

    /// Seals a snapshot of the state at this moment while writers go on. If nothing changed, it
    /// makes no request.
    pub fn checkpoint(&self, watch: &mut Watch<'_>) -> Result<Receipt, WorkspaceError> {
        self.active.progress.allow();
        self.watched(watch, || self.active.seal(Reason::Checkpoint))
    }

    /// Cuts the files that are due into chunks, as the background does all the time; with `all`
    /// also those that were written just now. Returns how many files were cut.
    pub fn settle(&self, all: bool) -> Result<u64, WorkspaceError> {
        let which = if all { Which::All } else { Which::Quiet };
        self.active.settle_once(which, self.active.fetch())
    }

    /// Drops what the store has too from the local cache and from memory. What is not there yet
    /// is in the journal and stays. Returns the bytes of cache files that are gone.
    pub fn evict(&self) -> Result<u64, WorkspaceError> {
        let before = self.active.local.usage()?.cache_bytes;
        self.active.local.evict_all()?;
        self.active.chunks.forget_memory();
        Ok(before.saturating_sub(self.active.local.usage()?.cache_bytes))
    }

    /// Does once what the background does twice a second: slows writers, makes a checkpoint and
    /// renews the lease if they are due. For mounts without threads.
    pub fn upkeep(&self) -> Result<(), WorkspaceError> {
        self.active.check_writable()?;
        let now = self.active.clock.monotonic();
        self.active.note_changes(now);
        self.active.throttle();
        self.active.checkpoint_if_due(now)?;
        self.active.renew_if_due(now)
    }

    /// Seals everything, confirms each pack, gives the lease back and closes the workspace: from
    /// the call on the filesystem admits no change. On error it admits changes again and all is
    /// kept locally; it may be called again. `until` is a time of `Clock::monotonic`: while the
    /// store can't be reached, it is tried again until then, and an upload that takes longer is
    /// broken off; none: one try without end. Dirty pages that the kernel still has are not here
    /// yet: unmount, or `syncfs` the mount, before.
    pub fn hibernate(
        &self,
        until: Option<Duration>,
        watch: &mut Watch<'_>,
    ) -> Result<Receipt, WorkspaceError> {
        self.active.progress.allow();
        if !self.active.options.writable() {
            self.stop_threads();
            return Ok(self.active.receipt(Reason::Checkpoint));
        }
        let clock = &self.active.clock;
        let mut in_time = |view: &ProgressView| match until {
            Some(until) if clock.monotonic() >= until => ControlFlow::Break(()),
            _ => watch(view),
        };
        let result = self.watched(&mut in_time, || self.try_hibernate(until));
        match &result {
            Ok(_) => {
                self.active.fs.fence();
                self.stop_threads();
            }
            Err(_) => self.active.fs.thaw(),
        }
        result
    }

    fn try_hibernate(&self, until: Option<Duration>) -> Result<Receipt, WorkspaceError> {
        let active = &self.active;
        let mut wait = RETRY_WAIT.0;
        loop {
            let error = match self.hibernate_once() {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            active.fs.thaw();
            let now = active.clock.monotonic();
            let Some(left) = until.and_then(|until| until.checked_sub(now)) else {
                return Err(error);
            };
            tracing::warn!(%error, "hibernation is tried again");
            std::thread::sleep(wait.min(left));
            active.progress.check()?;
            wait = (wait * 2).min(RETRY_WAIT.1);
        }
    }

    fn hibernate_once(&self) -> Result<Receipt, WorkspaceError> {
        let active = &self.active;
        active.check_writable()?;
        active.fs.freeze();
        // Files that are open but unlinked end with it, and only when the head was moved: if the
        // store is away, their owners go on.
        active.seal(Reason::Hibernate)
    }

    /// Stops the threads and syncs the local directory; seals nothing and keeps the lease, which
    /// the same directory takes back at once. The filesystem is of no use afterwards.
    pub fn close(&self) -> Result<(), WorkspaceError> {
        self.active.closed.store(true, Ordering::Release);
        self.active.progress.cancel();
        // Whoever waits for an upload stops waiting.
        self.active.chunks.shutdown();
        self.stop_threads();
        self.active.local.close()?;
        Ok(())
    }

    fn stop_threads(&self) {
        let threads = self.threads.lock().take();
        drop(threads);
    }

    /// Runs `work` on a thread of its own while `watch` looks on.
    fn watched<T: Send>(
        &self,
        watch: &mut Watch<'_>,
        work: impl FnOnce() -> Result<T, WorkspaceError> + Send,
    ) -> Result<T, WorkspaceError> {
        let progress = &self.active.progress;
        std::thread::scope(|scope| {
            let (ended, end) = crossbeam_channel::bounded::<()>(0);
            let worker = scope.spawn(move || {
                let _ended = ended;
                work()
            });
            while end.recv_timeout(WATCH_INTERVAL)
                == Err(crossbeam_channel::RecvTimeoutError::Timeout)
            {
                if watch(&progress.view()).is_break() {
                    progress.cancel();
                }
            }
            _ = watch(&progress.view());
            progress.allow();
            worker.join().unwrap_or(Err(WorkspaceError::Stopped))
        })
    }
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace")
            .field("name", &self.active.options.name)
            .field("epoch", &self.active.epoch)
            .finish_non_exhaustive()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.active.closed.store(true, Ordering::Release);
        self.active.progress.cancel();
    }
}
