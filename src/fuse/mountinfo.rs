//! The kernel's mount table, read without touching any mount.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// File system type of our mounts.
pub(super) const FS_TYPE: &str = "fuse.dormouse";

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountLine {
    /// Major device number; 0 for a FUSE mount.
    pub(super) major: u32,
    /// Minor device number; of a FUSE mount also the connection's number.
    pub(super) minor: u32,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// Type, with the subtype.
    pub(super) fs_type: String,
    /// The source.
    pub(super) source: String,
}

/// The topmost mount at exactly this path, if there is one.
pub(super) fn mount_at(path: &Path) -> io::Result<Option<MountLine>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(topmost(&table, path))
}

fn topmost(table: &[u8], path: &Path) -> Option<MountLine> {
    // Later lines lie over earlier ones.
    table.split(|&b| b == b'\n').filter_map(parse).rfind(|line| line.mountpoint == path)
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/sda rw`: what stands before the dash
/// varies in number.
fn parse(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut after_dash = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |bytes: &[u8]| String::from_utf8_lossy(&unescape(bytes)).into_owned();
    Some(MountLine {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        mountpoint: PathBuf::from(std::ffi::OsString::from_vec(mountpoint)),
        fs_type: text(after_dash.next()?),
        source: text(after_dash.next()?),
    })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(u8::is_ascii_digit));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |sum, d| sum * 8 + u32::from(d - b'0'));
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// The absolute path of a mountpoint, resolved up to its last component: resolving that one
/// would enter what is mounted there, and a dead mount answers with an error or never.
pub(super) fn absolute(mountpoint: &Path) -> io::Result<PathBuf> {
    let mountpoint = std::path::absolute(mountpoint)?;
    match (mountpoint.parent(), mountpoint.file_name()) {
        (Some(parent), Some(name)) if name.as_bytes() != b".." => {
            Ok(parent.canonicalize()?.join(name))
        }
        _ => mountpoint.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 22 0:45 / /mnt/a\\040b rw shared:1 master:2 - fuse.dormouse dormouse:x rw,user_id=0\n\
        31 22 0:50 / /mnt rw - tmpfs tmpfs rw\n\
        32 22 0:51 / /mnt rw - fuse.dormouse dormouse:over rw\n";

    #[test]
    fn the_topmost_mount_at_a_path_is_found_with_its_device() {
        let top = topmost(TABLE, Path::new("/mnt")).unwrap();
        assert_eq!((top.minor, top.source.as_str()), (51, "dormouse:over"));
        let spaced = topmost(TABLE, Path::new("/mnt/a b")).unwrap();
        assert_eq!((spaced.major, spaced.minor), (0, 45));
        assert_eq!(spaced.fs_type, FS_TYPE);
        assert_eq!(topmost(TABLE, Path::new("/mnt/a")), None);
    }

    #[test]
    fn this_machines_table_has_a_root() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
    }
}
