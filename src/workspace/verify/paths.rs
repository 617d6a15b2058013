//! From what is wrong to the files that are hit, by snapshot. Only where something is wrong: it
//! looks at each leaf once or twice more, whatever the number of snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use crate::format::HashKeys;
use crate::types::{Ino, Kind};
use crate::workspace::WorkspaceError;

use super::nodes::{Nodes, Part};
use super::packs::Packs;
use super::records::{Record, last_ino_before, need, records};
use super::report::printable;
use super::spool::Spool;

/// Most directories above a file that are named.
const DEPTH_MAX: usize = 4096;

/// What looking needs.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    pub nodes: &'a Nodes,
    pub packs: &'a Packs,
    pub spool: &'a Spool,
    pub keys: &'a HashKeys,
    /// Inodes with records that make no sense, by leaf.
    pub bad_inodes: &'a HashMap<u32, Vec<u64>>,
    /// Paths told for each problem and snapshot.
    pub paths_max: usize,
}

/// Files of one snapshot that one pack's faults hit.
#[derive(Debug, Default)]
pub struct Hits {
    /// How many.
    pub files: u64,
    /// The first of them.
    pub inos: Vec<u64>,
    /// Inodes whose records are lost.
    pub lost: Vec<RangeInclusive<u64>>,
    /// The root is lost, and all with it.
    pub everything: bool,
}

/// An entry: child, directory, name.
type Named = (u64, u64, Box<[u8]>);

/// Hit inodes by leaf, with the pack at fault.
pub struct Faults<'a> {
    places: Places<'a>,
    by_leaf: HashMap<u32, Vec<(u32, u64)>>,
}

impl<'a> Faults<'a> {
    /// Looks through all leaves for extents whose chunks can't be read.
    pub fn find(places: Places<'a>) -> Result<Faults<'a>, WorkspaceError> {
        let mut by_leaf: HashMap<u32, Vec<(u32, u64)>> = HashMap::new();
        for (&leaf, inos) in places.bad_inodes {
            let pack = places.nodes.get(leaf).place.0;
            by_leaf.entry(leaf).or_default().extend(inos.iter().map(|&ino| (pack, ino)));
        }
        if places.packs.any_bad_chunk() {
            for number in places.nodes.leaves() {
                let leaf = places.nodes.leaf(number, places.packs, places.spool)?;
                let mut hits = BTreeSet::new();
                for record in records(&leaf, places.keys).flatten() {
                    if let Record::Extent(ino, extent) = record
                        && let Some((pack, needed)) = need(&extent, places.packs)
                        && places.packs.get(pack).hits(&needed)
                    {
                        hits.insert((pack, ino.0));
                    }
                }
                if !hits.is_empty() {
                    by_leaf.entry(number).or_default().extend(hits);
                }
            }
        }
        Ok(Faults { places, by_leaf })
    }

    /// What hits a tree, by pack.
    pub fn of(&self, root: Option<u32>) -> BTreeMap<u32, Hits> {
        let mut all: BTreeMap<u32, Hits> = BTreeMap::new();
        let Some(root) = root else { return all };
        let parts = self.places.nodes.line(root).0;
        let mut last: HashMap<u32, u64> = HashMap::new();
        for (at, part) in parts.iter().enumerate() {
            let facts = self.places.nodes.get(part.node);
            if part.is_lost {
                let hits = all.entry(facts.place.0).or_default();
                hits.everything |= parts.len() == 1;
                hits.lost.push(self.range(&parts, at));
            }
            for &(pack, ino) in self.by_leaf.get(&part.node).into_iter().flatten() {
                // A file's records may go on in the next leaf.
                if last.insert(pack, ino) == Some(ino) {
                    continue;
                }
                let hits = all.entry(pack).or_default();
                hits.files += 1;
                if hits.inos.len() < self.places.paths_max {
                    hits.inos.push(ino);
                }
            }
        }
        for hits in all.values_mut() {
            hits.lost = joined(&hits.lost);
        }
        all
    }

    /// Inodes whose records are, in whole or in part, in this part of a tree.
    fn range(&self, parts: &[Part], at: usize) -> RangeInclusive<u64> {
        let first = self.places.nodes.get(parts[at].node).first.ino().0;
        let next = parts.get(at + 1).map(|next| &self.places.nodes.get(next.node).first);
        first..=next.map_or(u64::MAX, last_ino_before).max(first)
    }
}

/// The names that are needed, by leaf: all directories', and those of the files that are wanted.
pub struct Names<'a> {
    places: Places<'a>,
    by_leaf: HashMap<u32, Vec<Named>>,
}

