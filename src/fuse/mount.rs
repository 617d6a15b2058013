//! A mount's life: made, served, ended from inside or outside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fuser::{Config, SessionACL};
use parking_lot::{Condvar, Mutex};

use super::adapter::Adapter;
use super::count::{Counters, RequestCounts};
use super::device::{self, Device};
use super::direct;
use super::error::FuseError;
use super::flight::InFlight;
use super::governor::{Governor, Requests};
use super::helper;
use super::kept::{self, Connection};
use super::mountinfo::{FS_TYPE, MountLine, mount_at};
use super::mountpoint;
use super::news::News;
use super::operations::Operations;
use super::options::{MountOptions, Scheduling, Transport, TransportChoice};
use super::prime::Prime;
use super::read_ahead;
use super::uring::{self, Plan};
use super::watchdog::{Aborter, Watchdog};
use crate::fs::Filesystem;
use crate::types::{Clock, ConnectionId, ThreadId};

/// An unmount ends the mount at once. If it lives after this, it is mounted elsewhere, too.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a mount and its adapter share.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) counters: Arc<Counters>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) prime: Arc<Prime>,
    pub(super) news: Arc<News>,
    pub(super) governor: Arc<Governor>,
    pub(super) clock: Arc<dyn Clock>,
    /// Where another daemon may take over.
    pub(super) connection: Option<ConnectionId>,
    /// No answer is given any more: another daemon will.
    pub(super) is_held: Arc<AtomicBool>,
}

impl Parts {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Parts {
        Parts {
            counters: Arc::new(Counters::new()),
            in_flight: InFlight::new(Arc::clone(&clock)),
            prime: Arc::new(Prime::new()),
            news: Arc::default(),
            governor: Arc::default(),
            clock,
            connection: None,
            is_held: Arc::default(),
        }
    }

    fn kept(self, connection: ConnectionId) -> Parts {
        Parts { connection: Some(connection), ..self }
    }
}

/// A live mount. Dropping it unmounts lazily and does not wait; better call
/// [`Mounted::unmount`], which tells what went wrong.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    transport: Transport,
    mount: MountLine,
    by_helper: bool,
    /// What another daemon needs to take it over.
    bequest: Option<Connection>,
    parts: Parts,
    served: Arc<Served>,
    watchdog: Mutex<Option<Watchdog>>,
}

/// Whether the serving threads are gone. Lock order: a leaf.
#[derive(Debug, Default)]
struct Served {
    has_ended: Mutex<bool>,
    ended: Condvar,
}

/// Mounts `fs` and serves it in the background; returns when the mount is usable.
///
/// `clock` must be the filesystem's own: deadlines are times of its monotonic hand. Mounting
/// and unmounting start short-lived child processes and wait for them.
///
/// # Errors
/// The mountpoint does not suit, or the kernel refuses; nothing stays mounted.
pub fn mount(
    fs: Arc<Filesystem>,
    options: &MountOptions,
    clock: Arc<dyn Clock>,
) -> Result<Mounted, FuseError> {
    let mountpoint = mountpoint::check(&options.mountpoint, options.allow_nonempty)?;
    let try_mount = |over| {
        let parts = Parts::new(Arc::clone(&clock));
        let parts = match over {
            Choice::Kept(connection) => parts.kept(connection),
            Choice::Uring(_) | Choice::Device => parts,
        };
        let operations = Operations::new(Arc::clone(&fs), options, parts.clone());
        let over = match over {
            Choice::Uring(plan) => Over::Uring(plan, Box::new(operations.with_reads_apart())),
            Choice::Kept(_) => Over::Kept(Box::new(operations)),
            Choice::Device => Over::Device(Adapter::new(operations, options)),
        };
        mount_once(over, &mountpoint, options, parts)
    };
    let by_device = || match options.keep {
        Some(connection) => try_mount(Choice::Kept(connection)),
        None => try_mount(Choice::Device),
    };
    let no_uring = match (options.transport, Plan::new(options)) {
        (TransportChoice::Device, _) => return by_device(),
        (TransportChoice::Uring, plan) => {
            return try_mount(Choice::Uring(plan.map_err(FuseError::NoUring)?));
        }
        (TransportChoice::Auto, Err(reason)) => reason,
        (TransportChoice::Auto, Ok(plan)) => match try_mount(Choice::Uring(plan)) {
            Err(FuseError::NoUring(reason)) => reason,
            mounted => return mounted,
        },
    };
    tracing::info!(reason = %no_uring, "mounting over /dev/fuse, without io_uring");
    by_device()
}

