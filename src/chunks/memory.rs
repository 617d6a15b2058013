//! A cache in memory, bounded by bytes: least recently used values leave first.

use std::hash::{BuildHasher, Hash, RandomState};

use lru::LruCache;
use parking_lot::Mutex;

/// Locks that share the keys, so that threads reading different chunks rarely meet.
const SHARDS: usize = 16;

/// What an entry costs beside its value: key, list links, hash slot, allocation.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// A sharded, byte-bounded, least-recently-used map. A value larger than a shard's share of the
/// budget is not kept. Each shard has its own lock; no other lock is taken under one.
#[derive(Debug)]
pub(super) struct ByteLru<K: Hash + Eq, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
    shard_bytes_max: usize,
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V: Clone> ByteLru<K, V> {
    /// A cache of at most `bytes_max` bytes, its own overhead included; 0 keeps nothing.
    pub(super) fn new(bytes_max: usize) -> ByteLru<K, V> {
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 });
        ByteLru {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            shard_bytes_max: bytes_max / SHARDS,
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let hash = self.hasher.hash_one(key);
        // The low bits choose the slot within a shard's own table; take high ones.
        &self.shards[(hash >> 48) as usize % SHARDS]
    }

    /// The value, which becomes the most recently used.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.shard(key).lock().entries.get(key).map(|(value, _)| value.clone())
    }

    /// Whether the value is here; its rank stays as it was.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.shard(key).lock().entries.contains(key)
    }

    /// Keeps a value of `bytes` bytes and drops the least recently used ones that no longer fit.
    pub(super) fn insert(&self, key: K, value: V, bytes: usize) {
        let cost = bytes.saturating_add(ENTRY_OVERHEAD_BYTES);
        if cost > self.shard_bytes_max {
            return;
        }
        let mut shard = self.shard(&key).lock();
        if let Some((_, old_cost)) = shard.entries.put(key, (value, cost)) {
            shard.bytes -= old_cost;
        }
        shard.bytes += cost;
        while shard.bytes > self.shard_bytes_max {
            let Some((_, (_, dropped))) = shard.entries.pop_lru() else { break };
            shard.bytes -= dropped;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.entries.clear();
            shard.bytes = 0;
        }
    }

    /// Bytes held, overhead included.
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_bound_holds_whatever_is_put_in() {
        let cache = ByteLru::new(1 << 20);
        for key in 0..10_000_u32 {
            cache.insert(key, vec![0_u8; 100], 100 + (key as usize * 37) % 5000);
            assert!(cache.bytes() <= 1 << 20);
        }
        assert!(cache.bytes() > 1 << 19, "a full cache is used");
    }

    #[test]
    fn what_was_used_last_stays_and_what_was_replaced_is_counted_once() {
        let cache = ByteLru::new(SHARDS * 1000);
        cache.insert(7_u8, "old", 500);
        cache.insert(7, "new", 500);
        assert_eq!(cache.bytes(), 500 + ENTRY_OVERHEAD_BYTES);
        assert_eq!(cache.get(&7), Some("new"));
        for key in 0..200 {
            cache.get(&7);
            cache.insert(key, "other", 100);
        }
        assert_eq!(cache.get(&7), Some("other"), "replaced under its own key, else never evicted");
        cache.clear();
        assert_eq!((cache.bytes(), cache.get(&7)), (0, None));
    }

    #[test]
    fn a_value_larger_than_its_share_is_not_kept_and_evicts_nothing() {
        let cache = ByteLru::new(SHARDS * 1000);
        cache.insert(1_u8, "small", 10);
        cache.insert(2, "huge", 5000);
        assert!(cache.contains(&1) && !cache.contains(&2));
    }
}
