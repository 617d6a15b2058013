//! One level of a merge: takes changes of the items of a level (records, or children of inner
//! nodes) in key order, and gives the changes of its nodes, which are the items one level up.
//!
//! The old nodes that hold a changed item are read with the rest of their run, for where a run is
//! cut depends on all of it; every other node is left alone, unread. The items go through `run`,
//! which is closed and cut into nodes each time a natural boundary comes by. So memory holds one
//! run per level, however many changes there are.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{Child, Inner, Key, Node, NodeRef, child_len, record_len};

use super::TreeError;
use super::boundary::Rule;
use super::cursor::{At, Cursor};
use super::nodes::Nodes;

/// Puts a node into the store-to-be. The reference may be provisional.
pub(super) type WriteNode<'a> = dyn FnMut(&Node) -> Result<NodeRef, TreeError> + 'a;

/// What a merge reads from and writes to.
pub(super) struct Merging<'a, 'w> {
    pub(super) old: Nodes<'a>,
    pub(super) rule: Rule<'a>,
    pub(super) write: &'w mut WriteNode<'w>,
    pub(super) written: Written,
}

impl Merging<'_, '_> {
    fn begins_node(&self, key: &[u8], level: u8) -> bool {
        self.rule.is_natural(self.rule.priority(key), level)
    }
}

/// What a merge has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) leaves: u64,
    pub(super) inners: u64,
    pub(super) bytes: u64,
}

/// An item's value.
#[derive(Clone)]
pub(super) enum Value {
    Record(Bytes),
    Child(ChildValue),
}

/// A child as an item one level up.
#[derive(Clone)]
pub(super) struct ChildValue {
    pub(super) node: NodeRef,
    pub(super) tree_bytes: u64,
    pub(super) origin: Origin,
}

/// Where a child comes from. A node that was just written can't be read yet, so what must be
/// known of it is kept: its only child, if it has just one.
#[derive(Clone)]
pub(super) enum Origin {
    Old,
    Written { only: Option<Box<ChildValue>> },
}

/// A change of a level's items: a new value, or none for a removed item.
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) value: Option<Value>,
}

struct Item {
    key: Key,
    value: Value,
    len: usize,
    priority: u64,
}

/// One level of a merge.
pub(super) struct Level<'a> {
    level: u8,
    /// The old tree at this level; none above the node above the old root.
    old: Option<Cursor<'a>>,
    /// Above the old root: all items of the level pass through here.
    sees_all: bool,
    /// Whether `old` stands in a run that is being merged.
    active: bool,
    run: Vec<Item>,
    /// Old nodes of which items were taken since the last cut, in order.
    taken: VecDeque<(Key, Arc<Node>)>,
    wrote: bool,
    last: Option<Key>,
    /// Changes for the level above, in key order.
    out: Vec<Change>,
}

impl<'a> Level<'a> {
    pub(super) fn new(level: u8, old: Nodes<'a>) -> Result<Level<'a>, TreeError> {
        let cursor = Cursor::new(old)?;
        let above_root = cursor.top_level();
        let sees_all = above_root.is_none_or(|above_root| level >= above_root);
        let old = above_root.filter(|&above_root| level <= above_root).map(|_| cursor);
        Ok(Level {
            level,
            old,
            sees_all,
            active: false,
            run: Vec::new(),
            taken: VecDeque::new(),
            wrote: false,
            last: None,
            out: Vec::new(),
        })
    }

    /// Takes the next change.
    pub(super) fn push(
        &mut self,
        change: Change,
        merging: &mut Merging<'a, '_>,
    ) -> Result<(), TreeError> {
        if self.last.as_ref().is_some_and(|last| *last >= change.key) {
            return Err(TreeError::BadChange("keys are not in order"));
        }
        if self.active {
            self.copy_until(Some(change.key.as_bytes()), merging)?;
        }
        if !self.active {
            self.begin_run(&change, merging)?;
            self.copy_until(Some(change.key.as_bytes()), merging)?;
        }
        self.drop_old(&change.key)?;
        self.last = Some(change.key.clone());
        match change.value {
            Some(value) => self.append(change.key, value, merging),
            None => Ok(()),
        }
    }

    /// Changes for the level above.
    pub(super) fn take_out(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.out)
    }

