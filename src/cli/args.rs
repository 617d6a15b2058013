//! The command line as written, and what `--help` teaches. Nothing is checked against the machine
//! here: [`super::settings`] makes valid settings of it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use super::help;
use super::units::{ByteSize, Span};

/// The whole command line.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "dormouse",
    version,
    about = "A filesystem for sandboxes that sleep",
    long_about = help::ABOUT,
    after_help = help::EXAMPLES,
    after_long_help = help::EXAMPLES_LONG,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Configuration file; flags and environment variables win over it.
    /// Default: /etc/dormouse.toml, where it exists.
    #[arg(long, global = true, value_name = "FILE", env = "DORMOUSE_CONFIG")]
    #[arg(hide_env_values = true, help_heading = "Every command")]
    pub config: Option<PathBuf>,

    /// Print facts and errors as JSON, one document per command.
    #[arg(long, global = true, help_heading = "Every command")]
    pub json: bool,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// What to do.
    #[command(subcommand)]
    pub command: CommandArgs,
}

/// Flags about logs; the table `[log]` of the configuration file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or a filter: `info,dormouse::fuse=debug`.
    /// Default: info for a daemon, warn for other commands.
    #[arg(long = "log-level", global = true, value_name = "LEVEL", env = "DORMOUSE_LOG")]
    #[arg(hide_env_values = true, help_heading = "Every command")]
    pub level: Option<String>,

    /// How log lines look. Default: text.
    #[arg(long = "log-format", global = true, value_name = "FORMAT", env = "DORMOUSE_LOG_FORMAT")]
    #[arg(hide_env_values = true, help_heading = "Every command")]
    pub format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// How the kernel's requests come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransportArg {
    /// By io_uring where the kernel offers it, else by /dev/fuse.
    #[default]
    Auto,
    /// By /dev/fuse.
    Dev,
    /// By io_uring, or not at all.
    Uring,
}

/// Flags that reach a store; the table `[store]` of the configuration file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// The store: file:///DIR or s3://BUCKET[/PREFIX]. In the configuration file: `url`.
    #[arg(long = "store", value_name = "URL", env = "DORMOUSE_STORE", hide_env_values = true)]
    pub url: Option<String>,

    /// S3 endpoint, for a server that is not AWS, such as http://127.0.0.1:9000.
    #[arg(long, value_name = "URL", env = "DORMOUSE_ENDPOINT", hide_env_values = true)]
    pub endpoint: Option<String>,

    /// S3 region. Default: from the AWS configuration.
    #[arg(long, value_name = "REGION", env = "DORMOUSE_REGION", hide_env_values = true)]
    pub region: Option<String>,

    /// Address buckets as http://HOST/BUCKET. Default: yes with --endpoint, no without.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", env = "DORMOUSE_PATH_STYLE", hide_env_values = true)]
    pub path_style: Option<bool>,

    /// Profile of the AWS configuration files.
    #[arg(long, value_name = "NAME", env = "DORMOUSE_PROFILE", hide_env_values = true)]
    pub profile: Option<String>,

    /// Give up on a request when the store has not answered for this long, retries included.
    /// Default: 60s. In the configuration file: `timeout`.
    #[arg(long = "store-timeout", value_name = "DURATION", env = "DORMOUSE_STORE_TIMEOUT")]
    // Not the field's name: `hibernate --timeout` has that, and clap would take one for the other.
    #[arg(id = "store_timeout", hide_env_values = true)]
    pub timeout: Option<Span>,
}

/// Flags that tune a mount; the table `[mount]` of the configuration file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Local data")]
pub struct TuningArgs {
    /// Directory for this workspace's local data. Default: a folder of --cache-root.
    #[arg(long, value_name = "DIR", env = "DORMOUSE_CACHE_DIR", hide_env_values = true)]
    #[arg(long_help = help::CACHE_DIR)]
    #[serde(skip)]
    pub cache_dir: Option<PathBuf>,

