//! How the threads that serve the kernel are scheduled: they yield to everybody, and are cured
//! when that starves them.
//!
//! The scheduler takes a core on which only `SCHED_IDLE` threads run for a free one. So a client
//! is woken by its answer on the core where it was, and goes on there at once in the worker's
//! stead; without that each request wakes an idle core, which costs several times the request
//! (docs/decisions/0007-scheduling.md). The price is that such a worker starves beside programs
//! that compute. The governor looks every 2 ms while requests come, and makes one that starves a
//! plain thread for a while.
//!
//! It is told that requests wait by the connection's own descriptor, not by the workers, which
//! can't tell when they starve; and only it lowers workers, so that none is ever lowered while
//! nobody watches. It knows nothing of what they serve, or how.

mod idle;
mod judge;
mod signs;
mod worker;

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use self::idle::IdleTimes;
use self::judge::Change;
pub(super) use self::signs::Requests;
use self::signs::{Sign, Signs};
use self::worker::{Worker, cpu_time};
use crate::types::{Class, Clock, Cores, Standing, SystemClock, ThreadId};

/// Time between looks.
const PAUSE: Duration = Duration::from_millis(2);

/// The governor takes at most one part in this many of a core: with many workers it looks less
/// often.
const LOOKS_SHARE: u32 = 50;

/// After so many looks at workers that sleep, the governor sleeps too.
const QUIET_LOOKS: u32 = 10;

/// The governor of one mount's serving threads. Dropping it stops it.
#[derive(Debug, Default)]
pub(super) struct Governor {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug, Default)]
struct Shared {
    crew: Mutex<Crew>,
    promotions: AtomicU64,
    /// How often the governor fell asleep.
    sleeps: AtomicU64,
}

/// Those who serve. Lock order: a leaf. No thread is lowered while it holds it.
#[derive(Debug, Default)]
struct Crew {
    threads: Vec<ThreadId>,
    /// `None`: they stay plain.
    rule: Option<Rule>,
    /// Not yet taken over by the governor.
    newcomers: Vec<Worker>,
    governor: Option<ThreadId>,
}

/// How workers are placed.
#[derive(Debug)]
struct Rule {
    /// What they stand like when they come, and when they starve.
    plain: Standing,
    /// A core for each, in turn; empty: they may run anywhere.
    cores: Vec<usize>,
}

#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    /// Closing it ends the thread.
    _stop: UnixStream,
}

impl Governor {
    /// Governs from now on: threads that enlist later. `requests` are readable while requests
    /// wait to be read; `workers` will enlist.
    ///
    /// # Errors
    /// Not possible or not permitted here; threads stay as they are.
    pub(super) fn start(&self, requests: Vec<Requests>, workers: usize) -> io::Result<()> {
        let plain = Standing::current()?;
        check(plain)?;
        let (stop, stopped) = UnixStream::pair()?;
        let signs = Signs::new(requests, stopped);
        let shared = Arc::clone(&self.shared);
        let run = move || shared.run(&signs);
        let thread = thread::Builder::new().name("dormouse-govern".to_owned()).spawn(run)?;
        // With fewer workers than cores a core of their own would be a prison.
        let cores: Vec<_> = plain.cores.iter().collect();
        let cores = if workers >= cores.len() { cores } else { Vec::new() };
        self.shared.crew.lock().rule = Some(Rule { plain, cores });
        *self.running.lock() = Some(Running { thread, _stop: stop });
        Ok(())
    }

    /// The calling thread serves. Costs next to nothing after the first time.
    pub(super) fn enlist(&self) {
        thread_local!(static IS_ENLISTED: Cell<bool> = const { Cell::new(false) });
        if !IS_ENLISTED.replace(true) {
            self.shared.crew.lock().enlist(ThreadId::current(), None);
        }
    }

    /// Another thread serves, on this core: also while it is plain.
    pub(super) fn enlist_on(&self, thread: ThreadId, core: usize) {
        self.shared.crew.lock().enlist(thread, Some(core));
    }

    /// The threads that serve.
    pub(super) fn threads(&self) -> Vec<ThreadId> {
        self.shared.crew.lock().threads.clone()
    }

    /// How often a worker was made plain because it starved.
    pub(super) fn promotions(&self) -> u64 {
        self.shared.promotions.load(Ordering::Relaxed)
    }

    /// Ends the governor and waits for it; workers that are left are plain. Closes the
    /// descriptors that it was given.
    pub(super) fn stop(&self) {
        let Some(Running { thread, _stop }) = self.running.lock().take() else { return };
        drop(_stop);
        if thread.join().is_err() {
            tracing::error!("the governor panicked");
        }
    }
}

