//! Answers.
//!
//! ```text
//! fuse_out_header  0 len | 4 error (negative errno) | 8 unique u64
//! fuse_attr        0 ino | 8 size | 16 blocks | 24 atime | 32 mtime | 40 ctime | 48 atimensec
//!                 52 mtimensec | 56 ctimensec | 60 mode | 64 nlink | 68 uid | 72 gid | 76 rdev
//!                 80 blksize | 84 flags
//! fuse_entry_out   0 nodeid | 8 generation | 16 entry_valid | 24 attr_valid
//!                 32 entry_valid_nsec | 36 attr_valid_nsec | 40 attr
//! fuse_dirent      0 ino | 8 off | 16 namelen | 20 type | 24 name, padded to 8 bytes
//! ```

use std::time::Duration;

use super::fields::Put;
use crate::fs::{DirEntry, StatFs};
use crate::fuse::answer::{CREATED_FLAGS, FOREVER};
use crate::fuse::convert::{BLOCK_BYTES, sectors};
use crate::types::{Attr, Buffer, Ino, Kind};

/// Length of the header, bytes.
pub(in crate::fuse) const OUT_HEADER_LEN: usize = 16;

/// Longest answer of fixed length, bytes: an entry with an open file.
const SMALL_LEN_MAX: usize = 144;

/// Length of an entry, bytes.
const ENTRY_LEN: usize = 128;

/// Length of a name's place in a listing without the name, bytes.
const DIRENT_LEN: usize = 24;

/// What a listing sets aside before it knows how long it gets, bytes: what the C library asks for.
const RESERVED_LEN_MAX: usize = 32 * 1024;

/// What follows an answer's header.
#[derive(Debug)]
pub(in crate::fuse) enum Body {
    Empty,
    Small(Small),
    Bytes(Buffer),
}

impl Body {
    pub(in crate::fuse) fn as_bytes(&self) -> &[u8] {
        match self {
            Body::Empty => &[],
            Body::Small(small) => &small.bytes[..small.len],
            Body::Bytes(bytes) => bytes,
        }
    }

    fn small(fill: impl FnOnce(&mut Small)) -> Body {
        let mut small = Small { bytes: [0; SMALL_LEN_MAX], len: 0 };
        fill(&mut small);
        Body::Small(small)
    }

    pub(in crate::fuse) fn entry(ttl: Duration, ino: Ino, attr: &Attr) -> Body {
        Body::small(|out| put_entry(out, ttl, ino, attr))
    }

    pub(in crate::fuse) fn attr(ttl: Duration, ino: Ino, attr: &Attr) -> Body {
        Body::small(|out| {
            out.u64(ttl.as_secs());
            out.u32(ttl.subsec_nanos());
            out.u32(0);
            put_attr(out, ino, attr);
        })
    }

    pub(in crate::fuse) fn created(ino: Ino, attr: &Attr) -> Body {
        Body::small(|out| {
            put_entry(out, FOREVER, ino, attr);
            // The file handle.
            out.u64(0);
            out.u32(CREATED_FLAGS.bits());
            out.u32(0);
        })
    }

    /// WRITE's and COPY_FILE_RANGE's bytes, GETXATTR's length.
    pub(in crate::fuse) fn length(bytes: u32) -> Body {
        Body::small(|out| {
            out.u32(bytes);
            out.u32(0);
        })
    }

    pub(in crate::fuse) fn offset(offset: i64) -> Body {
        Body::small(|out| out.i64(offset))
    }

    /// `fuse_kstatfs`: six numbers of 64 bits less one, then of 32 bits.
    pub(in crate::fuse) fn statfs(stat: &StatFs) -> Body {
        Body::small(|out| {
            out.u64(stat.blocks);
            out.u64(stat.blocks_free);
            out.u64(stat.blocks_free);
            out.u64(stat.inodes);
            out.u64(stat.inodes_free);
            out.u32(stat.block_bytes);
            out.u32(stat.name_len_max);
            out.u32(stat.block_bytes);
            // Padding and what is kept for later.
            out.put(&[0; 28]);
        })
    }
}

