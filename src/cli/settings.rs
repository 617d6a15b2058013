//! Valid settings: flags over environment over configuration file over defaults, checked once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{
    KeeperArg, MountArgs, SchedulingArg, StoreArgs, TransportArg, TuningArgs, WriteCacheArg,
};
use super::config::Config;
use super::exit::{Failure, Outcome};
use super::keeper;
use super::paths::{self, CacheUse};
use crate::fuse::Scheduling;
use crate::remote::{RemoteOptions, StoreUrl};
use crate::types::WorkspaceName;

/// How long a request to the store may take, its retries included.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// How often a restore point is sealed by itself.
const CHECKPOINT_INTERVAL_DEFAULT: Duration = Duration::from_secs(60);

/// Shortest lease: a shorter one would be renewed all the time.
const LEASE_TTL_MIN: Duration = Duration::from_secs(10);

/// Longest lease: nobody waits longer for a dead machine.
const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Smallest budget of local data: below, a journal segment and a pack don't fit.
const CACHE_BYTES_MIN: u64 = 128 << 20;

/// Most threads that serve the kernel.
const THREADS_MAX: u16 = 256;

/// Set by `mount` for the daemon's process that it starts.
pub const READY_ON_STDOUT: &str = "DORMOUSE_READY_ON_STDOUT";

/// What the process was started with, read once.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Effective user is root.
    pub is_root: bool,
    /// Effective user and group.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// A mount may let other users in: root always, users where /etc/fuse.conf says so.
    pub may_allow_other: bool,
    /// Where relative paths begin.
    pub working_dir: PathBuf,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `$DORMOUSE_RUNTIME_DIR`: the registry elsewhere than in the usual place.
    pub dormouse_runtime_dir: Option<PathBuf>,
    /// What this machine calls itself.
    pub host: String,
    /// This is a daemon's process: how its start went is awaited on standard output.
    pub ready_on_stdout: bool,
    /// Descriptors that a keeper left to this process, its daemon.
    pub kept: Option<String>,
    /// Descriptors that a keeper left to the program which replaced it.
    pub keeper_state: Option<String>,
}

impl Environment {
    /// Reads the process's environment.
    pub fn read() -> Outcome<Environment> {
        let path = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
        let working_dir = std::env::current_dir()
            .map_err(|error| Failure::usage(format!("the working directory: {error}")))?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
        let uid = nix::unistd::geteuid();
        Ok(Environment {
            ready_on_stdout: std::env::var_os(READY_ON_STDOUT).is_some(),
            kept: std::env::var(keeper::KEPT).ok(),
            keeper_state: std::env::var(keeper::KEEPER_STATE).ok(),
            is_root: uid.is_root(),
            may_allow_other: uid.is_root() || fuse_conf_allows_other(),
            uid: uid.as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            working_dir,
            home: absolute("HOME"),
            state_home: absolute("XDG_STATE_HOME"),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
            dormouse_runtime_dir: absolute("DORMOUSE_RUNTIME_DIR"),
            host: host.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned()),
        })
    }
}

fn fuse_conf_allows_other() -> bool {
    let text = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    text.lines().any(|line| line.trim() == "user_allow_other")
}

/// A store and how to reach it.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The address.
    pub url: StoreUrl,
    /// The rest.
    pub remote: RemoteOptions,
}

impl StoreSettings {
    /// Checks what flags and configuration say of the store.
    pub fn new(flags: StoreArgs, config: &Config) -> Outcome<StoreSettings> {
        let args = flags.over(config.store.clone());
        let text = args.url.filter(|url| !url.is_empty());
        let text = text.ok_or_else(|| {
            Failure::usage("no store was named")
                .hint("give --store URL, set DORMOUSE_STORE, or write it into /etc/dormouse.toml")
        })?;
        let url: StoreUrl = text.parse().map_err(Failure::from)?;
        let deadline = args.timeout.map_or(TIMEOUT_DEFAULT, |span| span.0);
        if deadline.is_zero() {
            return Err(Failure::usage("--store-timeout must be more than zero"));
        }
        if let Some(endpoint) = &args.endpoint
            && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
        {
            let message = format!("--endpoint {endpoint}: must begin with http:// or https://");
            return Err(Failure::usage(message));
        }
        let remote = RemoteOptions {
            endpoint: args.endpoint.filter(|text| !text.is_empty()),
            region: args.region.filter(|text| !text.is_empty()),
            path_style: args.path_style,
            profile: args.profile.filter(|text| !text.is_empty()),
            deadline,
            ..RemoteOptions::default()
        };
        Ok(StoreSettings { url, remote })
    }

    /// Flags that reach the same store again, for the registry. No secrets: there are none in
    /// flags.
    #[must_use]
    pub fn to_flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--store={}", self.url)];
        let remote = &self.remote;
        flags.extend(remote.endpoint.as_ref().map(|it| format!("--endpoint={it}")));
        flags.extend(remote.region.as_ref().map(|it| format!("--region={it}")));
        flags.extend(remote.path_style.map(|it| format!("--path-style={it}")));
        flags.extend(remote.profile.as_ref().map(|it| format!("--profile={it}")));
        flags
    }
}

