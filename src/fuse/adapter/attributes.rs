//! Extended attributes: off by a mount option, and then said to be unknown.

use fuser::{Errno, ReplyEmpty, ReplyXattr};

use super::{Adapter, done};
use crate::fs::FsError;
use crate::fuse::convert;
use crate::fuse::serve::Call;

impl Adapter {
    /// The answer to everything here if there are no extended attributes.
    fn without(&self, call: &Call) -> Option<Errno> {
        (!self.options.xattr).then(|| self.unwanted(call.opcode))
    }

    pub(super) fn set_attribute(
        &self,
        call: Call,
        (name, value): (&[u8], &[u8]),
        flags: i32,
        reply: ReplyEmpty,
    ) {
        if let Some(errno) = self.without(&call) {
            return reply.error(errno);
        }
        let (name, value) = (name.to_owned(), value.to_owned());
        let mode = convert::xattr_mode(flags);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let mode = mode.ok_or(FsError::Invalid)?;
                fs.setxattr(caller, call.ino, (&name, &value), mode)
            },
            done,
        );
    }

    pub(super) fn get_attribute(&self, call: Call, name: &[u8], room: u32, reply: ReplyXattr) {
        if let Some(errno) = self.without(&call) {
            return reply.error(errno);
        }
        let name = name.to_owned();
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.getxattr(caller, call.ino, &name),
            move |value, reply| convert::send_xattr(&value, room, reply),
        );
    }

    pub(super) fn list_attributes(&self, call: Call, room: u32, reply: ReplyXattr) {
        if let Some(errno) = self.without(&call) {
            return reply.error(errno);
        }
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.listxattr(caller, call.ino),
            move |names, reply| convert::send_xattr(&names, room, reply),
        );
    }

    pub(super) fn remove_attribute(&self, call: Call, name: &[u8], reply: ReplyEmpty) {
        if let Some(errno) = self.without(&call) {
            return reply.error(errno);
        }
        let name = name.to_owned();
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.removexattr(caller, call.ino, &name),
            done,
        );
    }
}
