//! Answers on their way to the worker that owns the ring: from itself, or from threads that had
//! to wait for something.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use crate::fuse::wire::{Body, Outlet};

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// The slot that the request came in.
    pub(super) slot: usize,
    pub(super) unique: u64,
    /// An errno, or 0.
    pub(super) error: i32,
    pub(super) body: Body,
}

/// One worker's. Bounded by its buffers: each has one request, and each request one answer.
/// Lock order: a leaf.
#[derive(Debug)]
pub(super) struct Inbox {
    owner: ThreadId,
    replies: Mutex<Vec<Reply>>,
    /// Whether the owner was woken and has not looked since.
    is_woken: AtomicBool,
    has_ended: AtomicBool,
    event: EventFd,
}

impl Inbox {
    /// The inbox of this thread.
    pub(super) fn new() -> io::Result<Inbox> {
        Ok(Inbox {
            owner: std::thread::current().id(),
            replies: Mutex::default(),
            is_woken: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// Becomes readable when another thread has put something in.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the event wait for the next time.
    pub(super) fn quiet(&self) {
        // It only fails where there is nothing to take.
        let _ = self.event.read();
    }

    fn put(&self, reply: Reply) {
        self.replies.lock().push(reply);
        if std::thread::current().id() != self.owner {
            self.wake();
        }
    }

    /// Exchanges what is in here for `empty`.
    pub(super) fn take(&self, empty: &mut Vec<Reply>) {
        // First: who comes after this wakes the owner once more.
        self.is_woken.store(false, Ordering::SeqCst);
        std::mem::swap(&mut *self.replies.lock(), empty);
    }

    /// The connection has ended.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        if self.is_woken.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.event.write(1) {
            tracing::error!(%error, "a worker can't be woken");
        }
    }
}

/// The way of one request's answer.
#[derive(Debug)]
pub(super) struct RingOutlet {
    pub(super) inbox: Arc<Inbox>,
    pub(super) slot: usize,
}

impl Outlet for RingOutlet {
    fn send(self, unique: u64, error: i32, body: Body) {
        self.inbox.put(Reply { slot: self.slot, unique, error, body });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(unique: u64) -> Reply {
        Reply { slot: 0, unique, error: 0, body: Body::Empty }
    }

    fn is_readable(inbox: &Inbox) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(inbox.event(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn only_other_threads_wake_the_owner_and_once() {
        let inbox = Inbox::new().unwrap();
        inbox.put(reply(1));
        assert!(!is_readable(&inbox), "the owner looks by itself");
        std::thread::scope(|scope| {
            scope.spawn(|| inbox.put(reply(2)));
            scope.spawn(|| inbox.put(reply(3)));
        });
        assert!(is_readable(&inbox));
        inbox.quiet();
        assert!(!is_readable(&inbox));
        let mut taken = Vec::new();
        inbox.take(&mut taken);
        assert_eq!(taken.len(), 3);
        std::thread::scope(|scope| scope.spawn(|| inbox.put(reply(4))).join().unwrap());
        assert!(is_readable(&inbox), "woken again");
    }
}
