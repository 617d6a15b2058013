//! A mount's daemon: start, readiness, and the wishes it then waits for (signals, commands on
//! the control socket, an unmount from outside). How it leaves is in [`super::leave`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use sd_notify::NotifyState;

use super::allocator;
use super::args::LogArgs;
use super::context::Context;
use super::exit::{Failure, Outcome};
use super::facts::{self, MountFacts};
use super::keeper::{Estate, Inheritance, Keeper, Signals};
use super::leave::{self, Leaving};
use super::logging::{self, Log};
use super::settings::{MountSettings, View};
use super::signals;
use super::spawn::Report;
use super::throw_away;
use super::wiring::{self, Kept};
use crate::control::{self, Command, Event, Handlers, Process, Registration, Server};
use crate::fuse::Mounted;
use crate::types::{Clock, ConnectionId};
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
    /// The process that holds the mount when this one dies.
    pub keeper: Option<Keeper>,
    /// What was taken over from the daemon before.
    inherited: Option<Estate>,
    started: Duration,
    /// A signal broke a seal off: the daemon ends.
    interrupted: AtomicBool,
}

/// Starts the daemon in this process and returns when it has left. `kept` are the descriptors that
/// its keeper left to it.
pub fn run(
    context: &Context,
    settings: MountSettings,
    log: &LogArgs,
    kept: Option<&str>,
) -> Outcome {
    // Both before any other thread exists.
    allocator::bound();
    let set = signals::block()?;
    // Before anything else is opened.
    let kept = kept.map(Keeper::of_this_process).transpose()?;
    raise_open_files_max();
    let in_background = context.env.ready_on_stdout;
    let mut report = if in_background { Report::detach()? } else { Report::to_nobody() };
    let outcome = start_and_serve(context, (settings, kept), log, set, &mut report);
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
    (settings, kept): (MountSettings, Option<(Keeper, Option<Inheritance>)>),
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
    let (keeper, inheritance) = kept.unzip();
    let inheritance = inheritance.flatten();
    let heir = Heir { keeper, inheritance };
    let takes_over = heir.inheritance.is_some();
    let local = settings.workspace.clone();
    let started = start(context, (settings, heir), early.as_ref(), wishes);
    let daemon = Arc::new(started.inspect_err(|failure| {
        if !takes_over {
            throw_away::give_up(&local, failure);
        }
        if takes_over {
            // Nobody waits for this process to say so.
            tracing::error!(code = failure.code.number(), "can't take the mount over: {failure}");
        }
    })?);
    listen(&daemon, set, &wish)?;
    let server = match publish(context, &daemon, wish) {
        Ok(server) => server,
        Err(failure) => return Err(leave::undo(&daemon, failure)),
    };
    if let Err(failure) = say_ready(&daemon, report) {
        withdraw(context, &daemon);
        return Err(leave::undo(&daemon, failure));
    }
    throw_away::sweep(context, &daemon.settings.workspace);
    let left = leave::serve(&daemon);
    if left.is_handed_over {
        leave::hand_over(left, server, LAST_ANSWERS);
    }
    // The entry first: whoever reads the last answer finds nothing mounted here.
    withdraw(context, &daemon);
    let outcome = left.tell();
    server.finish(LAST_ANSWERS);
    match &outcome {
        Ok(()) => tracing::info!("left"),
        Err(failure) => tracing::error!(code = failure.code.number(), "{failure}"),
    }
    if outcome.is_ok() {
        throw_away::remove(&daemon.settings.workspace);
    }
    outcome
}

/// Who keeps the mount, and what there is to take over.
#[derive(Debug)]
struct Heir {
    keeper: Option<Keeper>,
    inheritance: Option<Inheritance>,
}

/// Takes over as what the mount was made: what a flag may do once must not be done again.
fn as_inherited(settings: &mut MountSettings, estate: &Estate) {
    let workspace = &mut settings.workspace;
    (workspace.create, workspace.steal, workspace.discard_local) = (false, false, false);
    workspace.cache_dir.clone_from(&estate.cache_dir);
    settings.mountpoint.clone_from(&estate.connection.mountpoint);
    if settings.workspace.read_only() {
        // What the first daemon showed is known in the cache directory.
        settings.workspace.view = View::Newest;
    }
}

