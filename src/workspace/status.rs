//! The facts that `dormouse status` and the metrics show.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chunks::ChunkStats;

use super::active::Active;
use super::progress::{Phase, ProgressView};
use super::receipt::StoreCounts;
use super::resume::store_id;

/// What a seal costs beside the upload of its data, as a guess for the estimate.
const SEAL_SECS: f64 = 1.0;

/// A mounted workspace at one moment. Times are seconds, sizes bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The workspace.
    pub workspace: String,
    /// Id of its store (32 hexadecimal digits).
    pub store_id: String,
    /// `active`, `sealing`, `read-only`, `fenced`, or `failed` (the local disk).
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
    /// What was fetched before it was asked for, since the mount.
    pub ahead: AheadCounts,
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
    /// The disk's failure, after which changes and syncs are refused until the next mount.
    #[serde(default)]
    pub failure: Option<String>,
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

/// What was fetched before anybody asked for it, and what of that was read: bytes as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadCounts {
    /// Metadata fetched, ahead or not.
    pub tree_bytes: u64,
    /// Metadata and hot set that are still to come.
    pub left_bytes: u64,
    /// The hot set: what an earlier mount read first.
    pub hot_bytes: u64,
    /// What of it was read.
    pub hot_used_bytes: u64,
    /// Ahead of readers on their way through files.
    pub reader_bytes: u64,
    /// What of it was read.
    pub reader_used_bytes: u64,
    /// For those who go through everything.
    pub sweep_bytes: u64,
    /// What of it was read.
    pub sweep_used_bytes: u64,
    /// What lay beside something that was asked for, and came along.
    pub neighbour_bytes: u64,
    /// What of it was read.
    pub neighbour_used_bytes: u64,
}

impl AheadCounts {
    fn of(stats: &ChunkStats) -> AheadCounts {
        let ahead = stats.hot_bytes + stats.ahead_bytes + stats.sweep_bytes;
        let known = stats.chunk_wanted_bytes + ahead;
        AheadCounts {
            tree_bytes: stats.node_fetched_bytes,
            left_bytes: stats.prefetch_bytes_left,
            hot_bytes: stats.hot_bytes,
            hot_used_bytes: stats.hot_used_bytes,
            reader_bytes: stats.ahead_bytes,
            reader_used_bytes: stats.ahead_used_bytes,
            sweep_bytes: stats.sweep_bytes,
            sweep_used_bytes: stats.sweep_used_bytes,
            neighbour_bytes: stats.chunk_fetched_bytes.saturating_sub(known),
            neighbour_used_bytes: stats.neighbour_used_bytes,
        }
    }
}

impl Status {
    /// Facts about a mount, from memory and the local directory.
    pub(super) fn of(active: &Active) -> Status {
        let now = active.clock.monotonic();
        let mount = active.mount.lock();
        let age = now.saturating_sub(mount.renewed_at).as_secs();
        let lease = mount.head.lease.as_ref().filter(|_| active.options.writable());
        let snapshot = mount.head.snapshot.as_ref();
        let mut status = Status {
            workspace: active.options.name.to_string(),
            store_id: store_id(&active.store_id),
            read_only: !active.options.writable(),
            epoch: active.epoch.0,
            fenced: mount.fenced.as_ref().map(|f| active.fenced_error(f).to_string()),
            lease: lease.map(|lease| LeaseStatus {
                host: lease.host.clone(),
                ttl_secs: u64::from(lease.ttl_secs),
                age_secs: age,
            }),
            snapshot: snapshot.map(|snapshot| snapshot.id.to_string()),
            snapshot_created: mount.base_created.map(|created| created.secs),
            ..Status::default()
        };
        drop(mount);
        let counters = active.namespace.counters();
        (status.inodes, status.bytes) = (counters.inodes, counters.bytes);
        status.progress = active.progress.view();
        status.local = LocalStatus::of(active);
        status.state = status.name_state().to_owned();
        status.store = StoreCounts::of(&active.remote.stats());
        let chunks = active.chunks.stats();
        (status.chunks, status.ahead) = (ChunkCounts::of(&chunks), AheadCounts::of(&chunks));
        status.add_unsynced(active, now);
        status
    }

    fn name_state(&self) -> &'static str {
        match self.progress.phase {
            _ if self.fenced.is_some() => "fenced",
            _ if self.local.failure.is_some() => "failed",
            _ if self.read_only => "read-only",
            Phase::Idle | Phase::Done => "active",
            _ => "sealing",
        }
    }

    fn add_unsynced(&mut self, active: &Active, now: Duration) {
        let (bytes, files) = active.unsynced_bytes();
        let changed = active.has_changes().unwrap_or(true);
        let tally = active.tally.lock();
        let since = tally.changed_since.filter(|_| changed);
        self.unsynced = Unsynced {
            changed,
            bytes,
            files,
            age_secs: since.map_or(0, |since| now.saturating_sub(since).as_secs()),
            bytes_max: active.options.upkeep.unsynced_bytes_max,
            age_secs_max: active.options.upkeep.unsynced_age_max.as_secs(),
            throttled: tally.throttled,
        };
        self.seals = tally.seals.clone();
        self.seals.last_age_secs = tally.last_seal.map(|at| now.saturating_sub(at).as_secs());
        if tally.upload_rate > 0 {
            let seconds = bytes as f64 / tally.upload_rate as f64;
            self.upload_bytes_per_sec = Some(tally.upload_rate);
            self.hibernate_estimate_secs = Some(seconds + SEAL_SECS);
        }
    }
}

impl LocalStatus {
    fn of(active: &Active) -> LocalStatus {
        let dir = active.options.local_dir.display().to_string();
        let failure = active.local.failure();
        match active.local.usage() {
            Ok(usage) => LocalStatus {
                dir,
                failure,
                total: usage.total,
                budget: usage.budget,
                journal: usage.journal_bytes,
                cache: usage.cache_bytes,
                records: usage.rocksdb_bytes,
                disk_free: usage.disk_free,
            },
            Err(error) => {
                tracing::warn!(%error, "the local directory's size is unknown");
                LocalStatus { dir, failure, ..LocalStatus::default() }
            }
        }
    }
}

impl ChunkCounts {
    fn of(stats: &ChunkStats) -> ChunkCounts {
        ChunkCounts {
            memory_hits: stats.memory_hits,
            cache_hits: stats.cache_hits,
            chunks_fetched: stats.chunks_fetched,
            nodes_fetched: stats.nodes_fetched,
            bytes_fetched: stats.chunk_fetched_bytes + stats.node_fetched_bytes,
            chunks_added: stats.chunks_added,
            chunks_deduplicated: stats.chunks_deduplicated,
            bytes_uploaded: stats.data_pack_bytes_stored + stats.tree_pack_bytes_stored,
        }
    }
}
