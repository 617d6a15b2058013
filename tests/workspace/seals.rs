//! What a seal keeps: every fact about every file, states that existed, data under outages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dormouse::fs::{AllocateMode, At, SetAttr, SetTime};
use dormouse::remote::{Fault, Op, When};
use dormouse::types::{Ino, ManualClock, Time};
use dormouse::workspace::{Phase, Store, Upkeep, Workspace, WorkspaceError};

use crate::world::{Files, World, checkpoint, hibernate, name, noise, watch};

/// A bit of everything that a filesystem holds.
fn furnish(files: &Files) {
    files.mkdir("src");
    files.mkdir("src/deep");
    let small = files.write("src/small", b"hello");
    files.write("src/deep/large", &noise(3, 1_500_000));
    let sparse = files.create("sparse");
    files.write_at(sparse, 10_000_000, &noise(4, 5000));
    files.write_at(sparse, 100, b"begin");
    files.set_xattr(small, "user.note", b"kept");
    files.set_xattr(small, "user.empty", b"");
    let at = At { directory: Ino::ROOT, name: &name("link") };
    files.fs.symlink(&files.caller(), at, b"../else where").unwrap();
    let at = At { directory: Ino::ROOT, name: &name("hard") };
    files.fs.link(&files.caller(), small, at).unwrap();
    let set = SetAttr {
        mode: Some(0o4711),
        uid: Some(1234),
        gid: Some(5678),
        atime: Some(SetTime::At(Time::new(-5, 999_999_999))),
        mtime: Some(SetTime::At(Time::new(1_600_000_000, 123_456_789))),
        ..SetAttr::default()
    };
    files.fs.setattr(&files.caller(), small, &set).unwrap();
    for i in 0..300 {
        files.write(&format!("src/deep/n{i}"), &noise(i, i as usize));
    }
}

#[test]
fn a_resume_on_an_empty_cache_shows_every_fact_as_it_was() {
    let world = World::new();
    let workspace = world.resume("a");
    furnish(&world.files(&workspace));
    let before = world.files(&workspace).facts();
    let status = workspace.status();
    let workspace = world.move_to(workspace, "b");
    assert_eq!(world.files(&workspace).facts(), before);
    let moved = workspace.status();
    assert_eq!((moved.inodes, moved.bytes), (status.inodes, status.bytes));
    assert_eq!(moved.inodes, before.len() as u64 - 1, "one of them has two names");
    // Numbers go on where they were.
    let highest = before.values().map(|facts| facts.ino).max().unwrap();
    assert!(world.files(&workspace).create("new") > highest);
    // And holes are holes still.
    let sparse = world.files(&workspace);
    let ino = sparse.ino("sparse");
    assert_eq!(sparse.fs.getattr(&sparse.caller(), ino).unwrap().allocated, 5005);
}

/// A workspace in which a pass of settling waits for the store after every few pieces.
fn with_few_drafts(world: &World, directory: &str, drafts_max: usize) -> Workspace {
    let mut options = world.options(directory);
    options.upkeep.drafts_max = drafts_max;
    world.try_resume(&options).unwrap()
}

#[test]
fn many_seals_settles_and_moves_never_change_what_is_seen() {
    let world = World::new();
    many_seals(&world, |directory| world.resume(directory));
    let world = World::new();
    many_seals(&world, |directory| with_few_drafts(&world, directory, 3));
}

fn many_seals(world: &World, resume: impl Fn(&str) -> Workspace) {
    let mut workspace = resume("a");
    furnish(&world.files(&workspace));
    for round in 0..12_u64 {
        let files = world.files(&workspace);
        let large = files.ino("src/deep/large");
        // Small overwrites in old pieces, new tails, holes, truncations, removals.
        files.write_at(large, round * 130_000, &noise(100 + round, 3000));
        files.write_at(large, 1_500_000 + round * 70_000, &noise(200 + round, 70_000));
        if round % 3 == 0 {
            workspace.settle(true).unwrap();
        }
        if round % 4 == 1 {
            let range = (round * 90_000, 50_000);
            files.fs.fallocate(&files.caller(), large, range, AllocateMode::PunchHole).unwrap();
        }
        if round % 5 == 2 {
            let set = SetAttr { size: Some(900_000 + round), ..SetAttr::default() };
            files.fs.setattr(&files.caller(), large, &set).unwrap();
        }
        files.unlink(&format!("src/deep/n{round}"));
        let before = files.facts();
        checkpoint(&workspace).unwrap();
        assert_eq!(files.facts(), before, "round {round}: after a checkpoint");
        drop(files);
        if round % 2 == 0 {
            hibernate(&workspace).unwrap();
            workspace.close().unwrap();
            drop(workspace);
            workspace = resume(if round % 4 == 0 { "b" } else { "a" });
            assert_eq!(world.files(&workspace).facts(), before, "round {round}: moved");
        }
    }
}

