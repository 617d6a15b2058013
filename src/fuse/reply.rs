//! fuser's replies as answers, and from our values to fuser's: attributes, kinds.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::answer::{
    Answer, AnswerAttr, AnswerCreated, AnswerData, AnswerEmpty, AnswerEntry, AnswerListing,
    AnswerListingPlus, AnswerOffset, AnswerStatFs, AnswerWritten, AnswerXattr, CREATED_FLAGS,
    FOREVER,
};
use super::convert::{BLOCK_BYTES, sectors};
use crate::fs::{DirEntry, StatFs};
use crate::types::{Attr, Buffer, Ino, Kind};

/// Inode numbers are never used twice, so all are of the first generation.
const GENERATION: Generation = Generation(0);

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
    ReplyIoctl,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

impl AnswerEmpty for ReplyEmpty {
    fn done(self) {
        self.ok();
    }
}

impl AnswerEntry for ReplyEntry {
    fn entry(self, ttl: Duration, ino: Ino, attr: &Attr) {
        ReplyEntry::entry(self, &ttl, &file_attr(ino, attr), GENERATION);
    }
}

impl AnswerAttr for ReplyAttr {
    fn attr(self, ttl: Duration, ino: Ino, attr: &Attr) {
        ReplyAttr::attr(self, &ttl, &file_attr(ino, attr));
    }
}

impl AnswerCreated for ReplyCreate {
    fn created(self, ino: Ino, attr: &Attr) {
        let attr = file_attr(ino, attr);
        ReplyCreate::created(self, &FOREVER, &attr, GENERATION, FileHandle(0), CREATED_FLAGS);
    }
}

impl AnswerData for ReplyData {
    fn data(self, bytes: Buffer) {
        ReplyData::data(self, &bytes);
    }
}

impl AnswerWritten for ReplyWrite {
    fn written(self, bytes: u32) {
        ReplyWrite::written(self, bytes);
    }
}

impl AnswerOffset for ReplyLseek {
    fn offset(self, offset: i64) {
        ReplyLseek::offset(self, offset);
    }
}

impl AnswerStatFs for ReplyStatfs {
    fn statfs(self, stat: &StatFs) {
        ReplyStatfs::statfs(
            self,
            stat.blocks,
            stat.blocks_free,
            stat.blocks_free,
            stat.inodes,
            stat.inodes_free,
            stat.block_bytes,
            stat.name_len_max,
            stat.block_bytes,
        );
    }
}

impl AnswerXattr for ReplyXattr {
    fn len(self, bytes: u32) {
        self.size(bytes);
    }

    fn value(self, value: &[u8]) {
        self.data(value);
    }
}

impl AnswerListing for ReplyDirectory {
    fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        let name = OsStr::from_bytes(entry.name);
        let ino = INodeNo(entry.ino.0);
        ReplyDirectory::add(self, ino, entry.cookie, file_type(entry.kind), name)
    }

    fn listed(self) {
        self.ok();
    }
}

impl AnswerListingPlus for ReplyDirectoryPlus {
    // fuser takes the entry's number from the attributes: 0 there, and libc would skip the name.
    const LISTS_BARE_NAMES: bool = false;

    fn add_bare(&mut self, _: &DirEntry<'_>) -> bool {
        true
    }

    fn add(&mut self, entry: &DirEntry<'_>, attr: &Attr) -> bool {
        let name = OsStr::from_bytes(entry.name);
        let attr = file_attr(entry.ino, attr);
        let ino = INodeNo(entry.ino.0);
        ReplyDirectoryPlus::add(self, ino, entry.cookie, name, &FOREVER, &attr, GENERATION)
    }

    fn listed(self) {
        self.ok();
    }
}

/// Attributes as fuser wants them.
fn file_attr(ino: Ino, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: attr.size,
        blocks: sectors(attr),
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

/// The kind as fuser names it.
fn file_type(kind: Kind) -> FileType {
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
}
