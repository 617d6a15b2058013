//! What a keeper and its daemon say to each other: JSON in messages over a socket pair, one of them
//! with a descriptor.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fuse::Connection;

/// Longest message, bytes.
const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The mount is made; its descriptor comes along.
    Mounted(Estate),
    /// It is usable, or usable again.
    Ready,
    /// For the service manager, in its words.
    Notify(String),
    /// The daemon will end with [`super::HANDED_OVER`], for this program to take over.
    HandOver(PathBuf),
}

/// To the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Make the mount.
    Begin,
    /// Take this over; its descriptor is inherited.
    Adopt(Estate),
    /// The keeper has had so many signals that mean: leave.
    Signals(u32),
}

/// What a daemon leaves to the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estate {
    /// The connection to the kernel.
    pub connection: Connection,
    /// Absolute.
    pub cache_dir: PathBuf,
    /// How often the mount was taken over.
    #[serde(default)]
    pub adoptions: u32,
    /// Why the last upgrade did not take place; none: it did, or there was none.
    #[serde(default)]
    pub failed_upgrade: Option<String>,
}

/// One end.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Both ends, neither of them inherited.
    pub fn pair() -> io::Result<(Link, Link)> {
        let mut fds: [RawFd; 2] = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: room for two descriptors, which are ours from then on.
        let (one, other) = unsafe {
            Errno::result(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()))?;
            (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
        };
        Ok((Link::new(one), Link::new(other)))
    }

    pub fn new(socket: OwnedFd) -> Link {
        Link { socket }
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        self.send_with(message, None)
    }

    /// Sends a message and a descriptor.
    pub fn send_with<T: Serialize>(
        &self,
        message: &T,
        descriptor: Option<&OwnedFd>,
    ) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // Aligned as control messages must be; room for a header and one descriptor.
        let mut control = [0_u64; 8];
        // SAFETY: all-zero is a valid msghdr; its pointers are to live memory of these lengths; a
        // header and a descriptor fit in `control`.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            if let Some(descriptor) = descriptor {
                let len = size_of::<RawFd>() as u32;
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(len) as usize;
                let rights = libc::CMSG_FIRSTHDR(&raw const header);
                (*rights).cmsg_level = libc::SOL_SOCKET;
                (*rights).cmsg_type = libc::SCM_RIGHTS;
                (*rights).cmsg_len = libc::CMSG_LEN(len) as usize;
                libc::CMSG_DATA(rights).cast::<RawFd>().write_unaligned(descriptor.as_raw_fd());
            }
            let socket = self.socket.as_raw_fd();
            Errno::result(libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL))?;
        }
        Ok(())
    }

    /// Waits for a message; none: the other end is gone. One that is not understood, from another
    /// version, is passed over.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        loop {
            let mut bytes = vec![0_u8; MESSAGE_LEN_MAX];
            let (len, descriptor) = self.receive_bytes(&mut bytes)?;
            if len == 0 {
                return Ok(None);
            }
            match serde_json::from_slice(&bytes[..len]) {
                Ok(message) => return Ok(Some((message, descriptor))),
                Err(error) => tracing::warn!(%error, "a message is not understood"),
            }
        }
    }

    /// As `receive`, without waiting; none: there is no message.
    pub fn try_receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut all = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut all, PollTimeout::ZERO)?;
        let events = all[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) { self.receive() } else { Ok(None) }
    }

    /// Whether the other end is gone and all of its messages were read.
    pub fn is_closed(&self) -> io::Result<bool> {
        let mut all = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut all, PollTimeout::ZERO)?;
        let events = all[0].revents().unwrap_or(PollFlags::empty());
        Ok(events.contains(PollFlags::POLLHUP))
    }

    fn receive_bytes(&self, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut control = [0_u64; 8];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: as in `send_with`; the kernel fills the header, and the macros stay within
        // msg_controllen. A descriptor that came is ours.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control);
            let socket = self.socket.as_raw_fd();
            let len = loop {
                match libc::recvmsg(socket, &raw mut header, libc::MSG_CMSG_CLOEXEC) {
                    -1 if Errno::last() == Errno::EINTR => {}
                    // Whoever had the other end was killed with a message of ours unread.
                    -1 if Errno::last() == Errno::ECONNRESET => break 0,
                    -1 => return Err(io::Error::last_os_error()),
                    len => break usize::try_from(len).unwrap_or(0),
                }
            };
            let rights = libc::CMSG_FIRSTHDR(&raw const header);
            let is_rights = !rights.is_null()
                && (*rights).cmsg_level == libc::SOL_SOCKET
                && (*rights).cmsg_type == libc::SCM_RIGHTS;
            let descriptor = is_rights
                .then(|| libc::CMSG_DATA(rights).cast::<RawFd>().read_unaligned())
                .map(|fd| OwnedFd::from_raw_fd(fd));
            Ok((len, descriptor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn messages_come_whole_and_a_descriptor_with_its_own() {
        let (one, other) = Link::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        one.send(&Told::Ready).unwrap();
        one.send_with(&Told::Notify("STATUS=x".into()), Some(&writer.into())).unwrap();
        let (first, nothing) = other.receive::<Told>().unwrap().unwrap();
        assert_eq!(first, Told::Ready);
        assert!(nothing.is_none());
        let (second, descriptor) = other.receive::<Told>().unwrap().unwrap();
        assert_eq!(second, Told::Notify("STATUS=x".into()));
        std::fs::File::from(descriptor.unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(other.try_receive::<Told>().unwrap().is_none());
        other.send(&Order::Signals(1)).unwrap();
        drop(one);
        assert!(other.receive::<Told>().unwrap().is_none(), "the end");
    }
}
