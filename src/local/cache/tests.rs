use super::*;
use crate::local::LocalOptions;

struct Fixture {
    dir: tempfile::TempDir,
    rocks: Rocks,
}

const MIB: u64 = 1 << 20;

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(&dir.path().join("rocksdb"), &LocalOptions::default()).unwrap();
        Fixture { dir, rocks }
    }

    fn open(&self) -> Cache {
        Cache::open(&self.dir.path().join("cache"), 8 * MIB).unwrap()
    }

    fn get(&self, cache: &Cache, n: u64) -> Option<Bytes> {
        cache.get(&self.rocks, &id(n)).unwrap()
    }

    fn put(&self, cache: &Cache, n: u64, limit: u64) {
        cache.put(&self.rocks, &id(n), &frame(n), limit).unwrap();
    }

    fn disk_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.dir.path().join("cache")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }
}

fn id(n: u64) -> [u8; 32] {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

/// 50,000 bytes or so that tell the number.
fn frame(n: u64) -> Vec<u8> {
    vec![n as u8; 50_000 + n as usize]
}

#[test]
fn a_frame_reads_back_also_after_a_restart() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    for n in 0..50 {
        fixture.put(&cache, n, 100 * MIB);
    }
    assert!(cache.has(&fixture.rocks, &id(7)).unwrap());
    assert!(!cache.has(&fixture.rocks, &id(50)).unwrap());
    for cache in [cache, fixture.open()] {
        for n in 0..50 {
            assert_eq!(fixture.get(&cache, n).unwrap(), frame(n));
        }
        assert_eq!(cache.bytes(), fixture.disk_bytes());
    }
}

#[test]
fn a_second_put_of_a_frame_takes_no_room() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    fixture.put(&cache, 1, 100 * MIB);
    let bytes = cache.bytes();
    fixture.put(&cache, 1, 100 * MIB);
    assert_eq!(cache.bytes(), bytes);
}

#[test]
fn the_cache_stays_within_its_limit_and_keeps_what_is_used() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    for n in 0..10 {
        fixture.put(&cache, n, 8 * MIB);
    }
    for n in 10..1000 {
        fixture.put(&cache, n, 8 * MIB);
        assert!(cache.bytes() <= 8 * MIB);
        // The first frames are read again and again; the others never.
        assert!(fixture.get(&cache, n % 10).is_some(), "frame {} after {n}", n % 10);
    }
    assert_eq!(cache.bytes(), fixture.disk_bytes());
    assert!(fixture.get(&cache, 500).is_none());
    assert!(fixture.get(&cache, 999).is_some());
    let fill = cache.bytes();
    assert!(fill > 5 * MIB, "room is used: {fill}");
}

#[test]
fn evicting_everything_leaves_nothing_and_goes_on() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    for n in 0..100 {
        fixture.put(&cache, n, 100 * MIB);
        fixture.get(&cache, n);
    }
    cache.evict_to(&fixture.rocks, 3 * MIB).unwrap();
    assert!(cache.bytes() <= 3 * MIB);
    assert!((0..100).any(|n| fixture.get(&cache, n).is_some()));
    cache.evict_to(&fixture.rocks, 0).unwrap();
    assert_eq!((cache.bytes(), fixture.disk_bytes()), (0, 0));
    assert!((0..100).all(|n| fixture.get(&cache, n).is_none()));
    fixture.put(&cache, 1, MIB);
    assert_eq!(fixture.get(&cache, 1).unwrap(), frame(1));
    cache.clear(&fixture.rocks).unwrap();
    assert_eq!((cache.bytes(), fixture.disk_bytes()), (0, 0));
    assert!(fixture.get(&cache, 1).is_none());
}

#[test]
fn a_frame_that_can_not_fit_is_left_out() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    fixture.put(&cache, 1, 100_000);
    fixture.put(&cache, 2, 40_000);
    assert!(fixture.get(&cache, 1).is_some(), "nothing was evicted in vain");
    assert!(fixture.get(&cache, 2).is_none());
}

#[test]
fn a_damaged_frame_is_a_miss_and_can_be_put_again() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    fixture.put(&cache, 1, MIB);
    fixture.put(&cache, 2, MIB);
    let path = fixture.dir.path().join("cache").join(format!("{:016x}.frames", 1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(fixture.get(&cache, 1), None);
    assert!(fixture.get(&cache, 2).is_some());
    fixture.put(&cache, 1, MIB);
    assert_eq!(fixture.get(&cache, 1).unwrap(), frame(1));
    std::fs::write(&path, &bytes[..60_000]).unwrap();
    assert_eq!(fixture.get(&cache, 2), None, "cut off");
    assert_eq!(fixture.get(&cache, 1), None, "cut off");
}

#[test]
fn a_removed_frame_can_be_replaced() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    fixture.put(&cache, 1, MIB);
    cache.remove(&fixture.rocks, &id(1)).unwrap();
    assert_eq!(fixture.get(&cache, 1), None);
    cache.put(&fixture.rocks, &id(1), b"right", MIB).unwrap();
    assert_eq!(fixture.get(&cache, 1).unwrap(), &b"right"[..]);
}

#[test]
fn frames_whose_index_entries_were_lost_are_found_again() {
    let fixture = Fixture::new();
    let cache = fixture.open();
    for n in 0..100 {
        fixture.put(&cache, n, 100 * MIB);
    }
    drop(cache);
    // What was not flushed: the frames of the newest files.
    for n in 40..100 {
        let mut batch = WriteBatch::default();
        batch.delete_cf(fixture.rocks.family(Family::Cache), id(n));
        fixture.rocks.write(batch).unwrap();
    }
    let cache = fixture.open();
    assert!(fixture.get(&cache, 99).is_none());
    cache.index_again(&fixture.rocks).unwrap();
    for n in 0..100 {
        assert_eq!(fixture.get(&cache, n).unwrap(), frame(n), "frame {n}");
    }
}
