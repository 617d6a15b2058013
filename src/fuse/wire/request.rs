//! Requests.
//!
//! ```text
//! fuse_in_header  0 len | 4 opcode | 8 unique u64 | 16 nodeid u64 | 24 uid | 28 gid | 32 pid
//!                36 total_extlen u16, padding
//! ```
//!
//! Behind the header comes what an operation has of fixed length (`fuse_..._in`), behind that
//! names and bytes. `/dev/fuse` gives the three in one piece, io_uring in three places.

use fuser::{RenameFlags, WriteFlags};

use super::fields::{Fields, Malformed};
use super::init::InitIn;
use crate::fs::{SetAttr, SetTime};
use crate::types::{Ino, Time};

/// Length of the header, bytes.
pub(in crate::fuse) const HEADER_LEN: usize = 40;

/// Longest fixed part, bytes: what io_uring has room for.
pub(in crate::fuse) const FIXED_LEN_MAX: usize = 128;

/// The kernel's numbers of operations, and the length of their fixed part.
macro_rules! opcodes {
    ($($name:ident = $number:literal, $fixed:literal;)*) => {
        /// Numbers of operations.
        pub(in crate::fuse) mod opcodes {
            $(pub(in crate::fuse) const $name: u32 = $number;)*

            /// All that are known.
            #[cfg(test)]
            pub(in crate::fuse) const ALL: &[u32] = &[$($number),*];
        }

        /// Length of an operation's fixed part, bytes; `None`: an operation unknown to us.
        pub(in crate::fuse) fn fixed_len(opcode: u32) -> Option<usize> {
            match opcode {
                $($number => Some($fixed),)*
                _ => None,
            }
        }
    };
}

opcodes! {
    LOOKUP = 1, 0;
    FORGET = 2, 8;
    GETATTR = 3, 16;
    SETATTR = 4, 88;
    READLINK = 5, 0;
    SYMLINK = 6, 0;
    MKNOD = 8, 16;
    MKDIR = 9, 8;
    UNLINK = 10, 0;
    RMDIR = 11, 0;
    RENAME = 12, 8;
    LINK = 13, 8;
    OPEN = 14, 8;
    READ = 15, 40;
    WRITE = 16, 40;
    STATFS = 17, 0;
    RELEASE = 18, 24;
    FSYNC = 20, 16;
    SETXATTR = 21, 8;
    GETXATTR = 22, 8;
    LISTXATTR = 23, 8;
    REMOVEXATTR = 24, 0;
    FLUSH = 25, 24;
    INIT = 26, 16;
    OPENDIR = 27, 8;
    READDIR = 28, 40;
    RELEASEDIR = 29, 24;
    FSYNCDIR = 30, 16;
    ACCESS = 34, 8;
    CREATE = 35, 16;
    INTERRUPT = 36, 8;
    DESTROY = 38, 0;
    IOCTL = 39, 32;
    POLL = 40, 24;
    BATCH_FORGET = 42, 8;
    FALLOCATE = 43, 32;
    READDIRPLUS = 44, 40;
    RENAME2 = 45, 16;
    LSEEK = 46, 24;
    COPY_FILE_RANGE = 47, 56;
}

/// `FATTR_...`: which of SETATTR's values are meant.
mod set {
    pub(super) const MODE: u32 = 1 << 0;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
    pub(super) const CTIME: u32 = 1 << 10;
    pub(super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// What every request begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) struct Header {
    /// Length of the whole, bytes.
    pub(in crate::fuse) len: u32,
    pub(in crate::fuse) opcode: u32,
    pub(in crate::fuse) unique: u64,
    pub(in crate::fuse) ino: Ino,
    pub(in crate::fuse) uid: u32,
    pub(in crate::fuse) gid: u32,
    /// The thread that asks, as our process sees it; 0 if it can't, or if none does.
    pub(in crate::fuse) pid: u32,
}

impl Header {
    pub(in crate::fuse) fn decode(bytes: &[u8]) -> Result<Header, Malformed> {
        let mut fields = Fields::new(bytes);
        Ok(Header {
            len: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            ino: Ino(fields.u64()?),
            uid: fields.u32()?,
            gid: fields.u32()?,
            pid: fields.u32()?,
        })
    }

