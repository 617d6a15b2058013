use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::*;
use crate::format::Key;
use crate::local::memtable::State;
use crate::types::Ino;

const CACHE: CacheId = CacheId([7; 16]);
const SEGMENT_BYTES: u64 = 4096;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self, applied: Option<Position>) -> Result<Journal, LocalError> {
        Journal::open(self.dir.path(), CACHE, SEGMENT_BYTES, applied)
    }

    /// File of a segment, for damaging it.
    fn file(&self, number: u64) -> std::fs::File {
        let path = self.dir.path().join(format!("{number:016x}.log"));
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }
}

/// Commit number `n`: a record whose value tells it, and some data.
fn append(journal: &Journal, n: u64, data: &[u8]) -> Result<StagedAt, LocalError> {
    let mut writer = journal.writer();
    let at = journal.begin(&mut writer, data.len() as u64)?;
    encode_change(writer.batch(), &Key::attr(Ino(n)), Change::Value(&n.to_le_bytes()));
    let parts: &[&[u8]] = if data.is_empty() { &[] } else { &[data] };
    journal.append(&mut writer, parts, crc32c::crc32c(data))?;
    Ok(at)
}

/// The numbers of the commits that a replay shows.
fn replayed(journal: &Journal, applied: Option<Position>) -> Vec<u64> {
    let mut numbers = Vec::new();
    replay(journal, applied, &mut |decoded, at| {
        let [(key, State::Value(value))] = &decoded.changes[..] else { panic!("{decoded:?}") };
        assert_eq!(value[..], key.ino().0.to_le_bytes());
        numbers.push(key.ino().0);
        assert_eq!(at.seq, numbers.len() as u64 + applied.unwrap_or_default().seq);
        Ok(())
    })
    .unwrap();
    numbers
}

fn range(to: u64) -> Vec<u64> {
    (1..=to).collect()
}

#[test]
fn commits_come_back_in_order_over_segments() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    let at = append(&journal, 1, b"the data").unwrap();
    for n in 2..=200 {
        append(&journal, n, &[n as u8; 100]).unwrap();
    }
    assert!(journal.segment_numbers().len() > 3, "the segments are small");
    drop(journal);
    let journal = fixture.open(None).unwrap();
    assert_eq!(replayed(&journal, None), range(200));
    let mut buf = [0; 4];
    let inside = StagedAt { segment: at.segment, offset: at.offset + 4 };
    journal.read(inside, &mut buf).unwrap();
    assert_eq!(&buf, b"data");
    append(&journal, 201, b"").unwrap();
    drop(journal);
    assert_eq!(replayed(&fixture.open(None).unwrap(), None), range(201));
}

#[test]
fn replay_begins_at_the_applied_position() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    for n in 1..=60 {
        append(&journal, n, &[1; 50]).unwrap();
    }
    let applied = journal.writer().position();
    for n in 61..=90 {
        append(&journal, n, &[1; 50]).unwrap();
    }
    let first = journal.segment_numbers()[0];
    assert!(first < applied.segment);
    journal.delete(first).unwrap();
    drop(journal);
    let journal = fixture.open(Some(applied)).unwrap();
    assert_eq!(replayed(&journal, Some(applied)), (61..=90).collect::<Vec<_>>());
}

#[test]
fn whatever_byte_is_damaged_a_prefix_is_left_and_appends_go_on() {
    let offsets = (SEGMENT_HEADER_LEN..SEGMENT_HEADER_LEN + 300).step_by(7);
    for offset in offsets {
        let fixture = Fixture::new();
        let journal = fixture.open(None).unwrap();
        for n in 1..=60 {
            append(&journal, n, &[n as u8; 77]).unwrap();
        }
        assert!(journal.segment_numbers().len() >= 2);
        drop(journal);
        let file = fixture.file(1);
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();

        let journal = fixture.open(None).unwrap();
        let left = replayed(&journal, None);
        assert_eq!(left, range(left.len() as u64));
        assert!(left.len() < 5, "damage at {offset} hides what is behind it: {left:?}");
        let next = left.len() as u64 + 1;
        append(&journal, next, b"").unwrap();
        drop(journal);
        assert_eq!(replayed(&fixture.open(None).unwrap(), None), range(next));
    }
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_tore() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    for n in 1..=5 {
        append(&journal, n, &[n as u8; 20]).unwrap();
    }
    let end = journal.writer().position().offset;
    drop(journal);
    for len in (0..end).rev() {
        fixture.file(1).set_len(len).unwrap();
        for file in fixture.files().iter().skip(1) {
            std::fs::remove_file(file).unwrap();
        }
        let journal = fixture.open(None).unwrap();
        let left = replayed(&journal, None);
        assert_eq!(left, range(left.len() as u64), "cut at {len}");
        if len < SEGMENT_HEADER_LEN {
            break;
        }
    }
    assert_eq!(replayed(&fixture.open(None).unwrap(), None), Vec::<u64>::new());
}

