//! The inodes in memory: one cell per inode in use, with its lock and what was read of it.
//!
//! A cell is filled before its lock is taken, from reads that hold no lock, so that nobody waits
//! for the store behind an inode's lock. That is sound because all changes of an inode's records
//! go through its filled cell, under its lock: a cell that is still empty when the reads are done
//! proves that nothing changed meanwhile. A cell is dropped only while nobody holds it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::extents::ExtentMap;
use super::{Filesystem, FsError, Missing, acl};
use crate::chunks::Fetch;
use crate::format::{Extent, Key, KeyParts, Tag, decode_attr, decode_extent};
use crate::types::{Attr, Ino, Kind};

/// Locks that share the inodes.
const SHARDS: usize = 16;

/// Records of one inode read at once.
const RECORDS_AT_ONCE: usize = 1024;

/// Memory of a cell without extents: cell, attributes, map and list links.
const CELL_BYTES: usize = 512;

/// Memory of one extent in its map: what a tree of half-filled nodes takes, more than a block does.
const EXTENT_BYTES: usize = 160;

/// Idle cells that one look for room passes over because they are in use.
const BUSY_CELLS_PASSED_MAX: usize = 16;

/// The extended attribute that holds file capabilities; a write takes it off.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// One inode in memory.
#[derive(Debug)]
pub(super) struct InodeCell {
    pub ino: Ino,
    /// The inode's lock. Order: see [`super::Filesystem`].
    pub state: RwLock<CellState>,
    extents: AtomicUsize,
}

/// What is known of the inode. Parts that are not read yet are `None`.
#[derive(Debug, Default)]
pub(super) struct CellState {
    pub attr: Option<Attr>,
    /// Of regular files.
    pub content: Option<Content>,
    /// The inode was reclaimed: a late filler must not bring it back.
    pub gone: bool,
    /// Of directories: the ACL that new entries inherit, or that there is none.
    pub default_acl: Option<Option<Bytes>>,
}

/// What writes and reads of a file need to know.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub extents: ExtentMap,
    /// Whether there is a `security.capability`.
    pub has_capability: bool,
}

/// How much of a cell must be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Attr,
    /// Attributes, and of a regular file its content.
    Content,
    /// Attributes, and of a directory its default ACL.
    DefaultAcl,
}

impl CellState {
    fn has(&self, need: Need) -> bool {
        let Some(attr) = &self.attr else { return false };
        match need {
            Need::Attr => true,
            Need::Content => attr.kind != Kind::File || self.content.is_some(),
            Need::DefaultAcl => !attr.is_dir() || self.default_acl.is_some(),
        }
    }

    /// The attributes of a cell that was filled, unless the inode is gone.
    pub fn attr(&self) -> Result<&Attr, FsError> {
        self.attr.as_ref().ok_or(FsError::NotFound)
    }
}

/// All inodes in memory.
#[derive(Debug)]
pub(super) struct InodeTable {
    shards: Vec<Mutex<LruCache<Ino, Arc<InodeCell>>>>,
    hasher: RandomState,
    bytes_max: usize,
    cells: AtomicUsize,
    extents: AtomicUsize,
}

impl InodeTable {
    pub fn new(bytes_max: u64) -> InodeTable {
        InodeTable {
            shards: (0..SHARDS).map(|_| Mutex::new(LruCache::unbounded())).collect(),
            hasher: RandomState::new(),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            cells: AtomicUsize::new(0),
            extents: AtomicUsize::new(0),
        }
    }

    fn shard(&self, ino: Ino) -> &Mutex<LruCache<Ino, Arc<InodeCell>>> {
        &self.shards[(self.hasher.hash_one(ino) >> 48) as usize % SHARDS]
    }

