//! All the threads of one mount, from the handshake to the end of the connection.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::EventFd;

use super::device;
use super::inbox::Inbox;
use super::plan::{NoUring, Plan, WorkerPlan};
use super::worker::Worker;
use crate::fuse::governor::Requests;
use crate::fuse::operations::Operations;
use crate::fuse::options::MountOptions;
use crate::fuse::watchdog::Aborter;
use crate::types::{Standing, ThreadId};

/// A connection whose workers run.
#[derive(Debug)]
pub(in crate::fuse) struct Session {
    plan: Plan,
    device: Arc<OwnedFd>,
    operations: Arc<Operations>,
    workers: Vec<Running>,
    aborter: Aborter,
    /// How whoever mounts is scheduled.
    plain: Option<Standing>,
}

/// A worker's thread.
#[derive(Debug)]
struct Running {
    core: usize,
    started: Started,
    thread: JoinHandle<()>,
}

/// What a worker tells when it has started.
#[derive(Debug)]
struct Started {
    thread: ThreadId,
    inbox: Arc<Inbox>,
    /// Readable when requests have come.
    requests: EventFd,
}

impl Session {
    /// Agrees with the kernel and starts the workers; from then on requests are served.
    ///
    /// # Errors
    /// The kernel does not take it. The mount must be taken away: nobody serves it.
    pub(in crate::fuse) fn start(
        plan: Plan,
        device: OwnedFd,
        operations: Operations,
        options: &MountOptions,
        aborter: &Aborter,
    ) -> Result<Session, NoUring> {
        device::handshake(&device, &plan, options)?;
        let mut session = Session {
            device: Arc::new(device),
            operations: Arc::new(operations),
            workers: Vec::with_capacity(plan.workers.len()),
            plan,
            aborter: aborter.clone(),
            plain: Standing::current().ok(),
        };
        for worker in session.plan.workers.clone() {
            match session.start_worker(worker, aborter.clone()) {
                Ok(running) => session.workers.push(running),
                Err(error) => {
                    // Those that run wait for an end that nobody else would bring.
                    end_connection(aborter, &session.device);
                    session.end();
                    return Err(NoUring::Refused(error));
                }
            }
        }
        Ok(session)
    }

    fn start_worker(&self, plan: WorkerPlan, aborter: Aborter) -> io::Result<Running> {
        let (started, has_started) = mpsc::channel();
        let (device, operations) = (Arc::clone(&self.device), Arc::clone(&self.operations));
        let (payload_bytes, core) = (self.plan.payload_bytes, plan.core);
        let thread = thread::Builder::new().name(format!("dormouse-ring-{}", plan.core));
        let ending = Ending { aborter, device: Arc::clone(&device), plain: self.plain };
        let thread = thread.spawn(move || {
            work(started, &ending, || Worker::start(&plan, payload_bytes, device, operations));
        })?;
        match has_started.recv() {
            Ok(started) => Ok(Running { core, started: started?, thread }),
            Err(_) => Err(io::Error::other("a worker panicked")),
        }
    }

    /// The connection's descriptor.
    pub(in crate::fuse) fn device(&self) -> &OwnedFd {
        &self.device
    }

    /// The workers' threads, each with its core.
    pub(in crate::fuse) fn workers(&self) -> Vec<(ThreadId, usize)> {
        self.workers.iter().map(|worker| (worker.started.thread, worker.core)).collect()
    }

    /// What tells that requests have come.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(in crate::fuse) fn requests(&self) -> io::Result<Vec<Requests>> {
        let mut all = vec![Requests::Device(self.device.try_clone()?)];
        for worker in &self.workers {
            let requests = worker.started.requests.as_fd().try_clone_to_owned()?;
            // SAFETY: the descriptor of an event.
            all.push(Requests::Counted(unsafe { EventFd::from_owned_fd(requests) }));
        }
        Ok(all)
    }

    /// Serves until the connection ends, and all that was begun.
    ///
    /// # Errors
    /// `/dev/fuse` can't be read.
    pub(in crate::fuse) fn run(self) -> io::Result<()> {
        let serve = || device::serve(&self.device, &self.plan, &self.operations);
        let served = catch_unwind(AssertUnwindSafe(serve))
            .unwrap_or_else(|_| Err(io::Error::other("reading /dev/fuse panicked")));
        if served.is_err() {
            end_connection(&self.aborter, &self.device);
        }
        self.end();
        served
    }

    fn end(self) {
        for worker in &self.workers {
            worker.started.inbox.end();
        }
        for worker in self.workers {
            // A panic was logged where it happened.
            let _ = worker.thread.join();
        }
        self.operations.close();
    }
}

/// A worker's life. If it ends before the connection, it ends the connection: its queues would
/// never be served again.
fn work(
    started: Sender<io::Result<Started>>,
    ending: &Ending,
    start: impl FnOnce() -> io::Result<Worker>,
) {
    let run = AssertUnwindSafe(|| {
        let (worker, requests) = match start().and_then(|worker| {
            let requests = worker.announce()?;
            Ok((worker, requests))
        }) {
            Ok(started) => started,
            Err(error) => {
                // Whoever started it takes the mount away.
                let _ = started.send(Err(error));
                return Ok(());
            }
        };
        let (thread, inbox) = (ThreadId::current(), worker.inbox());
        // Nobody listens any more only if the mount was given up.
        let _ = started.send(Ok(Started { thread, inbox, requests }));
        worker.run()
    });
    match catch_unwind(run) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => tracing::error!(%error, "a worker failed: aborting the mount"),
        Err(_) => tracing::error!("a worker panicked: aborting the mount"),
    }
    if let Some(plain) = ending.plain {
        // The child that aborts is scheduled like us, and might starve.
        plain.take();
    }
    end_connection(&ending.aborter, &ending.device);
}

/// What a worker needs to end the connection.
struct Ending {
    aborter: Aborter,
    device: Arc<OwnedFd>,
    plain: Option<Standing>,
}

fn end_connection(aborter: &Aborter, device: &OwnedFd) {
    if let Err(error) = aborter.abort(device) {
        tracing::error!(%error, "the mount can't be aborted");
    }
}
