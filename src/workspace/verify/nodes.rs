//! The nodes of all trees, each looked at once however many snapshots share it, and each tree as
//! the line of its leaves.

use std::collections::HashMap;

use bytes::Bytes;

use crate::format::{
    FrameKind, HashKeys, Key, Leaf, Node, NodeRef, PackKind, PackSlot, decode_frame, decode_node,
};
use crate::types::NodeId;
use crate::workspace::WorkspaceError;

use super::packs::Packs;
use super::reading::scratch_failed;
use super::report::ProblemKind;
use super::spool::Spool;

/// What is remembered of a node: about half a kilobyte.
#[derive(Debug)]
pub struct NodeFacts {
    /// Its first key, as its parent names it.
    pub first: Key,
    /// Pack, frame offset and length.
    pub place: Place,
    pub id: NodeId,
    pub body: Body,
}

/// Where a frame is.
pub type Place = (u32, u32, u32);

#[derive(Debug)]
pub enum Body {
    /// It can't be read or makes no sense.
    Bad,
    /// Records, the last of them with this key.
    Leaf { last: Key },
    /// Children.
    Inner { level: u8, children: Box<[u32]> },
}

/// A part of a tree in the order of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    /// The node.
    pub node: u32,
    /// All below it is lost to this tree.
    pub is_lost: bool,
}

/// Gets each leaf when it is read for the first time, with its number and its pack's.
pub type OnLeaf<'a> = dyn FnMut((u32, u32), &Leaf, &mut Packs) + 'a;

/// All nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    list: Vec<NodeFacts>,
    index: HashMap<(Place, NodeId), u32>,
    /// Frames that are whole, whose content has the hash that is its name, and has another.
    hashes: (u64, u64),
}

/// What a parent says of a child.
struct Edge<'a> {
    node: &'a NodeRef,
    level: Option<u8>,
    first: Option<&'a Key>,
    tree_bytes: Option<u64>,
}

/// Reads nodes of one tree for the first time.
pub struct Visit<'a, 'l> {
    pub nodes: &'a mut Nodes,
    pub packs: &'a mut Packs,
    pub spool: &'a Spool,
    pub keys: &'a HashKeys,
    pub on_leaf: &'a mut OnLeaf<'l>,
    /// Packs that the snapshot lists, in ascending order.
    pub listed: &'a [u32],
}

impl Nodes {
    pub fn get(&self, number: u32) -> &NodeFacts {
        &self.list[number as usize]
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether no node has the hash that is its name, though frames are whole: then the store's
    /// secret is another one.
    pub fn no_hash_fits(&self) -> bool {
        self.hashes.0 == 0 && self.hashes.1 > 0
    }

    /// Numbers of all leaves that can be read.
    pub fn leaves(&self) -> impl Iterator<Item = u32> {
        let is_leaf = |(_, node): &(u32, &NodeFacts)| matches!(node.body, Body::Leaf { .. });
        (0..).zip(&self.list).filter(is_leaf).map(|(number, _)| number)
    }

    /// The tree below this root in the order of its keys, and why parts of it are lost that can
    /// be read: their keys are not where they should be. Each node comes up at most once: what
    /// does not lie behind all that came before it is not gone into.
    pub fn line(&self, root: u32) -> (Vec<Part>, Vec<u32>) {
        let mut line = Line { nodes: self, last: None, parts: Vec::new(), misplaced: Vec::new() };
        line.go(root);
        (line.parts, line.misplaced)
    }

    /// Reads a leaf that was read before.
    pub fn leaf(&self, number: u32, packs: &Packs, spool: &Spool) -> Result<Leaf, WorkspaceError> {
        let facts = self.get(number);
        let (pack, offset, len) = facts.place;
        let pack = packs.get(pack);
        let from = pack.spooled.as_ref().map_or(0, |range| range.start) + u64::from(offset);
        let frame = spool.read(from, len as usize).map_err(scratch_failed)?;
        let node = decode_frame(&frame).and_then(|(_, plain)| decode_node(plain.into(), pack.id));
        match node {
            Ok(Node::Leaf(leaf)) => Ok(leaf),
            _ => Err(scratch_failed(std::io::Error::other("it gives other bytes than it got"))),
        }
    }
}

struct Line<'a> {
    nodes: &'a Nodes,
    last: Option<&'a Key>,
    parts: Vec<Part>,
    misplaced: Vec<u32>,
}

impl<'a> Line<'a> {
    fn go(&mut self, node: u32) {
        let facts = self.nodes.get(node);
        if self.last.is_some_and(|last| facts.first <= *last) {
            self.misplaced.push(node);
            self.parts.push(Part { node, is_lost: true });
            return;
        }
        match &facts.body {
            Body::Bad => {
                self.last = Some(&facts.first);
                self.parts.push(Part { node, is_lost: true });
            }
            Body::Leaf { last } => {
                self.last = Some(last);
                self.parts.push(Part { node, is_lost: false });
            }
            Body::Inner { children, .. } => children.iter().for_each(|&child| self.go(child)),
        }
    }
}

impl Visit<'_, '_> {
    /// The number of a tree's root, whose nodes are all looked at then. None: it can't be read.
    pub fn root(&mut self, root: &NodeRef) -> u32 {
        self.edge(&Edge { node: root, level: None, first: None, tree_bytes: None })
    }

