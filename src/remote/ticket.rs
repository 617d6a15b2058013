//! Requests under way.

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::limit::Permit;
use super::{Object, RemoteError, Stored};

/// A place among the background's requests: what is asked for with it begins at once.
#[derive(Debug)]
pub struct Turn(pub(super) Permit);

/// Ends the waits of all who were given it, for good.
#[derive(Debug, Default)]
pub struct Brake(watch::Sender<bool>);

impl Brake {
    /// Whoever waits with it, and whoever will, does so no more.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }

    /// Returns when it is pulled.
    pub(super) fn pulled(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut pulled = self.0.subscribe();
        // An error: the brake is gone, and with it those who could wait.
        async move { _ = pulled.wait_for(|pulled| *pulled).await }
    }
}

/// A put under way. It goes on also where the ticket is dropped.
#[derive(Debug)]
pub struct PutTicket {
    pub(super) task: JoinHandle<Result<Stored, RemoteError>>,
}

impl PutTicket {
    /// Waits for its end; at most as long as the put may take.
    pub fn wait(self) -> Result<Stored, RemoteError> {
        join(self.task)
    }

    /// True once it has ended, well or not.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.task.is_finished()
    }
}

/// Background GETs under way: an iterator over their answers as they come, each with its place
/// in the list that was asked for. A few are fetched ahead of the reader; dropping this ends the
/// rest.
#[derive(Debug)]
pub struct Fetches {
    pub(super) answers: mpsc::Receiver<(usize, Result<Object, RemoteError>)>,
}

impl Iterator for Fetches {
    type Item = (usize, Result<Object, RemoteError>);

    /// Waits for the next answer; none: all have come.
    fn next(&mut self) -> Option<Self::Item> {
        futures::executor::block_on(self.answers.recv())
    }
}

/// Blocks until a task of the store's runtime ends. Works on any thread, also on one that drives
/// another runtime (which it then holds up).
pub(super) fn join<T>(task: JoinHandle<Result<T, RemoteError>>) -> Result<T, RemoteError> {
    match futures::executor::block_on(task) {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The client was closed under the request.
            Err(_) => Err(RemoteError::transient("request", "the store's client was closed")),
        },
    }
}
