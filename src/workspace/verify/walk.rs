//! Going through the trees of a workspace's snapshots, oldest first.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::format::{HashKeys, Head, Key, Leaf, head_key};
use crate::types::WorkspaceName;
use crate::workspace::WorkspaceError;

use super::inodes::{Inodes, Rule};
use super::nodes::{Nodes, Part, Visit};
use super::objects::{Sealed, Seen};
use super::packs::Packs;
use super::records::{Record, need_named, records};
use super::report::ProblemKind;
use super::spool::Spool;
use super::{Finding, Hit};

/// A tree that was looked at.
#[derive(Debug)]
pub struct Tree {
    pub workspace: WorkspaceName,
    pub snapshot: crate::types::SnapshotId,
    /// Its root; none: no records.
    pub root: Option<u32>,
    /// Inodes, as its snapshot says.
    pub inodes: u64,
}

/// What the trees are held against, and what is found.
pub struct Walk<'a> {
    pub spool: &'a Spool,
    pub keys: &'a HashKeys,
    pub packs: &'a mut Packs,
    pub nodes: &'a mut Nodes,
    pub findings: &'a mut Vec<Finding>,
    pub trees: &'a mut Vec<Tree>,
    /// Inodes with records that make no sense, by leaf.
    pub bad_inodes: &'a mut HashMap<u32, Vec<u64>>,
    pub records: &'a mut u64,
    pub paths_max: usize,
}

