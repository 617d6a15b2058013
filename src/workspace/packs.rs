//! Writing the new tree of a seal, and keeping its packs few and full.

use std::collections::{BTreeMap, HashSet};

use crate::chunks::{ClosedTree, Fetch, PackWriter};
use crate::format::{NodeRef, PackInfo};
use crate::remote::Durable;
use crate::tree::{Tree, TreeError};
use crate::types::PackId;

use super::WorkspaceError;
use super::active::Active;
use super::stream::NewRecords;

/// Below this nothing is worth rewriting.
const COMPACT_BYTES_MIN: u64 = 4 << 20;

/// Packs under this are small: many of them cost a request each at resume.
const SMALL_PACK_BYTES: u64 = 1 << 20;

/// Packs that a tree may have beyond one per MiB.
const PACKS_EXTRA_MAX: u64 = 4;

/// Bytes that live in each pack.
type Live = BTreeMap<PackId, u64>;

/// A tree without poor packs.
#[derive(Debug)]
struct Tidied {
    root: Option<NodeRef>,
    /// If nothing had to be written for it.
    live: Option<Live>,
}

/// A tree whose nodes are stored or on their way to the store.
#[derive(Debug)]
pub struct TreeOnItsWay {
    root: Option<NodeRef>,
    packs: Vec<PackInfo>,
    uploads: Vec<ClosedTree>,
    leaves_written: u64,
}

/// A tree whose every node is stored.
#[derive(Debug)]
pub struct NewTree {
    /// Its root; none if it has no records.
    pub root: Option<NodeRef>,
    /// All packs that hold its nodes.
    pub packs: Vec<PackInfo>,
    /// Those that were written now.
    pub written: Vec<Durable<PackId>>,
    /// Leaves that were written now.
    pub leaves_written: u64,
}

/// A stored pack's id and length.
pub fn info(pack: &Durable<PackId>) -> PackInfo {
    PackInfo { id: *pack.value(), len: pack.evidence().size() }
}

impl Active {
    /// Merges `changes` into `base`, whose packs are `listed`. None if nothing changes. Begins
    /// the uploads of its packs, several at once, and waits for none of them: what the changes
    /// refer to travels at the same time.
    pub fn write_tree(
        &self,
        base: &Tree,
        listed: Vec<PackInfo>,
        mut changes: NewRecords<'_, '_>,
        fetch: Fetch,
    ) -> Result<Option<TreeOnItsWay>, WorkspaceError> {
        let mut writer = self.chunks.tree_writer();
        let merged = base.merge(&mut changes, &mut writer, fetch)?;
        if merged.root == base.root() {
            return Ok(None);
        }
        // Into the pack that is open anyway: one of its own would be one more request.
        let tidied = match self.tidy(merged.root, &listed, &mut writer, fetch) {
            Err(TreeError::NotLocal) => None,
            tidied => Some(tidied?),
        };
        let closed = writer.close()?;
        let mut new = TreeOnItsWay {
            root: tidied.as_ref().map_or(merged.root, |tidied| tidied.root),
            packs: listed,
            uploads: Vec::new(),
            leaves_written: merged.leaves_written,
        };
        let live = tidied.as_ref().and_then(|tidied| tidied.live.as_ref());
        let live: Option<Live> = live
            .map(|live| live.iter().map(|(pack, bytes)| (closed.real_id(pack), *bytes)).collect());
        new.add(closed);
        if tidied.is_none() {
            self.tidy_apart(&mut new, fetch)?;
        }
        let live = match live {
            Some(live) => live,
            None => {
                let tree = Tree::new(self.chunks.clone(), new.root);
                new.read(|| tree.pack_bytes(fetch))?
            }
        };
        new.packs.retain(|pack| live.contains_key(&pack.id));
        Ok(Some(new))
    }

    /// Writes what lives in poor packs among the `listed` ones once more. Fails with `NotLocal` if
    /// the local cache has lost a node that is only in the writer's open pack by now.
    fn tidy(
        &self,
        root: Option<NodeRef>,
        listed: &[PackInfo],
        writer: &mut PackWriter,
        fetch: Fetch,
    ) -> Result<Tidied, TreeError> {
        let tree = Tree::new(self.chunks.clone(), root);
        let live = tree.pack_bytes(fetch)?;
        let poor = poor_packs(listed, &live, writer.size());
        if poor.is_empty() {
            return Ok(Tidied { root, live: Some(live) });
        }
        let moved = tree.relocate(&poor, writer, fetch)?;
        Ok(Tidied { root: moved.root, live: None })
    }

