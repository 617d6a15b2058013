//! Going through all nodes: for verification, prefetch and compaction.

use std::collections::{BTreeMap, HashSet};

use crate::format::{Child, Inner, Node, NodeRef};
use crate::types::PackId;

use super::TreeError;
use super::level::{WriteNode, Written};
use super::merge::Merged;
use super::nodes::{Nodes, children_with_ends, tree_bytes};

/// Called with each node of a tree, parents first.
pub type VisitNode<'a> = dyn FnMut(&NodeRef, &Node) -> Result<(), TreeError> + 'a;

/// Called with each node's place and level, parents first.
pub type VisitRef<'a> = dyn FnMut(&NodeRef, u8) + 'a;

/// Reads every node.
pub(super) fn walk(nodes: Nodes<'_>, visit: &mut VisitNode<'_>) -> Result<(), TreeError> {
    let Some(root) = &nodes.root else { return Ok(()) };
    let node = (nodes.read)(root)?;
    walk_below(nodes, root, (&node, None), visit)
}

fn walk_below(
    nodes: Nodes<'_>,
    at: &NodeRef,
    (node, end): (&Node, Option<&[u8]>),
    visit: &mut VisitNode<'_>,
) -> Result<(), TreeError> {
    visit(at, node)?;
    let Node::Inner(inner) = node else { return Ok(()) };
    for (child, end) in children_with_ends(inner, end) {
        let node = nodes.child_before(inner.level, child, end)?;
        walk_below(nodes, &child.node, (&node, end), visit)?;
    }
    Ok(())
}

/// Tells of every node, reading the inner ones only.
pub(super) fn refs(nodes: Nodes<'_>, visit: &mut VisitRef<'_>) -> Result<(), TreeError> {
    let Some(root) = &nodes.root else { return Ok(()) };
    let node = (nodes.read)(root)?;
    visit(root, node.level());
    if let Node::Inner(inner) = &*node { refs_below(nodes, inner, None, visit) } else { Ok(()) }
}

fn refs_below(
    nodes: Nodes<'_>,
    inner: &Inner,
    end: Option<&[u8]>,
    visit: &mut VisitRef<'_>,
) -> Result<(), TreeError> {
    for (child, end) in children_with_ends(inner, end) {
        visit(&child.node, inner.level - 1);
        if inner.level > 1
            && let Node::Inner(below) = &*nodes.child_before(inner.level, child, end)?
        {
            refs_below(nodes, below, end, visit)?;
        }
    }
    Ok(())
}

/// Bytes of the tree's frames in each pack that has any. Reads the inner nodes only.
pub(super) fn pack_bytes(nodes: Nodes<'_>) -> Result<BTreeMap<PackId, u64>, TreeError> {
    let mut bytes = BTreeMap::new();
    refs(nodes, &mut |node, _| {
        *bytes.entry(node.slot.pack).or_insert(0) += u64::from(node.slot.len);
    })?;
    Ok(bytes)
}

/// Writes again, unchanged, all nodes that lie in `packs`, and the nodes above them. Reads those
/// and all inner nodes.
pub(super) fn relocate<'w>(
    nodes: Nodes<'_>,
    packs: &HashSet<PackId>,
    write: &'w mut WriteNode<'w>,
) -> Result<Merged, TreeError> {
    let mut moving = Moving { nodes, packs, write, written: Written::default() };
    let mut root = nodes.root;
    let mut bytes = 0;
    if let Some(at) = nodes.root {
        let node = (nodes.read)(&at)?;
        (root, bytes) = match moving.node(&at, &node, None)? {
            Some((moved, bytes)) => (Some(moved), bytes),
            None => (Some(at), tree_bytes(&at, &node)),
        };
    }
    let Written { leaves, inners, bytes: bytes_written } = moving.written;
    Ok(Merged {
        root,
        tree_bytes: bytes,
        leaves_written: leaves,
        inners_written: inners,
        bytes_written,
    })
}

struct Moving<'a, 'w> {
    nodes: Nodes<'a>,
    packs: &'a HashSet<PackId>,
    write: &'w mut WriteNode<'w>,
    written: Written,
}

impl Moving<'_, '_> {
    /// New place and tree bytes of a node; none if it stays.
    fn node(
        &mut self,
        at: &NodeRef,
        node: &Node,
        end: Option<&[u8]>,
    ) -> Result<Option<(NodeRef, u64)>, TreeError> {
        let mut moves = self.packs.contains(&at.slot.pack);
        let Node::Inner(inner) = node else {
            return if moves { self.put(node).map(Some) } else { Ok(None) };
        };
        let mut children = Vec::with_capacity(inner.children.len());
        for (child, end) in children_with_ends(inner, end) {
            let moved = self.child(inner.level, child, end)?;
            moves |= moved.is_some();
            let (node, tree_bytes) = moved.unwrap_or((child.node, child.tree_bytes));
            children.push(Child { key: child.key.clone(), node, tree_bytes });
        }
        if !moves {
            return Ok(None);
        }
        self.put(&Node::Inner(Inner { level: inner.level, children })).map(Some)
    }

    fn child(
        &mut self,
        level: u8,
        child: &Child,
        end: Option<&[u8]>,
    ) -> Result<Option<(NodeRef, u64)>, TreeError> {
        // A leaf that stays need not be read.
        if level == 1 && !self.packs.contains(&child.node.slot.pack) {
            return Ok(None);
        }
        let node = self.nodes.child_before(level, child, end)?;
        self.node(&child.node, &node, end)
    }

    fn put(&mut self, node: &Node) -> Result<(NodeRef, u64), TreeError> {
        let at = (self.write)(node)?;
        match node {
            Node::Leaf(_) => self.written.leaves += 1,
            Node::Inner(_) => self.written.inners += 1,
        }
        self.written.bytes += u64::from(at.slot.len);
        Ok((at, tree_bytes(&at, node)))
    }
}
