//! Writing a file's bytes: one append to the journal, data and records together.

use super::attr::{Stamp, extents, require_file};
use super::inode::{Locked, Need};
use super::request::Caller;
use super::{FILE_SIZE_MAX, Filesystem, FsError};
use crate::format::{Extent, Source};
use crate::types::Ino;

impl Filesystem {
    /// Writes all of `data` at `offset`. With `kill_priv`, setuid and setgid are taken off. May
    /// sleep for up to 100 ms where more is written than can be stored (`set_admission`), and
    /// waits for room until the deadline where none is left.
    pub fn write(
        &self,
        caller: &Caller,
        ino: Ino,
        offset: u64,
        data: &[u8],
        kill_priv: bool,
    ) -> Result<u32, FsError> {
        let written = u32::try_from(data.len()).map_err(|_| FsError::Invalid)?;
        let end = offset.checked_add(u64::from(written)).filter(|&end| end <= FILE_SIZE_MAX);
        let end = end.ok_or(FsError::TooLarge)?;
        let bytes = u64::from(written);
        self.with_fetch(caller.fetch, || self.gate.admit_data(bytes, caller.fetch, &self.room))?;
        self.mutate(caller.fetch, || {
            let cells = self.cells(&[ino], Need::Content)?;
            let mut locked = Locked::write(&cells);
            require_file(locked.attr(ino)?)?;
            if written == 0 {
                return Ok(0);
            }
            let mut plan = self.plan_for(caller, u64::from(written));
            if kill_priv {
                self.plan_drop_privileges(&locked, &mut plan, ino)?;
            }
            self.plan_drop_capability(&locked, &mut plan, ino);
            plan.stamp(&locked, ino, Stamp::Content)?;
            let attr = plan.attr(&locked, ino)?;
            attr.size = attr.size.max(end);
            let range = offset..end;
            let before = extents(&locked, ino)?.covered_bytes(range.clone());
            let covered = i64::from(written) - i64::try_from(before).unwrap_or(i64::MAX);
            let len = u64::from(written);
            self.commit_write(&mut locked, plan, (ino, covered), data, &mut |extents, at| {
                let extent = Extent { len, source: Source::Staged(at) };
                extents.replace(range.clone(), &[(offset, extent)])
            })?;
            Ok(written)
        })
    }

    /// Returns when all that was done to the file, and to its directory entries, survives a
    /// power cut. One journal holds everything, so the inode does not matter.
    pub fn fsync(&self, _caller: &Caller, _ino: Ino) -> Result<(), FsError> {
        Ok(self.local.sync()?)
    }
}
