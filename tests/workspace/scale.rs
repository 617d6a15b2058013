//! Large things behave: a directory of 200,000 entries, a file of 50 GiB that is mostly holes.

use std::collections::HashSet;

use dormouse::fs::Seek;

use crate::world::{World, checkpoint, hibernate, noise};

#[test]
fn a_directory_of_200_000_entries_is_sealed_listed_and_changed_a_little() {
    const ENTRIES: usize = 200_000;
    let world = World::new();
    // Leaves end where a hash says so, which with the secret differs by store: where a record that
    // goes ended its leaf, one more is written.
    world.seed_store(1);
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let directory = files.mkdir("many");
    for number in 0..ENTRIES {
        files.create_in(directory, &format!("entry-{number}"));
    }
    let before = files.list(directory, false);
    assert_eq!(before.len(), ENTRIES);
    drop(files);
    let workspace = world.move_to(workspace, "b");
    let files = world.files(&workspace);
    let after = files.list(files.ino("many"), true);
    assert_eq!(after, before, "the same entries in the same order");
    let names: HashSet<_> = after.iter().map(|(name, _, _)| name).collect();
    assert_eq!(names.len(), ENTRIES);

    // A few changes in it cost a few leaves.
    for number in 0..10 {
        files.unlink(&format!("many/entry-{}", number * 7777));
    }
    world.counts.reset();
    let receipt = checkpoint(&workspace).unwrap();
    // Each entry and each inode in a leaf of its own, and the directory's attributes.
    assert!(receipt.leaves_written <= 21, "{receipt:?}");
    assert!(world.counts.stats().bytes_out < 1 << 20, "{:?}", world.counts.stats());
    assert_eq!(files.list(directory, false).len(), ENTRIES - 10);
}

#[test]
fn a_file_of_50_gib_that_is_mostly_holes_costs_what_was_written() {
    const GIB: u64 = 1 << 30;
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let ino = files.create("sparse");
    for place in (0..50).step_by(10) {
        // Across a piece's border, too.
        files.write_at(ino, place * GIB - place.min(1) * 1000, &noise(place, 100_000));
    }
    files.write_at(ino, 50 * GIB - 1, b"!");
    world.counts.reset();
    hibernate(&workspace).unwrap();
    let sent = world.counts.stats().bytes_out;
    assert!(sent < 700_000, "{sent} bytes were sent for 500,000");
    workspace.close().unwrap();
    drop((files, workspace));

    let workspace = world.resume("b");
    let files = world.files(&workspace);
    let caller = files.caller();
    assert_eq!(files.ino("sparse"), ino);
    let attr = files.fs.getattr(&caller, ino).unwrap();
    assert_eq!(attr.size, 50 * GIB);
    assert!(attr.allocated < 1 << 20, "{}", attr.allocated);
    let data = |from| files.fs.lseek(&caller, ino, from, Seek::Data).unwrap();
    let hole = |from| files.fs.lseek(&caller, ino, from, Seek::Hole).unwrap();
    assert_eq!((data(0), hole(0)), (0, 100_000));
    assert_eq!((data(100_000), hole(20 * GIB)), (10 * GIB - 1000, 20 * GIB - 1000 + 100_000));
    assert_eq!(data(41 * GIB), 50 * GIB - 1);
    for place in (0..50).step_by(10) {
        let at = place * GIB - place.min(1) * 1000;
        let read = files.fs.read(&caller, ino, at, 100_000).unwrap();
        assert!(read == noise(place, 100_000)[..read.len()] && !read.is_empty(), "{place} GiB");
    }
    let zeros = files.fs.read(&caller, ino, 5 * GIB, 65_536).unwrap();
    assert!(zeros.len() == 65_536 && zeros.iter().all(|&byte| byte == 0));
}
