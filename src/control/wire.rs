//! What goes over the control socket: JSON, one event per line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::workspace::ProgressView;

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