/// Takes over a mount whose daemon has died, and serves it in the background. `fs` must be that
/// daemon's, recovered for this connection.
///
/// # Errors
/// The mount has ended, or threads can't be started. Whoever called must end the connection: its
/// requests have no other answer.
pub fn adopt(
    fs: Arc<Filesystem>,
    options: &MountOptions,
    clock: Arc<dyn Clock>,
    (connection, device): (&Connection, OwnedFd),
) -> Result<Mounted, FuseError> {
    if direct::has_ended(&device) {
        return Err(FuseError::Ended(connection.mountpoint.clone()));
    }
    let parts = Parts::new(clock).kept(ConnectionId(connection.id));
    let operations = Operations::new(fs, options, parts.clone());
    let mount = connection.mount_line();
    let aborter = Aborter::new(&mount.mountpoint, mount.minor);
    let bytes = connection.write_bytes_max;
    let session = kept::Session::adopt(device, operations, options, &aborter, bytes);
    let requests = session.device().try_clone().map(|fd| vec![Requests::Device(fd)]);
    govern(&parts.governor, requests, options.threads(), options);
    // The kernel knows since the first daemon that nothing is opened.
    parts.prime.hide();
    let session: Session<Adapter> = Session::Kept(Box::new(session));
    serve(session, (mount, connection.by_helper), options, parts)
}

/// Ends a connection that nobody can take over: whoever waits inside gets an error. The dead mount
/// stays in the table, as that of a daemon that died.
pub fn end_connection(connection: &Connection, device: &OwnedFd) {
    if let Err(error) = helper::abort(connection.minor, device) {
        // Closing the last descriptor does the same.
        tracing::debug!(%error, "no fusectl");
    }
}

/// Whether the connection behind a descriptor of `/dev/fuse` has ended.
#[must_use]
pub fn has_ended(device: &OwnedFd) -> bool {
    direct::has_ended(device)
}

/// Whether a mount with these options would come to use io_uring, as far as can be seen before.
#[must_use]
pub fn offers_uring(options: &MountOptions) -> bool {
    Plan::new(options).is_ok()
}

/// How a mount is to be made.
enum Choice {
    Uring(Plan),
    Kept(ConnectionId),
    Device,
}

/// Has the thread that calls it governed like a workspace's serving threads.
#[derive(Debug, Clone)]
pub struct Enlist(Arc<Governor>);

impl Enlist {
    /// To be called by each serving thread, as often as it likes.
    pub fn here(&self) {
        self.0.enlist();
    }
}

/// Mounts a filesystem that is not a workspace over `/dev/fuse`, with all that makes a workspace's
/// mount fast: the yardstick of `examples/null_fs`. Its `init` must call
/// [`configure`](super::configure), and its root must have a file
/// [`first_open_name`](super::first_open_name). Requests are not counted, and the watchdog sees
/// none.
///
/// # Errors
/// As [`mount`].
pub fn mount_other<F: fuser::Filesystem + Send + 'static>(
    make: impl FnOnce(Enlist) -> F,
    options: &MountOptions,
    clock: Arc<dyn Clock>,
) -> Result<Mounted, FuseError> {
    let mountpoint = mountpoint::check(&options.mountpoint, options.allow_nonempty)?;
    let parts = Parts::new(clock);
    let filesystem = make(Enlist(Arc::clone(&parts.governor)));
    mount_once(Over::Device(filesystem), &mountpoint, options, parts)
}

/// What is mounted, over which transport.
enum Over<F> {
    Uring(Plan, Box<Operations>),
    Kept(Box<Operations>),
    Device(F),
}

