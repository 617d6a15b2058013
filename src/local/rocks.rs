//! RocksDB: applied overlay records, the cache's index, known chunk locations.
//!
//! ```text
//! family    key            value
//! default   "applied"      journal position: segment u64 | offset u64 | seq u64
//! default   "unanswered"   requests carried out up to there and perhaps not answered (`requests`)
//! overlay   record key     0 (tombstone) or 1 and the record's value
//! cache     frame id       cache file u64 | offset u32 | frame length u32
//! known     chunk id       pack id | offset u32 | length u32
//! ```
//! Its write-ahead log is off: the journal is ours. All families are flushed together
//! (`atomic_flush`), so that the applied position is never newer than the records, nor older.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions,
    InfoLogger, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions, properties,
};

use super::journal::Position;
use super::memtable::{Memtable, State};
use super::{LocalError, LocalOptions, Slot};

const APPLIED: &[u8] = b"applied";
const UNANSWERED: &[u8] = b"unanswered";
const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;

/// Open table files at once.
const OPEN_FILES_MAX: i32 = 256;
/// Threads that open a family's table files. RocksDB starts all of them for each family and each
/// time, also where there is no file; it opens 16 files at most.
const OPENING_THREADS: i32 = 1;
/// Lines of RocksDB's own log that ours gets of one database: on a full disk it repeats itself.
const LOG_LINES_MAX: u32 = 200;
/// Bits per key of the bloom filters: under 1 % of the absent keys cost a block read.
const BLOOM_BITS: f64 = 10.0;
const BLOCK_BYTES: usize = 16 << 10;
/// A table with this many deletes in a row of this many is compacted soon: after a trim, scans
/// would have to step over them.
const DELETES_WINDOW: usize = 1024;
const DELETES_TRIGGER: usize = 512;

/// The column families. [`Family::name`] is part of the directory's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Default,
    Overlay,
    Cache,
    Known,
}

impl Family {
    const ALL: [Family; 4] = [Family::Default, Family::Overlay, Family::Cache, Family::Known];

    fn name(self) -> &'static str {
        match self {
            Family::Default => "default",
            Family::Overlay => "overlay",
            Family::Cache => "cache",
            Family::Known => "known",
        }
    }
}

/// The database.
pub(super) struct Rocks {
    pub(super) db: DB,
    /// Of reads of one key: made once, as each read makes its own else.
    pub(super) reads: ReadOptions,
    unlogged: WriteOptions,
}

impl std::fmt::Debug for Rocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rocks(..)")
    }
}

impl Rocks {
    pub(super) fn open(dir: &Path, options: &LocalOptions) -> Result<Rocks, LocalError> {
        let block_cache_bytes = options.block_cache_bytes_max.min(usize::MAX as u64) as usize;
        let cache = rocksdb::Cache::new_lru_cache(block_cache_bytes);
        let families = Family::ALL.map(|family| {
            let options = family_options(family, options, &cache);
            ColumnFamilyDescriptor::new(family.name(), options)
        });
        let db = DB::open_cf_descriptors(&database_options(), dir, families).map_err(failed)?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        unlogged.set_memtable_insert_hint_per_batch(true);
        Ok(Rocks { db, reads: ReadOptions::default(), unlogged })
    }

