//! WRITE: the one request whose argument is too large to copy before it is known to wait.

use std::sync::Arc;

use fuser::ReplyWrite;

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
    pub(super) fn serve(
        self,
        server: &Server,
        news: &Arc<News>,
        call: Call,
        (data, reply): (&[u8], ReplyWrite),
    ) {
        let news = Arc::clone(news);
        let finish = move |written, reply| self.finish(&news, written, reply);
        let copied = || {
            let data = data.to_owned();
            move |fs: &Filesystem, caller: &Caller, _: &mut ReplyWrite| self.run(fs, caller, &data)
        };
        if self.is_sync {
            return server.serve_on_disk(call, reply, copied(), finish);
        }
        let run = |fs: &Filesystem, caller: &Caller| self.run(fs, caller, data);
        if let Some((ticket, reply)) = server.serve_borrowed(call, reply, run, finish.clone()) {
            server.hand_over(call, ticket, reply, copied(), finish);
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

    /// Answers. The kernel asks for the mode to be changed but goes on believing the old one.
    fn finish(&self, news: &News, written: Written, reply: ReplyWrite) {
        if written.has_taken_privileges {
            news.attributes_changed(self.ino);
        }
        reply.written(written.bytes);
    }
}
