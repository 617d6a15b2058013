//! Each FUSE request as one call of `fs`. No decisions here but those the protocol asks for.

mod attributes;
mod content;
mod names;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{self, COPY_BYTES_MAX};
use super::count::Opcode;
use super::init;
use super::list;
use super::mount::Parts;
use super::options::MountOptions;
use super::prime::Prime;
use super::reply::{FOREVER, file_attr};
use super::serve::{Call, Server};
use super::write::Write;
use crate::fs::{At, CopyRange, Entry, Filesystem, FsError, SetAttr};
use crate::types::{Ino, Name, NameError};

/// Inode numbers are never used twice, so all are of the first generation.
const GENERATION: Generation = Generation(0);

/// The adapter of one mount.
#[derive(Debug)]
pub(super) struct Adapter {
    server: Server,
    options: MountOptions,
    parts: Parts,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Filesystem>, options: &MountOptions, parts: Parts) -> Adapter {
        let server = Server::new(fs, options, parts.clone());
        Adapter { server, options: options.clone(), parts }
    }

    /// A request that the kernel is told not to send again.
    fn unwanted(&self, opcode: Opcode) -> Errno {
        self.server.count(opcode);
        Errno::ENOSYS
    }
}

/// A name in a directory, not yet found to be one.
#[derive(Debug)]
struct Place {
    directory: Ino,
    name: Result<Name, NameError>,
}

impl Place {
    fn new(directory: INodeNo, name: &OsStr) -> Place {
        Place { directory: Ino(directory.0), name: Name::new(name.as_bytes()) }
    }

    /// The place, or the error that the request is answered with.
    fn at(&self) -> Result<At<'_>, FsError> {
        match &self.name {
            Ok(name) => Ok(At { directory: self.directory, name }),
            Err(error) => Err((*error).into()),
        }
    }
}

fn done((): (), reply: ReplyEmpty) {
    reply.ok();
}