/// Mounts over one transport.
fn mount_once<F: fuser::Filesystem + Send + 'static>(
    over: Over<F>,
    mountpoint: &Path,
    options: &MountOptions,
    parts: Parts,
) -> Result<Mounted, FuseError> {
    let Device { fd, by_helper } = device::mount(mountpoint, options)?;
    let served = begin(mountpoint, options, |aborter| match over {
        Over::Uring(plan, operations) => {
            let session = uring::Session::start(plan, fd, *operations, options, aborter)
                .map_err(FuseError::NoUring)?;
            let workers = session.workers();
            govern(&parts.governor, session.requests(), workers.len(), options);
            workers.iter().for_each(|&(thread, core)| parts.governor.enlist_on(thread, core));
            Ok(Session::Uring(Box::new(session)))
        }
        Over::Kept(operations) => {
            let session = kept::Session::agree(fd, *operations, options, aborter)?;
            let requests = session.device().try_clone().map(|fd| vec![Requests::Device(fd)]);
            govern(&parts.governor, requests, options.threads(), options);
            Ok(Session::Kept(Box::new(session)))
        }
        Over::Device(filesystem) => {
            let mut config = Config::default();
            // Who may enter is the kernel's to check (allow_other).
            config.acl = SessionACL::All;
            config.n_threads = Some(options.threads());
            config.clone_fd = options.clone_fd;
            let requests = fd.try_clone().map(|fd| vec![Requests::Device(fd)]);
            govern(&parts.governor, requests, options.threads(), options);
            fuser::Session::from_fd(filesystem, fd, SessionACL::All, config)
                .map(|session| Session::Fuser(Box::new(session)))
                .map_err(|error| FuseError::io("agreeing with the kernel on the mount", error))
        }
    });
    let prime = Arc::clone(&parts.prime);
    let begin_serving = |(session, mount)| {
        let mounted = serve(session, (mount, by_helper), options, parts)?;
        open_first(&mounted.mountpoint, &prime);
        Ok(mounted)
    };
    match served.and_then(begin_serving) {
        Ok(mounted) => Ok(mounted),
        Err(error) => {
            // Nobody would ever answer what is mounted now.
            if let Err(left) = unmount(mountpoint, by_helper, true) {
                tracing::error!(%left, "a mount that failed to start can't be taken away");
            }
            Err(error)
        }
    }
}

/// A connection that was agreed on, over either transport.
enum Session<F: fuser::Filesystem> {
    Fuser(Box<fuser::Session<F>>),
    Uring(Box<uring::Session>),
    Kept(Box<kept::Session>),
}

impl<F: fuser::Filesystem> Session<F> {
    fn transport(&self) -> Transport {
        match self {
            Session::Fuser(_) | Session::Kept(_) => Transport::Device,
            Session::Uring(_) => Transport::Uring,
        }
    }

    fn device(&self) -> BorrowedFd<'_> {
        match self {
            Session::Fuser(session) => session.as_fd(),
            Session::Uring(session) => session.device().as_fd(),
            Session::Kept(session) => session.device().as_fd(),
        }
    }

    /// Serves until the connection ends.
    fn run(self) -> io::Result<()> {
        match self {
            Session::Fuser(session) => session.run(),
            Session::Uring(session) => session.run(),
            Session::Kept(session) => session.run(),
        }
    }

    /// The largest write that was agreed on, of a connection that may be taken over.
    fn kept_write_bytes(&self) -> Option<u32> {
        match self {
            Session::Fuser(_) | Session::Uring(_) => None,
            Session::Kept(session) => Some(session.write_bytes_max()),
        }
    }
}

/// Finds the new mount in the table and makes the agreement with the kernel.
fn begin<F: fuser::Filesystem>(
    mountpoint: &Path,
    options: &MountOptions,
    agree: impl FnOnce(&Aborter) -> Result<Session<F>, FuseError>,
) -> Result<(Session<F>, MountLine), FuseError> {
    let mount = mount_at(mountpoint)
        .map_err(|error| FuseError::io("reading /proc/self/mountinfo", error))?
        .filter(|line| line.fs_type == FS_TYPE)
        .ok_or_else(|| FuseError::io("finding the new mount", io::ErrorKind::NotFound.into()))?;
    let session = agree(&Aborter::new(mountpoint, mount.minor))?;
    if options.read_ahead_kib > 0 {
        read_ahead::set(&mount, options.read_ahead_kib);
    }
    Ok((session, mount))
}

