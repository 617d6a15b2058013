//! Writers that are faster than the store, and files that nobody has a name for.

use std::time::Duration;

use dormouse::chunks::Fetch;
use dormouse::fs::{At, Caller, FsError};
use dormouse::remote::{Fault, Op, When};
use dormouse::types::Ino;
use dormouse::workspace::{ResumeOptions, Workspace};

use crate::world::{World, checkpoint, hibernate, name, noise};

const MIB: u64 = 1 << 20;

/// A mount with threads whose local directory may come to 48 MiB.
fn small(world: &World, cache: &str) -> ResumeOptions {
    let mut options = world.options(cache);
    options.upkeep.threads = true;
    options.upkeep.checkpoint_interval = Duration::ZERO;
    options.upkeep.unsynced_age_max = Duration::ZERO;
    options.local.cache_bytes_max = 48 * MIB;
    options.local.segment_bytes_max = 4 * MIB;
    options
}

fn without_threads(world: &World, cache: &str) -> ResumeOptions {
    let mut options = small(world, cache);
    options.upkeep.threads = false;
    options
}

/// The content of a large file, part by part.
fn part(number: u64) -> Vec<u8> {
    noise(number, MIB as usize)
}

#[test]
fn a_writer_that_fills_the_budget_is_slowed_while_the_store_takes_it() {
    let world = World::new();
    let workspace = world.try_resume(&small(&world, "a")).unwrap();
    let files = world.files(&workspace);
    let ino = files.create("large");
    for number in 0..160 {
        files.write_at(ino, number * MIB, &part(number));
    }
    assert!(workspace.status().local.journal < 60 * MIB, "{:?}", workspace.status().local);
    let workspace = world.move_to(workspace, "b");
    let files = world.files(&workspace);
    let read = files.read("large");
    assert_eq!(read.len() as u64, 160 * MIB);
    for (number, found) in read.chunks(MIB as usize).enumerate() {
        assert!(found == part(number as u64), "part {number}");
    }
}

#[test]
fn writers_near_the_cap_of_unsynced_bytes_wait_for_room_too() {
    let world = World::new();
    let mut options = small(&world, "a");
    options.upkeep.unsynced_bytes_max = 8 * MIB;
    options.local.cache_bytes_max = 1 << 30;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    let ino = files.create("large");
    let mut most = 0;
    for number in 0..40 {
        files.write_at(ino, number * MIB, &part(number));
        most = most.max(workspace.status().unsynced.bytes);
    }
    assert!(most <= 8 * MIB, "{most} bytes that the store did not have, and 8 MiB may be");
    assert!(most >= 4 * MIB, "{most} bytes: the writer never came near the cap");
    hibernate(&workspace).unwrap();
}

/// Files in the newest snapshot, as another machine sees it.
fn in_snapshot(world: &World, cache: &str) -> u64 {
    let mut options = world.options(cache);
    options.read_only = true;
    let workspace = world.try_resume(&options).unwrap();
    let found = world.files(&workspace).list(Ino::ROOT, false).len() as u64;
    workspace.close().unwrap();
    found
}

#[test]
fn the_newest_snapshot_holds_all_that_is_older_than_the_age_that_may_be_unsynced() {
    const AGE_SECS: u64 = 300;
    let (world, clock) = World::in_slow_motion();
    let mut options = world.options("a");
    options.upkeep.checkpoint_interval = Duration::ZERO;
    options.upkeep.unsynced_age_max = Duration::from_secs(AGE_SECS);
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    let (mut held, mut seals, mut oldest) = (0, 0, 0);
    for second in 0..3 * AGE_SECS {
        files.write(&format!("f{second}"), &second.to_le_bytes());
        clock.advance(Duration::from_secs(1));
        workspace.settle(false).unwrap();
        workspace.upkeep().unwrap();
        let made = workspace.status().seals.made;
        if made > seals {
            seals = made;
            held = in_snapshot(&world, &format!("look{seals}"));
        }
        // What was written in a second is one second old at its end.
        oldest = oldest.max(second + 1 - held);
        assert!(oldest <= AGE_SECS, "after {second} s {held} files are in the snapshot");
    }
    // The age alone makes it seal, and not each time that it looks.
    assert!((2..20).contains(&seals), "{seals} seals, {oldest} s at most");
}

/// Writes until it is refused; how much was taken, and what it was told.
fn fill(workspace: &Workspace, ino: Ino) -> (u64, FsError) {
    let fs = workspace.fs();
    for number in 0..200 {
        let caller = Caller::root(Fetch::Within(Duration::from_secs(3)));
        if let Err(error) = fs.write(&caller, ino, number * MIB, &part(number), false) {
            return (number, error);
        }
    }
    panic!("200 MiB were taken");
}

