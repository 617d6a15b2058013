//! What a mounted workspace does by itself: settle, checkpoint, renew its lease, slow its writers.
//!
//! Three threads, so that a seal that takes long keeps neither files from settling nor the lease
//! from being renewed nor writers from being slowed. With nothing to do they sleep: the watching
//! and the checkpoint thread until something is committed, the settling thread until the watching
//! one, which never waits long for anything else, nudges it.

use std::sync::Arc;
use std::time::Duration;

use crate::chunks::Fetch;
use crate::format::{SnapshotRef, head_key};
use crate::fs::Reclaim;
use crate::remote::RemoteError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::WorkspaceError;
use super::active::{Active, Fenced};
use super::resume::decode_snapshot;
use super::seal::Reason;
use super::settle::Which;

/// How often the threads look while there is something to do.
const TICK: Duration = Duration::from_millis(500);

/// Longest sleep with nothing to do: what nobody is woken for (forgotten files whose metadata was
/// not on this machine) is seen after it.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// After the mount, when the store is asked whether it still honours conditions.
const CONDITIONS_AFTER: Duration = Duration::from_secs(3);

/// Niceness of the threads that settle and make checkpoints: they yield to the sandbox's own work.
const SETTLE_NICE: i32 = 10;

/// Longest sleep that a write pays when too much waits for the store.
const DELAY_MAX: Duration = Duration::from_millis(100);

/// The threads of a mount. Dropping it stops and joins them.
#[derive(Debug)]
pub struct Threads {
    active: Arc<Active>,
    stop: Option<Sender<()>>,
    handles: Vec<std::thread::JoinHandle<()>>,
}

/// Waits between tries of something that fails.
#[derive(Debug, Default)]
struct Backoff {
    not_before: Duration,
    wait: Duration,
}

impl Backoff {
    fn is_due(&self, now: Duration) -> bool {
        now >= self.not_before
    }

    fn note(&mut self, failed: bool, now: Duration) {
        self.wait = match failed {
            true => (self.wait * 2).clamp(BACKOFF.0, BACKOFF.1),
            false => Duration::ZERO,
        };
        self.not_before = now + self.wait;
    }
}

impl Threads {
    /// Starts the threads of a mount.
    pub fn start(active: &Arc<Active>) -> std::io::Result<Threads> {
        let (stop, stopped) = bounded(0);
        let active_too = Arc::clone(active);
        let mut threads = Threads { active: active_too, stop: Some(stop), handles: Vec::new() };
        if active.options.upkeep.hot_bytes_max > 0 {
            threads.spawn("warm", &stopped, active, |_, active| active.warm())?;
        }
        if active.options.writable() {
            // Before the threads get to run: a busy machine lets a writer go first.
            active.fs.serve_room(true);
            active.throttle();
            threads.spawn("settle", &stopped, active, settle_loop)?;
            threads.spawn("checkpoint", &stopped, active, checkpoint_loop)?;
            threads.spawn("watch", &stopped, active, watch_loop)?;
        }
        Ok(threads)
    }

    fn spawn(
        &mut self,
        name: &str,
        stopped: &Receiver<()>,
        active: &Arc<Active>,
        run: fn(&Receiver<()>, &Active),
    ) -> std::io::Result<()> {
        let (stopped, active) = (stopped.clone(), Arc::clone(active));
        let thread = std::thread::Builder::new().name(format!("dormouse-{name}"));
        self.handles.push(thread.spawn(move || run(&stopped, &active))?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop = None;
        self.active.fs.wake_room_maker();
        self.active.brake.pull();
        self.active.local.wake_waiters();
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
    }
}

/// Waits for the next tick; false when the threads are to end.
fn tick(stopped: &Receiver<()>) -> bool {
    stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout)
}

/// What a thread found when it looked.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// It must look again soon.
    Work,
    /// Nothing, as long as there are no more commits than these, for at most so long.
    Nothing(u64, Duration),
}

/// Waits until it is time to look again; false when the threads are to end.
fn rest(stopped: &Receiver<()>, active: &Active, found: Found) -> bool {
    let Found::Nothing(commits, longest) = found else { return tick(stopped) };
    // Before the wait too: who ends the threads disconnects first, and wakes them then.
    let goes_on = || stopped.try_recv() != Err(TryRecvError::Disconnected);
    if goes_on() {
        active.local.wait_for_commit(commits, longest.clamp(TICK, SLEEP_MAX));
    }
    goes_on()
}

fn settle_loop(stopped: &Receiver<()>, active: &Active) {
    lower_priority();
    settle_until(stopped, active);
    active.fs.serve_room(false);
}