#[test]
fn records_of_another_directory_are_not_replayed() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    append(&journal, 1, b"").unwrap();
    drop(journal);
    let other = Journal::open(fixture.dir.path(), CacheId([8; 16]), SEGMENT_BYTES, None).unwrap();
    assert_eq!(replayed(&other, None), Vec::<u64>::new());
}

#[test]
fn a_missing_journal_and_a_short_one_are_damage() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    for n in 1..=3 {
        append(&journal, n, b"").unwrap();
    }
    let applied = Some(journal.writer().position());
    drop(journal);
    fixture.file(1).set_len(100).unwrap();
    assert!(matches!(fixture.open(applied), Err(LocalError::Corrupt { .. })));
    for file in fixture.files() {
        std::fs::remove_file(file).unwrap();
    }
    assert!(matches!(fixture.open(applied), Err(LocalError::Corrupt { .. })));
}

#[test]
fn a_write_cut_short_by_a_full_disk_leaves_no_trace_and_the_next_one_works() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    append(&journal, 1, b"before").unwrap();
    let end = journal.writer().position().offset;
    for room in [0, 1, 27, 28, 40, 120] {
        journal.faults(|faults| faults.full_at.store(end + room, Ordering::Relaxed));
        let error = append(&journal, 2, &[2; 100]).unwrap_err();
        assert!(matches!(error, LocalError::Full), "{error}");
        assert_eq!(fixture.file(1).metadata().unwrap().len(), end);
    }
    journal.faults(|faults| faults.full_at.store(u64::MAX, Ordering::Relaxed));
    append(&journal, 2, &[2; 100]).unwrap();
    drop(journal);
    assert_eq!(replayed(&fixture.open(None).unwrap(), None), range(2));
}

#[test]
fn after_a_failed_sync_every_commit_and_sync_fails() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    append(&journal, 1, b"").unwrap();
    journal.sync().unwrap();
    append(&journal, 2, b"").unwrap();
    journal.faults(|faults| faults.sync_fails.store(true, Ordering::Relaxed));
    assert!(matches!(journal.sync(), Err(LocalError::Poisoned { .. })));
    // The disk seems well again: it is not trusted.
    journal.faults(|faults| faults.sync_fails.store(false, Ordering::Relaxed));
    assert!(matches!(journal.sync(), Err(LocalError::Poisoned { .. })));
    assert!(matches!(append(&journal, 3, b""), Err(LocalError::Poisoned { .. })));
    journal.sync_to(1).unwrap_err();
}

#[test]
fn a_sync_with_nothing_new_costs_no_round() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    append(&journal, 1, b"").unwrap();
    journal.sync().unwrap();
    journal.sync().unwrap();
    assert_eq!(journal.sync_rounds(), 1);
}

#[test]
fn a_commit_over_the_limit_is_refused_whole() {
    let fixture = Fixture::new();
    let journal = fixture.open(None).unwrap();
    let data = vec![0; PAYLOAD_LEN_MAX];
    assert!(matches!(append(&journal, 1, &data), Err(LocalError::TooLarge { .. })));
    append(&journal, 1, b"").unwrap();
    drop(journal);
    assert_eq!(replayed(&fixture.open(None).unwrap(), None), range(1));
}

#[test]
fn an_applied_position_in_a_segment_that_a_power_cut_took_is_no_damage() {
    for left in [None, Some(0), Some(10), Some(SEGMENT_HEADER_LEN)] {
        let fixture = Fixture::new();
        let journal = fixture.open(None).unwrap();
        append(&journal, 1, b"data").unwrap();
        journal.sync().unwrap();
        journal.roll_if_over(&mut journal.writer(), 1).unwrap();
        // RocksDB has everything, and knows the journal's end in a segment never synced.
        let applied = Some(journal.writer().position());
        drop(journal);
        match left {
            Some(len) => fixture.file(2).set_len(len).unwrap(),
            None => std::fs::remove_file(&fixture.files()[1]).unwrap(),
        }
        for n in 2..5 {
            let journal = fixture.open(applied).unwrap();
            assert_eq!(replayed(&journal, applied), (2..n).collect::<Vec<_>>());
            append(&journal, n, b"").unwrap();
        }
    }
}

