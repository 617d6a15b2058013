//! The keeper: a small process that starts a mount's daemon, holds the mount's `/dev/fuse`, and
//! starts another daemon that takes the mount over when the first one dies. Programs inside the
//! mount see a pause.
//!
//! It never touches the mount and knows nothing of what is in it. Signals that mean "leave" it
//! passes on, and it ends with the exit code that the daemon ended with. Where no daemon can take
//! over it ends the connection, so that whoever waits inside gets an error instead of waiting for
//! ever. `docs/decisions/0012-keeper.md` has the reasons.

mod kept;
mod link;
mod program;
mod start;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sd_notify::NotifyState;

pub use kept::{Inheritance, Keeper, Signals};
pub use link::Estate;
use link::{Order, Told};
use program::Program;
use start::Daemon;

use super::args::LogArgs;
use super::context::Context;
use super::exit::{Code, Failure, Outcome};
use super::logging::{self, Log};
use super::settings::MountSettings;
use crate::fuse;

/// Set for a daemon that has a keeper: the descriptors that it inherits.
pub const KEPT: &str = "DORMOUSE_KEPT";

/// Set for a keeper that has replaced its own program: the descriptors of what it was doing.
pub const KEEPER_STATE: &str = "DORMOUSE_KEEPER_STATE";

/// Exit code of a daemon that ends for another program to take over. Seen by its keeper only.
pub const HANDED_OVER: i32 = 120;

/// Exit code of a panic: as good as a crash.
const PANICKED: i32 = 101;

/// More crashes in a minute are not bad luck.
const CRASHES_MAX: usize = 5;
const CRASHES_WITHIN: Duration = Duration::from_secs(60);

/// How long a daemon may take to take over, beside what the store may take.
const TAKE_OVER_MAX: Duration = Duration::from_secs(60);

/// Keeps one mount.
struct Watch<'a> {
    context: &'a Context,
    line: &'a [OsString],
    /// In the background: where it goes when the cache directory is known.
    log: Option<Log>,
    signals: SignalFd,
    /// Signals so far that mean: leave.
    leaves: u32,
    /// What there is to take over.
    estate: Option<(Estate, OwnedFd)>,
    /// What daemons are started from.
    program: Program,
    /// When daemons crashed lately.
    crashes: VecDeque<Duration>,
    take_over_max: Duration,
}

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Code(i32),
    Killed(Signal),
}

/// What happens next.
enum Next {
    /// Another daemon takes over; of a program on trial, where there is one.
    TakeOver(Option<Program>),
    End(Outcome),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "it ended with exit code {code}"),
            End::Killed(signal) => write!(f, "it was killed by {signal}"),
        }
    }
}

/// Starts a daemon and stays until the mount has ended for good.
pub fn run(
    context: &Context,
    settings: &MountSettings,
    log: &LogArgs,
    line: &[OsString],
) -> Outcome {
    let in_background = context.env.ready_on_stdout;
    let (signals, log) = begin(in_background, log)?;
    if in_background {
        nix::unistd::setsid().map_err(|errno| failed("leaving the session", errno))?;
    }
    let mut watch = Watch::new(context, settings, line, (signals, log));
    let daemon = watch.start(None)?;
    if in_background {
        start::let_go()?;
    }
    watch.keep(daemon)
}

/// Goes on where the program that this one has replaced was.
pub fn resume(
    context: &Context,
    settings: &MountSettings,
    log: &LogArgs,
    (line, state): (&[OsString], &str),
) -> Outcome {
    let started = begin(context.env.ready_on_stdout, log)?;
    let mut watch = Watch::new(context, settings, line, started);
    let (daemon, estate) = start::inherit(state)?;
    watch.move_log(&estate.0);
    watch.estate = Some(estate);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the keeper is of the new program too");
    watch.keep(daemon)
}

fn begin(in_background: bool, log: &LogArgs) -> Outcome<(SignalFd, Option<Log>)> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block().map_err(|errno| failed("blocking signals", errno))?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| failed("waiting for signals", errno))?;
    let log = match in_background {
        true => Some(logging::start_early(log, "info")?),
        false => {
            logging::start(log, "info")?;
            None
        }
    };
    Ok((signals, log))
}

