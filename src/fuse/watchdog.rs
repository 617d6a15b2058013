//! Ends a connection that is no longer answered: a request that waits for ever makes its caller
//! unkillable, so the mount is given up first.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::flight::{InFlight, WaitsFor};
use super::helper;
use super::mountinfo::mount_at;
use super::news::News;

/// Times the deadline that a request may wait before the connection is aborted.
const DEADLINES_MAX: u32 = 2;

/// The same for a sync of the local disk, which may have gigabytes to write on a slow one.
const DISK_DEADLINES_MAX: u32 = 20;

/// Ends the connection behind a mount: everybody inside gets `ENOTCONN` or `ECONNABORTED`.
#[derive(Debug, Clone)]
pub(super) struct Aborter {
    mountpoint: PathBuf,
    connection: u32,
}

impl Aborter {
    pub(super) fn new(mountpoint: &Path, connection: u32) -> Aborter {
        Aborter { mountpoint: mountpoint.to_owned(), connection }
    }

    /// Aborts by fusectl, or where that is not allowed by a forced unmount, unless the connection
    /// behind `device` has ended: then its number, and the place where it was mounted, may be
    /// another mount's by now.
    pub(super) fn abort(&self, device: &OwnedFd) -> io::Result<()> {
        helper::abort(self.connection, device).or_else(|error| {
            tracing::debug!(%error, "no fusectl: forcing the unmount");
            let there = mount_at(&self.mountpoint)?.filter(|line| line.minor == self.connection);
            there.ok_or(error)?;
            helper::unmount(&self.mountpoint, libc::MNT_FORCE | libc::MNT_DETACH)
        })
    }

    /// As [`Aborter::abort`]; who has closed `news` has seen to the end of the connection.
    pub(super) fn abort_served(&self, news: &News) -> io::Result<()> {
        news.device().map_or(Ok(()), |device| self.abort(&device))
    }
}

/// The watching thread.
#[derive(Debug)]
pub(super) struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches until dropped.
    pub(super) fn start(
        in_flight: Arc<InFlight>,
        (aborter, news): (Aborter, Arc<News>),
        deadline: Duration,
    ) -> io::Result<Watchdog> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = Arc::clone(&stop);
        let watch = move || watch(&in_flight, (&aborter, &news), deadline, &stopped);
        let thread = thread::Builder::new().name("dormouse-watch".to_owned()).spawn(watch)?;
        Ok(Watchdog { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the watchdog is no reason to fail an unmount.
            let _ = thread.join();
        }
    }
}

fn watch(
    in_flight: &InFlight,
    (aborter, news): (&Aborter, &News),
    deadline: Duration,
    stop: &(Mutex<bool>, Condvar),
) {
    let patience = |waits_for| match waits_for {
        WaitsFor::Nothing => deadline * DEADLINES_MAX,
        WaitsFor::Disk => deadline * DISK_DEADLINES_MAX,
    };
    let pause = (deadline / 4).clamp(Duration::from_millis(50), Duration::from_secs(5));
    let mut doubt = Doubt::default();
    let mut stopped = stop.0.lock();
    while !*stopped {
        stop.1.wait_for(&mut stopped, pause);
        let Some((request, age)) = doubt.confirmed(in_flight.overdue(patience)) else { continue };
        // Stopping must not wait for the abort.
        drop(stopped);
        // Before it is told: the log may be on the very disk that does not answer.
        let unanswered = in_flight.len();
        let aborted = aborter.abort_served(news);
        tracing::error!(
            opcode = %request.opcode,
            ino = %request.ino,
            waited_secs = age.as_secs(),
            unanswered,
            mountpoint = %aborter.mountpoint.display(),
            "a request was not answered in time: aborting the mount; local data is kept"
        );
        if let Err(error) = aborted {
            tracing::error!(%error, "the mount can't be aborted");
        }
        return;
    }
}

/// Whether the last look found something overdue. Once is not enough: a daemon that was frozen or
/// stopped for long finds all that was under way overdue, and answers it a moment later.
#[derive(Debug, Default)]
struct Doubt {
    was_overdue: bool,
}

impl Doubt {
    /// What a look found, if the look before found something too.
    fn confirmed<T>(&mut self, overdue: Option<T>) -> Option<T> {
        let was_overdue = std::mem::replace(&mut self.was_overdue, overdue.is_some());
        overdue.filter(|_| was_overdue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_overdue_at_two_looks_in_a_row_ends_a_mount() {
        let mut doubt = Doubt::default();
        let looks = [None, Some(1), None, Some(2), Some(3), None, Some(4)];
        let confirmed: Vec<_> = looks.into_iter().map(|look| doubt.confirmed(look)).collect();
        assert_eq!(confirmed, [None, None, None, None, Some(3), None, None]);
    }
}
