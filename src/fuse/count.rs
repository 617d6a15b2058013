//! Exact counts of the requests that reached us, per kind.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! opcodes {
    ($($name:ident = $text:literal,)*) => {
        /// Kinds of requests. INIT, INTERRUPT and kinds that fuser does not know are answered
        /// by fuser and not counted; a BATCH_FORGET counts as its FORGETs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the kernel's own names")]
        pub enum Opcode { $($name,)* }

        impl Opcode {
            /// Every kind.
            pub const ALL: &[Opcode] = &[$(Opcode::$name,)*];

            /// Whether it changes what is in a workspace.
            pub(super) fn changes(self) -> bool {
                use Opcode as O;
                matches!(
                    self,
                    O::SetAttr | O::MkNod | O::MkDir | O::Unlink | O::RmDir | O::SymLink
                        | O::Rename | O::Link | O::Write | O::SetXattr | O::RemoveXattr
                        | O::Create | O::FAllocate | O::CopyFileRange
                )
            }

            /// The kernel's name, in lower case.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Opcode::$name => $text,)* }
            }
        }
    };
}

opcodes! {
    Lookup = "lookup",
    Forget = "forget",
    GetAttr = "getattr",
    SetAttr = "setattr",
    ReadLink = "readlink",
    MkNod = "mknod",
    MkDir = "mkdir",
    Unlink = "unlink",
    RmDir = "rmdir",
    SymLink = "symlink",
    Rename = "rename",
    Link = "link",
    Open = "open",
    Read = "read",
    Write = "write",
    Flush = "flush",
    Release = "release",
    FSync = "fsync",
    OpenDir = "opendir",
    ReadDir = "readdir",
    ReadDirPlus = "readdirplus",
    ReleaseDir = "releasedir",
    FSyncDir = "fsyncdir",
    StatFs = "statfs",
    SetXattr = "setxattr",
    GetXattr = "getxattr",
    ListXattr = "listxattr",
    RemoveXattr = "removexattr",
    Access = "access",
    Create = "create",
    Ioctl = "ioctl",
    Poll = "poll",
    FAllocate = "fallocate",
    LSeek = "lseek",
    CopyFileRange = "copy_file_range",
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counters, one per kind.
#[derive(Debug)]
pub(super) struct Counters {
    requests: Vec<AtomicU64>,
    waited: AtomicU64,
    late: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Counters {
        Counters {
            requests: Opcode::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            waited: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }

    /// One more request of this kind.
    pub(super) fn add(&self, opcode: Opcode) {
        self.add_all(opcode, 1);
    }

    /// So many more requests of this kind.
    pub(super) fn add_all(&self, opcode: Opcode, requests: u64) {
        self.requests[opcode as usize].fetch_add(requests, Ordering::Relaxed);
    }

    /// One more request that had to wait for the store.
    pub(super) fn add_waited(&self) {
        self.waited.fetch_add(1, Ordering::Relaxed);
    }

    /// One more request whose deadline passed before it was served.
    pub(super) fn add_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> RequestCounts {
        RequestCounts {
            requests: self.requests.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            waited: self.waited.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }
}

/// What was counted up to one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestCounts {
    requests: Vec<u64>,
    /// Requests that had to wait for the store.
    pub waited: u64,
    /// Requests whose deadline passed before they were served; answered `EIO`.
    pub late: u64,
}

impl RequestCounts {
    /// Requests of one kind.
    #[must_use]
    pub fn of(&self, opcode: Opcode) -> u64 {
        self.requests[opcode as usize]
    }

    /// Requests of all kinds, without FORGETs: nobody waits for those.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.iter().sum::<u64>() - self.of(Opcode::Forget)
    }

    /// What came after `earlier` was read.
    #[must_use]
    pub fn since(&self, earlier: &RequestCounts) -> RequestCounts {
        let pairs = self.requests.iter().zip(&earlier.requests);
        RequestCounts {
            requests: pairs.map(|(now, before)| now.saturating_sub(*before)).collect(),
            waited: self.waited.saturating_sub(earlier.waited),
            late: self.late.saturating_sub(earlier.late),
        }
    }

    /// Kinds that came at least once, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Opcode, u64)> + '_ {
        Opcode::ALL.iter().map(|&opcode| (opcode, self.of(opcode))).filter(|(_, count)| *count > 0)
    }
}

impl fmt::Display for RequestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests", self.total())?;
        self.iter().try_for_each(|(opcode, count)| write!(f, ", {opcode} {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_per_kind_and_since_a_moment() {
        let counters = Counters::new();
        counters.add(Opcode::Lookup);
        let before = counters.read();
        counters.add(Opcode::CopyFileRange);
        counters.add(Opcode::CopyFileRange);
        counters.add(Opcode::Forget);
        let counts = counters.read().since(&before);
        assert_eq!(counts.of(Opcode::CopyFileRange), 2);
        assert_eq!(counts.of(Opcode::Lookup), 0);
        assert_eq!(counts.total(), 2, "a FORGET is not waited for");
        assert_eq!(counts.to_string(), "2 requests, forget 1, copy_file_range 2");
    }

    #[test]
    fn each_kind_has_its_own_place() {
        for (place, &opcode) in Opcode::ALL.iter().enumerate() {
            assert_eq!(opcode as usize, place);
        }
    }
}