    /// As [`Active::tidy`], into a pack of its own, for a tree whose packs are on their way.
    fn tidy_apart(&self, new: &mut TreeOnItsWay, fetch: Fetch) -> Result<(), WorkspaceError> {
        let (root, listed) = (new.root, new.packs.clone());
        let (tidied, writer) = new.read(|| {
            let mut writer = self.chunks.tree_writer();
            let tidied = self.tidy(root, &listed, &mut writer, fetch)?;
            Ok((tidied, writer))
        })?;
        new.root = tidied.root;
        new.add(writer.close()?);
        Ok(())
    }
}

impl TreeOnItsWay {
    /// Takes in the packs of a writer, which wrote the root.
    fn add(&mut self, closed: ClosedTree) {
        self.root = self.root.map(|root| closed.resolve(root));
        self.packs.extend(closed.packs());
        self.uploads.push(closed);
    }

    /// Reads nodes of the tree. They are in the local cache; where it has lost some already, they
    /// are read again when the store has them.
    fn read<T>(&mut self, read: impl Fn() -> Result<T, TreeError>) -> Result<T, WorkspaceError> {
        if let Ok(done) = read() {
            return Ok(done);
        }
        for upload in &mut self.uploads {
            upload.wait_for_all()?;
        }
        Ok(read()?)
    }

    /// Waits until the store has acknowledged every pack.
    pub fn wait(self) -> Result<NewTree, WorkspaceError> {
        let TreeOnItsWay { root, packs, uploads, leaves_written } = self;
        let mut written = Vec::new();
        for upload in uploads {
            written.extend(upload.wait()?.packs.into_iter().map(|(_, pack)| pack));
        }
        Ok(NewTree { root, packs, written, leaves_written })
    }
}

/// Packs to be written anew: those under half alive when the tree as a whole is, and the small
/// ones when there are too many packs for their bytes. `new` is the number and bytes of packs
/// that are being written and are never poor.
fn poor_packs(packs: &[PackInfo], live: &Live, new: (u64, u64)) -> HashSet<PackId> {
    let live_in = |pack: &PackInfo| live.get(&pack.id).copied().unwrap_or(0);
    let packs: Vec<&PackInfo> = packs.iter().filter(|pack| live_in(pack) > 0).collect();
    let listed_bytes: u64 = new.1 + packs.iter().map(|pack| pack.len).sum::<u64>();
    let live_bytes: u64 = live.values().sum();
    let half_dead = listed_bytes > COMPACT_BYTES_MIN && live_bytes * 2 < listed_bytes;
    let count = new.0 + packs.len() as u64;
    let too_many = count > PACKS_EXTRA_MAX + listed_bytes / SMALL_PACK_BYTES;
    let is_poor = |pack: &&&PackInfo| {
        half_dead && live_in(pack) * 2 < pack.len || too_many && pack.len < SMALL_PACK_BYTES
    };
    packs.iter().filter(is_poor).map(|pack| pack.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(list: &[(u8, u64, u64)]) -> (Vec<PackInfo>, BTreeMap<PackId, u64>) {
        let info = |&(id, len, _): &(u8, u64, u64)| PackInfo { id: PackId([id; 32]), len };
        let live = list.iter().filter(|(_, _, live)| *live > 0);
        let live = live.map(|&(id, _, live)| (PackId([id; 32]), live)).collect();
        (list.iter().map(info).collect(), live)
    }

    fn poor(list: &[(u8, u64, u64)]) -> Vec<u8> {
        poor_beside(list, (0, 0))
    }

    fn poor_beside(list: &[(u8, u64, u64)], new: (u64, u64)) -> Vec<u8> {
        let (packs, live) = packs(list);
        let mut poor: Vec<u8> = poor_packs(&packs, &live, new).iter().map(|id| id.0[0]).collect();
        poor.sort_unstable();
        poor
    }

    #[test]
    fn a_tree_that_is_mostly_alive_in_few_packs_is_left_alone() {
        assert_eq!(poor(&[(1, 9 << 20, 8 << 20), (2, 100, 100)]), Vec::<u8>::new());
        assert_eq!(poor(&[(1, 3 << 20, 1000)]), Vec::<u8>::new(), "too small to matter");
        assert_eq!(poor(&[]), Vec::<u8>::new());
    }

    #[test]
    fn half_dead_packs_are_written_anew_when_half_of_all_is_dead() {
        assert_eq!(poor(&[(1, 9 << 20, 1 << 20), (2, 2 << 20, 2 << 20)]), [1]);
    }

    #[test]
    fn many_small_packs_become_one_and_dead_ones_do_not_count() {
        let small: Vec<_> = (1..=5).map(|id| (id, 1000, 900)).collect();
        assert_eq!(poor(&small), [1, 2, 3, 4, 5]);
        let mut few = small.clone();
        few[0].2 = 0;
        assert_eq!(poor(&few), Vec::<u8>::new());
        assert_eq!(poor_beside(&few, (1, 100)), [2, 3, 4, 5], "what is being written counts");
    }
}