#[test]
fn without_the_store_a_writer_is_refused_loses_nothing_and_goes_on_afterwards() {
    let world = World::new();
    let workspace = world.try_resume(&small(&world, "a")).unwrap();
    let files = world.files(&workspace);
    let ino = files.create("large");
    world.faults.set_outage(true);
    let (taken, error) = fill(&workspace, ino);
    assert!(matches!(error, FsError::Spent), "{error:?}");
    assert!(taken > 20, "only {taken} MiB of 48 were taken");
    // Nobody else is kept waiting for what can't be.
    assert!(files.fs.is_room_stuck());
    let (_, error) = fill(&workspace, ino);
    assert!(matches!(error, FsError::Spent), "{error:?}");
    world.faults.heal();
    let deadline = world.clock.monotonic() + Duration::from_secs(60);
    while files.fs.write(&files.caller(), ino, taken * MIB, &part(taken), false).is_err() {
        assert!(world.clock.monotonic() < deadline, "the store is back, and no room is made");
        std::thread::sleep(Duration::from_millis(100));
    }
    let workspace = world.move_to(workspace, "b");
    let read = world.files(&workspace).read("large");
    for (number, found) in read.chunks(MIB as usize).enumerate() {
        assert!(found == part(number as u64), "part {number}");
    }
}

/// Names and attributes alone can fill the budget, and only a seal makes that room again. What a
/// seal notes of itself was refused as well: every checkpoint uploaded everything and failed.
#[test]
fn a_budget_full_of_names_is_sealed_when_the_store_is_back() {
    let world = World::new();
    let mut options = without_threads(&world, "a");
    options.local.cache_bytes_max = 2 * MIB;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    let caller = Caller::root(Fetch::Within(Duration::from_millis(100)));
    let made = (0..100_000).take_while(|number| {
        let at = At { directory: Ino::ROOT, name: &name(&format!("file-{number}")) };
        files.fs.create(&caller, at, 0o640, false).is_ok()
    });
    let made = made.count();
    assert!((1_000..100_000).contains(&made), "{made}");
    checkpoint(&workspace).unwrap();
    let workspace = world.move_to(workspace, "b");
    assert_eq!(world.files(&workspace).list(Ino::ROOT, false).len(), made);
}

#[test]
fn a_writer_that_never_gets_any_of_the_room_that_is_made_is_told_what_it_lacks() {
    let world = World::new();
    let workspace = world.try_resume(&without_threads(&world, "a")).unwrap();
    let files = world.files(&workspace);
    let ino = files.create("large");
    let (_, error) = fill(&workspace, ino);
    assert!(matches!(error, FsError::Spent), "nobody makes room: {error:?}");
    files.fs.serve_room(true);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Others were there first.
                if files.fs.wait_for_room_wanted(Duration::from_millis(10)) {
                    files.fs.make_room(|| true);
                }
            }
        });
        let result = files.fs.write(&files.caller(), ino, 0, &part(0), false);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(result, Err(FsError::Spent)), "{result:?}");
    });
}

#[test]
fn a_hibernation_that_fails_in_its_last_step_leaves_open_unlinked_files_alone() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let content = noise(1, 700_000);
    files.write("open", &content);
    files.write("young", b"to be unlinked before it is sealed");
    files.write("kept", b"kept");
    // Sealed, so that its content is in the base only once it is unlinked.
    let workspace = world.move_to(workspace, "b");
    let files = world.files(&workspace);
    let held = |path: &str| {
        files.fs.lookup(&files.caller(), Ino::ROOT, &name(path)).map(|entry| entry.ino).unwrap()
    };
    let ino = held("open");
    files.write("new", b"never sealed while it had a name");
    let new = held("new");
    files.unlink("open");
    files.unlink("new");
    assert_eq!(files.fs.orphan_count(), 2);
    world.faults.inject(When::every(Op::Put, "head"), Fault::Unavailable);
    assert!(hibernate(&workspace).is_err());
    assert_eq!(files.fs.orphan_count(), 2);
    assert!(files.read_ino(ino) == content, "its owner goes on");
    assert_eq!(files.read_ino(new), b"never sealed while it had a name");
    files.write_at(ino, 0, b"also writing");
    assert_eq!(&files.read_ino(ino)[..12], b"also writing");

    world.faults.heal();
    assert!(hibernate(&workspace).unwrap().released);
    assert_eq!(files.fs.orphan_count(), 0, "now they have ended");
    drop(files);
    workspace.close().unwrap();
    drop(workspace);
    let workspace = world.resume("c");
    let files = world.files(&workspace);
    assert_eq!(files.fs.orphan_count(), 0);
    assert!(files.fs.getattr(&files.caller(), ino).is_err(), "no record of it was sealed");
    assert_eq!(files.read("kept"), b"kept");
    let facts: Vec<String> = files.facts().into_keys().collect();
    assert_eq!(facts, ["", "/kept", "/young"]);
}

#[test]
fn an_orphan_that_a_checkpoint_has_sealed_is_not_in_the_snapshot_of_a_hibernation() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("open", &noise(1, 700_000));
    checkpoint(&workspace).unwrap();
    let ino = files.fs.lookup(&files.caller(), Ino::ROOT, &name("open")).unwrap().ino;
    files.unlink("open");
    checkpoint(&workspace).unwrap();
    assert_eq!(files.fs.orphan_count(), 1);
    assert!(!workspace.status().unsynced.changed, "nothing but the orphan");
    assert!(hibernate(&workspace).unwrap().changed);
    workspace.close().unwrap();
    let workspace = world.resume("b");
    let files = world.files(&workspace);
    assert!(files.fs.getattr(&files.caller(), ino).is_err());
    assert!(workspace.fs().namespace().orphans(files.caller().fetch).unwrap().is_empty());
}