    /// Ends the changes. If all of this level turns out to be at most one node, that is the
    /// root, and nothing is written: `Ok(Some(root))`.
    pub(super) fn finish(
        &mut self,
        merging: &mut Merging<'a, '_>,
    ) -> Result<Option<Option<ChildValue>>, TreeError> {
        if self.active {
            self.copy_until(None, merging)?;
        }
        if self.sees_all && self.level > 0 && !self.wrote && self.run.len() <= 1 {
            return Ok(Some(self.run.pop().and_then(|item| match item.value {
                Value::Child(child) => Some(child),
                Value::Record(_) => None,
            })));
        }
        self.close_run(None, merging)?;
        Ok(None)
    }

    /// Stands `old` at the run that the change falls into.
    fn begin_run(&mut self, change: &Change, merging: &Merging<'a, '_>) -> Result<(), TreeError> {
        self.active = true;
        let Some(old) = &mut self.old else { return Ok(()) };
        old.seek_node(change.key.as_bytes(), self.level)?;
        // Without its first item, a run is the continuation of the one before.
        let mut joins_previous = change.value.is_none() && old.key() == Some(change.key.as_bytes());
        while let Some(first) = old.key() {
            let natural = merging.begins_node(first, self.level);
            if (natural && !joins_previous) || !old.previous_node()? {
                break;
            }
            joins_previous = false;
        }
        self.enter();
        Ok(())
    }

    /// Moves old items below `until` into the run. Stops being active where the old and the new
    /// tree agree again: at an old node that begins with a natural boundary.
    fn copy_until(
        &mut self,
        until: Option<&[u8]>,
        merging: &mut Merging<'a, '_>,
    ) -> Result<(), TreeError> {
        while let Some(old) = &mut self.old {
            let Some(key) = old.key() else { break };
            if until.is_some_and(|until| key >= until) {
                break;
            }
            if old.level() > Some(self.level) {
                if merging.begins_node(key, self.level) {
                    self.active = false;
                    return self.close_run(None, merging);
                }
                self.enter_next()?;
                continue;
            }
            let (key, value) = match old.at() {
                Some(At::Record(key, value)) => (key, Value::Record(value)),
                Some(At::Child(_, child)) => (child.key.clone(), Value::old_child(child)),
                None => break,
            };
            old.skip();
            self.append(key, value, merging)?;
        }
        Ok(())
    }

    /// Leaves out the old item with this key, if there is one.
    fn drop_old(&mut self, key: &Key) -> Result<(), TreeError> {
        let is_here = |old: &Cursor<'_>| old.key() == Some(key.as_bytes());
        if !self.old.as_ref().is_some_and(is_here) {
            return Ok(());
        }
        self.enter_next()?;
        if let Some(old) = &mut self.old {
            old.skip();
        }
        Ok(())
    }

    /// Goes down to the old node that begins here, if `old` is not in a node of the level.
    fn enter_next(&mut self) -> Result<(), TreeError> {
        let mut entered = false;
        while let Some(old) = self.old.as_mut().filter(|old| old.level() > Some(self.level)) {
            old.descend()?;
            entered = true;
        }
        if entered {
            self.enter();
        }
        Ok(())
    }

    /// Notes that items of the old node at hand are about to be taken.
    fn enter(&mut self) {
        let Some(old) = &self.old else { return };
        // The node above the old root is no item of the level above.
        if let (Some(child), Some(node)) = (old.node_as_child(), old.node()) {
            self.taken.push_back((child.key.clone(), Arc::clone(node)));
        }
    }

    fn append(
        &mut self,
        key: Key,
        value: Value,
        merging: &mut Merging<'a, '_>,
    ) -> Result<(), TreeError> {
        let priority = merging.rule.priority(key.as_bytes());
        if merging.rule.is_natural(priority, self.level) {
            self.close_run(Some(&key), merging)?;
        }
        let len = match &value {
            Value::Record(bytes) => record_len(key.as_bytes(), bytes),
            Value::Child(_) => child_len(key.as_bytes()),
        };
        self.run.push(Item { key, value, len, priority });
        Ok(())
    }

