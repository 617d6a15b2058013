//! Short-lived child processes for whatever touches the mount.
//!
//! The process that serves a mount must not wait on it: a thread of ours inside the mount keeps
//! `/dev/fuse` open when we are killed, so nobody would ever answer it. A forked child that has
//! closed every descriptor can block, and be left behind, without harm.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::direct::has_ended;

/// How long a child may take to open two files of a mount.
const PRIME_MILLIS_MAX: u32 = 5_000;

/// How long a child may take to unmount: it writes back what is dirty.
const UNMOUNT_MILLIS_MAX: u32 = 120_000;

/// How long a child may take to abort a connection.
const ABORT_MILLIS_MAX: u32 = 10_000;

/// How long a child may take to find a mount dead.
const PROBE_MILLIS_MAX: u32 = 1_000;

/// Opens and closes the root directory and one file in it, once each.
pub(super) fn open_once(root: &Path, file: &Path) -> io::Result<()> {
    let root = c_path(root)?;
    let file = c_path(file)?;
    run(PRIME_MILLIS_MAX, &|| {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY;
        // SAFETY: both are NUL-terminated and live in the parent's copied memory.
        let fds = unsafe {
            [libc::open(file.as_ptr(), flags), libc::open(root.as_ptr(), flags | libc::O_DIRECTORY)]
        };
        let failed = fds.iter().any(|fd| *fd < 0);
        let errno = if failed { nix::errno::Errno::last_raw() } else { 0 };
        for fd in fds {
            // SAFETY: closing a descriptor that was just opened, or -1.
            unsafe { libc::close(fd) };
        }
        errno
    })
}

/// `syncfs(2)`: the kernel hands over all pages of the mount that programs have changed.
pub(super) fn sync(mountpoint: &Path, millis_max: u32) -> io::Result<()> {
    let path = c_path(mountpoint)?;
    run(millis_max, &|| {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_DIRECTORY;
        // SAFETY: a NUL-terminated path; the descriptor dies with the child.
        let synced = unsafe {
            let fd = libc::open(path.as_ptr(), flags);
            fd >= 0 && libc::syncfs(fd) == 0
        };
        if synced { 0 } else { nix::errno::Errno::last_raw() }
    })
}

/// `umount2(2)` with these flags.
pub(super) fn unmount(mountpoint: &Path, flags: i32) -> io::Result<()> {
    let path = c_path(mountpoint)?;
    run(UNMOUNT_MILLIS_MAX, &|| {
        // SAFETY: a NUL-terminated path.
        match unsafe { libc::umount2(path.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) } {
            0 => 0,
            _ => nix::errno::Errno::last_raw(),
        }
    })
}

/// Aborts the connection behind `device` by its number, through fusectl, unless it has ended:
/// another mount may have its number by now. Where fusectl is not mounted (containers), the child
/// mounts it for itself, in a mount namespace of its own.
pub(super) fn abort(connection: u32, device: &OwnedFd) -> io::Result<()> {
    if has_ended(device) {
        return Ok(());
    }
    const CONTROL: &CStr = c"/sys/fs/fuse/connections";
    let file = CString::new(format!("/sys/fs/fuse/connections/{connection}/abort"))?;
    let device = device.as_raw_fd();
    run_with(Some(device), ABORT_MILLIS_MAX, &|| {
        // SAFETY: NUL-terminated paths; system calls only.
        unsafe {
            let mut fd = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if fd < 0 {
                let none = std::ptr::null();
                let own = libc::MS_REC | libc::MS_PRIVATE;
                let kind = c"fusectl".as_ptr();
                let is_mounted = libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(none, c"/".as_ptr(), none, own, none.cast()) == 0
                    && libc::mount(kind, CONTROL.as_ptr(), kind, 0, none.cast()) == 0;
                if is_mounted {
                    fd = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                }
            }
            if fd < 0 {
                return nix::errno::Errno::last_raw();
            }
            // After the open: a connection that lives now had its number then, and the file stays
            // its own, whoever gets the number next.
            let mut polled = libc::pollfd { fd: device, events: 0, revents: 0 };
            if libc::poll(&raw mut polled, 1, 0) == 1 && polled.revents & libc::POLLERR != 0 {
                return 0;
            }
            match libc::write(fd, c"1".as_ptr().cast(), 1) {
                1 => 0,
                _ => nix::errno::Errno::last_raw(),
            }
        }
    })
}

