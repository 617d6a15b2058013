mod power;
mod requests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::format::{Extent, Key, PackSlot, Source, StagedAt, encode_extent};
use crate::types::{ChunkId, Ino, ManualClock, PackId};

const END: &[u8] = &[0xff; 16];

fn small() -> LocalOptions {
    LocalOptions {
        memtable_bytes_max: 8 << 10,
        segment_bytes_max: 64 << 10,
        replay_bytes_max: 256 << 10,
        ..LocalOptions::default()
    }
}

fn open_with(dir: &Path, options: &LocalOptions) -> Local {
    Local::open(dir, options, Arc::new(ManualClock::default())).unwrap()
}

fn open(dir: &Path) -> Local {
    open_with(dir, &small())
}

fn key(n: u64) -> Key {
    Key::attr(Ino(n))
}

fn value(n: u64) -> Slot {
    Slot::Value(Bytes::copy_from_slice(&n.to_le_bytes()))
}

fn put(local: &Local, n: u64, v: u64) {
    let mut batch = Batch::new();
    batch.put(key(n), v.to_le_bytes().to_vec());
    local.commit(batch).unwrap();
}

fn delete(local: &Local, n: u64) {
    let mut batch = Batch::new();
    batch.delete(key(n));
    local.commit(batch).unwrap();
}

fn all(local: &Local) -> Vec<(Key, Slot)> {
    local.range(&[], END, usize::MAX).unwrap()
}

/// Writes data to file `n` at offset 0 and tells where it went.
fn write(local: &Local, n: u64, data: &[u8]) -> Result<StagedAt, LocalError> {
    let mut staged = None;
    let middle = data.len() / 2;
    local.commit_with_data(&[&data[..middle], &data[middle..]], &mut |at| {
        staged = Some(at);
        let extent = Extent { len: data.len() as u64, source: Source::Staged(at) };
        let mut batch = Batch::new();
        batch.put(Key::extent(Ino(n), 0), encode_extent(&extent));
        batch
    })?;
    Ok(staged.unwrap())
}

fn read(local: &Local, at: StagedAt, len: usize) -> Result<Vec<u8>, LocalError> {
    let mut buf = vec![0; len];
    local.read_staged(at, &mut buf).map(|()| buf)
}

#[test]
fn what_was_committed_is_read_from_every_table() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    for n in 0..2000 {
        put(&local, n, n);
    }
    for n in (0..2000).step_by(3) {
        delete(&local, n);
    }
    for n in (0..2000).step_by(7) {
        put(&local, n, n + 1);
    }
    let expected = |n: u64| match () {
        () if n.is_multiple_of(7) => value(n + 1),
        () if n.is_multiple_of(3) => Slot::Tombstone,
        () => value(n),
    };
    for n in 0..2000 {
        assert_eq!(local.get(key(n).as_bytes()).unwrap(), Some(expected(n)));
    }
    assert_eq!(local.get(key(2000).as_bytes()).unwrap(), None);
    let found = local.range(key(100).as_bytes(), key(1000).as_bytes(), 500).unwrap();
    let wanted: Vec<_> = (100..600).map(|n| (key(n), expected(n))).collect();
    assert_eq!(found, wanted);
    assert_eq!(local.range(key(5).as_bytes(), key(5).as_bytes(), 9).unwrap(), []);
    assert_eq!(local.range(key(6).as_bytes(), key(5).as_bytes(), 9).unwrap(), []);
    assert_eq!(local.range(&[], END, 0).unwrap(), []);
}

#[test]
fn a_dropped_handle_and_a_closed_one_both_come_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = Vec::new();
    let mut id = None;
    for round in 0..6 {
        let local = open(dir.path());
        assert_eq!(*id.get_or_insert(local.cache_id()), local.cache_id());
        assert_eq!(all(&local), wanted);
        for n in 0..150 {
            put(&local, round * 150 + n, n);
            wanted.push((key(round * 150 + n), value(n)));
        }
        if round % 2 == 0 {
            local.close().unwrap();
            local.close().unwrap();
            assert!(matches!(local.commit(Batch::new()), Err(LocalError::Closed)));
            assert_eq!(all(&local), wanted, "reading goes on");
        }
    }
}

