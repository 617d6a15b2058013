//! What goes over the control socket: JSON, one event per line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::workspace::ProgressView;

/// The exit code for a request that is not understood (`docs/cli.md`).
const CODE_USAGE: u8 = 2;

/// What a daemon can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Seal a snapshot while the mount goes on.
    Checkpoint,
    /// Drop from the local cache and from memory whatever can be fetched again.
    Evict,
    /// Seal, unmount, release the lease, end the daemon. Files may be open.
    Hibernate {
        /// While the store can't be reached, go on trying for this long, then keep the mount.
        /// None: one try.
        timeout_secs: Option<u64>,
    },
    /// End the daemon, and have another program take the mount over.
    Upgrade {
        /// The program, absolute.
        binary: PathBuf,
    },
    /// Unmount only if nothing is in use, then hibernate or leave the data on this machine.
    Unmount {
        /// Leave without the store: what is not uploaded stays in the cache directory.
        keep_local: bool,
        /// As for `Hibernate`.
        timeout_secs: Option<u64>,
    },
}

impl Command {
    /// The path that the command is posted to.
    #[must_use]
    pub fn path(&self) -> &'static str {
        match self {
            Command::Checkpoint => "/v1/checkpoint",
            Command::Evict => "/v1/evict",
            Command::Hibernate { .. } => "/v1/hibernate",
            Command::Unmount { .. } => "/v1/unmount",
            Command::Upgrade { .. } => "/v1/upgrade",
        }
    }

    /// Understands what was posted to `path`; an error's text is for whoever posted it. A body
    /// may be left out where the command needs none: `curl -X POST` is enough.
    pub fn parse(path: &str, body: &[u8]) -> Result<Command, String> {
        let command = if body.is_empty() {
            Command::without_body(path)?
        } else {
            serde_json::from_slice(body).map_err(|error| error.to_string())?
        };
        if command.path() == path {
            Ok(command)
        } else {
            let want = command.path();
            Err(format!("this command goes to {want} (exit code {CODE_USAGE})"))
        }
    }

    fn without_body(path: &str) -> Result<Command, String> {
        Ok(match path {
            "/v1/checkpoint" => Command::Checkpoint,
            "/v1/evict" => Command::Evict,
            "/v1/hibernate" => Command::Hibernate { timeout_secs: None },
            "/v1/unmount" => Command::Unmount { keep_local: false, timeout_secs: None },
            "/v1/upgrade" => {
                return Err(format!("this command needs a body (exit code {CODE_USAGE})"));
            }
            _ => return Err(format!("no command goes to {path} (exit code {CODE_USAGE})")),
        })
    }
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The exit code of `docs/cli.md` that says it.
    pub code: u8,
    /// What happened, to what.
    pub message: String,
    /// What to do, where there is something.
    pub hint: Option<String>,
}

/// One line of a command's answer. The last one is `Done` or `Failed`, and only the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It goes on.
    Progress(ProgressView),
    /// It is done; the facts, as `--json` prints them.
    Done {
        /// The receipt.
        receipt: serde_json::Value,
    },
    /// It is not done.
    Failed(Refusal),
}
