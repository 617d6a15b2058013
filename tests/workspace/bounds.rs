//! The exact counts of requests that the issue promises.

use std::time::Duration;

use dormouse::remote::{Fault, Op, When};
use dormouse::types::Ino;
use dormouse::workspace::Workspace;

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

/// No pack will be stored that tells.
#[test]
fn a_file_whose_chunks_are_all_in_the_store_has_left_the_journal_once_it_is_settled() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("f", &noise(1, 3 << 20));
    checkpoint(&workspace).unwrap();
    // A pack's worth, and some more that waits for the next.
    files.write("other", &noise(2, 20 << 20));
    let unsynced = || workspace.status().unsynced;
    // Until its pack is stored and has been heard of.
    let deadline = world.clock.monotonic() + Duration::from_secs(20);
    while unsynced().bytes >= 8 << 20 {
        assert!(world.clock.monotonic() < deadline, "{:?}", workspace.status());
        workspace.settle(true).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let waiting = unsynced().bytes;
    world.counts.reset();
    files.write("again", &noise(1, 3 << 20));
    workspace.settle(true).unwrap();
    assert_eq!(world.counts.count(Op::Put, "packs/"), 0);
    assert_eq!(unsynced().bytes, waiting);
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

/// Lets every request take its time, so that what is asked for together overlaps.
fn slow(world: &World, millis: u64) {
    let always = When { op: None, key: String::new(), skip: 0, times: 0 };
    world.faults.inject(always, Fault::Latency(Duration::from_millis(millis)));
}

#[test]
fn twenty_small_edits_are_sealed_in_three_round_trips_and_hibernated_in_four() {
    let world = World::new();
    ten_thousand(&world);
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let edit = |from: u64| {
        for i in 0..20 {
            files.write(&format!("d{:02}/f07", i * 5), &noise(from + i, 4096));
        }
    };
    edit(1_000_000);
    slow(&world, 200);
    world.counts.reset();
    assert!(checkpoint(&workspace).unwrap().changed);
    // Packs of data and tree together, snapshot, head.
    let stats = world.counts.stats();
    assert_eq!(stats.round_trips, 3, "{:#?}", world.counts.log());
    edit(2_000_000);
    world.counts.reset();
    let receipt = hibernate(&workspace).unwrap();
    assert!(receipt.released && receipt.packs_confirmed >= 2, "{receipt:?}");
    // The packs are asked for once more before a snapshot names them.
    let stats = world.counts.stats();
    assert_eq!(stats.round_trips, 4, "{:#?}", world.counts.log());
    let place = |op: Op, part: &str| {
        let log = world.counts.log();
        let found = log.iter().filter(|call| call.op == op && call.key.contains(part));
        found.map(|call| call.round_trip).collect::<Vec<_>>()
    };
    assert!(place(Op::Put, "packs/").iter().all(|&place| place == 1));
    assert!(place(Op::Stat, "packs/").iter().all(|&place| place == 2));
    assert_eq!((place(Op::Put, "snapshots/"), place(Op::Put, "head")), (vec![3], vec![4]));
}

#[test]
fn one_small_file_on_a_cold_cache_takes_one_round_trip_and_nothing_is_fetched_ahead_for_it() {
    let world = World::new();
    ten_thousand(&world);
    let workspace = world.resume("b");
    let files = world.files(&workspace);
    let ino = files.ino("d42/f42");
    world.counts.reset();
    assert_eq!(files.read_ino(ino), noise(4242, 4096));
    assert_eq!(files.read_ino(ino), noise(4242, 4096), "twice is no run");
    std::thread::sleep(Duration::from_millis(300));
    let log = world.counts.log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].bytes <= 512 * 1024, "{log:?}");
    assert_eq!(workspace.status().ahead.reader_bytes, 0);
}

/// Small files in directories and a large one; their paths in the order of the inodes.
fn all_sizes(world: &World) -> Vec<(String, Vec<u8>)> {
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let mut all = Vec::new();
    for directory in 0..40 {
        let parent = files.mkdir(&format!("d{directory:02}"));
        for file in 0..50 {
            let content = noise(directory * 50 + file, 2000 + (file as usize * 977) % 12_000);
            let ino = files.create_in(parent, &format!("f{file:02}"));
            files.write_at(ino, 0, &content);
            all.push((format!("d{directory:02}/f{file:02}"), content));
        }
        if directory == 20 {
            let content = noise(99, 24 << 20);
            files.write("large", &content);
            all.push((String::from("large"), content));
        }
    }
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    all
}

/// What a cold read of everything took.
#[derive(Debug)]
struct Cold {
    gets: u64,
    round_trips: u64,
    /// Bytes that came, beside what is stored.
    share: f64,
    /// Bytes that came because somebody goes through everything, and were read.
    swept: u64,
}

/// Reads everything cold in this order.
fn read_cold(world: &World, cache: &str, order: &[(String, Vec<u8>)]) -> Cold {
    let workspace = world.resume(cache);
    let files = world.files(&workspace);
    // All metadata first, as prefetch does it.
    let inos: Vec<_> = order.iter().map(|(path, _)| files.ino(path)).collect();
    world.counts.reset();
    for (ino, (path, content)) in inos.iter().zip(order) {
        assert!(files.read_ino(*ino) == *content, "{path}");
    }
    // What is under way for nobody any more counts too.
    std::thread::sleep(Duration::from_millis(500));
    let stats = world.counts.stats();
    let swept = workspace.status().ahead.sweep_used_bytes;
    let stored: usize = order.iter().map(|(_, content)| content.len()).sum();
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    let share = stats.bytes_in as f64 / stored as f64;
    Cold { gets: stats.gets, round_trips: stats.round_trips, share, swept }
}