/// A few bytes without an allocation.
#[derive(Debug)]
pub(in crate::fuse) struct Small {
    bytes: [u8; SMALL_LEN_MAX],
    len: usize,
}

impl Put for Small {
    fn put(&mut self, bytes: &[u8]) {
        // What is put has fixed lengths, and the longest fits.
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

/// The header of an answer whose body has this length; `error` is an errno or 0.
pub(in crate::fuse) fn out_header(
    unique: u64,
    error: i32,
    body_len: usize,
) -> [u8; OUT_HEADER_LEN] {
    // Bodies are no longer than what was asked for, which has 32 bits.
    let len = u32::try_from(OUT_HEADER_LEN + body_len).unwrap_or(u32::MAX);
    let mut header = [0; OUT_HEADER_LEN];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..8].copy_from_slice(&(-error.abs()).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

fn put_attr(out: &mut impl Put, ino: Ino, attr: &Attr) {
    out.u64(ino.0);
    out.u64(attr.size);
    out.u64(sectors(attr));
    out.i64(attr.atime.secs);
    out.i64(attr.mtime.secs);
    out.i64(attr.ctime.secs);
    out.u32(attr.atime.nanos);
    out.u32(attr.mtime.nanos);
    out.u32(attr.ctime.nanos);
    out.u32(type_bits(attr.kind) | (attr.mode & 0o7777));
    out.u32(attr.nlink);
    out.u32(attr.uid);
    out.u32(attr.gid);
    out.u32(attr.rdev);
    out.u32(BLOCK_BYTES);
    out.u32(0);
}

fn put_entry(out: &mut impl Put, ttl: Duration, ino: Ino, attr: &Attr) {
    out.u64(ino.0);
    // Inode numbers are never used twice, so all are of the first generation.
    out.u64(0);
    out.u64(ttl.as_secs());
    out.u64(ttl.as_secs());
    out.u32(ttl.subsec_nanos());
    out.u32(ttl.subsec_nanos());
    put_attr(out, ino, attr);
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}

/// What a listing says of an entry's inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) enum ListedInode<'a> {
    /// Nothing: a READDIR.
    NotAsked,
    /// That a READDIRPLUS can't say anything: whoever wants it looks the name up.
    Unknown,
    /// Its attributes.
    Known(&'a Attr),
}

/// A directory listing in the making.
#[derive(Debug, Default)]
pub(in crate::fuse) struct Listing {
    bytes: Vec<u8>,
}

impl Listing {
    /// Adds an entry; true if it does not fit into `room`.
    pub(in crate::fuse) fn add(
        &mut self,
        room: u32,
        entry: &DirEntry<'_>,
        inode: ListedInode<'_>,
    ) -> bool {
        let fixed = DIRENT_LEN + if inode == ListedInode::NotAsked { 0 } else { ENTRY_LEN };
        let len = (fixed + entry.name.len()).next_multiple_of(8);
        if self.bytes.len() + len > room as usize {
            return true;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve((room as usize).min(RESERVED_LEN_MAX));
        }
        let end = self.bytes.len() + len;
        match inode {
            ListedInode::NotAsked => {}
            // Node 0: the kernel takes the name alone.
            ListedInode::Unknown => self.bytes.resize(self.bytes.len() + ENTRY_LEN, 0),
            ListedInode::Known(attr) => put_entry(&mut self.bytes, FOREVER, entry.ino, attr),
        }
        self.bytes.u64(entry.ino.0);
        self.bytes.u64(entry.cookie);
        // Names have at most 255 bytes.
        self.bytes.u32(entry.name.len() as u32);
        self.bytes.u32(type_bits(entry.kind) >> 12);
        self.bytes.put(entry.name);
        self.bytes.resize(end, 0);
        false
    }

    pub(in crate::fuse) fn into_body(self) -> Body {
        Body::Bytes(self.bytes.into())
    }
}
