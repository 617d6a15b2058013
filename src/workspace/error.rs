//! What can go wrong with a workspace, by what the caller will do about it.

use crate::chunks::ChunkError;
use crate::format::FormatError;
use crate::fs::FsError;
use crate::local::LocalError;
use crate::namespace::NamespaceError;
use crate::remote::RemoteError;
use crate::tree::TreeError;
use crate::types::{CacheId, Epoch, WorkspaceName};

/// An operation on a store or a workspace that did not succeed. Nothing is lost by any of them:
/// what was in the local directory stays there.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// There is no store at the address: no format object.
    #[error("there is no Dormouse store at this address; make one with `dormouse init`")]
    NoStore,
    /// The store has no such workspace, and none was to be made.
    #[error("the store has no workspace {name}; `dormouse mount --create` makes it")]
    NoWorkspace {
        /// The workspace.
        name: WorkspaceName,
    },
    /// The workspace has no such snapshot.
    #[error("workspace {name} has no snapshot {id}; `dormouse snapshots {name}` lists them")]
    NoSnapshot {
        /// The workspace.
        name: WorkspaceName,
        /// What was asked for.
        id: String,
    },
    /// Somebody else may write now: wait, or steal.
    #[error(
        "workspace {name} is in use by {host}: its lease ends in {seconds_left} s at the latest"
    )]
    LeaseHeld {
        /// The workspace.
        name: WorkspaceName,
        /// Who holds it, as that machine named itself.
        host: String,
        /// The local directory it is held with; none: not known.
        holder: Option<CacheId>,
        /// Until it may be taken, by the store's clock.
        seconds_left: u64,
    },
    /// Somebody else took the lease: this mount can never move the head again.
    #[error(
        "workspace {name} was taken over by {host} (epoch {theirs}, ours was {ours}); what was \
         not sealed before stays in the local directory: copy it out through this mount, which \
         is read-only now"
    )]
    Fenced {
        /// The workspace.
        name: WorkspaceName,
        /// Who has it now.
        host: String,
        /// Our epoch.
        ours: Epoch,
        /// The epoch in the store.
        theirs: Epoch,
    },
    /// The local directory has unsynced changes to a snapshot that is no longer the newest.
    #[error(
        "{dir} holds changes to workspace {name} that were never sealed, and {host} has sealed \
         others since: the two can't be joined. Mount with another --cache-dir to see the \
         newest state, or with --discard-local to drop the unsealed changes"
    )]
    Diverged {
        /// The workspace.
        name: WorkspaceName,
        /// The local directory.
        dir: String,
        /// Who moved the head.
        host: String,
    },
    /// The local directory belongs to another workspace or store.
    #[error("{dir} is the cache of {theirs}, not of {ours}: give each workspace its own")]
    WrongDirectory {
        /// The local directory.
        dir: String,
        /// What it belongs to.
        theirs: String,
        /// What was asked for.
        ours: String,
    },
    /// A read-only mount was asked of a directory with unsynced changes.
    #[error(
        "{dir} holds changes that are not in the store: mount it for writing, or give \
             another --cache-dir"
    )]
    Unsynced {
        /// The local directory.
        dir: String,
    },
    /// The mount was opened read-only.
    #[error("workspace {name} is mounted read-only")]
    ReadOnly {
        /// The workspace.
        name: WorkspaceName,
    },
    /// The workspace was hibernated or closed.
    #[error("workspace {name} is closed")]
    Closed {
        /// The workspace.
        name: WorkspaceName,
    },
    /// The store can't be reached in the given time: everything is kept locally, try again.
    #[error("the store can't be reached ({cause})")]
    Unavailable {
        /// What failed last.
        cause: RemoteError,
    },
    /// The local directory's store is not at the address any more, or not now.
    #[error("the store that {dir} belongs to is not there: {cause}")]
    StoreGone {
        /// The local directory.
        dir: String,
        /// What is there instead.
        cause: String,
    },
    /// The store answered with a failure that trying again does not cure.
    #[error(transparent)]
    Remote(RemoteError),
    /// A newer Dormouse wrote this.
    #[error(
        "{what} was written in format {found}; this program reads up to {supported}: \
             update it"
    )]
    NewerFormat {
        /// The object.
        what: String,
        /// Its version.
        found: u16,
        /// The newest that is understood.
        supported: u16,
    },
    /// Something in the store is not what it must be.
    #[error("{what} is damaged: {cause}")]
    Corrupt {
        /// The object or record.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The operating system gives no random numbers: no store can be made.
    #[error("the operating system gives no random numbers: {cause}")]
    NoRandom {
        /// Its words.
        cause: String,
    },
    /// The operating system gives no thread.
    #[error("the background threads can't be started: {cause}")]
    NoThreads {
        /// Its words.
        cause: String,
    },
    /// The directory for temporary files failed.
    #[error("the directory for temporary files: {cause}")]
    Scratch {
        /// The system's words.
        cause: String,
    },
    /// The time given ran out, or the watcher said stop. Everything is kept locally.
    #[error(
        "stopped before everything was in the store; everything is kept in the local \
             directory, and a later try goes on from there"
    )]
    Stopped,
    /// The local directory: locked by another process, full, damaged.
    #[error(transparent)]
    Local(#[from] LocalError),
}

