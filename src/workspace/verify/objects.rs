//! Heads and snapshots: each for itself, each beside the others, and what they name.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::format::{
    Head, Key, NodeRef, PackInfo, PackKind, Snapshot, SnapshotName, decode_frame, decode_node,
    head_key, snapshot_key, snapshots_prefix,
};
use crate::remote::{ObjectMeta, Remote};
use crate::types::{Epoch, Ino, SnapshotId, WorkspaceName};
use crate::workspace::WorkspaceError;

use super::packs::Packs;
use super::reading::{said_of_format, said_of_object};
use super::report::ProblemKind;
use super::{Finding, Hit};

/// Longest head and longest snapshot as objects: their bodies' limits and the envelope.
const HEAD_BYTES_MAX: u64 = 4 * 1024 * 1024 + 28;
const SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * 1024 + 28;

/// What is said of an object that is not right.
type Said = (ProblemKind, String);

/// What is remembered of a snapshot.
#[derive(Debug)]
pub struct Sealed {
    pub workspace: WorkspaceName,
    pub key: String,
    pub id: SnapshotId,
    pub epoch: Epoch,
    pub parents: Vec<SnapshotId>,
    pub root: Option<NodeRef>,
    /// Numbers of its tree packs, ascending.
    pub tree_packs: Vec<u32>,
    pub next_ino: Ino,
    pub inodes: u64,
    pub bytes: u64,
    /// Whether it is the one that the head names.
    pub is_newest: bool,
}

/// A workspace's objects.
#[derive(Debug)]
pub struct Seen {
    pub name: WorkspaceName,
    pub head: Option<Head>,
    /// Oldest first.
    pub snapshots: Vec<Sealed>,
    /// Keys of snapshots that the head does not descend from.
    pub unreferenced: Vec<String>,
}

/// Reads what a workspace has.
pub struct Look<'a> {
    pub remote: &'a Remote,
    pub packs: &'a mut Packs,
    pub findings: &'a mut Vec<Finding>,
    pub name: &'a WorkspaceName,
}

