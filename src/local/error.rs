//! What can go wrong on the local disk, by what the caller will do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::StagedAt;

/// An error of the local layer. Nothing was changed by the call that returns it, unless it says
/// otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LocalError {
    /// Another process owns the directory.
    #[error("{path}: in use by process {pid}")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The owner's process id; 0 where it could not be read.
        pid: u32,
    },
    /// The directory holds something, but not a local state of ours.
    #[error("{path}: not empty and not a dormouse directory; choose an empty one")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was written by another version of the program.
    #[error("{path}: local state version {found} is not supported (this program: {supported})")]
    Version {
        /// The directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version that this program reads and writes.
        supported: u32,
    },
    /// The disk is full, or down to its reserve. Later commits work when there is room again.
    #[error("the disk that holds the local state is full")]
    Full,
    /// What is not in the store yet does not fit in the budget.
    #[error(
        "the local budget is spent: {dirty} bytes are not yet released, {budget} bytes are allowed"
    )]
    Quota {
        /// Bytes that can't be evicted.
        dirty: u64,
        /// Bytes allowed.
        budget: u64,
    },
    /// A commit over the largest size of a journal record; the caller must split it.
    #[error("a commit of {bytes} bytes is over the limit")]
    TooLarge {
        /// Bytes of the commit.
        bytes: u64,
    },
    /// The staged bytes are not here (any more): the record that named them was replaced and
    /// its segment swept. Read the record again.
    #[error("staged bytes at segment {}, offset {}, are no longer there", .0.segment, .0.offset)]
    NotStaged(StagedAt),
    /// Bytes on the disk are not what was written there.
    #[error("local state is damaged: {what}")]
    Corrupt {
        /// What is damaged and how.
        what: String,
    },
    /// An earlier failure to sync made it unknown what is on the disk. Every commit and sync
    /// fails from then on; a new start reads what is really there.
    #[error("the journal failed and takes no more writes: {cause}")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// The state was closed.
    #[error("the local state is closed")]
    Closed,
    /// The operating system's answer to `op` on `path`.
    #[error("{op} {path}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The answer.
        source: Arc<io::Error>,
    },
    /// RocksDB failed.
    #[error("RocksDB: {0}")]
    Rocks(#[from] rocksdb::Error),
}

impl LocalError {
    /// Wraps an I/O error; a full disk or quota becomes [`LocalError::Full`].
    pub(super) fn io(op: &'static str, path: &Path, source: io::Error) -> LocalError {
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => LocalError::Full,
            _ => LocalError::Io { op, path: path.to_owned(), source: Arc::new(source) },
        }
    }

    pub(super) fn corrupt(what: impl Into<String>) -> LocalError {
        LocalError::Corrupt { what: what.into() }
    }
}