#[test]
fn a_checkpoint_while_a_writer_runs_holds_a_state_that_existed() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    // The writer makes files in order, each naming its number, and rewrites one file so that its
    // blocks are never older than the newest file by more than one.
    let log = files.write("log", &[0; 40_000]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) && number < 200_000 {
                files.write(&format!("f{number:06}"), &noise(number, 600));
                let block = number.to_le_bytes().repeat(1000);
                files.write_at(log, (number % 5) * 8000, &block);
                number += 1;
                std::thread::sleep(Duration::from_micros(500));
            }
            number
        });
        for _ in 0..4 {
            let before = files.fs.namespace().next_ino();
            while files.fs.namespace().next_ino() == before {
                std::thread::sleep(Duration::from_millis(10));
            }
            let receipt = checkpoint(&workspace).unwrap();
            assert!(receipt.changed, "{receipt:?}");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 10);
    });
    let live = files.facts();
    let store = Store::open(world.remote()).unwrap();
    let snapshots = store.snapshots(&"w".parse().unwrap()).unwrap();
    assert!(snapshots.len() >= 4);
    for (i, snapshot) in snapshots.iter().enumerate() {
        let mut options = world.options(&format!("at{i}"));
        options.at = Some(snapshot.id.parse().unwrap());
        let at = world.try_resume(&options).unwrap();
        let seen = world.files(&at);
        let numbers: Vec<u64> = seen
            .list(Ino::ROOT, false)
            .iter()
            .filter_map(|(name, ..)| {
                std::str::from_utf8(name).ok()?.strip_prefix('f')?.parse().ok()
            })
            .collect();
        let count = numbers.len() as u64;
        assert_eq!(numbers.iter().max().copied(), count.checked_sub(1), "files have no gap");
        // All but the last file are whole; the last may have been caught before its write.
        for number in 0..count {
            let content = seen.read(&format!("f{number:06}"));
            let whole = content == noise(number, 600);
            assert!(whole || number + 1 == count && content.is_empty(), "file {number}");
        }
        for (slot, block) in seen.read("log").chunks(8000).enumerate() {
            let value = u64::from_le_bytes(block[..8].try_into().unwrap());
            assert!(block.chunks(8).all(|word| word == &block[..8]), "a write is atomic");
            let expected = (0..count).rev().find(|number| number % 5 == slot as u64);
            let before = expected.and_then(|number| number.checked_sub(5)).unwrap_or(0);
            let expected = expected.unwrap_or(0);
            let newest = expected + 1 == count;
            assert!(value == expected || newest && value == before, "slot {slot} at {count}");
        }
    }
    // And the live state went on untouched.
    assert_eq!(files.facts(), live);
    let moved = world.move_to(workspace, "z");
    assert_eq!(world.files(&moved).facts(), live);
}

#[test]
fn an_outage_fails_the_seal_and_the_next_one_covers_everything() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    furnish(&files);
    let before = files.facts();
    world.faults.set_outage(true);
    assert!(matches!(checkpoint(&workspace), Err(WorkspaceError::Unavailable { .. })));
    assert!(matches!(hibernate(&workspace), Err(WorkspaceError::Unavailable { .. })));
    assert_eq!(files.facts(), before);
    files.write("during", b"the outage");
    let status = workspace.status();
    assert_eq!(status.seals.failed, 2);
    assert!(status.seals.last_error.is_some() && status.unsynced.bytes > 1_500_000);
    world.faults.heal();
    let receipt = hibernate(&workspace).unwrap();
    assert!(receipt.changed && receipt.packs_confirmed >= 2);
    workspace.close().unwrap();
    drop(workspace);
    let moved = world.resume("b");
    assert_eq!(world.files(&moved).read("during"), b"the outage");
    for (path, facts) in before {
        if !path.is_empty() {
            assert_eq!(world.files(&moved).facts()[&path], facts);
        }
    }
}

