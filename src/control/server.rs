//! The daemon's side: HTTP/1.1 on a Unix socket, in one thread of its own.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};

use super::wire::{Command, Event, Refusal};

/// Events of one command waiting for a slow reader; further progress is dropped, results wait.
const EVENTS_WAITING_MAX: usize = 64;

/// Threads that run handlers: a status must be answered while a checkpoint runs.
const HANDLER_THREADS_MAX: usize = 8;

/// The exit code for a failure of our own.
const CODE_INTERNAL: u8 = 1;

type RunFn = dyn Fn(Command, &mut dyn FnMut(Event)) + Send + Sync;

/// What the daemon does when asked. All of them may block; each runs on a thread of its own.
pub struct Handlers {
    /// Facts for `GET /v1/status`.
    pub status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Text for `GET /metrics`.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Carries out a command and reports; the last event must be `Done` or `Failed`.
    pub run: Box<RunFn>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handlers")
    }
}

/// A running server. Dropping it stops listening at once; [`Server::finish`] first lets answers
/// under way reach their readers.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    /// Disconnected when the server has ended.
    ended: crossbeam_channel::Receiver<()>,
    socket: PathBuf,
}

/// Listens on `socket` (mode 0600; its directory must be 0700) until the server is dropped.
/// A socket file that is there is replaced: the caller has made sure that nobody listens on it.
pub fn serve(socket: &Path, handlers: Handlers) -> io::Result<Server> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(HANDLER_THREADS_MAX)
        .thread_name("control-handler")
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let app = router(Arc::new(handlers));
    let (ends, ended) = crossbeam_channel::bounded(0);
    let serve = move || {
        let _ends: crossbeam_channel::Sender<()> = ends;
        let served = runtime.block_on(async move {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            let until = async move { drop(stopped.await) };
            axum::serve(listener, app).with_graceful_shutdown(until).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "the control socket has ended");
        }
        // Handlers that still run must not keep the process.
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("control".into()).spawn(serve)?;
    Ok(Server { stop: Some(stop), ended, socket: socket.to_owned() })
}

impl Server {
    /// Stops listening and returns when the answers under way have been sent, or after
    /// `deadline`: a reader that has stopped reading must not keep the process.
    pub fn finish(mut self, deadline: Duration) {
        self.stop.take();
        if let Err(crossbeam_channel::RecvTimeoutError::Timeout) = self.ended.recv_timeout(deadline)
        {
            tracing::warn!("an answer on the control socket was not read to its end");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        // A file that is already gone is what is wanted.
        drop(std::fs::remove_file(&self.socket));
    }
}

fn router(handlers: Arc<Handlers>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/v1/checkpoint", post(command))
        .route("/v1/evict", post(command))
        .route("/v1/hibernate", post(command))
        .route("/v1/unmount", post(command))
        .route("/v1/upgrade", post(command))
        .with_state(handlers)
}

async fn status(State(handlers): State<Arc<Handlers>>) -> Response {
    let asked = tokio::task::spawn_blocking(move || (handlers.status)());
    match asked.await {
        Ok(facts) => axum::Json(facts).into_response(),
        Err(_) => failure("status failed: see the daemon's log"),
    }
}

async fn metrics(State(handlers): State<Arc<Handlers>>) -> Response {
    let asked = tokio::task::spawn_blocking(move || (handlers.metrics)());
    match asked.await {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => failure("metrics failed: see the daemon's log"),
    }
}

fn failure(message: &'static str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
}

/// Runs the command on a handler thread and streams its events, one JSON object per line.
async fn command(
    State(handlers): State<Arc<Handlers>>,
    uri: axum::http::Uri,
    body: Bytes,
) -> Response {
    let command = match Command::parse(uri.path(), &body) {
        Ok(command) => command,
        Err(message) => return (StatusCode::BAD_REQUEST, message).into_response(),
    };
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    tokio::task::spawn_blocking(move || run_command(&handlers, command, &sender));
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        let line: Bytes = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), receiver))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

fn run_command(handlers: &Handlers, command: Command, sender: &mpsc::Sender<Bytes>) {
    let mut ended = false;
    let mut report = |event: Event| {
        let line = encode(&event);
        if matches!(event, Event::Progress(_)) {
            // A reader that is slow or gone misses progress; the work goes on.
            drop(sender.try_send(line));
        } else if !ended {
            ended = true;
            drop(sender.blocking_send(line));
        }
    };
    let run = std::panic::AssertUnwindSafe(|| (handlers.run)(command, &mut report));
    let panicked = std::panic::catch_unwind(run).is_err();
    if !ended {
        let message = if panicked { "the daemon failed" } else { "the daemon gave no result" };
        let refusal = Refusal {
            code: CODE_INTERNAL,
            message: message.to_owned(),
            hint: Some("see its log".to_owned()),
        };
        drop(sender.blocking_send(encode(&Event::Failed(refusal))));
    }
}

fn encode(event: &Event) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("events have string keys and plain numbers");
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests;
