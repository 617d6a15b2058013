//! Attributes, and extended ones: off by a mount option, and then said to be unknown.

use std::time::Duration;

use super::{Operations, done, done_again};
use crate::fs::{FsError, SetAttr, XattrMode};
use crate::fuse::answer::{AnswerAttr, AnswerData, AnswerEmpty, AnswerXattr, FOREVER};
use crate::fuse::convert;
use crate::fuse::count::Opcode;
use crate::fuse::prime::Prime;
use crate::fuse::serve::{Call, Origin};
use crate::types::Ino;

impl Operations {
    pub(in crate::fuse) fn get_attr<A: AnswerAttr>(&self, origin: Origin, ino: Ino, answer: A) {
        let call = Call::new(origin, Opcode::GetAttr, ino);
        if let Some(attr) = Prime::attr_of(ino) {
            self.server.count(call.opcode);
            return answer.attr(Duration::ZERO, ino, &attr);
        }
        self.server.serve_look(
            call,
            answer,
            move |fs, caller| fs.getattr(caller, ino),
            move |attr, answer: A| answer.attr(FOREVER, ino, &attr),
        );
    }

    pub(in crate::fuse) fn set_attr<A: AnswerAttr>(
        &self,
        origin: Origin,
        ino: Ino,
        change: SetAttr,
        answer: A,
    ) {
        self.server.serve_change(
            Call::new(origin, Opcode::SetAttr, ino),
            answer,
            move |fs, caller| fs.setattr(caller, ino, &change),
            move |fs, caller, _| fs.getattr(caller, ino),
            move |attr, answer: A| answer.attr(FOREVER, ino, &attr),
        );
    }

    pub(in crate::fuse) fn read_link<A: AnswerData>(&self, origin: Origin, ino: Ino, answer: A) {
        self.server.serve_look(
            Call::new(origin, Opcode::ReadLink, ino),
            answer,
            move |fs, caller| fs.readlink(caller, ino),
            |target, answer: A| answer.data(target.into()),
        );
    }

    pub(in crate::fuse) fn set_xattr<A: AnswerEmpty>(
        &self,
        origin: Origin,
        ino: Ino,
        (name, value, mode): (&[u8], &[u8], Option<XattrMode>),
        answer: A,
    ) {
        if !self.has_xattr {
            return self.unwanted(Opcode::SetXattr, answer);
        }
        let (name, value) = (name.to_owned(), value.to_owned());
        self.server.serve_change(
            Call::new(origin, Opcode::SetXattr, ino),
            answer,
            move |fs, caller| {
                fs.setxattr(caller, ino, (&name, &value), mode.ok_or(FsError::Invalid)?)
            },
            done_again,
            done::<A>,
        );
    }

    pub(in crate::fuse) fn get_xattr<A: AnswerXattr>(
        &self,
        origin: Origin,
        ino: Ino,
        (name, room): (&[u8], u32),
        answer: A,
    ) {
        if !self.has_xattr {
            return self.unwanted(Opcode::GetXattr, answer);
        }
        let name = name.to_owned();
        self.server.serve_look(
            Call::new(origin, Opcode::GetXattr, ino),
            answer,
            move |fs, caller| fs.getxattr(caller, ino, &name),
            move |value, answer: A| convert::send_xattr(&value, room, answer),
        );
    }

    pub(in crate::fuse) fn list_xattr<A: AnswerXattr>(
        &self,
        origin: Origin,
        ino: Ino,
        room: u32,
        answer: A,
    ) {
        if !self.has_xattr {
            return self.unwanted(Opcode::ListXattr, answer);
        }
        self.server.serve_look(
            Call::new(origin, Opcode::ListXattr, ino),
            answer,
            move |fs, caller| fs.listxattr(caller, ino),
            move |names, answer: A| convert::send_xattr(&names, room, answer),
        );
    }

    pub(in crate::fuse) fn remove_xattr<A: AnswerEmpty>(
        &self,
        origin: Origin,
        ino: Ino,
        name: &[u8],
        answer: A,
    ) {
        if !self.has_xattr {
            return self.unwanted(Opcode::RemoveXattr, answer);
        }
        let name = name.to_owned();
        self.server.serve_change(
            Call::new(origin, Opcode::RemoveXattr, ino),
            answer,
            move |fs, caller| fs.removexattr(caller, ino, &name),
            done_again,
            done::<A>,
        );
    }
}
