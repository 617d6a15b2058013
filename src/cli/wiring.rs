//! The only place that builds across layers: a store's client, a workspace, a mount.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::args::{KeeperArg, TransportArg};
use super::context::Context;
use super::exit::{Code, Failure, Outcome};
use super::keeper::Inheritance;
use super::settings::{MountSettings, StoreSettings, View, WorkspaceSettings};
use crate::control::{Liveness, Registration, process_start_ticks};
use crate::fuse::{self, FuseError, MountOptions, Mounted, TransportChoice};
use crate::local::{self, LocalError};
use crate::remote::Remote;
use crate::types::{Clock, ConnectionId};
use crate::workspace::{ResumeOptions, Store, Workspace, WorkspaceError};

/// How long a killed owner of a cache directory may take to let go of it: its threads end one by
/// one, and the last one closes the lock.
const DYING_OWNER: Duration = Duration::from_secs(5);
const DYING_OWNER_POLL: Duration = Duration::from_millis(10);

/// A client of the store that settings name. Makes no request.
pub fn open_remote(context: &Context, settings: &StoreSettings) -> Outcome<Arc<Remote>> {
    let clock = Arc::clone(&context.clock);
    Ok(Remote::open(&settings.url, &settings.remote, clock)?)
}

/// How a mount outlives its daemon.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// Another daemon may take it over.
    pub is_kept: bool,
    /// It is taken over.
    pub connection: Option<ConnectionId>,
}

/// Resumes the workspace: the lease is taken unless it is only looked at.
pub fn resume(context: &Context, settings: &WorkspaceSettings, kept: Kept) -> Outcome<Workspace> {
    let remote = open_remote(context, &settings.store)?;
    make_private(&settings.cache_dir)?;
    let mut options = ResumeOptions::new(settings.name.clone(), settings.cache_dir.clone());
    options.host = context.env.host.clone();
    options.create = settings.create;
    options.lease_ttl = settings.lease_ttl;
    options.steal = settings.steal;
    options.discard_local = settings.discard_local;
    options.root_owner = (context.env.uid, context.env.gid);
    options.fetch_timeout = settings.store.remote.deadline;
    options.local.connection = kept.connection;
    options.keeps_head = kept.is_kept;
    options.local.cache_bytes_max = settings.cache_bytes;
    options.upkeep.checkpoint_interval = settings.checkpoint_interval;
    options.upkeep.unsynced_bytes_max = settings.unsynced_bytes_max;
    if let Some(percent) = settings.settle_cpu_percent {
        options.upkeep.settle_cpu_percent = percent;
    }
    if let Some(bytes) = settings.hot_bytes_max {
        options.upkeep.hot_bytes_max = bytes;
    }
    if let Some(age) = settings.unsynced_age_max {
        options.upkeep.unsynced_age_max = age;
    }
    match &settings.view {
        View::Writer => {}
        View::Newest => options.read_only = true,
        View::At(text) => {
            let store = Store::open(Arc::clone(&remote))?;
            options.at = Some(store.find_snapshot(&settings.name, text)?);
        }
    }
    let until = context.clock.monotonic() + DYING_OWNER;
    loop {
        match Workspace::resume(Arc::clone(&remote), Arc::clone(&context.clock), &options) {
            Err(WorkspaceError::Local(LocalError::Locked { pid, .. }))
                if process_start_ticks(pid).is_none() && context.clock.monotonic() < until =>
            {
                std::thread::sleep(DYING_OWNER_POLL);
            }
            Err(error) => return Err(refused(context, settings, error)),
            Ok(workspace) => return Ok(workspace),
        }
    }
}

