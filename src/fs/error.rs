//! Why an operation fails, and the only place that turns a reason into an errno.

use crate::chunks::ChunkError;
use crate::format::{FormatError, Key};
use crate::local::LocalError;
use crate::namespace::NamespaceError;
use crate::tree::TreeError;
use crate::types::{Ino, NameError};

use super::Lack;

/// Why an operation failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Something that is needed is in the store only, and the caller may not wait: call again
    /// with `Fetch::Until` on a thread that may. Nothing happened, no lookup was counted.
    #[error("not on this machine")]
    NotLocal(Missing),
    /// No such inode or name: `ENOENT`.
    #[error("no such file or directory")]
    NotFound,
    /// `EEXIST`.
    #[error("exists already")]
    Exists,
    /// `ENOTDIR`.
    #[error("not a directory")]
    NotDirectory,
    /// `EISDIR`.
    #[error("is a directory")]
    IsDirectory,
    /// `ENOTEMPTY`.
    #[error("directory is not empty")]
    NotEmpty,
    /// Over 65,000 hard links: `EMLINK`.
    #[error("too many links")]
    TooManyLinks,
    /// `ENAMETOOLONG`.
    #[error("name or target is too long")]
    NameTooLong,
    /// `EINVAL`.
    #[error("invalid argument")]
    Invalid,
    /// `EPERM`.
    #[error("operation not permitted")]
    NotPermitted,
    /// The file would end beyond 2^63-1: `EFBIG`.
    #[error("file would be too large")]
    TooLarge,
    /// Mounted read-only: `EROFS`.
    #[error("mounted read-only")]
    ReadOnly,
    /// Another machine took the workspace over; nothing can be saved to the store: `EROFS`.
    #[error("fenced: another machine holds the workspace")]
    Fenced,
    /// Being hibernated, for longer than the caller could wait: `EROFS`.
    #[error("being hibernated")]
    Frozen,
    /// No space for more extended attributes, or too much is not in the store: `ENOSPC`.
    #[error("no space left")]
    NoSpace,
    /// The local disk is full: `ENOSPC`.
    #[error("the local disk is full")]
    DiskFull,
    /// The workspace's quota is spent: `EDQUOT`.
    #[error("quota is spent")]
    Quota,
    /// The local directory's budget is spent: `EDQUOT`.
    #[error("the budget of local data is spent")]
    Spent,
    /// No such extended attribute: `ENODATA`.
    #[error("no such attribute")]
    NoData,
    /// No data or hole at or after the offset: `ENXIO`.
    #[error("offset is beyond the end")]
    BeyondEnd,
    /// A name that does not fit: `ERANGE`.
    #[error("out of range")]
    Range,
    /// An extended attribute value over 64 KiB: `E2BIG`.
    #[error("attribute value is too large")]
    ValueTooLarge,
    /// `EOPNOTSUPP`.
    #[error("not supported")]
    Unsupported,
    /// The store did not answer in time; trying again may help: `EIO`.
    #[error("the store did not answer in time")]
    TimedOut,
    /// A record of this inode is malformed: `EIO`.
    #[error("inode {ino}: {what}")]
    Corrupt {
        /// The inode.
        ino: Ino,
        /// What is wrong.
        what: String,
    },
    /// Content could not be fetched or is damaged: `EIO`.
    #[error(transparent)]
    Chunk(ChunkError),
    /// Metadata could not be fetched or is damaged: `EIO`.
    #[error(transparent)]
    Tree(TreeError),
    /// The local disk failed: `EIO`.
    #[error(transparent)]
    Local(LocalError),
}

/// What an operation lacked; it says what to fetch before the next try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The record with this key, or the knowledge that there is none.
    Record(Key),
    /// Records from the first key on to the second, at most this many.
    Records(Key, Key, usize),
    /// Chunks of file content.
    Content,
    /// The end of a freeze.
    Thaw,
    /// Time: writes are slowed down.
    Turn,
    /// Room for what is written.
    Room(Lack),
}

impl Missing {
    /// Attributes of an inode.
    #[must_use]
    pub fn attributes_of(ino: Ino) -> Missing {
        Missing::Record(Key::attr(ino))
    }

