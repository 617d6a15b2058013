//! The operations as fuser asks for them over `/dev/fuse`. Only changes of form.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert;
use super::count::Opcode;
use super::init;
use super::operations::{NewMode, Operations, Place};
use super::options::MountOptions;
use super::serve::Origin;
use super::write::Write;
use crate::fs::{CopyRange, SetAttr};
use crate::types::Ino;

/// The adapter of one mount.
#[derive(Debug)]
pub(super) struct Adapter {
    operations: Operations,
    options: MountOptions,
}

impl Adapter {
    pub(super) fn new(operations: Operations, options: &MountOptions) -> Adapter {
        Adapter { operations, options: options.clone() }
    }
}

fn origin(request: &Request) -> Origin {
    Origin {
        unique: request.unique().0,
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

fn place(directory: INodeNo, name: &OsStr) -> Place {
    Place::new(Ino(directory.0), name.as_bytes())
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::configure(config, &self.options);
        Ok(())
    }

    fn destroy(&mut self) {
        self.operations.close();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        self.operations.look_up(origin(request), place(parent, child), reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.operations.forget(Ino(ino.0), lookups);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.operations.get_attr(origin(request), Ino(ino.0), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::sent_time),
            // fuser does not pass FATTR_KILL_SUIDGID, which means: not CAP_FSETID.
            kill_priv: size.is_some() && request.uid() != 0,
        };
        self.operations.set_attr(origin(request), Ino(ino.0), change, reply);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.operations.read_link(origin(request), Ino(ino.0), reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let node = convert::new_node(mode, rdev);
        self.operations.make_node(origin(request), place(parent, child), (node, umask), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let new = NewMode { mode, umask };
        self.operations.make_directory(origin(request), place(parent, child), new, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        self.operations.unlink(origin(request), place(parent, child), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        self.operations.remove_directory(origin(request), place(parent, child), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        self.operations.make_symlink(origin(request), place(parent, child), target, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        to_parent: INodeNo,
        to_child: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let places = (place(parent, child), place(to_parent, to_child));
        self.operations.rename(origin(request), places, convert::rename_mode(flags), reply);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        child: &OsStr,
        reply: ReplyEntry,
    ) {
        self.operations.make_link(origin(request), Ino(ino.0), place(parent, child), reply);
    }

    fn open(&self, _request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.operations.unwanted(Opcode::Open, reply);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.operations.read(origin(request), Ino(ino.0), (offset, len), reply);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = Write {
            ino: Ino(ino.0),
            offset,
            kill_priv: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            is_sync: flags.0 & libc::O_DSYNC != 0,
        };
        self.operations.write(origin(request), write, data, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.operations.unwanted(Opcode::Flush, reply);
    }

    fn release(
        &self,
        _request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.operations.acknowledge(Opcode::Release, reply);
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.operations.sync_file(origin(request), Ino(ino.0), reply);
    }

    fn opendir(&self, _request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.operations.unwanted(Opcode::OpenDir, reply);
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectory,
    ) {
        self.operations.list(origin(request), Ino(ino.0), cookie, reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.operations.list_plus(origin(request), Ino(ino.0), cookie, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.operations.acknowledge(Opcode::ReleaseDir, reply);
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.operations.sync_directory(origin(request), Ino(ino.0), reply);
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.operations.stat_fs(origin(request), Ino(ino.0), reply);
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        attribute: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let change = (attribute.as_bytes(), value, convert::xattr_mode(flags));
        self.operations.set_xattr(origin(request), Ino(ino.0), change, reply);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        attribute: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        let wanted = (attribute.as_bytes(), room);
        self.operations.get_xattr(origin(request), Ino(ino.0), wanted, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        self.operations.list_xattr(origin(request), Ino(ino.0), room, reply);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, attribute: &OsStr, reply: ReplyEmpty) {
        self.operations.remove_xattr(origin(request), Ino(ino.0), attribute.as_bytes(), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let new = NewMode { mode, umask };
        self.operations.make_file(origin(request), place(parent, child), (new, flags), reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let change = ((offset, len), convert::allocate_mode(mode));
        self.operations.allocate(origin(request), Ino(ino.0), change, reply);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.operations.refuse(Opcode::Ioctl, Errno::ENOTTY, reply);
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let wanted = (offset, convert::seek(whence));
        self.operations.seek(origin(request), Ino(ino.0), wanted, reply);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _: FileHandle,
        target_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let range = CopyRange {
            source: Ino(source.0),
            source_offset,
            target: Ino(target.0),
            target_offset,
            len,
        };
        self.operations.copy(origin(request), range, reply);
    }
}
