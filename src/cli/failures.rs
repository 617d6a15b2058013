//! What the layers below report, as exit codes and messages: the one place that maps them.

use super::exit::{Code, Failure};
use crate::control::{ClientError, RegistryError};
use crate::fuse::FuseError;
use crate::local::LocalError;
use crate::remote::RemoteError;
use crate::workspace::WorkspaceError;

/// For a store that was there before.
const GONE: &str = "is its volume mounted? Nothing is lost: what is not in the store is kept here";

/// For a local disk that takes no writes.
const FAILED: &str = "the local disk fails or is read-only: what was synced is on it. Unmount, see \
    to the disk, mount again: that goes on from what is there";

/// How a device fails, and a file system that has seen that.
fn is_disk_failure(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS))
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Failure {
        let failure = |code| Failure::new(code, &error);
        match &error {
            RemoteError::BadUrl { .. } => {
                failure(Code::Usage).hint("a store is file:///DIR or s3://BUCKET[/PREFIX]")
            }
            RemoteError::Absent { .. } => failure(Code::NotFound),
            RemoteError::NoStore { .. } => failure(Code::NotFound).hint(
                "is the address right, and its volume mounted? For a new store: `dormouse init` \
                 makes the directory of a file: store; a bucket must exist",
            ),
            RemoteError::NotPermitted { .. } => failure(Code::Denied).hint(format!(
                "user {} must be able to read and write it, and its file system not be mounted \
                 read-only",
                nix::unistd::geteuid()
            )),
            RemoteError::BadDirectory { .. } => {
                failure(Code::Usage).hint("name another directory: --store file:///DIR")
            }
            RemoteError::Denied { .. } => failure(Code::Denied).hint(
                "credentials come from the standard AWS chain: AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, --profile, web identity, instance metadata",
            ),
            RemoteError::Unavailable { .. } | RemoteError::Ambiguous { .. } => {
                failure(Code::Unreachable).hint("try again; --store-timeout waits longer")
            }
            RemoteError::Conflict { .. } => failure(Code::LeaseHeld),
            RemoteError::Full { .. } => failure(Code::NoSpace),
            RemoteError::Corrupt { .. } => failure(Code::Damaged),
            RemoteError::NoConditions { .. } => failure(Code::NoConditions),
            RemoteError::Refused { .. } => {
                failure(Code::Usage).hint("look at --endpoint, --region and --path-style")
            }
            RemoteError::BadKey { .. } => failure(Code::Internal),
        }
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Failure {
        let failure = |code| Failure::new(code, &error);
        match &error {
            LocalError::Locked { pid, .. } => {
                failure(Code::Busy).hint(format!("`dormouse status` shows its mount; ps {pid}"))
            }
            LocalError::Foreign { .. } => {
                failure(Code::Diverged).hint("give an empty directory as --cache-dir")
            }
            LocalError::Version { .. } | LocalError::Corrupt { .. } => failure(Code::Damaged),
            LocalError::Full => failure(Code::NoSpace).hint("make room on it; nothing is lost"),
            LocalError::Quota { .. } => {
                failure(Code::NoSpace).hint("raise --cache-size, or wait for the upload")
            }
            LocalError::Poisoned { .. } => failure(Code::Internal).hint(FAILED),
            LocalError::Io { source, .. } if is_disk_failure(source) => {
                failure(Code::Internal).hint(FAILED)
            }
            LocalError::TooLarge { .. }
            | LocalError::NotStaged(_)
            | LocalError::Closed
            | LocalError::Io { .. }
            | LocalError::Rocks(_) => failure(Code::Internal),
        }
    }
}

