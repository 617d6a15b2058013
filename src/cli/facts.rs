//! What a daemon says of its mount: `status --json`, and the metrics made of the same numbers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::{Facts, Sample, SampleKind};
use crate::workspace::Status;

/// `status --json`, one mount. Keys are stable: documented in `docs/cli.md`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MountFacts {
    /// Absolute mountpoint.
    pub mountpoint: PathBuf,
    /// The daemon's process number.
    pub pid: u32,
    /// The keeper's process number, where the mount outlives its daemon.
    #[serde(default)]
    pub keeper_pid: Option<u32>,
    /// How often another daemon took the mount over.
    #[serde(default)]
    pub adoptions: u32,
    /// Why the last upgrade did not take place.
    #[serde(default)]
    pub failed_upgrade: Option<String>,
    /// Version of the daemon.
    pub version: String,
    /// The store's address.
    pub store_url: String,
    /// The cache directory.
    pub cache_dir: PathBuf,
    /// How the kernel's requests come: `uring` or `dev`.
    #[serde(default)]
    pub transport: String,
    /// Since the mount.
    pub uptime_secs: u64,
    /// FUSE requests served since the mount.
    pub fuse_requests: u64,
    /// Serving threads that starved beside busy programs and were cured, since the mount.
    #[serde(default)]
    pub promotions: u64,
    /// The workspace's own facts, at the same level.
    #[serde(flatten)]
    pub status: Status,
}

/// The same facts as metrics.
#[must_use]
pub fn metrics(facts: &MountFacts) -> Facts {
    let status = &facts.status;
    let gauge = |name, help, value| Sample { name, help, kind: SampleKind::Gauge, value };
    let counter = |name, help, value| Sample { name, help, kind: SampleKind::Counter, value };
    let (local, store, chunks) = (&status.local, &status.store, &status.chunks);
    let ahead = &status.ahead;
    let samples = vec![
        gauge("uptime_seconds", "Time since the mount", facts.uptime_secs),
        counter("adoptions", "Times that another daemon took over", u64::from(facts.adoptions)),
        gauge("fenced", "1 after another writer took over", u64::from(status.fenced.is_some())),
        gauge("inodes", "Files, directories and other inodes", status.inodes),
        gauge("content_bytes", "Sum of file sizes", status.bytes),
        gauge("unsynced_bytes", "Written bytes not in the store", status.unsynced.bytes),
        gauge("unsynced_files", "Files they belong to", status.unsynced.files),
        gauge(
            "unsynced_age_seconds",
            "Age of the oldest unsealed change",
            status.unsynced.age_secs,
        ),
        gauge("local_failed", "1 after a failure of the disk", u64::from(local.failure.is_some())),
        gauge("local_bytes", "Everything in the cache directory", local.total),
        gauge("local_budget_bytes", "What that may come to", local.budget),
        gauge("local_journal_bytes", "The staging log", local.journal),
        gauge("local_cache_bytes", "The chunk cache", local.cache),
        gauge("disk_free_bytes", "Free bytes of the disk", local.disk_free),
        counter("fuse_requests", "Requests of the kernel", facts.fuse_requests),
        counter("promotions", "Serving threads that starved and were cured", facts.promotions),
        counter("store_gets", "GET requests to the store", store.gets),
        counter("store_puts", "PUT requests to the store", store.puts),
        counter("store_heads", "HEAD requests to the store", store.stats),
        counter("store_received_bytes", "Object bytes received", store.bytes_in),
        counter("store_sent_bytes", "Object bytes sent", store.bytes_out),
        counter("snapshots", "Snapshots sealed", status.seals.made),
        counter("seal_failures", "Seals that failed", status.seals.failed),
        counter("files_settled", "Files settled in the background", status.seals.files_settled),
        counter("chunk_memory_hits", "Reads answered from memory", chunks.memory_hits),
        counter("chunk_cache_hits", "Reads answered from the local disk", chunks.cache_hits),
        counter("chunks_fetched", "Chunks fetched from the store", chunks.chunks_fetched),
        counter("nodes_fetched", "Tree nodes fetched from the store", chunks.nodes_fetched),
        counter("chunks_added", "Chunks made", chunks.chunks_added),
        counter("chunks_deduplicated", "Chunks already there", chunks.chunks_deduplicated),
        gauge("prefetch_left_bytes", "Metadata and hot set still to come", ahead.left_bytes),
        counter("tree_received_bytes", "Metadata fetched", ahead.tree_bytes),
        counter("hot_received_bytes", "The hot set fetched", ahead.hot_bytes),
        counter("hot_used_bytes", "What of it was read", ahead.hot_used_bytes),
        counter(
            "ahead_received_bytes",
            "Fetched ahead of readers",
            ahead.reader_bytes + ahead.sweep_bytes,
        ),
        counter(
            "ahead_used_bytes",
            "What of it was read",
            ahead.reader_used_bytes + ahead.sweep_used_bytes,
        ),
        counter("neighbours_received_bytes", "Came along with others", ahead.neighbour_bytes),
        counter("neighbours_used_bytes", "What of it was read", ahead.neighbour_used_bytes),
    ];
    Facts { labels: vec![("workspace", status.workspace.clone())], samples }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_read_back_what_they_print_and_share_one_level() {
        let mut facts = MountFacts { pid: 7, ..MountFacts::default() };
        facts.status.workspace = "w".into();
        let value = serde_json::to_value(&facts).unwrap();
        assert_eq!(value["workspace"], "w");
        assert_eq!(value["pid"], 7);
        assert_eq!(serde_json::from_value::<MountFacts>(value).unwrap(), facts);
    }

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        let facts = metrics(&MountFacts::default());
        let mut names: Vec<_> = facts.samples.iter().map(|sample| sample.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
