//! The nodes that a head carries, so that one GET is enough to mount and list: the root, and the
//! nodes down to the root directory's records.

use std::collections::HashSet;

use bytes::Bytes;

use crate::chunks::{Chunks, Fetch};
use crate::format::{HEAD_NODES_BYTES_MAX, Key, NodeRef, Tag};
use crate::tree::Tree;
use crate::types::{Ino, NodeId};

use super::WorkspaceError;

/// Entries of the root directory that are looked at. More do not fit into the cap anyway.
const ENTRIES_MAX: usize = 4096;

/// What was collected.
#[derive(Debug, Default)]
pub struct Inline {
    /// Nodes with their frames, parents first.
    pub nodes: Vec<(NodeRef, Bytes)>,
    seen: HashSet<NodeId>,
    bytes: usize,
    full: bool,
}

/// Collects the nodes of `tree` that `ls` of the root directory touches, up to the cap.
pub fn collect(chunks: &Chunks, tree: &Tree, fetch: Fetch) -> Result<Inline, WorkspaceError> {
    let mut inline = Inline::default();
    inline.add_path(chunks, tree, &Key::attr(Ino::ROOT), fetch)?;
    let from = Key::tag_start(Ino::ROOT, Tag::Attr);
    let to = Key::tag_end(Ino::ROOT, Tag::Extent);
    let records = tree.range(from.as_bytes(), to.as_bytes(), ENTRIES_MAX, fetch)?;
    for (key, _) in &records {
        inline.add_path(chunks, tree, key, fetch)?;
    }
    Ok(inline)
}

impl Inline {
    fn add_path(
        &mut self,
        chunks: &Chunks,
        tree: &Tree,
        key: &Key,
        fetch: Fetch,
    ) -> Result<(), WorkspaceError> {
        if self.full {
            return Ok(());
        }
        for node in tree.path_to(key.as_bytes(), fetch)? {
            if !self.seen.insert(node.id) {
                continue;
            }
            let frame = chunks.node_frame(&node, fetch)?;
            if self.bytes + frame.len() > HEAD_NODES_BYTES_MAX {
                self.full = true;
                return Ok(());
            }
            self.bytes += frame.len();
            self.nodes.push((node, frame));
        }
        Ok(())
    }
}
