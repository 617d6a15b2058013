//! A mount's daemon: start, readiness, and the wishes it then waits for (signals, commands on
//! the control socket, an unmount from outside). How it leaves is in [`super::leave`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use sd_notify::NotifyState;

use super::args::LogArgs;
use super::context::Context;
use super::exit::{Failure, Outcome};
use super::facts::{self, MountFacts};
use super::leave::{self, Leaving};
use super::logging::{self, Log};
use super::settings::MountSettings;
use super::signals;
use super::spawn::Report;
use super::wiring;
use crate::control::{self, Command, Event, Handlers, Registration, Server, process_start_ticks};
use crate::fuse::Mounted;
use crate::types::Clock;
use crate::workspace::Workspace;

/// Wishes waiting while one is carried out; more are refused.
const WISHES_MAX: usize = 64;

/// How long the last answers on the control socket may take to be read.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// What the daemon waits for.
#[derive(Debug)]
pub enum Wish {
    /// A signal that means: leave.
    Signal,
    /// The mount ended from outside (`umount`).
    Unmounted,
    /// A command of the control socket; events go to the sender.
    Command(Command, Sender<Event>),
}

/// A running mount and all that belongs to it.
#[derive(Debug)]
pub struct Daemon {
    /// What is mounted.
    pub workspace: Arc<Workspace>,
    /// The mount.
    pub mounted: Arc<Mounted>,
    /// As it was asked for.
    pub settings: MountSettings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is waited for.
    pub wishes: Receiver<Wish>,
    started: Duration,
    /// A signal broke a seal off: the daemon ends.
    interrupted: AtomicBool,
}

/// Starts the daemon in this process and returns when it has left.
pub fn run(context: &Context, settings: MountSettings, log: &LogArgs) -> Outcome {
    // Before any other thread exists.
    let set = signals::block()?;
    raise_open_files_max();
    let in_background = context.env.ready_on_stdout;
    let mut report = if in_background { Report::detach()? } else { Report::to_nobody() };
    let outcome = start_and_serve(context, settings, log, set, &mut report);
    match outcome {
        Err(failure) if report.failed(&failure) => Err(failure.said()),
        outcome => outcome,
    }
}

/// Lets this process open as many files as it may: each journal segment and cache file stays
/// open, some 64 MiB of local data each, and the usual limit of 1,024 is made for `select`.
fn raise_open_files_max() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

fn start_and_serve(
    context: &Context,
    settings: MountSettings,
    log: &LogArgs,
    set: nix::sys::signal::SigSet,
    report: &mut Report,
) -> Outcome {
    let early = match context.env.ready_on_stdout {
        true => Some(logging::start_early(log, "info")?),
        false => {
            logging::start(log, "info")?;
            None
        }
    };
    let (wish, wishes) = crossbeam_channel::bounded(WISHES_MAX);
    let daemon = Arc::new(start(context, settings, early.as_ref(), wishes)?);
    listen(&daemon, set, &wish)?;
    let server = match publish(context, &daemon, wish) {
        Ok(server) => server,
        Err(failure) => return Err(leave::undo(&daemon, failure)),
    };
    if let Err(failure) = say_ready(&daemon, report) {
        withdraw(context, &daemon);
        return Err(leave::undo(&daemon, failure));
    }
    let left = leave::serve(&daemon);
    // The entry first: whoever reads the last answer finds nothing mounted here.
    withdraw(context, &daemon);
    let outcome = left.tell();
    server.finish(LAST_ANSWERS);
    match &outcome {
        Ok(()) => tracing::info!("left"),
        Err(failure) => tracing::error!(code = failure.code.number(), "{failure}"),
    }
    outcome
}

/// Resumes and mounts.
fn start(
    context: &Context,
    settings: MountSettings,
    early: Option<&Log>,
    wishes: Receiver<Wish>,
) -> Outcome<Daemon> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workspace = %settings.workspace.name,
        store = %settings.workspace.store.url,
        mountpoint = %settings.mountpoint.display(),
        cache_dir = %settings.workspace.cache_dir.display(),
        cache_bytes = settings.workspace.cache_bytes,
        "starting"
    );
    let clock = Arc::clone(&context.clock);
    let started = clock.monotonic();
    let workspace = Arc::new(wiring::resume(context, &settings.workspace)?);
    // The directory is known to be ours only now.
    if let Some(log) = early
        && let Err(failure) = redirect(log, &settings.workspace.cache_dir)
    {
        return Err(leave::close_after(&workspace, failure));
    }
    match wiring::mount(&workspace, &settings, Arc::clone(&clock)) {
        Ok(mounted) => {
            let mounted = Arc::new(mounted);
            let interrupted = AtomicBool::new(false);
            Ok(Daemon { workspace, mounted, settings, clock, wishes, started, interrupted })
        }
        Err(failure) => Err(leave::abandon(&workspace, &settings, failure)),
    }
}