    /// Cuts the run into nodes, writes those that are new, and tells the level above. `next` is
    /// the item that begins the next run; none if old and new tree agree from here on.
    fn close_run(
        &mut self,
        next: Option<&Key>,
        merging: &mut Merging<'a, '_>,
    ) -> Result<(), TreeError> {
        let run = std::mem::take(&mut self.run);
        let lens: Vec<_> = run.iter().map(|item| (item.len, item.priority)).collect();
        let mut from = 0;
        for to in merging.rule.cut(&lens) {
            let piece = &run[from..to];
            from = to;
            // Old nodes that began before this piece are gone.
            while let Some((key, _)) = self.taken.pop_front_if(|(key, _)| *key < piece[0].key) {
                self.out.push(Change { key, value: None });
            }
            let old = self.taken.pop_front_if(|(key, _)| *key == piece[0].key);
            if !old.is_some_and(|(_, node)| is_same(&node, piece)) {
                let child = write(self.level, piece, merging)?;
                self.wrote = true;
                let value = Some(Value::Child(child));
                self.out.push(Change { key: piece[0].key.clone(), value });
            }
        }
        let is_before = |key: &Key| next.is_none_or(|next| key < next);
        while let Some((key, _)) = self.taken.pop_front_if(|(key, _)| is_before(key)) {
            self.out.push(Change { key, value: None });
        }
        Ok(())
    }
}

impl Value {
    fn old_child(child: &Child) -> Value {
        let Child { node, tree_bytes, .. } = *child;
        Value::Child(ChildValue { node, tree_bytes, origin: Origin::Old })
    }
}

/// Whether an old node holds just these items.
fn is_same(node: &Node, piece: &[Item]) -> bool {
    if node.len() != piece.len() {
        return false;
    }
    match node {
        Node::Leaf(leaf) => leaf.records().zip(piece).all(|((key, bytes), item)| {
            let same = |value: &Value| matches!(value, Value::Record(own) if *own == bytes);
            key == item.key.as_bytes() && same(&item.value)
        }),
        Node::Inner(inner) => inner.children.iter().zip(piece).all(|(child, item)| {
            let same = |value: &Value| {
                matches!(value, Value::Child(own)
                    if own.node == child.node && own.tree_bytes == child.tree_bytes)
            };
            child.key == item.key && same(&item.value)
        }),
    }
}

fn write(
    level: u8,
    piece: &[Item],
    merging: &mut Merging<'_, '_>,
) -> Result<ChildValue, TreeError> {
    let records = piece.iter().filter_map(|item| match &item.value {
        Value::Record(bytes) => Some((&item.key, &bytes[..])),
        Value::Child(_) => None,
    });
    let children: Vec<_> = piece.iter().filter_map(as_child).collect();
    let below = children.iter().fold(0_u64, |sum, child| sum.saturating_add(child.tree_bytes));
    let only = match piece {
        [Item { value: Value::Child(only), .. }] => Some(Box::new(only.clone())),
        _ => None,
    };
    let node = match Node::leaf(records) {
        Some(leaf) => leaf,
        None => Node::Inner(Inner { level, children }),
    };
    let node_ref = (merging.write)(&node)?;
    let frame_bytes = u64::from(node_ref.slot.len);
    match node {
        Node::Leaf(_) => merging.written.leaves += 1,
        Node::Inner(_) => merging.written.inners += 1,
    }
    merging.written.bytes += frame_bytes;
    let tree_bytes = below.saturating_add(frame_bytes);
    Ok(ChildValue { node: node_ref, tree_bytes, origin: Origin::Written { only } })
}

fn as_child(item: &Item) -> Option<Child> {
    match &item.value {
        Value::Child(child) => {
            let ChildValue { node, tree_bytes, .. } = *child;
            Some(Child { key: item.key.clone(), node, tree_bytes })
        }
        Value::Record(_) => None,
    }
}
