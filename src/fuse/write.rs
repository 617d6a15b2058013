//! WRITE: the one request whose argument is too large to copy before it is known to wait.

use std::sync::Arc;

use super::answer::AnswerWritten;
use super::news::News;
use super::serve::{Call, Server};
use crate::fs::{Caller, Filesystem, FsError};
use crate::types::Ino;

/// Setuid and setgid.
const PRIVILEGES: u32 = 0o6000;

/// A write without its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) ino: Ino,
    pub(super) offset: u64,
    /// The writer may not keep setuid and setgid.
    pub(super) kill_priv: bool,
    /// Opened with `O_DSYNC` or `O_SYNC`.
    pub(super) is_sync: bool,
}

/// What a write did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    bytes: u32,
    has_taken_privileges: bool,
}

impl Write {
    /// Serves the write: its bytes are copied only if it must wait.
    pub(super) fn serve<A: AnswerWritten>(
        self,
        server: &Server,
        news: &Arc<News>,
        call: Call,
        (data, answer): (&[u8], A),
    ) {
        let news = Arc::clone(news);
        let finish = move |written, answer: A| self.finish(&news, written, answer);
        let copied = || {
            let data = data.to_owned();
            move |fs: &Filesystem, caller: &Caller, _: &mut A| self.run(fs, caller, &data)
        };
        if let Some(bytes) = server.carried_out(&call) {
            let again =
                move |fs: &Filesystem, caller: &Caller, _: &mut A| self.again(fs, caller, bytes);
            return server.serve_sync(call, answer, again, finish);
        }
        if self.is_sync {
            return server.serve_sync(call, answer, copied(), finish);
        }
        let run = |fs: &Filesystem, caller: &Caller| self.run(fs, caller, data);
        if let Some((waiting, answer)) = server.serve_borrowed(call, answer, run, finish.clone()) {
            server.hand_over(call, waiting, answer, copied(), finish);
        }
    }

    fn run(&self, fs: &Filesystem, caller: &Caller, data: &[u8]) -> Result<Written, FsError> {
        let has_taken_privileges =
            self.kill_priv && fs.getattr(caller, self.ino)?.mode & PRIVILEGES != 0;
        let bytes = fs.write(caller, self.ino, self.offset, data, self.kill_priv)?;
        if self.is_sync {
            fs.fsync(caller, self.ino)?;
        }
        Ok(Written { bytes, has_taken_privileges })
    }

    /// Written by the daemon before, which may not have come to the rest.
    fn again(&self, fs: &Filesystem, caller: &Caller, bytes: u64) -> Result<Written, FsError> {
        if self.is_sync {
            fs.fsync(caller, self.ino)?;
        }
        // No write is longer than its request says, with 32 bits.
        let bytes = u32::try_from(bytes).map_err(|_| FsError::Invalid)?;
        Ok(Written { bytes, has_taken_privileges: self.kill_priv })
    }

    /// Answers. The kernel asks for the mode to be changed but goes on believing the old one.
    fn finish(&self, news: &News, written: Written, answer: impl AnswerWritten) {
        if written.has_taken_privileges {
            news.attributes_changed(self.ino);
        }
        answer.written(written.bytes);
    }
}
