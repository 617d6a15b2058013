//! How far a seal is, readable from any thread while it runs.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::WorkspaceError;

/// Steps of a seal, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    /// No seal is running.
    #[default]
    Idle = 0,
    /// Cutting, hashing and compressing what is still staged.
    Settling = 1,
    /// Waiting for data packs to be stored.
    Uploading = 2,
    /// Writing the tree.
    Tree = 3,
    /// Asking the store for each pack once more.
    Confirming = 4,
    /// Storing the snapshot and moving the head.
    Head = 5,
    /// The seal is done.
    Done = 6,
}

/// Shared by the thread that seals and those that watch.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    packs_done: AtomicU64,
    remaining_secs: AtomicU64,
    stop: AtomicBool,
}

/// One look at a [`Progress`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// The step.
    pub phase: Phase,
    /// Bytes of file content that were staged when the seal began, or that it found since.
    pub bytes_total: u64,
    /// How many of them are in packs by now.
    pub bytes_done: u64,
    /// Packs stored by this seal.
    pub packs_done: u64,
    /// Estimate by the measured rate; none until a rate was measured.
    pub remaining_secs: Option<u64>,
}

const UNKNOWN: u64 = u64::MAX;

impl Progress {
    /// How far it is now.
    #[must_use]
    pub fn view(&self) -> ProgressView {
        let remaining = self.remaining_secs.load(Ordering::Relaxed);
        let bytes_done = self.bytes_done.load(Ordering::Relaxed);
        ProgressView {
            phase: Phase::from_u8(self.phase.load(Ordering::Relaxed)),
            // Files may grow while they are cut; and what was found after a crash is counted
            // only then.
            bytes_total: self.bytes_total.load(Ordering::Relaxed).max(bytes_done),
            bytes_done,
            packs_done: self.packs_done.load(Ordering::Relaxed),
            remaining_secs: (remaining != UNKNOWN).then_some(remaining),
        }
    }

    /// Asks the running seal to stop at its next step; what it was part of returns `Stopped`.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Takes back what `cancel` asked for.
    pub(super) fn allow(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// `Stopped` if somebody asked for it.
    pub(super) fn check(&self) -> Result<(), WorkspaceError> {
        if self.stop.load(Ordering::Relaxed) { Err(WorkspaceError::Stopped) } else { Ok(()) }
    }

    /// Starts over with this much to do.
    pub(super) fn begin(&self, bytes_total: u64) {
        self.bytes_total.store(bytes_total, Ordering::Relaxed);
        self.bytes_done.store(0, Ordering::Relaxed);
        self.packs_done.store(0, Ordering::Relaxed);
        self.remaining_secs.store(UNKNOWN, Ordering::Relaxed);
        self.phase(Phase::Settling);
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// More bytes are in packs; `rate` is bytes per second, 0 where none was measured yet.
    pub(super) fn add_bytes(&self, bytes: u64, rate: u64) {
        let done = self.bytes_done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let left = self.bytes_total.load(Ordering::Relaxed).saturating_sub(done);
        let remaining = left.checked_div(rate).unwrap_or(UNKNOWN);
        self.remaining_secs.store(remaining, Ordering::Relaxed);
    }

    pub(super) fn add_packs(&self, packs: u64) {
        self.packs_done.fetch_add(packs, Ordering::Relaxed);
    }
}

impl Phase {
    fn from_u8(number: u8) -> Phase {
        match number {
            1 => Phase::Settling,
            2 => Phase::Uploading,
            3 => Phase::Tree,
            4 => Phase::Confirming,
            5 => Phase::Head,
            6 => Phase::Done,
            _ => Phase::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_done_than_there_is() {
        let progress = Progress::default();
        progress.begin(0);
        progress.add_bytes(118 << 20, 0);
        assert_eq!(progress.view().bytes_total, 118 << 20);
        progress.begin(10);
        progress.add_bytes(3, 1);
        let view = progress.view();
        assert_eq!((view.bytes_done, view.bytes_total, view.remaining_secs), (3, 10, Some(7)));
    }
}
