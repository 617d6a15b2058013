//! What the records of one tree say of each inode together: attributes, names, link counts,
//! parents, orphans. Kept up to date from snapshot to snapshot by what changed between them, so
//! that a thousand restore points cost little more than one.
//!
//! About 100 bytes an inode.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::types::{Ino, Kind};

use super::records::Record;

/// Inodes to look at again are told apart up to this many; beyond, all are looked at.
const TOUCHED_MAX: usize = 1 << 16;

/// Bits of a counter of entries of one kind.
const KIND_BITS: u32 = 9;

/// What is wrong with an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    NoAttributes,
    NoName,
    LinkCount,
    KindOfEntry,
    Names,
    Parent,
    Circle,
    Foreign,
    Allocated,
    Orphan,
    Root,
}

impl Rule {
    /// In words, of one or more inodes.
    pub fn what(self) -> &'static str {
        match self {
            Rule::NoAttributes => "has names or content, but no attributes",
            Rule::NoName => "has attributes, but no name and no orphan's record",
            Rule::LinkCount => "has another link count than names",
            Rule::KindOfEntry => "is of another kind than its entry says",
            Rule::Names => "is a directory with more than one name",
            Rule::Parent => "is a directory that names another parent than the one that it is in",
            Rule::Circle => "is a directory inside itself, or below one that is",
            Rule::Foreign => "has records that its kind can't have",
            Rule::Allocated => "has more content than it says",
            Rule::Orphan => "is named as an orphan and has names or links",
            Rule::Root => "is the root, and missing or no directory",
        }
    }
}

/// Sums over the records of an inode; each can be taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    attrs: u8,
    orphans: u8,
    kind: u8,
    nlink: u32,
    links: u32,
    subdirectories: u32,
    /// Entries inside it.
    entries: u32,
    /// A small counter for each kind that entries say it is of.
    kinds: u64,
    /// Directories that name it, added up.
    named_in: u64,
    parent: u64,
    allocated: u64,
    covered: u64,
}

/// Totals, as a snapshot has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub inodes: u64,
    pub bytes: u64,
}

/// The inodes of one tree.
#[derive(Debug, Default)]
pub struct Inodes {
    list: BTreeMap<u64, Sums>,
    touched: HashSet<u64>,
    all_touched: bool,
    totals: Totals,
    /// What is wrong now.
    wrong: BTreeSet<(Rule, u64)>,
}

impl Inodes {
    /// Adds a record, or takes one back.
    pub fn apply(&mut self, record: &Record<'_>, add: bool) {
        match record {
            Record::Attr(ino, attr) => {
                let sums = self.sums(*ino);
                step_u8(&mut sums.attrs, add);
                sums.nlink = if add { attr.nlink } else { 0 };
                sums.kind = if add { attr.kind as u8 } else { 0 };
                sums.parent = if add { attr.parent.0 } else { 0 };
                sums.allocated = if add { attr.allocated } else { 0 };
                if attr.nlink > 0 {
                    step_by(&mut self.totals.inodes, 1, add);
                    step_by(&mut self.totals.bytes, attr.allocated, add);
                }
            }
            Record::Entry(directory, child, kind, _) => {
                let sums = self.sums(*child);
                step(&mut sums.links, add);
                let weight = 1_u64 << (KIND_BITS * (*kind as u32 - 1));
                step_by(&mut sums.kinds, weight, add);
                step_by(&mut sums.named_in, directory.0, add);
                let sums = self.sums(*directory);
                step(&mut sums.entries, add);
                if *kind == Kind::Directory {
                    step(&mut sums.subdirectories, add);
                }
            }
            Record::Xattr(ino) => _ = self.sums(*ino),
            Record::Extent(ino, extent) => {
                step_by(&mut self.sums(*ino).covered, extent.len, add);
            }
            Record::Orphan(ino) => step_u8(&mut self.sums(*ino).orphans, add),
        }
    }

    fn sums(&mut self, ino: Ino) -> &mut Sums {
        if !self.all_touched {
            self.touched.insert(ino.0);
            if self.touched.len() > TOUCHED_MAX {
                self.all_touched = true;
                self.touched = HashSet::new();
            }
        }
        self.list.entry(ino.0).or_default()
    }

