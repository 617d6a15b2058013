//! `copy_file_range`: the target refers to the source's bytes; none are moved.

use super::attr::{Stamp, extents, require_file};
use super::inode::{Locked, Need};
use super::request::{Caller, CopyRange};
use super::{FILE_SIZE_MAX, Filesystem, FsError};

/// Most extents that one call copies; the caller goes on where it ended.
const EXTENTS_AT_ONCE_MAX: usize = 8 * 1024;

impl Filesystem {
    /// Copies a range between two files or within one, holes included. Gives the bytes copied:
    /// fewer than asked for where the source ends, or where the range has very many extents.
    pub fn copy_range(&self, caller: &Caller, copy: &CopyRange) -> Result<u64, FsError> {
        let CopyRange { source, source_offset, target, target_offset, len } = *copy;
        let ends = [source_offset, target_offset].map(|offset| offset.checked_add(len));
        let [Some(source_end), Some(target_end)] = ends else { return Err(FsError::TooLarge) };
        if target_end > FILE_SIZE_MAX {
            return Err(FsError::TooLarge);
        }
        if source == target && source_offset < target_end && target_offset < source_end {
            return Err(FsError::Invalid);
        }
        // Content that is shared is not written.
        self.with_fetch(caller.fetch, || self.gate.admit_data(0, caller.fetch, &self.room))?;
        self.mutate(caller.fetch, || {
            let cells = self.cells(&[source, target], Need::Content)?;
            // Both locks until the commit: a staged extent must not be replaced and its bytes
            // swept before the target's record refers to them.
            let mut locked = Locked::write(&cells);
            require_file(locked.attr(source)?)?;
            require_file(locked.attr(target)?)?;
            let from = extents(&locked, source)?;
            let mut stop = source_end.min(locked.attr(source)?.size);
            stop = from.nth_in(source_offset..stop, EXTENTS_AT_ONCE_MAX).unwrap_or(stop);
            if stop <= source_offset {
                return Ok(0);
            }
            let copied = stop - source_offset;
            let new: Vec<_> = from
                .overlapping(source_offset..stop)
                .map(|(offset, extent)| (offset - source_offset + target_offset, extent))
                .collect();
            let range = target_offset..target_offset + copied;
            let edit = extents(&locked, target)?.replace(range.clone(), &new);
            let mut plan = self.plan_for(caller, copied);
            plan.edit(&locked, target, edit)?;
            if caller.uid != 0 {
                self.plan_drop_privileges(&locked, &mut plan, target)?;
            }
            self.plan_drop_capability(&locked, &mut plan, target);
            let attr = plan.attr(&locked, target)?;
            attr.size = attr.size.max(range.end);
            plan.stamp(&locked, target, Stamp::Content)?;
            self.commit(&mut locked, plan)?;
            Ok(copied)
        })
    }
}
