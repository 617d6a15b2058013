//! What a seal did, for people and for machines.

use serde::{Deserialize, Serialize};

use crate::remote::RemoteStats;

/// Result of a checkpoint or a hibernation. Everything it names is in the store, durably.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The workspace.
    pub workspace: String,
    /// Newest snapshot (64 hexadecimal digits); none in a workspace never sealed.
    pub snapshot: Option<String>,
    /// Whether this seal made that snapshot; false: nothing had changed since the one before.
    pub changed: bool,
    /// `hibernate` or `checkpoint`.
    pub reason: String,
    /// When the snapshot was sealed, by this machine's clock: seconds since 1970.
    pub created: i64,
    /// Epoch of the writer.
    pub epoch: u64,
    /// Whether the lease was given back.
    pub released: bool,
    /// Files, directories and other inodes in the snapshot.
    pub inodes: u64,
    /// Sum of their sizes, bytes.
    pub bytes: u64,
    /// Data packs of this seal.
    pub data_packs: u64,
    /// Tree packs of this seal.
    pub tree_packs: u64,
    /// Bytes of both.
    pub bytes_uploaded: u64,
    /// Chunks made since the mount.
    pub chunks_added: u64,
    /// Chunks that the store had already, since the mount.
    pub chunks_deduplicated: u64,
    /// Leaves of the tree that were rewritten.
    pub leaves_written: u64,
    /// Packs whose presence and size were asked of the store again before the head was moved.
    pub packs_confirmed: u64,
    /// Seconds from the call to the answer.
    pub seconds: f64,
    /// What the store was asked for since the mount.
    pub requests: StoreCounts,
}

/// Requests and bytes since the mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCounts {
    /// GET requests.
    pub gets: u64,
    /// PUT requests.
    pub puts: u64,
    /// HEAD requests.
    pub stats: u64,
    /// Object bytes received.
    pub bytes_in: u64,
    /// Object bytes sent.
    pub bytes_out: u64,
}

impl StoreCounts {
    /// The client's totals.
    pub(super) fn of(stats: &RemoteStats) -> StoreCounts {
        StoreCounts {
            gets: stats.gets,
            puts: stats.puts,
            stats: stats.stats,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
        }
    }
}
