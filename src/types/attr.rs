//! What `stat` shows of a file.

use std::fmt;

use super::Ino;

/// A point in time: seconds since the epoch (negative before 1970) and nanoseconds within them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// Builds a time; nanoseconds of a second or more are carried into the seconds.
    #[must_use]
    pub fn new(secs: i64, nanos: u32) -> Time {
        let carry = i64::from(nanos / 1_000_000_000);
        Time { secs: secs.saturating_add(carry), nanos: nanos % 1_000_000_000 }
    }

    /// Seconds between `earlier` and this; 0 where the clock went back.
    #[must_use]
    pub fn seconds_since(self, earlier: Time) -> u64 {
        u64::try_from(self.secs.saturating_sub(earlier.secs)).unwrap_or(0)
    }
}

impl From<std::time::SystemTime> for Time {
    fn from(time: std::time::SystemTime) -> Time {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Time {
                secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let secs = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Time { secs, nanos: 0 },
                    nanos => Time { secs: secs - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Time> for std::time::SystemTime {
    fn from(time: Time) -> Self {
        use std::time::{Duration, UNIX_EPOCH};
        let nanos = Duration::from_nanos(u64::from(time.nanos));
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        // Out of the platform's range only for years beyond 292 billion: clamp to the epoch.
        let base = if time.secs >= 0 {
            UNIX_EPOCH.checked_add(whole)
        } else {
            UNIX_EPOCH.checked_sub(whole)
        };
        base.and_then(|base| base.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

/// File type. The numbers are part of the store format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Regular file.
    File = 1,
    /// Directory.
    Directory = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Socket.
    Socket = 5,
    /// Character device.
    CharDevice = 6,
    /// Block device.
    BlockDevice = 7,
}

impl Kind {
    /// The kind with this stored number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::File,
            2 => Kind::Directory,
            3 => Kind::Symlink,
            4 => Kind::Fifo,
            5 => Kind::Socket,
            6 => Kind::CharDevice,
            7 => Kind::BlockDevice,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symbolic link",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "character device",
            Kind::BlockDevice => "block device",
        })
    }
}

/// Attributes of an inode, and for a symlink its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// File type; never changes.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links; a directory has 2 plus one per subdirectory. 0: unlinked but still open.
    pub nlink: u32,
    /// Bytes; a symlink's target length; 4096 for a directory.
    pub size: u64,
    /// Bytes that extents cover (what `st_blocks` shows, in units of 512).
    pub allocated: u64,
    /// Device number of a device node, in the kernel's encoding; else 0.
    pub rdev: u32,
    /// Last access: set at creation and by `utimensat` only (the mount is `noatime`).
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
    /// Creation.
    pub crtime: Time,
    /// A symlink's target; empty for every other kind.
    pub target: Box<[u8]>,
    /// A directory's parent (the root's is the root), so that `..` and the check that a
    /// directory is not moved into itself need no search; [`Ino::META`] for every other kind.
    pub parent: Ino,
}

impl Attr {
    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for time in [Time::new(-2, 999_999_999), Time::new(-1, 1), Time::new(0, 5), Time::new(7, 0)]
        {
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }

    #[test]
    fn kinds_have_one_number_each() {
        for number in 0..=u8::MAX {
            if let Some(kind) = Kind::from_u8(number) {
                assert_eq!(kind as u8, number);
            }
        }
    }
}
