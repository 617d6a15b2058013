//! The facts that `dormouse status` and the metrics show.

use serde::{Deserialize, Serialize};

use super::progress::ProgressView;
use super::receipt::StoreCounts;

/// A mounted workspace at one moment. Times are seconds, sizes bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The workspace.
    pub workspace: String,
    /// Id of its store (32 hexadecimal digits).
    pub store_id: String,
    /// `active`, `sealing`, `read-only` or `fenced`.
    pub state: String,
    /// Mounted with `--read-only` or `--at`.
    pub read_only: bool,
    /// Writer's epoch; 0 for a read-only mount.
    pub epoch: u64,
    /// Set when another writer took over: what happened and what to do.
    pub fenced: Option<String>,
    /// The lease, as this mount last wrote it.
    pub lease: Option<LeaseStatus>,
    /// Snapshot that the mount lies on.
    pub snapshot: Option<String>,
    /// When that was sealed, by the sealer's clock: seconds since 1970.
    pub snapshot_created: Option<i64>,
    /// Inodes now.
    pub inodes: u64,
    /// Sum of file sizes now.
    pub bytes: u64,
    /// What is on this machine only.
    pub unsynced: Unsynced,
    /// How long a hibernation would take, by the upload rate measured so far; none until then.
    pub hibernate_estimate_secs: Option<f64>,
    /// Measured upload rate, bytes per second; none until something was uploaded.
    pub upload_bytes_per_sec: Option<u64>,
    /// The local directory.
    pub local: LocalStatus,
    /// Requests since the mount.
    pub store: StoreCounts,
    /// Seals and their outcomes since the mount.
    pub seals: SealCounts,
    /// The seal that runs now or ran last.
    pub progress: ProgressView,
    /// Chunks and nodes since the mount.
    pub chunks: ChunkCounts,
}

/// The lease, as last written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Holder's name for itself.
    pub host: String,
    /// Time to live after each renewal.
    pub ttl_secs: u64,
    /// Since the last renewal.
    pub age_secs: u64,
}

/// Changes that are not in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Unsynced {
    /// Whether anything changed since the last snapshot.
    pub changed: bool,
    /// File bytes in the staging log that are not in any pack.
    pub bytes: u64,
    /// Files that they belong to.
    pub files: u64,
    /// Since the oldest change that no snapshot holds.
    pub age_secs: u64,
    /// Cap on `bytes`; 0: none.
    pub bytes_max: u64,
    /// Cap on `age_secs`; 0: none.
    pub age_secs_max: u64,
    /// Writers are being slowed because `bytes` is near its cap.
    pub throttled: bool,
}

/// Bytes of the local directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// The directory.
    pub dir: String,
    /// Everything in it.
    pub total: u64,
    /// What it may grow to.
    pub budget: u64,
    /// The journal, with staged bytes.
    pub journal: u64,
    /// The chunk cache.
    pub cache: u64,
    /// Records.
    pub records: u64,
    /// Free bytes of the disk.
    pub disk_free: u64,
}

/// Seals since the mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SealCounts {
    /// Snapshots made.
    pub made: u64,
    /// Seals that failed and will be tried again.
    pub failed: u64,
    /// Since the last snapshot of this mount; none before the first.
    pub last_age_secs: Option<u64>,
    /// Why the last one failed; none after a success.
    pub last_error: Option<String>,
    /// Files settled in the background.
    pub files_settled: u64,
}

/// Content counters since the mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkCounts {
    /// Reads answered from memory.
    pub memory_hits: u64,
    /// Reads answered from the local disk.
    pub cache_hits: u64,
    /// Chunks fetched from the store.
    pub chunks_fetched: u64,
    /// Tree nodes fetched from the store.
    pub nodes_fetched: u64,
    /// Bytes fetched.
    pub bytes_fetched: u64,
    /// Chunks made.
    pub chunks_added: u64,
    /// Chunks that were in the store already.
    pub chunks_deduplicated: u64,
    /// Bytes uploaded in packs.
    pub bytes_uploaded: u64,
}