impl<'a> Names<'a> {
    /// Looks through all leaves for the names of these.
    pub fn find(
        places: Places<'a>,
        inos: &HashSet<u64>,
        lost: &[RangeInclusive<u64>],
    ) -> Result<Names<'a>, WorkspaceError> {
        let ranges = joined(lost);
        let is_lost = |ino: u64| {
            let after = ranges.partition_point(|range| *range.start() <= ino);
            after.checked_sub(1).is_some_and(|at| ranges[at].contains(&ino))
        };
        let mut by_leaf = HashMap::new();
        for number in places.nodes.leaves() {
            let leaf = places.nodes.leaf(number, places.packs, places.spool)?;
            let mut names: Vec<Named> = Vec::new();
            for record in records(&leaf, places.keys).flatten() {
                if let Record::Entry(directory, child, kind, name) = record
                    && (kind == Kind::Directory || inos.contains(&child.0) || is_lost(child.0))
                {
                    names.push((child.0, directory.0, name.into()));
                }
            }
            if !names.is_empty() {
                by_leaf.insert(number, names);
            }
        }
        Ok(Names { places, by_leaf })
    }

    /// The names in one tree.
    pub fn of(&self, root: Option<u32>) -> Paths<'_> {
        let parts = root.map(|root| self.places.nodes.line(root).0).unwrap_or_default();
        let mut names: BTreeMap<u64, Vec<(u64, &[u8])>> = BTreeMap::new();
        for part in parts.iter().filter(|part| !part.is_lost) {
            for (child, directory, name) in self.by_leaf.get(&part.node).into_iter().flatten() {
                names.entry(*child).or_default().push((*directory, name));
            }
        }
        Paths { names, paths_max: self.places.paths_max }
    }
}

/// The same inodes in ascending ranges that do not meet.
fn joined(lost: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let mut sorted: Vec<(u64, u64)> = lost.iter().map(|r| (*r.start(), *r.end())).collect();
    sorted.sort_unstable();
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for (first, last) in sorted {
        match ranges.last_mut() {
            Some(before) if before.end().saturating_add(1) >= first => {
                *before = *before.start()..=last.max(*before.end());
            }
            _ => ranges.push(first..=last),
        }
    }
    ranges
}

/// The names in one tree, by inode.
pub struct Paths<'a> {
    names: BTreeMap<u64, Vec<(u64, &'a [u8])>>,
    paths_max: usize,
}

impl Paths<'_> {
    /// How many files are hit, and the paths of the first.
    pub fn tell(&self, hits: &Hits) -> (u64, Vec<String>) {
        let mut files = hits.files;
        let mut paths: Vec<String> = hits.inos.iter().map(|&ino| self.path(ino)).collect();
        let hit: HashSet<u64> = hits.inos.iter().copied().collect();
        for range in &hits.lost {
            let before = files;
            if range.contains(&Ino::ROOT.0) && !hit.contains(&Ino::ROOT.0) {
                files += 1;
                paths.push("/".to_owned());
            }
            for (ino, _) in self.names.range(range.clone()).filter(|(ino, _)| !hit.contains(*ino)) {
                files += 1;
                if paths.len() < self.paths_max {
                    paths.push(self.path(*ino));
                }
            }
            if files == before {
                paths.push(match (range.start(), range.end()) {
                    (first, &u64::MAX) => format!("inodes from {first} on"),
                    (first, last) if first == last => format!("inode {first}"),
                    (first, last) => format!("inodes {first} to {last}"),
                });
            }
        }
        paths.truncate(self.paths_max);
        (files, paths)
    }

    /// The path of an inode, by its first name; `inode N` for what lost its name.
    fn path(&self, ino: u64) -> String {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT.0 {
            let Some((directory, name)) = self.names.get(&at).and_then(|list| list.first()) else {
                names.reverse();
                let rest = printable(&names.join(&b'/'));
                let slash = if rest.is_empty() { "" } else { "/" };
                return format!("inode {at}{slash}{rest}");
            };
            if names.len() > DEPTH_MAX {
                return format!("inode {ino}");
            }
            names.push(name);
            at = *directory;
        }
        names.reverse();
        format!("/{}", printable(&names.join(&b'/')))
    }
}