    pub(super) fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the database")
    }

    /// Where the journal's records begin that are not here; none in a new database.
    pub(super) fn applied(&self) -> Result<Option<Position>, LocalError> {
        let Some(bytes) = self.db.get(APPLIED).map_err(failed)? else { return Ok(None) };
        let words: Option<[u8; 24]> = bytes.try_into().ok();
        let words = words.ok_or_else(|| LocalError::corrupt("the applied position"))?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| words[at + i]));
        Ok(Some(Position { segment: word(0), offset: word(8), seq: word(16) }))
    }

    /// The requests that were noted with the applied position.
    pub(super) fn unanswered(&self) -> Result<Vec<u8>, LocalError> {
        Ok(self.db.get(UNANSWERED).map_err(failed)?.unwrap_or_default())
    }

    /// Writes a table's records, its position, and which requests may have no answer yet, not yet
    /// durably.
    pub(super) fn apply(
        &self,
        table: &Memtable,
        upto: Position,
        unanswered: &[u8],
    ) -> Result<(), LocalError> {
        let overlay = self.family(Family::Overlay);
        let mut batch = WriteBatch::with_capacity_bytes(table.bytes());
        let mut encoded = Vec::new();
        for (key, state) in table.iter() {
            match state {
                State::Value(value) => {
                    encoded.clear();
                    encoded.push(VALUE);
                    encoded.extend_from_slice(value);
                    batch.put_cf(overlay, key.as_bytes(), &encoded);
                }
                State::Tombstone => batch.put_cf(overlay, key.as_bytes(), [TOMBSTONE]),
                State::Base => batch.delete_cf(overlay, key.as_bytes()),
            }
        }
        let mut position = [0; 24];
        position[..8].copy_from_slice(&upto.segment.to_le_bytes());
        position[8..16].copy_from_slice(&upto.offset.to_le_bytes());
        position[16..].copy_from_slice(&upto.seq.to_le_bytes());
        batch.put(APPLIED, position);
        batch.put(UNANSWERED, unanswered);
        self.write(batch)
    }

    /// Writes without a log: durable at the next [`Rocks::flush`], or a flush of RocksDB's own.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), LocalError> {
        self.db.write_opt(batch, &self.unlogged).map_err(failed)
    }

    /// Makes everything written durable, in all families at once.
    pub(super) fn flush(&self) -> Result<(), LocalError> {
        let families = Family::ALL.map(|family| self.family(family));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families.each_ref().map(|&family| family), &options).map_err(failed)
    }

    /// Bytes of the table files.
    pub(super) fn bytes(&self) -> Result<u64, LocalError> {
        let mut bytes = 0;
        for family in Family::ALL {
            let family = self.family(family);
            let size = self.db.property_int_value_cf(family, properties::TOTAL_SST_FILES_SIZE);
            bytes += size.map_err(failed)?.unwrap_or(0);
        }
        Ok(bytes)
    }
}

/// A slot's encoding in the overlay family, read.
pub(super) fn decode_slot(bytes: &[u8]) -> Result<Slot, LocalError> {
    match bytes.split_first() {
        Some((&VALUE, value)) => Ok(Slot::Value(bytes::Bytes::copy_from_slice(value))),
        Some((&TOMBSTONE, [])) => Ok(Slot::Tombstone),
        _ => Err(LocalError::corrupt("a record in RocksDB's overlay family")),
    }
}

/// The value within a slot's encoding; none for a tombstone.
pub(super) fn slot_value(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(&[VALUE])
}

/// Options of a scan of `from <= key < to`.
pub(super) fn scan_options(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}

/// RocksDB's error; a full disk is [`LocalError::Full`].
pub(super) fn failed(error: rocksdb::Error) -> LocalError {
    let text: &str = error.as_ref();
    let full = text.contains("No space left on device") || text.contains("Disk quota exceeded");
    if full { LocalError::Full } else { LocalError::Rocks(error) }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_file_opening_threads(OPENING_THREADS);
    options.set_info_logger(logger());
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options.set_avoid_unnecessary_blocking_io(true);
    options
}

/// Warnings and errors go to our log. There is no file: RocksDB would begin one at each open, with
/// every option of every family in it: a fifth of the time that an open takes.
fn logger() -> InfoLogger {
    let lines = AtomicU32::new(0);
    InfoLogger::new_callback_logger(LogLevel::Warn, move |level, text| {
        // What is said at each open comes as `Info`, whatever level was asked for.
        if !matches!(level, LogLevel::Warn | LogLevel::Error | LogLevel::Fatal) {
            return;
        }
        match lines.fetch_add(1, Ordering::Relaxed) {
            LOG_LINES_MAX => tracing::warn!("RocksDB said much already; no more of it is told"),
            line if line > LOG_LINES_MAX => {}
            _ => tracing::warn!(?level, "RocksDB: {}", text.trim_end()),
        }
    })
}

fn family_options(family: Family, limits: &LocalOptions, cache: &rocksdb::Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_bloom_filter(BLOOM_BITS, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_level_compaction_dynamic_level_bytes(true);
    match family {
        Family::Overlay => {
            // A table of ours arrives as one batch and is flushed as one file.
            let table = usize::try_from(limits.memtable_bytes_max).unwrap_or(usize::MAX);
            options.set_write_buffer_size(table.saturating_mul(2).max(8 << 20));
            options.set_compression_type(DBCompressionType::Lz4);
            options.add_compact_on_deletion_collector_factory(DELETES_WINDOW, DELETES_TRIGGER, 0.5);
        }
        // Hashes and numbers do not compress.
        Family::Default | Family::Cache | Family::Known => {
            options.set_write_buffer_size(4 << 20);
            options.set_compression_type(DBCompressionType::None);
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_begins_no_log_file() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            drop(Rocks::open(dir.path(), &LocalOptions::default()).unwrap());
        }
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().any(|name| name == "CURRENT"), "{names:?}");
        let logs = names.iter().filter(|name| name.to_string_lossy().starts_with("LOG"));
        assert_eq!(logs.count(), 0, "{names:?}");
    }
}
