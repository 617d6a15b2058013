//! A thread on one core that owns a ring and serves what comes in it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

use super::abi;
use super::buffer::Buffer;
use super::inbox::{Inbox, Reply, RingOutlet};
use super::plan::{QueuePlan, WorkerPlan};
use crate::fuse::direct::has_ended;
use crate::fuse::dispatch::dispatch;
use crate::fuse::operations::Operations;
use crate::fuse::wire::{Body, Header, Operation, Outlet, out_header};

/// Marks a completion of the inbox's event; slots have small numbers.
const EVENT: u64 = u64::MAX;

/// Memory that an extra buffer keeps from one request to the next, bytes; but for a long answer,
/// until the next request.
const EXTRA_BYTES_KEPT: usize = 16 * 1024;

/// A queue of the kernel's, for the programs of one core.
#[derive(Debug)]
struct Queue {
    number: u16,
    /// Buffers with the kernel.
    in_kernel: usize,
}

/// One buffer and the request in it.
#[derive(Debug)]
struct Slot {
    buffer: Buffer,
    /// Which of our queues it belongs to.
    queue: usize,
    /// Of the request that is being served.
    commit_id: u64,
    /// Length of the last answer.
    answered_bytes: usize,
    /// Used only while the others hold requests that wait.
    is_extra: bool,
}

/// The worker of one core.
pub(super) struct Worker {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    slots: Vec<Slot>,
    queues: Vec<Queue>,
    payload_bytes: usize,
    has_ended: bool,
    inbox: Arc<Inbox>,
    /// Slots with a request that is not served yet.
    arrived: Vec<usize>,
    replies: Vec<Reply>,
    device: Arc<OwnedFd>,
    operations: Arc<Operations>,
}