#[test]
fn a_second_open_is_refused_with_the_owner_s_pid() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let second = Local::open(dir.path(), &small(), Arc::new(ManualClock::default()));
    match second {
        Err(LocalError::Locked { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    drop(local);
    open(dir.path());
}

#[test]
fn dropped_records_leave_the_overlay_only_if_they_did_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    for n in 0..400 {
        put(&local, n, n);
    }
    delete(&local, 400);
    let captured = all(&local);
    for n in 0..100 {
        put(&local, n, n + 1);
    }
    put(&local, 400, 1);
    assert_eq!(local.drop_clean(&captured).unwrap(), 300);
    assert_eq!(local.drop_clean(&captured).unwrap(), 0, "a second time finds nothing");
    let mut wanted: Vec<_> = (0..100).map(|n| (key(n), value(n + 1))).collect();
    wanted.push((key(400), value(1)));
    assert_eq!(all(&local), wanted);
    assert_eq!(local.get(key(150).as_bytes()).unwrap(), None);
    assert_eq!(local.range(&[], END, 50).unwrap(), wanted[..50]);
    drop(local);
    let local = open(dir.path());
    assert_eq!(all(&local), wanted, "after a replay");
    local.close().unwrap();
    drop(local);
    assert_eq!(all(&open(dir.path())), wanted, "from RocksDB");
}

#[test]
fn a_cut_shows_one_moment_while_writers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    for n in 0..500 {
        put(&local, n, 1);
    }
    let before = all(&local);
    local
        .with_cut(|cut| {
            for n in 0..1000 {
                put(&local, n, 2);
            }
            delete(&local, 3);
            let mut paged: Vec<(Key, Slot)> = Vec::new();
            loop {
                let from = paged.last().map(|(key, _)| [key.as_bytes(), &[0]].concat());
                let page = cut.range(&from.unwrap_or_default(), END, 64).unwrap();
                if page.is_empty() {
                    break;
                }
                assert!(page.len() <= 64);
                paged.extend(page);
            }
            assert_eq!(paged, before);
            assert_eq!(cut.get(key(3).as_bytes()).unwrap(), Some(value(1)));
            assert_eq!(cut.get(key(700).as_bytes()).unwrap(), None);
            assert_eq!(local.get(key(3).as_bytes()).unwrap(), Some(Slot::Tombstone));
        })
        .unwrap();
}

#[test]
fn a_range_is_of_one_moment() {
    // A writer moves a token from one key to the other, forever: no range sees none or two.
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let stop = AtomicBool::new(false);
    put(&local, 1, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 1;
            while !stop.load(Ordering::Relaxed) {
                let mut batch = Batch::new();
                batch.delete(key(at));
                at = 3 - at;
                batch.put(key(at), vec![0; 500]);
                local.commit(batch).unwrap();
            }
        });
        for _ in 0..3000 {
            let values = all(&local).into_iter().filter(|(_, slot)| *slot != Slot::Tombstone);
            assert_eq!(values.count(), 1);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn threads_that_commit_and_sync_together_share_rounds() {
    let dir = tempfile::tempdir().unwrap();
    let local = open_with(dir.path(), &LocalOptions::default());
    let committed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (local, committed) = (&local, &committed);
            scope.spawn(move || {
                for n in 0..50 {
                    put(local, thread * 1000 + n, n);
                    committed.fetch_add(1, Ordering::Relaxed);
                    local.sync().unwrap();
                }
            });
        }
    });
    let rounds = local.sync_count();
    assert!(rounds < committed.load(Ordering::Relaxed), "{rounds} rounds for 400 syncs");
    assert_eq!(all(&local).len(), 400);
}

#[test]
fn a_sweep_frees_what_no_extent_refers_to_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let places: Vec<_> = (0..100).map(|n| write(&local, n, &[n as u8; 10_000]).unwrap()).collect();
    let bytes = local.usage().unwrap().journal_bytes;
    assert!(bytes > 1_000_000);
    assert_eq!(local.sweep().unwrap(), 0, "all of it is referred to");
    assert_eq!(local.usage().unwrap().staged_live_bytes, 1_000_000);
    for n in 0..100 {
        if n % 20 != 0 {
            let mut batch = Batch::new();
            batch.delete(Key::extent(Ino(n), 0));
            local.commit(batch).unwrap();
        }
    }
    let freed = local.sweep().unwrap();
    assert!(freed > 400_000, "{freed}");
    assert_eq!(local.usage().unwrap().staged_live_bytes, 50_000);
    for n in (0..100).step_by(20) {
        assert_eq!(read(&local, places[n], 10_000).unwrap(), vec![n as u8; 10_000]);
    }
    let gone = places.iter().filter(|&&at| read(&local, at, 1).is_err());
    assert!(gone.count() > 40);
    drop(local);
    let local = open(dir.path());
    for n in (0..100).step_by(20) {
        assert_eq!(read(&local, places[n], 10_000).unwrap(), vec![n as u8; 10_000]);
    }
}

