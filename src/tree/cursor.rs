//! A place in a tree: at a record, or at a whole subtree that has not been looked into.

use std::sync::Arc;

use bytes::Bytes;

use crate::format::{Child, Key, Node};

use super::TreeError;
use super::nodes::{Nodes, child_of};

/// A place in a tree, moving forward.
pub(super) struct Cursor<'a> {
    nodes: Nodes<'a>,
    /// From the node above the root down; each with the item that the place is at or below.
    /// Empty for an empty tree. At the end, the only step's index is its node's length.
    steps: Vec<Step>,
}

struct Step {
    node: Arc<Node>,
    index: usize,
}

/// What is at a place.
pub(super) enum At<'c> {
    /// A record.
    Record(Key, Bytes),
    /// A subtree of this level.
    Child(u8, &'c Child),
}

impl<'a> Cursor<'a> {
    /// At the whole tree.
    pub(super) fn new(nodes: Nodes<'a>) -> Result<Cursor<'a>, TreeError> {
        let above_root = nodes.above_root()?;
        let steps = above_root.into_iter().map(|node| Step { node, index: 0 }).collect();
        Ok(Cursor { nodes, steps })
    }

    /// Level of the node above the root; none for an empty tree.
    pub(super) fn top_level(&self) -> Option<u8> {
        self.steps.first().map(|step| step.node.level())
    }

    /// Level of the node whose item the place is at; none for an empty tree.
    pub(super) fn level(&self) -> Option<u8> {
        self.steps.last().map(|step| step.node.level())
    }

    /// First key of what is here; none at the end.
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.here().map(|step| step.node.key(step.index))
    }

    /// What is here; none at the end.
    pub(super) fn at(&self) -> Option<At<'_>> {
        let step = self.here()?;
        Some(match &*step.node {
            Node::Leaf(leaf) => {
                let (key, value) = leaf.record(step.index);
                At::Record(key, value)
            }
            Node::Inner(inner) => At::Child(inner.level - 1, &inner.children[step.index]),
        })
    }

    /// The node whose item the place is at.
    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.steps.last().map(|step| &step.node)
    }

    /// The child that [`Cursor::node`] is of its parent; none for the node above the root.
    pub(super) fn node_as_child(&self) -> Option<&Child> {
        let parent = &self.steps[self.steps.len().checked_sub(2)?];
        match &*parent.node {
            Node::Inner(inner) => inner.children.get(parent.index),
            Node::Leaf(_) => None,
        }
    }

    /// Into the subtree here, to its first item. At a record or the end: stays.
    pub(super) fn descend(&mut self) -> Result<(), TreeError> {
        let Some(step) = self.here() else { return Ok(()) };
        if let Node::Inner(inner) = &*step.node {
            let after = |step: &Step| step.index + 1 < step.node.len();
            let fork = self.steps.iter().rfind(|step| after(step));
            let end = fork.map(|step| step.node.key(step.index + 1));
            let child = &inner.children[step.index];
            let node = self.nodes.child_before(inner.level, child, end)?;
            self.steps.push(Step { node, index: 0 });
        }
        Ok(())
    }

    /// Past what is here; then at what follows, as high up in the tree as it begins there.
    pub(super) fn skip(&mut self) {
        while let Some(step) = self.steps.last_mut() {
            step.index = (step.index + 1).min(step.node.len());
            if step.index < step.node.len() || self.steps.len() == 1 {
                return;
            }
            self.steps.pop();
        }
    }

    /// To the first record whose key is not below `key`, or to the subtree that begins with it: the
    /// records wanted may end before, and so it is not looked into.
    pub(super) fn seek(&mut self, key: &[u8]) -> Result<(), TreeError> {
        self.seek_node(key, 0)?;
        if let Some(step) = self.steps.last_mut() {
            step.index = step.node.search(key).unwrap_or_else(|after| after);
            if step.index >= step.node.len() {
                step.index -= 1;
                self.skip();
            }
        }
        Ok(())
    }

    /// Down to the record that begins here.
    pub(super) fn settle(&mut self) -> Result<(), TreeError> {
        while self.level().is_some_and(|level| level > 0) && self.key().is_some() {
            self.descend()?;
        }
        Ok(())
    }

    /// To the first item of the node of `level` where `key` is or would be. `level` is at most
    /// [`Cursor::top_level`].
    pub(super) fn seek_node(&mut self, key: &[u8], level: u8) -> Result<(), TreeError> {
        self.steps.truncate(1);
        let Some(top) = self.steps.first_mut() else { return Ok(()) };
        top.index = 0;
        while let Some(step) = self.steps.last_mut().filter(|step| step.node.level() > level) {
            if let Node::Inner(inner) = &*step.node {
                step.index = child_of(inner, key).unwrap_or(0);
            }
            self.descend()?;
        }
        Ok(())
    }

    /// From a node to the first item of the node before it on the same level. False, and stays,
    /// if it is the first.
    pub(super) fn previous_node(&mut self) -> Result<bool, TreeError> {
        let Some(level) = self.level() else { return Ok(false) };
        let above = &self.steps[..self.steps.len() - 1];
        let Some(fork) = above.iter().rposition(|step| step.index > 0) else { return Ok(false) };
        self.steps.truncate(fork + 1);
        self.steps[fork].index -= 1;
        while self.level().is_some_and(|here| here > level) {
            self.descend()?;
            let step = self.steps.last_mut().filter(|step| step.node.level() > level);
            if let Some(step) = step {
                step.index = step.node.len() - 1;
            }
        }
        Ok(true)
    }

    fn here(&self) -> Option<&Step> {
        self.steps.last().filter(|step| step.index < step.node.len())
    }
}
