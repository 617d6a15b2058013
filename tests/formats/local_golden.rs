//! Local directories as each version of the program left them: `golden/local.v<version>`, file by
//! file. They never change: what a release staged on a disk must be read by every later one that
//! says it reads that version (`src/local/marker.rs`).
//!
//! A new version of the local state gets a new directory beside the old ones:
//! `DORMOUSE_WRITE_GOLDEN=1 cargo test --release --test formats local`, under `unshare --uts` with
//! a neutral host name (RocksDB writes it into its tables), then add it to `VERSIONS`.
//!
//! That of version 1 was written by the program as it was before version 2.
//!
//! Each is what a killed daemon leaves that was started twice. The first one closed it: its records
//! are in RocksDB. The second one's are in the journal alone, and its frame is in no index.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use bytes::Bytes;
use dormouse::format::{Extent, Key, Source, StagedAt, decode_extent, encode_extent};
use dormouse::local::{Batch, CarriedOut, Local, LocalError, LocalOptions, Slot};
use dormouse::types::{ChunkId, ConnectionId, Ino, ManualClock, RequestId};

use crate::samples;

/// Versions that have a golden directory.
const VERSIONS: [u32; 2] = [1, 2];

const CONNECTION: ConnectionId = ConnectionId(0x0102_0304_0506_0708);
const MARKER: &str = "dormouse";
const END: &[u8] = &[0xff; 16];

/// A record that both processes set, one that the second removes, one that it leaves to the base.
const CHANGED: Ino = Ino(100);
const REMOVED: Ino = Ino(101);
const CLEAN: Ino = Ino(102);
/// One that only the second sets, and one that the first removes.
const NEW: Ino = Ino(103);
const GONE: Ino = Ino(104);
/// Files with staged bytes, by who wrote them.
const STAGED: [Ino; 2] = [Ino(200), Ino(201)];

fn staged(process: usize) -> Vec<u8> {
    samples::noise(1000)[process * 500..][..300 + process].to_vec()
}

fn cached(process: u8) -> ([u8; 32], Vec<u8>) {
    ([0xc0 + process; 32], samples::noise(2000)[usize::from(process) * 1000..][..700].to_vec())
}

fn request(process: u64) -> CarriedOut {
    let request = RequestId { connection: CONNECTION, unique: 0x1112_1314_1516_1718 + process };
    CarriedOut { request, result: u64::MAX - process }
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/golden")
}

fn open(dir: &Path) -> Result<Local, LocalError> {
    let options = LocalOptions { connection: Some(CONNECTION), ..LocalOptions::default() };
    Local::open(dir, &options, Arc::new(ManualClock::default()))
}

/// The files of a directory and of those below it, by their paths from there.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        let list = fs::read_dir(&at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
        for entry in list.map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => todo.push(entry.path()),
                false => {
                    let name = entry.path().strip_prefix(dir).unwrap().to_owned();
                    found.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    found
}