    /// The inode's cell, perhaps an empty one.
    pub fn cell(&self, ino: Ino) -> Arc<InodeCell> {
        let mut shard = self.shard(ino).lock();
        if let Some(cell) = shard.get(&ino) {
            return Arc::clone(cell);
        }
        self.make_room(&mut shard);
        let cell =
            Arc::new(InodeCell { ino, state: RwLock::default(), extents: AtomicUsize::new(0) });
        shard.put(ino, Arc::clone(&cell));
        self.cells.fetch_add(1, Ordering::Relaxed);
        cell
    }

    /// The inode's cell if there is one; its rank stays.
    pub fn peek(&self, ino: Ino) -> Option<Arc<InodeCell>> {
        self.shard(ino).lock().peek(&ino).map(Arc::clone)
    }

    /// Notes how many extents the cell holds now.
    pub fn set_extents(&self, cell: &InodeCell, extents: usize) {
        let before = cell.extents.swap(extents, Ordering::Relaxed);
        self.extents.fetch_add(extents, Ordering::Relaxed);
        self.extents.fetch_sub(before, Ordering::Relaxed);
    }

    /// Memory of all cells, bytes, estimated.
    pub fn bytes(&self) -> usize {
        let cells = self.cells.load(Ordering::Relaxed);
        cells * CELL_BYTES + self.extents.load(Ordering::Relaxed) * EXTENT_BYTES
    }

    fn make_room(&self, shard: &mut LruCache<Ino, Arc<InodeCell>>) {
        let mut passed = 0;
        while self.bytes() >= self.bytes_max && passed < BUSY_CELLS_PASSED_MAX {
            let Some((ino, cell)) = shard.pop_lru() else { return };
            // Only the table hands cells out, under the lock that is held here: a count of one
            // means that nobody has it or can get it.
            if Arc::strong_count(&cell) > 1 {
                shard.put(ino, cell);
                passed += 1;
                continue;
            }
            self.set_extents(&cell, 0);
            self.cells.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The locks of several inodes, taken in ascending order.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    cells: Vec<(&'a InodeCell, RwLockWriteGuard<'a, CellState>)>,
}

impl<'a> Locked<'a> {
    /// Takes the locks. `cells` are as `Filesystem::cells` gives them: ascending, each once.
    pub fn write(cells: &'a [Arc<InodeCell>]) -> Locked<'a> {
        debug_assert!(cells.windows(2).all(|pair| pair[0].ino < pair[1].ino));
        Locked { cells: cells.iter().map(|cell| (&**cell, cell.state.write())).collect() }
    }

    /// Lets go of those that are not wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&InodeCell, &CellState) -> bool) {
        self.cells.retain(|(cell, state)| wanted(cell, state));
    }

    /// All that are locked, ascending.
    pub fn all(&mut self) -> impl Iterator<Item = (&'a InodeCell, &mut CellState)> {
        self.cells.iter_mut().map(|(cell, state)| (*cell, &mut **state))
    }

    fn position(&self, ino: Ino) -> usize {
        let at = self.cells.iter().position(|(cell, _)| cell.ino == ino);
        at.expect("an operation uses only the inodes that it locked")
    }

    /// What is known of a locked inode.
    pub fn state(&self, ino: Ino) -> &CellState {
        &self.cells[self.position(ino)].1
    }

    pub fn state_mut(&mut self, ino: Ino) -> &mut CellState {
        let at = self.position(ino);
        &mut self.cells[at].1
    }

    /// The attributes of a locked inode, unless it is gone.
    pub fn attr(&self, ino: Ino) -> Result<&Attr, FsError> {
        self.state(ino).attr()
    }

    /// The cell of a locked inode.
    pub fn cell(&self, ino: Ino) -> &'a InodeCell {
        self.cells[self.position(ino)].0
    }
}

impl Filesystem {
    /// The cells of these inodes, filled from what is on this machine, ascending, each once.
    pub(super) fn cells(&self, inos: &[Ino], need: Need) -> Result<Vec<Arc<InodeCell>>, FsError> {
        let mut inos = inos.to_vec();
        inos.sort_unstable();
        inos.dedup();
        inos.into_iter().map(|ino| self.filled(ino, need)).collect()
    }

