//! How a workspace is to be mounted.

use std::path::PathBuf;
use std::time::Duration;

use crate::chunks::ChunkOptions;
use crate::fs::FsOptions;
use crate::local::LocalOptions;
use crate::types::{SnapshotId, WorkspaceName};

/// Settings of one mount. `ResumeOptions::new` gives the defaults of each.
#[derive(Debug, Clone)]
pub struct ResumeOptions {
    /// The workspace.
    pub name: WorkspaceName,
    /// Directory of its local state; made if absent.
    pub local_dir: PathBuf,
    /// What this machine calls itself in the lease: shown to others, compared by nobody.
    pub host: String,
    /// Make the workspace if the store has none of this name.
    pub create: bool,
    /// Time after which another machine may take the lease of a silent holder.
    pub lease_ttl: Duration,
    /// Take the lease whoever holds it.
    pub steal: bool,
    /// Mount the newest snapshot without a lease; nothing can be changed.
    pub read_only: bool,
    /// Mount this snapshot, read-only and without a lease.
    pub at: Option<SnapshotId>,
    /// Another daemon may take the mount over: what is known of the head is kept here for it.
    pub keeps_head: bool,
    /// Drop unsynced changes of the local directory if somebody else sealed others since.
    pub discard_local: bool,
    /// Owner and group of the root directory of a new workspace.
    pub root_owner: (u32, u32),
    /// Longest time that a foreground step may wait for the store.
    pub fetch_timeout: Duration,
    /// What runs by itself.
    pub upkeep: Upkeep,
    /// Limits of the local directory, its byte budget among them.
    pub local: LocalOptions,
    /// Limits of the chunk layer.
    pub chunks: ChunkOptions,
    /// Limits of the filesystem; `read_only` in it is set by the mount.
    pub fs: FsOptions,
}

/// Settings of what a mounted workspace does by itself.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Whether threads run at all; tests drive the steps by hand without them.
    pub threads: bool,
    /// Time between checkpoints, if something changed; zero: none.
    pub checkpoint_interval: Duration,
    /// A file is settled when it was not written for this long.
    pub quiet_period: Duration,
    /// Share of one core that background settling may use, 1 to 100.
    pub settle_cpu_percent: u32,
    /// A change reaches the store at the latest after this; zero: no cap.
    pub unsynced_age_max: Duration,
    /// Whether all metadata is fetched in the background after a resume.
    pub prefetch: bool,
    /// Bytes of the hot set (what was first read after the resume before, and written last before
    /// the hibernation) that are fetched in the background after the metadata, and remembered for
    /// the next resume; 0: none, content is fetched when it is first touched.
    pub hot_bytes_max: u64,
    /// Written bytes that may wait for the store; writers are slowed near it. Zero: no cap.
    pub unsynced_bytes_max: u64,
    /// Pieces of files that are cut and wait for the store, at most about so many, before a pass
    /// waits for it: some 350 bytes of memory each. A hibernation of more can't make what it cut
    /// first again if the store has lost a pack that it acknowledged meanwhile.
    pub drafts_max: usize,
}

impl ResumeOptions {
    /// The defaults for a workspace whose local state is in `local_dir`.
    #[must_use]
    pub fn new(name: WorkspaceName, local_dir: PathBuf) -> ResumeOptions {
        ResumeOptions {
            name,
            local_dir,
            host: String::from("unknown"),
            create: false,
            lease_ttl: Duration::from_secs(600),
            steal: false,
            read_only: false,
            at: None,
            keeps_head: false,
            discard_local: false,
            root_owner: (0, 0),
            fetch_timeout: Duration::from_secs(60),
            upkeep: Upkeep::default(),
            local: LocalOptions::default(),
            chunks: ChunkOptions::default(),
            fs: FsOptions::default(),
        }
    }

    /// Whether the mount can change anything.
    #[must_use]
    pub fn writable(&self) -> bool {
        !self.read_only && self.at.is_none()
    }
}

impl Default for Upkeep {
    fn default() -> Upkeep {
        Upkeep {
            threads: true,
            checkpoint_interval: Duration::from_secs(60),
            quiet_period: Duration::from_secs(2),
            settle_cpu_percent: 50,
            unsynced_age_max: Duration::from_secs(300),
            prefetch: true,
            hot_bytes_max: 64 << 20,
            unsynced_bytes_max: 0,
            drafts_max: 32 * 1024,
        }
    }
}