impl Drop for Governor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Crew {
    fn enlist(&mut self, thread: ThreadId, core: Option<usize>) {
        if self.threads.contains(&thread) {
            return;
        }
        let number = self.threads.len();
        self.threads.push(thread);
        let Some(rule) = &self.rule else { return };
        let in_turn = || rule.cores.get(number % rule.cores.len().max(1)).copied();
        // One with a core's queue to serve has its place there, plain too: who asks is on it.
        let plain = match core.and_then(Cores::only) {
            Some(cores) => Standing { cores, ..rule.plain },
            None => rule.plain,
        };
        match Worker::new(thread, plain, core.or_else(in_turn)) {
            Ok(worker) => self.newcomers.push(worker),
            Err(error) => tracing::debug!(%error, "a serving thread stays plain"),
        }
    }
}

impl Shared {
    /// The thread.
    fn run(&self, signs: &Signs) {
        self.crew.lock().governor = Some(ThreadId::current());
        let mut workers = Vec::new();
        // However it ends, nobody is left lowered.
        let ended = catch_unwind(AssertUnwindSafe(|| self.govern(signs, &mut workers)));
        let mut crew = self.crew.lock();
        crew.rule = None;
        crew.newcomers.clear();
        drop(crew);
        workers.iter().for_each(Worker::promote);
        if ended.is_err() {
            tracing::error!("the governor failed: serving threads stay plain");
        }
    }

    fn govern(&self, signs: &Signs, workers: &mut Vec<Worker>) {
        // Threads are real, so is their time.
        let clock = SystemClock::new();
        let idle = IdleTimes::open();
        let governor = ThreadId::current();
        let mut used_before = Duration::ZERO;
        loop {
            self.sleeps.fetch_add(1, Ordering::Relaxed);
            match signs.wait() {
                Sign::End => return,
                // A signal to this thread.
                Sign::Nothing => continue,
                Sign::Requests => {}
            }
            let mut quiet_looks = 0;
            while quiet_looks < QUIET_LOOKS {
                let requests_wait = match signs.now() {
                    Sign::End => return,
                    sign => sign == Sign::Requests,
                };
                let now = clock.monotonic();
                let is_busy = self.look(workers, now, requests_wait, &idle);
                quiet_looks = if is_busy || requests_wait { 0 } else { quiet_looks + 1 };
                let used = cpu_time(governor).unwrap_or(used_before);
                let cost = used.saturating_sub(std::mem::replace(&mut used_before, used));
                // Beside busy programs all are plain, and looking would only be in their way.
                let plain_until = workers.iter().map(Worker::plain_until).min();
                let rest = plain_until.unwrap_or_default().saturating_sub(now);
                signs.pause(PAUSE.max(cost * LOOKS_SHARE).max(rest));
            }
        }
    }

    /// Looks at every worker; whether one has something to do.
    fn look(
        &self,
        workers: &mut Vec<Worker>,
        at: Duration,
        requests_wait: bool,
        idle: &IdleTimes,
    ) -> bool {
        workers.append(&mut self.crew.lock().newcomers);
        let mut is_busy = false;
        workers.retain_mut(|worker| {
            // One that is gone is looked after no more.
            let Ok(found) = worker.look(at, requests_wait, idle) else { return false };
            is_busy |= found.is_busy;
            if found.change == Some(Change::Promote) {
                self.promotions.fetch_add(1, Ordering::Relaxed);
            }
            true
        });
        is_busy
    }
}

/// Whether threads that stand like `plain` can be lowered, and can rise again: leaving the idle
/// class needs a permission that entering it does not. Tried out on a thread that then ends.
fn check(plain: Standing) -> io::Result<()> {
    if !plain.class.is_shared() {
        return Err(io::Error::other("the daemon was given a scheduling class of its own"));
    }
    let (told, tell) = bounded(1);
    let (ended, end) = bounded::<()>(0);
    let probe = move || {
        // Nobody waits for what is sent too late.
        let _ = told.send(ThreadId::current());
        let _ = end.recv();
    };
    let probing = thread::Builder::new().name("dormouse-probe".to_owned()).spawn(probe)?;
    let thread = tell.recv().map_err(io::Error::other)?;
    Worker::new(thread, plain, None)?;
    Standing { class: Class::IDLE, cores: plain.cores }.give(thread)?;
    // One that could not rise is not waited for: it may starve.
    plain.give(thread)?;
    drop(ended);
    probing.join().map_err(|_| io::Error::other("the probing thread panicked"))
}

#[cfg(test)]
mod tests;
