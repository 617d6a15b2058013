//! A plain filesystem in memory, written from POSIX and the Linux manual pages, not from the code
//! under test: maps and vectors, no extents, no records, no locks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use dormouse::fs::{AllocateMode, RenameMode, XattrMode};
use dormouse::types::{Attr, Ino, Kind, Time};

/// Who does something.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
}

/// A file, of any kind.
#[derive(Debug, Clone)]
pub struct Node {
    attr: Attr,
    /// As it is read: zeros in a hole.
    pub content: Vec<u8>,
    /// Of each byte of the content whether it is outside of holes.
    written: Vec<bool>,
    /// How many are, if they were counted since the last change: they are asked for often.
    counted: Cell<Option<u64>>,
    pub entries: BTreeMap<Vec<u8>, Ino>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An errno.
pub type Fails<T> = Result<T, i32>;

/// The filesystem. A clone shares what neither changes.
#[derive(Debug, Clone)]
pub struct Model {
    pub nodes: BTreeMap<Ino, Rc<Node>>,
    pub now: Time,
}

impl Node {
    fn new(kind: Kind, now: Time) -> Node {
        let is_dir = kind == Kind::Directory;
        Node {
            attr: Attr {
                kind,
                mode: 0,
                uid: 0,
                gid: 0,
                nlink: if is_dir { 2 } else { 1 },
                size: if is_dir { 4096 } else { 0 },
                allocated: 0,
                rdev: 0,
                atime: now,
                mtime: now,
                ctime: now,
                crtime: now,
                target: Box::default(),
                parent: Ino::META,
            },
            content: Vec::new(),
            written: Vec::new(),
            counted: Cell::new(None),
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
        }
    }

    /// What `stat` shows.
    pub fn attr(&self) -> Attr {
        let mut attr = self.attr.clone();
        if attr.kind == Kind::File {
            attr.size = self.content.len() as u64;
            attr.allocated = self.counted.get().unwrap_or_else(|| self.count());
        }
        attr
    }

    fn count(&self) -> u64 {
        let count = self.written.iter().filter(|&&written| written).count() as u64;
        self.counted.set(Some(count));
        count
    }

    fn set_len(&mut self, len: usize) {
        self.content.resize(len, 0);
        self.written.resize(len, false);
    }

    pub fn kind(&self) -> Kind {
        self.attr.kind
    }

    pub fn is_linked(&self) -> bool {
        self.attr.nlink > 0
    }

    fn is_dir(&self) -> bool {
        self.attr.kind == Kind::Directory
    }

    fn drop_privileges(&mut self) {
        self.attr.mode &= !0o4000;
        if self.attr.mode & 0o010 != 0 {
            self.attr.mode &= !0o2000;
        }
    }

