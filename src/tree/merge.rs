//! Merging changes into a tree: a stack of levels, each fed by the one below (see `level`).

use bytes::Bytes;

use crate::format::{Child, Key, KeyParts, Node, NodeRef, VALUE_LEN_MAX};

use super::TreeError;
use super::boundary::Rule;
use super::level::{Change, ChildValue, Level, Merging, Origin, Value, WriteNode, Written};
use super::nodes::{Nodes, tree_bytes};

/// Changes of records in ascending key order: a new value, or none to remove. Removing what is
/// not there is no change.
pub type Changes<'a> = dyn Iterator<Item = Result<(Key, Option<Bytes>), TreeError>> + 'a;

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Root of the new tree; none if it has no records. Unchanged if nothing changed. If it was
    /// written, it is provisional until its writer has finished.
    pub root: Option<NodeRef>,
    /// Bytes of all frames of the new tree.
    pub tree_bytes: u64,
    /// New leaves.
    pub leaves_written: u64,
    /// New inner nodes.
    pub inners_written: u64,
    /// Bytes of the new nodes' frames.
    pub bytes_written: u64,
}

/// Merges `changes` into the tree `old`.
pub(super) fn merge<'a, 'w>(
    old: Nodes<'a>,
    rule: Rule<'a>,
    changes: &mut Changes<'_>,
    write: &'w mut WriteNode<'w>,
) -> Result<Merged, TreeError> {
    let mut merging = Merging { old, rule, write, written: Written::default() };
    let mut levels = Vec::new();
    for change in changes {
        let (key, value) = change?;
        check(&key, value.as_deref())?;
        let value = value.map(Value::Record);
        push(&mut levels, 0, Change { key, value }, &mut merging)?;
    }
    let mut root = None;
    let mut index = 0;
    while index < levels.len() {
        let finished = levels[index].finish(&mut merging)?;
        if let Some(top) = finished {
            root = Some(top);
            break;
        }
        for change in levels[index].take_out() {
            push(&mut levels, index + 1, change, &mut merging)?;
        }
        index += 1;
    }
    let Written { leaves, inners, bytes } = merging.written;
    let (root, tree_bytes) = match root {
        Some(root) => root.map(|root| lowest(old, root)).transpose()?.unzip(),
        None => unchanged(old)?.unzip(),
    };
    Ok(Merged {
        root,
        tree_bytes: tree_bytes.unwrap_or(0),
        leaves_written: leaves,
        inners_written: inners,
        bytes_written: bytes,
    })
}

/// Gives a change to a level, and what follows from it to those above. Depth: the tree's height.
fn push<'a>(
    levels: &mut Vec<Level<'a>>,
    index: usize,
    change: Change,
    merging: &mut Merging<'a, '_>,
) -> Result<(), TreeError> {
    if index == levels.len() {
        let level = u8::try_from(index).map_err(|_| TreeError::BadChange("too many levels"))?;
        levels.push(Level::new(level, merging.old)?);
    }
    levels[index].push(change, merging)?;
    for change in levels[index].take_out() {
        push(levels, index + 1, change, merging)?;
    }
    Ok(())
}

fn check(key: &Key, value: Option<&[u8]>) -> Result<(), TreeError> {
    if matches!(key.parts(), None | Some(KeyParts::Local(_))) {
        return Err(TreeError::BadChange("local state or no key"));
    }
    if value.is_some_and(|value| value.len() > VALUE_LEN_MAX) {
        return Err(TreeError::BadChange("a value is too long"));
    }
    Ok(())
}

fn unchanged(old: Nodes<'_>) -> Result<Option<(NodeRef, u64)>, TreeError> {
    let Some(root) = old.root else { return Ok(None) };
    let node = (old.read)(&root)?;
    Ok(Some((root, tree_bytes(&root, &node))))
}

/// The lowest node that still holds the whole tree: below a node with one child stands another
/// one that will do, and equal trees must have equal roots.
fn lowest(old: Nodes<'_>, mut root: ChildValue) -> Result<(NodeRef, u64), TreeError> {
    loop {
        root = match root.origin {
            Origin::Written { only: Some(only) } => *only,
            Origin::Written { only: None } => break,
            Origin::Old => {
                let node = (old.read)(&root.node)?;
                let Node::Inner(inner) = &*node else { break };
                let [only] = inner.children.as_slice() else { break };
                let Child { node, tree_bytes, .. } = *only;
                ChildValue { node, tree_bytes, origin: Origin::Old }
            }
        };
    }
    Ok((root.node, root.tree_bytes))
}