    /// One message of `/dev/fuse`: the header, the operation's fixed part, and the rest.
    pub(in crate::fuse) fn split(message: &[u8]) -> Result<(Header, &[u8], &[u8]), Malformed> {
        let header = Header::decode(message)?;
        if usize::try_from(header.len) != Ok(message.len()) {
            return Err(Malformed::new("its length is not what it says"));
        }
        let mut fields = Fields::new(message);
        fields.skip(HEADER_LEN)?;
        let fixed = fields.take(fixed_len(header.opcode).unwrap_or(0))?;
        Ok((header, fixed, fields.rest()))
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) enum Operation<'a> {
    Lookup { name: &'a [u8] },
    Forget { lookups: u64 },
    BatchForget(Forgets<'a>),
    GetAttr,
    SetAttr(SetAttr),
    ReadLink,
    SymLink { name: &'a [u8], target: &'a [u8] },
    MkNod { name: &'a [u8], mode: u32, rdev: u32, umask: u32 },
    MkDir { name: &'a [u8], mode: u32, umask: u32 },
    Unlink { name: &'a [u8] },
    RmDir { name: &'a [u8] },
    Rename { name: &'a [u8], to_directory: Ino, to_name: &'a [u8], flags: RenameFlags },
    Link { ino: Ino, name: &'a [u8] },
    Open,
    Read { offset: u64, len: u32 },
    Write { offset: u64, data: &'a [u8], flags: WriteFlags, open_flags: i32 },
    StatFs,
    Release,
    FSync,
    SetXattr { name: &'a [u8], value: &'a [u8], flags: i32 },
    GetXattr { name: &'a [u8], room: u32 },
    ListXattr { room: u32 },
    RemoveXattr { name: &'a [u8] },
    Flush,
    Init(InitIn),
    OpenDir,
    ReadDir { cookie: u64, room: u32 },
    ReadDirPlus { cookie: u64, room: u32 },
    ReleaseDir,
    FSyncDir,
    Access,
    Create { name: &'a [u8], mode: u32, umask: u32, open_flags: i32 },
    Interrupt { unique: u64 },
    Destroy,
    Ioctl,
    Poll,
    FAllocate { offset: u64, len: u64, mode: i32 },
    LSeek { offset: i64, whence: i32 },
    CopyFileRange { offset: u64, target: Ino, target_offset: u64, len: u64 },
    Unknown,
}

impl<'a> Operation<'a> {
    /// Whether the kernel waits for an answer.
    pub(in crate::fuse) fn wants_answer(&self) -> bool {
        !matches!(
            self,
            Operation::Forget { .. } | Operation::BatchForget(_) | Operation::Interrupt { .. }
        )
    }

    /// The operation of a header. `fixed` may be longer than its fixed part.
    pub(in crate::fuse) fn decode(
        opcode: u32,
        fixed: &'a [u8],
        rest: &'a [u8],
    ) -> Result<Operation<'a>, Malformed> {
        let (fixed, rest) = (Fields::new(fixed), Fields::new(rest));
        match opcode {
            opcodes::LOOKUP..=opcodes::SYMLINK => attributes(opcode, fixed, rest),
            opcodes::MKNOD..=opcodes::LINK | opcodes::CREATE | opcodes::RENAME2 => {
                names(opcode, fixed, rest)
            }
            opcodes::SETXATTR..=opcodes::REMOVEXATTR => extended(opcode, fixed, rest),
            _ => others(opcode, fixed, rest),
        }
    }
}

fn attributes<'a>(
    opcode: u32,
    mut fixed: Fields<'a>,
    mut rest: Fields<'a>,
) -> Result<Operation<'a>, Malformed> {
    Ok(match opcode {
        opcodes::LOOKUP => Operation::Lookup { name: rest.text()? },
        opcodes::FORGET => Operation::Forget { lookups: fixed.u64()? },
        opcodes::GETATTR => Operation::GetAttr,
        opcodes::SETATTR => Operation::SetAttr(set_attr(fixed)?),
        opcodes::READLINK => Operation::ReadLink,
        opcodes::SYMLINK => Operation::SymLink { name: rest.text()?, target: rest.text()? },
        _ => Operation::Unknown,
    })
}

fn names<'a>(
    opcode: u32,
    mut fixed: Fields<'a>,
    mut rest: Fields<'a>,
) -> Result<Operation<'a>, Malformed> {
    let name = rest.text()?;
    Ok(match opcode {
        opcodes::MKNOD => {
            let (mode, rdev, umask) = (fixed.u32()?, fixed.u32()?, fixed.u32()?);
            Operation::MkNod { name, mode, rdev, umask }
        }
        opcodes::MKDIR => Operation::MkDir { name, mode: fixed.u32()?, umask: fixed.u32()? },
        opcodes::CREATE => {
            let open_flags = fixed.i32()?;
            Operation::Create { name, open_flags, mode: fixed.u32()?, umask: fixed.u32()? }
        }
        opcodes::UNLINK => Operation::Unlink { name },
        opcodes::RMDIR => Operation::RmDir { name },
        opcodes::LINK => Operation::Link { ino: Ino(fixed.u64()?), name },
        opcodes::RENAME | opcodes::RENAME2 => {
            let to_directory = Ino(fixed.u64()?);
            let bits = if opcode == opcodes::RENAME2 { fixed.u32()? } else { 0 };
            let flags = RenameFlags::from_bits_retain(bits);
            Operation::Rename { name, to_directory, to_name: rest.text()?, flags }
        }
        _ => Operation::Unknown,
    })
}

fn extended<'a>(
    opcode: u32,
    mut fixed: Fields<'a>,
    mut rest: Fields<'a>,
) -> Result<Operation<'a>, Malformed> {
    Ok(match opcode {
        opcodes::SETXATTR => {
            let (len, flags) = (fixed.u32()?, fixed.i32()?);
            let name = rest.text()?;
            Operation::SetXattr { name, value: rest.take(len as usize)?, flags }
        }
        opcodes::GETXATTR => Operation::GetXattr { name: rest.text()?, room: fixed.u32()? },
        opcodes::LISTXATTR => Operation::ListXattr { room: fixed.u32()? },
        opcodes::REMOVEXATTR => Operation::RemoveXattr { name: rest.text()? },
        _ => Operation::Unknown,
    })
}

fn others<'a>(
    opcode: u32,
    mut fixed: Fields<'a>,
    mut rest: Fields<'a>,
) -> Result<Operation<'a>, Malformed> {
    Ok(match opcode {
        opcodes::OPEN => Operation::Open,
        opcodes::READ => {
            let (offset, len) = window(fixed)?;
            Operation::Read { offset, len }
        }
        opcodes::WRITE => {
            let (offset, len) = window(fixed)?;
            fixed.skip(20)?;
            let flags = WriteFlags::from_bits_retain(fixed.u32()?);
            // The lock owner.
            fixed.skip(8)?;
            let open_flags = fixed.i32()?;
            Operation::Write { offset, data: rest.take(len as usize)?, flags, open_flags }
        }
        opcodes::STATFS => Operation::StatFs,
        opcodes::RELEASE => Operation::Release,
        opcodes::FSYNC => Operation::FSync,
        opcodes::FLUSH => Operation::Flush,
        // The fixed part of old kernels, and what newer ones add to it.
        opcodes::INIT => Operation::Init(InitIn::decode(&[fixed.rest(), rest.rest()].concat())?),
        opcodes::OPENDIR => Operation::OpenDir,
        opcodes::READDIR => {
            let (cookie, room) = window(fixed)?;
            Operation::ReadDir { cookie, room }
        }
        opcodes::READDIRPLUS => {
            let (cookie, room) = window(fixed)?;
            Operation::ReadDirPlus { cookie, room }
        }
        opcodes::RELEASEDIR => Operation::ReleaseDir,
        opcodes::FSYNCDIR => Operation::FSyncDir,
        opcodes::ACCESS => Operation::Access,
        opcodes::INTERRUPT => Operation::Interrupt { unique: fixed.u64()? },
        opcodes::DESTROY => Operation::Destroy,
        opcodes::IOCTL => Operation::Ioctl,
        opcodes::POLL => Operation::Poll,
        opcodes::BATCH_FORGET => {
            let count = fixed.u32()? as usize;
            let len =
                count.checked_mul(Forgets::ONE_LEN).ok_or(Malformed::new("too many forgets"))?;
            Operation::BatchForget(Forgets(rest.take(len)?))
        }
        opcodes::FALLOCATE => {
            fixed.skip(8)?;
            let (offset, len) = (fixed.u64()?, fixed.u64()?);
            Operation::FAllocate { offset, len, mode: fixed.i32()? }
        }
        opcodes::LSEEK => {
            fixed.skip(8)?;
            Operation::LSeek { offset: fixed.i64()?, whence: fixed.i32()? }
        }
        opcodes::COPY_FILE_RANGE => {
            fixed.skip(8)?;
            let (offset, target) = (fixed.u64()?, Ino(fixed.u64()?));
            fixed.skip(8)?;
            let (target_offset, len) = (fixed.u64()?, fixed.u64()?);
            Operation::CopyFileRange { offset, target, target_offset, len }
        }
        _ => Operation::Unknown,
    })
}

/// Offset and length behind a file handle: the beginning of READ, WRITE and READDIR.
fn window(mut fixed: Fields<'_>) -> Result<(u64, u32), Malformed> {
    fixed.skip(8)?;
    Ok((fixed.u64()?, fixed.u32()?))
}

/// ```text
/// fuse_setattr_in  0 valid | 8 fh | 16 size | 24 lock_owner | 32 atime | 40 mtime | 48 ctime
///                 56 atimensec | 60 mtimensec | 64 ctimensec | 68 mode | 76 uid | 80 gid
/// ```
fn set_attr(mut fixed: Fields<'_>) -> Result<SetAttr, Malformed> {
    let valid = fixed.u32()?;
    // Padding and the file handle.
    fixed.skip(12)?;
    let size = fixed.u64()?;
    fixed.skip(8)?;
    let secs = [fixed.i64()?, fixed.i64()?, fixed.i64()?];
    let nanos = [fixed.u32()?, fixed.u32()?, fixed.u32()?];
    let mode = fixed.u32()?;
    fixed.skip(4)?;
    let (uid, gid) = (fixed.u32()?, fixed.u32()?);
    let has = |bit| valid & bit != 0;
    let time = |place: usize| Time::new(secs[place], nanos[place]);
    let set_time = |bit, now, place| match (has(bit), has(now)) {
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(time(place))),
        (false, _) => None,
    };
    Ok(SetAttr {
        mode: has(set::MODE).then_some(mode & 0o7777),
        uid: has(set::UID).then_some(uid),
        gid: has(set::GID).then_some(gid),
        size: has(set::SIZE).then_some(size),
        atime: set_time(set::ATIME, set::ATIME_NOW, 0),
        mtime: set_time(set::MTIME, set::MTIME_NOW, 1),
        ctime: has(set::CTIME).then(|| time(2)),
        // Also sent with a change of owner, where `fs` does it unasked.
        kill_priv: has(set::SIZE) && has(set::KILL_SUIDGID),
    })
}

/// Inodes and how many lookups of each are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    /// Length of one, bytes: two numbers.
    const ONE_LEN: usize = 16;

    pub(in crate::fuse) fn iter(&self) -> impl Iterator<Item = (Ino, u64)> + Clone + '_ {
        self.0.chunks_exact(Self::ONE_LEN).filter_map(|one| {
            let mut fields = Fields::new(one);
            Some((Ino(fields.u64().ok()?), fields.u64().ok()?))
        })
    }
}
