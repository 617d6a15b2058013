//! All the threads of one mount, from the handshake to the end of the connection.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use super::device;
use super::inbox::Inbox;
use super::plan::{NoUring, Plan, WorkerPlan};
use super::worker::Worker;
use crate::fuse::operations::Operations;
use crate::fuse::options::MountOptions;
use crate::fuse::watchdog::Aborter;

/// A connection whose workers run.
#[derive(Debug)]
pub(in crate::fuse) struct Session {
    plan: Plan,
    device: Arc<OwnedFd>,
    operations: Arc<Operations>,
    workers: Vec<Running>,
    aborter: Aborter,
}

/// A worker's thread.
#[derive(Debug)]
struct Running {
    inbox: Arc<Inbox>,
    thread: JoinHandle<()>,
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
        };
        for worker in session.plan.workers.clone() {
            match session.start_worker(worker, aborter.clone()) {
                Ok(running) => session.workers.push(running),
                Err(error) => {
                    // Those that run wait for an end that nobody else would bring.
                    end_connection(aborter);
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
        let payload_bytes = self.plan.payload_bytes;
        let thread = thread::Builder::new().name(format!("dormouse-ring-{}", plan.core));
        let thread = thread.spawn(move || {
            work(started, &aborter, || Worker::start(&plan, payload_bytes, device, operations));
        })?;
        match has_started.recv() {
            Ok(started) => Ok(Running { inbox: started?, thread }),
            Err(_) => Err(io::Error::other("a worker panicked")),
        }
    }

    /// The connection's descriptor.
    pub(in crate::fuse) fn device(&self) -> &OwnedFd {
        &self.device
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
            end_connection(&self.aborter);
        }
        self.end();
        served
    }

    fn end(self) {
        for worker in &self.workers {
            worker.inbox.end();
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
    started: Sender<io::Result<Arc<Inbox>>>,
    aborter: &Aborter,
    start: impl FnOnce() -> io::Result<Worker>,
) {
    let run = AssertUnwindSafe(|| {
        let worker = match start() {
            Ok(worker) => worker,
            Err(error) => return started.send(Err(error)).map_err(io::Error::other),
        };
        // Nobody listens any more only if the mount was given up.
        let _ = started.send(Ok(worker.inbox()));
        worker.run()
    });
    match catch_unwind(run) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => tracing::error!(%error, "a worker failed: aborting the mount"),
        Err(_) => tracing::error!("a worker panicked: aborting the mount"),
    }
    end_connection(aborter);
}

fn end_connection(aborter: &Aborter) {
    if let Err(error) = aborter.abort() {
        tracing::error!(%error, "the mount can't be aborted");
    }
}