impl Worker {
    /// Makes the ring of this thread, pins the thread to its core, and offers the buffers.
    pub(super) fn start(
        plan: &WorkerPlan,
        payload_bytes: usize,
        device: Arc<OwnedFd>,
        operations: Arc<Operations>,
    ) -> io::Result<Worker> {
        pin(plan.core);
        let buffers: usize = plan.queues.iter().map(|queue| queue.depth + queue.extra).sum();
        // One more for the event.
        let entries = u32::try_from(buffers + 1).map_err(io::Error::other)?;
        let mut builder = IoUring::builder();
        // This thread alone submits, and only looks at completions when it waits for them.
        builder.setup_single_issuer().setup_defer_taskrun().dontfork();
        let ring = builder.build(entries.next_power_of_two())?;
        let mut worker = Worker {
            ring,
            slots: Vec::with_capacity(buffers),
            queues: Vec::with_capacity(plan.queues.len()),
            payload_bytes,
            has_ended: false,
            inbox: Arc::new(Inbox::new()?),
            arrived: Vec::with_capacity(buffers),
            replies: Vec::with_capacity(buffers),
            device,
            operations,
        };
        worker.listen()?;
        for (queue, &QueuePlan { number, depth, extra }) in plan.queues.iter().enumerate() {
            worker.queues.push(Queue { number, in_kernel: 0 });
            // The kernel takes the one that it got last.
            worker.offer(queue, extra, true)?;
            worker.offer(queue, depth, false)?;
        }
        if worker.has_ended { Err(io::ErrorKind::NotConnected.into()) } else { Ok(worker) }
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// What becomes readable when requests have come, whether or not this thread gets to run.
    pub(super) fn announce(&self) -> io::Result<EventFd> {
        let requests = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        self.ring.submitter().register_eventfd(requests.as_raw_fd())?;
        Ok(requests)
    }

    /// Serves until the connection ends.
    ///
    /// # Errors
    /// The ring does not work as it should: the connection must be aborted.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            while let Some(slot) = self.arrived.pop() {
                self.serve(slot);
            }
            self.commit()?;
            self.has_ended |= self.inbox.has_ended();
            if self.has_ended && self.in_kernel() == 0 {
                return Ok(());
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                // EBUSY: completions must be taken first.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            self.take_completions()?;
        }
    }

    fn device(&self) -> RawFd {
        self.device.as_raw_fd()
    }

    /// Buffers that the kernel has, each for one completion to come.
    fn in_kernel(&self) -> usize {
        self.queues.iter().map(|queue| queue.in_kernel).sum()
    }

    /// Gives new buffers to the kernel. A refusal comes at once, a request whenever there is one.
    fn offer(&mut self, queue: usize, count: usize, is_extra: bool) -> io::Result<()> {
        let number = self.queues[queue].number;
        let mut offered = Vec::with_capacity(count);
        for _ in 0..count {
            let mut buffer = Buffer::new(self.payload_bytes)?;
            offered.push(Box::new(buffer.parts()));
            self.slots.push(Slot { buffer, queue, commit_id: 0, answered_bytes: 0, is_extra });
        }
        let first = self.slots.len() - count;
        for (place, parts) in offered.iter().enumerate() {
            let entry = abi::register(self.device(), number, parts);
            self.push(entry.user_data((first + place) as u64))?;
            self.queues[queue].in_kernel += 1;
        }
        // The kernel reads the parts here.
        self.ring.submit()?;
        self.take_completions()
    }

    fn push(&mut self, entry: squeue::Entry128) -> io::Result<()> {
        // SAFETY: entries point to nothing but the parts of an offer, which live until they are
        // submitted, and through those to the buffers, which are kept while the kernel has them.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("more entries than buffers"))
    }

    /// Waits for the inbox's event, once.
    fn listen(&mut self) -> io::Result<()> {
        let event = types::Fd(self.inbox.event().as_raw_fd());
        let entry = opcode::PollAdd::new(event, libc::POLLIN as u32).build();
        self.push(squeue::Entry128::from(entry.user_data(EVENT)))
    }

    fn take_completions(&mut self) -> io::Result<()> {
        let mut has_event = false;
        for completion in self.ring.completion() {
            if completion.user_data() == EVENT {
                has_event = true;
                continue;
            }
            let slot = completion.user_data() as usize;
            self.queues[self.slots[slot].queue].in_kernel -= 1;
            match completion.result() {
                0 => self.arrived.push(slot),
                error if is_end(-error) => self.has_ended = true,
                // An answer that met the end of the connection halfway: there is no such request.
                _ if has_ended(&self.device) => self.has_ended = true,
                error => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
        if has_event && !self.has_ended {
            self.inbox.quiet();
            self.listen()?;
        }
        Ok(())
    }

    /// Runs the request in a slot. Its answer goes to the inbox, now or later.
    fn serve(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        slot.commit_id = slot.buffer.commit_id();
        let outlet = RingOutlet { inbox: Arc::clone(&self.inbox), slot: number };
        let (header, fixed, rest) = slot.buffer.request();
        let decoded = Header::decode(header)
            .and_then(|header| Ok((header, Operation::decode(header.opcode, fixed, rest)?)));
        match decoded {
            Ok((header, operation)) if operation.wants_answer() => {
                dispatch(&self.operations, &header, operation, outlet);
            }
            Ok((header, operation)) => {
                dispatch(&self.operations, &header, operation, Nowhere);
                // The kernel wants its buffer back.
                outlet.send(header.unique, 0, Body::Empty);
            }
            Err(error) => {
                tracing::error!(%error, "a request can't be read: answered with EIO");
                outlet.send(slot.commit_id, libc::EIO, Body::Empty);
            }
        }
    }

    /// Takes what is answered to the ring.
    fn commit(&mut self) -> io::Result<()> {
        let mut replies = std::mem::take(&mut self.replies);
        self.inbox.take(&mut replies);
        for reply in replies.drain(..) {
            let slot = &mut self.slots[reply.slot];
            slot.answer(&reply);
            let queue = &mut self.queues[slot.queue];
            queue.in_kernel += 1;
            let (queue, commit_id) = (queue.number, slot.commit_id);
            let entry = abi::commit_and_fetch(self.device(), queue, commit_id);
            self.push(entry.user_data(reply.slot as u64))?;
        }
        self.replies = replies;
        Ok(())
    }
}

impl Slot {
    fn answer(&mut self, reply: &Reply) {
        let body = reply.body.as_bytes();
        let header = out_header(reply.unique, reply.error, body.len());
        let touched = self.buffer.used().max(self.answered_bytes);
        if self.is_extra && touched > EXTRA_BYTES_KEPT {
            self.buffer.shrink(body.len());
        }
        self.answered_bytes = body.len();
        if !self.buffer.answer(&header, body) {
            tracing::error!(bytes = body.len(), "an answer is too long: EIO instead");
            self.buffer.answer(&out_header(reply.unique, libc::EIO, 0), &[]);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.in_kernel() > 0 {
            // The kernel may still put requests into them, at any time until we exit.
            self.slots.iter_mut().for_each(|slot| slot.buffer.keep());
        }
    }
}

/// Takes no answer.
struct Nowhere;

impl Outlet for Nowhere {
    fn send(self, _: u64, _: i32, _: Body) {}
}

/// Where the scheduler may not, the thread runs anywhere: slower, and as right.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::debug!(core, %error, "a worker runs on any core");
    }
}

/// What a buffer comes back with when the connection has ended.
fn is_end(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV | libc::ECANCELED)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
