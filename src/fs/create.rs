//! New inodes: `create`, `mknod`, `mkdir`, `symlink`, with all that they inherit.

use bytes::Bytes;

use super::acl::{ACCESS, Acl, DEFAULT};
use super::attr::{SETGID, Stamp};
use super::inode::{Content, Locked, Need};
use super::plan::Plan;
use super::request::{At, Caller, Entry, NewNode};
use super::{DIRECTORY_SIZE, Filesystem, FsError};
use crate::format::{EntryRecord, Key};
use crate::types::{Attr, Ino, Kind};

/// Longest symlink target, bytes (Linux `PATH_MAX` less the NUL).
const TARGET_LEN_MAX: usize = 4095;

/// What a new inode is given beside its name.
#[derive(Debug, Clone, Copy)]
struct New<'a> {
    node: NewNode,
    target: &'a [u8],
}

impl Filesystem {
    /// Creates a regular file. If the name exists: `Exists` when `exclusive`, else that entry.
    pub fn create(
        &self,
        caller: &Caller,
        at: At<'_>,
        mode: u32,
        exclusive: bool,
    ) -> Result<Entry, FsError> {
        let node = NewNode { kind: Kind::File, mode, rdev: 0 };
        match self.mknod(caller, at, node) {
            Err(FsError::Exists) if !exclusive => {
                match self.lookup(caller, at.directory, at.name) {
                    // Removed between the two: the next try creates it.
                    Err(FsError::NotFound) => self.mknod(caller, at, node),
                    found => found,
                }
            }
            made => made,
        }
    }

    /// Creates an empty directory.
    pub fn mkdir(&self, caller: &Caller, at: At<'_>, mode: u32) -> Result<Entry, FsError> {
        self.mknod(caller, at, NewNode { kind: Kind::Directory, mode, rdev: 0 })
    }

    /// Creates any inode but a symlink.
    pub fn mknod(&self, caller: &Caller, at: At<'_>, node: NewNode) -> Result<Entry, FsError> {
        if node.kind == Kind::Symlink {
            return Err(FsError::Invalid);
        }
        self.make(caller, at, New { node, target: &[] })
    }

    /// Creates a symlink.
    pub fn symlink(&self, caller: &Caller, at: At<'_>, target: &[u8]) -> Result<Entry, FsError> {
        if target.len() > TARGET_LEN_MAX {
            return Err(FsError::NameTooLong);
        }
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        let node = NewNode { kind: Kind::Symlink, mode: 0o777, rdev: 0 };
        self.make(caller, at, New { node, target })
    }

    fn make(&self, caller: &Caller, at: At<'_>, new: New<'_>) -> Result<Entry, FsError> {
        let entry_key = self.namespace.entry_key(at.directory, at.name);
        // Once per operation: a second try after `NotLocal` takes the same number.
        let mut reserved = None;
        self.mutate(caller.fetch, || {
            let directory = self.filled(at.directory, Need::DefaultAcl)?;
            let ino = match reserved {
                Some(ino) => ino,
                None => *reserved.insert(self.namespace.alloc_ino()?),
            };
            // A new number is greater than every other: the order of the locks is right.
            let cells = [directory, self.inodes.cell(ino)];
            let mut locked = Locked::write(&cells);
            require_live_directory(locked.attr(at.directory)?)?;
            if self.get(&entry_key)?.is_some() {
                return Err(FsError::Exists);
            }
            let mut plan = self.plan_for(caller, ino.0);
            let default_acl =
                self.plan_new(&locked, &mut plan, (caller, at.directory, ino), new)?;
            let record = EntryRecord { ino, kind: new.node.kind };
            plan.put_entry(entry_key.clone(), record);
            plan.stamp(&locked, at.directory, Stamp::Content)?;
            if new.node.kind == Kind::Directory {
                plan.attr(&locked, at.directory)?.nlink += 1;
            }
            self.commit(&mut locked, plan)?;
            let state = locked.state_mut(ino);
            match new.node.kind {
                Kind::File => state.content = Some(Content::default()),
                Kind::Directory => state.default_acl = Some(default_acl),
                _ => {}
            }
            self.lookups.add(ino);
            Ok(Entry { ino, attr: locked.attr(ino)?.clone() })
        })
    }

    /// Plans a new inode's records. Gives a new directory's default ACL.
    fn plan_new(
        &self,
        locked: &Locked<'_>,
        plan: &mut Plan,
        (caller, directory, ino): (&Caller, Ino, Ino),
        New { node, target }: New<'_>,
    ) -> Result<Option<Bytes>, FsError> {
        let parent = locked.attr(directory)?;
        let is_dir = node.kind == Kind::Directory;
        let is_link = node.kind == Kind::Symlink;
        let inherited = locked.state(directory).default_acl.clone().flatten();
        let inherited = inherited.filter(|_| !is_link);
        let mut mode = node.mode & 0o7777;
        match inherited.as_deref().and_then(Acl::parse) {
            Some(acl) => {
                let (granted, acl) = acl.inherit(mode);
                mode = granted;
                if !acl.is_plain() {
                    plan.put(Key::xattr(ino, ACCESS), acl.encode());
                }
            }
            None if is_link => {}
            None => mode &= !caller.umask,
        }
        let default_acl = inherited.filter(|_| is_dir);
        if let Some(bytes) = &default_acl {
            plan.put(Key::xattr(ino, DEFAULT), bytes.to_vec());
        }
        let mut gid = caller.gid;
        if parent.mode & SETGID != 0 {
            gid = parent.gid;
            mode |= if is_dir { SETGID } else { 0 };
        }
        let now = plan.now;
        plan.create(
            ino,
            Attr {
                kind: node.kind,
                mode,
                uid: caller.uid,
                gid,
                nlink: if is_dir { 2 } else { 1 },
                size: if is_dir { DIRECTORY_SIZE } else { target.len() as u64 },
                allocated: 0,
                rdev: node.rdev,
                atime: now,
                mtime: now,
                ctime: now,
                crtime: now,
                target: target.into(),
                parent: if is_dir { directory } else { Ino::META },
            },
        );
        Ok(default_acl)
    }

    /// Creates the root directory of a new workspace; one that exists is left as it is.
    pub fn make_root(&self, caller: &Caller, mode: u32) -> Result<(), FsError> {
        self.mutate(caller.fetch, || {
            if self.get(&Key::attr(Ino::ROOT))?.is_some() {
                return Ok(());
            }
            let mut plan = self.plan();
            let now = plan.now;
            plan.create(
                Ino::ROOT,
                Attr {
                    kind: Kind::Directory,
                    mode: mode & 0o7777,
                    uid: caller.uid,
                    gid: caller.gid,
                    nlink: 2,
                    size: DIRECTORY_SIZE,
                    allocated: 0,
                    rdev: 0,
                    atime: now,
                    mtime: now,
                    ctime: now,
                    crtime: now,
                    target: Box::default(),
                    parent: Ino::ROOT,
                },
            );
            let cells = [self.inodes.cell(Ino::ROOT)];
            self.commit(&mut Locked::write(&cells), plan)
        })
    }
}

/// A directory that was not removed.
pub(super) fn require_live_directory(attr: &Attr) -> Result<(), FsError> {
    match attr.kind {
        Kind::Directory if attr.nlink > 0 => Ok(()),
        Kind::Directory => Err(FsError::NotFound),
        _ => Err(FsError::NotDirectory),
    }
}