    /// Where workspaces get their local data. Default: /var/lib/dormouse, or for a user
    /// $XDG_STATE_HOME/dormouse.
    #[arg(long, value_name = "DIR", env = "DORMOUSE_CACHE_ROOT", hide_env_values = true)]
    pub cache_root: Option<PathBuf>,

    /// Most bytes that local data may take, such as 64G. Default: half of the free disk, at most
    /// 64 GiB.
    #[arg(long, value_name = "SIZE", env = "DORMOUSE_CACHE_SIZE", hide_env_values = true)]
    pub cache_size: Option<ByteSize>,

    /// Make the workspace where the store does not have it yet.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", help_heading = "Workspace")]
    pub create: Option<bool>,

    /// How long another machine must wait when this one dies. Default: 10m.
    #[arg(long, value_name = "DURATION", env = "DORMOUSE_LEASE_TTL", hide_env_values = true)]
    #[arg(help_heading = "Workspace")]
    pub lease_ttl: Option<Span>,

    /// Seal a restore point this often, when something changed. 0: never. Default: 60s.
    #[arg(long, value_name = "DURATION", env = "DORMOUSE_CHECKPOINT_INTERVAL")]
    #[arg(hide_env_values = true, help_heading = "Upload")]
    pub checkpoint_interval: Option<Span>,

    /// Upload what has waited for this long, however busy its file is. 0: no cap. Default: 5m.
    #[arg(long, value_name = "DURATION", env = "DORMOUSE_MAX_UNSYNCED_AGE")]
    #[arg(hide_env_values = true, help_heading = "Upload")]
    pub max_unsynced_age: Option<Span>,

    /// Slow writers down when more than this is not in the store yet. Default: no limit but the
    /// cache's size.
    #[arg(long, value_name = "SIZE", env = "DORMOUSE_MAX_UNSYNCED_BYTES")]
    #[arg(hide_env_values = true, help_heading = "Upload")]
    pub max_unsynced_bytes: Option<ByteSize>,

    /// Most bytes per second to upload. Default: no limit.
    #[arg(long, value_name = "SIZE", env = "DORMOUSE_UPLOAD_LIMIT", hide_env_values = true)]
    #[arg(help_heading = "Upload")]
    pub upload_limit: Option<ByteSize>,

    /// Most of one core, in percent, that hashing and compressing in the background may use.
    /// Default: 50; 5 while programs use the mount or the core. A checkpoint or hibernation uses
    /// what it needs.
    #[arg(long, value_name = "PERCENT", env = "DORMOUSE_SETTLE_CPU", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100), help_heading = "Upload")]
    pub settle_cpu: Option<u8>,

    /// How the kernel's requests come: `uring` by io_uring (Linux 6.14, switched on by root in
    /// /sys/module/fuse/parameters/enable_uring), `dev` by /dev/fuse, `auto` by io_uring where
    /// the kernel offers it. Default: auto.
    #[arg(long, value_name = "TRANSPORT", env = "DORMOUSE_TRANSPORT", hide_env_values = true)]
    #[arg(help_heading = "Mount")]
    pub transport: Option<TransportArg>,

    /// Whether the mount outlives a daemon that dies or is replaced (`upgrade`): a small process
    /// holds it meanwhile, and programs inside see a pause. `auto`: wherever requests come by
    /// /dev/fuse; `on`: always, so never by io_uring; `off`: never. Default: auto.
    #[arg(long, value_name = "WHEN", env = "DORMOUSE_KEEPER", hide_env_values = true)]
    #[arg(help_heading = "Mount")]
    pub keeper: Option<KeeperArg>,

    /// Most bytes of the hot set: what was read first after a mount, and written last before a
    /// hibernation, is remembered, and fetched in the background after the next mount. 0: off.
    /// Default: 64M.
    #[arg(long, value_name = "SIZE", env = "DORMOUSE_HOT_SET_SIZE", hide_env_values = true)]
    #[arg(help_heading = "Local data")]
    pub hot_set_size: Option<ByteSize>,

    /// Threads that serve the kernel. Default: one per core.
    #[arg(long, value_name = "COUNT", env = "DORMOUSE_THREADS", hide_env_values = true)]
    #[arg(help_heading = "Mount")]
    pub threads: Option<u16>,