/// Resumes, and mounts or takes over.
fn start(
    context: &Context,
    (mut settings, heir): (MountSettings, Heir),
    early: Option<&Log>,
    wishes: Receiver<Wish>,
) -> Outcome<Daemon> {
    let inherited = heir.inheritance.as_ref().map(|it| it.estate.clone());
    if let Some(estate) = &inherited {
        as_inherited(&mut settings, estate);
        if let Some(log) = early {
            logging::redirect(log, &estate.cache_dir)?;
        }
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workspace = %settings.workspace.name,
        store = %settings.workspace.store.url,
        mountpoint = %settings.mountpoint.display(),
        cache_dir = %settings.workspace.cache_dir.display(),
        cache_bytes = settings.workspace.cache_bytes,
        takes_over = inherited.is_some(),
        "starting"
    );
    let clock = Arc::clone(&context.clock);
    let started = clock.monotonic();
    let connection = heir.inheritance.as_ref().map(|it| ConnectionId(it.estate.connection.id));
    let kept = Kept { is_kept: heir.keeper.is_some(), connection };
    let workspace = Arc::new(wiring::resume(context, &settings.workspace, kept)?);
    // The directory is known to be ours only now.
    if let (Some(log), None) = (early, &inherited)
        && let Err(failure) = logging::redirect(log, &settings.workspace.cache_dir)
    {
        return Err(leave::close_after(&workspace, failure));
    }
    let Heir { keeper, inheritance } = heir;
    let mounted = match inheritance {
        Some(inheritance) => wiring::adopt(&workspace, &settings, Arc::clone(&clock), inheritance)
            // What was written before is to be taken up by the next mount, with its lease.
            .map_err(|failure| leave::close_after(&workspace, failure))?,
        None => wiring::mount(&workspace, &settings, Arc::clone(&clock), keeper.is_some())
            .map_err(|failure| leave::abandon(&workspace, &settings, failure))?,
    };
    let daemon = Daemon {
        workspace,
        mounted: Arc::new(mounted),
        settings,
        clock,
        wishes,
        keeper,
        inherited,
        started,
        interrupted: AtomicBool::new(false),
    };
    match daemon.inherited.is_some() {
        true => Ok(daemon),
        false => match leave_to_keeper(&daemon) {
            Ok(()) => Ok(daemon),
            Err(failure) => Err(leave::undo(&daemon, failure)),
        },
    }
}

/// Gives the keeper what another daemon needs, where one may take over.
fn leave_to_keeper(daemon: &Daemon) -> Outcome {
    let Some(keeper) = &daemon.keeper else { return Ok(()) };
    let connection = daemon.mounted.bequest();
    let connection =
        connection.map_err(|error| Failure::internal(format!("/dev/fuse: {error}")))?;
    let Some((connection, device)) = connection else { return Ok(()) };
    let estate = Estate {
        connection: connection.clone(),
        cache_dir: daemon.settings.workspace.cache_dir.clone(),
        adoptions: 0,
        failed_upgrade: None,
    };
    keeper.mounted(estate, &device)
}

/// Threads that turn signals and an unmount from outside into wishes.
fn listen(daemon: &Arc<Daemon>, set: nix::sys::signal::SigSet, wish: &Sender<Wish>) -> Outcome {
    let counted = Arc::new(Signals::default());
    let (send, count) = (wish.clone(), Arc::clone(&counted));
    signals::listen(set, move |signal| {
        tracing::info!(%signal, "signal");
        if count.one() {
            // A full queue holds signals already.
            drop(send.try_send(Wish::Signal));
        }
    })?;
    if let Some(keeper) = &daemon.keeper {
        let send = wish.clone();
        keeper.listen(move |count| {
            tracing::info!(count, "the keeper was signalled");
            if counted.keepers(count) {
                drop(send.try_send(Wish::Signal));
            }
        })?;
    }
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
    let own = Process::with_pid(std::process::id())
        .ok_or_else(|| Failure::internal("/proc is not mounted: it is needed"))?;
    let keeper = daemon.keeper.as_ref().filter(|keeper| keeper.holds());
    context.registry.register(&Registration {
        mountpoint: settings.mountpoint.clone(),
        pid: own.pid,
        start_ticks: own.start_ticks,
        socket,
        workspace: settings.workspace.name.to_string(),
        cache_dir: settings.workspace.cache_dir.clone(),
        store: settings.workspace.store.url.to_string(),
        store_flags: settings.workspace.store.to_flags(),
        read_only: settings.workspace.read_only(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keeper: keeper.and_then(|keeper| keeper.pid()).and_then(Process::with_pid),
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
    daemon.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    if let Some(keeper) = &daemon.keeper {
        keeper.ready();
    }
    tracing::info!("ready");
    Ok(())
}

impl Daemon {
    /// Tells a supervisor. Without one this does nothing.
    pub fn notify(&self, states: &[NotifyState<'_>]) {
        if let Some(keeper) = &self.keeper {
            let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
            return keeper.notify(lines.join("\n"));
        }
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }

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
            keeper_pid: self.keeper.as_ref().filter(|it| it.holds()).and_then(Keeper::pid),
            adoptions: self.inherited.as_ref().map_or(0, |estate| estate.adoptions),
            failed_upgrade: self.inherited.as_ref().and_then(|it| it.failed_upgrade.clone()),
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