    fn edge(&mut self, edge: &Edge<'_>) -> u32 {
        let PackSlot { pack, offset, len } = edge.node.slot;
        let known = self.packs.find(&pack, PackKind::Tree);
        let Some(pack) = known.filter(|pack| self.listed.binary_search(pack).is_ok()) else {
            return self.unlisted(edge);
        };
        let place = (pack, offset, len);
        let id = edge.node.id;
        if let Some(&known) = self.nodes.index.get(&(place, id)) {
            return match self.misfit(known, edge) {
                None => known,
                Some(why) => self.bad(place, edge, ProblemKind::Structure, why),
            };
        }
        let number = match self.read(place, id) {
            Err((kind, why)) => self.bad(place, edge, kind, &why),
            Ok(node) => self.take(place, edge, &node),
        };
        self.nodes.index.insert((place, id), number);
        number
    }

    /// Why a node is not what a parent says.
    fn misfit(&self, number: u32, edge: &Edge<'_>) -> Option<&'static str> {
        let facts = self.nodes.get(number);
        let level = match &facts.body {
            // It is lost anyway, and its first key is what some parent says.
            Body::Bad => return None,
            Body::Leaf { .. } => 0,
            Body::Inner { level, .. } => *level,
        };
        if edge.level.is_some_and(|said| said != level) {
            Some("it is of another level than its parent says")
        } else if edge.first.is_some_and(|said| *said != facts.first) {
            Some("it has another first key than its parent says")
        } else {
            None
        }
    }

    fn unlisted(&mut self, edge: &Edge<'_>) -> u32 {
        let number = self.packs.name(edge.node.slot.pack, PackKind::Tree);
        let place = (number, edge.node.slot.offset, edge.node.slot.len);
        let why = "the snapshot does not list its pack";
        self.bad(place, edge, ProblemKind::Structure, why)
    }

    fn bad(&mut self, place: Place, edge: &Edge<'_>, kind: ProblemKind, why: &str) -> u32 {
        let id = edge.node.id;
        let offset = place.1;
        self.packs.get_mut(place.0).part_fault(kind, || format!("node {id} at {offset}: {why}"));
        let least = || Key::attr(crate::types::Ino::META);
        let first = edge.first.cloned().unwrap_or_else(least);
        self.push(NodeFacts { first, place, id, body: Body::Bad })
    }

    fn push(&mut self, facts: NodeFacts) -> u32 {
        self.nodes.list.push(facts);
        (self.nodes.list.len() - 1) as u32
    }

    fn read(
        &mut self,
        (pack, offset, len): Place,
        id: NodeId,
    ) -> Result<Node, (ProblemKind, String)> {
        let pack = self.packs.get(pack);
        let Some(spooled) = &pack.spooled else {
            return Err((ProblemKind::Missing, "its pack can't be read".to_owned()));
        };
        let end = u64::from(offset) + u64::from(len);
        if end > spooled.end - spooled.start {
            return Err((ProblemKind::Size, "it would be beyond its pack's end".to_owned()));
        }
        let damaged = |why: &dyn std::fmt::Display| (ProblemKind::Damaged, why.to_string());
        let frame = self.spool.read(spooled.start + u64::from(offset), len as usize);
        let frame = frame.map_err(|error| damaged(&error))?;
        let (header, plain) = decode_frame(&frame).map_err(|error| damaged(&error))?;
        if header.kind != FrameKind::Node || header.frame_len != len || header.id != id.0 {
            return Err(damaged(&"the frame there is another"));
        }
        let fits = self.keys.node(&plain) == id;
        self.nodes.hashes.0 += u64::from(fits);
        self.nodes.hashes.1 += u64::from(!fits);
        if !fits {
            return Err(damaged(&"the content does not have the hash that is its name"));
        }
        let node = decode_node(Bytes::from(plain), pack.id);
        node.map_err(|error| (ProblemKind::Structure, error.to_string()))
    }

    /// Checks a node that could be read against its parent, and goes on below it.
    fn take(&mut self, place: Place, edge: &Edge<'_>, node: &Node) -> u32 {
        let structure = ProblemKind::Structure;
        if edge.level.is_some_and(|said| said != node.level()) {
            return self.bad(place, edge, structure, "it is of another level than its parent says");
        }
        if edge.first.is_some_and(|said| said.as_bytes() != node.key(0)) {
            let why = "it has another first key than its parent says";
            return self.bad(place, edge, structure, why);
        }
        let below = match node {
            Node::Leaf(_) => 0,
            Node::Inner(inner) => {
                inner.children.iter().fold(0_u64, |sum, child| sum.saturating_add(child.tree_bytes))
            }
        };
        let tree_bytes = below.saturating_add(u64::from(place.2));
        if edge.tree_bytes.is_some_and(|said| said != tree_bytes) {
            let id = edge.node.id;
            let what = || format!("node {id}: its parent says another size of what is below it");
            self.packs.get_mut(place.0).part_fault(structure, what);
        }
        let key = |at: usize| Key::from_bytes(node.key(at)).map_err(|_| "its key is none");
        let (first, last) = match (key(0), key(node.len() - 1)) {
            (Ok(first), Ok(last)) => (first, last),
            (Err(why), _) | (_, Err(why)) => return self.bad(place, edge, structure, why),
        };
        let id = edge.node.id;
        match node {
            Node::Leaf(leaf) => {
                let number = self.push(NodeFacts { first, place, id, body: Body::Leaf { last } });
                (self.on_leaf)((number, place.0), leaf, self.packs);
                number
            }
            Node::Inner(inner) => {
                let mut children = Vec::with_capacity(inner.children.len());
                for child in &inner.children {
                    children.push(self.edge(&Edge {
                        node: &child.node,
                        level: Some(inner.level - 1),
                        first: Some(&child.key),
                        tree_bytes: Some(child.tree_bytes),
                    }));
                }
                let body = Body::Inner { level: inner.level, children: children.into() };
                self.push(NodeFacts { first, place, id, body })
            }
        }
    }
}
