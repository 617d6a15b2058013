//! Serves one connection from the handshake, or from another daemon's death, to its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use fuser::InitFlags;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::buffer::Buffer;
use super::is_resent;
use crate::fuse::direct::{HEADERS_ROOM, read_init, receive, serve_one, write_message};
use crate::fuse::error::FuseError;
use crate::fuse::init;
use crate::fuse::operations::Operations;
use crate::fuse::options::MountOptions;
use crate::fuse::watchdog::Aborter;
use crate::fuse::wire::{self, HEADER_LEN, Header, InitOut, MAJOR, Malformed, opcodes};

/// Pages of the largest write.
const PAGE_BYTES: u32 = 4096;

/// How often the kernel is asked for inherited orphans.
const ORPHANS_PAUSE: Duration = Duration::from_secs(2);

/// A connection and what serves it.
#[derive(Debug)]
pub(in crate::fuse) struct Session {
    device: Arc<OwnedFd>,
    operations: Arc<Operations>,
    aborter: Aborter,
    threads: usize,
    write_bytes_max: u32,
    /// Taken over from a daemon that died.
    is_adopted: bool,
}

impl Session {
    /// Agrees with the kernel on a new mount.
    ///
    /// # Errors
    /// `NoResend`: this kernel can't send requests again. The mount is of no use then.
    pub(in crate::fuse) fn agree(
        device: OwnedFd,
        operations: Operations,
        options: &MountOptions,
        aborter: &Aborter,
    ) -> Result<Session, FuseError> {
        let failed = |error| FuseError::io("agreeing with the kernel on the mount", error);
        let malformed = |error: Malformed| failed(io::Error::other(error));
        let write_bytes_max = init::write_bytes(options, usize::MAX);
        let mut buffer = vec![0; buffer_len(write_bytes_max)];
        let len = receive(&device, &mut buffer).map_err(|errno| failed(errno.into()))?;
        let (unique, offered) = read_init(&buffer[..len]).map_err(malformed)?;
        if offered.major != MAJOR || !offered.flags.contains(InitFlags::FUSE_HAS_RESEND) {
            return Err(FuseError::NoResend);
        }
        let wanted = init::wanted(options) | InitFlags::FUSE_HAS_RESEND;
        let pages = write_bytes_max.div_ceil(PAGE_BYTES);
        let answer = InitOut {
            read_ahead_bytes: offered.read_ahead_bytes,
            flags: wanted & offered.flags,
            background_max: init::BACKGROUND_MAX,
            write_bytes_max,
            pages_max: u16::try_from(pages).unwrap_or(u16::MAX),
        };
        tracing::debug!(?offered, ?answer, missing = ?(wanted & !offered.flags), "INIT");
        write_message(&device, unique, 0, &answer.encode()).map_err(failed)?;
        Ok(Session {
            device: Arc::new(device),
            operations: Arc::new(operations),
            aborter: aborter.clone(),
            threads: options.threads(),
            write_bytes_max,
            is_adopted: false,
        })
    }

    /// Takes over a connection that another daemon agreed on.
    pub(in crate::fuse) fn adopt(
        device: OwnedFd,
        operations: Operations,
        options: &MountOptions,
        aborter: &Aborter,
        write_bytes_max: u32,
    ) -> Session {
        Session {
            device: Arc::new(device),
            operations: Arc::new(operations),
            aborter: aborter.clone(),
            threads: options.threads(),
            write_bytes_max,
            is_adopted: true,
        }
    }

    pub(in crate::fuse) fn device(&self) -> &OwnedFd {
        &self.device
    }

    pub(in crate::fuse) fn write_bytes_max(&self) -> u32 {
        self.write_bytes_max
    }

    /// Serves until the connection ends, and all that was begun. If serving ends before, it ends
    /// the connection: another process holds it open.
    ///
    /// # Errors
    /// `/dev/fuse` can't be read.
    pub(in crate::fuse) fn run(self) -> io::Result<()> {
        let taken_up = if self.is_adopted { guarded(|| self.take_up()) } else { Ok(()) };
        let served = taken_up.and_then(|()| self.serve_on_threads());
        self.end_connection();
        self.operations.close();
        served
    }