#[test]
fn a_cut_keeps_the_bytes_that_it_refers_to() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let places: Vec<_> = (0..50).map(|n| write(&local, n, &[n as u8; 9_000]).unwrap()).collect();
    local
        .with_cut(|_| {
            for n in 0..50 {
                let mut batch = Batch::new();
                batch.delete(Key::extent(Ino(n), 0));
                local.commit(batch).unwrap();
            }
            assert_eq!(local.sweep().unwrap(), 0);
            for (n, at) in places.iter().enumerate() {
                assert_eq!(read(&local, *at, 9_000).unwrap(), vec![n as u8; 9_000]);
            }
        })
        .unwrap();
    assert!(local.sweep().unwrap() > 400_000);
    let error = read(&local, places[0], 1).unwrap_err();
    assert!(matches!(error, LocalError::NotStaged(_)), "{error}");
}

#[test]
fn a_spent_budget_is_said_on_the_write_and_removing_still_works() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { cache_bytes_max: 1 << 20, ..small() };
    let local = open_with(dir.path(), &options);
    let mut written = 0;
    let error = loop {
        match write(&local, written, &[1; 50_000]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LocalError::Quota { budget, .. } if budget == 1 << 20), "{error}");
    assert!((15..=20).contains(&written), "{written}");
    assert_eq!(local.get(Key::extent(Ino(written), 0).as_bytes()).unwrap(), None);
    for n in 0..written {
        let mut batch = Batch::new();
        batch.delete(Key::extent(Ino(n), 0));
        local.commit(batch).unwrap();
    }
    assert!(local.sweep().unwrap() > 500_000);
    write(&local, 0, &[1; 50_000]).unwrap();
}

#[test]
fn what_frees_room_is_let_in_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { cache_bytes_max: 1 << 20, ..small() };
    let local = open_with(dir.path(), &options);
    let mut written = 0;
    while write(&local, written, &[1; 50_000]).is_ok() {
        written += 1;
    }
    // Records alone have some room more, and then have none either.
    let refused = (1000..).find_map(|n| {
        let mut batch = Batch::new();
        batch.put(Key::attr(Ino(n)), vec![7; 2000]);
        local.commit(batch).err()
    });
    assert!(matches!(refused, Some(LocalError::Quota { .. })), "{refused:?}");
    // A mount whose budget is spent must still be able to settle and seal, or it stays so.
    for n in 0..written {
        let mut batch = Batch::for_upkeep();
        batch.delete(Key::extent(Ino(n), 0));
        local.commit(batch).unwrap();
    }
    assert!(local.sweep().unwrap() > 500_000);
    write(&local, 0, &[1; 50_000]).unwrap();
}

#[test]
fn a_write_that_finds_no_room_frees_dead_bytes_itself() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { cache_bytes_max: 1 << 20, ..small() };
    let clock = Arc::new(ManualClock::default());
    let local = Local::open(dir.path(), &options, clock.clone()).unwrap();
    for n in 0..200 {
        // The same range of the same file: all but the last write's bytes are dead.
        write(&local, 1, &[n as u8; 50_000]).unwrap();
        clock.advance(std::time::Duration::from_millis(300));
    }
    assert!(local.usage().unwrap().journal_bytes < 1 << 20);
}

#[test]
fn the_cache_gives_way_to_what_is_not_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { cache_bytes_max: 8 << 20, ..small() };
    let local = open_with(dir.path(), &options);
    let within = |local: &Local| {
        let usage = local.usage().unwrap();
        assert!(usage.journal_bytes + usage.cache_bytes <= 8 << 20, "{usage:?}");
        usage
    };
    for n in 0..200_u64 {
        let id = *blake3::hash(&n.to_le_bytes()).as_bytes();
        local.cache_put(&id, &[0; 100_000]).unwrap();
        within(&local);
    }
    assert!(within(&local).cache_bytes > 6 << 20);
    for n in 0..70 {
        write(&local, n, &[1; 100_000]).unwrap();
        within(&local);
    }
    assert!(within(&local).cache_bytes < 2 << 20);
}

#[test]
fn a_full_disk_is_said_and_records_alone_may_use_half_the_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let free = open(dir.path()).usage().unwrap().disk_free;
    let with_reserve =
        |reserve| open_with(dir.path(), &LocalOptions { disk_reserve_bytes: reserve, ..small() });
    let local = with_reserve(free + free / 2);
    assert!(matches!(write(&local, 1, b"data"), Err(LocalError::Full)));
    put(&local, 1, 1);
    drop(local);
    let local = with_reserve(free * 3);
    assert!(matches!(local.commit(Batch::new()), Err(LocalError::Full)));
    drop(local);
    write(&open(dir.path()), 1, b"data").unwrap();
}

