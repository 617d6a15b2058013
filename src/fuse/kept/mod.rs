//! A connection that outlives its daemon: another process holds `/dev/fuse` open meanwhile, and the
//! next daemon takes it over.
//!
//! The kernel does not notice. What it had sent and has no answer to it sends again when it is
//! asked to (`FUSE_NOTIFY_RESEND`, Linux 6.9), marked in the request's number. There is no second
//! handshake, so fuser can't serve such a connection, and from the first daemon on it is served by
//! loops of our own. `docs/decisions/0012-keeper.md` has the reasons.
//!
//! Promises: a request that the daemon before had carried out is answered, and not carried out once
//! more; the connection is aborted when serving it ends, for nobody else would.

mod buffer;
mod session;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(super) use session::Session;

use super::mountinfo::MountLine;
use crate::types::ConnectionId;

/// The kernel's mark in the number of a request that it sends again.
const RESENT: u64 = 1 << 63;

/// What the next daemon must know of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Drawn at random when the mount was made.
    pub id: u64,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Device number of the mount; the minor one is the connection's.
    pub major: u32,
    /// As above.
    pub minor: u32,
    /// The type that the mount table shows.
    pub fs_type: String,
    /// The source that it shows.
    pub source: String,
    /// Mounted by `fusermount3`, which must also unmount.
    pub by_helper: bool,
    /// The largest write that was agreed on, bytes.
    pub write_bytes_max: u32,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, mount: &MountLine, by_helper: bool, bytes: u32) -> Self {
        Connection {
            id: id.0,
            mountpoint: mount.mountpoint.clone(),
            major: mount.major,
            minor: mount.minor,
            fs_type: mount.fs_type.clone(),
            source: mount.source.clone(),
            by_helper,
            write_bytes_max: bytes,
        }
    }

    pub(super) fn mount_line(&self) -> MountLine {
        MountLine {
            major: self.major,
            minor: self.minor,
            mountpoint: self.mountpoint.clone(),
            fs_type: self.fs_type.clone(),
            source: self.source.clone(),
        }
    }
}

/// Whether this is the number of a request that was sent before.
pub(super) fn is_resent(unique: u64) -> bool {
    unique & RESENT != 0
}

/// The number that a request had at first.
pub(super) fn first_unique(unique: u64) -> u64 {
    unique & !RESENT
}
