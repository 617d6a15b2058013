//! A mounted workspace's parts and the state that its threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::chunks::{Chunks, Fetch};
use crate::format::{Head, Lease, PackInfo, StoreFormat};
use crate::fs::Filesystem;
use crate::local::{Local, crash_point};
use crate::namespace::Namespace;
use crate::remote::{Brake, Durable, PutMode, Remote, Version};
use crate::types::{Clock, Epoch, PackId, Time};

use super::head::{self, NextHead, Nonce, ReadHead, Swapped};
use super::known_head::KnownHead;
use super::local_state::LocalState;
use super::pace::Hurry;
use super::settle::Settling;
use super::status::SealCounts;
use super::{Progress, Receipt, ResumeOptions, WorkspaceError};

/// Uploads below this are all latency, and say nothing about the rate.
const RATE_BYTES_MIN: u64 = 1 << 20;

/// The parts. Lock order: `sealing`, `settling`, `swapping`, `mount`, `tally`; the lower layers'
/// locks come after all of them.
#[derive(Debug)]
pub struct Active {
    pub options: ResumeOptions,
    pub store_id: [u8; 16],
    pub format: StoreFormat,
    /// The writer's epoch; 0 for a read-only mount.
    pub epoch: Epoch,
    pub clock: Arc<dyn Clock>,
    pub remote: Arc<Remote>,
    pub local: Arc<Local>,
    pub chunks: Arc<Chunks>,
    pub namespace: Arc<Namespace>,
    pub fs: Arc<Filesystem>,
    pub progress: Arc<Progress>,
    /// One seal at a time.
    pub sealing: Mutex<()>,
    /// Pieces on their way to the store.
    pub settling: Mutex<Settling>,
    /// Who waits for `settling`.
    pub hurry: Hurry,
    /// One change of the head at a time, from making the next one to knowing what became of it.
    pub swapping: Mutex<()>,
    pub mount: Mutex<Mount>,
    pub tally: Mutex<Tally>,
    /// Hibernated or closed: nothing is sealed any more.
    pub closed: AtomicBool,
    /// Ends what the mount's threads wait for when they are to end.
    pub brake: Brake,
}

/// What this mount knows of its head.
#[derive(Debug)]
pub struct Mount {
    /// As this mount last wrote or (read-only) read it.
    pub head: Head,
    /// For the next swap; none for a read-only mount.
    pub version: Option<Version>,
    /// Nonces of heads that we tried to write since the last swap that is known to be won.
    pub tried: Vec<Nonce>,
    /// Condition that the acquisition made stale: a put under it must fail.
    pub stale: Option<PutMode>,
    /// What the local directory remembers.
    pub state: LocalState,
    /// The lease was written by the daemon before, at a time that is not known here.
    pub renew_now: bool,
    /// When the lease was last written, by the clock's monotonic time.
    pub renewed_at: Duration,
    /// Packs of the tree under the overlay.
    pub base_packs: Vec<PackInfo>,
    /// When the base was sealed, if this mount knows.
    pub base_created: Option<Time>,
    /// Data packs that are stored but that no snapshot lists yet.
    pub unlisted: Vec<Durable<PackId>>,
    /// Who took over, once somebody did.
    pub fenced: Option<Fenced>,
}

/// Why a mount can never move the head again.
#[derive(Debug, Clone)]
pub struct Fenced {
    /// Who has it now, or what else happened.
    pub host: String,
    /// The epoch in the store.
    pub epoch: Epoch,
}

/// Counters and times of seals.
#[derive(Debug, Default)]
pub struct Tally {
    pub seals: SealCounts,
    /// When the last snapshot was made, monotonic.
    pub last_seal: Option<Duration>,
    /// When the oldest change was seen that no snapshot holds, monotonic.
    pub changed_since: Option<Duration>,
    /// Bytes per second of uploads, measured; 0: not yet.
    pub upload_rate: u64,
    /// Writers are being slowed.
    pub throttled: bool,
}

impl Active {
    /// A deadline for what a foreground step may wait for the store.
    pub fn fetch(&self) -> Fetch {
        Fetch::Within(self.options.fetch_timeout)
    }

    /// Whether a seal may go on.
    pub fn check_writable(&self) -> Result<(), WorkspaceError> {
        let name = self.options.name.clone();
        if !self.options.writable() {
            return Err(WorkspaceError::ReadOnly { name });
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(WorkspaceError::Closed { name });
        }
        match &self.mount.lock().fenced {
            Some(fenced) => Err(self.fenced_error(fenced)),
            None => Ok(()),
        }
    }

    /// The lease that this mount writes.
    pub fn lease(&self) -> Lease {
        lease(&self.options, &self.local)
    }

    /// Puts `next` in the head's place, also in the place of a head that an earlier swap without
    /// an answer left there; or finds out that somebody else changed it, and fences. Under
    /// `swapping`.
    pub fn swap_head(&self, next: &NextHead) -> Result<(), WorkspaceError> {
        let (from, tried) = {
            let mut mount = self.mount.lock();
            let mut tried = mount.tried.clone();
            // Where only its version is another than we were told, the head is ours still.
            tried.push(mount.head.nonce);
            mount.tried.push(next.head().nonce);
            (mount.version.clone(), tried)
        };
        self.keep_tried()?;
        match head::swap(&self.remote, from, next, &tried)? {
            Swapped::Won(version) => {
                crash_point("swap.won");
                self.note_swap(next.head().clone(), version);
                Ok(())
            }
            Swapped::Lost(found) => Err(self.fence(&found)),
        }
    }

