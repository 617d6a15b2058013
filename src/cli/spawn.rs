//! Starting a daemon in the background: this program again, in a session of its own, from before
//! any thread or file of it exists. The starter waits on a pipe for one line that says how the
//! start went.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::exit::{Code, Failure, Outcome};
use super::settings::READY_ON_STDOUT;
use crate::control::Refusal;

/// Longest line that is read from a starting daemon.
const LINE_LEN_MAX: u64 = 1 << 20;

/// How a start went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Start {
    /// The mount is usable; the facts, as `status` gives them.
    Ready(serde_json::Value),
    /// It is not.
    Failed(Refusal),
}

/// Runs the same command line as a daemon and waits until its mount is usable; gives its facts.
pub fn daemon(line: &[OsString]) -> Outcome<serde_json::Value> {
    // The file that runs now, even if another one was installed over it.
    let mut command = Command::new("/proc/self/exe");
    command.args(line.iter().skip(1)).env(READY_ON_STDOUT, "1");
    std::os::unix::process::CommandExt::arg0(&mut command, "dormouse");
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child =
        spawned.map_err(|error| Failure::internal(format!("starting the daemon: {error}")))?;
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = BufReader::new(stdout.take(LINE_LEN_MAX)).read_line(&mut answer);
        read.map_err(|error| Failure::internal(format!("waiting for the daemon: {error}")))?;
    }
    match serde_json::from_str(&answer) {
        Ok(Start::Ready(facts)) => Ok(facts),
        Ok(Start::Failed(refusal)) => {
            // It has nothing left to do; its end is waited for so that all it held is free.
            drop(child.wait());
            Err(Failure::from(refusal))
        }
        Err(_) => {
            let how = child.wait().map_or_else(|error| error.to_string(), |how| how.to_string());
            Err(Failure::new(Code::Internal, format!("the daemon ended while it started: {how}")))
        }
    }
}

/// Where a daemon reports how its start went.
#[derive(Debug)]
pub struct Report {
    pipe: Option<File>,
}

impl Report {
    /// Nobody waits on a pipe: the daemon is in the foreground.
    #[must_use]
    pub fn to_nobody() -> Report {
        Report { pipe: None }
    }

    /// Leaves the starter's session and terminal, and keeps its pipe for the report.
    pub fn detach() -> Outcome<Report> {
        let failed = |error: io::Error| Failure::internal(format!("leaving the session: {error}"));
        nix::unistd::setsid().map_err(|error| failed(error.into()))?;
        let pipe = duplicate(&io::stdout()).map_err(failed)?;
        let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
        nix::unistd::dup2_stdout(&null).map_err(|error| failed(error.into()))?;
        // No file system is kept from being unmounted by where the daemon was started.
        std::env::set_current_dir("/").map_err(failed)?;
        Ok(Report { pipe: Some(pipe) })
    }

    /// The mount is usable. An error says that nobody waits for it any more: the starter was
    /// killed, so the mount must not appear behind its back.
    pub fn ready(&mut self, facts: &serde_json::Value) -> Outcome {
        self.send(&Start::Ready(facts.clone())).map_err(|error| {
            Failure::internal(format!("nobody waits for the mount any more: {error}"))
        })
    }

    /// The mount could not be made. Gives whether somebody was told.
    pub fn failed(&mut self, failure: &Failure) -> bool {
        self.pipe.is_some() && self.send(&Start::Failed(failure.to_refusal())).is_ok()
    }

    fn send(&mut self, start: &Start) -> io::Result<()> {
        let Some(mut pipe) = self.pipe.take() else { return Ok(()) };
        let mut line = serde_json::to_vec(start)?;
        line.push(b'\n');
        pipe.write_all(&line)
    }
}

fn duplicate(stdout: &io::Stdout) -> io::Result<File> {
    use std::os::fd::AsFd as _;
    stdout.as_fd().try_clone_to_owned().map(File::from)
}
