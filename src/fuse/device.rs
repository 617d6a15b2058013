//! Makes a mount and gives its `/dev/fuse` descriptor: `mount(2)` as root, else `fusermount3`.
//!
//! fuser can do this too, but leaves out the subtype and, after an unmount from outside, unmounts
//! once more whatever lies at the same path.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::MsFlags;

use super::error::FuseError;
use super::mountinfo::FS_TYPE;
use super::options::MountOptions;

/// The set-user-id program that mounts for users.
const HELPER: &str = "fusermount3";

/// A new mount's connection to the kernel.
pub(super) struct Device {
    /// `/dev/fuse`, bound to the mount. The INIT request waits in it.
    pub(super) fd: OwnedFd,
    /// Mounted by `fusermount3`, so it must also unmount.
    pub(super) by_helper: bool,
}

/// Mounts on `mountpoint` (absolute, checked).
///
/// # Errors
/// No device, no permission, or what the kernel or `fusermount3` says.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> Result<Device, FuseError> {
    match mount_directly(mountpoint, options)? {
        Some(fd) => Ok(Device { fd, by_helper: false }),
        None => Ok(Device { fd: mount_by_helper(mountpoint, options)?, by_helper: true }),
    }
}

/// Asks `fusermount3` to unmount.
pub(super) fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> Result<(), FuseError> {
    let mut command = Command::new(HELPER);
    command.args(["-u", "-q"]).args(lazy.then_some("-z")).arg("--").arg(mountpoint);
    let output = command.stdin(Stdio::null()).output().map_err(helper_missing)?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(mountpoint, String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// `None`: no permission, ask the helper.
fn mount_directly(mountpoint: &Path, options: &MountOptions) -> Result<Option<OwnedFd>, FuseError> {
    let device = match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(device) => OwnedFd::from(device),
        Err(error) => return Err(FuseError::NoDevice(error)),
    };
    let mut flags = MsFlags::MS_NOATIME;
    flags.set(MsFlags::MS_NOSUID, !options.suid);
    flags.set(MsFlags::MS_NODEV, !options.dev);
    flags.set(MsFlags::MS_RDONLY, options.read_only);
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        libc::S_IFDIR,
        nix::unistd::getuid(),
        nix::unistd::getgid(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    match nix::mount::mount(
        Some(options.source.as_str()),
        mountpoint,
        Some(FS_TYPE),
        flags,
        Some(data.as_str()),
    ) {
        Ok(()) => Ok(Some(device)),
        Err(Errno::EPERM) => Ok(None),
        Err(errno) => Err(refused(mountpoint, io::Error::from(errno).to_string())),
    }
}

/// The error for what the kernel or the helper said.
fn refused(mountpoint: &Path, reason: String) -> FuseError {
    let mountpoint = mountpoint.to_owned();
    let permission = ["not permitted", "ermission denied", "user_allow_other"];
    if permission.iter().any(|text| reason.contains(text)) {
        FuseError::NotPermitted { mountpoint, reason }
    } else if reason.contains("busy") {
        FuseError::Busy(mountpoint)
    } else {
        FuseError::Refused { mountpoint, reason }
    }
}

fn mount_by_helper(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, FuseError> {
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| FuseError::io("making a socket pair", error))?;
    let their_fd = theirs.as_raw_fd();
    let mut command = Command::new(HELPER);
    command
        .args(["-o", &helper_options(options), "--"])
        .arg(mountpoint)
        .env("_FUSE_COMMFD", their_fd.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: fcntl is async-signal-safe; the descriptor is open until spawn returns.
    unsafe {
        command.pre_exec(move || match libc::fcntl(their_fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let mut child = command.spawn().map_err(helper_missing)?;
    drop(theirs);
    let received = receive_fd(&ours);
    let mut reason = String::new();
    if let Some(stderr) = &mut child.stderr {
        // Best effort: the text only explains.
        let _ = stderr.read_to_string(&mut reason);
    }
    let status = child.wait().map_err(|error| FuseError::io("waiting for fusermount3", error))?;
    match received {
        Ok(fd) if status.success() => Ok(fd),
        Ok(_) | Err(_) if !reason.trim().is_empty() => {
            Err(refused(mountpoint, reason.trim().to_owned()))
        }
        Ok(_) => Err(refused(mountpoint, format!("fusermount3 ended with {status}"))),
        Err(error) => Err(FuseError::io("receiving the descriptor from fusermount3", error)),
    }
}

fn helper_options(options: &MountOptions) -> String {
    // A comma or backslash would end or escape the option. nosuid and nodev are the helper's rule.
    let source = options.source.replace([',', '\\'], "_");
    let mut list = format!("fsname={source},subtype=dormouse,default_permissions,noatime");
    list.push_str(if options.read_only { ",ro" } else { ",rw" });
    if options.allow_other {
        list.push_str(",allow_other");
    }
    list
}

fn helper_missing(error: io::Error) -> FuseError {
    match error.kind() {
        io::ErrorKind::NotFound => FuseError::NoHelper,
        _ => FuseError::io("starting fusermount3", error),
    }
}

/// Takes one descriptor out of a message (`SCM_RIGHTS`).
fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0_u8; 1];
    // Aligned as control messages must be; room for a header and one descriptor.
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let received = loop {
        // SAFETY: every pointer in the message points to live, sized memory.
        match unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) }
        {
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Err(io::Error::last_os_error()),
            bytes => break bytes,
        }
    };
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: the kernel filled the message; the macros stay within msg_controllen.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let is_rights = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS;
        if !is_rights {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let fd: RawFd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_is_asked_for_our_name_and_type() {
        let mut options = MountOptions::new("/mnt", "a,b");
        assert_eq!(
            helper_options(&options),
            "fsname=a_b,subtype=dormouse,default_permissions,noatime,rw,allow_other"
        );
        options.read_only = true;
        options.allow_other = false;
        assert!(helper_options(&options).ends_with(",noatime,ro"));
    }

    #[test]
    fn a_descriptor_comes_through_a_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(receive_fd(&ours).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
