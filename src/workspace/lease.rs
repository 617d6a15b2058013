//! Who may write.
//!
//! Safety comes from the epoch: each acquisition raises it, and a head is only ever swapped by the
//! writer whose epoch it carries. The lease is courtesy: it keeps two machines from fencing each
//! other by accident. It is judged by the store's own clock alone.

use super::WorkspaceError;
use super::head::{self, NextHead, ReadHead, Swapped};
use crate::format::{Head, Lease};
use crate::remote::{Remote, Version};
use crate::types::WorkspaceName;

/// Acquisitions tried when others change the head at the same time.
const ACQUIRE_TRIES_MAX: u32 = 8;

/// What an acquisition needs to know.
#[derive(Debug)]
pub struct Acquire<'a> {
    /// The workspace.
    pub name: &'a WorkspaceName,
    /// The lease to be written.
    pub lease: Lease,
    /// Take it whoever holds it.
    pub steal: bool,
    /// Make the workspace if there is none.
    pub create: bool,
}

/// A head that carries our lease.
#[derive(Debug)]
pub struct Acquired {
    /// As it is in the store now.
    pub head: Head,
    /// For the next swap.
    pub version: Version,
}

impl Acquire<'_> {
    /// Whether the lease may be taken now: nobody has it, it ran out, it is our own, or it is to
    /// be stolen.
    pub fn check(&self, found: &ReadHead) -> Result<(), WorkspaceError> {
        let Some(lease) = &found.head.lease else { return Ok(()) };
        if self.steal || lease.holder == self.lease.holder {
            return Ok(());
        }
        let ttl = u64::from(lease.ttl_secs);
        let age = found.age.map_or(0, |age| age.as_secs());
        if age >= ttl && found.age.is_some() {
            return Ok(());
        }
        Err(WorkspaceError::LeaseHeld {
            name: self.name.clone(),
            host: lease.host.clone(),
            holder: Some(lease.holder),
            seconds_left: ttl - age.min(ttl),
        })
    }

    /// Takes the lease: one conditional PUT, more only if the head changes meanwhile. `accept`
    /// looks at each head before it is taken (has it diverged from the local state?).
    pub fn run(
        &self,
        remote: &Remote,
        found: Option<ReadHead>,
        accept: &dyn Fn(&Head) -> Result<(), WorkspaceError>,
    ) -> Result<Acquired, WorkspaceError> {
        let mut found = found;
        for _ in 0..ACQUIRE_TRIES_MAX {
            let (from, next) = match found {
                Some(found) => {
                    self.check(&found)?;
                    accept(&found.head)?;
                    let next = NextHead::with_lease(&found.head, Some(self.lease.clone()), true);
                    (Some(found.version), next)
                }
                None if self.create => (None, NextHead::first(self.name, self.lease.clone())),
                None => return Err(WorkspaceError::NoWorkspace { name: self.name.clone() }),
            };
            // Nothing found is ours but what is written here: each epoch is acquired once.
            match head::swap(remote, from, &next, &[])? {
                Swapped::Won(version) => {
                    return Ok(Acquired { head: next.head().clone(), version });
                }
                Swapped::Lost(other) => found = Some(*other),
            }
        }
        // So many writers at once: one of them has it by now.
        let lease = found.and_then(|found| found.head.lease);
        let (host, holder) = lease.map(|lease| (lease.host, lease.holder)).unzip();
        Err(WorkspaceError::LeaseHeld {
            name: self.name.clone(),
            host: host.unwrap_or_else(|| String::from("another machine")),
            holder,
            seconds_left: u64::from(self.lease.ttl_secs),
        })
    }
}
