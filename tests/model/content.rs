//! Promises about content that random histories of small files do not reach.

use dormouse::fs::{
    AllocateMode, At, Caller, CopyRange, FILE_SIZE_MAX, FsError, PIECE_LEN, Seek, SetAttr, Stale,
};
use dormouse::types::{Ino, Name};

use crate::machine::{Machine, WAIT};

const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0, fetch: WAIT, request: None };

fn file(machine: &Machine, name: &str) -> Ino {
    let name = Name::new(name.as_bytes()).unwrap();
    let at = At { directory: Ino::ROOT, name: &name };
    machine.fs.create(&ROOT, at, 0o644, true).unwrap().ino
}

fn resize(machine: &Machine, ino: Ino, size: u64) -> Result<(), FsError> {
    let set = SetAttr { size: Some(size), ..SetAttr::default() };
    machine.fs.setattr(&ROOT, ino, &set).map(|_| ())
}

#[test]
fn a_file_may_end_at_the_largest_offset_and_not_beyond() {
    let machine = Machine::new();
    let ino = file(&machine, "huge");
    let fs = &machine.fs;
    fs.write(&ROOT, ino, FILE_SIZE_MAX - 4, b"last", false).unwrap();
    let beyond = fs.write(&ROOT, ino, FILE_SIZE_MAX - 3, b"last", false);
    assert!(matches!(beyond, Err(FsError::TooLarge)));
    assert!(matches!(fs.write(&ROOT, ino, u64::MAX, b"x", false), Err(FsError::TooLarge)));
    assert!(matches!(resize(&machine, ino, FILE_SIZE_MAX + 1), Err(FsError::TooLarge)));
    let attr = fs.getattr(&ROOT, ino).unwrap();
    assert_eq!((attr.size, attr.allocated), (FILE_SIZE_MAX, 4));
    assert_eq!(fs.read(&ROOT, ino, FILE_SIZE_MAX - 6, 100).unwrap(), b"\0\0last");
    assert_eq!(fs.lseek(&ROOT, ino, 0, Seek::Data).unwrap(), FILE_SIZE_MAX - 4);
    assert_eq!(fs.lseek(&ROOT, ino, 0, Seek::Hole).unwrap(), 0);
    assert!(matches!(fs.lseek(&ROOT, ino, FILE_SIZE_MAX, Seek::Hole), Err(FsError::BeyondEnd)));
    fs.fallocate(&ROOT, ino, (0, FILE_SIZE_MAX), AllocateMode::PunchHole).unwrap();
    assert_eq!(fs.getattr(&ROOT, ino).unwrap().allocated, 0);
    assert_eq!(fs.read(&ROOT, ino, FILE_SIZE_MAX - 2, 100).unwrap(), [0, 0]);
}

#[test]
fn a_copy_moves_no_bytes_and_outlives_its_source() {
    let machine = Machine::new();
    let (source, target) = (file(&machine, "source"), file(&machine, "target"));
    let fs = &machine.fs;
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 251) as u8).collect();
    for (at, part) in data.chunks(100_000).enumerate() {
        fs.write(&ROOT, source, at as u64 * 100_000, part, false).unwrap();
    }
    let journal = machine.local.usage().unwrap().journal_bytes;
    let copy = CopyRange { source, source_offset: 10, target, target_offset: 77, len: 1 << 40 };
    assert_eq!(fs.copy_range(&ROOT, &copy).unwrap(), data.len() as u64 - 10);
    let grown = machine.local.usage().unwrap().journal_bytes - journal;
    assert!(grown < 20_000, "the copy put {grown} bytes into the journal");
    // Shared references do not share a fate.
    resize(&machine, source, 5).unwrap();
    fs.write(&ROOT, source, 0, b"other", false).unwrap();
    machine.local.sweep().unwrap();
    assert!(fs.read(&ROOT, target, 77, 4 << 20).unwrap() == data[10..]);
    machine.settle();
    assert!(fs.read(&ROOT, target, 77, 4 << 20).unwrap() == data[10..]);
    assert_eq!(fs.read(&ROOT, source, 0, 100).unwrap(), b"other");
}

#[test]
fn no_extent_crosses_a_piece_border() {
    let machine = Machine::new();
    let (one, two) = (file(&machine, "one"), file(&machine, "two"));
    machine.fs.write(&ROOT, one, 1000, &vec![7; 1 << 20], false).unwrap();
    let copy =
        CopyRange { source: one, source_offset: 0, target: two, target_offset: 333, len: 1 << 20 };
    machine.fs.copy_range(&ROOT, &copy).unwrap();
    for ino in [one, two] {
        let extents = machine.fs.extents(ino, 0..u64::MAX, WAIT).unwrap();
        assert!(extents.len() >= 5);
        for (offset, extent) in extents {
            assert_eq!(offset / PIECE_LEN, (offset + extent.len - 1) / PIECE_LEN);
        }
    }
}

#[test]
fn bytes_cut_off_do_not_come_back_when_the_file_grows_again() {
    let machine = Machine::new();
    let ino = file(&machine, "file");
    machine.fs.write(&ROOT, ino, 0, &[9; 1000], false).unwrap();
    machine.settle();
    resize(&machine, ino, 10).unwrap();
    resize(&machine, ino, 1000).unwrap();
    let bytes = machine.fs.read(&ROOT, ino, 0, 2000).unwrap();
    assert!(bytes[..10] == [9; 10] && bytes[10..] == [0; 990]);
    assert_eq!(machine.fs.getattr(&ROOT, ino).unwrap().allocated, 10);
}