/// Whether a mount's root answers `ENOTCONN`. A mount that does not answer at all is not dead.
pub(super) fn is_disconnected(mountpoint: &Path) -> bool {
    let Ok(path) = c_path(mountpoint) else { return false };
    let answer = run(PROBE_MILLIS_MAX, &|| {
        // Not `open`: with its attributes cached the kernel opens a directory without asking, and
        // a dead mount would pass for a living one. `statfs` always asks.
        // SAFETY: a NUL-terminated path, and room for the answer, which may be all zeros.
        unsafe {
            let mut answer: libc::statfs = std::mem::zeroed();
            match libc::statfs(path.as_ptr(), &mut answer) {
                0 => 0,
                _ => nix::errno::Errno::last_raw(),
            }
        }
    });
    // The others: its daemon went while this was waiting for its answer, the last over io_uring.
    let gone = [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED];
    answer.is_err_and(|error| error.raw_os_error().is_some_and(|errno| gone.contains(&errno)))
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Runs `work` in a child without descriptors. It gives an errno, 0 for success.
///
/// `work` runs in a fork of a process with many threads: it may make system calls, and must not
/// allocate, lock or panic.
fn run(millis_max: u32, work: &dyn Fn() -> i32) -> io::Result<()> {
    run_with(None, millis_max, work)
}

/// As [`run`], with one descriptor.
fn run_with(kept: Option<RawFd>, millis_max: u32, work: &dyn Fn() -> i32) -> io::Result<()> {
    // SAFETY: the child makes system calls only, then _exit.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: plain system calls. Without closing, the child would keep /dev/fuse open.
            unsafe {
                let close = |from: i64, to: i64| libc::syscall(libc::SYS_close_range, from, to, 0);
                let kept = kept.map_or(2, i64::from).max(2);
                if kept > 3 {
                    close(3, kept - 1);
                }
                close(kept + 1, libc::c_uint::MAX.into());
                libc::_exit(work());
            }
        }
        ForkResult::Parent { child } => {
            let mut waited_millis = 0;
            let mut pause_millis = 1;
            loop {
                match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                    Ok(WaitStatus::Exited(_, errno)) => {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    Ok(WaitStatus::Signaled(..)) => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    // Somebody else reaps children (SIGCHLD ignored): the outcome is unknown.
                    Err(errno) => return Err(errno.into()),
                }
                if waited_millis >= millis_max {
                    abandon(child);
                    return Err(io::ErrorKind::TimedOut.into());
                }
                thread::sleep(Duration::from_millis(pause_millis.into()));
                waited_millis += pause_millis;
                pause_millis = (pause_millis * 2).min(20);
            }
        }
    }
}

/// Kills a late child and leaves its reaping to a thread: it may not die before it is answered.
fn abandon(child: nix::unistd::Pid) {
    let _ = kill(child, Signal::SIGKILL);
    let reaper = thread::Builder::new().name("dormouse-reaper".to_owned());
    // Without a thread the child stays a zombie until we exit.
    let _ = reaper.spawn(move || waitpid(child, None));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_errno_comes_back() {
        assert!(run(5_000, &|| 0).is_ok());
        let error = run(5_000, &|| libc::EBUSY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    }

    #[test]
    fn a_child_that_hangs_is_given_up() {
        let error = run(20, &|| {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
            0
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_directory_of_the_local_disk_is_not_a_dead_mount() {
        assert!(!is_disconnected(Path::new("/")));
        assert!(!is_disconnected(Path::new("/does/not/exist")));
    }
}
