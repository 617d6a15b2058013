//! Commits whose n-th state anyone can compute, so that whatever is found can be judged.

use std::collections::BTreeMap;

use dormouse::format::{Extent, Key, Source, decode_extent, encode_extent};
use dormouse::local::{Batch, Local, LocalError, LocalOptions, Slot};
use dormouse::types::Ino;

/// Limits so small that tables are frozen and segments begun all the time.
pub fn options() -> LocalOptions {
    LocalOptions {
        memtable_bytes_max: 8 << 10,
        segment_bytes_max: 64 << 10,
        replay_bytes_max: 128 << 10,
        disk_reserve_bytes: 0,
        cache_bytes_max: 64 << 20,
        ..LocalOptions::default()
    }
}

/// A small generator that replays (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

fn counter() -> Key {
    Key::local("count")
}

fn attr(n: u64) -> Key {
    Key::attr(Ino(1 + n % 64))
}

fn content(n: u64) -> Vec<u8> {
    vec![n as u8; (n % 7 * 500) as usize]
}

fn number(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

/// Commit number `n`: some records, sometimes data.
pub fn commit(local: &Local, n: u64) -> Result<(), LocalError> {
    if n.is_multiple_of(10) {
        let mut batch = Batch::new();
        batch.put(counter(), number(n));
        batch.put(attr(n), number(n));
        return local.commit(batch);
    }
    let data = content(n);
    local.commit_with_data(&[&data], &mut |at| {
        let mut batch = Batch::new();
        batch.delete(attr(n * 5));
        batch.put(attr(n), number(n));
        batch.put(counter(), number(n));
        if !data.is_empty() {
            let extent = Extent { len: data.len() as u64, source: Source::Staged(at) };
            batch.put(Key::extent(Ino(100 + n % 30), 0), encode_extent(&extent));
        }
        batch
    })
}

/// Number of the last commit that is there.
pub fn committed(local: &Local) -> u64 {
    match local.get(counter().as_bytes()).unwrap() {
        Some(Slot::Value(count)) => u64::from_le_bytes(count[..].try_into().unwrap()),
        None => 0,
        Some(Slot::Tombstone) => panic!("the counter is never removed"),
    }
}

/// Checks that the overlay and the staged bytes are those after some number of commits, and
/// returns it.
pub fn check(local: &Local, context: &str) -> u64 {
    let count = committed(local);
    let mut wanted: BTreeMap<Key, Option<u64>> = BTreeMap::new();
    let mut extents: BTreeMap<Key, u64> = BTreeMap::new();
    for n in 1..=count {
        if !n.is_multiple_of(10) {
            wanted.insert(attr(n * 5), None);
            if !content(n).is_empty() {
                extents.insert(Key::extent(Ino(100 + n % 30), 0), n);
            }
        }
        wanted.insert(attr(n), Some(n));
        wanted.insert(counter(), Some(n));
    }
    for (key, slot) in local.range(&[], &[0xff; 16], usize::MAX).unwrap() {
        let value = match &slot {
            Slot::Value(value) => Some(&value[..]),
            Slot::Tombstone => None,
        };
        if let Some(n) = extents.remove(&key) {
            let extent = decode_extent(value.unwrap()).unwrap();
            let Source::Staged(at) = extent.source else { panic!("{extent:?}") };
            let mut found = vec![0; extent.len as usize];
            local.read_staged(at, &mut found).unwrap();
            assert!(found == content(n), "{context}: content of {key:?} after {count} commits");
        } else {
            let expected = wanted.remove(&key).map(|n| n.map(number));
            let found = Some(value.map(<[u8]>::to_vec));
            assert_eq!(expected, found, "{context}: {key:?} after {count} commits");
        }
    }
    assert!(wanted.is_empty() && extents.is_empty(), "{context}: missing {wanted:?} {extents:?}");
    count
}