    /// One filled cell. `NotFound` if there is no such inode.
    pub(super) fn filled(&self, ino: Ino, need: Need) -> Result<Arc<InodeCell>, FsError> {
        let cell = self.inodes.cell(ino);
        if !cell.state.read().has(need) {
            self.fill(&cell, need)?;
        }
        Ok(cell)
    }

    fn fill(&self, cell: &InodeCell, need: Need) -> Result<(), FsError> {
        let ino = cell.ino;
        let attr = self.read_attr(ino)?;
        let content = match need {
            Need::Content if attr.kind == Kind::File => Some(Content {
                extents: self.read_extents(ino)?,
                has_capability: self.get(&Key::xattr(ino, CAPABILITY))?.is_some(),
            }),
            _ => None,
        };
        let default_acl = match need {
            Need::DefaultAcl if attr.is_dir() => {
                let value = self.get(&Key::xattr(ino, acl::DEFAULT))?;
                // A copy: a value from the base keeps its whole leaf in memory.
                Some(value.map(|value| Bytes::copy_from_slice(&value)))
            }
            _ => None,
        };
        let mut state = cell.state.write();
        if state.gone {
            return Err(FsError::NotFound);
        }
        if state.attr.is_none() {
            state.attr = Some(attr);
        }
        if state.content.is_none()
            && let Some(content) = content
        {
            self.inodes.set_extents(cell, content.extents.len());
            state.content = Some(content);
        }
        if state.default_acl.is_none() {
            state.default_acl = default_acl;
        }
        Ok(())
    }

    fn read_attr(&self, ino: Ino) -> Result<Attr, FsError> {
        let bytes = self.get(&Key::attr(ino))?.ok_or(FsError::NotFound)?;
        decode_attr(&bytes).map_err(|error| FsError::malformed(ino, &error))
    }

    fn read_extents(&self, ino: Ino) -> Result<ExtentMap, FsError> {
        let mut extents: Vec<(u64, Extent)> = Vec::new();
        let to = Key::tag_end(ino, Tag::Extent);
        let mut from = Key::tag_start(ino, Tag::Extent);
        loop {
            let page = self.range(&from, &to, RECORDS_AT_ONCE)?;
            for (key, value) in &page {
                let Some(KeyParts::Extent(_, offset)) = key.parts() else { continue };
                let extent =
                    decode_extent(value).map_err(|error| FsError::malformed(ino, &error))?;
                extents.push((offset, extent));
            }
            match (page.len() < RECORDS_AT_ONCE, extents.last()) {
                (false, Some(&(offset, _))) => from = Key::extent(ino, offset.saturating_add(1)),
                _ => break,
            }
        }
        ExtentMap::from_records(extents)
            .map_err(|what| FsError::Corrupt { ino, what: what.to_owned() })
    }

    /// Attributes without a lock that could be waited for: of the last commit or one under way.
    pub(super) fn peek_attr(&self, ino: Ino) -> Result<Attr, FsError> {
        if let Some(cell) = self.inodes.peek(ino)
            && let Some(state) = cell.state.try_read()
            && let Some(attr) = &state.attr
        {
            return Ok(attr.clone());
        }
        self.read_attr(ino)
    }

    /// A record that is on this machine.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Bytes>, FsError> {
        self.namespace.get(key, Fetch::LocalOnly).map_err(|error| {
            let missing = || Missing::Record(key.clone());
            FsError::of_namespace(error, missing)
        })
    }

    /// Records that are on this machine.
    pub(super) fn range(
        &self,
        from: &Key,
        to: &Key,
        limit: usize,
    ) -> Result<Vec<(Key, Bytes)>, FsError> {
        self.namespace.range(from, to, limit, Fetch::LocalOnly).map_err(|error| {
            let missing = || Missing::Records(from.clone(), to.clone(), limit);
            FsError::of_namespace(error, missing)
        })
    }
}
