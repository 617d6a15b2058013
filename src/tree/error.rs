//! What can go wrong with a tree.

use crate::chunks::ChunkError;
use crate::types::NodeId;

/// Why a tree operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A node is not on this machine, and the caller did not want to wait: ask again with time.
    #[error("a tree node is not on this machine")]
    NotLocal,
    /// A node could not be had or written.
    #[error(transparent)]
    Chunk(ChunkError),
    /// A node's bytes are the ones that were written, but the tree makes no sense: never retry.
    #[error("damaged tree: {why} of node {node}")]
    Corrupt {
        /// The node.
        node: NodeId,
        /// What about it.
        why: &'static str,
    },
    /// The changes to merge are not in order, or not ones that a tree may hold: a bug above.
    #[error("change that a tree can't take: {0}")]
    BadChange(&'static str),
    /// The changes to merge could not be read.
    #[error("the changes could not be read: {0}")]
    Changes(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<ChunkError> for TreeError {
    fn from(error: ChunkError) -> TreeError {
        match error {
            ChunkError::NotLocal => TreeError::NotLocal,
            error => TreeError::Chunk(error),
        }
    }
}
