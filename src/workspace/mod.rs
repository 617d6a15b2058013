//! The heart: a workspace's life from resume to hibernation. Lease and epoch, settling written
//! bytes into chunks, sealing snapshots, moving the head.
//!
//! Promises: whatever a head names is in the store before the head is moved; a snapshot holds a
//! state that existed; a writer whose epoch was passed can never move the head; nothing that was
//! acknowledged leaves the local directory before a sealed snapshot holds it. Must not know: that
//! there is a kernel, a mountpoint or a command line.

mod error;
mod options;
mod plan;
mod progress;
mod receipt;
mod status;
mod store;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

pub use error::WorkspaceError;
pub use options::{ResumeOptions, Upkeep};
pub use progress::{Phase, Progress, ProgressView};
pub use receipt::{Receipt, StoreCounts};
pub use status::{ChunkCounts, LeaseStatus, LocalStatus, SealCounts, Status, Unsynced};
pub use store::{SnapshotInfo, Store, WorkspaceInfo};

use crate::remote::Remote;
use crate::types::Clock;

/// Is shown the progress of a seal several times a second; `Break` stops the seal.
pub type Watch<'a> = dyn FnMut(&ProgressView) -> ControlFlow<()> + 'a;

/// A resumed workspace. Dropping it stops its threads and seals nothing; the local directory
/// keeps what was not sealed.
#[derive(Debug)]
pub struct Workspace {
    progress: Arc<Progress>,
}

impl Workspace {
    /// Opens the workspace and takes its lease (unless read-only): two dependent round trips,
    /// GETs of head and format together, then one conditional PUT of the head.
    pub fn resume(
        remote: Arc<Remote>,
        clock: Arc<dyn Clock>,
        options: &ResumeOptions,
    ) -> Result<Workspace, WorkspaceError> {
        let _ = (remote, clock, options);
        todo!()
    }

    /// How far the running seal is.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Facts about the mount; makes no request.
    #[must_use]
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Seals a snapshot of the state at this moment while writers go on. If nothing changed, it
    /// makes no request.
    pub fn checkpoint(&self, watch: &mut Watch<'_>) -> Result<Receipt, WorkspaceError> {
        let _ = watch;
        todo!()
    }

    /// Seals everything, confirms each pack, gives the lease back and closes the workspace: from
    /// the call on the filesystem admits no change. On error it admits changes again and all is
    /// kept locally; it may be called again. `until` is a time of `Clock::monotonic`: while the
    /// store can't be reached, it is tried again until then; none: one try. Dirty pages that the
    /// kernel still has are not here yet: unmount, or `syncfs` the mount, before.
    pub fn hibernate(
        &self,
        until: Option<Duration>,
        watch: &mut Watch<'_>,
    ) -> Result<Receipt, WorkspaceError> {
        let _ = (until, watch);
        todo!()
    }

    /// Stops the threads and syncs the local directory; seals nothing and keeps the lease, which
    /// the same directory takes back at once.
    pub fn close(&self) -> Result<(), WorkspaceError> {
        todo!()
    }
}
