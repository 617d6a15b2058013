//! What is done to a file's content but reading and writing.

use fuser::{ReplyEmpty, ReplyLseek, ReplyWrite};

use super::{Adapter, done};
use crate::fs::{CopyRange, FsError};
use crate::fuse::convert;
use crate::fuse::serve::Call;

impl Adapter {
    pub(super) fn allocate(&self, call: Call, range: (u64, u64), mode: i32, reply: ReplyEmpty) {
        let mode = convert::allocate_mode(mode);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                fs.fallocate(caller, call.ino, range, mode.ok_or(FsError::Unsupported)?)
            },
            done,
        );
    }

    pub(super) fn seek(&self, call: Call, offset: i64, whence: i32, reply: ReplyLseek) {
        let (offset, seek) = (u64::try_from(offset), convert::seek(whence));
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let offset = offset.map_err(|_| FsError::BeyondEnd)?;
                let found = fs.lseek(caller, call.ino, offset, seek.ok_or(FsError::Invalid)?)?;
                i64::try_from(found).map_err(|_| FsError::TooLarge)
            },
            |offset, reply| reply.offset(offset),
        );
    }

    pub(super) fn copy(&self, call: Call, range: CopyRange, reply: ReplyWrite) {
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.copy_range(caller, &range),
            // Within COPY_BYTES_MAX.
            |copied, reply| reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
        );
    }
}
