//! A store as a whole: making and opening it, listing what it holds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::WorkspaceError;
use crate::remote::Remote;
use crate::types::{Clock, SnapshotId, WorkspaceName};

/// A store whose format was read and understood.
#[derive(Debug, Clone)]
pub struct Store {
    remote: Arc<Remote>,
}

/// A workspace, as `dormouse workspaces` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceInfo {
    /// Its name.
    pub name: String,
    /// Newest snapshot; none if it was never sealed.
    pub snapshot: Option<String>,
    /// When that was sealed, by the sealer's clock: seconds since 1970.
    pub sealed_at: Option<i64>,
    /// Raised by every acquisition of the lease.
    pub epoch: u64,
    /// Who holds the lease; none: nobody.
    pub holder: Option<String>,
    /// Whether that lease has run out, by the store's clock.
    pub lease_expired: bool,
    /// Inodes in the newest snapshot.
    pub inodes: u64,
    /// Sum of their sizes, bytes.
    pub bytes: u64,
}

/// A snapshot, as `dormouse snapshots` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id (64 hexadecimal digits).
    pub id: String,
    /// When it was sealed, by the sealer's clock: seconds since 1970.
    pub created: i64,
    /// `hibernate` or `checkpoint`.
    pub reason: String,
    /// Inodes.
    pub inodes: u64,
    /// Sum of their sizes, bytes.
    pub bytes: u64,
    /// Bytes of the data packs that it added.
    pub bytes_added: u64,
    /// Snapshots that it was made from.
    pub parents: Vec<String>,
    /// Whether the head names it.
    pub newest: bool,
}

impl Store {
    /// Makes a store at an empty address: checks that the store honours conditional writes, then
    /// writes the format object with a new id and secret. Where there is a store already, it is
    /// opened; the flag says whether it was made now.
    pub fn init(remote: Arc<Remote>, clock: &dyn Clock) -> Result<(Store, bool), WorkspaceError> {
        let _ = (remote, clock);
        todo!()
    }

    /// Reads the format object: one request.
    pub fn open(remote: Arc<Remote>) -> Result<Store, WorkspaceError> {
        let _ = remote;
        todo!()
    }

    /// Id of the store, 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        let _ = &self.remote;
        todo!()
    }

    /// All workspaces, by name.
    pub fn workspaces(&self) -> Result<Vec<WorkspaceInfo>, WorkspaceError> {
        todo!()
    }

    /// All snapshots of a workspace, oldest first.
    pub fn snapshots(&self, name: &WorkspaceName) -> Result<Vec<SnapshotInfo>, WorkspaceError> {
        let _ = name;
        todo!()
    }

    /// The snapshot with this id, this unique beginning of an id, or `latest`.
    pub fn find_snapshot(
        &self,
        name: &WorkspaceName,
        text: &str,
    ) -> Result<SnapshotId, WorkspaceError> {
        let _ = (name, text);
        todo!()
    }
}
