//! `statfs`: how much there is and how much more fits.

use super::request::{Caller, StatFs};
use super::{Filesystem, FsError};
use crate::types::NAME_LEN_MAX;

const BLOCK_BYTES: u32 = 4096;

/// Free inodes shown where no quota limits them: numbers are 64-bit, but some programs add
/// counts in 32 bits.
const INODES_FREE: u64 = 1 << 31;

impl Filesystem {
    /// Used: what all files' extents cover. Free: what the quota leaves; without one, the disk
    /// space, less its reserve, and budget that new bytes can use before they are in the store.
    pub fn statfs(&self, _caller: &Caller) -> Result<StatFs, FsError> {
        let counters = self.namespace.counters();
        let quota = self.namespace.quota();
        let usage = self.local.usage()?;
        // The cache gives way to what is written; staged bytes do not.
        let evictable = usage.cache_bytes;
        let budget_left = usage.budget.saturating_sub(usage.total.saturating_sub(evictable));
        let on_disk = usage.disk_free.saturating_add(evictable);
        let mut free = budget_left.min(on_disk.saturating_sub(usage.disk_reserve));
        if let Some(max) = quota.bytes_max {
            free = free.min(max.saturating_sub(counters.bytes));
        }
        let inodes_free = match quota.inodes_max {
            Some(max) => max.saturating_sub(counters.inodes),
            None => INODES_FREE,
        };
        let block = u64::from(BLOCK_BYTES);
        let blocks_free = free / block;
        Ok(StatFs {
            block_bytes: BLOCK_BYTES,
            blocks: counters.bytes.div_ceil(block) + blocks_free,
            blocks_free,
            inodes: counters.inodes + inodes_free,
            inodes_free,
            name_len_max: NAME_LEN_MAX as u32,
        })
    }
}