fn serve<F: fuser::Filesystem + Send + 'static>(
    session: Session<F>,
    (mount, by_helper): (MountLine, bool),
    options: &MountOptions,
    parts: Parts,
) -> Result<Mounted, FuseError> {
    let (mountpoint, transport) = (mount.mountpoint.clone(), session.transport());
    parts.news.open(session.device()).map_err(|error| FuseError::io("opening a way", error))?;
    let kept = parts.connection.zip(session.kept_write_bytes());
    let bequest = kept.map(|(id, bytes)| Connection::new(id, &mount, by_helper, bytes));
    let served = Arc::new(Served::default());
    spawn_session(session, Arc::clone(&served), &parts)?;
    let ending = (Aborter::new(&mountpoint, mount.minor), Arc::clone(&parts.news));
    let watchdog = Watchdog::start(Arc::clone(&parts.in_flight), ending, options.deadline)
        .map_err(|error| FuseError::io("starting the watchdog", error))?;
    let (shown, connection) = (mountpoint.display(), mount.minor);
    tracing::info!(mountpoint = %shown, connection, %transport, "mounted");
    Ok(Mounted {
        mountpoint,
        transport,
        mount,
        by_helper,
        bequest,
        parts,
        served,
        watchdog: Mutex::new(Some(watchdog)),
    })
}

/// Makes the first open of a new mount.
fn open_first(mountpoint: &Path, prime: &Prime) {
    if let Err(error) = helper::open_once(mountpoint, &mountpoint.join(prime.name())) {
        tracing::warn!(%error, "the first open failed: files cost more until one is opened");
    }
    prime.hide();
}

/// Has the serving threads yield to everybody, where that is permitted. `requests` tell that
/// there are some.
fn govern(
    governor: &Governor,
    requests: io::Result<Vec<Requests>>,
    workers: usize,
    options: &MountOptions,
) {
    if options.scheduling != Scheduling::Auto {
        return;
    }
    if let Err(error) = requests.and_then(|requests| governor.start(requests, workers)) {
        tracing::info!(%error, "serving threads are scheduled like any others");
    }
}

fn spawn_session<F: fuser::Filesystem + Send + 'static>(
    session: Session<F>,
    served: Arc<Served>,
    parts: &Parts,
) -> Result<(), FuseError> {
    let (news, governor) = (Arc::clone(&parts.news), Arc::clone(&parts.governor));
    let run = move || {
        // On an early end the last descriptor is closed, by the governor, and the kernel answers
        // for us.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| session.run())) {
            Ok(Ok(())) => tracing::info!("unmounted"),
            Ok(Err(error)) => tracing::error!(%error, "serving the mount ended early"),
            Err(_) => tracing::error!("serving the mount panicked"),
        }
        governor.stop();
        news.close();
        *served.has_ended.lock() = true;
        served.ended.notify_all();
    };
    let thread = thread::Builder::new().name("dormouse-fuse".to_owned()).spawn(run);
    thread.map(drop).map_err(|error| FuseError::io("starting the serving threads", error))
}

fn unmount(mountpoint: &Path, by_helper: bool, lazy: bool) -> Result<(), FuseError> {
    if by_helper {
        return device::unmount_by_helper(mountpoint, lazy);
    }
    let flags = if lazy { libc::MNT_DETACH } else { 0 };
    helper::unmount(mountpoint, flags).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => FuseError::Busy(mountpoint.to_owned()),
        _ => FuseError::io(format!("unmounting {}", mountpoint.display()), error),
    })
}

/// Takes away what a daemon that died left mounted at `mountpoint`. Nothing there, something
/// else, or a mount that still has its daemon is left alone and is no error.
pub fn detach_dead(mountpoint: &Path) -> Result<(), FuseError> {
    let there = mount_at(mountpoint)
        .map_err(|error| FuseError::io("reading /proc/self/mountinfo", error))?;
    match there {
        Some(line) if line.fs_type == FS_TYPE && helper::is_disconnected(mountpoint) => {
            unmount(mountpoint, !nix::unistd::geteuid().is_root(), true)
        }
        _ => Ok(()),
    }
}

impl Mounted {
    /// Where it is mounted, absolute.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// How requests come from the kernel.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The connection's number: its directory in `/sys/fs/fuse/connections`.
    #[must_use]
    pub fn connection(&self) -> u32 {
        self.mount.minor
    }

