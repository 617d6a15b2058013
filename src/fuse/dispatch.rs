//! A decoded request as one of the operations. Only changes of form, like the adapter.

use fuser::{Errno, WriteFlags};

use super::convert;
use super::count::Opcode;
use super::operations::{NewMode, Operations, Place};
use super::serve::Origin;
use super::wire::{Header, Operation, Outlet, WireAnswer};
use super::write::Write;
use crate::fs::CopyRange;
use crate::types::Ino;

/// Serves one request. `outlet` takes its answer, now or later, from this thread or another;
/// none is sent to what asks for none.
pub(super) fn dispatch<O: Outlet>(
    operations: &Operations,
    header: &Header,
    operation: Operation<'_>,
    outlet: O,
) {
    match operation {
        Operation::Forget { lookups } => operations.forget(header.ino, lookups),
        Operation::BatchForget(forgets) => operations.forget_all(forgets.iter()),
        // Its request is answered in its own time, or when its caller is seen to be killed.
        Operation::Interrupt { .. } => {}
        other => answered(operations, header, other, WireAnswer::new(header.unique, outlet)),
    }
}

fn answered<O: Outlet>(
    operations: &Operations,
    header: &Header,
    operation: Operation<'_>,
    answer: WireAnswer<O>,
) {
    let Header { unique, uid, gid, pid, .. } = *header;
    let origin = Origin { unique, uid, gid, pid };
    let ino = header.ino;
    match operation {
        Operation::GetAttr => operations.get_attr(origin, ino, answer),
        Operation::SetAttr(change) => operations.set_attr(origin, ino, change, answer),
        Operation::ReadLink => operations.read_link(origin, ino, answer),
        Operation::Read { offset, len } => operations.read(origin, ino, (offset, len), answer),
        Operation::Write { offset, data, flags, open_flags } => {
            let write = Write {
                ino,
                offset,
                kill_priv: flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
                is_sync: open_flags & libc::O_DSYNC != 0,
            };
            operations.write(origin, write, data, answer);
        }
        Operation::StatFs => operations.stat_fs(origin, ino, answer),
        Operation::FSync => operations.sync_file(origin, ino, answer),
        Operation::FSyncDir => operations.sync_directory(origin, ino, answer),
        Operation::ReadDir { cookie, room } => {
            operations.list(origin, ino, cookie, answer.room(room));
        }
        Operation::ReadDirPlus { cookie, room } => {
            operations.list_plus(origin, ino, cookie, answer.room(room));
        }
        Operation::FAllocate { offset, len, mode } => {
            let change = ((offset, len), convert::allocate_mode(mode));
            operations.allocate(origin, ino, change, answer);
        }
        Operation::LSeek { offset, whence } => {
            operations.seek(origin, ino, (offset, convert::seek(whence)), answer);
        }
        Operation::CopyFileRange { offset, target, target_offset, len } => {
            let range =
                CopyRange { source: ino, source_offset: offset, target, target_offset, len };
            operations.copy(origin, range, answer);
        }
        other => named(operations, (origin, ino), other, answer),
    }
}

/// Operations on names, and extended attributes.
fn named<O: Outlet>(
    operations: &Operations,
    (origin, ino): (Origin, Ino),
    operation: Operation<'_>,
    answer: WireAnswer<O>,
) {
    let place = |name| Place::new(ino, name);
    match operation {
        Operation::Lookup { name } => operations.look_up(origin, place(name), answer),
        Operation::SymLink { name, target } => {
            operations.make_symlink(origin, place(name), target, answer);
        }
        Operation::MkNod { name, mode, rdev, umask } => {
            let node = convert::new_node(mode, rdev);
            operations.make_node(origin, place(name), (node, umask), answer);
        }
        Operation::MkDir { name, mode, umask } => {
            operations.make_directory(origin, place(name), NewMode { mode, umask }, answer);
        }
        Operation::Create { name, mode, umask, open_flags } => {
            let new = NewMode { mode, umask };
            operations.make_file(origin, place(name), (new, open_flags), answer);
        }
        Operation::Unlink { name } => operations.unlink(origin, place(name), answer),
        Operation::RmDir { name } => operations.remove_directory(origin, place(name), answer),
        Operation::Rename { name, to_directory, to_name, flags } => {
            let places = (place(name), Place::new(to_directory, to_name));
            operations.rename(origin, places, convert::rename_mode(flags), answer);
        }
        // The header names the directory, and the operation the inode.
        Operation::Link { ino, name } => operations.make_link(origin, ino, place(name), answer),
        Operation::SetXattr { name, value, flags } => {
            let change = (name, value, convert::xattr_mode(flags));
            operations.set_xattr(origin, ino, change, answer);
        }
        Operation::GetXattr { name, room } => {
            operations.get_xattr(origin, ino, (name, room), answer);
        }
        Operation::ListXattr { room } => operations.list_xattr(origin, ino, room, answer),
        Operation::RemoveXattr { name } => operations.remove_xattr(origin, ino, name, answer),
        other => unasked(operations, other, answer),
    }
}

/// What there is nothing to do for.
fn unasked<O: Outlet>(operations: &Operations, operation: Operation<'_>, answer: WireAnswer<O>) {
    match operation {
        Operation::Open => operations.unwanted(Opcode::Open, answer),
        Operation::OpenDir => operations.unwanted(Opcode::OpenDir, answer),
        Operation::Flush => operations.unwanted(Opcode::Flush, answer),
        Operation::Access => operations.unwanted(Opcode::Access, answer),
        Operation::Poll => operations.unwanted(Opcode::Poll, answer),
        Operation::Release => operations.acknowledge(Opcode::Release, answer),
        Operation::ReleaseDir => operations.acknowledge(Opcode::ReleaseDir, answer),
        Operation::Ioctl => operations.refuse(Opcode::Ioctl, Errno::ENOTTY, answer),
        Operation::Destroy => super::answer::AnswerEmpty::done(answer),
        // INIT comes once, before anything is dispatched; the rest we never heard of.
        _ => super::answer::Answer::fail(answer, Errno::ENOSYS),
    }
}