#[test]
fn a_failure_at_any_request_of_a_seal_loses_nothing_and_is_made_good_by_the_next() {
    let faults = [
        ("packs/", Fault::LostAnswer),
        ("snapshots/", Fault::LostAnswer),
        ("packs/", Fault::Hang),
        ("snapshots/", Fault::Hang),
        ("/head", Fault::Hang),
        ("/head", Fault::HangAfter),
    ];
    let bounds = [Upkeep::default().drafts_max, 1];
    for ((key, fault), drafts_max) in faults.iter().flat_map(|one| bounds.map(|max| (one, max))) {
        let world = World::new();
        let workspace = with_few_drafts(&world, "a", drafts_max);
        let files = world.files(&workspace);
        files.write("first", &noise(1, 400_000));
        checkpoint(&workspace).unwrap();
        files.write_at(files.ino("first"), 5000, &noise(2, 300_000));
        files.write("second", &noise(3, 9000));
        let before = files.facts();
        world.faults.inject(When::every(Op::Put, key), fault.clone());
        let failed = checkpoint(&workspace);
        assert_eq!(files.facts(), before, "{key} {fault:?}: {failed:?}");
        files.write("third", b"after");
        let before = files.facts();
        world.faults.heal();
        assert!(checkpoint(&workspace).unwrap().changed, "{key} {fault:?}");
        assert_eq!(files.facts(), before, "{key} {fault:?}: after the second try");
        drop(files);
        let moved = world.move_to(workspace, "b");
        assert_eq!(world.files(&moved).facts(), before, "{key} {fault:?}: elsewhere");
    }
}

#[test]
fn however_many_files_are_written_only_so_many_wait_for_the_store_at_once() {
    const COUNT: u64 = 1000;
    for is_hibernation in [false, true] {
        let world = World::new();
        let workspace = with_few_drafts(&world, "a", 50);
        let files = world.files(&workspace);
        for number in 0..COUNT {
            files.write(&format!("f{number}"), &noise(number, 100));
        }
        let before = files.facts();
        world.counts.reset();
        let receipt = if is_hibernation { hibernate(&workspace) } else { checkpoint(&workspace) };
        let packs = receipt.unwrap().data_packs;
        assert!((20..=44).contains(&packs), "{packs} packs of 25 to 50 pieces");
        drop(files);
        drop(workspace);
        let mut options = world.options("b");
        options.steal = true;
        let elsewhere = world.try_resume(&options).unwrap();
        assert_eq!(world.files(&elsewhere).facts(), before);
    }
}

#[test]
fn a_hibernation_waits_for_the_store_until_its_deadline() {
    let world = World::new();
    let workspace = world.resume("a");
    world.files(&workspace).write("f", b"x");
    world.faults.set_outage(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(2500));
            world.faults.heal();
        });
        let until = world.clock.monotonic() + Duration::from_secs(30);
        assert!(workspace.hibernate(Some(until), &mut watch).unwrap().released);
    });
}

#[test]
fn a_watcher_sees_progress_and_can_stop_a_hibernation() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("f", &noise(1, 30 << 20));
    let slow = When::every(Op::Put, "packs/");
    world.faults.inject(slow, Fault::Latency(Duration::from_millis(400)));
    let mut seen = Vec::new();
    let stopped = workspace.hibernate(None, &mut |view| {
        seen.push(*view);
        std::ops::ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(WorkspaceError::Stopped)), "{stopped:?}");
    files.write("g", b"changes are admitted again");
    let receipt = workspace.hibernate(None, &mut |view| {
        seen.push(*view);
        std::ops::ControlFlow::Continue(())
    });
    assert!(receipt.unwrap().released);
    assert!(seen.iter().any(|view| view.bytes_total >= 30 << 20), "{seen:?}");
    assert_eq!(seen.last().unwrap().phase, Phase::Done);
    assert!(workspace.status().upload_bytes_per_sec.is_some());
}

