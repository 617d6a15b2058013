//! `/dev/fuse`, read and written by ourselves: one message per request and answer.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;
use nix::unistd::read;

use super::dispatch::dispatch;
use super::operations::Operations;
use super::wire::{Body, Header, InitIn, Malformed, OUT_HEADER_LEN, Operation, Outlet, out_header};

/// Room for headers before a request's bytes: the kernel gives nothing to a reader that has no
/// room for the largest write.
pub(super) const HEADERS_ROOM: usize = 4096;

/// What the kernel offers: the first message of a connection.
pub(super) fn read_init(message: &[u8]) -> Result<(u64, InitIn), Malformed> {
    let (header, fixed, rest) = Header::split(message)?;
    match Operation::decode(header.opcode, fixed, rest)? {
        Operation::Init(offered) => Ok((header.unique, offered)),
        _ => Err(Malformed::new("the first is not INIT")),
    }
}

/// Serves one message.
pub(super) fn serve_one(device: &Arc<OwnedFd>, message: &[u8], operations: &Operations) {
    let outlet = DeviceOutlet { device: Arc::clone(device), is_held: operations.is_held() };
    let decoded = Header::split(message).and_then(|(header, fixed, rest)| {
        Ok((header, Operation::decode(header.opcode, fixed, rest)?))
    });
    match (decoded, Header::decode(message)) {
        (Ok((header, operation)), _) => dispatch(operations, &header, operation, outlet),
        (Err(error), Ok(header)) => {
            tracing::error!(%error, opcode = header.opcode, "answered with EIO");
            outlet.send(header.unique, libc::EIO, Body::Empty);
        }
        (Err(error), Err(_)) => tracing::error!(%error, "dropped"),
    }
}

/// Whether the connection is no more.
pub(super) fn has_ended(device: &OwnedFd) -> bool {
    let mut all = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    let polled = poll(&mut all, PollTimeout::ZERO);
    let events = all[0].revents().unwrap_or(PollFlags::empty());
    polled.is_ok() && events.contains(PollFlags::POLLERR)
}

/// Waits for the next message.
pub(super) fn receive(device: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match read(device, buffer) {
            // ENOENT: the request was taken back while we read it.
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
            other => return other,
        }
    }
}

/// Sends one answer.
pub(super) fn write_message(
    device: &OwnedFd,
    unique: u64,
    error: i32,
    body: &[u8],
) -> io::Result<()> {
    let header = out_header(unique, error, body.len());
    let written = writev(device, &[IoSlice::new(&header), IoSlice::new(body)])?;
    debug_assert_eq!(written, OUT_HEADER_LEN + body.len(), "the kernel takes all or nothing");
    Ok(())
}

/// The way of the answer to a request that came by the device.
#[derive(Debug)]
struct DeviceOutlet {
    device: Arc<OwnedFd>,
    is_held: Arc<AtomicBool>,
}

impl Outlet for DeviceOutlet {
    fn send(self, unique: u64, error: i32, body: Body) {
        if self.is_held.load(Ordering::SeqCst) {
            return;
        }
        touch(body.as_bytes());
        if let Err(error) = write_message(&self.device, unique, error, body.as_bytes()) {
            // ENOENT: the request was interrupted, and nobody waits any more.
            tracing::debug!(unique, %error, "the kernel did not take an answer");
        }
    }
}

/// Has all pages of an answer there before the kernel copies it: it can't bring them in for a
/// process that is killed just then, and would answer with `EIO`. (Zeros that nobody has touched
/// are no pages yet.)
fn touch(body: &[u8]) {
    const PAGE_BYTES_MIN: usize = 4096;
    for byte in body.iter().step_by(PAGE_BYTES_MIN).chain(body.last()) {
        std::hint::black_box(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_connection_is_seen_as_the_kernel_shows_it() {
        // A pipe that nobody reads is shown like a connection that has ended.
        let (reader, writer) = nix::unistd::pipe().unwrap();
        assert!(!has_ended(&writer));
        drop(reader);
        assert!(has_ended(&writer));
    }
}
