//! What can go wrong with chunks and nodes, by what the caller will do about it.

use crate::format::FormatError;
use crate::local::LocalError;
use crate::remote::RemoteError;
use crate::types::PackId;

/// An error of the chunk layer.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// It is not on this machine and the policy was [`super::Fetch::LocalOnly`]: call again with
    /// a deadline, from a thread that may wait.
    #[error("not on this machine")]
    NotLocal,
    /// The store's bytes are not what their name says, also when fetched a second time.
    #[error("{what} is damaged in pack {pack}: {cause}")]
    Corrupt {
        /// The chunk or node, with its whole id.
        what: String,
        /// The pack that it was fetched from.
        pack: PackId,
        /// What was found.
        cause: String,
    },
    /// The store does not hold a pack that something refers to, or holds another object there.
    #[error("pack {pack} is not in the store as it must be: {cause}")]
    Missing {
        /// The pack.
        pack: PackId,
        /// What was found.
        cause: String,
    },
    /// The store did not answer or refused: worth trying again.
    #[error(transparent)]
    Unavailable(#[from] RemoteError),
    /// The local disk failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A chunk or node that the format does not allow, or a bad order of calls: a bug above.
    #[error("can't store this: {0}")]
    Invalid(#[from] FormatError),
    /// The layer was shut down.
    #[error("shut down")]
    Closed,
}