#[test]
fn an_unlinked_open_file_lives_through_a_checkpoint_and_ends_with_the_hibernation() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let (old, new) = (files.write("old", &noise(1, 700_000)), files.write("new", b"to come"));
    checkpoint(&workspace).unwrap();
    files.write_at(new, 0, &noise(2, 700_000));
    for (file, ino) in [("old", old), ("new", new)] {
        // The kernel holds both open.
        let entry = files.fs.lookup(&files.caller(), Ino::ROOT, &name(file)).unwrap();
        assert_eq!(entry.ino, ino);
        files.unlink(file);
    }
    files.write_at(old, 300_000, &noise(3, 5000));
    let (old_content, new_content) = (files.read_ino(old), files.read_ino(new));
    for _ in 0..3 {
        files.write("other", &noise(4, 1000));
        checkpoint(&workspace).unwrap();
        assert!(files.read_ino(old) == old_content && files.read_ino(new) == new_content);
    }
    // A machine that takes over from the checkpoint reclaims them.
    let mut options = world.options("b");
    options.steal = true;
    let taken = world.try_resume(&options).unwrap();
    assert_eq!(world.files(&taken).fs.orphan_count(), 0);
    assert_eq!(taken.status().inodes, 2);
    hibernate(&taken).unwrap();
    drop(taken);
    drop(files);
    drop(workspace);
    let mut options = world.options("a");
    options.discard_local = true;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    let held = files.write("held", &noise(5, 9000));
    files.fs.lookup(&files.caller(), Ino::ROOT, &name("held")).unwrap();
    files.unlink("held");
    assert_eq!(files.read_ino(held), noise(5, 9000));
    hibernate(&workspace).unwrap();
    assert_eq!(files.fs.orphan_count(), 0);
}

#[test]
fn an_orphan_left_by_a_crash_is_reclaimed_at_the_next_mount() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("f", &noise(1, 5000));
    files.fs.lookup(&files.caller(), Ino::ROOT, &name("f")).unwrap();
    files.unlink("f");
    drop(files);
    drop(workspace);
    let workspace = world.resume("a");
    assert_eq!(workspace.fs().orphan_count(), 0);
    assert_eq!(hibernate(&workspace).unwrap().data_packs, 0);
}

#[test]
fn after_a_hibernation_the_directory_is_clean_and_warm() {
    let world = World::new();
    let workspace = world.resume("a");
    furnish(&world.files(&workspace));
    let before = world.files(&workspace).facts();
    hibernate(&workspace).unwrap();
    let status = workspace.status();
    assert!(!status.unsynced.changed && status.unsynced.bytes == 0, "{:?}", status.unsynced);
    workspace.close().unwrap();
    drop(workspace);
    let workspace = world.resume("a");
    world.counts.reset();
    // Metadata is here; content was staged here and is fetched again at most once.
    let files = world.files(&workspace);
    for (_, directory, _) in files.list(Ino::ROOT, true) {
        files.fs.getattr(&files.caller(), directory).unwrap();
    }
    assert_eq!(world.counts.log(), []);
    assert_eq!(files.facts(), before);
    world.counts.reset();
    assert_eq!(files.facts(), before);
    assert_eq!(world.counts.log(), [], "the second look needs nothing");
}