impl Walk<'_> {
    /// All snapshots of a workspace. `look` is called after each.
    pub fn workspace(
        &mut self,
        seen: &Seen,
        inline: &HashMap<Key, bytes::Bytes>,
        look: &mut dyn FnMut() -> Result<(), WorkspaceError>,
    ) -> Result<(), WorkspaceError> {
        let mut inodes = Inodes::default();
        let mut before = HashSet::new();
        let mut rules: BTreeMap<Rule, Finding> = BTreeMap::new();
        for sealed in &seen.snapshots {
            let root = sealed.root.map(|root| self.visit(&root, &sealed.tree_packs));
            let (parts, misplaced) = root.map(|root| self.nodes.line(root)).unwrap_or_default();
            for node in misplaced {
                let facts = self.nodes.get(node);
                let what = || format!("node {}: its keys are among another's", facts.id);
                self.packs.get_mut(facts.place.0).part_fault(ProblemKind::Structure, what);
            }
            let whole = parts.iter().filter(|part| !part.is_lost).map(|part| part.node);
            let leaves: HashSet<u32> = whole.collect();
            for (list, other, add) in [(&before, &leaves, false), (&leaves, &before, true)] {
                let mut changed: Vec<u32> = list.difference(other).copied().collect();
                changed.sort_unstable();
                for leaf in changed {
                    let leaf = self.nodes.leaf(leaf, self.packs, self.spool)?;
                    let right = records(&leaf, self.keys).flatten();
                    right.for_each(|record| inodes.apply(&record, add));
                }
            }
            let is_whole = |part: &Part| !part.is_lost && !self.bad_inodes.contains_key(&part.node);
            // Otherwise much would be found missing that is only not to be seen.
            if root.is_some() && parts.iter().all(is_whole) {
                inodes.check();
                self.judge(sealed, &inodes, &mut rules);
                self.bounds(sealed, &parts);
            }
            if sealed.is_newest
                && let Some(head) = &seen.head
            {
                self.inline(head, sealed, &parts, inline)?;
            }
            self.trees.push(Tree {
                workspace: sealed.workspace.clone(),
                snapshot: sealed.id,
                root,
                inodes: sealed.inodes,
            });
            before = leaves;
            look()?;
        }
        self.findings.extend(rules.into_values());
        Ok(())
    }

    fn visit(&mut self, root: &crate::format::NodeRef, listed: &[u32]) -> u32 {
        let (keys, bad, count) = (self.keys, &mut *self.bad_inodes, &mut *self.records);
        let mut on_leaf = |(number, pack): (u32, u32), leaf: &Leaf, packs: &mut Packs| {
            *count += leaf.len() as u64;
            for record in records(leaf, keys) {
                match record {
                    Ok(Record::Extent(_, extent)) => {
                        if let Some((pack, needed)) = need_named(&extent, packs) {
                            packs.get_mut(pack).need(needed);
                        }
                    }
                    Ok(_) => {}
                    Err((ino, why)) => {
                        let what = || format!("a record of inode {ino} makes no sense: {why}");
                        packs.get_mut(pack).part_fault(ProblemKind::Structure, what);
                        bad.entry(number).or_default().push(ino.0);
                    }
                }
            }
        };
        let (nodes, packs, spool) = (&mut *self.nodes, &mut *self.packs, self.spool);
        Visit { nodes, packs, spool, keys, on_leaf: &mut on_leaf, listed }.root(root)
    }

    /// What a whole tree adds up to.
    fn judge(&mut self, sealed: &Sealed, inodes: &Inodes, rules: &mut BTreeMap<Rule, Finding>) {
        let tree = self.trees.len();
        let totals = inodes.totals();
        if (totals.inodes, totals.bytes) != (sealed.inodes, sealed.bytes) {
            let what = format!(
                "it says that it has {} inodes and {} bytes; its tree has {} and {}",
                sealed.inodes, sealed.bytes, totals.inodes, totals.bytes
            );
            self.wrong(sealed, what);
        }
        for (rule, ino) in inodes.wrong() {
            let finding = rules.entry(rule).or_insert_with(|| Finding {
                object: sealed.key.clone(),
                kind: ProblemKind::Structure,
                what: format!("in its tree, inode {ino} {}", rule.what()),
                hit: Hit::Inodes(Vec::new()),
            });
            let Hit::Inodes(hits) = &mut finding.hit else { continue };
            if hits.last().is_none_or(|(last, ..)| *last != tree) {
                hits.push((tree, 0, Vec::new()));
            }
            if let Some((_, count, inos)) = hits.last_mut() {
                *count += 1;
                if inos.len() < self.paths_max {
                    inos.push(ino);
                }
            }
        }
    }

    fn wrong(&mut self, sealed: &Sealed, what: String) {
        let hit = Hit::Snapshot(sealed.workspace.clone(), sealed.id);
        let object = sealed.key.clone();
        self.findings.push(Finding { object, kind: ProblemKind::Structure, what, hit });
    }

    /// No inode may have a number that will be given out.
    fn bounds(&mut self, sealed: &Sealed, parts: &[Part]) {
        let Some(last) = parts.last() else { return };
        if let super::nodes::Body::Leaf { last } = &self.nodes.get(last.node).body
            && last.ino() >= sealed.next_ino
        {
            let (ino, next) = (last.ino(), sealed.next_ino);
            let what = format!("its tree has inode {ino}, and it says that {next} is the next new");
            self.wrong(sealed, what);
        }
    }

    /// The records that stand in the head must be those of its tree: a mount believes them.
    fn inline(
        &mut self,
        head: &Head,
        sealed: &Sealed,
        parts: &[Part],
        inline: &HashMap<Key, bytes::Bytes>,
    ) -> Result<(), WorkspaceError> {
        let mut wrong = Vec::new();
        let mut open: Option<(u32, Leaf)> = None;
        let mut sorted: Vec<_> = inline.iter().collect();
        sorted.sort_unstable();
        for (key, value) in sorted {
            let after = parts.partition_point(|part| self.nodes.get(part.node).first <= *key);
            let part = after.checked_sub(1).map(|at| parts[at]);
            let Some(part) = part.filter(|part| !part.is_lost) else { continue };
            if open.as_ref().is_none_or(|(number, _)| *number != part.node) {
                let leaf = self.nodes.leaf(part.node, self.packs, self.spool)?;
                open = Some((part.node, leaf));
            }
            let Some((_, leaf)) = &open else { continue };
            let found = leaf.search(key.as_bytes()).ok().map(|at| leaf.value(at));
            if found.as_ref() != Some(value) {
                wrong.push(key.ino().0);
            }
        }
        if !wrong.is_empty() {
            let count = wrong.len() as u64;
            let tree = self.trees.len();
            wrong.truncate(self.paths_max);
            self.findings.push(Finding {
                object: head_key(&head.workspace),
                kind: ProblemKind::Structure,
                what: format!(
                    "attributes that stand in it are not those in snapshot {}, and a mount \
                     believes them",
                    sealed.id
                ),
                hit: Hit::Inodes(vec![(tree, count, wrong)]),
            });
        }
        Ok(())
    }
}
