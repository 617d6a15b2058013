//! One serving thread, as the governor sees and moves it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::idle::IdleTimes;
use super::judge::{Change, Fare, Look};
use crate::types::{Class, Cores, Standing, ThreadId};

/// `/proc/PID/stat` up to the state: a number, a name of at most 15 bytes in brackets, a letter.
const STAT_BYTES: usize = 64;

/// A serving thread that is governed.
#[derive(Debug)]
pub(super) struct Worker {
    thread: ThreadId,
    /// Kept open: once the thread is gone it tells of no other, though its number may be given
    /// again.
    stat: File,
    plain: Standing,
    lowered: Standing,
    /// Where it runs when lowered.
    cores: Vec<usize>,
    fare: Fare,
    /// At the last look.
    seen_cpu: Duration,
}

/// What a look at a worker found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) is_busy: bool,
    pub(super) change: Option<Change>,
}

impl Worker {
    /// `plain` is what it stands like now, and again when it starves; else it has `core` to
    /// itself, if one is named.
    pub(super) fn new(
        thread: ThreadId,
        plain: Standing,
        core: Option<usize>,
    ) -> io::Result<Worker> {
        let stat = File::open(format!("/proc/self/task/{}/stat", thread.0))?;
        let cores = core.and_then(Cores::only).unwrap_or(plain.cores);
        let lowered = Standing { class: Class::IDLE, cores };
        let worker = Worker {
            thread,
            stat,
            plain,
            lowered,
            cores: cores.iter().collect(),
            fare: Fare::default(),
            seen_cpu: cpu_time(thread)?,
        };
        worker.is_runnable()?;
        Ok(worker)
    }

    /// Looks at it and moves it as needed.
    ///
    /// # Errors
    /// The thread is gone.
    pub(super) fn look(
        &mut self,
        at: Duration,
        requests_wait: bool,
        idle: &IdleTimes,
    ) -> io::Result<Found> {
        let cpu = cpu_time(self.thread)?;
        let has_run = std::mem::replace(&mut self.seen_cpu, cpu) != cpu;
        let is_runnable = !self.fare.is_asleep(cpu, requests_wait) && self.is_runnable()?;
        let idle = || idle.mean(&self.cores, at);
        let change = self.fare.judge(Look { at, cpu, is_runnable }, idle);
        match change {
            None => {}
            Some(Change::Lower) => self.lower(),
            Some(Change::Promote) => self.promote(),
        }
        Ok(Found { is_busy: is_runnable || has_run, change })
    }

    /// Until when it needs no look; zero: it is lowered.
    pub(super) fn plain_until(&self) -> Duration {
        self.fare.plain_until()
    }

    /// Makes it a thread like any other.
    pub(super) fn promote(&self) {
        // It may run anywhere: on its own core another thread may be in its way.
        match self.plain.give(self.thread) {
            // One that has ended, as all do at the end of a mount, starves no more.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => {
                tracing::error!(thread = self.thread.0, %error, "a serving thread that starves");
            }
            Ok(()) => {}
        }
    }

    fn lower(&self) {
        if let Err(error) = self.lowered.give(self.thread) {
            // Its core was taken away: it runs on those that are left.
            tracing::debug!(thread = self.thread.0, %error, "a serving thread has no core");
        }
    }

    fn is_runnable(&self) -> io::Result<bool> {
        let mut text = [0; STAT_BYTES];
        let len = self.stat.read_at(&mut text, 0)?;
        // The name may hold brackets itself.
        let state = text[..len].windows(3).rev().find_map(|three| match three {
            [b')', b' ', state] => Some(*state),
            _ => None,
        });
        state.map(|state| state == b'R').ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Processor time that a thread of this process has had.
pub(super) fn cpu_time(thread: ThreadId) -> io::Result<Duration> {
    // clock_getcpuclockid(3) is for processes; of a thread the kernel numbers it so:
    // CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED.
    let clock = (!thread.0 << 3) | 6;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives through the call.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    Ok(Duration::new(secs, u32::try_from(time.tv_nsec).unwrap_or(0)))
}