#[test]
fn old_snapshots_can_be_mounted_and_nothing_written_there() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("f", b"one");
    let first = checkpoint(&workspace).unwrap().snapshot.unwrap();
    files.write("f", b"two");
    files.write("g", b"later");
    checkpoint(&workspace).unwrap();
    let name = "w".parse().unwrap();
    let store = Store::open(world.remote()).unwrap();
    let list = store.snapshots(&name).unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].id.as_str(), list[0].newest), (first.as_str(), false));
    assert_eq!(list[1].parents, [first.as_str()]);
    assert_eq!(store.find_snapshot(&name, &first[..10]).unwrap().to_string(), first);
    assert_eq!(store.find_snapshot(&name, "latest").unwrap().to_string(), list[1].id);
    assert!(matches!(store.find_snapshot(&name, "zz"), Err(WorkspaceError::NoSnapshot { .. })));
    // While the writer holds its lease: without one.
    let mut options = world.options("old");
    options.at = Some(first.parse().unwrap());
    let old = world.try_resume(&options).unwrap();
    let old_files = world.files(&old);
    assert_eq!(old_files.read("f"), b"one");
    assert_eq!(old_files.find("g"), None);
    let at = At { directory: Ino::ROOT, name: &crate::world::name("new") };
    let refused = old_files.fs.create(&old_files.caller(), at, 0o600, true);
    assert!(matches!(refused, Err(dormouse::fs::FsError::ReadOnly)), "{refused:?}");
    assert!(matches!(checkpoint(&old), Err(WorkspaceError::ReadOnly { .. })));
    assert!(!hibernate(&old).unwrap().changed);
    let mut options = world.options("new");
    options.read_only = true;
    let newest = world.try_resume(&options).unwrap();
    assert_eq!(world.files(&newest).read("f"), b"two");
    assert_eq!(newest.status().state, "read-only");
    files.write("h", b"the writer goes on");
    checkpoint(&workspace).unwrap();
    // A directory with unsealed changes is not for reading only.
    files.write("i", b"unsealed");
    drop(files);
    drop(workspace);
    let mut options = world.options("a");
    options.read_only = true;
    assert!(matches!(world.try_resume(&options), Err(WorkspaceError::Unsynced { .. })));
    let absent = "ab".repeat(32);
    let mut options = world.options("x");
    options.at = Some(absent.parse().unwrap());
    assert!(matches!(world.try_resume(&options), Err(WorkspaceError::NoSnapshot { .. })));
}

#[test]
fn many_checkpoints_keep_the_tree_s_packs_few() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    for round in 0..30 {
        for file in 0..40 {
            files.write(&format!("r{round}-{file}"), &noise(round * 40 + file, 300));
        }
        checkpoint(&workspace).unwrap();
    }
    let before = files.facts();
    let moved = world.move_to(workspace, "b");
    world.counts.reset();
    assert_eq!(world.files(&moved).facts(), before);
    let trees = world.counts.log();
    let fetched: std::collections::HashSet<_> =
        trees.iter().filter(|call| call.op == Op::Get).map(|call| call.key.clone()).collect();
    assert!(fetched.len() <= 30 + 6, "{} packs for 30 data packs", fetched.len());
}

#[test]
fn writers_near_the_cap_of_unsynced_bytes_are_slowed_and_over_it_refused() {
    let world = World::new();
    let mut options = world.options("a");
    options.upkeep.unsynced_bytes_max = 4 << 20;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    let ino = files.write("f", &noise(1, (3 << 20) + (1 << 19)));
    world.faults.set_outage(true);
    assert!(workspace.upkeep().is_err(), "it tries to seal, and can't");
    assert!(workspace.status().unsynced.throttled);
    files.write_at(ino, 4 << 20, &noise(2, 1 << 20));
    assert!(workspace.upkeep().is_err());
    let refused = files.fs.write(&files.caller(), ino, 0, b"more", false);
    assert!(matches!(refused, Err(dormouse::fs::FsError::NoSpace)), "{refused:?}");
    world.faults.heal();
    workspace.upkeep().unwrap();
    workspace.upkeep().unwrap();
    assert!(!workspace.status().unsynced.throttled);
    files.write_at(ino, 0, b"more");
}

