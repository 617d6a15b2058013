//! What can go wrong when records are read or changed.

use crate::chunks::ChunkError;
use crate::local::LocalError;
use crate::tree::TreeError;

/// An error of the namespace. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A tree node is in the store only, and the caller may not wait for it.
    #[error("records are not on this machine")]
    NotLocal,
    /// The totals would grow beyond their limits.
    #[error("the workspace's quota is spent")]
    Quota,
    /// A state record is malformed.
    #[error("local state is damaged: {0}")]
    Corrupt(String),
    /// The base could not be read.
    #[error(transparent)]
    Tree(TreeError),
    /// The local disk failed, or is full.
    #[error(transparent)]
    Local(#[from] LocalError),
}

impl From<TreeError> for NamespaceError {
    fn from(error: TreeError) -> NamespaceError {
        match error {
            TreeError::NotLocal | TreeError::Chunk(ChunkError::NotLocal) => {
                NamespaceError::NotLocal
            }
            other => NamespaceError::Tree(other),
        }
    }
}
