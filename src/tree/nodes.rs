//! Reading nodes with the checks that make a tree of them: levels go down by one, keys are the
//! ones that the parents name. So a damaged or hostile store can't make a walk go in circles.

use std::sync::Arc;

use bytes::Bytes;

use crate::format::{Child, Inner, Key, Node, NodeRef};

use super::TreeError;

/// Gets a node from wherever nodes are.
pub(super) type ReadNode<'a> = dyn Fn(&NodeRef) -> Result<Arc<Node>, TreeError> + 'a;

/// A tree as its root and a way to read nodes.
#[derive(Clone, Copy)]
pub(super) struct Nodes<'a> {
    pub(super) root: Option<NodeRef>,
    pub(super) read: &'a ReadNode<'a>,
}

impl Nodes<'_> {
    /// Reads the child of a node of `level`.
    pub(super) fn child(&self, level: u8, child: &Child) -> Result<Arc<Node>, TreeError> {
        let node = (self.read)(&child.node)?;
        if node.level().checked_add(1) != Some(level) {
            return Err(TreeError::Corrupt { node: child.node.id, why: "level" });
        }
        if node.key(0) != child.key.as_bytes() {
            return Err(TreeError::Corrupt { node: child.node.id, why: "first key" });
        }
        Ok(node)
    }

    /// As [`Nodes::child`], for whoever goes through many: no key in it may reach `end`, the first
    /// key of what follows it. Else a store could share subtrees so that going through a tree of
    /// a hundred nodes never ends.
    pub(super) fn child_before(
        &self,
        level: u8,
        child: &Child,
        end: Option<&[u8]>,
    ) -> Result<Arc<Node>, TreeError> {
        let node = self.child(level, child)?;
        if end.is_some_and(|end| node.key(node.len() - 1) >= end) {
            return Err(TreeError::Corrupt { node: child.node.id, why: "last key" });
        }
        Ok(node)
    }

    /// The value at `key`.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TreeError> {
        let Some(root) = &self.root else { return Ok(None) };
        let mut node = (self.read)(root)?;
        loop {
            let next = match &*node {
                Node::Leaf(leaf) => return Ok(leaf.search(key).ok().map(|at| leaf.value(at))),
                Node::Inner(inner) => match child_of(inner, key) {
                    Some(at) => self.child(inner.level, &inner.children[at])?,
                    None => return Ok(None),
                },
            };
            node = next;
        }
    }

    /// The nodes from the root to the leaf where `key` is or would be.
    pub(super) fn path_to(&self, key: &[u8]) -> Result<Vec<NodeRef>, TreeError> {
        let mut path = Vec::new();
        let Some(root) = self.root else { return Ok(path) };
        path.push(root);
        let mut node = (self.read)(&root)?;
        while let Node::Inner(inner) = &*node {
            let child = &inner.children[child_of(inner, key).unwrap_or(0)];
            path.push(child.node);
            node = self.child(inner.level, child)?;
        }
        Ok(path)
    }

    /// A node above the root with the root as its only child; none for an empty tree. It makes
    /// the root a child like any other.
    pub(super) fn above_root(&self) -> Result<Option<Arc<Node>>, TreeError> {
        let Some(root) = self.root else { return Ok(None) };
        let node = (self.read)(&root)?;
        let key = Key::from_bytes(node.key(0));
        let key = key.map_err(|_| TreeError::Corrupt { node: root.id, why: "first key" })?;
        let tree_bytes = tree_bytes(&root, &node);
        let children = vec![Child { key, node: root, tree_bytes }];
        Ok(Some(Arc::new(Node::Inner(Inner { level: node.level() + 1, children }))))
    }
}

/// The children of a node, each with the first key of what follows it in the tree; `end` is what
/// follows the node itself.
pub(super) fn children_with_ends<'a>(
    inner: &'a Inner,
    end: Option<&'a [u8]>,
) -> impl Iterator<Item = (&'a Child, Option<&'a [u8]>)> {
    let firsts = inner.children.iter().skip(1).map(|child| Some(child.key.as_bytes()));
    inner.children.iter().zip(firsts.chain([end]))
}

/// Which child's subtree holds `key`; none if it is before the first.
pub(super) fn child_of(inner: &Inner, key: &[u8]) -> Option<usize> {
    let after = inner.children.partition_point(|child| child.key.as_bytes() <= key);
    after.checked_sub(1)
}

/// Bytes of all frames of the subtree of `node`.
pub(super) fn tree_bytes(at: &NodeRef, node: &Node) -> u64 {
    let below = match node {
        Node::Leaf(_) => 0,
        Node::Inner(inner) => {
            inner.children.iter().fold(0_u64, |sum, child| sum.saturating_add(child.tree_bytes))
        }
    };
    below.saturating_add(u64::from(at.slot.len))
}