#[test]
fn the_threads_settle_checkpoint_and_end() {
    let world = World::new();
    let mut options = world.options("a");
    options.upkeep.threads = true;
    options.upkeep.quiet_period = Duration::ZERO;
    options.upkeep.checkpoint_interval = Duration::from_millis(700);
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    files.write("f", &noise(1, 20 << 20));
    let deadline = world.clock.monotonic() + Duration::from_secs(20);
    while workspace.status().seals.made == 0 {
        assert!(world.clock.monotonic() < deadline, "{:?}", workspace.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = workspace.status();
    assert_eq!((status.unsynced.changed, status.unsynced.bytes), (false, 0));
    assert!(!hibernate(&workspace).unwrap().changed);
    workspace.close().unwrap();
}

#[test]
fn a_renewal_after_a_seal_in_doubt_keeps_what_the_seal_may_have_put_there() {
    let world = World::new();
    let mut options = world.options("a");
    options.lease_ttl = Duration::ZERO;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    files.write("f", b"one");
    let first = checkpoint(&workspace).unwrap().snapshot;
    files.write("f", b"two");
    // The head is swapped, but the answer is lost, and it can't be read either.
    world.faults.inject(When::next(Op::Put, "/head"), Fault::LostAnswer);
    world.faults.inject(When::every(Op::Get, "/head"), Fault::Unavailable);
    assert!(matches!(checkpoint(&workspace), Err(WorkspaceError::Unavailable { .. })));
    world.faults.heal();
    let sealed = || Store::open(world.remote()).unwrap().workspaces().unwrap().remove(0).snapshot;
    let second = sealed();
    assert_ne!(second, first);
    for _ in 0..2 {
        workspace.upkeep().unwrap();
        assert_eq!(sealed(), second, "a renewal does not bring the older state back");
    }
    // A crash now: the directory knows that the newer snapshot is its own work.
    drop((files, workspace));
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    assert_eq!(files.read("f"), b"two");
    files.write("g", b"three");
    let before = files.facts();
    drop(files);
    let moved = world.move_to(workspace, "b");
    assert_eq!(world.files(&moved).facts(), before);
}

#[test]
fn a_change_taken_back_after_a_seal_in_doubt_and_a_renewal_is_taken_back_in_the_head() {
    // Nobody moves this clock: the change and the way back leave the same change time.
    let world = World::new().with_clock(Arc::new(ManualClock::default()));
    let mut options = world.options("a");
    options.lease_ttl = Duration::ZERO;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    let ino = files.write("f", b"one");
    let chmod = |mode| {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        files.fs.setattr(&files.caller(), ino, &set).unwrap();
    };
    chmod(0o600);
    checkpoint(&workspace).unwrap();
    chmod(0o644);
    world.faults.inject(When::next(Op::Put, "/head"), Fault::LostAnswer);
    world.faults.inject(When::every(Op::Get, "/head"), Fault::Unavailable);
    assert!(matches!(checkpoint(&workspace), Err(WorkspaceError::Unavailable { .. })));
    world.faults.heal();
    workspace.upkeep().unwrap();
    chmod(0o600);
    let before = files.facts();
    drop(files);
    let moved = world.move_to(workspace, "b");
    assert_eq!(world.files(&moved).facts(), before);
}

#[test]
fn the_hot_set_is_fetched_ahead_where_that_is_wanted() {
    let world = World::new();
    let workspace = world.resume("a");
    world.files(&workspace).write("hot", &noise(1, 200_000));
    world.files(&workspace).write("cold", &noise(2, 200_000));
    let workspace = world.move_to(workspace, "b");
    assert!(world.files(&workspace).read("hot") == noise(1, 200_000));
    world.files(&workspace).write("other", b"so that there is a new snapshot");
    hibernate(&workspace).unwrap();
    let mut options = world.options("c");
    options.upkeep.threads = true;
    options.upkeep.hot_bytes_max = 1 << 20;
    let workspace = world.try_resume(&options).unwrap();
    let deadline = world.clock.monotonic() + Duration::from_secs(20);
    while workspace.status().chunks.chunks_fetched == 0 {
        assert!(world.clock.monotonic() < deadline, "nothing was fetched ahead");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    world.counts.reset();
    assert!(world.files(&workspace).read("hot") == noise(1, 200_000));
    assert_eq!(world.counts.count(Op::Get, "packs/"), 0, "{:?}", world.counts.log());
}

#[test]
fn a_checkpoint_carries_the_beginning_of_the_hot_set_and_a_hibernation_all_of_it() {
    const COUNT: u64 = 3000;
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    for number in 0..COUNT {
        files.write(&format!("f{number}"), &noise(number, 100));
    }
    drop(files);
    let workspace = world.move_to(workspace, "b");
    let files = world.files(&workspace);
    for number in 0..COUNT {
        assert_eq!(files.read(&format!("f{number}")), noise(number, 100));
    }
    let sizes = || {
        let log = world.counts.log();
        let put = log.iter().filter(|call| call.op == Op::Put && call.key.contains("snapshots/"));
        put.map(|call| call.bytes).collect::<Vec<_>>()
    };
    world.counts.reset();
    for round in 0..3 {
        files.write("stamp", &[round]);
        assert!(checkpoint(&workspace).unwrap().changed);
    }
    assert!(sizes().iter().all(|&bytes| bytes < 80_000), "{:?}", sizes());
    world.counts.reset();
    files.write("stamp", b"last");
    hibernate(&workspace).unwrap();
    assert!(sizes()[0] > 72 * COUNT, "{:?}", sizes());
}
