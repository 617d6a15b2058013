//! Why a mount could not be made, used or ended.

use std::io;
use std::path::PathBuf;

pub use super::uring::NoUring;

/// Errors of this layer; the messages are for people and say what to do.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The mountpoint does not exist.
    #[error("mountpoint {0} does not exist: create it first (mkdir -p)")]
    Missing(PathBuf),
    /// The mountpoint is a file.
    #[error("mountpoint {0} is not a directory")]
    NotADirectory(PathBuf),
    /// The mountpoint has entries, which the mount would hide.
    #[error(
        "mountpoint {0} is not empty: what is in it would be hidden; move it away, or mount at an \
         empty directory"
    )]
    NotEmpty(PathBuf),
    /// Another Dormouse mount is there.
    #[error("a workspace ({source_name}) is already mounted at {mountpoint}: unmount it first")]
    AlreadyMounted {
        /// Where.
        mountpoint: PathBuf,
        /// The mount's source as `/proc/mounts` shows it, `dormouse:<name>`.
        source_name: String,
    },
    /// A mount whose daemon is gone is there.
    #[error("a dead mount is at {0}: its daemon is gone; run `umount {0}` first")]
    Dead(PathBuf),
    /// `/dev/fuse` is missing or may not be opened.
    #[error("/dev/fuse can't be opened: {0}")]
    NoDevice(#[source] io::Error),
    /// Not root, and there is no `fusermount3`.
    #[error(
        "mounting needs root or the program fusermount3 (package fuse3), which is not installed"
    )]
    NoHelper,
    /// Not allowed to mount here, or not for other users.
    #[error("mounting at {mountpoint} is not permitted: {reason}")]
    NotPermitted {
        /// Where.
        mountpoint: PathBuf,
        /// In the words of the kernel or of `fusermount3`.
        reason: String,
    },
    /// The kernel or `fusermount3` refused.
    #[error("mounting at {mountpoint} was refused: {reason}")]
    Refused {
        /// Where.
        mountpoint: PathBuf,
        /// In the words of the kernel or of `fusermount3`.
        reason: String,
    },
    /// io_uring was asked for and can't be had.
    #[error("FUSE over io_uring can't be used: {0}; `--transport auto` does without")]
    NoUring(#[source] NoUring),
    /// The mount was to outlive its daemon, and the kernel can't send requests again.
    #[error("this kernel can't send requests again (Linux 6.9 or newer can): use `--keeper off`")]
    NoResend,
    /// The mount that was to be taken over has ended.
    #[error("the mount at {0} has ended: there is nothing to take over")]
    Ended(PathBuf),
    /// Something inside the mount is open or is a working directory.
    #[error("{0} is busy: a process has a file open or its working directory there")]
    Busy(PathBuf),
    /// An operation on the machine failed.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The cause.
        source: io::Error,
    },
}

impl FuseError {
    /// Wraps an I/O error with what was being done.
    pub(super) fn io(action: impl Into<String>, source: io::Error) -> FuseError {
        FuseError::Io { action: action.into(), source }
    }
}