    /// This, if it has content; which may be changed then.
    fn file(&mut self) -> Fails<&mut Node> {
        self.counted.set(None);
        match self.attr.kind {
            Kind::File => Ok(self),
            Kind::Directory => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    fn touch_content(&mut self, now: Time) {
        self.attr.mtime = now;
        self.attr.ctime = now;
        if self.attr.kind == Kind::File {
            self.xattrs.remove(&b"security.capability"[..]);
        }
    }
}

impl Model {
    pub fn new(now: Time) -> Model {
        let mut root = Node::new(Kind::Directory, now);
        root.attr.mode = 0o755;
        root.attr.parent = Ino::ROOT;
        Model { nodes: BTreeMap::from([(Ino::ROOT, Rc::new(root))]), now }
    }

    pub fn node(&self, ino: Ino) -> Fails<&Node> {
        self.nodes.get(&ino).map(Rc::as_ref).ok_or(libc::ENOENT)
    }

    fn node_mut(&mut self, ino: Ino) -> Fails<&mut Node> {
        self.nodes.get_mut(&ino).map(Rc::make_mut).ok_or(libc::ENOENT)
    }

    /// A directory that names can be put into.
    fn directory(&mut self, ino: Ino) -> Fails<&mut Node> {
        let node = self.node_mut(ino)?;
        match (node.is_dir(), node.is_linked()) {
            (false, _) => Err(libc::ENOTDIR),
            (true, false) => Err(libc::ENOENT),
            (true, true) => Ok(node),
        }
    }

    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Fails<Ino> {
        let node = self.node(dir)?;
        if !node.is_dir() {
            return Err(libc::ENOTDIR);
        }
        node.entries.get(name).copied().ok_or(libc::ENOENT)
    }

    /// Makes anything; `fresh` is the number it gets.
    pub fn make(
        &mut self,
        (dir, name, fresh): (Ino, &[u8], Ino),
        (kind, mode): (Kind, u32),
        who: Who,
        target: &[u8],
    ) -> Fails<Ino> {
        let now = self.now;
        let parent = self.directory(dir)?;
        if parent.entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let mut node = Node::new(kind, now);
        let setgid = parent.attr.mode & 0o2000 != 0;
        node.attr.uid = who.uid;
        node.attr.gid = if setgid { parent.attr.gid } else { who.gid };
        node.attr.mode = mode & 0o7777 & !who.umask;
        match kind {
            Kind::Directory => {
                node.attr.parent = dir;
                node.attr.mode |= if setgid { 0o2000 } else { 0 };
                parent.attr.nlink += 1;
            }
            Kind::Symlink => {
                node.attr.mode = 0o777;
                node.attr.target = target.into();
                node.attr.size = target.len() as u64;
            }
            Kind::CharDevice => node.attr.rdev = 0x103,
            _ => {}
        }
        parent.entries.insert(name.to_vec(), fresh);
        parent.touch_content(now);
        assert!(
            self.nodes.insert(fresh, Rc::new(node)).is_none(),
            "an inode number was used again"
        );
        Ok(fresh)
    }

    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Fails<Ino> {
        let now = self.now;
        let linked = self.node(ino)?;
        let (is_dir, is_linked) = (linked.is_dir(), linked.is_linked());
        let parent = self.directory(dir)?;
        if is_dir {
            return Err(libc::EPERM);
        }
        if parent.entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        if !is_linked {
            return Err(libc::ENOENT);
        }
        parent.entries.insert(name.to_vec(), ino);
        parent.touch_content(now);
        let node = self.node_mut(ino)?;
        node.attr.nlink += 1;
        node.attr.ctime = now;
        Ok(ino)
    }

    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Fails<()> {
        let ino = self.lookup(dir, name)?;
        if self.node(ino)?.is_dir() {
            return Err(libc::EISDIR);
        }
        self.take_name(dir, name)
    }

    pub fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Fails<()> {
        let ino = self.lookup(dir, name)?;
        let node = self.node(ino)?;
        if !node.is_dir() {
            return Err(libc::ENOTDIR);
        }
        if !node.entries.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.take_name(dir, name)
    }

    /// Removes a name, and what that does to both ends.
    fn take_name(&mut self, dir: Ino, name: &[u8]) -> Fails<()> {
        let now = self.now;
        let ino = self.lookup(dir, name)?;
        let node = self.node_mut(ino)?;
        node.attr.ctime = now;
        let is_dir = node.is_dir();
        node.attr.nlink = if is_dir { 0 } else { node.attr.nlink - 1 };
        let parent = self.node_mut(dir)?;
        parent.entries.remove(name);
        parent.touch_content(now);
        parent.attr.nlink -= u32::from(is_dir);
        Ok(())
    }

    /// Forgets inodes without a name that nobody holds.
    pub fn reclaim(&mut self, held: impl Fn(Ino) -> bool) {
        self.nodes.retain(|&ino, node| node.is_linked() || held(ino));
    }

    fn is_within(&self, mut dir: Ino, ancestor: Ino) -> bool {
        loop {
            if dir == ancestor {
                return true;
            }
            if dir == Ino::ROOT {
                return false;
            }
            dir = self.nodes[&dir].attr.parent;
        }
    }

    pub fn rename(
        &mut self,
        (from, name): (Ino, &[u8]),
        (to, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Fails<()> {
        let source = self.lookup(from, name)?;
        let target = match self.lookup(to, new_name) {
            Err(libc::ENOENT) => None,
            found => Some(found?),
        };
        self.directory(from)?;
        self.directory(to)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            (_, Some(target)) if target == source => return Ok(()),
            _ => {}
        }
        let source_is_dir = self.nodes[&source].is_dir();
        let target_is_dir = target.map(|target| self.nodes[&target].is_dir());
        if from != to && source_is_dir && self.is_within(to, source) {
            return Err(libc::EINVAL);
        }
        if let (Some(target), Some(true)) = (target, target_is_dir)
            && from != to
            && self.is_within(from, target)
        {
            let exchange = mode == RenameMode::Exchange;
            return Err(if exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => self.put_name((from, name), target, to),
            (_, None) => {
                self.node_mut(from)?.entries.remove(name);
            }
            (_, Some(target)) => {
                match (source_is_dir, target_is_dir == Some(true)) {
                    (true, true) if !self.nodes[&target].entries.is_empty() => {
                        return Err(libc::ENOTEMPTY);
                    }
                    (true, false) => return Err(libc::ENOTDIR),
                    (false, true) => return Err(libc::EISDIR),
                    _ => {}
                }
                self.take_name(to, new_name)?;
                self.node_mut(from)?.entries.remove(name);
            }
        }
        self.put_name((to, new_name), source, from);
        let now = self.now;
        self.node_mut(from)?.touch_content(now);
        self.node_mut(to)?.touch_content(now);
        Ok(())
    }

    /// Names an inode that had a name in `old`.
    fn put_name(&mut self, (dir, name): (Ino, &[u8]), ino: Ino, old: Ino) {
        let now = self.now;
        let node = self.node_mut(ino).expect("it has a name");
        node.attr.ctime = now;
        if node.is_dir() {
            node.attr.parent = dir;
            self.node_mut(old).expect("a directory").attr.nlink -= 1;
            self.node_mut(dir).expect("a directory").attr.nlink += 1;
        }
        let directory = self.node_mut(dir).expect("a directory");
        directory.entries.insert(name.to_vec(), ino);
    }

    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8], kill: bool) -> Fails<u64> {
        let now = self.now;
        let node = self.node_mut(ino)?.file()?;
        if data.is_empty() {
            return Ok(0);
        }
        let end = offset as usize + data.len();
        node.set_len(end.max(node.content.len()));
        node.content[offset as usize..end].copy_from_slice(data);
        node.written[offset as usize..end].fill(true);
        if kill {
            node.drop_privileges();
        }
        node.touch_content(now);
        Ok(data.len() as u64)
    }

    pub fn read(&mut self, ino: Ino, offset: u64, len: u32) -> Fails<Vec<u8>> {
        let node = self.node_mut(ino)?.file()?;
        let start = node.content.len().min(offset as usize);
        let end = node.content.len().min(start + len as usize);
        Ok(node.content[start..end].to_vec())
    }

    pub fn resize(&mut self, ino: Ino, size: u64, kill: bool) -> Fails<()> {
        let now = self.now;
        let node = self.node_mut(ino)?.file()?;
        node.set_len(size as usize);
        if kill {
            node.drop_privileges();
        }
        node.touch_content(now);
        Ok(())
    }

    pub fn chmod(&mut self, ino: Ino, mode: u32) -> Fails<()> {
        let now = self.now;
        let node = self.node_mut(ino)?;
        node.attr.mode = mode & 0o7777;
        node.attr.ctime = now;
        Ok(())
    }

    pub fn chown(&mut self, ino: Ino, uid: Option<u32>, gid: Option<u32>) -> Fails<()> {
        let now = self.now;
        let node = self.node_mut(ino)?;
        node.attr.ctime = now;
        if uid.is_some() || gid.is_some() {
            node.attr.uid = uid.unwrap_or(node.attr.uid);
            node.attr.gid = gid.unwrap_or(node.attr.gid);
            if !node.is_dir() {
                node.drop_privileges();
            }
            node.xattrs.remove(&b"security.capability"[..]);
        }
        Ok(())
    }

    pub fn utimes(&mut self, ino: Ino, atime: Option<Time>, mtime: Option<Time>) -> Fails<()> {
        let now = self.now;
        let node = self.node_mut(ino)?;
        node.attr.atime = atime.unwrap_or(node.attr.atime);
        node.attr.mtime = mtime.unwrap_or(node.attr.mtime);
        node.attr.ctime = now;
        Ok(())
    }

    pub fn allocate(
        &mut self,
        ino: Ino,
        (offset, len): (u64, u64),
        mode: AllocateMode,
        kill: bool,
    ) -> Fails<()> {
        let now = self.now;
        if len == 0 {
            return Err(libc::EINVAL);
        }
        let node = self.node_mut(ino)?.file()?;
        let (start, end) = (offset as usize, (offset + len) as usize);
        let clears = matches!(mode, AllocateMode::PunchHole | AllocateMode::ZeroRange { .. });
        if clears {
            let size = node.content.len();
            node.content[start.min(size)..end.min(size)].fill(0);
            node.written[start.min(size)..end.min(size)].fill(false);
        }
        let grows =
            matches!(mode, AllocateMode::Extend | AllocateMode::ZeroRange { keep_size: false });
        if grows {
            node.set_len(end.max(node.content.len()));
        }
        if kill {
            node.drop_privileges();
        }
        node.touch_content(now);
        Ok(())
    }

    pub fn copy(
        &mut self,
        (source, source_offset): (Ino, u64),
        (target, target_offset): (Ino, u64),
        len: u64,
        kill: bool,
    ) -> Fails<u64> {
        let now = self.now;
        let overlap = source_offset < target_offset + len && target_offset < source_offset + len;
        if source == target && overlap {
            return Err(libc::EINVAL);
        }
        // Both must be there before either is looked at.
        self.node(source.min(target))?;
        self.node(source.max(target))?;
        let from = self.node_mut(source)?.file()?;
        let start = from.content.len().min(source_offset as usize);
        let end = from.content.len().min(start + len as usize);
        let (bytes, written) =
            (from.content[start..end].to_vec(), from.written[start..end].to_vec());
        let node = self.node_mut(target)?.file()?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = target_offset as usize + bytes.len();
        node.set_len(end.max(node.content.len()));
        node.content[target_offset as usize..end].copy_from_slice(&bytes);
        node.written[target_offset as usize..end].copy_from_slice(&written);
        if kill {
            node.drop_privileges();
        }
        node.touch_content(now);
        Ok(bytes.len() as u64)
    }

    pub fn seek(&mut self, ino: Ino, offset: u64, data: bool) -> Fails<u64> {
        let node = self.node_mut(ino)?.file()?;
        let size = node.content.len();
        if offset as usize >= size {
            return Err(libc::ENXIO);
        }
        match node.written[offset as usize..].iter().position(|&written| written == data) {
            Some(at) => Ok(offset + at as u64),
            None if data => Err(libc::ENXIO),
            None => Ok(size as u64),
        }
    }

    pub fn set_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Fails<()> {
        let now = self.now;
        check_xattr_name(name)?;
        let node = self.node_mut(ino)?;
        node.check_xattr_holder(name)?;
        match (mode, node.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(libc::EEXIST),
            (XattrMode::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.attr.ctime = now;
        Ok(())
    }

    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Fails<()> {
        let now = self.now;
        check_xattr_name(name)?;
        let node = self.node_mut(ino)?;
        node.check_xattr_holder(name)?;
        node.xattrs.remove(name).ok_or(libc::ENODATA)?;
        node.attr.ctime = now;
        Ok(())
    }

    /// Linked inodes, and bytes that are not in holes of them.
    pub fn totals(&self) -> (u64, u64) {
        let linked = self.nodes.values().filter(|node| node.is_linked());
        linked.fold((0, 0), |(inodes, bytes), node| (inodes + 1, bytes + node.attr().allocated))
    }
}

impl Node {
    fn check_xattr_holder(&self, name: &[u8]) -> Fails<()> {
        let plain = matches!(self.attr.kind, Kind::File | Kind::Directory);
        if name.starts_with(b"user.") && !plain { Err(libc::EPERM) } else { Ok(()) }
    }
}

fn check_xattr_name(name: &[u8]) -> Fails<()> {
    let known = [&b"user."[..], b"trusted.", b"security."];
    if known.iter().any(|space| name.starts_with(space)) { Ok(()) } else { Err(libc::EOPNOTSUPP) }
}
