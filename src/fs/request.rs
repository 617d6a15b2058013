//! What callers say and hear: plain values, no behaviour.

use crate::chunks::Fetch;
use crate::types::{Attr, Ino, Kind, Name, RequestId, Time};

/// Who asks, and how long the answer may take.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Effective user of the process.
    pub uid: u32,
    /// Effective group of the process.
    pub gid: u32,
    /// Permission bits that a new file does not get.
    pub umask: u32,
    /// Whether the operation may wait for the store.
    pub fetch: Fetch,
    /// The kernel's request, where it may come again: the change's commit notes that it carries
    /// it out.
    pub request: Option<RequestId>,
}

impl Caller {
    /// The superuser with an empty umask.
    #[must_use]
    pub fn root(fetch: Fetch) -> Caller {
        Caller { uid: 0, gid: 0, umask: 0, fetch, request: None }
    }
}

/// A looked-up inode. Its lookup count was raised by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub ino: Ino,
    /// Its attributes.
    pub attr: Attr,
}

/// What `mknod`, `create` and `mkdir` make.
#[derive(Debug, Clone, Copy)]
pub struct NewNode {
    /// File type; a symlink is made by `symlink`.
    pub kind: Kind,
    /// Permission bits, setuid, setgid, sticky; the umask is taken off by the filesystem.
    pub mode: u32,
    /// Device number of a device node; else 0.
    pub rdev: u32,
}

/// A time that `utimensat` sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The filesystem's clock.
    Now,
    /// This time.
    At(Time),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits, setuid, setgid, sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes: truncates or extends with a hole.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of attributes; `None` means now, if anything changes. Given only by a kernel
    /// that keeps times itself (write-back cache).
    pub ctime: Option<Time>,
    /// With `size`: take setuid and setgid off as a write does (`FATTR_KILL_SUIDGID`).
    pub kill_priv: bool,
}

/// What `rename` does with an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// `EEXIST`.
    NoReplace,
    /// Swaps both; the target must exist.
    Exchange,
}

/// Modes of `fallocate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocateMode {
    /// The size grows to the range's end if it is beyond; the new bytes are a hole.
    Extend,
    /// `KEEP_SIZE`: nothing changes but the times; space is not reserved.
    KeepSize,
    /// The range becomes a hole; the size stays.
    PunchHole,
    /// The range reads zero (as a hole).
    ZeroRange {
        /// Whether a range beyond the end leaves the size as it is.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is in an extent.
    Data,
    /// The next byte that is in none; the end of the file is one.
    Hole,
}

/// What `setxattr` does with an existing attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Creates or replaces.
    Set,
    /// `EEXIST` if it exists.
    Create,
    /// `ENODATA` if it does not.
    Replace,
}

/// One entry of a directory listing.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// The name; `.` and `..` come first.
    pub name: &'a [u8],
    /// The inode.
    pub ino: Ino,
    /// Its file type.
    pub kind: Kind,
    /// Where a listing that ends with this entry goes on.
    pub cookie: u64,
    /// The attributes if they were asked for and are on this machine; never of `.` and `..`. Then
    /// the inode's lookup count was raised by one if the sink took the entry.
    pub attr: Option<Attr>,
}

/// Where `readdir` goes on, and what it gives.
#[derive(Debug, Clone, Copy)]
pub struct ListFrom {
    /// 0, or a cookie that an earlier entry carried.
    pub cookie: u64,
    /// Whether to give attributes (`readdirplus`).
    pub plus: bool,
}

/// The range that `copy_file_range` copies.
#[derive(Debug, Clone, Copy)]
pub struct CopyRange {
    /// File to copy from.
    pub source: Ino,
    /// First byte in the source.
    pub source_offset: u64,
    /// File to copy to; may be the source if the ranges do not overlap.
    pub target: Ino,
    /// First byte in the target.
    pub target_offset: u64,
    /// Bytes; less is copied where the source ends earlier.
    pub len: u64,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The directory.
    pub directory: Ino,
    /// The name in it.
    pub name: &'a Name,
}

/// What `statfs` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Unit of the block counts, bytes.
    pub block_bytes: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// All inodes.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
    /// Longest name, bytes.
    pub name_len_max: u32,
}

/// Limits of a mounted filesystem.
#[derive(Debug, Clone)]
pub struct FsOptions {
    /// Refuse everything that changes something.
    pub read_only: bool,
    /// Most bytes that all files' extents may cover.
    pub quota_bytes: Option<u64>,
    /// Most inodes.
    pub quota_inodes: Option<u64>,
    /// Most memory of cached inodes that nobody uses at the moment, bytes.
    pub inode_cache_bytes_max: u64,
}

impl Default for FsOptions {
    fn default() -> FsOptions {
        FsOptions {
            read_only: false,
            quota_bytes: None,
            quota_inodes: None,
            inode_cache_bytes_max: 48 << 20,
        }
    }
}