    /// How those threads are scheduled: auto has them yield to every other program and cures them
    /// when that starves them, which makes untar, clone and grep faster; plain does not.
    /// Default: auto, and plain where that is not permitted.
    #[arg(long, value_name = "HOW", env = "DORMOUSE_SCHEDULING", hide_env_values = true)]
    #[arg(help_heading = "Mount")]
    pub scheduling: Option<SchedulingArg>,

    /// Where a write goes first: `back` leaves it in the kernel's page cache, which sends it later
    /// and larger, as a local disk's filesystem does; `through` sends each write to the daemon at
    /// once. Default: through.
    #[arg(long, value_name = "HOW", env = "DORMOUSE_WRITE_CACHE", hide_env_values = true)]
    #[arg(help_heading = "Mount")]
    pub write_cache: Option<WriteCacheArg>,

    /// Honour set-user-id and set-group-id bits of files in the mount. Default: no.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", help_heading = "Mount")]
    pub allow_suid: Option<bool>,

    /// Let device nodes in the mount be opened. Default: no.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", help_heading = "Mount")]
    pub allow_dev: Option<bool>,

    /// Let other users than the mount's owner in. Default: yes for root; for a user where
    /// /etc/fuse.conf has `user_allow_other`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", help_heading = "Mount")]
    pub allow_other: Option<bool>,

    /// No extended attributes and no ACLs: creating a file then costs one request of the kernel
    /// less (it asks for `security.capability` before the first write). Programs get EOPNOTSUPP;
    /// attributes that files have are kept.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", help_heading = "Mount")]
    pub no_xattr: Option<bool>,
}

/// How the threads that serve the kernel are scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulingArg {
    /// Below every other thread, with a governor; plain where that is not permitted.
    Auto,
    /// Like any thread.
    Plain,
}

/// Whether a mount outlives its daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeeperArg {
    /// Where requests come by /dev/fuse and the kernel can send them again (Linux 6.9).
    #[default]
    Auto,
    /// Always; not by io_uring.
    On,
    /// Never.
    Off,
}

/// Where writes go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteCacheArg {
    /// Into the page cache.
    Back,
    /// To the daemon.
    Through,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum CommandArgs {
    /// Make a store; fine if it is there already
    #[command(after_help = help::INIT)]
    Init(InitArgs),
    /// Mount a workspace; returns when it can be used
    #[command(after_help = help::MOUNT)]
    Mount(MountArgs),
    /// Put everything into the store, unmount, release the lease
    #[command(after_help = help::HIBERNATE)]
    Hibernate(HibernateArgs),
    /// Seal a restore point while the mount goes on
    #[command(after_help = help::CHECKPOINT)]
    Checkpoint(TargetArgs),
    /// Unmount if nothing is in use, and hibernate
    #[command(visible_alias = "umount", after_help = help::UNMOUNT)]
    Unmount(UnmountArgs),
    /// Replace the daemon of a mount by another version, while programs go on
    #[command(after_help = help::UPGRADE)]
    Upgrade(UpgradeArgs),
    /// Show mounts: what is not in the store yet, cache, lease, requests
    #[command(after_help = help::STATUS)]
    Status(StatusArgs),
    /// List the workspaces of a store
    #[command(after_help = help::WORKSPACES)]
    Workspaces(InitArgs),
    /// List the restore points of a workspace
    #[command(after_help = help::SNAPSHOTS)]
    Snapshots(SnapshotsArgs),
    /// Look whether everything that snapshots name is in the store, whole and right
    #[command(after_help = help::VERIFY)]
    Verify(VerifyArgs),
    /// Print shell completions
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print or write manual pages
    #[command(after_help = help::MAN)]
    Man {
        /// Write all pages into this directory; without it, dormouse(1) goes to standard output.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Explain the exit codes
    #[command(after_help = super::exit::table_text())]
    ExitCodes,
}

/// `init` and `workspaces`: only the store.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `mount`.
#[derive(Debug, Clone, Args)]
pub struct MountArgs {
    /// The workspace's name.
    pub name: String,

    /// Where to mount it: an empty directory.
    pub mountpoint: PathBuf,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Local data, upload, mount.
    #[command(flatten)]
    pub tuning: TuningArgs,

    /// Mount the newest snapshot for reading only; needs no lease and leaves the writer alone.
    #[arg(long, help_heading = "Workspace")]
    pub read_only: bool,

    /// Mount this snapshot, for reading only: an id, the beginning of one, or `latest`.
    #[arg(long, value_name = "SNAPSHOT", help_heading = "Workspace")]
    pub at: Option<String>,

    /// Take the lease from its holder. Only where the holder is known to be dead: what it had not
    /// yet put into the store stays on its disk.
    #[arg(long, conflicts_with_all = ["read_only", "at"], help_heading = "Workspace")]
    pub steal: bool,

    /// Drop local changes that were never sealed, where another machine has sealed others since:
    /// the two can't be joined.
    #[arg(long, conflicts_with_all = ["read_only", "at"], help_heading = "Workspace")]
    pub discard_local: bool,

    /// Stay in the foreground, log to standard error, and tell systemd when the mount is usable.
    #[arg(long, short = 'f', help_heading = "Mount")]
    pub foreground: bool,
}

/// Commands about one running mount.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// A mountpoint, or the name of a workspace mounted on this machine.
    #[arg(value_name = "PATH|NAME")]
    pub target: String,
}

