//! The answers.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dormouse::fuse::{Enlist, MountOptions, configure, first_open_name};
use dormouse::types::Clock;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::content::Content;
use crate::node::{Body, Entries, Make, Node, Nodes, State};

/// As the product: nobody else changes anything.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

const GENERATION: Generation = Generation(0);

/// Blocks that there seem to be.
const BLOCKS: u64 = 1 << 28;

pub struct NullFs {
    nodes: Nodes,
    options: MountOptions,
    enlist: Enlist,
}

type Answer<T> = Result<T, Errno>;

impl NullFs {
    pub fn new(options: MountOptions, enlist: Enlist) -> NullFs {
        let filesystem = NullFs { nodes: Nodes::new(), options, enlist };
        // What the mount opens once, so that the kernel learns that no OPEN is wanted.
        let name = first_open_name();
        let make = NullFs::file(0o444, (0, 0));
        filesystem.add(INodeNo::ROOT, name.as_bytes(), make).expect("the root is a directory");
        filesystem
    }

    fn file(mode: u32, owner: (u32, u32)) -> Make {
        let body = Body::File(Content::default());
        Make { kind: FileType::RegularFile, body, mode, owner, rdev: 0 }
    }

    fn node(&self, ino: INodeNo) -> Answer<Arc<Node>> {
        self.nodes.get(ino).ok_or(Errno::ESTALE)
    }

    /// Changes a directory's names, and its times.
    fn edit<T>(
        &self,
        ino: INodeNo,
        edit: impl FnOnce(&mut Entries, &mut FileAttr) -> T,
    ) -> Answer<T> {
        let directory = self.node(ino)?;
        let mut state = directory.write();
        let now = self.nodes.clock.now().into();
        let state = &mut *state;
        let Body::Directory(entries) = &mut state.body else { return Err(Errno::ENOTDIR) };
        let done = edit(entries, &mut state.attr);
        state.attr.mtime = now;
        state.attr.ctime = now;
        Ok(done)
    }

    fn child(&self, parent: INodeNo, name: &[u8]) -> Answer<Arc<Node>> {
        let directory = self.node(parent)?;
        let state = directory.read();
        let Body::Directory(entries) = &state.body else { return Err(Errno::ENOTDIR) };
        entries.get(name).cloned().ok_or(Errno::ENOENT)
    }

    /// Makes a node with a name.
    fn add(&self, parent: INodeNo, name: &[u8], mut make: Make) -> Answer<Arc<Node>> {
        let is_directory = make.kind == FileType::Directory;
        let parent_attr = self.node(parent)?.read().attr;
        if parent_attr.perm & 0o2000 != 0 {
            make.owner.1 = parent_attr.gid;
            make.mode |= if is_directory { 0o2000 } else { 0 };
        }
        let node = self.nodes.make(make);
        self.edit(parent, |entries, attr| {
            entries.insert(name, Arc::clone(&node));
            attr.nlink += u32::from(is_directory);
        })?;
        Ok(node)
    }

    fn add_and_answer(&self, parent: INodeNo, name: &OsStr, make: Make, reply: ReplyEntry) {
        answer_entry(self.add(parent, name.as_bytes(), make), reply);
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, is_directory: bool) -> Answer<()> {
        let name = name.as_bytes();
        let node = self.child(parent, name)?;
        if let Body::Directory(entries) = &node.read().body
            && !entries.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        self.edit(parent, |entries, attr| {
            entries.remove(name);
            attr.nlink -= u32::from(is_directory);
        })?;
        self.nodes.release(&node, if is_directory { 2 } else { 1 }, 0);
        Ok(())
    }

    /// Puts `node` under a name, in place of what is there.
    fn place(&self, to: (INodeNo, &[u8]), node: &Arc<Node>) -> Answer<()> {
        let is_directory = node.read().attr.kind == FileType::Directory;
        let old = self.edit(to.0, |entries, attr| {
            let old = entries.remove(to.1);
            entries.insert(to.1, Arc::clone(node));
            attr.nlink += u32::from(is_directory && old.is_none());
            old
        })?;
        let mut state = node.write();
        state.attr.ctime = self.nodes.clock.now().into();
        if let Body::Directory(entries) = &mut state.body {
            entries.parent = to.0;
        }
        drop(state);
        if let Some(old) = old {
            self.nodes.release(&old, if is_directory { 2 } else { 1 }, 0);
        }
        Ok(())
    }

    fn take(&self, from: (INodeNo, &[u8])) -> Answer<()> {
        self.edit(from.0, |entries, attr| {
            let taken = entries.remove(from.1);
            let is_directory = taken.is_some_and(|n| n.read().attr.kind == FileType::Directory);
            attr.nlink -= u32::from(is_directory);
        })
    }

