//! What the governor waits for: requests, time, its end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libc::pollfd;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// Requests wait.
    Requests,
    /// None wait.
    Nothing,
    /// The governor is to end, or the connection has ended.
    End,
}

/// The descriptors that tell.
#[derive(Debug)]
pub(super) struct Signs {
    /// Readable while requests wait to be read.
    requests: Vec<OwnedFd>,
    /// Its other end is closed when the governor is to end.
    stop: UnixStream,
}

impl Signs {
    pub(super) fn new(requests: Vec<OwnedFd>, stop: UnixStream) -> Signs {
        Signs { requests, stop }
    }

    /// Waits for requests or the end, as long as it takes.
    pub(super) fn wait(&self) -> Sign {
        let mut all: Vec<_> = self.requests.iter().map(waited_for).collect();
        all.push(waited_for(&self.stop));
        poll(&mut all, -1);
        self.sign(&all)
    }

    /// Whether requests wait now.
    pub(super) fn now(&self) -> Sign {
        let mut all: Vec<_> = self.requests.iter().map(waited_for).collect();
        all.push(waited_for(&self.stop));
        poll(&mut all, 0);
        self.sign(&all)
    }

    /// Lets `time` pass, rounded up to milliseconds, unless the end comes first.
    pub(super) fn pause(&self, time: Duration) {
        let millis = i32::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX);
        poll(&mut [waited_for(&self.stop)], millis);
    }

    fn sign(&self, all: &[pollfd]) -> Sign {
        let has = |one: &pollfd, events| one.revents & events != 0;
        let dead = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        if all[self.requests.len()].revents != 0 || all.iter().any(|one| has(one, dead)) {
            Sign::End
        } else if all.iter().any(|one| has(one, libc::POLLIN)) {
            Sign::Requests
        } else {
            Sign::Nothing
        }
    }
}

fn waited_for(fd: &impl AsRawFd) -> pollfd {
    pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Polls; what a signal interrupts has found nothing.
fn poll(all: &mut [pollfd], millis_max: i32) {
    // SAFETY: the list is as long as is said.
    let found = unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, millis_max) };
    if found < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
        // Out of memory, at worst: waiting goes on, at a bounded rate.
        std::thread::sleep(Duration::from_millis(100));
    }
}