fn put_files(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A copy of a golden directory, to be opened.
fn unpacked(version: u32) -> tempfile::TempDir {
    static MADE: Once = Once::new();
    MADE.call_once(make_missing);
    let dir = tempfile::tempdir().unwrap();
    put_files(dir.path(), &files(&goldens().join(format!("local.v{version}"))));
    dir
}

/// Where it is asked for, makes the directory of the version that this program writes. One that is
/// there is left as it is.
fn make_missing() {
    let golden = goldens().join(format!("local.v{}", written_version()));
    if std::env::var_os("DORMOUSE_WRITE_GOLDEN").is_none() || golden.exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    write_first(&first);
    first.close().unwrap();
    drop(first);
    let second = open(dir.path()).unwrap();
    write_second(&second);
    second.sync().unwrap();
    let mut kept = files(dir.path());
    // What a new process makes anew: locks, and what RocksDB tells of itself.
    let is_needless = |name: &str| {
        name == "LOCK" || name == "lock" || name.starts_with("LOG") || name.starts_with("OPTIONS")
    };
    kept.retain(|path, _| !is_needless(&path.file_name().unwrap().to_string_lossy()));
    put_files(&golden, &kept);
}

fn commit_with_data(local: &Local, process: usize, with: &[(Key, Option<&[u8]>)]) {
    let data = staged(process);
    let build = &mut |at: StagedAt| {
        let mut batch = Batch::new();
        let extent = Extent { len: data.len() as u64, source: Source::Staged(at) };
        batch.put(Key::extent(STAGED[process], 4096), encode_extent(&extent));
        for (key, value) in with {
            match value {
                Some(value) => batch.put(key.clone(), value.to_vec()),
                None => batch.delete(key.clone()),
            }
        }
        batch.carry_out(request(process as u64));
        batch
    };
    local.commit_with_data(&[&data[..100], &data[100..]], build).unwrap();
    let (id, frame) = cached(process as u8);
    local.cache_put(&id, &frame).unwrap();
}

fn write_first(local: &Local) {
    let mut batch = Batch::new();
    samples::records().into_iter().for_each(|(key, value)| batch.put(key, value));
    local.commit(batch).unwrap();
    let value = Some(&b"first"[..]);
    let set = [CHANGED, REMOVED, CLEAN].map(|ino| (Key::attr(ino), value));
    commit_with_data(local, 0, &[&set[..], &[(Key::attr(GONE), None)]].concat());
    local.known_put(&[(ChunkId([0xd0; 32]), samples::slot(9))]).unwrap();
}

fn write_second(local: &Local) {
    let value = Some(&b"second"[..]);
    let changes = [(CHANGED, value), (REMOVED, None), (NEW, value)];
    commit_with_data(local, 1, &changes.map(|(ino, value)| (Key::attr(ino), value)));
    let clean = (Key::attr(CLEAN), Slot::Value(Bytes::from_static(b"first")));
    assert_eq!(local.drop_clean(&[clean]).unwrap(), 1);
}

/// All that a golden directory says, but where its staged bytes are. Version 1 knew no requests.
fn expected() -> BTreeMap<Key, Slot> {
    let value = |value: &[u8]| Slot::Value(Bytes::copy_from_slice(value));
    let mut all: BTreeMap<Key, Slot> =
        samples::records().into_iter().map(|(key, bytes)| (key, value(&bytes))).collect();
    all.insert(Key::attr(CHANGED), value(b"second"));
    all.insert(Key::attr(REMOVED), Slot::Tombstone);
    all.insert(Key::attr(NEW), value(b"second"));
    all.insert(Key::attr(GONE), Slot::Tombstone);
    all
}

fn check(local: &Local, version: u32) {
    let mut found: BTreeMap<Key, Slot> =
        local.range(&[], END, usize::MAX).unwrap().into_iter().collect();
    for (process, ino) in STAGED.into_iter().enumerate() {
        let Some(Slot::Value(value)) = found.remove(&Key::extent(ino, 4096)) else {
            panic!("no extent of process {process}")
        };
        let extent = decode_extent(&value).unwrap();
        let Source::Staged(at) = extent.source else { panic!("{extent:?}") };
        let mut bytes = vec![0; extent.len as usize];
        local.read_staged(at, &mut bytes).unwrap();
        assert_eq!(bytes, staged(process), "bytes staged by process {process}");
        let (id, frame) = cached(process as u8);
        assert_eq!(local.cache_get(&id).unwrap().as_deref(), Some(&frame[..]), "frame {process}");
        let CarriedOut { request, result } = request(process as u64);
        let known = (version > 1).then_some(result);
        assert_eq!(local.carried_out(&request), known, "request {process}");
    }
    assert_eq!(found, expected());
    assert_eq!(local.carried_out(&request(2).request), None);
    assert_eq!(local.known_get(&ChunkId([0xd0; 32])).unwrap(), Some(samples::slot(9)));
}

/// The second line of a marker, and what it should be.
fn with_version(dir: &Path, version: u32) -> String {
    let text = fs::read_to_string(dir.join(MARKER)).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[1] = format!("version {version}");
    lines.join("\n") + "\n"
}

/// The version that this program writes.
fn written_version() -> u32 {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let text = fs::read_to_string(dir.path().join(MARKER)).unwrap();
    text.lines().nth(1).unwrap().strip_prefix("version ").unwrap().parse().unwrap()
}

#[test]
fn the_local_version_that_is_written_has_its_golden_directory() {
    assert_eq!(VERSIONS.last(), Some(&written_version()), "see how to make it in this file");
}

#[test]
fn local_directories_of_every_version_are_read_as_ever() {
    for version in VERSIONS {
        let dir = unpacked(version);
        let marker = fs::read_to_string(dir.path().join(MARKER)).unwrap();
        assert_eq!(marker, with_version(dir.path(), version), "it is of this version");
        let local = open(dir.path()).unwrap();
        assert!(marker.ends_with(&format!("cache {}\n", local.cache_id())), "{marker}");
        check(&local, version);
        // And once all of it is in RocksDB.
        local.close().unwrap();
        drop(local);
        check(&open(dir.path()).unwrap(), version);
        let marker = fs::read_to_string(dir.path().join(MARKER)).unwrap();
        assert_eq!(marker, with_version(dir.path(), written_version()), "it is of this one now");
    }
}

#[test]
fn a_local_directory_of_a_later_version_is_refused_and_left_as_it_is() {
    let supported = written_version();
    let dir = unpacked(VERSIONS[VERSIONS.len() - 1]);
    let later = with_version(dir.path(), supported + 1);
    fs::write(dir.path().join(MARKER), later).unwrap();
    let before = files(dir.path());
    let error = open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, LocalError::Version { path, found, supported: told }
            if path == dir.path() && *found == supported + 1 && *told == supported),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&format!("local state version {} is not supported", supported + 1)));
    let mut after = files(dir.path());
    after.retain(|name, _| before.contains_key(name));
    assert!(after == before, "nothing was touched");
    // It is the version alone.
    fs::write(dir.path().join(MARKER), with_version(dir.path(), supported)).unwrap();
    check(&open(dir.path()).unwrap(), supported);
}
