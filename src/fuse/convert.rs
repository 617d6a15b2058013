//! Between the protocol's numbers and what `fs` takes and gives.

use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{Errno, RenameFlags, TimeOrNow};

use super::answer::AnswerXattr;
use crate::fs::{AllocateMode, FsError, NewNode, RenameMode, Seek, SetTime, XattrMode};
use crate::types::{Attr, Ino, Kind, Time};

/// Preferred I/O size, bytes: what `stat` tells and what C programs take for their buffers.
pub(super) const BLOCK_BYTES: u32 = 4096;

/// Unit of `st_blocks`, bytes.
const SECTOR_BYTES: u64 = 512;

/// Most bytes that one request copies: the answer has 32 bits. Callers go on from there.
pub(super) const COPY_BYTES_MAX: u64 = 1 << 30;

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::SpecificTime(time) => SetTime::At(sent_time(time)),
        TimeOrNow::Now => SetTime::Now,
    }
}

/// The time that the kernel sent. fuser 0.18 reads a time before 1970, which is a negative
/// number of seconds plus nanoseconds, as minus both; this undoes it.
pub(super) fn sent_time(time: SystemTime) -> Time {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) if !before.is_zero() => {
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            Time::new(-secs, before.subsec_nanos())
        }
        _ => time.into(),
    }
}

/// `None`: a combination that means nothing, or `RENAME_WHITEOUT`.
pub(super) fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

pub(super) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    Some(match flags {
        0 => XattrMode::Set,
        libc::XATTR_CREATE => XattrMode::Create,
        libc::XATTR_REPLACE => XattrMode::Replace,
        _ => return None,
    })
}

pub(super) fn allocate_mode(mode: i32) -> Option<AllocateMode> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    Some(match mode {
        0 => AllocateMode::Extend,
        libc::FALLOC_FL_KEEP_SIZE => AllocateMode::KeepSize,
        PUNCH => AllocateMode::PunchHole,
        libc::FALLOC_FL_ZERO_RANGE => AllocateMode::ZeroRange { keep_size: false },
        ZERO_KEEP => AllocateMode::ZeroRange { keep_size: true },
        _ => return None,
    })
}

pub(super) fn seek(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}

pub(super) fn new_node(mode: u32, rdev: u32) -> Option<NewNode> {
    Some(NewNode { kind: kind_of(mode)?, mode: mode & 0o7777, rdev })
}

/// Answers with the value, its length if no room was given, or `ERANGE` if it does not fit.
pub(super) fn send_xattr(value: &[u8], room: u32, answer: impl AnswerXattr) {
    match u32::try_from(value.len()) {
        Ok(len) if room == 0 => answer.len(len),
        Ok(len) if len <= room => answer.value(value),
        _ => answer.fail(Errno::ERANGE),
    }
}

/// The errno that a failed operation is answered with.
pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

/// What `st_blocks` shows: a part of a block is a block.
pub(super) fn sectors(attr: &Attr) -> u64 {
    attr.allocated.div_ceil(SECTOR_BYTES)
}

/// Attributes of which only the kind matters: `.` and `..` in a listing, a name that is absent.
pub(super) fn bare_attr(kind: Kind) -> Attr {
    Attr {
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        allocated: 0,
        rdev: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        crtime: Time::default(),
        target: Box::default(),
        parent: Ino::META,
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

    #[test]
    fn combinations_that_mean_nothing_are_refused() {
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), None);
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), None);
        assert_eq!(allocate_mode(libc::FALLOC_FL_PUNCH_HOLE), None, "needs KEEP_SIZE");
        assert_eq!(allocate_mode(libc::FALLOC_FL_COLLAPSE_RANGE), None);
        assert_eq!(xattr_mode(libc::XATTR_CREATE | libc::XATTR_REPLACE), None);
        assert_eq!(seek(libc::SEEK_SET), None, "the kernel's own");
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
