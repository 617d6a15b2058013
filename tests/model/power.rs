//! What a power cut leaves of a local directory.
//!
//! RocksDB's files are as they were: it syncs what it refers to before it does, and its log is off.
//! Of the journal, which knows what it has synced, the rest may be there in part, or not, or be
//! something else. Of the cache nothing is ever synced.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dormouse::local::JournalEnds;

use crate::ops::{Behind, Cut};

/// What a disk writes at once, and a hole has.
const PAGE_LEN: u64 = 4096;

/// Copies a directory of files and directories as it was at one moment: its owner's threads may
/// still be at work, so until nothing changes meanwhile.
pub fn copy_still(from: &Path, to: &Path) {
    for _ in 0..10_000 {
        let before = files(from);
        fs::remove_dir_all(to).unwrap();
        fs::create_dir(to).unwrap();
        let copied = before.keys().try_for_each(|path| {
            let copy = to.join(path.strip_prefix(from).unwrap());
            fs::create_dir_all(copy.parent().unwrap())?;
            fs::copy(path, copy).map(drop)
        });
        match copied {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            Ok(()) if files(from) == before => return,
            _ => {}
        }
    }
    panic!("{} never stands still", from.display());
}

/// All files and their lengths; none where there is no directory.
fn files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            match entry.metadata() {
                Ok(data) if data.is_dir() => dirs.push(entry.path()),
                Ok(data) => _ = files.insert(entry.path(), data.len()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
    }
    files
}

/// Leaves of the copy `dir` what a power cut could leave.
pub fn cut(dir: &Path, ends: &JournalEnds, cut: Cut) {
    if cut.kept == u8::MAX {
        return;
    }
    let mut unsure = Vec::new();
    for (path, len) in files(&dir.join("journal")) {
        let number = u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
        let at_end = number == ends.appended.segment;
        let end = if at_end { ends.appended.offset } else { len };
        if number == ends.synced.segment {
            unsure.push((path, ends.synced.offset, end));
        } else if number > ends.synced.segment {
            unsure.push((path, 0, end));
        }
    }
    let all: u64 = unsure.iter().map(|(_, from, to)| to - from).sum();
    let mut left = part(all, cut.kept);
    let mut is_first = true;
    for (path, from, to) in unsure {
        if is_first && left >= to - from && to > from {
            left -= to - from;
        } else {
            spoil(&path, from + left, cut.behind, is_first);
            (left, is_first) = (0, false);
        }
    }
    for (path, len) in files(&dir.join("cache")) {
        spoil(&path, part(len, cut.kept), cut.behind, true);
    }
}

fn part(len: u64, kept: u8) -> u64 {
    len * u64::from(kept) / u64::from(u8::MAX)
}

/// Spoils what is in a file from `from` on; `is_first`: the cut is in this one.
fn spoil(path: &Path, from: u64, behind: Behind, is_first: bool) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    match behind {
        Behind::Missing | Behind::Short if is_first && from > 0 => file.set_len(from).unwrap(),
        Behind::Missing => fs::remove_file(path).unwrap(),
        Behind::Short if is_first => fs::remove_file(path).unwrap(),
        Behind::Short => {}
        Behind::Zeros => fill(&file, from, len, |_| 0),
        Behind::Garbage => fill(&file, from, len, |at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8),
        Behind::Hole if is_first => fill(&file, from, len.min(from + PAGE_LEN), |_| 0),
        Behind::Hole => {}
    }
}

fn fill(file: &File, from: u64, to: u64, byte: impl Fn(u64) -> u8) {
    let bytes: Vec<u8> = (from..to).map(byte).collect();
    file.write_all_at(&bytes, from).unwrap();
}