/// `hibernate`.
#[derive(Debug, Clone, Args)]
pub struct HibernateArgs {
    /// A mountpoint, or a workspace's name.
    #[arg(value_name = "PATH|NAME")]
    pub target: String,

    /// While the store can't be reached, go on trying for this long; then give up, and stay
    /// mounted. Default: one try, which takes --store-timeout of the mount.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Span>,

    /// The store; needed only for local data that a dead daemon left behind.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Local data of a dead daemon, where it is not in the default place.
    #[arg(long, value_name = "DIR", env = "DORMOUSE_CACHE_DIR", hide_env_values = true)]
    #[arg(help_heading = "Local data")]
    pub cache_dir: Option<PathBuf>,

    /// As given to `mount`.
    #[arg(long, value_name = "DIR", env = "DORMOUSE_CACHE_ROOT", hide_env_values = true)]
    #[arg(help_heading = "Local data")]
    pub cache_root: Option<PathBuf>,
}

/// `unmount`.
#[derive(Debug, Clone, Args)]
pub struct UnmountArgs {
    /// A mountpoint, or the name of a workspace mounted on this machine.
    #[arg(value_name = "PATH|NAME")]
    pub target: String,

    /// Don't wait for the store: what is not in it yet stays in the cache directory of this
    /// machine, and the lease stays taken.
    #[arg(long)]
    pub keep_local: bool,

    /// While the store can't be reached, go on trying for this long. Default: one try.
    #[arg(long, value_name = "DURATION", conflicts_with = "keep_local")]
    pub timeout: Option<Span>,
}

/// `upgrade`.
#[derive(Debug, Clone, Args)]
pub struct UpgradeArgs {
    /// A mountpoint, or the name of a workspace mounted on this machine.
    #[arg(value_name = "PATH|NAME")]
    pub target: String,

    /// The program that is to take over. Default: the one that runs this command.
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// A mountpoint or a workspace's name; without it, all mounts of this machine.
    #[arg(value_name = "PATH|NAME")]
    pub target: Option<String>,

    /// Print the daemon's metrics (OpenMetrics text) instead.
    #[arg(long, requires = "target")]
    pub metrics: bool,
}

/// `snapshots`.
#[derive(Debug, Clone, Args)]
pub struct SnapshotsArgs {
    /// The workspace's name.
    pub name: String,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The workspace's name.
    #[arg(required_unless_present = "all")]
    pub name: Option<String>,

    /// Verify every workspace in the store, and look for objects that nothing refers to.
    #[arg(long, conflicts_with = "name")]
    pub all: bool,

    /// Verify this snapshot only: an id, the beginning of one, or `latest`.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "all")]
    pub snapshot: Option<String>,

