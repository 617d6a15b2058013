//! `/dev/fuse` beside the rings: the handshake, then FORGET and INTERRUPT, and whatever else the
//! kernel sends there.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fuser::InitFlags;
use nix::errno::Errno;

use super::plan::{NoUring, Plan};
use crate::fuse::direct::{HEADERS_ROOM, read_init, receive, serve_one, write_message};
use crate::fuse::init;
use crate::fuse::operations::Operations;
use crate::fuse::options::MountOptions;
use crate::fuse::wire::{HEADER_LEN, Header, InitOut, opcodes};

/// Time that FORGETs have to gather.
const PAUSE: Duration = Duration::from_millis(2);

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
        if is_forget(&buffer[..len]) {
            // What comes meanwhile comes in one message: not each FORGET wakes a thread, and the
            // records of unlinked inodes go in one commit.
            std::thread::sleep(PAUSE);
        }
    }
}

fn is_forget(message: &[u8]) -> bool {
    let header = message.get(..HEADER_LEN).and_then(|header| Header::decode(header).ok());
    header.is_some_and(|header| [opcodes::FORGET, opcodes::BATCH_FORGET].contains(&header.opcode))
}

/// The kernel gives nothing to a reader that has no room for the largest write.
fn buffer_len(plan: &Plan) -> usize {
    plan.payload_bytes + HEADERS_ROOM
}
