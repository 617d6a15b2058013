//! A file's content.

use super::{Operations, done, done_again};
use crate::fs::{AllocateMode, Caller, CopyRange, Filesystem, FsError, Seek};
use crate::fuse::answer::{AnswerData, AnswerEmpty, AnswerOffset, AnswerWritten};
use crate::fuse::convert::COPY_BYTES_MAX;
use crate::fuse::count::Opcode;
use crate::fuse::serve::{Call, Origin};
use crate::fuse::write::Write;
use crate::types::Ino;

impl Operations {
    pub(in crate::fuse) fn read<A: AnswerData>(
        &self,
        origin: Origin,
        ino: Ino,
        (offset, len): (u64, u32),
        answer: A,
    ) {
        let call = Call::new(origin, Opcode::Read, ino);
        let run = move |fs: &Filesystem, caller: &Caller| fs.read(caller, ino, offset, len);
        let finish = |bytes, answer: A| answer.data(bytes);
        if self.reads_apart_from.is_some_and(|least| len >= least) {
            self.server.serve_look_apart(call, answer, run, finish);
        } else {
            self.server.serve_look(call, answer, run, finish);
        }
    }

    pub(in crate::fuse) fn write<A: AnswerWritten>(
        &self,
        origin: Origin,
        write: Write,
        data: &[u8],
        answer: A,
    ) {
        let call = Call::new(origin, Opcode::Write, write.ino);
        write.serve(&self.server, &self.parts.news, call, (data, answer));
    }

    pub(in crate::fuse) fn allocate<A: AnswerEmpty>(
        &self,
        origin: Origin,
        ino: Ino,
        (range, mode): ((u64, u64), Option<AllocateMode>),
        answer: A,
    ) {
        self.server.serve_change(
            Call::new(origin, Opcode::FAllocate, ino),
            answer,
            move |fs, caller| fs.fallocate(caller, ino, range, mode.ok_or(FsError::Unsupported)?),
            done_again,
            done::<A>,
        );
    }

    pub(in crate::fuse) fn seek<A: AnswerOffset>(
        &self,
        origin: Origin,
        ino: Ino,
        (offset, seek): (i64, Option<Seek>),
        answer: A,
    ) {
        let offset = u64::try_from(offset);
        self.server.serve_look(
            Call::new(origin, Opcode::LSeek, ino),
            answer,
            move |fs, caller| {
                let offset = offset.map_err(|_| FsError::BeyondEnd)?;
                let found = fs.lseek(caller, ino, offset, seek.ok_or(FsError::Invalid)?)?;
                i64::try_from(found).map_err(|_| FsError::TooLarge)
            },
            |offset, answer: A| answer.offset(offset),
        );
    }

    /// Copies a range, or the first `COPY_BYTES_MAX` of it.
    pub(in crate::fuse) fn copy<A: AnswerWritten>(
        &self,
        origin: Origin,
        range: CopyRange,
        answer: A,
    ) {
        let range = CopyRange { len: range.len.min(COPY_BYTES_MAX), ..range };
        self.server.serve_change(
            Call::new(origin, Opcode::CopyFileRange, range.source),
            answer,
            move |fs, caller| fs.copy_range(caller, &range),
            |_, _, copied| Ok(copied),
            // Within COPY_BYTES_MAX.
            |copied, answer: A| answer.written(u32::try_from(copied).unwrap_or(u32::MAX)),
        );
    }
}
