//! A disk that is really full: a small tmpfs.

use std::path::Path;
use std::sync::Arc;

use dormouse::format::Key;
use dormouse::local::{Batch, Local, LocalError, LocalOptions};
use dormouse::types::{Ino, SystemClock};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::workload;

/// A tmpfs of some size, unmounted when dropped.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Fails where this process may not mount: a test that did not run has not passed.
    fn new(size: &str) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let options = Some(options.as_str());
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), options)
            .expect("the right to mount a tmpfs: run this as root");
        SmallDisk { dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("local")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(self.dir.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

fn open(dir: &Path, options: &LocalOptions) -> Local {
    Local::open(dir, options, Arc::new(SystemClock::new())).unwrap()
}

/// Commits until the disk is full; the number of the last commit.
fn fill(local: &Local, from: u64) -> u64 {
    for n in from.. {
        match workload::commit(local, n) {
            Ok(()) => {}
            Err(LocalError::Full) => return n - 1,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("a disk has an end")
}

#[test]
fn a_full_disk_fails_the_commit_that_meets_it_and_nothing_else() {
    let disk = SmallDisk::new("28m");
    let options = workload::options();
    let local = open(&disk.path(), &options);
    // Something that takes room and can be given back.
    let ballast = disk.dir.path().join("ballast");
    std::fs::write(&ballast, vec![1; 14 << 20]).unwrap();
    let full = fill(&local, 1);
    assert!(full > 1000, "{full}");
    assert_eq!(workload::check(&local, "while full"), full);
    std::fs::remove_file(&ballast).unwrap();
    // RocksDB looks every five seconds whether there is room again (8 MiB of it); until then
    // commits go on only as far as there is room before it, some dozens or none.
    let mut more = full;
    for _ in 0..600 {
        more = fill(&local, more + 1);
        if more > full + 500 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(more > full + 500, "{full} then {more}");
    drop(local);
    std::fs::write(&ballast, "").unwrap();
    assert_eq!(workload::check(&open(&disk.path(), &options), "after the restart"), more);
}

#[test]
fn removals_make_room_on_a_disk_that_is_full_for_data() {
    let disk = SmallDisk::new("12m");
    let options = LocalOptions { disk_reserve_bytes: 3 << 20, ..workload::options() };
    let local = open(&disk.path(), &options);
    let full = fill(&local, 1);
    for ino in 100..130 {
        let mut batch = Batch::new();
        batch.delete(Key::extent(Ino(ino), 0));
        local.commit(batch).unwrap();
    }
    assert!(local.sweep().unwrap() > 1 << 20);
    workload::commit(&local, full + 1).unwrap();
    assert_eq!(workload::committed(&local), full + 1);
}
