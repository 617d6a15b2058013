//! What a head carries of its tree, so that one GET is enough to mount and list: the nodes from
//! the root to the root directory's records, and the attributes of its entries.

use std::collections::HashSet;

use bytes::Bytes;

use crate::chunks::{Chunks, Fetch};
use crate::format::{
    HEAD_NODES_BYTES_MAX, HEAD_RECORDS_BYTES_MAX, Key, KeyParts, NodeRef, Tag, decode_entry,
};
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
    /// Attributes of the root directory's entries, in their order.
    pub records: Vec<(Key, Bytes)>,
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
    let mut bytes = 0;
    for (_, value) in records.iter().filter(|(key, _)| is_entry(key)) {
        let Ok(entry) = decode_entry(value) else { continue };
        let key = Key::attr(entry.ino);
        let Some(attr) = tree.get(key.as_bytes(), fetch)? else { continue };
        bytes += key.as_bytes().len() + attr.len();
        if bytes > HEAD_RECORDS_BYTES_MAX {
            break;
        }
        // The whole leaf would be kept in memory for it otherwise.
        inline.records.push((key, Bytes::copy_from_slice(&attr)));
    }
    Ok(inline)
}

fn is_entry(key: &Key) -> bool {
    matches!(key.parts(), Some(KeyParts::Entry(..)))
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
