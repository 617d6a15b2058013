//! Names: looked up, made, moved and taken away.

use std::time::Duration;

use super::{NewMode, Operations, Place, done, done_again};
use crate::fs::{Caller, Entry, Filesystem, FsError, NewNode, RenameMode};
use crate::fuse::answer::{AnswerCreated, AnswerEmpty, AnswerEntry, FOREVER};
use crate::fuse::convert::bare_attr;
use crate::fuse::count::Opcode;
use crate::fuse::prime;
use crate::fuse::serve::{Call, Origin};
use crate::types::{Ino, Kind};

fn send_entry<A: AnswerEntry>(entry: Entry, answer: A) {
    answer.entry(FOREVER, entry.ino, &entry.attr);
}

fn entry_again(fs: &Filesystem, caller: &Caller, ino: u64) -> Result<Entry, FsError> {
    fs.entry_again(caller, Ino(ino))
}

impl Operations {
    pub(in crate::fuse) fn look_up<A: AnswerEntry>(&self, origin: Origin, place: Place, answer: A) {
        let call = Call::new(origin, Opcode::Lookup, place.directory);
        let name = place.name.as_ref().map_or(&b""[..], |name| name.as_bytes());
        if let Some(attr) = self.parts.prime.looked_up(place.directory, name) {
            self.server.count(call.opcode);
            return answer.entry(Duration::ZERO, prime::INO, &attr);
        }
        self.server.serve_undoable(
            call,
            answer,
            move |fs, caller| {
                let at = place.at()?;
                match fs.lookup(caller, at.directory, at.name) {
                    Ok(entry) => Ok(Some(entry)),
                    Err(FsError::NotFound) => Ok(None),
                    Err(error) => Err(error),
                }
            },
            |entry, answer: A| match entry {
                Some(entry) => send_entry(entry, answer),
                // Inode 0 tells the kernel to remember that there is no such name.
                None => answer.entry(FOREVER, Ino(0), &bare_attr(Kind::File)),
            },
            // The kernel forgets only what it was told.
            |fs, entry| {
                if let Some(entry) = entry {
                    fs.forget(entry.ino, 1);
                }
            },
        );
    }

    pub(in crate::fuse) fn make_node<A: AnswerEntry>(
        &self,
        origin: Origin,
        place: Place,
        (node, umask): (Option<NewNode>, u32),
        answer: A,
    ) {
        self.server.serve_change(
            Call::new(origin, Opcode::MkNod, place.directory).umask(umask),
            answer,
            move |fs, caller| fs.mknod(caller, place.at()?, node.ok_or(FsError::Invalid)?),
            entry_again,
            send_entry::<A>,
        );
    }

    pub(in crate::fuse) fn make_directory<A: AnswerEntry>(
        &self,
        origin: Origin,
        place: Place,
        new: NewMode,
        answer: A,
    ) {
        self.server.serve_change(
            Call::new(origin, Opcode::MkDir, place.directory).umask(new.umask),
            answer,
            move |fs, caller| fs.mkdir(caller, place.at()?, new.mode & 0o7777),
            entry_again,
            send_entry::<A>,
        );
    }

    pub(in crate::fuse) fn make_symlink<A: AnswerEntry>(
        &self,
        origin: Origin,
        place: Place,
        target: &[u8],
        answer: A,
    ) {
        let target = target.to_owned();
        self.server.serve_change(
            Call::new(origin, Opcode::SymLink, place.directory),
            answer,
            move |fs, caller| fs.symlink(caller, place.at()?, &target),
            entry_again,
            send_entry::<A>,
        );
    }

    pub(in crate::fuse) fn make_link<A: AnswerEntry>(
        &self,
        origin: Origin,
        ino: Ino,
        place: Place,
        answer: A,
    ) {
        self.server.serve_change(
            Call::new(origin, Opcode::Link, ino),
            answer,
            move |fs, caller| fs.link(caller, ino, place.at()?),
            entry_again,
            send_entry::<A>,
        );
    }

    /// `flags` are those of `open(2)`.
    pub(in crate::fuse) fn make_file<A: AnswerCreated>(
        &self,
        origin: Origin,
        place: Place,
        (new, flags): (NewMode, i32),
        answer: A,
    ) {
        let is_exclusive = flags & libc::O_EXCL != 0;
        self.server.serve_change(
            Call::new(origin, Opcode::Create, place.directory).umask(new.umask),
            answer,
            move |fs, caller| fs.create(caller, place.at()?, new.mode & 0o7777, is_exclusive),
            entry_again,
            |entry, answer: A| answer.created(entry.ino, &entry.attr),
        );
    }

    pub(in crate::fuse) fn unlink<A: AnswerEmpty>(&self, origin: Origin, place: Place, answer: A) {
        self.server.serve_change(
            Call::new(origin, Opcode::Unlink, place.directory),
            answer,
            move |fs, caller| fs.unlink(caller, place.at()?),
            done_again,
            done::<A>,
        );
    }

    pub(in crate::fuse) fn remove_directory<A: AnswerEmpty>(
        &self,
        origin: Origin,
        place: Place,
        answer: A,
    ) {
        self.server.serve_change(
            Call::new(origin, Opcode::RmDir, place.directory),
            answer,
            move |fs, caller| fs.rmdir(caller, place.at()?),
            done_again,
            done::<A>,
        );
    }

    pub(in crate::fuse) fn rename<A: AnswerEmpty>(
        &self,
        origin: Origin,
        (from, to): (Place, Place),
        mode: Option<RenameMode>,
        answer: A,
    ) {
        self.server.serve_change(
            Call::new(origin, Opcode::Rename, from.directory),
            answer,
            move |fs, caller| {
                fs.rename(caller, from.at()?, to.at()?, mode.ok_or(FsError::Invalid)?)
            },
            done_again,
            done::<A>,
        );
    }
}
