//! A mount's life: made, served, ended from inside or outside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use parking_lot::{Condvar, Mutex};

use super::adapter::Adapter;
use super::count::{Counters, RequestCounts};
use super::device::{self, Device};
use super::error::FuseError;
use super::flight::InFlight;
use super::helper;
use super::mountinfo::{FS_TYPE, MountLine, mount_at};
use super::mountpoint;
use super::news::News;
use super::options::MountOptions;
use super::prime::Prime;
use super::read_ahead;
use super::watchdog::{Aborter, Watchdog};
use crate::fs::Filesystem;
use crate::types::Clock;

/// What a mount and its adapter share.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) counters: Arc<Counters>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) prime: Arc<Prime>,
    pub(super) news: Arc<News>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Parts {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Parts {
        Parts {
            counters: Arc::new(Counters::new()),
            in_flight: InFlight::new(Arc::clone(&clock)),
            prime: Arc::new(Prime::new()),
            news: Arc::default(),
            clock,
        }
    }
}

/// A live mount. Dropping it unmounts lazily and does not wait; better call
/// [`Mounted::unmount`], which tells what went wrong.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    mount: MountLine,
    by_helper: bool,
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
    let parts = Parts::new(clock);
    let adapter = Adapter::new(fs, options, parts.clone());
    mount_adapter(adapter, options, parts)
}

/// Mounts a filesystem that is not a workspace, with all that makes a workspace's mount fast: the
/// yardstick of `examples/null_fs`. Its `init` must call [`configure`](super::configure), and
/// its root must have a file [`first_open_name`](super::first_open_name). Requests are not
/// counted, and the watchdog sees none.
///
/// # Errors
/// As [`mount`].
pub fn mount_other<F: fuser::Filesystem>(
    filesystem: F,
    options: &MountOptions,
    clock: Arc<dyn Clock>,
) -> Result<Mounted, FuseError> {
    mount_adapter(filesystem, options, Parts::new(clock))
}

fn mount_adapter<F: fuser::Filesystem>(
    adapter: F,
    options: &MountOptions,
    parts: Parts,
) -> Result<Mounted, FuseError> {
    let mountpoint = mountpoint::check(&options.mountpoint, options.allow_nonempty)?;
    let device = device::mount(&mountpoint, options)?;
    let by_helper = device.by_helper;
    match serve(adapter, device, &mountpoint, options, parts) {
        Ok(mounted) => Ok(mounted),
        Err(error) => {
            // Nobody would ever answer what is mounted now.
            if let Err(left) = unmount(&mountpoint, by_helper, true) {
                tracing::error!(%left, "a mount that failed to start can't be taken away");
            }
            Err(error)
        }
    }
}

fn serve<F: fuser::Filesystem>(
    adapter: F,
    device: Device,
    mountpoint: &Path,
    options: &MountOptions,
    parts: Parts,
) -> Result<Mounted, FuseError> {
    let mount = mount_at(mountpoint)
        .map_err(|error| FuseError::io("reading /proc/self/mountinfo", error))?
        .filter(|line| line.fs_type == FS_TYPE)
        .ok_or_else(|| FuseError::io("finding the new mount", io::ErrorKind::NotFound.into()))?;
    let mut config = Config::default();
    // Who may enter is the kernel's to check (allow_other).
    config.acl = SessionACL::All;
    config.n_threads = Some(options.threads());
    config.clone_fd = options.clone_fd;
    let session = Session::from_fd(adapter, device.fd, SessionACL::All, config)
        .map_err(|error| FuseError::io("agreeing with the kernel on the mount", error))?;
    parts.news.open(session.notifier());
    if options.read_ahead_kib > 0 {
        read_ahead::set(&mount, options.read_ahead_kib);
    }
    let served = Arc::new(Served::default());
    spawn_session(session, Arc::clone(&served), Arc::clone(&parts.news))?;
    let aborter = Aborter::new(mountpoint, mount.minor);
    let watchdog = Watchdog::start(Arc::clone(&parts.in_flight), aborter, options.deadline)
        .map_err(|error| FuseError::io("starting the watchdog", error))?;
    if let Err(error) = helper::open_once(mountpoint, &mountpoint.join(parts.prime.name())) {
        tracing::warn!(%error, "the first open failed: files cost more until one is opened");
    }
    parts.prime.hide();
    tracing::info!(mountpoint = %mountpoint.display(), connection = mount.minor, "mounted");
    Ok(Mounted {
        mountpoint: mountpoint.to_owned(),
        mount,
        by_helper: device.by_helper,
        parts,
        served,
        watchdog: Mutex::new(Some(watchdog)),
    })
}

fn spawn_session<F: fuser::Filesystem>(
    session: Session<F>,
    served: Arc<Served>,
    news: Arc<News>,
) -> Result<(), FuseError> {
    let run = move || {
        // On an early end the last descriptor is closed, and the kernel answers for us.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| session.run())) {
            Ok(Ok(())) => tracing::info!("unmounted"),
            Ok(Err(error)) => tracing::error!(%error, "serving the mount ended early"),
            Err(_) => tracing::error!("serving the mount panicked"),
        }
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

    /// The connection's number: its directory in `/sys/fs/fuse/connections`.
    #[must_use]
    pub fn connection(&self) -> u32 {
        self.mount.minor
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

    /// Unmounts and waits until nothing is served any more; also takes a dead mount away. `lazy`
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
        if !lazy {
            self.wait();
        }
        Ok(())
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
            .abort()
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