/// What a mount looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// The workspace, for writing.
    Writer,
    /// The newest snapshot.
    Newest,
    /// This snapshot: an id, the beginning of one, or `latest`.
    At(String),
}

/// A workspace to be resumed, checked as far as that can be done without the store.
#[derive(Debug, Clone)]
pub struct WorkspaceSettings {
    /// The store.
    pub store: StoreSettings,
    /// The workspace.
    pub name: WorkspaceName,
    /// Absolute.
    pub cache_dir: PathBuf,
    /// The flag that names it, or its root, where it is not in the default place.
    cache_flag: Option<(&'static str, PathBuf)>,
    /// Of a mount that only looks, and in the default place: of no use after it.
    pub is_throw_away: bool,
    /// Budget of local data, bytes.
    pub cache_bytes: u64,
    /// For writing or for looking.
    pub view: View,
    /// Make the workspace if there is none.
    pub create: bool,
    /// Take the lease from its holder.
    pub steal: bool,
    /// Drop unsealed local changes that can't be joined with what others sealed.
    pub discard_local: bool,
    /// See `--lease-ttl`.
    pub lease_ttl: Duration,
    /// See `--checkpoint-interval`; zero: never.
    pub checkpoint_interval: Duration,
    /// See `--max-unsynced-age`.
    pub unsynced_age_max: Option<Duration>,
    /// See `--max-unsynced-bytes`; zero: no cap.
    pub unsynced_bytes_max: u64,
    /// See `--settle-cpu`; none: the default.
    pub settle_cpu_percent: Option<u32>,
    /// See `--hot-set-size`; none: the default.
    pub hot_bytes_max: Option<u64>,
}

/// A mount, checked as far as that can be done without the store.
#[derive(Debug, Clone)]
pub struct MountSettings {
    /// What is mounted.
    pub workspace: WorkspaceSettings,
    /// Absolute; the cache directory is not inside it.
    pub mountpoint: PathBuf,
    /// How the kernel's requests come.
    pub transport: TransportArg,
    /// Whether it outlives its daemon.
    pub keeper: KeeperArg,
    /// Threads that serve the kernel; none: one per core.
    pub threads: Option<usize>,
    /// How they are scheduled.
    pub scheduling: Scheduling,
    /// The kernel collects writes.
    pub writeback_cache: bool,
    /// Honour set-user-id bits.
    pub allow_suid: bool,
    /// Let device nodes be opened.
    pub allow_dev: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// Serve extended attributes.
    pub xattr: bool,
    /// Stay in the foreground.
    pub foreground: bool,
}

impl MountSettings {
    /// Checks what flags and configuration say of a mount.
    pub fn new(args: MountArgs, config: &Config, env: &Environment) -> Outcome<MountSettings> {
        let store = StoreSettings::new(args.store, config)?;
        let tuning = args.tuning.over(config.mount.clone());
        let mountpoint = paths::absolute(&args.mountpoint, env)?;
        let view = match (args.at, args.read_only) {
            (Some(at), _) => View::At(at),
            (None, true) => View::Newest,
            (None, false) => View::Writer,
        };
        let cache_use = match view {
            View::Writer => CacheUse::Writer,
            _ => CacheUse::Reader(&mountpoint),
        };
        let mut workspace = WorkspaceSettings::new(&args.name, store, &tuning, cache_use, env)?;
        paths::check_outside(&workspace.cache_dir, &mountpoint)?;
        workspace.view = view;
        workspace.steal = args.steal;
        workspace.discard_local = args.discard_local;
        Ok(MountSettings {
            workspace,
            transport: transport(&tuning)?,
            keeper: tuning.keeper.unwrap_or_default(),
            threads: threads(&tuning)?,
            scheduling: match tuning.scheduling {
                Some(SchedulingArg::Plain) => Scheduling::Plain,
                Some(SchedulingArg::Auto) | None => Scheduling::Auto,
            },
            writeback_cache: tuning.write_cache == Some(WriteCacheArg::Back),
            allow_suid: tuning.allow_suid.unwrap_or(false),
            allow_dev: tuning.allow_dev.unwrap_or(false),
            xattr: !tuning.no_xattr.unwrap_or(false),
            allow_other: tuning.allow_other.unwrap_or(env.may_allow_other),
            foreground: args.foreground,
            mountpoint,
        })
    }
}

impl WorkspaceSettings {
    /// Checks what flags and configuration say of a workspace; for its writer.
    pub fn new(
        name: &str,
        mut store: StoreSettings,
        tuning: &TuningArgs,
        cache_use: CacheUse,
        env: &Environment,
    ) -> Outcome<WorkspaceSettings> {
        let name: WorkspaceName = name.parse().map_err(Failure::usage)?;
        let cache_dir = cache_dir(tuning, &store, name.as_str(), cache_use, env)?;
        let is_writer = cache_use == CacheUse::Writer;
        if is_writer && paths::is_readers_folder(&cache_dir) {
            let dir = cache_dir.display();
            let message = format!("{dir}: so the folders of read-only mounts are called");
            return Err(Failure::usage(message).hint(
                "they are removed without being asked for: give a --cache-dir of another name",
            ));
        }
        store.remote.upload_bytes_per_sec_max = tuning.upload_limit.map_or(0, |size| size.0);
        Ok(WorkspaceSettings {
            name,
            cache_bytes: cache_bytes(tuning, &cache_dir)?,
            view: View::Writer,
            create: tuning.create.unwrap_or(false),
            steal: false,
            discard_local: false,
            lease_ttl: lease_ttl(tuning)?,
            checkpoint_interval: tuning
                .checkpoint_interval
                .map_or(CHECKPOINT_INTERVAL_DEFAULT, |span| span.0),
            unsynced_age_max: tuning.max_unsynced_age.map(|span| span.0),
            unsynced_bytes_max: tuning.max_unsynced_bytes.map_or(0, |size| size.0),
            settle_cpu_percent: settle_cpu(tuning)?,
            cache_flag: cache_flag(tuning, env)?,
            is_throw_away: !is_writer && tuning.cache_dir.is_none(),
            hot_bytes_max: tuning.hot_set_size.map(|size| size.0),
            store,
            cache_dir,
        })
    }

