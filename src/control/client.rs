//! The command line's side: blocking calls to a daemon's control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::wire::{Command, Event, Refusal};
use crate::workspace::ProgressView;

/// Longest answer to a plain question, and longest line of a stream.
const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;

/// What can go wrong with a call, by what the caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the daemon has ended.
    #[error("no daemon listens on {socket}")]
    Gone {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon says no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// No answer in time: the daemon hangs or is stopped.
    #[error("no answer on {socket} in {waited:?}")]
    Late {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection broke before the result: whether the command was done is unknown.
    #[error("the connection to the daemon broke before it had answered: {cause}")]
    Broken {
        /// What was seen.
        cause: String,
    },
}

/// A daemon's control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of this socket; nothing is sent yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon's facts, as `dormouse status --json` prints them.
    pub fn status(&self, deadline: Duration) -> Result<serde_json::Value, ClientError> {
        let text = self.get("/v1/status", deadline)?;
        serde_json::from_slice(&text).map_err(|error| broken(&error))
    }

    /// The daemon's metrics in Prometheus' text format.
    pub fn metrics(&self, deadline: Duration) -> Result<String, ClientError> {
        let text = self.get("/metrics", deadline)?;
        String::from_utf8(text.into()).map_err(|error| broken(&error))
    }

    /// Has a command done and returns its receipt. Has no deadline of its own: the daemon ends
    /// every command, and a daemon that ends closes the connection.
    pub fn run(
        &self,
        command: &Command,
        on_progress: &mut dyn FnMut(&ProgressView),
    ) -> Result<serde_json::Value, ClientError> {
        let body = serde_json::to_vec(command).map_err(|error| broken(&error))?;
        runtime()?.block_on(async {
            let response = self.send(Method::POST, command.path(), body.into()).await?;
            if response.status() != StatusCode::OK {
                let text = collect(response).await?;
                return Err(broken(&String::from_utf8_lossy(&text)));
            }
            follow(response, on_progress).await
        })
    }

    fn get(&self, path: &str, deadline: Duration) -> Result<Bytes, ClientError> {
        runtime()?.block_on(async {
            let asked = async {
                let response = self.send(Method::GET, path, Bytes::new()).await?;
                let status = response.status();
                let text = collect(response).await?;
                if status == StatusCode::OK {
                    Ok(text)
                } else {
                    Err(broken(&String::from_utf8_lossy(&text)))
                }
            };
            let late = |_| ClientError::Late { socket: self.socket.clone(), waited: deadline };
            tokio::time::timeout(deadline, asked).await.map_err(late)?
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::Gone { socket: self.socket.clone() }
            }
            _ => broken(&error),
        })?;
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.map_err(|error| broken(&error))?;
        // Drives the connection; its failure shows as the request's or the body's.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "dormouse")
            .header("connection", "close")
            .body(Full::new(body))
            .map_err(|error| broken(&error))?;
        sender.send_request(request).await.map_err(|error| broken(&error))
    }
}

fn broken(cause: &impl ToString) -> ClientError {
    ClientError::Broken { cause: cause.to_string() }
}

fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io().enable_time().build().map_err(|error| broken(&error))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_LEN_MAX);
    let collected = body.collect().await.map_err(|error| broken(&error))?;
    Ok(collected.to_bytes())
}

/// Reads events line by line to the result.
async fn follow(
    response: Response<Incoming>,
    on_progress: &mut dyn FnMut(&ProgressView),
) -> Result<serde_json::Value, ClientError> {
    let mut body = response.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line).map_err(|error| broken(&error))? {
                Event::Progress(progress) => on_progress(&progress),
                Event::Done { receipt } => return Ok(receipt),
                Event::Failed(refusal) => return Err(ClientError::Refused(refusal)),
            }
        }
        if pending.len() > ANSWER_LEN_MAX {
            return Err(broken(&"a line without end"));
        }
    }
    Err(broken(&"the daemon ended"))
}
