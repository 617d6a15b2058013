//! Checks of a mountpoint before anything is mounted on it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::error::FuseError;
use super::mountinfo::{FS_TYPE, absolute, mount_at};

/// Checks that a workspace can be mounted at `mountpoint`, and gives its absolute path. For
/// whoever wants to know before anything else is done.
///
/// # Errors
/// Missing, not a directory, not empty, a mount of ours, or a dead mount.
pub fn check_mountpoint(mountpoint: &Path) -> Result<PathBuf, FuseError> {
    check(mountpoint, false)
}

/// Checks the mountpoint and gives its absolute path.
///
/// # Errors
/// Missing, not a directory, not empty (unless allowed), a mount of ours, or a dead mount.
pub(super) fn check(mountpoint: &Path, allow_nonempty: bool) -> Result<PathBuf, FuseError> {
    let path = absolute(mountpoint).map_err(|error| classify(mountpoint, error))?;
    // The table first: a stat of a mount whose daemon hangs would hang too.
    let mounted = mount_at(&path)
        .map_err(|error| FuseError::io("reading /proc/self/mountinfo", error))?
        .filter(|line| line.fs_type == FS_TYPE);
    if let Some(line) = mounted {
        return Err(match is_dead(&line) {
            true => FuseError::Dead(path),
            false => FuseError::AlreadyMounted { mountpoint: path, source_name: line.source },
        });
    }
    let metadata = fs::metadata(&path).map_err(|error| classify(&path, error))?;
    if !metadata.is_dir() {
        return Err(FuseError::NotADirectory(path));
    }
    // A symlink as the last component: the mount lands where it points.
    let path = path.canonicalize().map_err(|error| classify(&path, error))?;
    if !allow_nonempty {
        let mut entries = fs::read_dir(&path).map_err(|error| classify(&path, error))?;
        if entries.next().is_some() {
            return Err(FuseError::NotEmpty(path));
        }
    }
    Ok(path)
}

/// Whether a mount of ours has lost its daemon: its root then answers `ENOTCONN` without asking
/// anybody. Only a child may ask, because a living daemon that hangs would take us with it.
fn is_dead(line: &super::mountinfo::MountLine) -> bool {
    super::helper::is_disconnected(&line.mountpoint)
}

fn classify(path: &Path, error: io::Error) -> FuseError {
    if error.raw_os_error() == Some(libc::ENOTCONN) {
        return FuseError::Dead(path.to_owned());
    }
    match error.kind() {
        ErrorKind::NotFound => FuseError::Missing(path.to_owned()),
        ErrorKind::NotADirectory => FuseError::NotADirectory(path.to_owned()),
        _ => FuseError::io(format!("checking the mountpoint {}", path.display()), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_mountpoint_is_told_by_its_kind() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(check(&missing, false), Err(FuseError::Missing(path)) if path == missing));
        assert!(matches!(check(&missing.join("deep"), false), Err(FuseError::Missing(_))));
        assert!(matches!(check(&file, false), Err(FuseError::NotADirectory(_))));
        assert!(matches!(check(&file.join("below"), false), Err(FuseError::NotADirectory(_))));
        assert!(matches!(check(dir.path(), false), Err(FuseError::NotEmpty(_))));
        assert!(check(dir.path(), true).is_ok());
    }

    #[test]
    fn an_empty_directory_is_taken_also_through_a_symlink() {
        let dir = tempfile::TempDir::new().unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(check(&link, false).unwrap(), target.canonicalize().unwrap());
    }
}
