//! The seal: from a consistent cut of the overlay to a snapshot in the head.
//!
//! Order of what becomes durable: data and tree packs, the local note that this snapshot may be in
//! the head, the snapshot, the head. A pack's name is the hash of its bytes, so the tree can say
//! where a chunk will be before the store has it: data and tree packs travel at the same time,
//! and nothing names them before all are acknowledged (and, for a hibernation, asked for once
//! more). Until the head was moved nothing is taken out of the overlay, so that a seal that fails
//! anywhere is only repeated.
//!
//! The sealed tree has chunks where the overlay still has staged bytes, under other keys perhaps.
//! So before the head is moved the overlay gets the same extents, or, for a piece that was
//! changed since the cut, a slot for each key where the new base will say something new
//! (`Filesystem::commit_settled`). Then the overlay on the new base says what it says on the old.

use std::sync::atomic::Ordering;

use crate::chunks::Fetch;
use crate::format::{Head, Key, PackSlot, Snapshot, SnapshotRef, encode_extent};
use crate::fs::{Reclaim, SettledRegion, Stale};
use crate::local::crash_point;
use crate::namespace::{Base, CutView};
use crate::remote::{Durable, PutMode};
use crate::tree::Tree;
use crate::types::{ChunkId, Ino, PackId, SnapshotId};

use super::active::Active;
use super::cutter::{Cutter, Draft, Drafts};
use super::head::NextHead;
use super::inline::Inline;
use super::packs::{NewTree, TreeOnItsWay};
use super::settle::{Settling, Which, read_extents};
use super::stream::{Change, NewRecords, removals, staged_pieces};
use super::{Phase, Receipt, StoreCounts, WorkspaceError};

/// Chunks of the hot set that a checkpoint's snapshot holds (72 bytes each): there may be one a
/// minute, each is kept, and all but the last are for nothing. A hibernation's holds all.
const CHECKPOINT_HOT_SET_LEN_MAX: usize = 1024;

/// Why a seal is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The mount goes on.
    Checkpoint,
    /// The lease is given back.
    Hibernate,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Checkpoint => "checkpoint",
            Reason::Hibernate => "hibernate",
        }
    }
}

/// What a cut became: everything but the snapshot and the head.
struct Sealed {
    tree: NewTree,
    next_ino: Ino,
    inodes: u64,
    bytes: u64,
}

impl Active {
    /// Seals what changed since the base. With `Reason::Hibernate` the caller keeps changes out.
    pub fn seal(&self, reason: Reason) -> Result<Receipt, WorkspaceError> {
        let _sealing = self.sealing.lock();
        self.check_writable()?;
        let started = self.clock.monotonic();
        let in_hurry = self.hurry.up();
        let mut settling = self.settling.lock();
        drop(in_hurry);
        let result = self.seal_changes(reason, &mut settling);
        if result.is_err() {
            // What was cut is known to the chunk layer; only the planning is repeated.
            settling.forget();
        }
        drop(settling);
        if result.is_ok() && reason == Reason::Hibernate {
            // Before anybody else who waits can seal.
            self.closed.store(true, Ordering::Release);
        }
        self.progress.phase(if result.is_ok() { Phase::Done } else { Phase::Idle });
        let now = self.clock.monotonic();
        self.tally.lock().note_seal(&result, now, now - started);
        let seconds = (now - started).as_secs_f64();
        result.map(|receipt| Receipt { seconds, ..receipt })
    }

