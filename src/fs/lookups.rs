//! How often the kernel was told of each inode, less how often it forgot it. While that is not
//! zero, an unlinked inode lives on as an orphan.
//!
//! A daemon that takes a mount over knows nothing of the counts before it: of the inodes that were
//! there by then, the kernel may know each. An unlinked one among them is *inherited*, and lives
//! until the kernel was asked and said that it does not know it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::types::Ino;

/// Locks that share the counts.
const SHARDS: usize = 16;

/// Lookup counts. Each shard's lock is a leaf: nothing else is locked under it.
#[derive(Debug)]
pub(super) struct Lookups {
    shards: Vec<Mutex<HashMap<Ino, u64>>>,
    /// Inodes below this were there when the mount was taken over; 0: it was not.
    inherited_below: AtomicU64,
    /// Orphans among them that the kernel does not know any more.
    disowned: Mutex<HashSet<Ino>>,
}

impl Lookups {
    pub fn new() -> Lookups {
        Lookups {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            inherited_below: AtomicU64::new(0),
            disowned: Mutex::default(),
        }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, u64>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// One more.
    pub fn add(&self, ino: Ino) {
        *self.shard(ino).lock().entry(ino).or_insert(0) += 1;
    }

    /// `count` fewer. Says whether that left none.
    pub fn remove(&self, ino: Ino, count: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(left) = shard.get_mut(&ino) else { return true };
        *left = left.saturating_sub(count);
        let none = *left == 0;
        if none {
            shard.remove(&ino);
        }
        none
    }

    /// Whether the kernel knows the inode, or may.
    pub fn is_held(&self, ino: Ino) -> bool {
        match self.is_inherited(ino) {
            true => !self.disowned.lock().contains(&ino),
            false => self.shard(ino).lock().contains_key(&ino),
        }
    }

    /// The kernel may know every inode below this one.
    pub fn inherit(&self, below: Ino) {
        self.inherited_below.store(below.0, Ordering::Release);
    }

    pub fn is_inherited(&self, ino: Ino) -> bool {
        ino.0 < self.inherited_below.load(Ordering::Acquire)
    }

    /// The kernel does not know this orphan any more, and never will again.
    pub fn disown(&self, ino: Ino) {
        self.disowned.lock().insert(ino);
    }

    /// The orphan is gone.
    pub fn gone(&self, ino: Ino) {
        self.disowned.lock().remove(&ino);
    }

    /// Inodes that the kernel knows.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
