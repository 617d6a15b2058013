//! What every command works with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::exit::{Code, Failure, Outcome};
use super::paths;
use super::settings::Environment;
use crate::control::{Client, ClientError, Liveness, Registration, Registry};
use crate::types::Clock;

/// How long a daemon may take to say its status.
pub const STATUS_DEADLINE: Duration = Duration::from_secs(10);

/// How long a daemon may take to end after its last word, and how often that is looked at.
const END_DEADLINE: Duration = Duration::from_secs(20);
const END_POLL: Duration = Duration::from_millis(5);

/// How long another daemon may take to take over from one that died.
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(60);

/// The process's circumstances: what it was started with, read once.
#[derive(Debug)]
pub struct Context {
    /// `--json`.
    pub json: bool,
    /// The configuration file.
    pub config: Config,
    /// The process's environment.
    pub env: Environment,
    /// Daemons of this machine.
    pub registry: Registry,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What `PATH|NAME` was found to mean.
#[derive(Debug)]
pub enum Target {
    /// A mount whose daemon runs.
    Running(Registration),
    /// What a daemon left that ended without taking leave.
    Stale(Registration),
    /// Nothing known under this name or path.
    Unknown,
}

impl Context {
    /// Finds the mount that a person means: a path if it has a slash or is a registered
    /// mountpoint, otherwise the name of a workspace.
    pub fn find(&self, text: &str) -> Outcome<Target> {
        let found = self.look_up(text)?;
        let Target::Running(entry) = found else { return Ok(found) };
        self.wait_for_daemon(entry)
    }

    /// Where a daemon has died and its keeper lives, another one is about to take the mount over.
    fn wait_for_daemon(&self, entry: Registration) -> Outcome<Target> {
        let mountpoint = entry.mountpoint.clone();
        let until = self.clock.monotonic() + TAKE_OVER_DEADLINE;
        let mut entry = entry;
        while !entry.daemon().runs() && self.clock.monotonic() < until {
            std::thread::sleep(END_POLL);
            match self.registry.find(&mountpoint)? {
                Some((next, Liveness::Running)) => entry = next,
                Some(stale) => return Ok(Target::from(stale)),
                None => return Ok(Target::Unknown),
            }
        }
        Ok(Target::Running(entry))
    }

    fn look_up(&self, text: &str) -> Outcome<Target> {
        let path = paths::absolute(Path::new(text), &self.env)?;
        if let Some(found) = self.registry.find(&path)? {
            return Ok(Target::from(found));
        }
        if text.contains('/') || text == "." || text == ".." {
            return Ok(Target::Unknown);
        }
        let all = self.registry.list()?;
        let named = |entry: &&(Registration, Liveness)| entry.0.workspace == text;
        let mut running = all.iter().filter(named).filter(|it| it.1 == Liveness::Running);
        let writers: Vec<_> = running.clone().filter(|it| !it.0.read_only).collect();
        // Before a mount that only looks comes a writer's, also a dead one's: it may have changes
        // that are nowhere else.
        let stale =
            all.iter().filter(named).find(|it| it.1 != Liveness::Running && !it.0.read_only);
        match (writers.as_slice(), stale, running.next(), running.next()) {
            ([writer], ..) => Ok(Target::Running(writer.0.clone())),
            ([], Some(stale), ..) => Ok(Target::Stale(stale.0.clone())),
            ([], None, Some(only), None) => Ok(Target::Running(only.0.clone())),
            ([], None, None, _) => Ok(Target::Unknown),
            _ => Err(Failure::usage(format!("workspace {text} is mounted more than once here"))
                .hint("name the mountpoint; `dormouse status` lists them")),
        }
    }

    /// The running mount that a person means, or a failure that says what there is instead.
    pub fn running(&self, text: &str) -> Outcome<(Registration, Client)> {
        match self.find(text)? {
            Target::Running(entry) => {
                let client = Client::new(&entry.socket);
                Ok((entry, client))
            }
            Target::Stale(entry) => Err(self.died(&entry)),
            Target::Unknown => Err(self.unknown(text)),
        }
    }

    /// Nothing is mounted under this name or path.
    #[must_use]
    pub fn unknown(&self, text: &str) -> Failure {
        let failure =
            Failure::new(Code::NotFound, format!("{text}: no workspace is mounted there"));
        match self.registry.list() {
            Ok(all) if !all.is_empty() => failure.hint("`dormouse status` lists the mounts"),
            _ => failure,
        }
    }

    /// The daemon of this entry has ended without taking leave.
    #[must_use]
    pub fn died(&self, entry: &Registration) -> Failure {
        let mountpoint = entry.mountpoint.display();
        let message = format!("{mountpoint}: its daemon (process {}) has died", entry.pid);
        let cache_dir = entry.cache_dir.display();
        let root = paths::default_cache_root(&self.env).ok();
        let flag = match entry.cache_dir.parent() == root.as_deref() {
            true => String::new(),
            false => format!(" --cache-dir {cache_dir}"),
        };
        Failure::new(Code::NotFound, message).hint(format!(
            "nothing that was written is lost: `dormouse mount{flag}` goes on, `dormouse hibernate \
             {mountpoint}` puts it into the store; local data: {cache_dir}"
        ))
    }

    /// The outcome of a command that can end a daemon. Where it did, well or not, this returns
    /// when the cache directory and the mountpoint can be used again.
    pub fn left<T>(&self, entry: &Registration, outcome: Result<T, ClientError>) -> Outcome<T> {
        match outcome {
            Ok(done) => {
                self.wait_gone(entry)?;
                Ok(done)
            }
            Err(error) => {
                // A daemon takes its entry away before it says its last word.
                if matches!(self.registry.find(&entry.mountpoint), Ok(None)) {
                    // The error tells more than a process that does not end.
                    drop(self.wait_gone(entry));
                }
                Err(error.into())
            }
        }
    }

    /// Waits until the process of a daemon that has said its last word is gone, and its keeper's.
    fn wait_gone(&self, entry: &Registration) -> Outcome {
        let until = self.clock.monotonic() + END_DEADLINE;
        while !entry.daemon().is_gone() || entry.keeper.is_some_and(|keeper| !keeper.is_gone()) {
            if self.clock.monotonic() >= until {
                return Err(Failure::internal(format!(
                    "everything is done, but the daemon (process {}) does not end",
                    entry.pid
                )));
            }
            std::thread::sleep(END_POLL);
        }
        Ok(())
    }

    /// A path from the command line, absolute.
    pub fn absolute(&self, path: &Path) -> Outcome<PathBuf> {
        paths::absolute(path, &self.env)
    }
}

impl From<(Registration, Liveness)> for Target {
    fn from((entry, liveness): (Registration, Liveness)) -> Target {
        match liveness {
            Liveness::Running => Target::Running(entry),
            Liveness::Stale => Target::Stale(entry),
        }
    }
}