    fn exchange(&self, from: (INodeNo, &[u8]), to: (INodeNo, &[u8])) -> Answer<()> {
        let (one, other) = (self.child(from.0, from.1)?, self.child(to.0, to.1)?);
        self.take(from)?;
        self.take(to)?;
        self.place(to, &one)?;
        self.place(from, &other)
    }

    fn rename_to(
        &self,
        from: (INodeNo, &[u8]),
        to: (INodeNo, &[u8]),
        flags: RenameFlags,
    ) -> Answer<()> {
        if flags == RenameFlags::RENAME_EXCHANGE {
            return self.exchange(from, to);
        }
        let there = self.child(to.0, to.1).ok();
        if flags == RenameFlags::RENAME_NOREPLACE && there.is_some() {
            return Err(Errno::EEXIST);
        }
        if let Some(there) = there
            && let Body::Directory(entries) = &there.read().body
            && !entries.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        let node = self.child(from.0, from.1)?;
        self.take(from)?;
        self.place(to, &node)
    }

    /// Changes a file's bytes, and its times.
    fn edit_file<T>(&self, ino: INodeNo, edit: impl FnOnce(&mut Content) -> T) -> Answer<T> {
        let node = self.node(ino)?;
        let mut state = node.write();
        let Body::File(content) = &mut state.body else { return Err(Errno::EINVAL) };
        let done = edit(content);
        let len = content.len();
        state.resized(len);
        let now = self.nodes.clock.now().into();
        (state.attr.mtime, state.attr.ctime) = (now, now);
        Ok(done)
    }

    /// Gives the entries after `cookie` to `add` until it says that there is no more room; `.` and
    /// `..` come without their node, because the kernel does not count them as looked up.
    fn list(
        &self,
        ino: INodeNo,
        cookie: u64,
        mut add: impl FnMut(u64, &[u8], &FileAttr, Option<&Node>) -> bool,
    ) -> Answer<()> {
        let node = self.node(ino)?;
        let (own, parent) = match &*node.read() {
            State { attr, body: Body::Directory(entries), .. } => (*attr, entries.parent),
            _ => return Err(Errno::ENOTDIR),
        };
        // Before the directory is locked again: one lock at a time.
        let above = self.nodes.get(parent).map_or(own, |above| above.read().attr);
        for (at, name, attr) in [(1, &b"."[..], own), (2, b"..", above)] {
            if at > cookie && add(at, name, &attr, None) {
                return Ok(());
            }
        }
        let state = node.read();
        let Body::Directory(entries) = &state.body else { return Err(Errno::ENOTDIR) };
        for (at, name, child) in entries.after(cookie.max(2)) {
            let attr = child.read().attr;
            if add(at, name, &attr, Some(child)) {
                break;
            }
        }
        Ok(())
    }

    fn get_attribute(&self, ino: INodeNo, name: &OsStr) -> Answer<Vec<u8>> {
        if !self.options.xattr {
            return Err(Errno::ENOSYS);
        }
        let node = self.node(ino)?;
        let state = node.read();
        let found = state.xattrs.iter().find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value.clone()).ok_or(Errno::ENODATA)
    }
}

fn owner(request: &Request) -> (u32, u32) {
    (request.uid(), request.gid())
}

fn time(time: TimeOrNow, now: SystemTime) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => now,
    }
}

