//! `fallocate`: extend, punch holes, zero ranges.

use super::attr::{Stamp, extents, require_file};
use super::inode::{Locked, Need};
use super::request::{AllocateMode, Caller};
use super::{FILE_SIZE_MAX, Filesystem, FsError};
use crate::types::Ino;

impl Filesystem {
    /// Changes the allocation of a range. No space is reserved: on a log every write needs new
    /// space anyway. But a range that the quota could not hold is refused.
    pub fn fallocate(
        &self,
        caller: &Caller,
        ino: Ino,
        (offset, len): (u64, u64),
        mode: AllocateMode,
    ) -> Result<(), FsError> {
        let end = offset.checked_add(len).filter(|&end| end <= FILE_SIZE_MAX);
        let end = end.ok_or(FsError::TooLarge)?;
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let (clears, grows) = match mode {
            AllocateMode::Extend => (false, true),
            AllocateMode::KeepSize => (false, false),
            AllocateMode::PunchHole => (true, false),
            AllocateMode::ZeroRange { keep_size } => (true, !keep_size),
        };
        self.mutate(caller.fetch, || {
            let cells = self.cells(&[ino], Need::Content)?;
            let mut locked = Locked::write(&cells);
            require_file(locked.attr(ino)?)?;
            let covered = extents(&locked, ino)?.covered_bytes(offset..end);
            if !clears && !self.has_room_for(len - covered) {
                return Err(FsError::NoSpace);
            }
            if clears {
                self.clear_in_slices(&mut locked, ino, offset..end)?;
            }
            let mut plan = self.plan_for(caller, 0);
            if clears {
                let edit = extents(&locked, ino)?.replace(offset..end, &[]);
                plan.edit(&locked, ino, edit)?;
            }
            if caller.uid != 0 {
                self.plan_drop_privileges(&locked, &mut plan, ino)?;
            }
            self.plan_drop_capability(&locked, &mut plan, ino);
            let attr = plan.attr(&locked, ino)?;
            if grows {
                attr.size = attr.size.max(end);
            }
            plan.stamp(&locked, ino, Stamp::Content)?;
            self.commit(&mut locked, plan)
        })
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        let used = self.namespace.counters().bytes;
        let max = self.namespace.quota().bytes_max;
        max.is_none_or(|max| used.saturating_add(bytes) <= max)
    }
}
