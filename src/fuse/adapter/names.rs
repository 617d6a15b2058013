//! Names: looked up, made and moved.

use fuser::{FileHandle, FopenFlags, RenameFlags, ReplyCreate, ReplyEmpty, ReplyEntry};

use super::{Adapter, GENERATION, Place, done, send_entry};
use crate::fs::FsError;
use crate::fuse::convert;
use crate::fuse::reply::{FOREVER, absent, file_attr};
use crate::fuse::serve::Call;

impl Adapter {
    pub(super) fn look_up(&self, call: Call, place: Place, reply: ReplyEntry) {
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let at = place.at()?;
                match fs.lookup(caller, at.directory, at.name) {
                    Ok(entry) => Ok(Some(entry)),
                    Err(FsError::NotFound) => Ok(None),
                    Err(error) => Err(error),
                }
            },
            |entry, reply| match entry {
                Some(entry) => send_entry(entry, reply),
                // Inode 0 tells the kernel to remember that there is no such name.
                None => reply.entry(&FOREVER, &absent(), GENERATION),
            },
        );
    }

    pub(super) fn make_file(
        &self,
        call: Call,
        place: Place,
        (mode, is_exclusive): (u32, bool),
        reply: ReplyCreate,
    ) {
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.create(caller, place.at()?, mode, is_exclusive),
            |entry, reply| {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                let attr = file_attr(entry.ino, &entry.attr);
                reply.created(&FOREVER, &attr, GENERATION, FileHandle(0), flags);
            },
        );
    }

    pub(super) fn move_entry(
        &self,
        call: Call,
        (from, to): (Place, Place),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = convert::rename_mode(flags);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                fs.rename(caller, from.at()?, to.at()?, mode.ok_or(FsError::Invalid)?)
            },
            done,
        );
    }
}
