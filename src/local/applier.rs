//! The background thread that moves frozen tables to RocksDB.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::LocalError;
use super::memtable::Frozen;
use super::overlay::Overlay;

/// How long a failed apply waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The queue between commits and the thread.
#[derive(Debug, Default)]
pub(super) struct Applier {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Oldest first; the front one is being applied.
    waiting: VecDeque<Arc<Frozen>>,
    /// Sequence number of the newest record in RocksDB since the start; 0: none yet.
    applied_seq: u64,
    /// Why the front one could not be applied. It is tried again and again.
    failure: Option<LocalError>,
    stop: bool,
}

impl Applier {
    pub(super) fn submit(&self, frozen: Arc<Frozen>) {
        self.queue.lock().waiting.push_back(frozen);
        self.changed.notify_all();
    }

    /// Waits until fewer than `max` tables wait. Fails at once if they do because RocksDB can't
    /// take them.
    pub(super) fn wait_for_room(&self, max: usize) -> Result<(), LocalError> {
        self.wait_until(|queue| queue.waiting.len() < max)
    }

    /// Waits until RocksDB has every record up to `seq`.
    pub(super) fn wait_for(&self, seq: u64) -> Result<(), LocalError> {
        self.wait_until(|queue| queue.waiting.is_empty() || queue.applied_seq >= seq)
    }

    /// Waits until no table is left.
    pub(super) fn wait_for_all(&self) -> Result<(), LocalError> {
        self.wait_until(|queue| queue.waiting.is_empty())
    }

    fn wait_until(&self, ready: impl Fn(&Queue) -> bool) -> Result<(), LocalError> {
        let mut queue = self.queue.lock();
        while !ready(&queue) {
            if let Some(failure) = &queue.failure {
                return Err(failure.clone());
            }
            if queue.stop {
                return Err(LocalError::Closed);
            }
            self.changed.wait(&mut queue);
        }
        Ok(())
    }

    /// Ends the thread after the table it is at.
    pub(super) fn stop(&self) {
        self.queue.lock().stop = true;
        self.changed.notify_all();
    }

    /// The thread: applies what comes until it is stopped.
    pub(super) fn run(&self, overlay: &Overlay) {
        while let Some(frozen) = self.next() {
            let result = overlay.apply(&frozen);
            let mut queue = self.queue.lock();
            match result {
                Ok(()) => {
                    queue.waiting.pop_front();
                    queue.applied_seq = frozen.upto.seq;
                    queue.failure = None;
                    self.changed.notify_all();
                }
                Err(error) => {
                    if queue.failure.is_none() {
                        tracing::error!(%error, "records can't be moved to RocksDB; trying on");
                    }
                    queue.failure = Some(error);
                    self.changed.notify_all();
                    if !queue.stop {
                        self.changed.wait_for(&mut queue, RETRY_AFTER);
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Arc<Frozen>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.stop {
                return None;
            }
            if let Some(front) = queue.waiting.front() {
                return Some(Arc::clone(front));
            }
            self.changed.wait(&mut queue);
        }
    }
}