    fn seal_changes(
        &self,
        reason: Reason,
        settling: &mut Settling,
    ) -> Result<Receipt, WorkspaceError> {
        let fetch = self.fetch();
        self.progress.begin(self.unsynced_bytes().0);
        let cut_at = self.clock.monotonic();
        // An orphan that an earlier checkpoint sealed is in the base only.
        let ends_orphans = reason == Reason::Hibernate && self.fs.orphan_count() > 0;
        let sealed = if self.has_changes()? || ends_orphans {
            let which = match reason {
                Reason::Checkpoint => Which::All,
                Reason::Hibernate => Which::AllAtOnce,
            };
            self.settle(settling, which, fetch)?;
            let cut = |view: &CutView<'_>| self.seal_cut(view, settling, reason, fetch);
            self.namespace.with_cut(cut)??
        } else {
            None
        };
        let receipt = match sealed {
            Some(sealed) => self.publish(sealed, reason, fetch)?,
            None => {
                self.settle_head(reason)?;
                self.receipt(reason)
            }
        };
        // The head is moved, or was right already: from here on nothing can undo the seal.
        let changed = self.trim(fetch).and_then(|()| self.has_changes());
        let changed = changed.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not trim the overlay; the next seal tries again");
            true
        });
        self.tally.lock().changed_since = changed.then_some(cut_at);
        Ok(receipt)
    }

    /// Packs what the view holds. None if its tree is the base's.
    fn seal_cut(
        &self,
        view: &CutView<'_>,
        settling: &mut Settling,
        reason: Reason,
        fetch: Fetch,
    ) -> Result<Option<Sealed>, WorkspaceError> {
        crash_point("seal.cut");
        let drafts = self.draft_cut(view, settling, fetch)?;
        self.progress.phase(Phase::Uploading);
        self.chunks.close_pack()?;
        let mut edits = draft_edits(&drafts, |id| self.chunks.place_of(id))?;
        if reason == Reason::Hibernate {
            edits.extend(removals(view, fetch)?);
            edits.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        let listed = self.mount.lock().base_packs.clone();
        let changes = NewRecords::new(view, edits);
        let tree = self.write_tree(&view.base().tree, listed, changes, fetch)?;
        crash_point("seal.tree");
        let go_on = || self.progress.check().is_ok();
        let stored = self.chunks.flush_while(&go_on)?;
        self.progress.add_packs(stored.len() as u64);
        self.mount.lock().unlisted.extend(stored);
        self.progress.check()?;
        self.progress.phase(Phase::Tree);
        let tree = tree.map(TreeOnItsWay::wait).transpose()?;
        self.progress.add_packs(tree.as_ref().map_or(0, |tree| tree.written.len() as u64));
        crash_point("seal.flushed");
        if reason == Reason::Hibernate {
            // While the overlay still leads to the journal, which has the bytes of these packs.
            self.progress.phase(Phase::Confirming);
            let mut packs = self.mount.lock().unlisted.clone();
            packs.extend(tree.iter().flat_map(|tree| tree.written.iter().cloned()));
            self.confirm(&packs)?;
        }
        self.exchange(&drafts, fetch)?;
        crash_point("seal.exchanged");
        let Some(tree) = tree else { return Ok(None) };
        let counters = view.counters()?;
        let (inodes, bytes) = (counters.inodes, counters.bytes);
        Ok(Some(Sealed { tree, next_ino: view.next_ino(), inodes, bytes }))
    }

    /// Cuts the view's staged pieces, but for those that settling has cut just so.
    fn draft_cut(
        &self,
        view: &CutView<'_>,
        settling: &mut Settling,
        fetch: Fetch,
    ) -> Result<Drafts, WorkspaceError> {
        let cutter = Cutter { local: &self.local, chunks: &self.chunks };
        let orphans = view.orphans(fetch)?;
        let mut settled = std::mem::take(&mut settling.drafts);
        let mut drafts = Drafts::new();
        for key in staged_pieces(view, &orphans)? {
            self.progress.check()?;
            let captured =
                read_extents(key, |from, to, limit| Ok(view.range(from, to, limit, fetch)?))?;
            let draft = match settled.remove(&key) {
                Some(draft) if draft.captured == captured => draft,
                _ => cutter.cut(key, captured, fetch)?.ok_or_else(|| WorkspaceError::Corrupt {
                    what: format!("inode {}", key.0),
                    cause: format!("written bytes at {} are not in the journal", key.1),
                })?,
            };
            self.note_cut(draft.staged_bytes);
            drafts.insert(key, draft);
        }
        Ok(drafts)
    }

    /// Exchanges the extents of these pieces, whose chunks are stored, in the live overlay (or
    /// shadows them, see above).
    fn exchange(&self, drafts: &Drafts, fetch: Fetch) -> Result<(), WorkspaceError> {
        let mut of_file: (Ino, Vec<SettledRegion>) = (Ino::META, Vec::new());
        for ((ino, from), draft) in drafts {
            let region = region(*ino, *from, draft, |id| self.chunks.slot_of(id))?;
            if *ino != of_file.0 {
                self.exchange_file(&of_file, fetch)?;
                of_file = (*ino, Vec::new());
            }
            of_file.1.push(region);
        }
        self.exchange_file(&of_file, fetch)
    }

    fn exchange_file(
        &self,
        (ino, regions): &(Ino, Vec<SettledRegion>),
        fetch: Fetch,
    ) -> Result<(), WorkspaceError> {
        if !regions.is_empty() {
            self.fs.commit_settled(*ino, regions, Stale::Shadow, fetch)?;
            crash_point("seal.exchanging");
        }
        Ok(())
    }

    /// Puts the snapshot into the store and into the head, and the new base under the overlay.
    fn publish(
        &self,
        sealed: Sealed,
        reason: Reason,
        fetch: Fetch,
    ) -> Result<Receipt, WorkspaceError> {
        let data_packs = self.mount.lock().unlisted.clone();
        self.progress.check()?;
        self.progress.phase(Phase::Head);
        let tree = Tree::new(self.chunks.clone(), sealed.tree.root);
        let snapshot = self.snapshot(&sealed, &data_packs, reason);
        let stored = self.put_snapshot(&snapshot)?;
        let inline = super::inline::collect(&self.chunks, &tree, fetch)?;
        crash_point("seal.before_swap");
        {
            let _swapping = self.swapping.lock();
            let next = self.next_head(&sealed, inline, reason);
            self.swap_head(&NextHead::sealed(next, &stored))?;
        }
        crash_point("seal.after_swap");
        if reason == Reason::Hibernate {
            self.end_orphans(fetch);
        }
        if let Err(error) = self.rebase(tree, &sealed, &snapshot, stored.value().id) {
            tracing::warn!(%error, "sealed, but the local directory could not note it");
        }
        crash_point("seal.rebased");
        let released = reason == Reason::Hibernate;
        let confirmed = if released { data_packs.len() + sealed.tree.written.len() } else { 0 };
        let size = |packs: &mut dyn Iterator<Item = &Durable<PackId>>| -> u64 {
            packs.map(|pack| pack.evidence().size()).sum()
        };
        Ok(Receipt {
            changed: true,
            released,
            data_packs: data_packs.len() as u64,
            tree_packs: sealed.tree.written.len() as u64,
            bytes_uploaded: size(&mut data_packs.iter()) + size(&mut sealed.tree.written.iter()),
            leaves_written: sealed.tree.leaves_written,
            packs_confirmed: confirmed as u64,
            ..self.receipt(reason)
        })
    }

    /// The snapshot has no orphans: now that it is in the head they end here too, before the
    /// overlay, which relies on the old base for them, is put on the new one.
    fn end_orphans(&self, fetch: Fetch) {
        if let Err(error) = self.fs.reclaim_orphans(Reclaim::All, fetch) {
            tracing::warn!(%error, "unlinked files are left for the next mount to reclaim");
        }
    }

    /// Asks the store for these packs of this seal once more.
    fn confirm(&self, packs: &[Durable<PackId>]) -> Result<(), WorkspaceError> {
        self.chunks.confirm(packs).map_err(|error| {
            // What is not there must be made again: nothing may be taken for known.
            self.chunks.forget_places();
            if let Err(error) = self.local.known_clear() {
                tracing::warn!(%error, "could not forget chunk locations");
            }
            error.into()
        })
    }

    fn snapshot(
        &self,
        sealed: &Sealed,
        data_packs: &[Durable<PackId>],
        reason: Reason,
    ) -> Snapshot {
        // Checkpoints are many and all are kept: theirs is short.
        let hot_set = match reason {
            Reason::Checkpoint => {
                let mut reads = self.chunks.first_reads();
                reads.truncate(CHECKPOINT_HOT_SET_LEN_MAX);
                reads
            }
            _ => self.chunks.hot_set(),
        };
        let mount = self.mount.lock();
        Snapshot {
            workspace: self.options.name.clone(),
            parents: mount.head.snapshot.iter().map(|snapshot| snapshot.id).collect(),
            created: self.clock.now(),
            epoch: self.epoch,
            root: sealed.tree.root,
            tree_packs: sealed.tree.packs.clone(),
            next_ino: sealed.next_ino,
            inodes: sealed.inodes,
            bytes: sealed.bytes,
            data_packs_added: data_packs.iter().map(super::packs::info).collect(),
            hot_set,
            reason: reason.as_str().to_owned(),
        }
    }

    /// Notes locally that the head may hold this snapshot soon, syncs, and stores it. After a
    /// crash the note tells that such a head is our own work (`LocalState::fits`).
    fn put_snapshot(&self, snapshot: &Snapshot) -> Result<Durable<SnapshotRef>, WorkspaceError> {
        let bytes = snapshot.encode().map_err(|e| WorkspaceError::format("snapshot", e))?;
        let id = Snapshot::id(&bytes);
        let key = snapshot.key(&id);
        {
            let mut mount = self.mount.lock();
            mount.state.pending.push(id);
            mount.state.save(&self.local)?;
        }
        self.local.sync()?;
        crash_point("seal.before_snapshot");
        // Named by its hash: whatever is there under this key is the same.
        let stored = self.remote.put(&key, bytes.into(), PutMode::Any)?;
        crash_point("seal.after_snapshot");
        Ok(Durable::new(SnapshotRef { id, key }, stored))
    }

    /// The head that will name the seal. Under `swapping`.
    fn next_head(&self, sealed: &Sealed, inline: Inline, reason: Reason) -> Head {
        let lease = (reason == Reason::Checkpoint).then(|| self.lease());
        Head {
            lease,
            root: sealed.tree.root,
            nodes: inline.nodes,
            records: inline.records,
            tree_packs: sealed.tree.packs.clone(),
            next_ino: sealed.next_ino,
            inodes: sealed.inodes,
            bytes: sealed.bytes,
            ..self.mount.lock().head.clone()
        }
    }

    /// The overlay lies on the new tree from here on.
    fn rebase(
        &self,
        tree: Tree,
        sealed: &Sealed,
        snapshot: &Snapshot,
        id: SnapshotId,
    ) -> Result<(), WorkspaceError> {
        // In memory first, where nothing can fail: the head names the new tree, so from here on
        // the overlay must be trimmed against it and nothing else. If the note cannot be written,
        // the one made before the snapshot (`pending`) says after a crash that the head is ours.
        self.namespace.rebase(Base { tree, next_ino: sealed.next_ino }, &[])?;
        let mut mount = self.mount.lock();
        mount.state.base = Some(id);
        mount.state.pending.clear();
        mount.base_created = Some(snapshot.created);
        mount.base_packs.clone_from(&sealed.tree.packs);
        let listed: Vec<PackId> = snapshot.data_packs_added.iter().map(|pack| pack.id).collect();
        mount.unlisted.retain(|pack| !listed.contains(pack.value()));
        mount.state.save(&self.local)?;
        Ok(())
    }

    /// Takes out of the overlay what the base says too, and frees the journal. Under `sealing`.
    pub fn trim(&self, fetch: Fetch) -> Result<(), WorkspaceError> {
        self.namespace.trim(fetch)?;
        crash_point("seal.trimmed");
        self.local.sync()?;
        self.local.sweep()?;
        Ok(())
    }

    /// Nothing changed since the base: a hibernation just gives the lease back. And where an
    /// earlier swap has no known outcome, the head is made to say what is known.
    fn settle_head(&self, reason: Reason) -> Result<(), WorkspaceError> {
        let _swapping = self.swapping.lock();
        let (head, in_doubt) = {
            let mount = self.mount.lock();
            (mount.head.clone(), !mount.tried.is_empty())
        };
        let release = reason == Reason::Hibernate;
        if !release && !in_doubt {
            return Ok(());
        }
        self.progress.phase(Phase::Head);
        let lease = (!release).then(|| self.lease());
        self.swap_head(&NextHead::with_lease(&head, lease, false))
    }

    /// What can be said of the newest snapshot.
    pub fn receipt(&self, reason: Reason) -> Receipt {
        let mount = self.mount.lock();
        let stats = self.chunks.stats();
        Receipt {
            workspace: self.options.name.to_string(),
            snapshot: mount.head.snapshot.as_ref().map(|snapshot| snapshot.id.to_string()),
            reason: reason.as_str().to_owned(),
            created: mount.base_created.map_or(0, |created| created.secs),
            epoch: self.epoch.0,
            released: reason == Reason::Hibernate,
            inodes: mount.head.inodes,
            bytes: mount.head.bytes,
            chunks_added: stats.chunks_added,
            chunks_deduplicated: stats.chunks_deduplicated,
            requests: StoreCounts::of(&self.remote.stats()),
            ..Receipt::default()
        }
    }

    /// Whether the overlay holds anything that a seal would look at.
    pub fn has_changes(&self) -> Result<bool, WorkspaceError> {
        super::resume::has_changes(&self.local)
    }
}