impl Failure {
    /// The failure of a seal: a store that is missing is then a store that does not answer, as
    /// "not found" would read as "nothing is mounted, all is well" to a script.
    #[must_use]
    pub fn of_seal(error: WorkspaceError) -> Failure {
        let is_gone = matches!(
            error,
            WorkspaceError::NoStore | WorkspaceError::Remote(RemoteError::NoStore { .. })
        );
        let mut failure = Failure::from(error);
        if failure.code == Code::NotFound {
            failure.code = Code::Unreachable;
            failure.hint = is_gone.then(|| GONE.to_owned());
        }
        failure
    }
}

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Failure {
        let failure = |code| Failure::new(code, &error);
        match error {
            WorkspaceError::Remote(error) => Failure::from(error),
            WorkspaceError::Local(error) => Failure::from(error),
            WorkspaceError::NoStore
            | WorkspaceError::NoWorkspace { .. }
            | WorkspaceError::NoSnapshot { .. } => failure(Code::NotFound),
            WorkspaceError::LeaseHeld { .. } => failure(Code::LeaseHeld).hint(
                "wait, or mount with --steal if that machine is known to be dead: what it has not \
                 put into the store stays on its disk",
            ),
            WorkspaceError::Fenced { .. } => failure(Code::Fenced),
            WorkspaceError::Diverged { .. }
            | WorkspaceError::WrongDirectory { .. }
            | WorkspaceError::Unsynced { .. } => failure(Code::Diverged),
            WorkspaceError::ReadOnly { .. } => failure(Code::Usage),
            WorkspaceError::Scratch { .. } => {
                failure(Code::Usage).hint("name another with --scratch-dir; it needs room")
            }
            WorkspaceError::Closed { .. }
            | WorkspaceError::NoRandom { .. }
            | WorkspaceError::NoThreads { .. } => failure(Code::Internal),
            WorkspaceError::StoreGone { .. } => failure(Code::Unreachable).hint(GONE),
            WorkspaceError::Unavailable { .. } => failure(Code::Unreachable).hint(
                "nothing is lost: what is not in the store is kept on this machine, and a later \
                 try goes on from there",
            ),
            WorkspaceError::Stopped => failure(Code::Unreachable),
            WorkspaceError::NewerFormat { .. } | WorkspaceError::Corrupt { .. } => {
                failure(Code::Damaged)
            }
        }
    }
}

impl From<FuseError> for Failure {
    fn from(error: FuseError) -> Failure {
        let failure = |code| Failure::new(code, &error);
        match &error {
            FuseError::Missing(_) | FuseError::NotADirectory(_) | FuseError::NotEmpty(_) => {
                failure(Code::Usage)
            }
            FuseError::AlreadyMounted { .. } | FuseError::Dead(_) | FuseError::Busy(_) => {
                failure(Code::Busy)
            }
            FuseError::NoDevice(source) => failure(Code::CannotMount).hint(no_device(source)),
            FuseError::NoUring(_) => failure(Code::CannotMount),
            FuseError::Ended(_) => failure(Code::NotFound),
            FuseError::NoResend => failure(Code::CannotMount),
            FuseError::NoHelper | FuseError::NotPermitted { .. } | FuseError::Refused { .. } => {
                failure(Code::CannotMount)
            }
            FuseError::Io { .. } => failure(Code::Internal),
        }
    }
}

/// What helps where `/dev/fuse` can't be opened.
fn no_device(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        // By its permissions; what a container's rules forbid is EPERM.
        Some(libc::EACCES) => {
            "its permissions keep this user out: as root, `chmod 666 /dev/fuse` (the rules of \
             package fuse3 do that at each boot), or mount as root"
        }
        _ => {
            "load the kernel's module (`modprobe fuse`); a container needs --device /dev/fuse \
             --cap-add SYS_ADMIN"
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        match error {
            RegistryError::Untrusted { .. } => Failure::usage(error),
            RegistryError::Io { .. } => Failure::new(Code::Internal, error)
                .hint("DORMOUSE_RUNTIME_DIR names another place for it"),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Refused(refusal) => Failure::from(refusal),
            ClientError::Gone { .. } => Failure::new(Code::NotFound, error),
            ClientError::Late { .. } => {
                Failure::new(Code::Internal, error).hint("is the daemon stopped? see its log")
            }
            ClientError::Broken { .. } => Failure::new(Code::Internal, error)
                .hint("nothing is lost: see the daemon's log, then mount or hibernate again"),
        }
    }
}