    fn end_connection(&self) {
        if let Err(error) = self.aborter.abort(&self.device) {
            tracing::error!(%error, "the mount can't be aborted");
        }
    }

    /// Has the kernel send again what it has no answer to, and serves that before anything else.
    ///
    /// What comes again stands before everything that is new, so when something new comes, all of
    /// it was seen: no other request of the daemon before is ever asked for, and what is known of
    /// them can go.
    fn take_up(&self) -> io::Result<()> {
        match nix::unistd::write(&*self.device, &wire::resend()) {
            Ok(_) => {}
            Err(Errno::ENODEV) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let mut buffer = Buffer::new(buffer_len(self.write_bytes_max))?;
        let mut again = Vec::new();
        while is_readable(&self.device)? {
            let len = match receive(&self.device, &mut buffer) {
                Ok(len) => len,
                Err(Errno::ENODEV) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            let message = &buffer[..len];
            let header = message.get(..HEADER_LEN).and_then(|header| Header::decode(header).ok());
            let is_new = header.is_some_and(|header| {
                // Beside the queue, in no order with it.
                let is_apart = [opcodes::FORGET, opcodes::BATCH_FORGET, opcodes::INTERRUPT]
                    .contains(&header.opcode);
                !is_apart && !is_resent(header.unique)
            });
            if is_new {
                self.operations.forget_requests_but(&again);
            }
            again.extend(header.map(|header| header.unique).filter(|&unique| is_resent(unique)));
            serve_one(&self.device, message, &self.operations);
            if is_new {
                tracing::info!(requests = again.len(), "requests came again");
                return Ok(());
            }
        }
        self.operations.forget_requests_but(&again);
        tracing::info!(requests = again.len(), "requests came again");
        Ok(())
    }

    fn serve_on_threads(&self) -> io::Result<()> {
        let (end, has_ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            if self.is_adopted {
                let named = thread::Builder::new().name("dormouse-heir".to_owned());
                named.spawn_scoped(scope, move || self.ask_for_orphans(&has_ended))?;
            }
            let mut others = Vec::new();
            for number in 1..self.threads {
                let named = thread::Builder::new().name(format!("dormouse-fuse-{number}"));
                match named.spawn_scoped(scope, || self.serve_here()) {
                    Ok(thread) => others.push(thread),
                    // Fewer serve as well.
                    Err(error) => tracing::warn!(%error, "starting a serving thread"),
                }
            }
            let mut served = self.serve_here();
            for other in others {
                let other = other.join().unwrap_or_else(|_| Err(io::Error::other("a panic")));
                served = served.and(other);
            }
            drop(end);
            served
        })
    }

    /// One thread's loop. An error of one ends all.
    fn serve_here(&self) -> io::Result<()> {
        let served = guarded(|| self.serve());
        if served.is_err() {
            self.end_connection();
        }
        served
    }

    fn serve(&self) -> io::Result<()> {
        let mut buffer = Buffer::new(buffer_len(self.write_bytes_max))?;
        loop {
            let len = match receive(&self.device, &mut buffer) {
                Ok(len) => len,
                Err(Errno::ENODEV) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            serve_one(&self.device, &buffer[..len], &self.operations);
        }
    }

    /// Ends unlinked inodes that the daemon before had told the kernel of, when the kernel does not
    /// know them any more: how often it was told is not known here, so its FORGETs do not say.
    fn ask_for_orphans(&self, end: &mpsc::Receiver<()>) {
        while end.recv_timeout(ORPHANS_PAUSE) == Err(RecvTimeoutError::Timeout) {
            self.operations.ask_for_orphans();
        }
    }
}

/// The kernel gives nothing to a reader that has no room for the largest write.
fn buffer_len(write_bytes_max: u32) -> usize {
    write_bytes_max as usize + HEADERS_ROOM
}

fn is_readable(device: &OwnedFd) -> io::Result<bool> {
    let mut all = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut all, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

fn guarded(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("a serving thread panicked")))
}
