//! Hard links and symlinks: `link`, `unlink`, `readlink`.

use super::attr::Stamp;
use super::create::require_live_directory;
use super::inode::{Locked, Need};
use super::request::{At, Caller, Entry};
use super::{Filesystem, FsError};
use crate::format::EntryRecord;
use crate::types::{Ino, Kind};

/// Most hard links of a file (ext4's limit).
pub const LINKS_MAX: u32 = 65_000;

impl Filesystem {
    /// Gives an inode another name. Its lookup count grows by one.
    pub fn link(&self, caller: &Caller, ino: Ino, at: At<'_>) -> Result<Entry, FsError> {
        let key = self.namespace.entry_key(at.directory, at.name);
        self.mutate(caller.fetch, || {
            let cells = self.cells(&[ino, at.directory], Need::Attr)?;
            let mut locked = Locked::write(&cells);
            require_live_directory(locked.attr(at.directory)?)?;
            let attr = locked.attr(ino)?;
            if attr.is_dir() {
                return Err(FsError::NotPermitted);
            }
            if self.get(&key)?.is_some() {
                return Err(FsError::Exists);
            }
            match attr.nlink {
                0 => return Err(FsError::NotFound),
                LINKS_MAX.. => return Err(FsError::TooManyLinks),
                _ => {}
            }
            let kind = attr.kind;
            let mut plan = self.plan_for(caller, ino.0);
            plan.attr(&locked, ino)?.nlink += 1;
            plan.stamp(&locked, ino, Stamp::Attributes)?;
            plan.stamp(&locked, at.directory, Stamp::Content)?;
            plan.put_entry(key.clone(), EntryRecord { ino, kind });
            self.commit(&mut locked, plan)?;
            self.lookups.add(ino);
            Ok(Entry { ino, attr: locked.attr(ino)?.clone() })
        })
    }

    /// Takes a name away from anything but a directory. The last name makes an orphan, which
    /// lives until its lookups are forgotten.
    pub fn unlink(&self, caller: &Caller, at: At<'_>) -> Result<(), FsError> {
        let key = self.namespace.entry_key(at.directory, at.name);
        let unlinked = self.mutate(caller.fetch, || {
            loop {
                let entry = self.require_entry(at)?;
                if entry.kind == Kind::Directory {
                    return Err(FsError::IsDirectory);
                }
                let cells = self.cells(&[at.directory, entry.ino], Need::Attr)?;
                let mut locked = Locked::write(&cells);
                if self.require_entry(at)? != entry {
                    continue;
                }
                let mut plan = self.plan_for(caller, 0);
                plan.delete(key.clone());
                plan.unlink(&locked, entry.ino)?;
                plan.stamp(&locked, at.directory, Stamp::Content)?;
                self.commit(&mut locked, plan)?;
                return Ok(entry.ino);
            }
        })?;
        self.reclaim_if_forgotten(unlinked);
        Ok(())
    }

    /// A symlink's target.
    pub fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>, FsError> {
        let attr = self.getattr(caller, ino)?;
        match attr.kind {
            Kind::Symlink => Ok(attr.target.into_vec()),
            _ => Err(FsError::Invalid),
        }
    }
}