fn answer(done: Answer<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_entry(made: Answer<Arc<Node>>, reply: ReplyEntry) {
    match made {
        Ok(node) => reply.entry(&FOREVER, &node.looked_up(), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn answer_bytes(value: Answer<Vec<u8>>, room: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if room == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= room as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

impl fuser::Filesystem for NullFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config, &self.options);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.enlist.here();
        match self.child(parent, name.as_bytes()) {
            Ok(node) => reply.entry(&FOREVER, &node.looked_up(), GENERATION),
            Err(errno) if errno.code() == Errno::ENOENT.code() => {
                // Inode 0: the kernel remembers that there is no such name.
                let Some(root) = self.nodes.get(INodeNo::ROOT) else { return reply.error(errno) };
                let attr = FileAttr { ino: INodeNo(0), ..root.read().attr };
                reply.entry(&FOREVER, &attr, GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        if let Some(node) = self.nodes.get(ino) {
            self.nodes.release(&node, 0, lookups);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.enlist.here();
        match self.node(ino) {
            Ok(node) => reply.attr(&FOREVER, &node.read().attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
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
        if let Some(size) = size
            && let Err(errno) = self.edit_file(ino, |content| content.set_len(size))
        {
            return reply.error(errno);
        }
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let now = self.nodes.clock.now().into();
        let mut state = node.write();
        let attr = &mut state.attr;
        attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.atime = atime.map_or(attr.atime, |set| time(set, now));
        attr.mtime = mtime.map_or(attr.mtime, |set| time(set, now));
        attr.ctime = ctime.unwrap_or(now);
        reply.attr(&FOREVER, attr);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino) {
            Ok(node) => match &node.read().body {
                Body::Symlink(target) => reply.data(target),
                _ => reply.error(Errno::EINVAL),
            },
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => FileType::NamedPipe,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            _ => FileType::RegularFile,
        };
        let body = match kind {
            FileType::RegularFile => Body::File(Content::default()),
            _ => Body::Special,
        };
        let make = Make { kind, body, mode: mode & !umask, owner: owner(request), rdev };
        self.add_and_answer(parent, name, make, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let body = Body::Directory(Entries::new(parent));
        let (kind, mode) = (FileType::Directory, mode & !umask);
        let make = Make { kind, body, mode, owner: owner(request), rdev: 0 };
        self.add_and_answer(parent, name, make, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, false), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, true), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let body = Body::Symlink(target.as_os_str().as_bytes().to_owned());
        let kind = FileType::Symlink;
        let make = Make { kind, body, mode: 0o777, owner: owner(request), rdev: 0 };
        self.add_and_answer(parent, name, make, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent, name.as_bytes()), (to_parent, to_name.as_bytes()));
        answer(self.rename_to(from, to, flags), reply);
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = self.node(ino).and_then(|node| {
            self.edit(parent, |entries, _| entries.insert(name.as_bytes(), Arc::clone(&node)))?;
            let mut state = node.write();
            state.attr.nlink += 1;
            state.attr.ctime = self.nodes.clock.now().into();
            drop(state);
            Ok(node)
        });
        answer_entry(linked, reply);
    }

    fn open(&self, _request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.enlist.here();
        match self.node(ino) {
            Ok(node) => match &node.read().body {
                Body::File(content) => {
                    content.read(offset, len.into(), |bytes| reply.data(bytes));
                }
                _ => reply.error(Errno::EINVAL),
            },
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.enlist.here();
        match self.edit_file(ino, |content| content.write(offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
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
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        self.enlist.here();
        let listed = self.list(ino, cookie, |at, name, attr, _| {
            reply.add(attr.ino, at, attr.kind, OsStr::from_bytes(name))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.enlist.here();
        let listed = self.list(ino, cookie, |at, name, attr, node| {
            let name = OsStr::from_bytes(name);
            let is_full = reply.add(attr.ino, at, name, &FOREVER, attr, GENERATION);
            if let Some(node) = node.filter(|_| !is_full) {
                node.looked_up();
            }
            is_full
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let set = self.node(ino).map(|node| {
            let mut state = node.write();
            state.xattrs.retain(|(known, _)| known != name.as_bytes());
            state.xattrs.push((name.as_bytes().to_owned(), value.to_owned()));
        });
        answer(set, reply);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        answer_bytes(self.get_attribute(ino, name), room, reply);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        let names = self.node(ino).map(|node| {
            let mut names = Vec::new();
            for (name, _) in &node.read().xattrs {
                names.extend_from_slice(name);
                names.push(0);
            }
            names
        });
        answer_bytes(names, room, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.get_attribute(ino, name).and_then(|_| self.node(ino)).map(|node| {
            node.write().xattrs.retain(|(known, _)| known != name.as_bytes());
        });
        answer(removed, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        self.enlist.here();
        let make = NullFs::file(mode & !umask, owner(request));
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        match self.add(parent, name.as_bytes(), make) {
            Ok(node) => {
                reply.created(&FOREVER, &node.looked_up(), GENERATION, FileHandle(0), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let done = self.edit_file(ino, |content| {
            if mode & zeroes != 0 {
                content.punch(offset, len);
            }
            if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
                content.set_len(content.len().max(offset + len));
            }
        });
        answer(done, reply);
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // All is data, up to the hole at the end.
        match self.node(ino).map(|node| node.read().attr.size as i64) {
            Ok(size) if offset >= size => reply.error(Errno::ENXIO),
            Ok(size) if whence == libc::SEEK_HOLE => reply.offset(size),
            Ok(_) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
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
        let bytes = self.node(source).map(|node| match &node.read().body {
            Body::File(content) => content.read(source_offset, len.min(1 << 30), <[u8]>::to_vec),
            _ => Vec::new(),
        });
        let copied = bytes.and_then(|bytes| {
            self.edit_file(target, |content| content.write(target_offset, &bytes))?;
            Ok(bytes.len() as u32)
        });
        match copied {
            Ok(bytes) => reply.written(bytes),
            Err(errno) => reply.error(errno),
        }
    }
}
