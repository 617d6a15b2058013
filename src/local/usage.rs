//! The budget and the disk's reserve: which writes may go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{LocalError, LocalOptions};
use crate::types::Clock;

/// The disk's free space is asked for again after this long.
const SAMPLE_AGE_MAX: Duration = Duration::from_millis(250);

/// Records alone (no data) may go over the budget by this part of it, so that a removal still
/// works when it is spent.
const RECORDS_ALLOWANCE: u64 = 8;

/// Limits of a directory, and the last look at the disk.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    budget: u64,
    reserve: u64,
    /// Free bytes when last asked, less what was written since.
    free: AtomicU64,
    /// When that was, in microseconds of the clock's monotonic time.
    sampled_micros: AtomicU64,
    /// RocksDB's bytes when last asked.
    pub(super) rocks_bytes: AtomicU64,
}

impl Space {
    pub(super) fn new(dir: &Path, options: &LocalOptions, clock: Arc<dyn Clock>) -> Space {
        Space {
            dir: dir.to_owned(),
            clock,
            budget: options.cache_bytes_max,
            reserve: options.disk_reserve_bytes,
            free: AtomicU64::new(0),
            sampled_micros: AtomicU64::new(u64::MAX),
            rocks_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    pub(super) fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Whether `len` bytes more may be written, of data or of records alone, when the journal
    /// has `journal` bytes.
    pub(super) fn admit(&self, len: u64, is_data: bool, journal: u64) -> Result<(), LocalError> {
        let dirty = journal + len + self.rocks_bytes.load(Ordering::Relaxed);
        let (budget, reserve) = match is_data {
            true => (self.budget, self.reserve),
            false => (self.budget + self.budget / RECORDS_ALLOWANCE, self.reserve / 2),
        };
        if dirty > budget {
            return Err(LocalError::Quota { dirty, budget: self.budget });
        }
        let free = self.free()?;
        if free < reserve.saturating_add(len) {
            return Err(LocalError::Full);
        }
        self.free.store(free - len, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes that the cache may come to, when it has `cache` now. What is not in the store goes
    /// first, and the disk's reserve.
    pub(super) fn cache_limit(&self, cache: u64, journal: u64) -> Result<u64, LocalError> {
        let dirty = journal + self.rocks_bytes.load(Ordering::Relaxed);
        let by_budget = self.budget.saturating_sub(dirty);
        let by_disk = (cache + self.free()?).saturating_sub(2 * self.reserve);
        Ok(by_budget.min(by_disk))
    }

    /// Free bytes of the disk, about: looked up again when the last look is old, or nearly used up.
    fn free(&self) -> Result<u64, LocalError> {
        let now = u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX);
        let free = self.free.load(Ordering::Relaxed);
        let sampled = self.sampled_micros.load(Ordering::Relaxed);
        let is_fresh = sampled <= now && u128::from(now - sampled) <= SAMPLE_AGE_MAX.as_micros();
        if is_fresh && free > 4 * self.reserve {
            return Ok(free);
        }
        let free = self.disk_free()?;
        self.free.store(free, Ordering::Relaxed);
        self.sampled_micros.store(now, Ordering::Relaxed);
        Ok(free)
    }

    /// Free bytes of the disk for this process, now.
    pub(super) fn disk_free(&self) -> Result<u64, LocalError> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|errno| LocalError::io("stat the disk of", &self.dir, errno.into()))?;
        #[allow(clippy::useless_conversion, reason = "the field types differ by platform")]
        let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
        Ok(blocks.saturating_mul(size))
    }
}