fn settle_until(stopped: &Receiver<()>, active: &Active) {
    let mut backoff = Backoff::default();
    let mut wait = TICK;
    loop {
        let wanted = active.fs.wait_for_room_wanted(wait);
        if stopped.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        wait = TICK;
        let now = active.clock.monotonic();
        if wanted || active.fs.is_room_stuck() && backoff.is_due(now) {
            let failed = !active.make_room();
            backoff.note(failed, active.clock.monotonic());
            continue;
        }
        if active.check_writable().is_err() || !backoff.is_due(now) {
            continue;
        }
        // A seal does the same; it need not wait for it.
        let Some(mut settling) = active.settling.try_lock() else { continue };
        let result = active.settle(&mut settling, Which::Quiet, active.fetch());
        if let Err(error) = &result {
            settling.forget();
            tracing::debug!(%error, "settling stopped");
        }
        backoff.note(result.is_err(), active.clock.monotonic());
        if result.is_ok() && active.fs.dirty_bytes() == 0 {
            wait = SLEEP_MAX;
        }
    }
}

fn checkpoint_loop(stopped: &Receiver<()>, active: &Active) {
    lower_priority();
    let mut backoff = Backoff::default();
    let mut found = Found::Work;
    while rest(stopped, active, found) {
        let commits = active.local.commits();
        found = Found::Work;
        let now = active.clock.monotonic();
        if active.check_writable().is_err() || !backoff.is_due(now) {
            continue;
        }
        let result = active.checkpoint_if_due(now);
        if let Err(error) = &result {
            tracing::warn!(%error, "the checkpoint will be tried again");
        }
        backoff.note(result.is_err(), active.clock.monotonic());
        if result.is_ok() && !active.may_have_changes() {
            found = Found::Nothing(commits, SLEEP_MAX);
        }
    }
}

fn watch_loop(stopped: &Receiver<()>, active: &Active) {
    let mounted_at = active.clock.monotonic();
    active.recover();
    let mut conditions_known = false;
    let mut backoff = Backoff::default();
    let mut found = Found::Work;
    while rest(stopped, active, found) {
        let commits = active.local.commits();
        found = Found::Work;
        let now = active.clock.monotonic();
        active.note_changes(now);
        active.throttle();
        if active.fs.dirty_bytes() > 0 {
            active.fs.wake_room_maker();
        }
        if active.check_writable().is_err() || !backoff.is_due(now) {
            continue;
        }
        if !conditions_known && now.saturating_sub(mounted_at) >= CONDITIONS_AFTER {
            conditions_known = active.check_conditions();
        }
        let result = active.renew_if_due(now);
        if let Err(error) = &result {
            tracing::warn!(%error, "the lease's renewal will be tried again");
        }
        backoff.note(result.is_err(), active.clock.monotonic());
        if result.is_ok() {
            active.reclaim_forgotten();
            if conditions_known && !active.may_have_changes() {
                found = Found::Nothing(commits, active.until_renewal());
            }
        }
    }
}

/// Lets the sandbox's own work go first.
fn lower_priority() {
    // SAFETY: a system call without pointers; 0 means the calling thread.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, SETTLE_NICE) } != 0;
    if failed {
        tracing::debug!("a background thread keeps its priority");
    }
}

impl Active {
    /// Makes a checkpoint if one is due.
    pub fn checkpoint_if_due(&self, now: Duration) -> Result<(), WorkspaceError> {
        if self.checkpoint_is_due(now) {
            // A seal does not rest while it settles. Nobody waits for this one.
            if !self.tally.lock().throttled {
                self.settle_once(Which::AllInTime, self.fetch())?;
            }
            // Unless somebody asked for one meanwhile.
            if self.checkpoint_is_due(self.clock.monotonic()) {
                self.seal(Reason::Checkpoint)?;
            }
        }
        Ok(())
    }

    /// Renews the lease if nothing wrote it for half of its life.
    pub fn renew_if_due(&self, now: Duration) -> Result<(), WorkspaceError> {
        let (renewed_at, renew_now) = {
            let mount = self.mount.lock();
            (mount.renewed_at, mount.renew_now)
        };
        if renew_now || now.saturating_sub(renewed_at) >= self.options.lease_ttl / 2 {
            return self.renew();
        }
        Ok(())
    }

    /// Time until the lease is to be renewed.
    fn until_renewal(&self) -> Duration {
        let due = self.mount.lock().renewed_at + self.options.lease_ttl / 2;
        due.saturating_sub(self.clock.monotonic())
    }

    /// Whether there is, or may be, something that no snapshot holds.
    fn may_have_changes(&self) -> bool {
        // Noted ones are there still, or the watching thread has not looked again yet.
        self.tally.lock().changed_since.is_some() || self.has_changes().unwrap_or(true)
    }

