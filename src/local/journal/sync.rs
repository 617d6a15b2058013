//! Group commit: one `fdatasync` serves everybody who waits.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::segment::Segment;
use super::{JournalEnds, Position};
use crate::local::{LocalError, crash_point};

/// What is written, and how much of it is on the disk.
#[derive(Debug)]
pub(super) struct Syncer {
    tail: Mutex<Tail>,
    ended: Condvar,
    rounds: AtomicU64,
}

#[derive(Debug)]
struct Tail {
    /// The end of what is with the kernel.
    appended: Position,
    /// Everything before it survives a power cut.
    synced: Position,
    /// The segment that is written to.
    current: Arc<Segment>,
    /// Segments finished since the last round.
    finished: Vec<Arc<Segment>>,
    /// The name of `current` or a finished one may not be durable.
    names_changed: bool,
    /// A leader is at it.
    syncing: bool,
    poison: Option<String>,
}

impl Syncer {
    /// Everything up to `synced` is on the disk; `current` is a new file, and `at` is in it.
    pub(super) fn new(synced: Position, at: Position, current: Arc<Segment>) -> Syncer {
        let tail = Tail {
            appended: at,
            synced,
            current,
            finished: Vec::new(),
            names_changed: true,
            syncing: false,
            poison: None,
        };
        Syncer { tail: Mutex::new(tail), ended: Condvar::new(), rounds: AtomicU64::new(0) }
    }

    pub(super) fn check(&self) -> Result<(), LocalError> {
        self.tail.lock().check()
    }

    /// The first failure, after which nothing is taken any more.
    pub(super) fn failure(&self) -> Option<String> {
        self.tail.lock().poison.clone()
    }

    pub(super) fn appended(&self, to: Position) {
        self.tail.lock().appended = to;
    }

    /// The next record comes into `next`, at `to`.
    pub(super) fn rolled(&self, next: Arc<Segment>, to: Position) {
        let mut tail = self.tail.lock();
        tail.appended = to;
        let finished = std::mem::replace(&mut tail.current, next);
        tail.finished.push(finished);
        tail.names_changed = true;
    }

    /// Lets every later commit and sync fail.
    pub(super) fn poison(&self, cause: &LocalError) {
        self.tail.lock().poison(cause);
        self.ended.notify_all();
    }

    /// Sequence number of the newest record that is with the kernel.
    pub(super) fn newest(&self) -> u64 {
        self.tail.lock().appended.seq
    }

    pub(super) fn ends(&self) -> JournalEnds {
        let tail = self.tail.lock();
        JournalEnds { synced: tail.synced, appended: tail.appended }
    }

    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Returns when records up to `seq` survive a power cut. Whoever finds no round under way
    /// leads one for all; the others wait for its end, and for the next if theirs came too late.
    pub(super) fn sync_to(&self, seq: u64, dir: &Path) -> Result<(), LocalError> {
        self.sync_until(dir, |synced| synced.seq >= seq)
    }

    /// As [`Syncer::sync_to`] for the records before `at`, and for the segment that it is in, also
    /// where none of them is.
    pub(super) fn sync_with_segment(&self, at: Position, dir: &Path) -> Result<(), LocalError> {
        self.sync_until(dir, |synced| synced.seq >= at.seq && synced.segment >= at.segment)
    }

    fn sync_until(&self, dir: &Path, done: impl Fn(&Position) -> bool) -> Result<(), LocalError> {
        let mut tail = self.tail.lock();
        loop {
            tail.check()?;
            if done(&tail.synced) {
                return Ok(());
            }
            if tail.syncing {
                self.ended.wait(&mut tail);
            } else {
                self.lead(&mut tail, dir);
            }
        }
    }

    fn lead(&self, tail: &mut MutexGuard<'_, Tail>, dir: &Path) {
        let upto = tail.appended;
        let mut segments = std::mem::take(&mut tail.finished);
        segments.push(Arc::clone(&tail.current));
        let names_changed = std::mem::take(&mut tail.names_changed);
        tail.syncing = true;
        let result = MutexGuard::unlocked(tail, || {
            crash_point("journal-sync");
            segments.iter().try_for_each(|segment| segment.sync())?;
            crash_point("journal-synced");
            if names_changed { sync_dir(dir) } else { Ok(()) }
        });
        self.rounds.fetch_add(1, Ordering::Relaxed);
        tail.syncing = false;
        match result {
            Ok(()) => tail.synced = upto,
            // The kernel may have dropped the pages and report success next time: nothing
            // written since the last good round can be trusted to be there.
            Err(error) => tail.poison(&error),
        }
        self.ended.notify_all();
    }
}

impl Tail {
    fn check(&self) -> Result<(), LocalError> {
        match &self.poison {
            Some(cause) => Err(LocalError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, cause: &LocalError) {
        tracing::error!(%cause, "the journal takes no more writes");
        self.poison.get_or_insert_with(|| cause.to_string());
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LocalError> {
    #[cfg(test)]
    let names: Vec<_> = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|error| LocalError::io("list", dir, error))?;
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|error| LocalError::io("sync", dir, error))?;
    #[cfg(test)]
    super::segment::faults::names_synced(&names);
    Ok(())
}
