//! The sealed tree: all records of a snapshot in an immutable B+tree of content-addressed nodes.
//! Lookup, range scan, merge, difference, and going through all nodes.
//!
//! Promises: equal record sets give equal leaves, whatever order of merges made them; a merge
//! reads and writes only the runs that changed and their ancestors, and holds one run per level
//! in memory; a difference reads only what differs. A tree value never changes.
//!
//! Must not know: what the records mean, and where nodes are kept.

mod boundary;
mod cursor;
mod diff;
mod error;
mod level;
mod merge;
mod nodes;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::chunks::{Chunks, Fetch, PackWriter};
use crate::format::{Key, Node, NodeRef};
use crate::types::PackId;

use self::boundary::Rule;
use self::cursor::{At, Cursor};
use self::nodes::Nodes;

pub use self::diff::VisitChange;
pub use self::error::TreeError;
pub use self::merge::{Changes, Merged};
pub use self::walk::{VisitNode, VisitRef};

/// A sealed tree. Cheap to clone; reads share the node cache of [`Chunks`].
#[derive(Clone)]
pub struct Tree {
    chunks: Arc<Chunks>,
    root: Option<NodeRef>,
    hints: Option<Arc<HashMap<Key, Bytes>>>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tree").field(&self.root).finish()
    }
}

impl Tree {
    /// The tree with this root; none is the tree without records.
    #[must_use]
    pub fn new(chunks: Arc<Chunks>, root: Option<NodeRef>) -> Tree {
        Tree { chunks, root, hints: None }
    }

    /// The tree without records.
    #[must_use]
    pub fn empty(chunks: Arc<Chunks>) -> Tree {
        Tree::new(chunks, None)
    }

    /// The same tree, with records of it that [`Tree::get`] finds here instead of in its nodes.
    /// Records that are not this tree's make it give wrong answers.
    #[must_use]
    pub fn with_hints(self, hints: Arc<HashMap<Key, Bytes>>) -> Tree {
        Tree { hints: Some(hints), ..self }
    }

    /// Where the root is; none for the tree without records.
    #[must_use]
    pub fn root(&self) -> Option<NodeRef> {
        self.root
    }

    /// The value at `key`. It shares its leaf's buffer.
    pub fn get(&self, key: &[u8], fetch: Fetch) -> Result<Option<Bytes>, TreeError> {
        if let Some(value) = self.hints.as_ref().and_then(|hints| hints.get(key)) {
            return Ok(Some(value.clone()));
        }
        self.nodes(fetch, |nodes| nodes.get(key))
    }

    /// The first records of `from..to`, in key order, at most `limit`.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        fetch: Fetch,
    ) -> Result<Vec<(Key, Bytes)>, TreeError> {
        self.nodes(fetch, |nodes| range(nodes, from, to, limit))
    }

    /// Calls `visit` for each record of the tree, in key order, until it returns false.
    pub fn scan(
        &self,
        fetch: Fetch,
        visit: &mut dyn FnMut(Key, Bytes) -> bool,
    ) -> Result<(), TreeError> {
        self.nodes(fetch, |nodes| {
            let mut cursor = Cursor::new(nodes)?;
            cursor.settle()?;
            while let Some(At::Record(key, value)) = cursor.at() {
                if !visit(key, value) {
                    break;
                }
                cursor.skip();
                cursor.settle()?;
            }
            Ok(())
        })
    }

    /// Writes the tree that `changes` (in ascending key order) make of this one. Nodes that the
    /// two share are not written; if nothing changes, nothing is, and the root is the same.
    /// The result is readable once the writer has finished and its root is resolved there.
    pub fn merge(
        &self,
        changes: &mut Changes<'_>,
        writer: &mut PackWriter,
        fetch: Fetch,
    ) -> Result<Merged, TreeError> {
        let rule = Rule::new(self.chunks.keys());
        let mut write = |node: &Node| Ok(writer.add_node(node)?);
        self.nodes(fetch, |nodes| merge::merge(nodes, rule, changes, &mut write))
    }

    /// Calls `visit` for each record that is not the same in `after`. Reads no subtree that the
    /// two share.
    pub fn diff(
        &self,
        after: &Tree,
        fetch: Fetch,
        visit: &mut VisitChange<'_>,
    ) -> Result<(), TreeError> {
        self.nodes(fetch, |nodes| after.nodes(fetch, |after| diff::diff(nodes, after, visit)))
    }

    /// The nodes from the root to the leaf where `key` is or would be.
    pub fn path_to(&self, key: &[u8], fetch: Fetch) -> Result<Vec<NodeRef>, TreeError> {
        self.nodes(fetch, |nodes| nodes.path_to(key))
    }

    /// Reads every node and calls `visit` with it, parents first. What it does not fail on is a
    /// tree: levels, keys and their order are right (the ids are checked by [`Chunks`]).
    pub fn walk(&self, fetch: Fetch, visit: &mut VisitNode<'_>) -> Result<(), TreeError> {
        self.nodes(fetch, |nodes| walk::walk(nodes, visit))
    }

    /// Calls `visit` with the place and level of every node, parents first. Reads the inner nodes
    /// only, about one in 250.
    pub fn node_refs(&self, fetch: Fetch, visit: &mut VisitRef<'_>) -> Result<(), TreeError> {
        self.nodes(fetch, |nodes| walk::refs(nodes, visit))
    }

    /// Bytes of all frames of the tree. Reads the root only.
    pub fn live_bytes(&self, fetch: Fetch) -> Result<u64, TreeError> {
        self.nodes(fetch, |nodes| match nodes.root {
            None => Ok(0),
            Some(root) => Ok(nodes::tree_bytes(&root, &*(nodes.read)(&root)?)),
        })
    }

    /// Bytes of the tree's frames in each pack that holds any: the packs that a snapshot of this
    /// tree must list. Reads the inner nodes only.
    pub fn pack_bytes(&self, fetch: Fetch) -> Result<BTreeMap<PackId, u64>, TreeError> {
        self.nodes(fetch, walk::pack_bytes)
    }

    /// Writes this tree without any node in `packs`: those, and the nodes above them, are written
    /// again. The way to get rid of packs that hold little that is alive.
    pub fn relocate(
        &self,
        packs: &HashSet<PackId>,
        writer: &mut PackWriter,
        fetch: Fetch,
    ) -> Result<Merged, TreeError> {
        let mut write = |node: &Node| Ok(writer.add_node(node)?);
        self.nodes(fetch, |nodes| walk::relocate(nodes, packs, &mut write))
    }

    fn nodes<T>(
        &self,
        fetch: Fetch,
        call: impl FnOnce(Nodes<'_>) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        let read = |at: &NodeRef| Ok(self.chunks.node(at, fetch)?);
        call(Nodes { root: self.root, read: &read })
    }
}

fn range(
    nodes: Nodes<'_>,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Vec<(Key, Bytes)>, TreeError> {
    let mut records = Vec::new();
    let mut cursor = Cursor::new(nodes)?;
    cursor.seek(from)?;
    while records.len() < limit && cursor.key().is_some_and(|key| key < to) {
        if let Some(At::Record(key, value)) = cursor.at() {
            records.push((key, value));
            cursor.skip();
        } else {
            cursor.descend()?;
        }
    }
    Ok(records)
}