    /// Writes the lease again; what the head names stays, also where it was put there by an
    /// earlier swap without an answer.
    pub fn renew(&self) -> Result<(), WorkspaceError> {
        let Some(_swapping) = self.swapping.try_lock() else { return Ok(()) };
        self.check_writable()?;
        let (mut head, mut from) = {
            let mount = self.mount.lock();
            if mount.head.lease.is_none() {
                // Given back meanwhile.
                return Ok(());
            }
            (mount.head.clone(), mount.version.clone())
        };
        let known = head.clone();
        loop {
            let next = NextHead::with_lease(&head, Some(self.lease()), false);
            self.mount.lock().tried.push(next.head().nonce);
            self.keep_tried()?;
            match head::swap(&self.remote, from, &next, &[])? {
                Swapped::Won(version) if head.snapshot == known.snapshot => {
                    self.note_swap(next.head().clone(), version);
                    return Ok(());
                }
                Swapped::Won(_) => {
                    self.note_renewal_in_doubt();
                    return Ok(());
                }
                Swapped::Lost(found)
                    if found.head.nonce == known.nonce
                        || self.mount.lock().tried.contains(&found.head.nonce) =>
                {
                    (head, from) = (found.head, Some(found.version));
                }
                Swapped::Lost(found) => return Err(self.fence(&found)),
            }
        }
    }

    fn note_swap(&self, head: Head, version: Version) {
        let mut mount = self.mount.lock();
        mount.tried.clear();
        mount.head = head;
        mount.version = Some(version);
        mount.renewed_at = self.clock.monotonic();
        mount.renew_now = false;
        self.keep_head(&mount);
    }

    /// The head in the store now has a state that an earlier swap put there, which this mount
    /// never got to know as its own, and which the overlay does not lie on. It stays in doubt
    /// until a seal puts one there that is known, and so does its version: a swap finds it again
    /// by `tried`. What is kept for a daemon that takes over holds as it is.
    fn note_renewal_in_doubt(&self) {
        let mut mount = self.mount.lock();
        mount.renewed_at = self.clock.monotonic();
        mount.renew_now = false;
    }

    /// Before a swap: without it, whoever takes over could not tell its outcome.
    fn keep_tried(&self) -> Result<(), WorkspaceError> {
        if !self.options.keeps_head {
            return Ok(());
        }
        let tried = self.mount.lock().tried.clone();
        KnownHead::note_tried(&self.local, &tried)
    }

    /// Keeps what is known of the head for a daemon that takes the mount over.
    pub fn keep_head(&self, mount: &Mount) {
        if !self.options.keeps_head {
            return;
        }
        let (head, version) = (&mount.head, mount.version.as_ref());
        if let Err(error) = KnownHead::save(&self.local, &self.format, head, version) {
            // What was kept before holds: the swap's nonce is noted there.
            tracing::warn!(%error, "the head is not kept for a daemon that takes over");
        }
    }

    /// Turns the mount read-only: another writer has the workspace.
    fn fence(&self, found: &ReadHead) -> WorkspaceError {
        let lease = found.head.lease.as_ref();
        let host = lease.map_or_else(|| String::from("another machine"), |l| l.host.clone());
        self.fence_because(Fenced { host, epoch: found.head.epoch })
    }

    /// Turns the mount read-only for good.
    pub fn fence_because(&self, fenced: Fenced) -> WorkspaceError {
        self.fs.fence();
        let error = self.fenced_error(&fenced);
        tracing::error!(workspace = %self.options.name, "fenced: {error}");
        self.mount.lock().fenced = Some(fenced);
        error
    }

    /// What a fenced mount answers.
    pub fn fenced_error(&self, fenced: &Fenced) -> WorkspaceError {
        WorkspaceError::Fenced {
            name: self.options.name.clone(),
            host: fenced.host.clone(),
            ours: self.epoch,
            theirs: fenced.epoch,
        }
    }
}

/// The lease of a mount with these options.
pub fn lease(options: &ResumeOptions, local: &Local) -> Lease {
    let ttl_secs = u32::try_from(options.lease_ttl.as_secs()).unwrap_or(u32::MAX);
    let mut host = options.host.clone();
    host.truncate(host.floor_char_boundary(200));
    Lease { holder: local.cache_id(), host, ttl_secs }
}

impl Tally {
    /// Counts a seal that ended at `now` after `took`.
    pub fn note_seal(
        &mut self,
        result: &Result<Receipt, WorkspaceError>,
        now: Duration,
        took: Duration,
    ) {
        match result {
            Ok(receipt) => {
                self.seals.last_error = None;
                if receipt.changed {
                    self.seals.made += 1;
                    self.last_seal = Some(now);
                    self.note_upload(receipt.bytes_uploaded, took);
                }
            }
            Err(error) => {
                self.seals.failed += 1;
                self.seals.last_error = Some(error.to_string());
            }
        }
    }

    /// Takes a measured upload into the rate: half of it is the newest measure.
    fn note_upload(&mut self, bytes: u64, took: Duration) {
        if bytes < RATE_BYTES_MIN || took.is_zero() {
            return;
        }
        let rate = (bytes as f64 / took.as_secs_f64()) as u64;
        self.upload_rate =
            if self.upload_rate == 0 { rate } else { self.upload_rate / 2 + rate / 2 };
    }
}
