//! `/dev/fuse` beside the rings: the handshake, then FORGET and INTERRUPT, and whatever else the
//! kernel sends there.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fuser::InitFlags;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;
use nix::unistd::read;

use super::plan::{NoUring, Plan};
use crate::fuse::dispatch::dispatch;
use crate::fuse::init;
use crate::fuse::operations::Operations;
use crate::fuse::options::MountOptions;
use crate::fuse::wire::{
    Body, Header, InitIn, InitOut, Malformed, OUT_HEADER_LEN, Operation, Outlet, out_header,
};

/// Room for headers before a request's bytes.
const HEADERS_ROOM: usize = 4096;

/// Agrees with the kernel on the mount, and on io_uring.
///
/// # Errors
/// The kernel does not offer it after all. The mount is of no use then.
pub(super) fn handshake(
    device: &OwnedFd,
    plan: &Plan,
    options: &MountOptions,
) -> Result<(), NoUring> {
    let mut buffer = vec![0; buffer_len(plan)];
    let len = receive(device, &mut buffer).map_err(|errno| NoUring::Refused(errno.into()))?;
    let (unique, offered) = read_init(&buffer[..len])
        .map_err(|error| NoUring::Refused(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    if !offered.is_known() || !offered.flags.contains(InitFlags::FUSE_OVER_IO_URING) {
        return Err(NoUring::Off);
    }
    let wanted = init::wanted(options) | InitFlags::FUSE_OVER_IO_URING;
    let answer = InitOut {
        read_ahead_bytes: offered.read_ahead_bytes,
        flags: wanted & offered.flags,
        background_max: init::BACKGROUND_MAX,
        write_bytes_max: init::write_bytes(options, plan.payload_bytes),
        pages_max: plan.pages_max(),
    };
    tracing::debug!(?offered, ?answer, missing = ?(wanted & !offered.flags), "INIT");
    write_message(device, unique, 0, &answer.encode()).map_err(NoUring::Refused)
}

fn read_init(message: &[u8]) -> Result<(u64, InitIn), Malformed> {
    let (header, fixed, rest) = Header::split(message)?;
    match Operation::decode(header.opcode, fixed, rest)? {
        Operation::Init(offered) => Ok((header.unique, offered)),
        _ => Err(Malformed::new("the first is not INIT")),
    }
}

/// Serves what comes by the device until the connection ends.
///
/// # Errors
/// The device can't be read.
pub(super) fn serve(device: &Arc<OwnedFd>, plan: &Plan, operations: &Operations) -> io::Result<()> {
    let mut buffer = vec![0; buffer_len(plan)];
    loop {
        let len = match receive(device, &mut buffer) {
            Ok(len) => len,
            Err(Errno::ENODEV) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        serve_one(device, &buffer[..len], operations);
    }
}

fn serve_one(device: &Arc<OwnedFd>, message: &[u8], operations: &Operations) {
    let outlet = DeviceOutlet(Arc::clone(device));
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

/// The kernel gives nothing to a reader that has no room for the largest write.
fn buffer_len(plan: &Plan) -> usize {
    plan.payload_bytes + HEADERS_ROOM
}

fn receive(device: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match read(device, buffer) {
            // ENOENT: the request was taken back while we read it.
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
            other => return other,
        }
    }
}

fn write_message(device: &OwnedFd, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
    let header = out_header(unique, error, body.len());
    let written = writev(device, &[IoSlice::new(&header), IoSlice::new(body)])?;
    debug_assert_eq!(written, OUT_HEADER_LEN + body.len(), "the kernel takes all or nothing");
    Ok(())
}

/// The way of the answer to a request that came by the device.
#[derive(Debug)]
struct DeviceOutlet(Arc<OwnedFd>);

impl Outlet for DeviceOutlet {
    fn send(self, unique: u64, error: i32, body: Body) {
        if let Err(error) = write_message(&self.0, unique, error, body.as_bytes()) {
            // ENOENT: the request was interrupted, and nobody waits any more.
            tracing::debug!(unique, %error, "the kernel did not take an answer");
        }
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