    /// Read no file content: metadata whole, and that all packs are there with their lengths.
    #[arg(long)]
    pub quick: bool,

    /// Read so many percent of the packs of file content, chosen at random.
    #[arg(long, value_name = "PERCENT", conflicts_with = "quick")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    pub sample: Option<u8>,

    /// Choose the same sample as an earlier run, which told this.
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    pub seed: Option<u64>,

    /// Packs read at once; each takes 9 MiB of memory. Default: 4.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,

    /// Paths told for each problem and snapshot. Default: 20.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub paths: Option<u32>,

    /// Directory for the metadata of all snapshots, compressed, while it is looked at.
    /// Default: $TMPDIR, or /var/tmp.
    #[arg(long, value_name = "DIR", env = "TMPDIR", hide_env_values = true)]
    #[arg(default_value = "/var/tmp", hide_default_value = true)]
    pub scratch_dir: PathBuf,

    /// Show no progress. It is shown on a terminal only.
    #[arg(long)]
    pub no_progress: bool,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Fills what is not said here from `lower`, field by field.
macro_rules! fill_from {
    ($kind:ident: $($field:ident),+ $(,)?) => {
        impl $kind {
            /// These values, and `lower`'s where these are silent.
            #[must_use]
            pub fn over(self, lower: $kind) -> $kind {
                // Every field is named: a new one that is forgotten here does not compile.
                $kind { $($field: self.$field.or(lower.$field)),+ }
            }
        }
    };
}

fill_from!(LogArgs: level, format);
fill_from!(StoreArgs: url, endpoint, region, path_style, profile, timeout);
fill_from!(
    TuningArgs: cache_dir, cache_root, cache_size, create, lease_ttl, checkpoint_interval,
    max_unsynced_age, max_unsynced_bytes, upload_limit, settle_cpu, hot_set_size, transport, keeper,
    threads, scheduling, write_cache, allow_suid, allow_dev, allow_other, no_xattr,
);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// clap's own check, `debug_assert`, checks nothing in a release build, as tests are here: it
    /// takes two arguments with one id for one.
    #[test]
    fn each_argument_of_a_command_has_an_id_and_flags_of_its_own() {
        fn check(command: &clap::Command) {
            let mut seen = std::collections::HashSet::new();
            for argument in command.get_arguments() {
                let long = argument.get_long().map(|long| format!("--{long}"));
                let short = argument.get_short().map(|short| format!("-{short}"));
                let env = argument.get_env().map(|env| format!("${}", env.display()));
                for name in [Some(argument.get_id().to_string()), long, short, env].into_iter() {
                    let is_new = name.as_ref().is_none_or(|name| seen.insert(name.clone()));
                    assert!(is_new, "{}: two of {name:?}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
    }

    #[test]
    fn the_time_of_a_request_is_not_that_of_a_hibernation() {
        let spans = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let CommandArgs::Hibernate(args) = cli.command else { panic!("{line}") };
            [args.timeout, args.store.timeout].map(|span| span.map(|Span(time)| time.as_secs()))
        };
        assert_eq!(spans("dormouse hibernate --store-timeout 2s w"), [None, Some(2)]);
        assert_eq!(spans("dormouse hibernate --timeout 7s w"), [Some(7), None]);
        assert_eq!(
            spans("dormouse hibernate --timeout 7s --store-timeout 2s w"),
            [Some(7), Some(2)]
        );
    }

    #[test]
    fn every_command_teaches_with_an_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let teaches = text.contains("dormouse") || name == "exit-codes";
            assert!(teaches, "{name} has no example");
        }
    }

    #[test]
    fn what_is_said_first_wins() {
        let flag = StoreArgs { url: Some("file:///a".into()), ..StoreArgs::default() };
        let file = StoreArgs {
            url: Some("file:///b".into()),
            region: Some("eu".into()),
            ..StoreArgs::default()
        };
        let merged = flag.over(file);
        assert_eq!(merged.url.as_deref(), Some("file:///a"));
        assert_eq!(merged.region.as_deref(), Some("eu"));
    }
}
