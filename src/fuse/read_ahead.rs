//! Raises a mount's read-ahead: the kernel's 128 KiB would make a large file many small reads.

use std::fs;
use std::path::PathBuf;

use super::mountinfo::MountLine;

/// Sets the read-ahead of a mount's device. Without the permission (not root, `/sys` read-only)
/// the kernel's default stays; that is logged and no error.
pub(super) fn set(mount: &MountLine, kib: u32) {
    let path = setting(mount);
    if let Err(error) = fs::write(&path, kib.to_string()) {
        tracing::debug!(path = %path.display(), %error, "read-ahead stays at the kernel's default");
    }
}

fn setting(mount: &MountLine) -> PathBuf {
    PathBuf::from(format!("/sys/class/bdi/{}:{}/read_ahead_kb", mount.major, mount.minor))
}