/// A piece's new extents, with the places that `slot_of` knows.
fn region(
    ino: Ino,
    from: u64,
    draft: &Draft,
    slot_of: impl Fn(&ChunkId) -> Option<PackSlot>,
) -> Result<SettledRegion, WorkspaceError> {
    draft.region(from, slot_of).ok_or_else(|| WorkspaceError::Corrupt {
        what: format!("inode {ino}"),
        cause: String::from("a chunk that was packed has no place"),
    })
}

/// The changes that the sealed tree gets for these pieces, in key order.
fn draft_edits(
    drafts: &Drafts,
    slot_of: impl Fn(&ChunkId) -> Option<PackSlot>,
) -> Result<Vec<Change>, WorkspaceError> {
    let mut edits = Vec::new();
    for ((ino, from), draft) in drafts {
        push_edits(&mut edits, *ino, &region(*ino, *from, draft, &slot_of)?);
    }
    Ok(edits)
}

/// The changes of one piece: `sealed` where it differs from what the records of the cut say.
fn push_edits(edits: &mut Vec<Change>, ino: Ino, region: &SettledRegion) {
    let mut keys: Vec<u64> = region.captured.iter().map(|(offset, _)| *offset).collect();
    keys.extend(region.sealed.iter().map(|(offset, _)| *offset));
    keys.sort_unstable();
    keys.dedup();
    for offset in keys {
        let sealed = region.sealed.binary_search_by_key(&offset, |(offset, _)| *offset);
        let value = sealed.ok().map(|at| encode_extent(&region.sealed[at].1).into());
        edits.push((Key::extent(ino, offset), value));
    }
}