fn failed(what: &str, errno: Errno) -> Failure {
    Failure::internal(format!("{what}: {errno}"))
}

impl<'a> Watch<'a> {
    fn new(
        context: &'a Context,
        settings: &MountSettings,
        line: &'a [OsString],
        (signals, log): (SignalFd, Option<Log>),
    ) -> Watch<'a> {
        Watch {
            context,
            line,
            log,
            signals,
            leaves: 0,
            estate: None,
            program: Program::own(),
            crashes: VecDeque::new(),
            take_over_max: settings.workspace.store.remote.deadline * 2 + TAKE_OVER_MAX,
        }
    }

    /// Starts a daemon; it takes over what there is to take over.
    fn start(&self, trial: Option<Program>) -> Outcome<Daemon> {
        let until = self.context.clock.monotonic() + self.take_over_max;
        let started = Daemon::start(self, trial, until);
        let daemon =
            started.map_err(|error| Failure::internal(format!("starting the daemon: {error}")))?;
        if self.leaves > 0 {
            daemon.tell(&Order::Signals(self.leaves));
        }
        Ok(daemon)
    }

    fn keep(&mut self, first: Daemon) -> Outcome {
        let mut daemon = first;
        loop {
            let end = match self.attend(&mut daemon) {
                Ok(end) => end,
                Err(errno) => return self.give_up(failed("waiting for the daemon", errno)),
            };
            let trial = match self.judge(&mut daemon, end) {
                Next::TakeOver(trial) => trial,
                Next::End(outcome) => return outcome,
            };
            daemon = match self.start(trial) {
                Ok(daemon) => daemon,
                Err(failure) => return self.give_up(failure),
            };
        }
    }

    /// Waits until the daemon has ended.
    fn attend(&mut self, daemon: &mut Daemon) -> Result<End, Errno> {
        loop {
            let timeout = daemon.patience(self.context.clock.monotonic());
            if timeout == Some(Duration::ZERO) {
                tracing::error!(pid = daemon.pid.as_raw(), "the daemon takes too long: killing it");
                kill(daemon.pid, Signal::SIGKILL)?;
                daemon.is_given_up();
            }
            self.wait(daemon, timeout)?;
            self.hear(daemon);
            while let Some(info) = self.signals.read_signal()? {
                let signal = i32::try_from(info.ssi_signo).map(Signal::try_from);
                if signal == Ok(Ok(Signal::SIGCHLD)) {
                    continue;
                }
                self.leaves += 1;
                daemon.tell(&Order::Signals(self.leaves));
            }
            // Also where its signal was merged with another child's.
            if let Some(end) = reap(daemon.pid)? {
                self.hear(daemon);
                return Ok(end);
            }
        }
    }

    /// Waits until there is something to see.
    fn wait(&self, daemon: &Daemon, timeout: Option<Duration>) -> Result<(), Errno> {
        let mut all = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if !daemon.is_silent {
            all.push(PollFd::new(daemon.link.socket().as_fd(), PollFlags::POLLIN));
        }
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut all, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes up what the daemon has said.
    fn hear(&mut self, daemon: &mut Daemon) {
        loop {
            match daemon.hear() {
                Ok(Some((told, descriptor))) => self.heard(daemon, told, descriptor),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "the daemon can't be heard");
                    return;
                }
            }
        }
    }

    fn heard(&mut self, daemon: &mut Daemon, told: Told, descriptor: Option<OwnedFd>) {
        match told {
            Told::Mounted(estate) => {
                self.move_log(&estate);
                self.estate = descriptor.map(|descriptor| (estate, descriptor));
            }
            Told::Ready => {
                daemon.is_ready = true;
                if let Some(program) = daemon.trial.take() {
                    self.program = program;
                    let failure = start::become_new(self, daemon);
                    tracing::warn!(%failure, "the keeper itself stays as it is");
                }
            }
            Told::Notify(state) => {
                if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&state)]) {
                    tracing::warn!(%error, "the service manager could not be told");
                }
            }
            Told::HandOver(binary) => daemon.hands_over_to = Some(binary),
        }
    }

    fn move_log(&self, estate: &Estate) {
        let Some(log) = &self.log else { return };
        // Standard error too: whoever started this process may wait for its end.
        if let Err(failure) = logging::redirect(log, &estate.cache_dir) {
            tracing::warn!(%failure, "the keeper's log");
        }
    }

    /// Decides what follows a daemon's end.
    fn judge(&mut self, daemon: &mut Daemon, end: End) -> Next {
        if let (End::Code(HANDED_OVER), Some(binary)) = (end, daemon.hands_over_to.take()) {
            return match Program::open(&binary) {
                Ok(program) => {
                    if let Some((estate, _)) = &mut self.estate {
                        estate.failed_upgrade = None;
                    }
                    Next::TakeOver(Some(program))
                }
                Err(error) => {
                    self.upgrade_failed(&format!("{}: {error}", binary.display()));
                    Next::TakeOver(None)
                }
            };
        }
        if daemon.trial.is_some() && self.leaves == 0 {
            self.upgrade_failed(&daemon.why(end));
            return Next::TakeOver(None);
        }
        if let End::Code(code) = end
            && code != PANICKED
        {
            if self.estate.is_some() && !daemon.is_ready {
                tracing::error!(code, "no daemon takes the mount over: programs in it get errors");
            }
            self.let_go();
            return Next::End(passed_on(code));
        }
        let pid = daemon.pid.as_raw();
        let died = Failure::internal(format!("the daemon (process {pid}) died: {end}"));
        let Some((estate, device)) = &mut self.estate else { return Next::End(Err(died)) };
        if fuse::has_ended(device) || self.leaves > 0 {
            return Next::End(self.give_up(died));
        }
        let now = self.context.clock.monotonic();
        self.crashes.retain(|&at| now < at + CRASHES_WITHIN);
        self.crashes.push_back(now);
        if self.crashes.len() > CRASHES_MAX {
            return Next::End(self.give_up(died.also(format!(
                "{CRASHES_MAX} others died within a minute before it: nobody takes the mount over"
            ))));
        }
        estate.adoptions += 1;
        tracing::error!(pid, %end, "the daemon died: another one takes the mount over");
        Next::TakeOver(None)
    }

    fn upgrade_failed(&mut self, why: &str) {
        tracing::error!(why, "the new program did not take the mount over: the old one does");
        if let Some((estate, _)) = &mut self.estate {
            estate.failed_upgrade = Some(why.to_owned());
        }
    }

    /// Nobody takes over.
    fn give_up(&mut self, failure: Failure) -> Outcome {
        let failure = match &self.estate {
            Some((estate, _)) => failure.also(format!(
                "programs in {} get errors; nothing that was written is lost: `dormouse mount` \
                 goes on; local data: {}",
                estate.connection.mountpoint.display(),
                estate.cache_dir.display()
            )),
            None => failure,
        };
        tracing::error!(code = failure.code.number(), "{failure}");
        self.let_go();
        Err(failure)
    }

    /// Ends the connection, if nothing else did.
    fn let_go(&mut self) {
        if let Some((estate, device)) = self.estate.take() {
            fuse::end_connection(&estate.connection, &device);
        }
    }
}

/// The daemon's own outcome; it has told why.
fn passed_on(code: i32) -> Outcome {
    match u8::try_from(code).map(Code::from_number) {
        Ok(Code::Ok) => Ok(()),
        code => Err(Failure::new(code.unwrap_or(Code::Internal), "see the daemon's log").said()),
    }
}

/// Collects what has ended; as a container's first process also what was left to it.
fn reap(daemon: Pid) -> Result<Option<End>, Errno> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == daemon => return Ok(Some(End::Code(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == daemon => {
                return Ok(Some(End::Killed(signal)));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