impl From<RemoteError> for WorkspaceError {
    fn from(cause: RemoteError) -> WorkspaceError {
        match cause {
            RemoteError::Unavailable { .. } | RemoteError::Ambiguous { .. } => {
                WorkspaceError::Unavailable { cause }
            }
            cause => WorkspaceError::Remote(cause),
        }
    }
}

impl From<ChunkError> for WorkspaceError {
    fn from(error: ChunkError) -> WorkspaceError {
        match error {
            ChunkError::Unavailable(error) => error.into(),
            ChunkError::Local(error) => error.into(),
            ChunkError::Corrupt { .. } | ChunkError::Missing { .. } => damaged("store", &error),
            // Asked for with a deadline, so it came.
            ChunkError::NotLocal => WorkspaceError::Stopped,
            ChunkError::Closed => WorkspaceError::Stopped,
            ChunkError::Invalid(_) => damaged("record", &error),
        }
    }
}

impl From<TreeError> for WorkspaceError {
    fn from(error: TreeError) -> WorkspaceError {
        match error {
            TreeError::Chunk(error) => error.into(),
            TreeError::Changes(error) => match error.downcast::<NamespaceError>() {
                Ok(error) => (*error).into(),
                Err(error) => damaged("overlay", &error),
            },
            TreeError::NotLocal => ChunkError::NotLocal.into(),
            TreeError::Corrupt { .. } | TreeError::BadChange(_) => damaged("tree", &error),
        }
    }
}

impl From<NamespaceError> for WorkspaceError {
    fn from(error: NamespaceError) -> WorkspaceError {
        match error {
            NamespaceError::Local(error) => error.into(),
            NamespaceError::Tree(error) => error.into(),
            NamespaceError::NotLocal => ChunkError::NotLocal.into(),
            NamespaceError::Corrupt(_) | NamespaceError::Quota => damaged("local state", &error),
        }
    }
}

impl From<FsError> for WorkspaceError {
    fn from(error: FsError) -> WorkspaceError {
        match error {
            FsError::Chunk(error) => error.into(),
            FsError::Tree(error) => error.into(),
            FsError::Local(error) => error.into(),
            FsError::NoSpace | FsError::DiskFull => LocalError::Full.into(),
            error => damaged("filesystem", &error),
        }
    }
}

/// Something is not as it must be.
fn damaged(what: &str, cause: &dyn std::fmt::Display) -> WorkspaceError {
    WorkspaceError::Corrupt { what: what.to_owned(), cause: cause.to_string() }
}

impl WorkspaceError {
    /// A stored structure that can't be decoded, of the object `what`.
    pub(super) fn format(what: &str, cause: FormatError) -> WorkspaceError {
        match cause {
            FormatError::NewerVersion { found, supported, .. } => {
                WorkspaceError::NewerFormat { what: what.to_owned(), found, supported }
            }
            cause => WorkspaceError::Corrupt { what: what.to_owned(), cause: cause.to_string() },
        }
    }

    /// Whether the same call may succeed later without anyone doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, WorkspaceError::Unavailable { .. } | WorkspaceError::LeaseHeld { .. })
    }
}
