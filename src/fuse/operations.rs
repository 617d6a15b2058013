//! Each operation as one call of `fs`, whatever transport asks for it. No decisions here but
//! those that the protocol asks for.

mod attributes;
mod content;
mod names;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fuser::Errno;

use super::answer::{Answer, AnswerEmpty, AnswerListing, AnswerListingPlus, AnswerStatFs};
use super::count::Opcode;
use super::list;
use super::mount::Parts;
use super::options::MountOptions;
use super::prime::Prime;
use super::serve::{Call, Origin, Server};
use crate::fs::{At, Caller, Filesystem, FsError};
use crate::types::{Ino, Name, NameError};

/// What takes longer to read than to be handed to another thread. Programs get it through
/// read-ahead, in pieces of up to 1 MiB.
const READ_APART_BYTES_MIN: u32 = 128 * 1024;

/// The operations of one mount; shared by its threads.
#[derive(Debug)]
pub(super) struct Operations {
    server: Server,
    has_xattr: bool,
    /// Reads of so many bytes are served by other threads.
    reads_apart_from: Option<u32>,
    parts: Parts,
}

/// A name in a directory, not yet found to be one.
#[derive(Debug)]
pub(super) struct Place {
    directory: Ino,
    name: Result<Name, NameError>,
}

impl Place {
    pub(super) fn new(directory: Ino, name: &[u8]) -> Place {
        Place { directory, name: Name::new(name) }
    }

    /// The place, or the error that the request is answered with.
    fn at(&self) -> Result<At<'_>, FsError> {
        match &self.name {
            Ok(name) => Ok(At { directory: self.directory, name }),
            Err(error) => Err((*error).into()),
        }
    }
}

/// Permission bits of a new file, and those that it does not get.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewMode {
    pub(super) mode: u32,
    pub(super) umask: u32,
}

fn done<A: AnswerEmpty>((): (), answer: A) {
    answer.done();
}

/// It was done before.
fn done_again(_: &Filesystem, _: &Caller, _: u64) -> Result<(), FsError> {
    Ok(())
}

impl Operations {
    pub(super) fn new(fs: Arc<Filesystem>, options: &MountOptions, parts: Parts) -> Operations {
        let server = Server::new(fs, options, parts.clone());
        Operations { server, has_xattr: options.xattr, reads_apart_from: None, parts }
    }

    /// For a transport whose threads each serve one core: a program that reads a large file
    /// leaves its own core's thread nothing to run beside, and the other cores idle.
    pub(super) fn with_reads_apart(self) -> Operations {
        Operations { reads_apart_from: Some(READ_APART_BYTES_MIN), ..self }
    }

    /// Waits for the operations that wait, and answers those that did not begin.
    pub(super) fn close(&self) {
        self.server.close();
    }

    /// Counts and refuses a request that the kernel is told not to send again.
    pub(super) fn unwanted(&self, opcode: Opcode, answer: impl Answer) {
        self.refuse(opcode, Errno::ENOSYS, answer);
    }

    /// Counts a request and answers it with an error.
    pub(super) fn refuse(&self, opcode: Opcode, errno: Errno, answer: impl Answer) {
        self.server.count(opcode);
        answer.fail(errno);
    }

    /// Counts a request that asks for nothing.
    pub(super) fn acknowledge(&self, opcode: Opcode, answer: impl AnswerEmpty) {
        self.server.count(opcode);
        answer.done();
    }

    pub(super) fn forget(&self, ino: Ino, lookups: u64) {
        self.forget_all([(ino, lookups)].into_iter());
    }

    /// What the kernel forgets at once.
    pub(super) fn forget_all(&self, forgets: impl Iterator<Item = (Ino, u64)> + Clone) {
        let ours = forgets.filter(|&(ino, _)| Prime::attr_of(ino).is_none());
        let count = ours.clone().count() as u64;
        self.server.run_unanswered(Opcode::Forget, count, |fs| fs.forget_all(ours));
    }

    /// Whether answers are held back; also from now on.
    pub(super) fn is_held(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.parts.is_held)
    }

    /// Of the requests that the daemon before had carried out, only these come again.
    pub(super) fn forget_requests_but(&self, uniques: &[u64]) {
        self.server.forget_requests_but(uniques);
    }

    /// Ends the orphans that the kernel does not know any more, where it did not learn of them
    /// from this daemon.
    pub(super) fn ask_for_orphans(&self) {
        self.server.ask_for_orphans();
    }

    pub(super) fn sync_directory(&self, origin: Origin, ino: Ino, answer: impl AnswerEmpty) {
        self.sync(Call::new(origin, Opcode::FSyncDir, ino), answer);
    }

    pub(super) fn sync_file(&self, origin: Origin, ino: Ino, answer: impl AnswerEmpty) {
        self.sync(Call::new(origin, Opcode::FSync, ino), answer);
    }

    fn sync(&self, call: Call, answer: impl AnswerEmpty) {
        let run = move |fs: &Filesystem, caller: &_| fs.fsync(caller, call.ino);
        self.server.serve_sync_alone(call, answer, run, done);
    }

    pub(super) fn list<A: AnswerListing>(&self, origin: Origin, ino: Ino, cookie: u64, answer: A) {
        self.server.serve(
            Call::new(origin, Opcode::ReadDir, ino),
            answer,
            move |fs, caller, answer| list::plain(fs, caller, ino, cookie, answer),
            |(), answer: A| answer.listed(),
        );
    }

    pub(super) fn list_plus<A: AnswerListingPlus>(
        &self,
        origin: Origin,
        ino: Ino,
        cookie: u64,
        answer: A,
    ) {
        self.server.serve(
            Call::new(origin, Opcode::ReadDirPlus, ino),
            answer,
            move |fs, caller, answer| list::plus(fs, caller, ino, cookie, answer),
            |(), answer: A| answer.listed(),
        );
    }

    pub(super) fn stat_fs<A: AnswerStatFs>(&self, origin: Origin, ino: Ino, answer: A) {
        self.server.serve_look(
            Call::new(origin, Opcode::StatFs, ino),
            answer,
            |fs, caller| fs.statfs(caller),
            |stat, answer: A| answer.statfs(&stat),
        );
    }
}
