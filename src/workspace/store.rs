//! A store as a whole: making and opening it, listing what it holds.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::format::{
    FORMAT_KEY, HashKeys, Head, Lease, Snapshot, SnapshotName, SnapshotRef, StoreFormat,
    WORKSPACES_PREFIX, head_key, snapshots_prefix,
};
use crate::remote::{ConditionStyle, Object, PutMode, Remote, RemoteError};
use crate::types::{Clock, SnapshotId, Time, WorkspaceName};

use super::WorkspaceError;
use super::head::{self, ReadHead};
use super::resume::{decode_snapshot, store_id};
use super::verify::{self, VerifyOptions, VerifyReport, VerifyWatch};

/// A store whose format was read and understood.
#[derive(Debug, Clone)]
pub struct Store {
    remote: Arc<Remote>,
    format: StoreFormat,
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
        match Store::open(Arc::clone(&remote)) {
            Ok(store) => return Ok((store, false)),
            Err(WorkspaceError::NoStore) => {}
            Err(WorkspaceError::Remote(RemoteError::NoStore { .. })) => {}
            Err(error) => return Err(error),
        }
        remote.create_place()?;
        let style = remote.probe_conditions()?;
        let (mut store_id, mut secret) = ([0; 16], [0; 32]);
        let filled = getrandom::fill(&mut store_id).and_then(|()| getrandom::fill(&mut secret));
        filled.map_err(|error| WorkspaceError::NoRandom { cause: error.to_string() })?;
        let format = StoreFormat {
            version: StoreFormat::VERSION,
            store_id,
            secret,
            condition_style: style as u8,
            created: clock.now(),
        };
        let malformed = |cause| WorkspaceError::format(FORMAT_KEY, cause);
        let bytes = Bytes::from(format.encode().map_err(malformed)?);
        match remote.put(FORMAT_KEY, bytes, PutMode::Create) {
            Ok(_) => Ok((Store { remote, format }, true)),
            // Somebody else made it at the same time, or it was us and the answer was lost.
            Err(RemoteError::Conflict { .. } | RemoteError::Ambiguous { .. }) => {
                let store = Store::open(remote)?;
                let ours = store.format.store_id == store_id;
                Ok((store, ours))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the format object: one request.
    pub fn open(remote: Arc<Remote>) -> Result<Store, WorkspaceError> {
        let format = decode_format(remote.get(FORMAT_KEY))?;
        remote.set_condition_style(condition_style(&format)?);
        Ok(Store { remote, format })
    }

    /// Id of the store, 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        store_id(&self.format.store_id)
    }

    /// Looks whether everything that the snapshots of a workspace, or of all, name is in the store,
    /// whole and right. Takes no lease and writes nothing to the store. Damage is no error: the
    /// report has it. An error says that something could not be looked at.
    pub fn verify(
        &self,
        options: &VerifyOptions,
        watch: &mut VerifyWatch<'_>,
    ) -> Result<VerifyReport, WorkspaceError> {
        verify::verify(self, options, watch)
    }

    /// Where there is no format object: whether there was a store, in words.
    pub fn remains(remote: &Remote) -> Result<Option<String>, WorkspaceError> {
        Ok(verify::problem_of_format(remote)?)
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(super) fn keys(&self) -> HashKeys {
        self.format.keys()
    }

    /// All workspaces, by name: one listing, and a GET of each head.
    pub fn workspaces(&self) -> Result<Vec<WorkspaceInfo>, WorkspaceError> {
        let listed = self.remote.list(WORKSPACES_PREFIX)?;
        let names: Vec<WorkspaceName> = listed
            .iter()
            .filter_map(|object| object.key.strip_prefix(WORKSPACES_PREFIX)?.strip_suffix("/head"))
            .filter_map(|name| name.parse().ok())
            .collect();
        let heads = names.iter().map(|name| (head_key(name), None)).collect();
        let mut found = Vec::with_capacity(names.len());
        for (name, answer) in names.iter().zip(self.remote.get_many(heads)) {
            match answer {
                Ok(object) => found.push(workspace_info(&head::decode(name, &object)?)),
                Err(RemoteError::Absent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// All snapshots of a workspace, oldest first: one listing, a GET of the head and of each.
    pub fn snapshots(&self, name: &WorkspaceName) -> Result<Vec<SnapshotInfo>, WorkspaceError> {
        let head = self.head(name)?;
        let newest = head.snapshot.map(|snapshot| snapshot.id);
        let list = snapshot_keys(&self.remote, name)?;
        let wanted = list.iter().map(|(key, _)| (key.clone(), None)).collect();
        let mut found = Vec::with_capacity(list.len());
        for ((key, known), answer) in list.iter().zip(self.remote.get_many(wanted)) {
            match answer {
                Ok(object) => {
                    let snapshot = decode_snapshot(key, known.id, &object.bytes)?;
                    found.push(snapshot_info(&snapshot, known.id, newest));
                }
                Err(RemoteError::Absent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// The snapshot with this id, this unique beginning of an id, or `latest`.
    pub fn find_snapshot(
        &self,
        name: &WorkspaceName,
        text: &str,
    ) -> Result<SnapshotId, WorkspaceError> {
        let none = || WorkspaceError::NoSnapshot { name: name.clone(), id: text.to_owned() };
        let head = self.head(name)?;
        if text == "latest" {
            return head.snapshot.map(|snapshot| snapshot.id).ok_or_else(none);
        }
        let list = snapshot_keys(&self.remote, name)?;
        let mut matching = list.iter().filter(|(_, known)| known.id.to_string().starts_with(text));
        match (matching.next(), matching.next()) {
            (Some((_, known)), None) if !text.is_empty() => Ok(known.id),
            _ => Err(none()),
        }
    }

    fn head(&self, name: &WorkspaceName) -> Result<Head, WorkspaceError> {
        let found = head::read(&self.remote, name)?;
        let found = found.ok_or_else(|| WorkspaceError::NoWorkspace { name: name.clone() })?;
        Ok(found.head)
    }
}

/// Decodes the answer to a GET of the format object.
pub fn decode_format(answer: Result<Object, RemoteError>) -> Result<StoreFormat, WorkspaceError> {
    match answer {
        Ok(object) => StoreFormat::decode(&object.bytes)
            .map_err(|cause| WorkspaceError::format(FORMAT_KEY, cause)),
        Err(RemoteError::Absent { .. }) => Err(WorkspaceError::NoStore),
        Err(error) => Err(error.into()),
    }
}

/// How the store wants conditions written.
pub fn condition_style(format: &StoreFormat) -> Result<ConditionStyle, WorkspaceError> {
    match format.condition_style {
        1 => Ok(ConditionStyle::Quoted),
        2 => Ok(ConditionStyle::Unquoted),
        other => Err(WorkspaceError::Corrupt {
            what: FORMAT_KEY.to_owned(),
            cause: format!("condition style {other}"),
        }),
    }
}

/// Keys of a workspace's snapshots with what their names say, oldest first: one listing.
pub fn snapshot_keys(
    remote: &Remote,
    name: &WorkspaceName,
) -> Result<Vec<(String, SnapshotName)>, WorkspaceError> {
    let prefix = snapshots_prefix(name);
    let listed = remote.list(&prefix)?;
    let named = listed.into_iter().filter_map(|object| {
        let name = object.key.strip_prefix(&prefix)?.parse().ok()?;
        Some((object.key, name))
    });
    Ok(named.collect())
}

/// When a snapshot was sealed, as its key says.
pub fn created(snapshot: &SnapshotRef) -> Option<Time> {
    let name: SnapshotName = snapshot.key.parse().ok()?;
    let (secs, millis) = (name.created_unix_ms / 1000, name.created_unix_ms % 1000);
    Some(Time::new(i64::try_from(secs).ok()?, millis as u32 * 1_000_000))
}

fn workspace_info(found: &ReadHead) -> WorkspaceInfo {
    let head = &found.head;
    let expired =
        |lease: &Lease| found.age.is_some_and(|age| age.as_secs() >= u64::from(lease.ttl_secs));
    WorkspaceInfo {
        name: head.workspace.to_string(),
        snapshot: head.snapshot.as_ref().map(|snapshot| snapshot.id.to_string()),
        sealed_at: head.snapshot.as_ref().and_then(created).map(|time| time.secs),
        epoch: head.epoch.0,
        holder: head.lease.as_ref().map(|lease| lease.host.clone()),
        lease_expired: head.lease.as_ref().is_some_and(expired),
        inodes: head.inodes,
        bytes: head.bytes,
    }
}

fn snapshot_info(snapshot: &Snapshot, id: SnapshotId, newest: Option<SnapshotId>) -> SnapshotInfo {
    SnapshotInfo {
        id: id.to_string(),
        created: snapshot.created.secs,
        reason: snapshot.reason.clone(),
        inodes: snapshot.inodes,
        bytes: snapshot.bytes,
        bytes_added: snapshot.data_packs_added.iter().map(|pack| pack.len).sum(),
        parents: snapshot.parents.iter().map(ToString::to_string).collect(),
        newest: newest == Some(id),
    }
}