/// Why the workspace can't be had; of a lease that this machine has, where to give it back.
fn refused(context: &Context, settings: &WorkspaceSettings, error: WorkspaceError) -> Failure {
    let (host, holder) = match &error {
        WorkspaceError::LeaseHeld { host, holder, .. } => (host.clone(), *holder),
        _ => return error.into(),
    };
    let failure = Failure::from(error);
    // Names of machines may be the same; this is not.
    let is_holder = |entry: &Registration| {
        entry.workspace == settings.name.as_str()
            && holder.is_some()
            && local::id_of(&entry.cache_dir) == holder
    };
    let all = context.registry.list().unwrap_or_default();
    match all.into_iter().find(|(entry, _)| is_holder(entry)) {
        Some((entry, Liveness::Running)) => failure.hint(format!(
            "it is mounted at {0} on this machine (process {1}): `dormouse hibernate {0}` first",
            entry.mountpoint.display(),
            entry.pid
        )),
        Some((entry, Liveness::Stale)) => failure.hint(format!(
            "its daemon on this machine (process {}) has died, what it had is in {}: `dormouse \
             hibernate {}` puts it into the store first",
            entry.pid,
            entry.cache_dir.display(),
            entry.mountpoint.display()
        )),
        _ if host == context.env.host => failure.also(
            "this machine is called so too: if its local data is in another place here, give \
             --cache-dir or --cache-root as before",
        ),
        _ => failure,
    }
}

/// Makes the cache directory for its owner only: it holds what is in the workspace, whatever the
/// permissions there. One that exists is its owner's business.
fn make_private(dir: &Path) -> Outcome {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| {
        let failure = Failure::usage(format!("the cache directory {}: {error}", dir.display()));
        match error.kind() {
            ErrorKind::StorageFull => Failure { code: Code::NoSpace, ..failure },
            _ => failure,
        }
    })
}

/// Whether a mount gets a keeper.
pub fn wants_keeper(settings: &MountSettings) -> bool {
    match (settings.keeper, settings.transport) {
        (KeeperArg::Off, _) | (KeeperArg::Auto, TransportArg::Uring) => false,
        (KeeperArg::On, _) | (KeeperArg::Auto, TransportArg::Dev) => true,
        (KeeperArg::Auto, TransportArg::Auto) => !fuse::offers_uring(&options(settings)),
    }
}

/// Mounts a resumed workspace; it is usable when this returns. With `is_kept` another daemon may
/// take it over, where the kernel can do that.
pub fn mount(
    workspace: &Workspace,
    settings: &MountSettings,
    clock: Arc<dyn Clock>,
    is_kept: bool,
) -> Outcome<Mounted> {
    let mut options = options(settings);
    options.keep = if is_kept { Some(draw_connection()?) } else { None };
    match fuse::mount(workspace.fs(), &options, Arc::clone(&clock)) {
        Err(FuseError::NoResend) if settings.keeper == KeeperArg::Auto => {
            tracing::info!("this kernel can't send requests again: the mount ends with its daemon");
            options.keep = None;
            Ok(fuse::mount(workspace.fs(), &options, clock)?)
        }
        mounted => Ok(mounted?),
    }
}

fn draw_connection() -> Outcome<ConnectionId> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::internal(format!("drawing a random number: {error}")))?;
    Ok(ConnectionId(u64::from_le_bytes(bytes)))
}

/// Takes over the mount of a daemon that died.
pub fn adopt(
    workspace: &Workspace,
    settings: &MountSettings,
    clock: Arc<dyn Clock>,
    inheritance: Inheritance,
) -> Outcome<Mounted> {
    let Inheritance { estate, device } = inheritance;
    let options = options(settings);
    Ok(fuse::adopt(workspace.fs(), &options, clock, (&estate.connection, device))?)
}

fn options(settings: &MountSettings) -> MountOptions {
    let mut options = MountOptions::new(&settings.mountpoint, settings.workspace.name.as_str());
    options.read_only = settings.workspace.read_only();
    options.suid = settings.allow_suid;
    options.dev = settings.allow_dev;
    options.xattr = settings.xattr;
    options.allow_other = settings.allow_other;
    options.transport = match settings.transport {
        TransportArg::Auto => TransportChoice::Auto,
        TransportArg::Dev => TransportChoice::Device,
        TransportArg::Uring => TransportChoice::Uring,
    };
    options.threads = settings.threads.unwrap_or(0);
    options.scheduling = settings.scheduling;
    options.writeback_cache = settings.writeback_cache;
    options.deadline = settings.workspace.store.remote.deadline;
    options
}
