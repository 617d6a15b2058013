//! Extended attributes: bytes by name. The kernel checks permissions, and the two that hold POSIX
//! ACLs; here the access ACL and the mode are kept in agreement.

use bytes::Bytes;

use super::acl::{ACCESS, Acl, DEFAULT};
use super::attr::{SETGID, Stamp};
use super::inode::{CAPABILITY, Locked, Need};
use super::plan::Plan;
use super::request::{Caller, XattrMode};
use super::{Filesystem, FsError};
use crate::format::{Key, KeyParts, Tag};
use crate::types::{Ino, Kind};

/// Longest value, bytes (Linux `XATTR_SIZE_MAX`).
const VALUE_LEN_MAX: usize = 64 * 1024;

/// Longest name, bytes (Linux `XATTR_NAME_MAX`).
const NAME_LEN_MAX: usize = 255;

/// Most bytes of one inode's names with a NUL each (Linux `XATTR_LIST_MAX`).
const LIST_LEN_MAX: usize = 64 * 1024;

/// Records read at once. Values can be long.
const RECORDS_AT_ONCE: usize = 64;

impl Filesystem {
    /// The value of an extended attribute.
    pub fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Bytes, FsError> {
        check_name(name)?;
        self.read_only(caller.fetch, || {
            self.filled(ino, Need::Attr)?;
            self.get(&Key::xattr(ino, name))?.ok_or(FsError::NoData)
        })
    }

    /// The names, each with a NUL behind it. `trusted.` ones are for the superuser only.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>, FsError> {
        self.read_only(caller.fetch, || {
            self.filled(ino, Need::Attr)?;
            let mut list = Vec::new();
            for name in self.xattr_names(ino)? {
                if caller.uid == 0 || !name.starts_with(b"trusted.") {
                    list.extend_from_slice(&name);
                    list.push(0);
                }
            }
            Ok(list)
        })
    }

    fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>, FsError> {
        let to = Key::tag_end(ino, Tag::Xattr);
        let mut from = Key::tag_start(ino, Tag::Xattr);
        let mut names = Vec::new();
        loop {
            let page = self.range(&from, &to, RECORDS_AT_ONCE)?;
            names.extend(page.iter().filter_map(|(key, _)| match key.parts() {
                Some(KeyParts::Xattr(_, name)) => Some(name.to_vec()),
                _ => None,
            }));
            match page.last() {
                Some((last, _)) if page.len() == RECORDS_AT_ONCE => from = last.successor(),
                _ => return Ok(names),
            }
        }
    }

    /// Sets an extended attribute.
    pub fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        (name, value): (&[u8], &[u8]),
        mode: XattrMode,
    ) -> Result<(), FsError> {
        check_name(name)?;
        if value.len() > VALUE_LEN_MAX {
            return Err(FsError::ValueTooLarge);
        }
        self.mutate(caller.fetch, || {
            let cells = self.cells(&[ino], need_of(name))?;
            let mut locked = Locked::write(&cells);
            check_holder(name, locked.attr(ino)?.kind)?;
            let key = Key::xattr(ino, name);
            let exists = self.get(&key)?.is_some();
            match mode {
                XattrMode::Create if exists => return Err(FsError::Exists),
                XattrMode::Replace if !exists => return Err(FsError::NoData),
                _ => {}
            }
            if !exists {
                let names = self.xattr_names(ino)?;
                let len: usize = names.iter().map(|name| name.len() + 1).sum();
                if len + name.len() + 1 > LIST_LEN_MAX {
                    return Err(FsError::NoSpace);
                }
            }
            let mut plan = self.plan_for(caller, 0);
            plan.stamp(&locked, ino, Stamp::Attributes)?;
            if name == ACCESS {
                self.plan_access_acl(&locked, &mut plan, (caller, ino), value)?;
            } else {
                plan.put(key, value.to_vec());
            }
            if name == DEFAULT {
                Acl::parse(value).ok_or(FsError::Invalid)?;
            }
            self.commit_xattr(&mut locked, plan, (ino, name), Some(value))
        })
    }

    /// An access ACL sets the permission bits, and is kept only where it says more than they do.
    fn plan_access_acl(
        &self,
        locked: &Locked<'_>,
        plan: &mut Plan,
        (caller, ino): (&Caller, Ino),
        value: &[u8],
    ) -> Result<(), FsError> {
        let acl = Acl::parse(value).ok_or(FsError::Invalid)?;
        let attr = plan.attr(locked, ino)?;
        attr.mode = attr.mode & !0o777 | acl.mode_bits();
        if caller.uid != 0 && caller.gid != attr.gid {
            attr.mode &= !SETGID;
        }
        match acl.is_plain() {
            true => plan.delete(Key::xattr(ino, ACCESS)),
            false => plan.put(Key::xattr(ino, ACCESS), value.to_vec()),
        }
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        check_name(name)?;
        self.mutate(caller.fetch, || {
            let cells = self.cells(&[ino], need_of(name))?;
            let mut locked = Locked::write(&cells);
            check_holder(name, locked.attr(ino)?.kind)?;
            let key = Key::xattr(ino, name);
            if self.get(&key)?.is_none() {
                return Err(FsError::NoData);
            }
            let mut plan = self.plan_for(caller, 0);
            plan.stamp(&locked, ino, Stamp::Attributes)?;
            plan.delete(key);
            self.commit_xattr(&mut locked, plan, (ino, name), None)
        })
    }

    /// Commits, and keeps what the cell knows of two special attributes right.
    fn commit_xattr(
        &self,
        locked: &mut Locked<'_>,
        mut plan: Plan,
        (ino, name): (Ino, &[u8]),
        value: Option<&[u8]>,
    ) -> Result<(), FsError> {
        if name == CAPABILITY {
            plan.set_capability(ino, value.is_some());
        }
        self.commit(locked, plan)?;
        if name == DEFAULT {
            locked.state_mut(ino).default_acl = Some(value.map(Bytes::copy_from_slice));
        }
        Ok(())
    }
}

/// What must be in the cell before this attribute changes, so that no late filler spoils it.
fn need_of(name: &[u8]) -> Need {
    match name {
        CAPABILITY => Need::Content,
        DEFAULT => Need::DefaultAcl,
        _ => Need::Attr,
    }
}

fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(&0) {
        return Err(FsError::Range);
    }
    let spaces = [&b"user."[..], b"trusted.", b"security."];
    let in_space = |space: &&[u8]| name.starts_with(space) && name.len() > space.len();
    if spaces.iter().any(in_space) || name == ACCESS || name == DEFAULT {
        Ok(())
    } else {
        Err(FsError::Unsupported)
    }
}

/// `user.` attributes only where mode bits control who may write them; ACLs not on symlinks.
fn check_holder(name: &[u8], kind: Kind) -> Result<(), FsError> {
    let is_user = name.starts_with(b"user.");
    match kind {
        Kind::File if name == DEFAULT => Err(FsError::NotPermitted),
        Kind::File | Kind::Directory => Ok(()),
        Kind::Symlink if name == ACCESS || name == DEFAULT => Err(FsError::Unsupported),
        _ if name == DEFAULT || is_user => Err(FsError::NotPermitted),
        _ => Ok(()),
    }
}