/// A journal with segments that have room for what is written ahead.
fn open_roomy(fixture: &Fixture) -> Journal {
    Journal::open(fixture.dir.path(), CACHE, 1 << 20, None).unwrap()
}

fn file_len(fixture: &Fixture, number: u64) -> u64 {
    fixture.file(number).metadata().unwrap().len()
}

#[test]
fn small_records_that_are_synced_one_by_one_find_room_written_ahead() {
    let fixture = Fixture::new();
    let journal = open_roomy(&fixture);
    let mut growths = 0;
    let mut len = file_len(&fixture, 1);
    for n in 1..=1000 {
        append(&journal, n, &[n as u8; 500]).unwrap();
        journal.sync().unwrap();
        growths += u32::from(std::mem::replace(&mut len, file_len(&fixture, 1)) != len);
        assert_eq!(journal.bytes(), len, "what is written ahead takes space");
    }
    // The first record, which nothing was synced before, and then each AHEAD_BYTES.
    let most = 2 + journal.writer().position().offset / AHEAD_BYTES;
    assert!(u64::from(growths) <= most, "{growths} growths of the file");
    drop(journal);
    let journal = open_roomy(&fixture);
    assert_eq!(replayed(&journal, None), range(1000));
    assert!(file_len(&fixture, 1) < len, "the room is given back");
}

#[test]
fn nothing_is_written_ahead_without_syncs_or_for_large_records() {
    let fixture = Fixture::new();
    let journal = open_roomy(&fixture);
    for n in 1..=20 {
        append(&journal, n, &[n as u8; 5000]).unwrap();
        assert_eq!(file_len(&fixture, 1), journal.writer().position().offset);
    }
    journal.sync().unwrap();
    append(&journal, 21, &vec![1; AHEAD_RECORD_BYTES_MAX as usize]).unwrap();
    assert_eq!(file_len(&fixture, 1), journal.writer().position().offset);
}

#[test]
fn a_segment_that_is_left_early_keeps_no_room_and_the_next_goes_on() {
    let fixture = Fixture::new();
    let journal = open_roomy(&fixture);
    for n in 1..=3 {
        append(&journal, n, &[3; 100]).unwrap();
        journal.sync().unwrap();
    }
    let end = journal.writer().position().offset;
    assert!(file_len(&fixture, 1) > end);
    journal.roll_if_over(&mut journal.writer(), 1).unwrap();
    assert_eq!(file_len(&fixture, 1), end);
    append(&journal, 4, b"more").unwrap();
    let bytes = journal.bytes();
    assert_eq!(journal.delete(1).unwrap(), end);
    assert_eq!(journal.bytes(), bytes - end);
}

#[test]
fn room_that_a_power_cut_left_behind_does_not_hide_the_next_segment() {
    let fixture = Fixture::new();
    let journal = open_roomy(&fixture);
    for n in 1..=3 {
        append(&journal, n, &[3; 100]).unwrap();
        journal.sync().unwrap();
    }
    journal.roll_if_over(&mut journal.writer(), 1).unwrap();
    append(&journal, 4, b"more").unwrap();
    drop(journal);
    // The shorter length did not reach the disk.
    let file = fixture.file(1);
    file.set_len(file.metadata().unwrap().len() + 1000).unwrap();
    assert_eq!(replayed(&open_roomy(&fixture), None), range(4));
}

#[test]
fn a_record_stays_when_the_disk_has_no_room_ahead() {
    let fixture = Fixture::new();
    let journal = open_roomy(&fixture);
    append(&journal, 1, &[1; 100]).unwrap();
    journal.sync().unwrap();
    journal.faults(|faults| faults.full_at.store(1000, Ordering::Relaxed));
    append(&journal, 2, &[2; 100]).unwrap();
    let end = journal.writer().position().offset;
    assert_eq!((file_len(&fixture, 1), journal.bytes()), (end, end));
    journal.sync().unwrap();
    drop(journal);
    assert_eq!(replayed(&open_roomy(&fixture), None), range(2));
}
