//! One owner per directory: an advisory lock on a file that holds the owner's process id.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::LocalError;

/// The lock's file name in the directory.
pub(super) const LOCK_NAME: &str = "lock";

/// The lock; the kernel frees it when this is dropped or the process dies.
#[derive(Debug)]
pub(super) struct DirLock {
    _held: Flock<File>,
}

impl DirLock {
    /// Takes the lock or tells who has it. Does not wait.
    pub(super) fn take(dir: &Path) -> Result<DirLock, LocalError> {
        let path = dir.join(LOCK_NAME);
        // Not truncated here: until the lock is ours the content is the owner's.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| LocalError::io("open", &path, error))?;
        let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((file, Errno::EWOULDBLOCK)) => {
                return Err(LocalError::Locked { path: dir.to_owned(), pid: owner(file) });
            }
            Err((_, errno)) => return Err(LocalError::io("lock", &path, errno.into())),
        };
        // The pid is for people; a disk too full to hold it does not stop the owner.
        let _ = held.set_len(0);
        let _ = held.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0);
        Ok(DirLock { _held: held })
    }
}

fn owner(mut file: File) -> u32 {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_with_the_first_one_s_pid() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        match DirLock::take(dir.path()) {
            Err(LocalError::Locked { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(first);
        DirLock::take(dir.path()).unwrap();
    }
}
