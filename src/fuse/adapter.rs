//! Each FUSE request as one call of `fs`. No decisions here but those the protocol asks for.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert;
use super::count::Opcode;
use super::init;
use super::list;
use super::mount::Parts;
use super::options::MountOptions;
use super::prime::Prime;
use super::reply::{FOREVER, absent, file_attr};
use super::serve::{Call, Server};
use super::write::Write;
use crate::fs::{At, Caller, Entry, Filesystem, FsError, SetAttr};
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

    /// An operation on extended attributes, if there are any.
    fn without_xattr(&self, opcode: Opcode) -> Option<Errno> {
        (!self.options.xattr).then(|| self.unwanted(opcode))
    }
}

fn name(bytes: &OsStr) -> Result<Name, NameError> {
    Name::new(bytes.as_bytes())
}

/// The name, or the error that the request is answered with.
fn checked(name: &Result<Name, NameError>) -> Result<&Name, FsError> {
    name.as_ref().map_err(|error| (*error).into())
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
        let child = name(child);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| match fs.lookup(caller, call.ino, checked(&child)?) {
                Ok(entry) => Ok(Some(entry)),
                Err(FsError::NotFound) => Ok(None),
                Err(error) => Err(error),
            },
            |entry, reply| match entry {
                Some(entry) => send_entry(entry, reply),
                // Inode 0 tells the kernel to remember that there is no such name.
                None => reply.entry(&FOREVER, &absent(), GENERATION),
            },
        );
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
        let (child, node) = (name(child), convert::new_node(mode, rdev));
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let at = At { directory: call.ino, name: checked(&child)? };
                fs.mknod(caller, at, node.ok_or(FsError::Invalid)?)
            },
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
        let child = name(child);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let at = At { directory: call.ino, name: checked(&child)? };
                fs.mkdir(caller, at, mode & 0o7777)
            },
            send_entry,
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::Unlink, parent);
        let child = name(child);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                fs.unlink(caller, At { directory: call.ino, name: checked(&child)? })
            },
            |(), reply| reply.ok(),
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::RmDir, parent);
        let child = name(child);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                fs.rmdir(caller, At { directory: call.ino, name: checked(&child)? })
            },
            |(), reply| reply.ok(),
        );
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
        let (child, target) = (name(child), target.as_os_str().as_bytes().to_owned());
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let at = At { directory: call.ino, name: checked(&child)? };
                fs.symlink(caller, at, &target)
            },
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
        let (from, to, mode) = (name(child), name(to_child), convert::rename_mode(flags));
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let from = At { directory: call.ino, name: checked(&from)? };
                let to = At { directory: Ino(to_parent.0), name: checked(&to)? };
                fs.rename(caller, from, to, mode.ok_or(FsError::Invalid)?)
            },
            |(), reply| reply.ok(),
        );
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
        let child = name(child);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let at = At { directory: Ino(parent.0), name: checked(&child)? };
                fs.link(caller, call.ino, at)
            },
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
        let news = Arc::clone(&self.parts.news);
        let finish = move |written, reply| write.finish(&news, written, reply);
        if write.is_sync {
            let data = data.to_owned();
            let run =
                move |fs: &Filesystem, caller: &Caller, _: &mut _| write.run(fs, caller, &data);
            return self.server.serve_on_disk(call, reply, run, finish);
        }
        let run = |fs: &Filesystem, caller: &Caller| write.run(fs, caller, data);
        let waiting = self.server.serve_borrowed(call, reply, run, finish.clone());
        if let Some((ticket, reply)) = waiting {
            let data = data.to_owned();
            let run =
                move |fs: &Filesystem, caller: &Caller, _: &mut _| write.run(fs, caller, &data);
            self.server.hand_over(call, ticket, reply, run, finish);
        }
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
            |(), reply| reply.ok(),
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
            |(), reply| reply.ok(),
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
        if let Some(errno) = self.without_xattr(call.opcode) {
            return reply.error(errno);
        }
        let (attribute, value) = (attribute.as_bytes().to_owned(), value.to_owned());
        let mode = convert::xattr_mode(flags);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let mode = mode.ok_or(FsError::Invalid)?;
                fs.setxattr(caller, call.ino, (&attribute, &value), mode)
            },
            |(), reply| reply.ok(),
        );
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
        if let Some(errno) = self.without_xattr(call.opcode) {
            return reply.error(errno);
        }
        let attribute = attribute.as_bytes().to_owned();
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.getxattr(caller, call.ino, &attribute),
            move |value, reply| convert::send_xattr(&value, room, reply),
        );
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        let call = Call::new(request, Opcode::ListXattr, ino);
        if let Some(errno) = self.without_xattr(call.opcode) {
            return reply.error(errno);
        }
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.listxattr(caller, call.ino),
            move |names, reply| convert::send_xattr(&names, room, reply),
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, attribute: &OsStr, reply: ReplyEmpty) {
        let call = Call::new(request, Opcode::RemoveXattr, ino);
        if let Some(errno) = self.without_xattr(call.opcode) {
            return reply.error(errno);
        }
        let attribute = attribute.as_bytes().to_owned();
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.removexattr(caller, call.ino, &attribute),
            |(), reply| reply.ok(),
        );
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
        let (child, is_exclusive) = (name(child), flags & libc::O_EXCL != 0);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let at = At { directory: call.ino, name: checked(&child)? };
                fs.create(caller, at, mode & 0o7777, is_exclusive)
            },
            |entry, reply| {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                let attr = file_attr(entry.ino, &entry.attr);
                reply.created(&FOREVER, &attr, GENERATION, FileHandle(0), flags);
            },
        );
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
        let mode = convert::allocate_mode(mode);
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| {
                let mode = mode.ok_or(FsError::Unsupported)?;
                fs.fallocate(caller, call.ino, (offset, len), mode)
            },
            |(), reply| reply.ok(),
        );
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
        let call = Call::new(request, Opcode::LSeek, ino);
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
        let call = Call::new(request, Opcode::CopyFileRange, source);
        let range = crate::fs::CopyRange {
            source: call.ino,
            source_offset,
            target: Ino(target.0),
            target_offset,
            len: len.min(convert::COPY_BYTES_MAX),
        };
        self.server.serve(
            call,
            reply,
            move |fs, caller, _| fs.copy_range(caller, &range),
            // Within COPY_BYTES_MAX.
            |copied, reply| reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
        );
    }
}
