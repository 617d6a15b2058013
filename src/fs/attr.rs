//! `getattr` and `setattr`: mode, owner, size, times.

use super::acl::{ACCESS, Acl};
use super::extents::ExtentMap;
use super::inode::{CAPABILITY, Locked, Need};
use super::plan::Plan;
use super::request::{Caller, SetAttr, SetTime};
use super::{FILE_SIZE_MAX, Filesystem, FsError};
use crate::format::Key;
use crate::types::{Attr, Ino, Kind, Time};

/// Which times an operation sets to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// ctime.
    Attributes,
    /// mtime and ctime.
    Content,
}

const SETUID: u32 = 0o4000;
pub(super) const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Most extents that one commit removes; a larger change is several commits, of which a crash may
/// leave the first ones.
const REMOVED_AT_ONCE_MAX: usize = 32 * 1024;

/// The mode of a file after something that must not leave it setuid: setuid goes, and setgid where
/// it means a group to run as (and not mandatory locking).
pub(super) fn without_privileges(mode: u32) -> u32 {
    let mode = mode & !SETUID;
    if mode & GROUP_EXECUTE != 0 { mode & !SETGID } else { mode }
}

impl Filesystem {
    /// Attributes of an inode.
    pub fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr, FsError> {
        self.read_only(caller.fetch, || {
            let cell = self.filled(ino, Need::Attr)?;
            let state = cell.state.read();
            state.attr().cloned()
        })
    }

    /// Changes attributes; gives them as they are then. A size change of a file of more than
    /// 32 Ki extents takes several commits: a crash may leave a part of it done.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        if set.size.is_some_and(|size| size > FILE_SIZE_MAX) {
            return Err(FsError::TooLarge);
        }
        self.mutate(caller.fetch, || {
            let need = if set.size.is_some() { Need::Content } else { Need::Attr };
            let cells = self.cells(&[ino], need)?;
            let mut locked = Locked::write(&cells);
            if let Some(size) = set.size {
                require_file(locked.attr(ino)?)?;
                let cleared = size..i64::MAX as u64;
                if takes_slices(&locked, ino, cleared.clone())? {
                    // What it lacks is found out before anything happens.
                    self.plan_setattr(&locked, &mut self.plan(), (caller, ino), set)?;
                    self.clear_in_slices(&mut locked, ino, cleared)?;
                }
            }
            let mut plan = self.plan_for(caller, 0);
            self.plan_setattr(&locked, &mut plan, (caller, ino), set)?;
            self.commit(&mut locked, plan)?;
            locked.attr(ino).cloned()
        })
    }

    fn plan_setattr(
        &self,
        locked: &Locked<'_>,
        plan: &mut Plan,
        (caller, ino): (&Caller, Ino),
        set: &SetAttr,
    ) -> Result<(), FsError> {
        let now = plan.now;
        let time = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => Time::new(time.secs, time.nanos),
        };
        if let Some(mode) = set.mode {
            plan.attr(locked, ino)?.mode = mode & 0o7777;
            if let Some(acl) = self.get(&Key::xattr(ino, ACCESS))?.as_deref().and_then(Acl::parse) {
                plan.put(Key::xattr(ino, ACCESS), acl.with_mode(mode).encode());
            }
        }
        if set.uid.is_some() || set.gid.is_some() {
            let attr = plan.attr(locked, ino)?;
            attr.uid = set.uid.unwrap_or(attr.uid);
            attr.gid = set.gid.unwrap_or(attr.gid);
            if !attr.is_dir() && set.mode.is_none() {
                attr.mode = without_privileges(attr.mode);
            }
            if self.get(&Key::xattr(ino, CAPABILITY))?.is_some() {
                plan.delete(Key::xattr(ino, CAPABILITY));
                plan.set_capability(ino, false);
            }
        }
        if let Some(size) = set.size {
            self.plan_resize(locked, plan, ino, size)?;
            self.plan_drop_capability(locked, plan, ino);
            if set.mode.is_none() && (set.kill_priv || caller.uid != 0) {
                self.plan_drop_privileges(locked, plan, ino)?;
            }
        }
        let attr = plan.attr(locked, ino)?;
        attr.atime = set.atime.map_or(attr.atime, time);
        attr.mtime = set.mtime.map_or(attr.mtime, time);
        attr.ctime = set.ctime.unwrap_or(now);
        Ok(())
    }

    /// Cuts or extends a file; new bytes are a hole.
    pub(super) fn plan_resize(
        &self,
        locked: &Locked<'_>,
        plan: &mut Plan,
        ino: Ino,
        size: u64,
    ) -> Result<(), FsError> {
        if size < plan.attr(locked, ino)?.size {
            let edit = extents(locked, ino)?.replace(size..i64::MAX as u64, &[]);
            plan.edit(locked, ino, edit)?;
        }
        let attr = plan.attr(locked, ino)?;
        attr.size = size;
        plan.stamp(locked, ino, Stamp::Content)
    }

    /// What a write by somebody without privileges takes off: setuid, setgid, capabilities.
    pub(super) fn plan_drop_privileges(
        &self,
        locked: &Locked<'_>,
        plan: &mut Plan,
        ino: Ino,
    ) -> Result<(), FsError> {
        let attr = plan.attr(locked, ino)?;
        attr.mode = without_privileges(attr.mode);
        Ok(())
    }

    /// A write takes file capabilities off, whoever writes.
    pub(super) fn plan_drop_capability(&self, locked: &Locked<'_>, plan: &mut Plan, ino: Ino) {
        if locked.state(ino).content.as_ref().is_some_and(|content| content.has_capability) {
            plan.delete(Key::xattr(ino, CAPABILITY));
            plan.set_capability(ino, false);
        }
    }

    /// Clears a range of a file in commits of bounded size until one more can clear the rest.
    pub(super) fn clear_in_slices(
        &self,
        locked: &mut Locked<'_>,
        ino: Ino,
        range: std::ops::Range<u64>,
    ) -> Result<(), FsError> {
        while takes_slices(locked, ino, range.clone())? {
            let map = extents(locked, ino)?;
            let stop = map.nth_in(range.clone(), REMOVED_AT_ONCE_MAX).unwrap_or(range.end);
            let edit = map.replace(range.start..stop, &[]);
            let mut plan = self.plan();
            plan.edit(locked, ino, edit)?;
            plan.stamp(locked, ino, Stamp::Content)?;
            self.commit(locked, plan)?;
        }
        Ok(())
    }
}

/// Whether clearing a range of a locked file takes more than one commit.
pub(super) fn takes_slices(
    locked: &Locked<'_>,
    ino: Ino,
    range: std::ops::Range<u64>,
) -> Result<bool, FsError> {
    Ok(extents(locked, ino)?.count_in(range) > REMOVED_AT_ONCE_MAX)
}

/// The extents of a locked file, which was filled with its content.
pub(super) fn extents<'l>(locked: &'l Locked<'_>, ino: Ino) -> Result<&'l ExtentMap, FsError> {
    let content = locked.state(ino).content.as_ref();
    // Filled before it was locked, so it can only be gone.
    Ok(&content.ok_or(FsError::NotFound)?.extents)
}

/// Only regular files have content.
pub(super) fn require_file(attr: &Attr) -> Result<(), FsError> {
    match attr.kind {
        Kind::File => Ok(()),
        Kind::Directory => Err(FsError::IsDirectory),
        Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
            Err(FsError::Invalid)
        }
    }
}
