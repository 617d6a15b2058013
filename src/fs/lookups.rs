//! How often the kernel was told of each inode, less how often it forgot it. While that is not
//! zero, an unlinked inode lives on as an orphan.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::types::Ino;

/// Locks that share the counts.
const SHARDS: usize = 16;

/// Lookup counts. Each shard's lock is a leaf: nothing else is locked under it.
#[derive(Debug)]
pub(super) struct Lookups {
    shards: Vec<Mutex<HashMap<Ino, u64>>>,
}

impl Lookups {
    pub fn new() -> Lookups {
        Lookups { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
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

    pub fn is_held(&self, ino: Ino) -> bool {
        self.shard(ino).lock().contains_key(&ino)
    }

    /// Inodes that the kernel knows.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