fn send_entry(entry: Entry, reply: ReplyEntry) {
    reply.entry(&FOREVER, &file_attr(entry.ino, &entry.attr), GENERATION);
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::configure(config, &self.options);
        Ok(())
    }

    fn destroy(&mut self) {
        self.server.close();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let call = Call::new(request, Opcode::Lookup, parent);
        if let Some(attr) = self.parts.prime.looked_up(parent, child.as_bytes()) {
            self.server.count(call.opcode);
            return reply.entry(&Duration::ZERO, &attr, GENERATION);
        }
        self.look_up(call, Place::new(parent, child), reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        if Prime::attr_of(ino).is_none() {
            self.server.run_unanswered(Opcode::Forget, |fs| fs.forget(Ino(ino.0), lookups));
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let call = Call::new(request, Opcode::GetAttr, ino);
        if let Some(attr) = Prime::attr_of(ino) {
            self.server.count(call.opcode);
            return reply.attr(&Duration::ZERO, &attr);
        }
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.getattr(caller, call.ino),
            move |attr, reply| reply.attr(&FOREVER, &file_attr(call.ino, &attr)),
        );
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
        let call = Call::new(request, Opcode::SetAttr, ino);
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
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.setattr(caller, call.ino, &change),
            move |attr, reply| reply.attr(&FOREVER, &file_attr(call.ino, &attr)),
        );
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let call = Call::new(request, Opcode::ReadLink, ino);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.readlink(caller, call.ino),
            |target, reply| reply.data(&target),
        );
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
        let call = Call::new(request, Opcode::MkNod, parent).umask(umask);
        let (place, node) = (Place::new(parent, child), convert::new_node(mode, rdev));
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.mknod(caller, place.at()?, node.ok_or(FsError::Invalid)?),
            send_entry,
        );
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
        let call = Call::new(request, Opcode::MkDir, parent).umask(umask);
        let place = Place::new(parent, child);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.mkdir(caller, place.at()?, mode & 0o7777),
            send_entry,
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::Unlink, parent);
        let place = Place::new(parent, child);
        self.server.serve(call, reply, move |fs, caller, _| fs.unlink(caller, place.at()?), done);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::RmDir, parent);
        let place = Place::new(parent, child);
        self.server.serve(call, reply, move |fs, caller, _| fs.rmdir(caller, place.at()?), done);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let call = Call::new(request, Opcode::SymLink, parent);
        let place = Place::new(parent, child);
        let target = target.as_os_str().as_bytes().to_owned();
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.symlink(caller, place.at()?, &target),
            send_entry,
        );
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
        let call = Call::new(request, Opcode::Rename, parent);
        let (from, to) = (Place::new(parent, child), Place::new(to_parent, to_child));
        self.move_entry(call, (from, to), flags, reply);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        child: &OsStr,
        reply: ReplyEntry,
    ) {
        let call = Call::new(request, Opcode::Link, ino);
        let place = Place::new(parent, child);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.link(caller, call.ino, place.at()?),
            send_entry,
        );
    }

    fn open(&self, _request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(self.unwanted(Opcode::Open));
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
        let call = Call::new(request, Opcode::Read, ino);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.read(caller, call.ino, offset, len),
            |bytes, reply| reply.data(&bytes),
        );
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
        let call = Call::new(request, Opcode::Write, ino);
        let write = Write {
            ino: call.ino,
            offset,
            kill_priv: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            is_sync: flags.0 & libc::O_DSYNC != 0,
        };
        write.serve(&self.server, &self.parts.news, call, (data, reply));
    }

    fn flush(
        &self,
        _request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(self.unwanted(Opcode::Flush));
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
        self.server.count(Opcode::Release);
        reply.ok();
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::FSync, ino);
        self.server.serve_on_disk(
            call,
            reply,
            move |fs, caller, _| fs.fsync(caller, call.ino),
            done,
        );
    }

    fn opendir(&self, _request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(self.unwanted(Opcode::OpenDir));
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectory,
    ) {
        let call = Call::new(request, Opcode::ReadDir, ino);
        self.server.serve(
            call,
            reply,
            move |fs, caller, reply| list::plain(fs, caller, call.ino, cookie, reply),
            |(), reply| reply.ok(),
        );
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let call = Call::new(request, Opcode::ReadDirPlus, ino);
        self.server.serve(
            call,
            reply,
            move |fs, caller, reply| list::plus(fs, caller, call.ino, cookie, reply),
            |(), reply| reply.ok(),
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.server.count(Opcode::ReleaseDir);
        reply.ok();
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::FSyncDir, ino);
        self.server.serve_on_disk(
            call,
            reply,
            move |fs, caller, _| fs.fsync(caller, call.ino),
            done,
        );
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let call = Call::new(request, Opcode::StatFs, ino);
        self.server.serve(call, reply, |fs, caller, _| fs.statfs(caller), convert::send_statfs);
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
        let call = Call::new(request, Opcode::SetXattr, ino);
        self.set_attribute(call, (attribute.as_bytes(), value), flags, reply);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        attribute: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        let call = Call::new(request, Opcode::GetXattr, ino);
        self.get_attribute(call, attribute.as_bytes(), room, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        self.list_attributes(Call::new(request, Opcode::ListXattr, ino), room, reply);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, attribute: &OsStr, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::RemoveXattr, ino);
        self.remove_attribute(call, attribute.as_bytes(), reply);
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
        let call = Call::new(request, Opcode::Create, parent).umask(umask);
        let is_exclusive = flags & libc::O_EXCL != 0;
        self.make_file(call, Place::new(parent, child), (mode & 0o7777, is_exclusive), reply);
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
        let call = Call::new(request, Opcode::FAllocate, ino);
        self.allocate(call, (offset, len), mode, reply);
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
        self.server.count(Opcode::Ioctl);
        reply.error(Errno::ENOTTY);
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
        self.seek(Call::new(request, Opcode::LSeek, ino), offset, whence, reply);
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
            len: len.min(COPY_BYTES_MAX),
        };
        self.copy(Call::new(request, Opcode::CopyFileRange, source), range, reply);
    }
}