#[test]
fn reading_everything_cold_takes_large_pieces_and_hardly_a_byte_twice() {
    let world = World::new();
    let in_order = all_sizes(&world);
    slow(&world, 5);
    let cold = read_cold(&world, "b", &in_order);
    // 38 MiB.
    assert!(cold.gets <= 80 && cold.share < 1.05, "{cold:?}");

    // Directory by directory in no order, and so the files in each.
    let mut shuffled = in_order;
    shuffled.sort_by_key(|(path, _)| {
        let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex();
        let parts: Vec<_> = path.split('/').map(hash).collect();
        parts
    });
    let cold = read_cold(&world, "c", &shuffled);
    assert!(cold.gets <= 110 && cold.share < 1.05, "{cold:?}");
    // Fewer than there are directories.
    assert!(cold.round_trips <= 30, "{cold:?}");
    assert!(cold.swept > 0, "{cold:?}");
}

/// What `git status` asks for: its own few files, then the attributes of all that is tracked.
#[test]
fn what_git_status_reads_of_ten_thousand_files_takes_at_most_8_dependent_round_trips() {
    let world = World::new();
    ten_thousand(&world);
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let own = [("HEAD", 41), ("config", 200), ("index", 720_000), ("packed-refs", 3000)];
    files.mkdir("git");
    for (seed, (path, len)) in own.iter().enumerate() {
        files.write(&format!("git/{path}"), &noise(seed as u64, *len));
    }
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    slow(&world, 300);
    world.counts.reset();
    let mut options = world.options("b");
    options.upkeep.prefetch = true;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    for (seed, (path, len)) in own.iter().enumerate() {
        assert!(files.read(&format!("git/{path}")) == noise(seed as u64, *len), "{path}");
    }
    let mut found = 0;
    for (_, ino, kind) in files.list(Ino::ROOT, true) {
        assert_eq!(kind, dormouse::types::Kind::Directory);
        for (_, child, _) in files.list(ino, true) {
            found += usize::from(files.fs.getattr(&files.caller(), child).is_ok());
        }
    }
    assert_eq!(found, 10_000 + own.len());
    let stats = world.counts.stats();
    assert!(stats.round_trips <= 8, "{}: {:#?}", stats.round_trips, world.counts.log());
}

#[test]
fn closing_waits_for_nothing_that_was_fetched_ahead() {
    let world = World::new();
    let workspace = world.resume("a");
    world.files(&workspace).write("hot", &noise(1, 200_000));
    let workspace = world.move_to(workspace, "b");
    world.files(&workspace).read("hot");
    world.files(&workspace).write("other", b"so that there is a new snapshot");
    hibernate(&workspace).unwrap();
    for held in ["snapshots/", "packs/"] {
        world.faults.inject(When::every(Op::Get, held), Fault::Hold);
        let mut options = world.options(&held.replace('/', ""));
        options.upkeep.threads = true;
        options.upkeep.prefetch = true;
        options.read_only = true;
        let before = world.faults.injected();
        let patient = world.patient_remote(Duration::from_secs(3600));
        let workspace = Workspace::resume(patient, world.clock.clone(), &options).unwrap();
        let deadline = world.clock.monotonic() + Duration::from_secs(20);
        while world.faults.injected() == before {
            assert!(world.clock.monotonic() < deadline, "nothing is fetched ahead");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (sender, closed) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(workspace.close().is_ok()));
        let closed = closed.recv_timeout(Duration::from_secs(20));
        assert_eq!(closed, Ok(true), "held at {held}");
        world.faults.heal();
    }
}

/// The nodes that a seal has just written are read again to tidy up the tree's packs. Here the
/// disk is too full for any cache, so they have to be in the store first.
#[test]
fn a_seal_without_a_cache_tidies_its_tree_packs_all_the_same() {
    let world = World::new();
    let mut options = world.options("a");
    let free = nix::sys::statvfs::statvfs(world.dirs.path()).unwrap();
    let free_bytes = free.blocks_available() * free.fragment_size();
    options.local.disk_reserve_bytes = free_bytes / 4 * 3;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    for directory in 0..12 {
        let parent = files.mkdir(&format!("d{directory}"));
        for file in 0..200 {
            files.create_in(parent, &format!("f{file}"));
        }
    }
    checkpoint(&workspace).unwrap();
    world.counts.reset();
    let mut tree_packs = Vec::new();
    for i in 0..12 {
        files.write(&format!("d{i}/f7"), &noise(i, 1000));
        let receipt = checkpoint(&workspace).unwrap();
        tree_packs.push(receipt.tree_packs);
        assert!((2..=3).contains(&world.counts.count(Op::Put, "packs/")), "{tree_packs:?}");
        world.counts.reset();
    }
    assert_eq!(workspace.status().local.cache, 0);
    assert!(tree_packs.contains(&2), "some had to write a second tree pack: {tree_packs:?}");
    let workspace = world.move_to(workspace, "b");
    let files = world.files(&workspace);
    for i in 0..12 {
        assert!(files.read(&format!("d{i}/f7")) == noise(i, 1000), "{i}");
    }
}