    /// What another daemon needs to take the mount over, where it may: what is known of the
    /// connection, and a descriptor of it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn bequest(&self) -> io::Result<Option<(&Connection, OwnedFd)>> {
        let device = self.parts.news.device().map(|device| device.try_clone()).transpose()?;
        Ok(self.bequest.as_ref().zip(device))
    }

    /// Gives no answer any more, since this process is about to end and another daemon will: the
    /// kernel sends again what has none. Only for a mount that has a [`Mounted::bequest`].
    pub fn hold(&self) {
        self.parts.is_held.store(true, Ordering::SeqCst);
    }

    /// Requests up to now.
    #[must_use]
    pub fn request_counts(&self) -> RequestCounts {
        self.parts.counters.read()
    }

    /// Requests that were read and not yet answered.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.parts.in_flight.len()
    }

    /// The threads that serve the kernel and have served a request.
    #[must_use]
    pub fn serving_threads(&self) -> Vec<ThreadId> {
        self.parts.governor.threads()
    }

    /// How often a serving thread was found starving beside busy programs, and cured.
    #[must_use]
    pub fn promotions(&self) -> u64 {
        self.parts.governor.promotions()
    }

    /// Unmounts and waits until nothing is served any more, in other mount namespaces neither; also
    /// takes a dead mount away. `lazy`
    /// takes the mount out of sight at once, and returns while processes that are inside go on
    /// using it.
    ///
    /// # Errors
    /// `Busy`: something inside is open and `lazy` is false; the mount lives on. It is no error
    /// that somebody else unmounted it before.
    pub fn unmount(&self, lazy: bool) -> Result<(), FuseError> {
        if !self.is_in_table()? {
            return Ok(());
        }
        unmount(&self.mountpoint, self.by_helper, lazy)?;
        if !lazy && !self.has_ended_within(END_PATIENCE) {
            // Else what still runs waits for the store, and ends by its deadline.
            if self.is_connected() {
                // Not in use here, but a mount namespace that was made after the mount has it, too,
                // and may have it for ever.
                tracing::warn!(
                    "another mount namespace (a container's, a service's) has the mount as well: \
                     whoever is in there gets errors now"
                );
                self.abort()?;
            }
            self.wait();
        }
        Ok(())
    }

    /// Whether the kernel may still send requests.
    fn is_connected(&self) -> bool {
        self.parts.news.device().is_some_and(|device| !direct::has_ended(&device))
    }

    fn has_ended_within(&self, patience: Duration) -> bool {
        let mut has_ended = self.served.has_ended.lock();
        let is_alive = |has_ended: &mut bool| !*has_ended;
        !self.served.ended.wait_while_for(&mut has_ended, is_alive, patience).timed_out()
    }

    /// Has the kernel hand over what programs have changed in memory only (shared mappings, a
    /// write-back cache), and waits for it.
    ///
    /// # Errors
    /// It took longer than `deadline`, or a page was refused.
    pub fn flush(&self, deadline: Duration) -> Result<(), FuseError> {
        let millis = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        helper::sync(&self.mountpoint, millis)
            .map_err(|error| FuseError::io(format!("syncing {}", self.mountpoint.display()), error))
    }

    /// Waits until the mount has ended, by [`Mounted::unmount`], by `umount` from outside or by
    /// an abort, and the last request is answered. May be called by any number of threads.
    pub fn wait(&self) {
        let mut has_ended = self.served.has_ended.lock();
        while !*has_ended {
            self.served.ended.wait(&mut has_ended);
        }
    }

    /// Whether the mount has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.served.has_ended.lock()
    }

    /// Ends the connection at once: whoever waits inside gets an error, also for what it had
    /// not been told was written. The dead mount stays in the table until it is unmounted.
    ///
    /// # Errors
    /// Neither fusectl nor a forced unmount is allowed.
    pub fn abort(&self) -> Result<(), FuseError> {
        Aborter::new(&self.mountpoint, self.mount.minor)
            .abort_served(&self.parts.news)
            .map_err(|error| FuseError::io("aborting the mount", error))
    }

    /// Whether what lies at our path is this mount: by its device, since another may have been
    /// made there after ours was taken away.
    fn is_in_table(&self) -> Result<bool, FuseError> {
        let top = mount_at(&self.mountpoint)
            .map_err(|error| FuseError::io("reading /proc/self/mountinfo", error))?;
        Ok(top.is_some_and(|line| line == self.mount))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(true) {
            tracing::error!(%error, "the mount could not be taken away");
        }
        self.watchdog.lock().take();
    }
}
