//! Inodes in memory, and who keeps them alive.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dormouse::types::{Clock, SystemClock};
use fuser::{FileAttr, FileType, INodeNo};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::content::Content;

/// Preferred I/O size, as the product says it.
const BLOCK_BYTES: u32 = 4096;

/// Unit of `st_blocks`, bytes.
const SECTOR_BYTES: u64 = 512;

/// One inode. Lock order: the kernel holds a directory's own lock while it changes it, so at most
/// one node is locked at a time here.
#[derive(Debug)]
pub struct Node {
    state: RwLock<State>,
}

/// What an inode is at one time.
#[derive(Debug)]
pub struct State {
    pub attr: FileAttr,
    pub body: Body,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How often the kernel was told of it, less what it has forgotten.
    pub lookups: u64,
}

#[derive(Debug)]
pub enum Body {
    File(Content),
    Directory(Entries),
    Symlink(Vec<u8>),
    Special,
}

/// A directory's names, in the order in which they were made.
#[derive(Debug)]
pub struct Entries {
    pub parent: INodeNo,
    by_name: HashMap<Arc<[u8]>, u64>,
    by_cookie: BTreeMap<u64, (Arc<[u8]>, Arc<Node>)>,
    next: u64,
}

impl Entries {
    pub fn new(parent: INodeNo) -> Entries {
        // Cookies 1 and 2 are those of `.` and `..`.
        Entries { parent, by_name: HashMap::new(), by_cookie: BTreeMap::new(), next: 3 }
    }

    pub fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        Some(&self.by_cookie[self.by_name.get(name)?].1)
    }

    pub fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        let name: Arc<[u8]> = name.into();
        self.by_name.insert(Arc::clone(&name), self.next);
        self.by_cookie.insert(self.next, (name, node));
        self.next += 1;
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let cookie = self.by_name.remove(name)?;
        self.by_cookie.remove(&cookie).map(|(_, node)| node)
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Entries after a cookie.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], &Arc<Node>)> {
        let rest = self.by_cookie.range(cookie.saturating_add(1)..);
        rest.map(|(cookie, (name, node))| (*cookie, &name[..], node))
    }
}

impl Node {
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// The attributes for an answer that the kernel counts as a lookup.
    pub fn looked_up(&self) -> FileAttr {
        let mut state = self.write();
        state.lookups += 1;
        state.attr
    }
}

impl State {
    /// Attributes follow from the content's length.
    pub fn resized(&mut self, len: u64) {
        self.attr.size = len;
        self.attr.blocks = len.div_ceil(SECTOR_BYTES);
    }
}

/// What a new inode is to be.
#[derive(Debug)]
pub struct Make {
    pub kind: FileType,
    pub body: Body,
    pub mode: u32,
    pub owner: (u32, u32),
    pub rdev: u32,
}

/// All inodes, by number; a number is given once.
#[derive(Debug)]
pub struct Nodes {
    table: RwLock<Vec<Option<Arc<Node>>>>,
    pub clock: SystemClock,
}

impl Nodes {
    /// The root directory, and numbers from 2 up for the others.
    pub fn new() -> Nodes {
        let nodes = Nodes { table: RwLock::new(vec![None]), clock: SystemClock::new() };
        let body = Body::Directory(Entries::new(INodeNo::ROOT));
        let root = Make { kind: FileType::Directory, body, mode: 0o755, owner: (0, 0), rdev: 0 };
        let root = nodes.make(root);
        // The kernel never looks the root up, and never forgets it.
        root.write().lookups = 1;
        nodes
    }

    pub fn get(&self, ino: INodeNo) -> Option<Arc<Node>> {
        self.table.read().get(usize::try_from(ino.0).ok()?)?.clone()
    }

    pub fn make(&self, make: Make) -> Arc<Node> {
        let now = self.clock.now().into();
        let size = match &make.body {
            Body::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let is_directory = make.kind == FileType::Directory;
        let mut table = self.table.write();
        let attr = FileAttr {
            ino: INodeNo(table.len() as u64),
            size,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind: make.kind,
            perm: (make.mode & 0o7777) as u16,
            nlink: if is_directory { 2 } else { 1 },
            uid: make.owner.0,
            gid: make.owner.1,
            rdev: make.rdev,
            blksize: BLOCK_BYTES,
            flags: 0,
        };
        let state = State { attr, body: make.body, xattrs: Vec::new(), lookups: 0 };
        let node = Arc::new(Node { state: RwLock::new(state) });
        table.push(Some(Arc::clone(&node)));
        node
    }

    /// Takes `links` names and `lookups` from a node; the last of both ends it.
    pub fn release(&self, node: &Node, links: u32, lookups: u64) {
        let mut state = node.write();
        state.attr.nlink = state.attr.nlink.saturating_sub(links);
        state.lookups = state.lookups.saturating_sub(lookups);
        if links > 0 {
            state.attr.ctime = self.clock.now().into();
        }
        if state.attr.nlink == 0 && state.lookups == 0 {
            let ino = state.attr.ino.0;
            drop(state);
            let place = usize::try_from(ino).ok();
            let mut table = self.table.write();
            let node = place.and_then(|place| table.get_mut(place)).and_then(Option::take);
            drop(table);
            // Freeing a large file takes its time, and nobody need wait for that lock.
            drop(node);
        }
    }
}