    fn checkpoint_is_due(&self, now: Duration) -> bool {
        let upkeep = &self.options.upkeep;
        let tally = self.tally.lock();
        let Some(since) = tally.changed_since else { return false };
        let age = now.saturating_sub(since);
        let since_seal = tally.last_seal.map_or(age, |last| now.saturating_sub(last));
        let over = |limit: Duration, age: Duration| !limit.is_zero() && age >= limit;
        over(upkeep.checkpoint_interval, since_seal.min(age))
            || over(upkeep.unsynced_age_max / 2, age)
            || tally.throttled
    }

    /// Notes since when there are changes that no snapshot holds.
    pub fn note_changes(&self, now: Duration) {
        match self.has_changes() {
            Ok(true) => _ = self.tally.lock().changed_since.get_or_insert(now),
            Ok(false) => self.tally.lock().changed_since = None,
            Err(error) => tracing::warn!(%error, "could not look for changes"),
        }
    }

    /// Slows or stops writers when too much waits for the store: from three quarters of the cap on
    /// each write sleeps a little, over the cap writes wait for room, and
    /// fail with `ENOSPC` where none can be made.
    pub fn throttle(&self) {
        let max = self.options.upkeep.unsynced_bytes_max;
        if max == 0 {
            return;
        }
        let (bytes, _) = self.unsynced_bytes();
        let soft = max - max / 4;
        let over = bytes.saturating_sub(soft);
        let share = over as f64 / (max / 4).max(1) as f64;
        let delay = DELAY_MAX.mul_f64(share.clamp(0.0, 1.0));
        // A writer may be quicker than the next look.
        self.fs.set_admission(delay, max.saturating_sub(bytes));
        self.tally.lock().throttled = bytes > soft;
    }

    /// Whether as much waits for the store as may.
    pub fn is_over_cap(&self) -> bool {
        let max = self.options.upkeep.unsynced_bytes_max;
        max > 0 && self.unsynced_bytes().0 >= max
    }

    /// Puts the head again under the condition that the acquisition made stale. The store must
    /// refuse; one that does not lets two writers overwrite each other. True when it is known.
    pub fn check_conditions(&self) -> bool {
        let Some(_swapping) = self.swapping.try_lock() else { return false };
        let (stale, head) = {
            let mount = self.mount.lock();
            (mount.stale.clone(), mount.head.clone())
        };
        let Some(mode) = stale else { return true };
        let Ok(bytes) = head.encode() else { return true };
        match self.remote.put(&head_key(&self.options.name), bytes.into(), mode) {
            Err(RemoteError::Conflict { .. }) => true,
            Ok(_) => {
                self.fence_because(Fenced {
                    host: String::from("a store that ignores conditional writes"),
                    epoch: head.epoch,
                });
                true
            }
            Err(_) => false,
        }
    }

    /// A pass of making room for those who wait for it; false: it got nowhere.
    fn make_room(&self) -> bool {
        let mut got_anywhere = false;
        self.fs.make_room(|| {
            got_anywhere = self.drain(self.fetch()).unwrap_or_else(|error| {
                tracing::warn!(%error, "no room could be made; writes that need it are refused");
                false
            });
            got_anywhere
        });
        got_anywhere
    }

    /// Begins to fetch what was first read after the last resume, as the snapshot tells it.
    fn warm(&self) {
        let snapshot = self.mount.lock().head.snapshot.clone();
        let Some(SnapshotRef { id, key }) = snapshot else { return };
        let turn = self.remote.wait_for_turn(&self.brake);
        let request = (key.clone(), None);
        let object = turn.and_then(|turn| self.remote.get_in_turn(turn, request, &self.brake));
        let Some(object) = object else { return };
        let object = object.map_err(WorkspaceError::from);
        match object.and_then(|object| decode_snapshot(&key, id, &object.bytes)) {
            Ok(snapshot) => {
                let bytes_max = self.options.upkeep.hot_bytes_max;
                self.chunks.prefetch_chunks(&snapshot.hot_set, bytes_max);
            }
            Err(error) => tracing::debug!(%error, "nothing is fetched ahead"),
        }
    }

    /// Takes up what an earlier mount left in the overlay: orphans, staged files.
    pub fn recover(&self) {
        if let Err(error) = self.fs.recover(self.fetch()) {
            tracing::warn!(%error, "what an earlier mount left is not all taken up yet");
        }
    }

    /// Takes away unlinked files whose metadata was not on this machine when they were forgotten.
    fn reclaim_forgotten(&self) {
        if let Err(error) = self.fs.reclaim_orphans(Reclaim::Forgotten, self.fetch()) {
            tracing::debug!(%error, "forgotten files will be reclaimed later");
        }
    }

    /// One pass, when others have ended theirs.
    pub fn settle_once(&self, which: Which, fetch: Fetch) -> Result<u64, WorkspaceError> {
        let mut settling = self.settling.lock();
        let settled = self.settle(&mut settling, which, fetch);
        if settled.is_err() {
            settling.forget();
        }
        settled
    }
}
