//! The keyed hashes of a store: all are BLAKE3 with keys derived from the store's secret, so
//! that ids tell nothing about content to someone without it, and so that nobody can choose
//! names that unbalance the tree.

use crate::types::{ChunkId, NodeId};

/// Keys derived from one store's 32-byte secret (`blake3::derive_key`; contexts in `new`).
#[derive(Clone)]
pub struct HashKeys {
    chunk: [u8; 32],
    node: [u8; 32],
    name: [u8; 32],
    boundary: [u8; 32],
}

impl std::fmt::Debug for HashKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKeys(..)")
    }
}

impl HashKeys {
    /// Derives the keys. The context strings are part of the store format.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> HashKeys {
        HashKeys {
            chunk: blake3::derive_key("dormouse 2026 chunk id", secret),
            node: blake3::derive_key("dormouse 2026 node id", secret),
            name: blake3::derive_key("dormouse 2026 entry name", secret),
            boundary: blake3::derive_key("dormouse 2026 leaf boundary", secret),
        }
    }

    /// Id of a chunk with this plaintext.
    #[must_use]
    pub fn chunk(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk, plain).as_bytes())
    }

    /// Id of a tree node with this plaintext.
    #[must_use]
    pub fn node(&self, plain: &[u8]) -> NodeId {
        NodeId(*blake3::keyed_hash(&self.node, plain).as_bytes())
    }

    /// Hash that orders a name among its directory's entries; also the readdir cookie. 3 to
    /// 2^63-1: cookies are signed offsets, and 0 to 2 stand for the start, `.` and `..`.
    #[must_use]
    pub fn name(&self, name: &[u8]) -> u64 {
        (first_u64(&blake3::keyed_hash(&self.name, name)) >> 1).max(3)
    }

    /// Priority of a record key as the first key of a node (see `tree`).
    #[must_use]
    pub fn boundary(&self, key: &[u8]) -> u64 {
        first_u64(&blake3::keyed_hash(&self.boundary, key))
    }
}

fn first_u64(hash: &blake3::Hash) -> u64 {
    let bytes = hash.as_bytes();
    u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
}
