//! What a mount is asked to be.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::types::ConnectionId;

/// How requests are to come from the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TransportChoice {
    /// By io_uring where the kernel offers it, else by `/dev/fuse`.
    #[default]
    Auto,
    /// By `/dev/fuse`.
    Device,
    /// By io_uring, or not at all.
    Uring,
}

/// How requests come from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Read from and written to `/dev/fuse`.
    Device,
    /// In rings, one per core.
    Uring,
}

impl Transport {
    /// The name, as the option has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Transport::Device => "dev",
            Transport::Uring => "uring",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the threads that serve the kernel are scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheduling {
    /// Below all other threads, watched by a governor that cures starvation; plain where that is
    /// not permitted.
    #[default]
    Auto,
    /// Like any thread.
    Plain,
}

/// Settings of one mount. `MountOptions::new` gives the defaults that suit a sandbox.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// What `/proc/mounts` shows as the source: the workspace's name, so that an fstab line and
    /// the mount are seen as one.
    pub source: String,
    /// Users other than the mount's owner may enter. Permissions are checked by the kernel
    /// either way. Without root it needs `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// Mount read-only.
    pub read_only: bool,
    /// Honour set-user-id bits.
    pub suid: bool,
    /// Honour device nodes.
    pub dev: bool,
    /// Mount over a directory that has entries.
    pub allow_nonempty: bool,
    /// Extended attributes and ACLs. Off saves one request per written file (the kernel asks
    /// for `security.capability`) and answers `EOPNOTSUPP`.
    pub xattr: bool,
    /// The kernel collects writes and sends them later and larger. Saves requests on small
    /// writes; what it holds back is not in a checkpoint until it is flushed.
    pub writeback_cache: bool,
    /// How requests come from the kernel.
    pub transport: TransportChoice,
    /// Another daemon may take the mount over when this one dies: another process holds
    /// `/dev/fuse`. Not with io_uring, nor with `clone_fd`.
    pub keep: Option<ConnectionId>,
    /// Threads that read requests; 0: one per core, at least 2. With io_uring at most one per
    /// core.
    pub threads: usize,
    /// How those threads are scheduled.
    pub scheduling: Scheduling,
    /// Give each thread its own `/dev/fuse` descriptor (`FUSE_DEV_IOC_CLONE`).
    pub clone_fd: bool,
    /// Largest write request, in bytes: 4 KiB to 1 MiB.
    pub write_bytes_max: u32,
    /// Read-ahead of the mount, in KiB; 0 leaves the kernel's.
    pub read_ahead_kib: u32,
    /// Longest time from a request's arrival to its answer when it must wait for the store.
    pub deadline: Duration,
    /// Threads that wait for the store, started on demand.
    pub waiting_threads_max: usize,
    /// Requests that wait for one of those threads; more are answered `EIO` at once.
    pub waiting_requests_max: usize,
}

impl MountOptions {
    /// Defaults: everybody may enter, read-write, `nosuid`, `nodev`.
    #[must_use]
    pub fn new(mountpoint: impl Into<PathBuf>, source: impl Into<String>) -> MountOptions {
        MountOptions {
            mountpoint: mountpoint.into(),
            source: source.into(),
            allow_other: true,
            read_only: false,
            suid: false,
            dev: false,
            allow_nonempty: false,
            xattr: true,
            writeback_cache: false,
            transport: TransportChoice::Auto,
            keep: None,
            threads: 0,
            scheduling: Scheduling::Auto,
            clone_fd: false,
            write_bytes_max: 1024 * 1024,
            read_ahead_kib: 1024,
            deadline: Duration::from_secs(60),
            waiting_threads_max: 64,
            waiting_requests_max: 4096,
        }
    }

    /// Number of serving threads.
    pub(super) fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from).max(2),
            threads => threads,
        }
    }
}