    /// Looks at every inode whose records changed since the last call. To be called when all
    /// records of a tree have been applied.
    pub fn check(&mut self) {
        let touched: Vec<u64> = if std::mem::take(&mut self.all_touched) {
            self.wrong.clear();
            self.list.retain(|_, sums| *sums != Sums::default());
            self.list.keys().copied().collect()
        } else {
            // A circle ends for all who are in it when one of them goes.
            let circles = self.wrong.range((Rule::Circle, 0)..=(Rule::Circle, u64::MAX));
            self.touched.extend(circles.map(|(_, ino)| *ino));
            self.touched.drain().collect()
        };
        self.touched.clear();
        let mut known = HashMap::new();
        for ino in touched {
            for rule in ALL {
                self.wrong.remove(&(rule, ino));
            }
            match self.list.get(&ino) {
                Some(sums) if *sums == Sums::default() => _ = self.list.remove(&ino),
                None => {}
                Some(sums) => {
                    let rule = broken(ino, sums).or_else(|| self.circle(ino, sums, &mut known));
                    self.wrong.extend(rule.map(|rule| (rule, ino)));
                }
            }
        }
        let root = self.list.get(&Ino::ROOT.0);
        if !root.is_some_and(|sums| sums.attrs == 1 && sums.kind == Kind::Directory as u8)
            && !self.list.is_empty()
        {
            self.wrong.insert((Rule::Root, Ino::ROOT.0));
        }
    }

    /// Whether a directory's parents lead in a circle. What is found out of the directories on the
    /// way is remembered in `known`.
    fn circle(&self, ino: u64, sums: &Sums, known: &mut HashMap<u64, bool>) -> Option<Rule> {
        if sums.kind != Kind::Directory as u8 {
            return None;
        }
        let mut path = HashSet::new();
        let mut at = ino;
        let circles = loop {
            if at == Ino::ROOT.0 {
                break false;
            }
            if let Some(&circles) = known.get(&at) {
                break circles;
            }
            if !path.insert(at) {
                break true;
            }
            match self.list.get(&at) {
                Some(sums) if sums.kind == Kind::Directory as u8 => at = sums.parent,
                // Its parent is none: that is wrong there.
                _ => break false,
            }
        };
        known.extend(path.into_iter().map(|at| (at, circles)));
        circles.then_some(Rule::Circle)
    }

    /// Which rules are broken, by whom, in order.
    pub fn wrong(&self) -> impl Iterator<Item = (Rule, u64)> {
        self.wrong.iter().copied()
    }

    /// What the tree adds up to.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}

const ALL: [Rule; 11] = [
    Rule::NoAttributes,
    Rule::NoName,
    Rule::LinkCount,
    Rule::KindOfEntry,
    Rule::Names,
    Rule::Parent,
    Rule::Circle,
    Rule::Foreign,
    Rule::Allocated,
    Rule::Orphan,
    Rule::Root,
];

/// The first rule that an inode breaks by itself.
fn broken(ino: u64, sums: &Sums) -> Option<Rule> {
    if sums.attrs == 0 {
        return Some(Rule::NoAttributes);
    }
    let is_root = ino == Ino::ROOT.0;
    let is_dir = sums.kind == Kind::Directory as u8;
    let is_file = sums.kind == Kind::File as u8;
    if sums.orphans > 0 && (sums.links > 0 || sums.nlink > 0) {
        return Some(Rule::Orphan);
    }
    if sums.links == 0 && sums.orphans == 0 && !is_root {
        return Some(Rule::NoName);
    }
    let weight =
        u64::from(sums.links).wrapping_mul(1_u64 << (KIND_BITS * (u32::from(sums.kind) - 1)));
    if sums.kinds != weight {
        return Some(Rule::KindOfEntry);
    }
    if !is_dir && sums.entries > 0 || !is_file && sums.covered > 0 {
        return Some(Rule::Foreign);
    }
    if is_dir && sums.links > u32::from(!is_root) {
        return Some(Rule::Names);
    }
    let parent = if is_root { Ino::ROOT.0 } else { sums.named_in };
    if is_dir && sums.orphans == 0 && sums.parent != parent {
        return Some(Rule::Parent);
    }
    let links = match (sums.orphans, is_dir) {
        (0, true) => sums.subdirectories.wrapping_add(2),
        (0, false) => sums.links,
        _ => 0,
    };
    if sums.nlink != links {
        return Some(Rule::LinkCount);
    }
    (sums.covered > sums.allocated).then_some(Rule::Allocated)
}

fn step_u8(sum: &mut u8, add: bool) {
    *sum = if add { sum.wrapping_add(1) } else { sum.wrapping_sub(1) };
}

fn step(sum: &mut u32, add: bool) {
    *sum = if add { sum.wrapping_add(1) } else { sum.wrapping_sub(1) };
}

fn step_by(sum: &mut u64, by: u64, add: bool) {
    *sum = if add { sum.wrapping_add(by) } else { sum.wrapping_sub(by) };
}