    /// Why an operation fails for which this was brought again and again in vain.
    #[must_use]
    pub fn refusal(&self) -> FsError {
        match self {
            Missing::Room(lack) => lack.refusal(),
            Missing::Thaw => FsError::Frozen,
            Missing::Record(_) | Missing::Records(..) | Missing::Content | Missing::Turn => {
                FsError::TimedOut
            }
        }
    }
}

impl FsError {
    /// The errno of this reason.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            // An adapter that hands the operation over never shows it.
            FsError::NotLocal(_) => libc::EAGAIN,
            FsError::NotFound => libc::ENOENT,
            FsError::Exists => libc::EEXIST,
            FsError::NotDirectory => libc::ENOTDIR,
            FsError::IsDirectory => libc::EISDIR,
            FsError::NotEmpty => libc::ENOTEMPTY,
            FsError::TooManyLinks => libc::EMLINK,
            FsError::NameTooLong => libc::ENAMETOOLONG,
            FsError::Invalid => libc::EINVAL,
            FsError::NotPermitted => libc::EPERM,
            FsError::TooLarge => libc::EFBIG,
            FsError::ReadOnly | FsError::Fenced | FsError::Frozen => libc::EROFS,
            FsError::NoSpace | FsError::DiskFull => libc::ENOSPC,
            FsError::Quota | FsError::Spent => libc::EDQUOT,
            FsError::NoData => libc::ENODATA,
            FsError::BeyondEnd => libc::ENXIO,
            FsError::Range => libc::ERANGE,
            FsError::ValueTooLarge => libc::E2BIG,
            FsError::Unsupported => libc::EOPNOTSUPP,
            FsError::TimedOut
            | FsError::Corrupt { .. }
            | FsError::Chunk(_)
            | FsError::Tree(_)
            | FsError::Local(_) => libc::EIO,
        }
    }

    /// Whether this is a fault of the machine or the store, worth a line in the log, and not
    /// just an answer to the caller.
    #[must_use]
    pub fn is_unexpected(&self) -> bool {
        self.errno() == libc::EIO
    }

    /// Whether what is stored is damaged or gone: trying again does not help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let of_chunk = |error: &ChunkError| {
            matches!(error, ChunkError::Corrupt { .. } | ChunkError::Missing { .. })
        };
        match self {
            FsError::Corrupt { .. } | FsError::Tree(TreeError::Corrupt { .. }) => true,
            FsError::Chunk(error) | FsError::Tree(TreeError::Chunk(error)) => of_chunk(error),
            _ => false,
        }
    }

    pub(super) fn malformed(ino: Ino, error: &FormatError) -> FsError {
        FsError::Corrupt { ino, what: error.to_string() }
    }

    /// A namespace error; `missing` says what to fetch if it is `NotLocal`.
    pub(super) fn of_namespace(
        error: NamespaceError,
        missing: impl FnOnce() -> Missing,
    ) -> FsError {
        match error {
            NamespaceError::NotLocal => FsError::NotLocal(missing()),
            NamespaceError::Quota => FsError::Quota,
            NamespaceError::Corrupt(what) => FsError::Corrupt { ino: Ino::META, what },
            NamespaceError::Tree(error) => FsError::Tree(error),
            NamespaceError::Local(error) => error.into(),
        }
    }
}

impl From<LocalError> for FsError {
    fn from(error: LocalError) -> FsError {
        match error {
            LocalError::Full => FsError::DiskFull,
            LocalError::Quota { .. } => FsError::Spent,
            other => FsError::Local(other),
        }
    }
}

impl From<NamespaceError> for FsError {
    fn from(error: NamespaceError) -> FsError {
        // Reads say what is missing (`Filesystem::get`, `range`); changes need nothing fetched.
        FsError::of_namespace(error, || Missing::Content)
    }
}

impl From<ChunkError> for FsError {
    fn from(error: ChunkError) -> FsError {
        match error {
            ChunkError::NotLocal => FsError::NotLocal(Missing::Content),
            ChunkError::Local(error) => error.into(),
            other => FsError::Chunk(other),
        }
    }
}

impl From<NameError> for FsError {
    fn from(error: NameError) -> FsError {
        match error {
            NameError::TooLong => FsError::NameTooLong,
            NameError::Invalid => FsError::Invalid,
        }
    }
}