impl Look<'_> {
    /// Reads the head and those of the listed snapshots that are `wanted` (none: all).
    pub fn workspace(
        mut self,
        listed: &[ObjectMeta],
        wanted: Option<SnapshotId>,
    ) -> Result<Seen, WorkspaceError> {
        let head = self.head()?;
        let mut names: Vec<(String, SnapshotName)> = listed
            .iter()
            .filter_map(|object| {
                let last = object.key.strip_prefix(&snapshots_prefix(self.name))?;
                Some((object.key.clone(), last.parse().ok()?))
            })
            .collect();
        // It may have been sealed after the listing.
        let newest = head.as_ref().and_then(|head| head.snapshot.clone());
        if let Some(newest) = &newest
            && !names.iter().any(|(_, name)| name.id == newest.id)
        {
            let created_unix_ms =
                newest.key.parse().map_or(u64::MAX, |name: SnapshotName| name.created_unix_ms);
            names.push((newest.key.clone(), SnapshotName { created_unix_ms, id: newest.id }));
        }
        names.sort_by_key(|(_, name)| *name);
        names.retain(|(_, name)| wanted.is_none_or(|wanted| wanted == name.id));
        let mut snapshots = Vec::with_capacity(names.len());
        for (key, name) in &names {
            let is_newest = newest.as_ref().is_some_and(|newest| newest.id == name.id);
            let head = head.as_ref().filter(|_| is_newest);
            snapshots.extend(self.snapshot(key, name.id, head)?);
        }
        if wanted.is_none() {
            let known = names.iter().map(|(_, name)| name.id).collect();
            self.sealed_meanwhile(&mut snapshots, known)?;
        }
        let mut seen = Seen { name: self.name.clone(), head, snapshots, unreferenced: Vec::new() };
        if wanted.is_none() {
            self.history(&mut seen);
        }
        Ok(seen)
    }

    /// Reads the snapshots that were sealed between the listing and the reading of the head, but
    /// for the newest: those that others were made from and that are not `known`.
    fn sealed_meanwhile(
        &mut self,
        snapshots: &mut Vec<Sealed>,
        mut known: HashSet<SnapshotId>,
    ) -> Result<(), WorkspaceError> {
        let parents = snapshots.iter().flat_map(|sealed| &sealed.parents);
        let mut next: Vec<SnapshotId> =
            parents.filter(|parent| !known.contains(parent)).copied().collect();
        if next.is_empty() {
            return Ok(());
        }
        let prefix = snapshots_prefix(self.name);
        let name_of = |key: &str| key.strip_prefix(&prefix)?.parse::<SnapshotName>().ok();
        let listed = self.remote.list(&prefix)?;
        let listed: HashMap<SnapshotId, String> = listed
            .into_iter()
            .filter_map(|object| Some((name_of(&object.key)?.id, object.key)))
            .collect();
        while let Some(id) = next.pop() {
            let Some(key) = listed.get(&id).filter(|_| known.insert(id)) else { continue };
            let sealed = self.snapshot(key, id, None)?;
            next.extend(sealed.iter().flat_map(|sealed| &sealed.parents));
            snapshots.extend(sealed);
        }
        snapshots.sort_by_key(|sealed| name_of(&sealed.key));
        Ok(())
    }

    fn find(&mut self, object: &str, (kind, what): Said, hit: Hit) {
        self.findings.push(Finding { object: object.to_owned(), kind, what, hit });
    }

    /// An object, decoded. What is not right is read again before it is told: it may have been the
    /// way here.
    fn read_twice<T>(
        &self,
        key: &str,
        bytes_max: u64,
        decode: impl Fn(&Bytes) -> Result<T, Said>,
    ) -> Result<Result<T, Said>, WorkspaceError> {
        let read = || Ok(self.get(key, bytes_max)?.and_then(|bytes| decode(&bytes)));
        match read()? {
            Err(_) => read(),
            right => Ok(right),
        }
    }

    /// The object's bytes, if it can be read and is not longer than it may be.
    fn get(&self, key: &str, bytes_max: u64) -> Result<Result<Bytes, Said>, WorkspaceError> {
        match self.remote.get_range(key, 0..bytes_max) {
            Ok(object) if object.meta.size > bytes_max => {
                let what = format!("its {} bytes are more than it may have", object.meta.size);
                Ok(Err((ProblemKind::Damaged, what)))
            }
            Ok(object) => Ok(Ok(object.bytes)),
            Err(error) => Ok(Err(said_of_object(error)?)),
        }
    }

    fn head(&mut self) -> Result<Option<Head>, WorkspaceError> {
        let key = head_key(self.name);
        let head = self.read_twice(&key, HEAD_BYTES_MAX, |bytes| match Head::decode(bytes) {
            Ok(head) if head.workspace != *self.name => {
                let what = format!("it is the head of workspace {}", head.workspace);
                Err((ProblemKind::Damaged, what))
            }
            Ok(head) => Ok(head),
            Err(error) => Err(said_of_format("", error)),
        })?;
        match head {
            Ok(head) => Ok(Some(head)),
            Err(said) => {
                self.find(&key, said, Hit::Workspace(self.name.clone()));
                Ok(None)
            }
        }
    }

    /// Reads a snapshot. One that can't be read is taken from the head, where that names it.
    fn snapshot(
        &mut self,
        key: &str,
        id: SnapshotId,
        head: Option<&Head>,
    ) -> Result<Option<Sealed>, WorkspaceError> {
        let read = self.read_twice(key, SNAPSHOT_BYTES_MAX, |bytes| {
            if Snapshot::id(bytes) != id {
                let what = "its bytes do not have the hash in its name".to_owned();
                return Err((ProblemKind::Damaged, what));
            }
            Snapshot::decode(bytes).map_err(|error| said_of_format("", error))
        })?;
        let snapshot = match (read, head) {
            (Ok(snapshot), _) => snapshot,
            (Err((kind, what)), Some(head)) => {
                let what = format!("{what}; what the head says of it is enough to mount it");
                self.find(key, (kind, what), Hit::Snapshot(self.name.clone(), id));
                return Ok(Some(self.sealed_by_head(key, id, head)));
            }
            (Err(said), None) => {
                self.find(key, said, Hit::WholeSnapshot(self.name.clone(), id));
                return Ok(None);
            }
        };
        let is_own = key.starts_with(&snapshots_prefix(self.name));
        let is_as_named = snapshot.workspace == *self.name
            && snapshot_key(self.name, snapshot.created, &id) == key;
        if is_own && !is_as_named {
            let what = "it is named as of another time or workspace".to_owned();
            let hit = Hit::Snapshot(self.name.clone(), id);
            self.find(key, (ProblemKind::Structure, what), hit);
        }
        let tree_packs = self.named(key, &snapshot.tree_packs, PackKind::Tree);
        self.named(key, &snapshot.data_packs_added, PackKind::Data);
        if let Some(head) = head {
            self.compare(head, &snapshot);
        }
        Ok(Some(Sealed {
            workspace: self.name.clone(),
            key: key.to_owned(),
            id,
            epoch: snapshot.epoch,
            parents: snapshot.parents,
            root: snapshot.root,
            tree_packs,
            next_ino: snapshot.next_ino,
            inodes: snapshot.inodes,
            bytes: snapshot.bytes,
            is_newest: head.is_some(),
        }))
    }

    fn sealed_by_head(&mut self, key: &str, id: SnapshotId, head: &Head) -> Sealed {
        Sealed {
            workspace: self.name.clone(),
            key: key.to_owned(),
            id,
            epoch: Epoch(0),
            parents: Vec::new(),
            root: head.root,
            tree_packs: self.named(&head_key(self.name), &head.tree_packs, PackKind::Tree),
            next_ino: head.next_ino,
            inodes: head.inodes,
            bytes: head.bytes,
            is_newest: true,
        }
    }

    /// Numbers of the packs in a list, ascending.
    fn named(&mut self, key: &str, list: &[PackInfo], kind: PackKind) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(list.len());
        for info in list {
            let (number, agrees) = self.packs.list(info, kind);
            numbers.push(number);
            if !agrees {
                let what = format!("it says another length of pack {} than others do", info.id);
                self.find(key, (ProblemKind::Structure, what), Hit::Nothing);
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// What the head says of its snapshot must be what that says.
    fn compare(&mut self, head: &Head, snapshot: &Snapshot) {
        let by_head = (head.root, &head.tree_packs, head.next_ino, head.inodes, head.bytes);
        let own = (
            snapshot.root,
            &snapshot.tree_packs,
            snapshot.next_ino,
            snapshot.inodes,
            snapshot.bytes,
        );
        if by_head != own {
            let what = "it says other things of its snapshot than that does".to_owned();
            let hit = Hit::Workspace(self.name.clone());
            self.find(&head_key(self.name), (ProblemKind::Structure, what), hit);
        }
    }

    /// How the snapshots hang together.
    fn history(&mut self, seen: &mut Seen) {
        let name = self.name.clone();
        let known: HashMap<SnapshotId, &Sealed> =
            seen.snapshots.iter().map(|sealed| (sealed.id, sealed)).collect();
        let key = head_key(&name);
        let Some(head) = &seen.head else { return };
        if let Some(later) = seen.snapshots.iter().find(|sealed| sealed.epoch > head.epoch) {
            let what = format!(
                "it is older than snapshot {}: somebody has put an earlier head back",
                later.id
            );
            self.find(&key, (ProblemKind::Damaged, what), Hit::Workspace(name.clone()));
        }
        let mut line = HashSet::new();
        let mut next: Vec<SnapshotId> = head.snapshot.iter().map(|snapshot| snapshot.id).collect();
        while let Some(id) = next.pop() {
            if line.insert(id) {
                next.extend(known.get(&id).iter().flat_map(|sealed| &sealed.parents));
            }
        }
        seen.unreferenced = seen
            .snapshots
            .iter()
            .filter(|sealed| !line.contains(&sealed.id))
            .map(|sealed| sealed.key.clone())
            .collect();
        let told: HashSet<SnapshotId> =
            self.findings.iter().filter_map(Finding::snapshot).collect();
        let mut lost: Vec<(SnapshotId, SnapshotId)> = seen
            .snapshots
            .iter()
            .flat_map(|sealed| sealed.parents.iter().map(|parent| (*parent, sealed.id)))
            .filter(|(parent, _)| !known.contains_key(parent) && !told.contains(parent))
            .collect();
        lost.sort_unstable();
        lost.dedup_by_key(|(parent, _)| *parent);
        for (parent, child) in lost {
            // Nothing deletes snapshots yet; what does so one day must leave word of it.
            let what = format!("it is not in the store, and snapshot {child} was made from it");
            let object = format!("{}*-{parent}", snapshots_prefix(&name));
            let hit = Hit::WholeSnapshot(name.clone(), parent);
            self.find(&object, (ProblemKind::Missing, what), hit);
        }
    }

    /// Checks what stands inline in a head, and gives the records that must be in its tree.
    pub fn inline(&mut self, head: &Head, keys: &crate::format::HashKeys) -> HashMap<Key, Bytes> {
        for (node, frame) in &head.nodes {
            let right = decode_frame(frame).is_ok_and(|(header, plain)| {
                header.id == node.id.0
                    && keys.node(&plain) == node.id
                    && decode_node(plain.into(), node.slot.pack).is_ok()
            });
            if !right {
                let what = format!("node {} that stands in it is damaged", node.id);
                self.find(&head_key(self.name), (ProblemKind::Damaged, what), Hit::Nothing);
            }
        }
        let firsts = (head.root, head.nodes.first().map(|(node, _)| *node));
        if let (Some(root), Some(first)) = firsts
            && root != first
        {
            let what = "the first node that stands in it is not the root".to_owned();
            self.find(&head_key(self.name), (ProblemKind::Structure, what), Hit::Nothing);
        }
        head.records.iter().cloned().collect()
    }
}