#[test]
fn settling_replaces_only_regions_that_are_as_they_were_seen() {
    let machine = Machine::new();
    let ino = file(&machine, "file");
    let fs = &machine.fs;
    fs.write(&ROOT, ino, 0, &[1; 300 << 10], false).unwrap();
    let before = fs.getattr(&ROOT, ino).unwrap();
    let regions = machine.settled(fs.extents(ino, 0..u64::MAX, WAIT).unwrap());
    assert_eq!(regions.len(), 2);
    machine.clock.advance(std::time::Duration::from_secs(5));
    fs.write(&ROOT, ino, 5, b"new", false).unwrap();
    let changed = fs.getattr(&ROOT, ino).unwrap();
    assert_eq!(fs.commit_settled(ino, &regions, Stale::Skip, WAIT).unwrap(), 1);
    assert_eq!(fs.dirty()[0].bytes, PIECE_LEN);
    assert_eq!(fs.dirty_bytes(), PIECE_LEN);
    let mut expected = vec![1; 300 << 10];
    expected[5..8].copy_from_slice(b"new");
    assert!(fs.read(&ROOT, ino, 0, 1 << 20).unwrap() == expected);
    let after = fs.getattr(&ROOT, ino).unwrap();
    assert_eq!(after, changed, "settling changes no attribute");
    assert_eq!(after.allocated, before.allocated);
    machine.settle();
    assert!(fs.read(&ROOT, ino, 0, 1 << 20).unwrap() == expected);
}

#[test]
fn a_file_changed_during_a_seal_keeps_what_only_the_old_base_held() {
    let mut machine = Machine::new();
    let ino = file(&machine, "file");
    let write = |machine: &Machine, offset: u64, byte: u8, len: usize| {
        machine.fs.write(&ROOT, ino, offset, &vec![byte; len], false).unwrap();
    };
    write(&machine, 0, b'a', 100);
    write(&machine, 200, b'c', 100);
    machine.seal();
    // The next seal makes one chunk of old and new bytes: the new base has one extent, where the
    // old one had two; but the file has moved on by then.
    write(&machine, 100, b'b', 100);
    let sealer = machine.sealer();
    machine.sealed = sealer.seal(&mut || write(&machine, 0, b'x', 10));
    let expected = [&[b'x'; 10][..], &[b'a'; 90], &[b'b'; 100], &[b'c'; 100]].concat();
    assert!(machine.fs.read(&ROOT, ino, 0, 1000).unwrap() == expected);
    let machine = machine.crash();
    assert!(machine.fs.read(&ROOT, ino, 0, 1000).unwrap() == expected, "without what was cached");
    assert_eq!(machine.fs.dirty().iter().map(|dirty| dirty.bytes).sum::<u64>(), 110);
}

#[test]
fn settling_a_file_that_is_gone_does_nothing() {
    let machine = Machine::new();
    let ino = file(&machine, "file");
    machine.fs.write(&ROOT, ino, 0, b"bytes", false).unwrap();
    let regions = machine.settled(machine.fs.extents(ino, 0..u64::MAX, WAIT).unwrap());
    let name = Name::new(b"file").unwrap();
    machine.fs.unlink(&ROOT, At { directory: Ino::ROOT, name: &name }).unwrap();
    assert!(machine.fs.dirty().is_empty(), "nobody settles an orphan");
    machine.fs.forget(ino, 1);
    for stale in [Stale::Skip, Stale::Shadow] {
        assert_eq!(machine.fs.commit_settled(ino, &regions, stale, WAIT).unwrap(), 0);
    }
    assert!(machine.fs.extents(ino, 0..9, WAIT).is_err());
}

#[test]
fn a_quota_refuses_bytes_beyond_it_but_not_in_their_place() {
    let machine = Machine::new();
    let ino = file(&machine, "file");
    let quota = dormouse::namespace::Quota { bytes_max: Some(1000), inodes_max: Some(2) };
    machine.fs.namespace().set_quota(quota);
    machine.fs.write(&ROOT, ino, 0, &[1; 1000], false).unwrap();
    let more = machine.fs.write(&ROOT, ino, 1000, b"x", false);
    assert!(matches!(more, Err(FsError::Quota)), "{more:?}");
    machine.fs.write(&ROOT, ino, 500, &[2; 500], false).unwrap();
    let room = machine.fs.fallocate(&ROOT, ino, (0, 1001), AllocateMode::Extend);
    assert!(matches!(room, Err(FsError::NoSpace)));
    let name = Name::new(b"second").unwrap();
    let second = machine.fs.mkdir(&ROOT, At { directory: Ino::ROOT, name: &name }, 0o755);
    assert!(matches!(second, Err(FsError::Quota)));
    let statfs = machine.fs.statfs(&ROOT).unwrap();
    assert_eq!((statfs.blocks_free, statfs.inodes, statfs.inodes_free), (0, 2, 0));
    resize(&machine, ino, 0).unwrap();
    machine.fs.write(&ROOT, ino, 0, &[1; 1000], false).unwrap();
}
