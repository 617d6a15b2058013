//! What the local directory remembers of its mount, in records that are never sealed: whose it is,
//! on which snapshot its overlay lies, under which epoch, and which snapshots it was about to put
//! in the head.
//!
//! ```text
//! "workspace"  name
//! "store"      store id, 16 bytes
//! "base"       epoch u64 LE | snapshot id, 32 bytes, or nothing
//! "pending"    snapshot ids, 32 bytes each
//! ```

use crate::format::Key;
use crate::local::{Batch, Local, LocalError, Slot};
use crate::types::{Epoch, SnapshotId};

/// Snapshots remembered as possibly in the head. More than one only after lost answers.
const PENDING_MAX: usize = 64;

/// The records of one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalState {
    /// The workspace's name.
    pub workspace: String,
    /// The store's id.
    pub store: [u8; 16],
    /// Epoch of the last acquisition.
    pub epoch: Epoch,
    /// Snapshot that the overlay lies on; none: the empty tree.
    pub base: Option<SnapshotId>,
    /// Snapshots that a swap of ours may have put in the head.
    pub pending: Vec<SnapshotId>,
}

impl LocalState {
    /// Reads the records; none in a directory that was never used.
    pub fn load(local: &Local) -> Result<Option<LocalState>, LocalError> {
        let Some(workspace) = value(local, "workspace")? else { return Ok(None) };
        let damaged = || LocalError::Corrupt { what: String::from("mount state record") };
        let store = value(local, "store")?.ok_or_else(damaged)?;
        let base = value(local, "base")?.ok_or_else(damaged)?;
        let (epoch, base) = base.split_first_chunk::<8>().ok_or_else(damaged)?;
        let pending = value(local, "pending")?.unwrap_or_default();
        let (ids, rest) = pending.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(damaged());
        }
        let base = match base.len() {
            0 => None,
            _ => Some(SnapshotId(base.try_into().map_err(|_| damaged())?)),
        };
        Ok(Some(LocalState {
            workspace: String::from_utf8(workspace).map_err(|_| damaged())?,
            store: store.try_into().map_err(|_| damaged())?,
            epoch: Epoch(u64::from_le_bytes(*epoch)),
            base,
            pending: ids.iter().map(|id| SnapshotId(*id)).collect(),
        }))
    }

    /// Commits the records, as one. Not synced.
    pub fn save(&self, local: &Local) -> Result<(), LocalError> {
        // A seal notes what it is about to do also where records fill the budget: it ends that.
        let mut batch = Batch::for_upkeep();
        let mut base = self.epoch.0.to_le_bytes().to_vec();
        base.extend(self.base.iter().flat_map(|id| id.0));
        let newest = self.pending.len().saturating_sub(PENDING_MAX);
        let pending: Vec<u8> = self.pending[newest..].iter().flat_map(|id| id.0).collect();
        batch.put(Key::local("workspace"), self.workspace.clone().into_bytes());
        batch.put(Key::local("store"), self.store.to_vec());
        batch.put(Key::local("base"), base);
        batch.put(Key::local("pending"), pending);
        local.commit(batch)
    }

    /// Whether the overlay, lying on `base`, may be laid on a head with this snapshot: it is the
    /// same, or one that we sealed ourselves from this overlay. The overlay holds everything that
    /// such a snapshot was made from (records are dropped only after `base` was moved), so the
    /// state that shows through is the same.
    pub fn fits(&self, snapshot: Option<SnapshotId>) -> bool {
        snapshot == self.base || snapshot.is_some_and(|id| self.pending.contains(&id))
    }
}

/// A record of the local directory that is never sealed.
pub(super) fn value(local: &Local, name: &str) -> Result<Option<Vec<u8>>, LocalError> {
    Ok(match local.get(Key::local(name).as_bytes())? {
        Some(Slot::Value(bytes)) => Some(bytes.to_vec()),
        Some(Slot::Tombstone) | None => None,
    })
}