/// The log goes to the cache directory, and so does what libraries print.
fn redirect(log: &Log, dir: &std::path::Path) -> Outcome {
    let path = log.move_to(dir)?;
    let failed = |error: std::io::Error| Failure::internal(format!("standard error: {error}"));
    let file = std::fs::OpenOptions::new().append(true).open(path).map_err(failed)?;
    nix::unistd::dup2_stderr(&file).map_err(|error| failed(error.into()))
}

/// Threads that turn signals and an unmount from outside into wishes.
fn listen(daemon: &Arc<Daemon>, set: nix::sys::signal::SigSet, wish: &Sender<Wish>) -> Outcome {
    let send = wish.clone();
    signals::listen(set, move |signal| {
        tracing::info!(%signal, "signal");
        // A full queue holds signals already.
        drop(send.try_send(Wish::Signal));
    })?;
    let (mounted, send) = (Arc::clone(&daemon.mounted), wish.clone());
    let wait = move || {
        mounted.wait();
        drop(send.send(Wish::Unmounted));
    };
    let waiting = thread::Builder::new().name("unmount-watch".into()).spawn(wait);
    waiting.map(drop).map_err(|error| Failure::internal(format!("starting a thread: {error}")))
}

/// Opens the control socket and enters the mount into the registry.
fn publish(context: &Context, daemon: &Arc<Daemon>, wish: Sender<Wish>) -> Outcome<Server> {
    let settings = &daemon.settings;
    let socket = context.registry.socket_path(&settings.mountpoint);
    context.registry.prepare()?;
    let server = control::serve(&socket, handlers(daemon, wish))
        .map_err(|error| Failure::internal(format!("{}: {error}", socket.display())))?;
    let pid = std::process::id();
    let start_ticks = process_start_ticks(pid)
        .ok_or_else(|| Failure::internal("/proc is not mounted: it is needed"))?;
    context.registry.register(&Registration {
        mountpoint: settings.mountpoint.clone(),
        pid,
        start_ticks,
        socket,
        workspace: settings.workspace.name.to_string(),
        cache_dir: settings.workspace.cache_dir.clone(),
        store: settings.workspace.store.url.to_string(),
        store_flags: settings.workspace.store.to_flags(),
        read_only: settings.workspace.read_only(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })?;
    Ok(server)
}

fn withdraw(context: &Context, daemon: &Daemon) {
    if let Err(error) = context.registry.unregister(&daemon.settings.mountpoint) {
        tracing::warn!(%error, "the registry keeps a stale entry");
    }
}

fn say_ready(daemon: &Daemon, report: &mut Report) -> Outcome {
    let facts = serde_json::to_value(daemon.facts()).map_err(Failure::internal)?;
    report.ready(&facts)?;
    let settings = &daemon.settings;
    let status = format!("{} at {}", settings.workspace.name, settings.mountpoint.display());
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tracing::info!("ready");
    Ok(())
}

/// Tells a supervisor. Without one this does nothing.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

impl Daemon {
    /// Whether a signal broke a seal off.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// A signal breaks the seal off.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// What `status` shows.
    #[must_use]
    pub fn facts(&self) -> MountFacts {
        let settings = &self.settings;
        MountFacts {
            mountpoint: settings.mountpoint.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_url: settings.workspace.store.url.to_string(),
            cache_dir: PathBuf::from(&settings.workspace.cache_dir),
            transport: self.mounted.transport().to_string(),
            uptime_secs: self.clock.monotonic().saturating_sub(self.started).as_secs(),
            fuse_requests: self.mounted.request_counts().total(),
            promotions: self.mounted.promotions(),
            status: self.workspace.status(),
        }
    }
}

fn handlers(daemon: &Arc<Daemon>, wish: Sender<Wish>) -> Handlers {
    let for_status = Arc::clone(daemon);
    let for_metrics = Arc::clone(daemon);
    let for_commands = Arc::clone(daemon);
    Handlers {
        status: Box::new(move || {
            serde_json::to_value(for_status.facts()).unwrap_or(serde_json::Value::Null)
        }),
        metrics: Box::new(move || control::render(facts::metrics(&for_metrics.facts()))),
        run: Box::new(move |command, report| match command {
            // Beside the others: it does not end the mount.
            Command::Checkpoint => leave::checkpoint(&for_commands, report),
            Command::Evict => leave::evict(&for_commands, report),
            command => ask(&wish, command, report),
        }),
    }
}

/// Has the daemon's main thread carry the command out, and passes its events on.
fn ask(wish: &Sender<Wish>, command: Command, report: &mut dyn FnMut(Event)) {
    let (events, coming) = crossbeam_channel::unbounded();
    if wish.try_send(Wish::Command(command, events)).is_err() {
        let failure = Failure::internal("the daemon is ending or has too many commands waiting");
        report(Event::Failed(failure.to_refusal()));
        return;
    }
    for event in coming {
        report(event);
    }
}

/// What is left to say when the daemon has left.
impl Leaving {
    /// Tells who asked, and gives the process's own outcome.
    pub fn tell(self) -> Outcome {
        if let Some((asked, event)) = self.answer {
            // Who asked may have gone away; what was done is done.
            drop(asked.send(event));
        }
        self.outcome
    }
}
