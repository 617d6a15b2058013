//! Starting a daemon, and another keeper in this one's place.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::link::{Estate, Link, Order, Told};
use super::program::Program;
use super::{End, KEEPER_STATE, KEPT, Watch};
use crate::cli::exit::{Failure, Outcome};

/// A daemon as its keeper knows it.
#[derive(Debug)]
pub struct Daemon {
    pub pid: Pid,
    pub link: Link,
    /// Its mount can be used.
    pub is_ready: bool,
    /// It will say nothing more.
    pub is_silent: bool,
    /// The program that it is to prove.
    pub trial: Option<Program>,
    /// The program that it will end for.
    pub hands_over_to: Option<PathBuf>,
    /// When it must have taken over.
    until: Option<Duration>,
    was_late: bool,
}

impl Daemon {
    /// Starts one. It takes over what the keeper holds, until then.
    pub fn start(watch: &Watch<'_>, trial: Option<Program>, until: Duration) -> io::Result<Daemon> {
        let (link, theirs) = Link::pair()?;
        let mut inherited = vec![theirs.socket().as_raw_fd()];
        inherited.extend(watch.estate.iter().map(|(_, device)| device.as_raw_fd()));
        let order = match &watch.estate {
            Some((estate, _)) => Order::Adopt(estate.clone()),
            None => Order::Begin,
        };
        let program = trial.as_ref().unwrap_or(&watch.program);
        let mut command = Command::new(program.path());
        command.arg0("dormouse").args(watch.line.iter().skip(1)).stdin(Stdio::null());
        let numbers: Vec<_> = inherited.iter().map(RawFd::to_string).collect();
        inherited.extend(program.descriptor());
        command.env(KEPT, numbers.join(",")).env_remove(KEEPER_STATE);
        // It listens to this process alone, which passes on what the daemon has to say.
        command.env_remove("NOTIFY_SOCKET");
        command.current_dir(working_dir(watch));
        if !watch.context.env.ready_on_stdout {
            // A terminal's signals come from here, or they would come twice.
            command.process_group(0);
        }
        // SAFETY: fcntl is async-signal-safe, and the descriptors are open until spawn returns.
        unsafe {
            command.pre_exec(move || {
                for &number in &inherited {
                    if libc::fcntl(number, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        link.send(&order)?;
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Daemon {
            pid: Pid::from_raw(pid),
            link,
            is_ready: false,
            is_silent: false,
            trial,
            hands_over_to: None,
            until: watch.estate.is_some().then_some(until),
            was_late: false,
        })
    }

    pub fn tell(&self, order: &Order) {
        if let Err(error) = self.link.send(order) {
            tracing::debug!(%error, "the daemon is gone");
        }
    }

    /// What it has said, without waiting.
    pub fn hear(&mut self) -> io::Result<Option<(Told, Option<OwnedFd>)>> {
        if self.is_silent {
            return Ok(None);
        }
        let heard = self.link.try_receive()?;
        self.is_silent = heard.is_none() && self.link.is_closed()?;
        Ok(heard)
    }

    /// How long it may still take; none: as long as it likes.
    pub fn patience(&self, now: Duration) -> Option<Duration> {
        let until = self.until.filter(|_| !self.is_ready)?;
        Some(until.saturating_sub(now))
    }

    /// It took too long, and was killed.
    pub fn is_given_up(&mut self) {
        self.until = None;
        self.was_late = true;
    }

    /// Why it did not take over.
    pub fn why(&self, end: End) -> String {
        match self.was_late {
            true => String::from("it took too long"),
            false => end.to_string(),
        }
    }
}

/// Where paths of the command line begin. A directory that the mount hides now would be looked for
/// in the mount, which nobody serves.
fn working_dir<'a>(watch: &'a Watch<'_>) -> &'a Path {
    let dir = &watch.context.env.working_dir;
    let is_hidden = watch
        .estate
        .as_ref()
        .is_some_and(|(estate, _)| dir.starts_with(&estate.connection.mountpoint));
    if !is_hidden && dir.is_dir() { dir } else { Path::new("/") }
}

/// Keeps nothing of whoever started this process: standard output is for the daemon only, whose
/// end its reader is to see, and no file system is kept from being unmounted.
pub fn let_go() -> Outcome {
    let null = File::options().read(true).write(true).open("/dev/null");
    let gone = null.and_then(|null| {
        nix::unistd::dup2_stdout(&null)?;
        std::env::set_current_dir("/")
    });
    gone.map_err(|error| Failure::internal(format!("leaving the session: {error}")))
}

/// What a keeper of another version must know to go on. The descriptors keep their numbers.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    pid: i32,
    link: RawFd,
    device: RawFd,
    estate: Estate,
}

/// Replaces this process's program by the new one, which goes on here. Comes back only with the
/// reason why that can't be.
pub fn become_new(watch: &Watch<'_>, daemon: &Daemon) -> io::Error {
    let Some((estate, device)) = &watch.estate else { return io::ErrorKind::NotFound.into() };
    let link = daemon.link.socket();
    let state = State {
        pid: daemon.pid.as_raw(),
        link: link.as_raw_fd(),
        device: device.as_raw_fd(),
        estate: estate.clone(),
    };
    let prepared = write_state(&state).and_then(|memory| {
        for descriptor in [&memory, link, device] {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(memory)
    });
    let memory = match prepared {
        Ok(memory) => memory,
        Err(error) => return error,
    };
    let mut command = Command::new(watch.program.path());
    command.arg0("dormouse").args(watch.line.iter().skip(1));
    let error = command.env(KEEPER_STATE, memory.as_raw_fd().to_string()).exec();
    for descriptor in [link, device] {
        if let Err(errno) = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
            tracing::warn!(%errno, "a descriptor stays inherited");
        }
    }
    error
}

fn write_state(state: &State) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"dormouse-keeper", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(&serde_json::to_vec(state)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// The other half of [`become_new`]: the daemon and what it would leave.
pub fn inherit(number: &str) -> Outcome<(Daemon, (Estate, OwnedFd))> {
    let inherit = || -> io::Result<(Daemon, (Estate, OwnedFd))> {
        let memory = number.parse().map_err(io::Error::other)?;
        let mut text = Vec::new();
        File::from(own(memory)?).read_to_end(&mut text)?;
        let state: State = serde_json::from_slice(&text)?;
        let daemon = Daemon {
            pid: Pid::from_raw(state.pid),
            link: Link::new(own(state.link)?),
            is_ready: true,
            is_silent: false,
            trial: None,
            hands_over_to: None,
            until: None,
            was_late: false,
        };
        Ok((daemon, (state.estate, own(state.device)?)))
    };
    inherit().map_err(|error| Failure::internal(format!("{KEEPER_STATE}={number}: {error}")))
}

/// Takes an inherited descriptor, for this process alone from now on.
pub fn own(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks about the number.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and whoever started this process left it to us; this is the only place
    // that takes it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
