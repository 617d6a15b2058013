//! Reading and swapping the head: the one object that is ever changed.
//!
//! Each head has a nonce of its own. A head is ours only if it has the nonce of one that we tried
//! to write: epoch and holder do not tell, for a directory or a whole machine may have been copied
//! while it ran. So an answer that was lost, or that comes late, is settled by reading the head.

use std::time::Duration;

use bytes::Bytes;

use super::WorkspaceError;
use crate::format::{Head, Lease, SnapshotRef, head_key};
use crate::remote::{Durable, Object, PutMode, Remote, RemoteError, Version};
use crate::types::{Epoch, Ino, WorkspaceName};

/// Swaps that may be tried again because the head changed under us or the answer was lost.
const SWAP_TRIES_MAX: u32 = 8;

/// What tells one written head from every other.
pub type Nonce = [u8; 16];

/// A head as it was read.
#[derive(Debug, Clone)]
pub struct ReadHead {
    /// What it says.
    pub head: Head,
    /// For the next swap.
    pub version: Version,
    /// Since it was written, by the store's own clock; none if the store does not tell.
    pub age: Option<Duration>,
}

/// A head that may be written: everything that it names is in the store.
#[derive(Debug, Clone)]
pub struct NextHead(Head);

/// How a swap ended.
#[derive(Debug)]
pub enum Swapped {
    /// The head is what we wrote.
    Won(Version),
    /// The head is something else, which was not written by this writer.
    Lost(Box<ReadHead>),
}

impl NextHead {
    /// The first head of a new workspace: names nothing.
    pub fn first(name: &WorkspaceName, lease: Lease) -> NextHead {
        NextHead(Head {
            nonce: nonce(),
            workspace: name.clone(),
            epoch: Epoch(1),
            lease: Some(lease),
            snapshot: None,
            root: None,
            nodes: Vec::new(),
            records: Vec::new(),
            tree_packs: Vec::new(),
            next_ino: Ino(Ino::ROOT.0 + 1),
            inodes: 0,
            bytes: 0,
        })
    }

    /// The same state with another lease; with `epoch + 1` when it is acquired.
    pub fn with_lease(head: &Head, lease: Option<Lease>, acquire: bool) -> NextHead {
        let mut next = Head { nonce: nonce(), lease, ..head.clone() };
        if acquire {
            next.epoch.0 += 1;
        }
        NextHead(next)
    }

    /// A new state. `snapshot` is stored, and it was stored after all that it names.
    pub fn sealed(next: Head, snapshot: &Durable<SnapshotRef>) -> NextHead {
        let snapshot = Some(snapshot.value().clone());
        NextHead(Head { nonce: nonce(), snapshot, ..next })
    }

    /// What will be written.
    pub fn head(&self) -> &Head {
        &self.0
    }
}

/// So that no two heads are ever the same bytes (see `format`).
fn nonce() -> Nonce {
    let mut nonce = [0; 16];
    // Without it two heads may be taken for one only if everything else in them is equal, too.
    if let Err(error) = getrandom::fill(&mut nonce) {
        tracing::warn!(%error, "the system gives no random numbers");
    }
    nonce
}

/// Decodes a head that was just fetched.
pub fn decode(name: &WorkspaceName, object: &Object) -> Result<ReadHead, WorkspaceError> {
    let what = head_key(name);
    let head = Head::decode(&object.bytes).map_err(|cause| WorkspaceError::format(&what, cause))?;
    if head.workspace != *name {
        let cause = format!("it is the head of {}", head.workspace);
        return Err(WorkspaceError::Corrupt { what, cause });
    }
    let age = object
        .meta
        .store_now
        .zip(object.meta.last_modified)
        .map(|(now, written)| Duration::from_secs(now.seconds_since(written)));
    Ok(ReadHead { head, version: object.meta.version.clone(), age })
}

/// Reads the head: one request, and another if what came is damaged.
pub fn read(remote: &Remote, name: &WorkspaceName) -> Result<Option<ReadHead>, WorkspaceError> {
    found(remote, name, remote.get(&head_key(name)))
}

/// What an answer to a GET of the head says. One that is damaged may have been so on its way only:
/// it is asked for once more.
pub fn found(
    remote: &Remote,
    name: &WorkspaceName,
    answer: Result<Object, RemoteError>,
) -> Result<Option<ReadHead>, WorkspaceError> {
    let decoded = |answer| match answer {
        Ok(object) => decode(name, &object).map(Some),
        Err(RemoteError::Absent { .. }) => Ok(None),
        Err(error) => Err(WorkspaceError::from(error)),
    };
    match decoded(answer) {
        Err(WorkspaceError::Corrupt { cause, .. }) => {
            tracing::warn!(cause, "a fetched head is damaged, fetching it again");
            decoded(remote.get(&head_key(name)))
        }
        other => other,
    }
}

/// Puts `next` in the place of the version `from` (none: of nothing). When the answer is lost or
/// says that the head changed, the head is read: if it is what we wrote, we won; if it has one of
/// the nonces `tried` (an earlier swap of this writer whose answer was lost), it is replaced; if it
/// is still the version that we came from, the write was not applied, and is tried again.
pub fn swap(
    remote: &Remote,
    from: Option<Version>,
    next: &NextHead,
    tried: &[Nonce],
) -> Result<Swapped, WorkspaceError> {
    let name = &next.0.workspace;
    let malformed = |cause| WorkspaceError::format(&head_key(name), cause);
    let bytes = Bytes::from(next.0.encode().map_err(malformed)?);
    let mut from = from;
    let mut last = None;
    for _ in 0..SWAP_TRIES_MAX {
        let mode = from.clone().map_or(PutMode::Create, PutMode::Swap);
        match remote.put(&head_key(name), bytes.clone(), mode) {
            Ok(stored) => return Ok(Swapped::Won(stored.version().clone())),
            // `Corrupt`: it was acknowledged under another version than its bytes have.
            Err(
                error @ (RemoteError::Conflict { .. }
                | RemoteError::Ambiguous { .. }
                | RemoteError::Corrupt { .. }),
            ) => last = Some(error),
            // The object that should be replaced is gone.
            Err(RemoteError::Absent { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match read(remote, name)? {
            Some(found) if found.head == next.0 => return Ok(Swapped::Won(found.version)),
            Some(found) if tried.contains(&found.head.nonce) => from = Some(found.version),
            Some(found) if from.as_ref() == Some(&found.version) => {}
            Some(found) => return Ok(Swapped::Lost(Box::new(found))),
            None if from.is_none() => {}
            None => return Err(WorkspaceError::NoWorkspace { name: name.clone() }),
        }
    }
    let ambiguous = || RemoteError::Ambiguous {
        key: head_key(name),
        cause: String::from("the head kept changing"),
    };
    Err(last.unwrap_or_else(ambiguous).into())
}
