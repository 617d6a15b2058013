//! From our values to fuser's: attributes, kinds, errors.

use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileType, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use crate::fs::FsError;
use crate::types::{Attr, Ino, Kind};

/// How long the kernel may believe a name or attributes: for ever, because nobody else changes
/// them. (The kernel clamps it; about 136 years.)
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Preferred I/O size, bytes: what `stat` tells and what C programs take for their buffers.
const BLOCK_BYTES: u32 = 4096;

/// Unit of `st_blocks`, bytes.
const SECTOR_BYTES: u64 = 512;

/// A request's open answer. Exactly one is sent: by the caller, or as `EIO` when it is dropped.
pub(super) trait Answer: Send + 'static {
    /// Answers with an error.
    fn fail(self, errno: Errno);
}

macro_rules! answers {
    ($($reply:ty),*) => {
        $(impl Answer for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

answers!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// The errno that a failed operation is answered with.
pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

/// Attributes as fuser wants them.
pub(super) fn file_attr(ino: Ino, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(SECTOR_BYTES),
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.crtime.into(),
        kind: file_type(attr.kind),
        // At most 0o7777, by the type's promise.
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Attributes of which only the inode and the kind matter: `.` and `..` in a listing.
pub(super) fn bare_attr(ino: Ino, kind: Kind) -> FileAttr {
    let zero = std::time::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
        crtime: zero,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The answer to a lookup that says "no such name": inode 0.
pub(super) fn absent() -> FileAttr {
    bare_attr(Ino(0), Kind::File)
}

/// The kind as fuser names it.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in a `mode_t`, if it is one.
pub(super) fn kind_of(mode: u32) -> Option<Kind> {
    Some(match mode & libc::S_IFMT {
        // mknod(2): no type means a regular file.
        0 | libc::S_IFREG => Kind::File,
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Symlink,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice,
        libc::S_IFBLK => Kind::BlockDevice,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Time;

    #[test]
    fn attributes_keep_nanoseconds_negative_times_and_all_mode_bits() {
        let attr = Attr {
            kind: Kind::File,
            parent: Ino::META,
            mode: 0o7755,
            uid: 7,
            gid: 8,
            nlink: 3,
            size: 1000,
            allocated: 513,
            rdev: 0,
            atime: Time::new(-5, 1),
            mtime: Time::new(1, 999_999_999),
            ctime: Time::new(2, 3),
            crtime: Time::new(0, 0),
            target: Box::default(),
        };
        let shown = file_attr(Ino(9), &attr);
        assert_eq!((shown.ino, shown.perm, shown.nlink), (INodeNo(9), 0o7755, 3));
        assert_eq!(shown.blocks, 2, "a part of a block is a block");
        assert_eq!(Time::from(shown.atime), attr.atime);
        assert_eq!(Time::from(shown.mtime), attr.mtime);
    }

    #[test]
    fn every_kind_is_found_in_its_mode() {
        let kinds = [
            (libc::S_IFREG, Kind::File),
            (libc::S_IFDIR, Kind::Directory),
            (libc::S_IFLNK, Kind::Symlink),
            (libc::S_IFIFO, Kind::Fifo),
            (libc::S_IFSOCK, Kind::Socket),
            (libc::S_IFCHR, Kind::CharDevice),
            (libc::S_IFBLK, Kind::BlockDevice),
        ];
        for (bits, kind) in kinds {
            assert_eq!(kind_of(bits | 0o644), Some(kind));
        }
        assert_eq!(kind_of(0o170_000), None);
    }
}
