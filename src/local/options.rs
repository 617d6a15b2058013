//! Limits of a local directory, and what it uses of them.

use crate::types::ConnectionId;

const MIB: u64 = 1 << 20;

/// Limits of one local directory. The defaults suit a sandbox of a few cores.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Bytes that everything in the directory may take: journal, cache and RocksDB together.
    /// The cache gives way first; then writes are refused with `Quota`.
    pub cache_bytes_max: u64,
    /// Bytes of records in memory before they go to RocksDB; up to four such tables can exist. An
    /// estimate: what the allocator adds is in it.
    pub memtable_bytes_max: u64,
    /// Bytes of a journal segment file before the next one is begun.
    pub segment_bytes_max: u64,
    /// Bytes of journal before its records go to RocksDB: what a recovery may have to replay.
    pub replay_bytes_max: u64,
    /// Free bytes of the disk that data writes leave alone, so that RocksDB and removals still
    /// work on a full disk. Writes below it get `Full`; records alone may use half of it.
    pub disk_reserve_bytes: u64,
    /// Bytes of RocksDB's block cache.
    pub block_cache_bytes_max: u64,
    /// The connection whose requests may come again, since the daemon that they were sent to has
    /// died; which of them that daemon had carried out is recovered. None: a new mount.
    pub connection: Option<ConnectionId>,
}

impl Default for LocalOptions {
    fn default() -> LocalOptions {
        LocalOptions {
            cache_bytes_max: 10 << 30,
            memtable_bytes_max: 12 * MIB,
            segment_bytes_max: 64 * MIB,
            replay_bytes_max: 256 * MIB,
            disk_reserve_bytes: 64 * MIB,
            block_cache_bytes_max: 24 * MIB,
            connection: None,
        }
    }
}

/// What a local directory uses, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Journal segments: staged bytes, live or not yet swept, and records.
    pub journal_bytes: u64,
    /// Staged bytes that a live extent referred to at the last sweep, plus all written since.
    pub staged_live_bytes: u64,
    /// Chunk cache files.
    pub cache_bytes: u64,
    /// RocksDB's tables.
    pub rocksdb_bytes: u64,
    /// All of these.
    pub total: u64,
    /// What they may come to ([`LocalOptions::cache_bytes_max`]).
    pub budget: u64,
    /// Free bytes of the disk for this process.
    pub disk_free: u64,
    /// How many of them data writes leave alone ([`LocalOptions::disk_reserve_bytes`]).
    pub disk_reserve: u64,
}
