//! Power cuts: the journal's files are left with what was synced, and anything behind that.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::journal::durable;
use super::*;

/// A small generator that replays (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// The key that holds the number of the last commit.
fn counter() -> Key {
    Key::local("count")
}

/// Commit number `n`: changes of a few keys, and sometimes data.
fn commit(local: &Local, n: u64) {
    let data = vec![n as u8; (n % 5 * 700) as usize];
    local
        .commit_with_data(&[&data], &mut |at| {
            let mut batch = Batch::new();
            batch.delete(key(n * 7 % 50));
            batch.put(key(n % 50), n.to_le_bytes().to_vec());
            batch.put(counter(), n.to_le_bytes().to_vec());
            if !data.is_empty() {
                let extent = Extent { len: data.len() as u64, source: Source::Staged(at) };
                batch.put(Key::extent(Ino(100 + n % 20), 0), encode_extent(&extent));
            }
            batch
        })
        .unwrap();
}

/// What the overlay holds after `n` commits; of extents, the number of their commit.
fn model(n: u64) -> (BTreeMap<Key, Slot>, BTreeMap<Key, u64>) {
    let (mut slots, mut extents) = (BTreeMap::new(), BTreeMap::new());
    for n in 1..=n {
        slots.insert(key(n * 7 % 50), Slot::Tombstone);
        slots.insert(key(n % 50), value(n));
        slots.insert(counter(), value(n));
        if !n.is_multiple_of(5) {
            extents.insert(Key::extent(Ino(100 + n % 20), 0), n);
        }
    }
    (slots, extents)
}

/// Checks that the overlay is that of a number of commits, which is returned.
fn check(local: &Local) -> u64 {
    let count = match local.get(counter().as_bytes()).unwrap() {
        Some(Slot::Value(count)) => u64::from_le_bytes(count[..].try_into().unwrap()),
        other => {
            assert_eq!(other, None);
            0
        }
    };
    let (mut slots, mut extents) = model(count);
    for (key, slot) in all(local) {
        if let Some(n) = extents.remove(&key) {
            let Slot::Value(encoded) = slot else { panic!("{key:?}: {slot:?}") };
            let extent = crate::format::decode_extent(&encoded).unwrap();
            let Source::Staged(at) = extent.source else { panic!("{extent:?}") };
            let data = read(local, at, extent.len as usize).unwrap();
            assert_eq!(data, vec![n as u8; (n % 5 * 700) as usize], "content of {key:?}");
        } else {
            assert_eq!(slots.remove(&key), Some(slot), "{key:?}");
        }
    }
    assert!(slots.is_empty() && extents.is_empty(), "missing: {slots:?} {extents:?}");
    count
}

/// Leaves what a power cut could leave of the journal.
fn cut_power(journal: &Path, random: &mut Random) {
    let files = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    for path in files {
        let durable = durable(&path);
        if !durable.has_name && random.below(3) == 0 {
            std::fs::remove_file(&path).unwrap();
            continue;
        }
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        assert!(durable.len <= len);
        let unsure = len - durable.len;
        // All of it may be there, or some, or its length with other bytes.
        let left = match random.below(3) {
            0 => unsure,
            _ => random.below(unsure + 1),
        };
        file.set_len(durable.len + left).unwrap();
        if random.below(2) == 0 {
            garble(&file, durable.len, left, random);
        }
        if random.below(2) == 0 {
            // What was written ahead is there, and what was written over it only in part.
            let from = durable.len + random.below(left + 1);
            file.write_all_at(&vec![0; (durable.len + left - from) as usize], from).unwrap();
        }
    }
}

fn garble(file: &File, from: u64, len: u64, random: &mut Random) {
    for _ in 0..random.below(4) {
        let at = random.below(len + 1);
        let garbage = vec![random.below(3) as u8; random.below(600) as usize];
        let garbage = &garbage[..garbage.len().min((len - at) as usize)];
        file.write_all_at(garbage, from + at).unwrap();
    }
}

#[test]
fn a_power_cut_loses_a_suffix_and_nothing_that_was_synced() {
    let mut lost = 0;
    for seed in 0..30 {
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut synced = 0;
        for generation in 0..4 {
            let local = open(dir.path());
            let mut n = check(&local);
            assert!(n >= synced, "seed {seed}.{generation}: {n} left of {synced} synced");
            synced = n;
            for _ in 0..random.below(600) {
                n += 1;
                commit(&local, n);
                match random.below(100) {
                    // What a seal does. The sweep begins a segment that holds nothing yet, and
                    // RocksDB's applied position is in it.
                    0 => {
                        local.sync().unwrap();
                        local.sweep().unwrap();
                        synced = n;
                        if random.below(2) == 0 {
                            break;
                        }
                    }
                    3 => {
                        local.sync().unwrap();
                        synced = n;
                    }
                    1 => {
                        local.with_cut(|_| ()).unwrap();
                        synced = n;
                    }
                    2 => {
                        local.sweep().unwrap();
                    }
                    _ => {}
                }
            }
            drop(local);
            cut_power(&dir.path().join("journal"), &mut random);
            lost += n - synced;
        }
        check(&open(dir.path()));
    }
    assert!(lost > 1000, "the cuts were no cuts: {lost} commits were at risk");
}

/// A sweep begins a segment, and deletes all others if nothing in them is referred to. Where all
/// records had been synced or applied before, nothing synced the new one's name: a filesystem that
/// keeps no order of its names (ext4 does) left an empty journal, which was refused as deleted by
/// somebody.
#[test]
fn a_power_cut_after_a_sweep_of_everything_leaves_a_journal_that_can_go_on() {
    sweep_of_everything(|local| local.sync().unwrap());
    // A cut leaves nothing that the sweep's own would have to apply, or to sync before.
    sweep_of_everything(|local| local.with_cut(|_| ()).unwrap());
}

fn sweep_of_everything(before_sweep: fn(&Local)) {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let data = vec![7; 4096];
    let staged = |at| Extent { len: data.len() as u64, source: Source::Staged(at) };
    for _ in 0..100 {
        local
            .commit_with_data(&[&data], &mut |at| {
                let mut batch = Batch::new();
                batch.put(Key::extent(Ino(100), 0), encode_extent(&staged(at)));
                batch
            })
            .unwrap();
    }
    let mut batch = Batch::new();
    batch.delete(Key::extent(Ino(100), 0));
    batch.put(counter(), 1_u64.to_le_bytes().to_vec());
    local.commit(batch).unwrap();
    before_sweep(&local);
    assert!(local.sweep().unwrap() > 100 * 4096);
    drop(local);
    let journal = dir.path().join("journal");
    for entry in std::fs::read_dir(&journal).unwrap() {
        let path = entry.unwrap().path();
        if !durable(&path).has_name {
            std::fs::remove_file(&path).unwrap();
        }
    }
    let local = open(dir.path());
    assert_eq!(local.get(counter().as_bytes()).unwrap(), Some(value(1)));
    commit(&local, 2);
    drop(local);
    assert_eq!(open(dir.path()).get(counter().as_bytes()).unwrap(), Some(value(2)));
}
