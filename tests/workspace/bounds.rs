//! The exact counts of requests that the issue promises.

use std::time::Duration;

use dormouse::remote::{Fault, Op, When};
use dormouse::types::Ino;

use crate::world::{World, checkpoint, hibernate, noise};

/// 10,000 files of 4 KiB in 100 directories, hibernated from cache `a`.
fn ten_thousand(world: &World) {
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    for directory in 0..100 {
        let parent = files.mkdir(&format!("d{directory:02}"));
        for file in 0..100 {
            let ino = files.create_in(parent, &format!("f{file:02}"));
            files.write_at(ino, 0, &noise(directory * 100 + file, 4096));
        }
    }
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
}

/// Resumes on an empty cache and lists the root, as `ls` does, after `many` files were made.
fn resume_and_list(many: usize) {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    for directory in 0..10 {
        let parent = files.mkdir(&format!("d{directory}"));
        for file in 0..many / 10 {
            files.create_in(parent, &format!("a file with a long name, number {file}"));
        }
    }
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    // A store that takes its time, so that what is asked for together overlaps.
    let always = When { op: None, key: String::new(), skip: 0, times: 0 };
    world.faults.inject(always, Fault::Latency(Duration::from_millis(300)));
    world.counts.reset();
    let workspace = world.resume("b");
    let listed = world.files(&workspace).list(Ino::ROOT, true);
    assert_eq!(listed.len(), 10);
    let stats = world.counts.stats();
    assert_eq!((stats.gets, stats.puts), (2, 1), "{many} files: {:?}", world.counts.log());
    assert_eq!(stats.round_trips, 2, "{many} files: {:?}", world.counts.log());
    assert_eq!((stats.stats, stats.lists, stats.deletes), (0, 0, 0));
}

#[test]
fn resume_and_first_ls_take_two_dependent_round_trips_whatever_the_size() {
    resume_and_list(10);
    resume_and_list(20_000);
}

#[test]
#[ignore = "takes minutes: run it before a release"]
fn resume_and_first_ls_of_a_million_files_take_two_dependent_round_trips() {
    resume_and_list(1_000_000);
}

#[test]
fn ten_thousand_files_hibernate_in_at_most_20_puts_and_20_changes_in_6() {
    let world = World::new();
    ten_thousand(&world);
    let puts = world.counts.stats().puts;
    assert!(puts <= 20, "{puts} puts: {:?}", world.counts.log());

    // Again on the same cache, nothing changed: no pack, at most two requests.
    let workspace = world.resume("a");
    world.counts.reset();
    let receipt = hibernate(&workspace).unwrap();
    assert!(!receipt.changed && receipt.released);
    assert_eq!(world.counts.count(Op::Put, "packs/"), 0);
    assert!(world.counts.log().len() <= 2, "{:?}", world.counts.log());
    workspace.close().unwrap();
    drop(workspace);

    // 20 files changed.
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    world.counts.reset();
    for i in 0..20 {
        files.write(&format!("d{:02}/f07", i * 5), &noise(1_000_000 + i, 4096));
    }
    let before = workspace.status().chunks.chunks_added;
    let receipt = hibernate(&workspace).unwrap();
    assert!(receipt.chunks_added - before <= 20);
    assert!(receipt.leaves_written <= 20, "{} leaves", receipt.leaves_written);
    let stats = world.counts.stats();
    assert!(stats.puts <= 6, "{} puts: {:?}", stats.puts, world.counts.log());
}

#[test]
fn find_on_an_empty_cache_reads_the_tree_in_large_pieces_and_no_data() {
    let world = World::new();
    ten_thousand(&world);
    world.counts.reset();
    let workspace = world.resume("b");
    let files = world.files(&workspace);
    let mut found = 0;
    for (_, directory, _) in files.list(Ino::ROOT, true) {
        found += files.list(directory, true).len();
    }
    assert_eq!(found, 10_000);
    let stats = world.counts.stats();
    let tree_bytes = stats.bytes_in;
    let gets_max = 5 + tree_bytes / (1 << 20);
    assert!(stats.gets <= gets_max, "{} gets for {tree_bytes} bytes", stats.gets);
    assert_eq!(workspace.status().chunks.chunks_fetched, 0);

    // Then one small file: one request of at most 512 KiB.
    world.counts.reset();
    let ino = files.ino("d42/f42");
    assert_eq!(files.read_ino(ino), noise(4242, 4096));
    let log = world.counts.log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].bytes <= 512 * 1024, "{log:?}");
}

#[test]
fn the_same_100_mib_under_two_names_are_uploaded_once() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let content = noise(1, 100 << 20);
    files.write("one", &content);
    workspace.settle(true).unwrap();
    files.write("two", &content);
    let receipt = checkpoint(&workspace).unwrap();
    let sent = world.counts.stats().bytes_out;
    assert!(sent < (101 << 20), "{sent} bytes sent");
    assert!(receipt.chunks_deduplicated >= 400, "{receipt:?}");
    assert!(files.read("two") == content);
}

#[test]
fn files_deleted_before_they_settle_cost_no_upload() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("kept", b"x");
    checkpoint(&workspace).unwrap();
    world.counts.reset();
    for i in 0..1000 {
        files.write(&format!("f{i}"), &noise(i, 20_000));
    }
    for i in 0..1000 {
        files.unlink(&format!("f{i}"));
    }
    let receipt = hibernate(&workspace).unwrap();
    assert_eq!(receipt.data_packs, 0);
    assert!(world.counts.stats().bytes_out < 100_000, "{:?}", world.counts.log());
}

#[test]
fn a_checkpoint_without_changes_makes_no_request() {
    let world = World::new();
    let workspace = world.resume("a");
    world.files(&workspace).write("f", b"content");
    assert!(checkpoint(&workspace).unwrap().changed);
    world.counts.reset();
    assert!(!checkpoint(&workspace).unwrap().changed);
    assert_eq!(world.counts.log(), []);
}
