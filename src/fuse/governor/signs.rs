//! What the governor waits for: requests, time, its end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libc::pollfd;
use nix::sys::eventfd::EventFd;

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

/// A descriptor that tells of requests.
#[derive(Debug)]
pub(in crate::fuse) enum Requests {
    /// Readable while requests wait to be read.
    Device(OwnedFd),
    /// Readable when requests have come, until it is read.
    Counted(EventFd),
}

impl AsRawFd for Requests {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Requests::Device(device) => device.as_raw_fd(),
            Requests::Counted(count) => count.as_raw_fd(),
        }
    }
}

/// The descriptors that tell.
#[derive(Debug)]
pub(super) struct Signs {
    requests: Vec<Requests>,
    /// Its other end is closed when the governor is to end.
    stop: UnixStream,
}

impl Signs {
    pub(super) fn new(requests: Vec<Requests>, stop: UnixStream) -> Signs {
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

    /// What was counted is known.
    fn start_again(&self) {
        for requests in &self.requests {
            if let Requests::Counted(count) = requests {
                // It only fails where there is nothing to read.
                let _ = count.read();
            }
        }
    }

    fn sign(&self, all: &[pollfd]) -> Sign {
        let has = |one: &pollfd, events| one.revents & events != 0;
        let dead = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        if all[self.requests.len()].revents != 0 || all.iter().any(|one| has(one, dead)) {
            Sign::End
        } else if all.iter().any(|one| has(one, libc::POLLIN)) {
            self.start_again();
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