    /// Flags that lead to the same local data again, each with a blank behind it; nothing where
    /// it is in the default place.
    #[must_use]
    pub fn cache_flags(&self) -> String {
        let flag = |(name, path): &(&str, PathBuf)| format!("{name} {} ", path.display());
        self.cache_flag.as_ref().map(flag).unwrap_or_default()
    }

    /// Whether nothing can be written.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.view != View::Writer
    }
}

/// The share of a core for settling. A configuration file's number is checked here too.
fn settle_cpu(tuning: &TuningArgs) -> Outcome<Option<u32>> {
    match tuning.settle_cpu {
        Some(percent) if !(1..=100).contains(&percent) => Err(Failure::usage(format!(
            "--settle-cpu {percent}: must be 1 to 100 percent of a core"
        ))),
        percent => Ok(percent.map(u32::from)),
    }
}

/// The directory of local data that flags name, or the default one.
fn cache_dir(
    tuning: &TuningArgs,
    store: &StoreSettings,
    workspace: &str,
    of: CacheUse,
    env: &Environment,
) -> Outcome<PathBuf> {
    if let Some(dir) = &tuning.cache_dir {
        return paths::absolute(dir, env);
    }
    let root = match &tuning.cache_root {
        Some(root) => paths::absolute(root, env)?,
        None => paths::default_cache_root(env)?,
    };
    let endpoint = store.remote.endpoint.as_deref();
    Ok(root.join(paths::cache_folder(&store.url.to_string(), endpoint, workspace, of)))
}

fn cache_flag(tuning: &TuningArgs, env: &Environment) -> Outcome<Option<(&'static str, PathBuf)>> {
    Ok(match (&tuning.cache_dir, &tuning.cache_root) {
        (Some(dir), _) => Some(("--cache-dir", paths::absolute(dir, env)?)),
        (None, Some(root)) => Some(("--cache-root", paths::absolute(root, env)?)),
        (None, None) => None,
    })
}

/// The budget of local data that flags name, or a fair share of the disk.
fn cache_bytes(tuning: &TuningArgs, cache_dir: &Path) -> Outcome<u64> {
    match tuning.cache_size {
        Some(size) if size.0 < CACHE_BYTES_MIN => Err(Failure::usage(format!(
            "--cache-size {size}: must be at least {}",
            super::units::ByteSize(CACHE_BYTES_MIN)
        ))),
        Some(size) => Ok(size.0),
        None => {
            let free = paths::disk_free(cache_dir).ok_or_else(|| {
                Failure::usage(format!("{}: can't tell its free space", cache_dir.display()))
                    .hint("give --cache-size")
            })?;
            Ok(paths::default_cache_bytes(free, paths::used_bytes(cache_dir)))
        }
    }
}

fn lease_ttl(tuning: &TuningArgs) -> Outcome<Duration> {
    let ttl = tuning.lease_ttl.map_or(Duration::from_secs(600), |span| span.0);
    if (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err(Failure::usage("--lease-ttl must be between 10 seconds and 24 hours"))
    }
}

/// A mount that must outlive its daemon does not use io_uring.
fn transport(tuning: &TuningArgs) -> Outcome<TransportArg> {
    match (tuning.transport.unwrap_or_default(), tuning.keeper.unwrap_or_default()) {
        (TransportArg::Uring, KeeperArg::On) => {
            let message = "--keeper on: a mount by io_uring ends with its daemon";
            Err(Failure::usage(message).hint("use --transport dev, or --keeper auto"))
        }
        (TransportArg::Auto, KeeperArg::On) => Ok(TransportArg::Dev),
        (transport, _) => Ok(transport),
    }
}

fn threads(tuning: &TuningArgs) -> Outcome<Option<usize>> {
    match tuning.threads {
        Some(0) => Err(Failure::usage("--threads must be at least 1")),
        Some(count) if count > THREADS_MAX => {
            Err(Failure::usage(format!("--threads must be at most {THREADS_MAX}")))
        }
        count => Ok(count.map(usize::from)),
    }
}