#[test]
fn known_locations_are_kept_until_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let slot = |n: u8| PackSlot { pack: PackId([n; 32]), offset: 1 << n, len: 77 };
    let id = |n: u8| ChunkId([n; 32]);
    local.known_put(&[(id(1), slot(1)), (id(255), slot(2))]).unwrap();
    local.close().unwrap();
    drop(local);
    let local = open(dir.path());
    assert_eq!(local.known_get(&id(1)).unwrap(), Some(slot(1)));
    assert_eq!(local.known_get(&id(255)).unwrap(), Some(slot(2)));
    assert_eq!(local.known_get(&id(3)).unwrap(), None);
    local.known_clear().unwrap();
    assert_eq!(local.known_get(&id(255)).unwrap(), None);
}

#[test]
fn an_empty_commit_is_nothing_and_data_without_a_record_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let bytes = local.usage().unwrap().journal_bytes;
    local.commit(Batch::new()).unwrap();
    assert_eq!(local.usage().unwrap().journal_bytes, bytes);
    local.commit_with_data(&[b"nobody's"], &mut |_| Batch::new()).unwrap();
    put(&local, 1, 1);
    drop(local);
    assert_eq!(all(&open(dir.path())), [(key(1), value(1))]);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, u64),
    Delete(u64),
    /// Two keys in one commit.
    Swap(u64, u64),
    DropClean(u64, u64),
    Range(u64, u64, usize),
    Cut,
    Sweep,
    Reopen {
        clean: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..40_u64;
    prop_oneof![
        8 => (n.clone(), any::<u64>()).prop_map(|(n, v)| Step::Put(n, v)),
        3 => n.clone().prop_map(Step::Delete),
        3 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Swap(a, b)),
        3 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::DropClean(a, b)),
        3 => (n.clone(), n, 0..20_usize).prop_map(|(a, b, limit)| Step::Range(a, b, limit)),
        1 => Just(Step::Cut),
        1 => Just(Step::Sweep),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The overlay against an ordered map, over restarts, cuts and sweeps.
    #[test]
    fn the_overlay_does_what_an_ordered_map_does(steps in prop::collection::vec(step(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let options = LocalOptions { memtable_bytes_max: 700, ..small() };
        let mut local = open_with(dir.path(), &options);
        let mut model: BTreeMap<Key, Slot> = BTreeMap::new();
        let range = |model: &BTreeMap<Key, Slot>, a: u64, b: u64, limit: usize| -> Vec<_> {
            let inside = |key: &&Key| **key >= self::key(a) && **key < self::key(b);
            let keys = model.keys().filter(inside).take(limit);
            keys.map(|key| (key.clone(), model[key].clone())).collect()
        };
        for step in steps {
            match step {
                Step::Put(n, v) => {
                    put(&local, n, v);
                    model.insert(key(n), value(v));
                }
                Step::Delete(n) => {
                    delete(&local, n);
                    model.insert(key(n), Slot::Tombstone);
                }
                Step::Swap(a, b) => {
                    let mut batch = Batch::new();
                    batch.delete(key(a));
                    batch.put(key(b), a.to_le_bytes().to_vec());
                    local.commit(batch).unwrap();
                    model.insert(key(a), Slot::Tombstone);
                    model.insert(key(b), value(a));
                }
                Step::DropClean(a, b) => {
                    let mut expected = range(&model, a, b, usize::MAX);
                    let clean = expected.len();
                    expected.iter().for_each(|(key, _)| drop(model.remove(key)));
                    expected.push((key(99), value(0)));
                    prop_assert_eq!(local.drop_clean(&expected).unwrap(), clean);
                }
                Step::Range(a, b, limit) => {
                    let found = local.range(key(a).as_bytes(), key(b).as_bytes(), limit).unwrap();
                    prop_assert_eq!(found, range(&model, a, b, limit));
                }
                Step::Cut => {
                    let seen = local.with_cut(|cut| cut.range(&[], END, usize::MAX).unwrap());
                    prop_assert_eq!(seen.unwrap(), range(&model, 0, 99, usize::MAX));
                }
                Step::Sweep => {
                    local.sweep().unwrap();
                }
                Step::Reopen { clean } => {
                    if clean {
                        local.close().unwrap();
                    }
                    drop(local);
                    local = open_with(dir.path(), &options);
                }
            }
            for n in 0..40 {
                prop_assert_eq!(local.get(key(n).as_bytes()).unwrap(), model.get(&key(n)).cloned());
            }
        }
        prop_assert_eq!(all(&local), range(&model, 0, 99, usize::MAX));
    }
}
