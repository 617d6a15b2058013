//! One writer at a time: leases, epochs, fencing, and whose local directory fits.

use std::time::Duration;

use dormouse::fs::{At, FsError};
use dormouse::remote::{Fault, Op, PutMode, When};
use dormouse::types::{ConnectionId, Ino};
use dormouse::workspace::{Store, WorkspaceError};

use crate::world::{World, checkpoint, hibernate, name, noise};

#[test]
fn a_lease_held_elsewhere_is_refused_until_the_store_s_clock_says_that_it_ran_out() {
    let world = World::new();
    let first = world.resume("a");
    world.files(&first).write("f", b"one");
    checkpoint(&first).unwrap();
    world.store_clock.advance(Duration::from_secs(100));
    match world.try_resume(&world.options("b")) {
        Err(WorkspaceError::LeaseHeld { host, seconds_left, .. }) => {
            assert_eq!((host.as_str(), seconds_left), ("host-a", 500));
        }
        other => panic!("{other:?}"),
    }
    world.store_clock.advance(Duration::from_secs(499));
    assert!(matches!(
        world.try_resume(&world.options("b")),
        Err(WorkspaceError::LeaseHeld { seconds_left: 1, .. })
    ));
    world.store_clock.advance(Duration::from_secs(1));
    let second = world.try_resume(&world.options("b")).unwrap();
    assert_eq!(second.status().epoch, 2);
    assert_eq!(world.files(&second).read("f"), b"one");
}

#[test]
fn a_renewal_keeps_the_lease_and_costs_one_put() {
    let world = World::new();
    let mut options = world.options("a");
    options.lease_ttl = Duration::ZERO;
    let first = world.try_resume(&options).unwrap();
    hibernate(&first).unwrap();
    first.close().unwrap();
    drop(first);
    options.lease_ttl = Duration::from_secs(600);
    let first = world.try_resume(&options).unwrap();
    world.counts.reset();
    first.upkeep().unwrap();
    assert_eq!(world.counts.log(), [], "not due");
    // The machine's clock can't be moved here: a lease of no length is always due.
    first.close().unwrap();
    drop(first);
    options.lease_ttl = Duration::ZERO;
    let first = world.try_resume(&options).unwrap();
    world.counts.reset();
    first.upkeep().unwrap();
    assert_eq!(world.counts.count(Op::Put, "/head"), 1);
    assert_eq!(world.counts.log().len(), 1);
}

#[test]
fn a_store_that_stops_honouring_conditions_is_found_out_after_the_mount() {
    let world = World::new();
    let mut options = world.options("a");
    options.upkeep.threads = true;
    let workspace = world.try_resume(&options).unwrap();
    let files = world.files(&workspace);
    let ino = files.write("f", b"one");
    world.faults.inject(When::every(Op::Put, "/head"), Fault::Unconditional);
    let deadline = world.clock.monotonic() + Duration::from_secs(60);
    while workspace.status().fenced.is_none() {
        assert!(world.clock.monotonic() < deadline, "{:?}", workspace.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    let why = workspace.status().fenced.unwrap();
    assert!(why.contains("ignores conditional writes"), "{why}");
    let refused = files.fs.write(&files.caller(), ino, 0, b"two", false);
    assert!(matches!(refused, Err(FsError::Fenced)), "{refused:?}");
    assert_eq!(files.read("f"), b"one");
}

#[test]
fn the_same_cache_takes_its_own_lease_back_at_once() {
    let world = World::new();
    let first = world.resume("a");
    world.files(&first).write("f", b"unsealed");
    drop(first);
    let again = world.resume("a");
    assert_eq!(again.status().epoch, 2);
    assert_eq!(world.files(&again).read("f"), b"unsealed");
}

#[test]
fn a_second_owner_of_one_directory_is_refused() {
    let world = World::new();
    let _first = world.resume("a");
    match world.try_resume(&world.options("a")) {
        Err(WorkspaceError::Local(dormouse::local::LocalError::Locked { pid, .. })) => {
            assert_eq!(pid, std::process::id());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_writer_whose_lease_was_stolen_is_fenced_and_loses_nothing() {
    let world = World::new();
    let first = world.resume("a");
    let files = world.files(&first);
    files.write("sealed", b"1");
    checkpoint(&first).unwrap();
    files.write("late", b"2");
    let mut options = world.options("b");
    options.steal = true;
    let second = world.try_resume(&options).unwrap();
    match checkpoint(&first) {
        Err(WorkspaceError::Fenced { host, ours, theirs, .. }) => {
            assert_eq!((host.as_str(), ours.0, theirs.0), ("host-b", 1, 2));
        }
        other => panic!("{other:?}"),
    }
    let status = first.status();
    assert_eq!(status.state, "fenced");
    assert!(status.fenced.unwrap().contains("host-b"));
    let at = At { directory: Ino::ROOT, name: &name("more") };
    let refused = files.fs.create(&files.caller(), at, 0o600, true);
    assert!(matches!(refused, Err(FsError::Fenced)));
    assert_eq!(files.read("late"), b"2", "what was not sealed can be read");
    // Nothing of it reached the second writer, who goes on.
    let second_files = world.files(&second);
    assert_eq!(second_files.find("late"), None);
    second_files.write("second", b"3");
    checkpoint(&second).unwrap();
    assert!(matches!(hibernate(&first), Err(WorkspaceError::Fenced { .. })));
    // Renewals are refused too.
    assert!(matches!(first.upkeep(), Err(WorkspaceError::Fenced { .. })));
}

#[test]
fn two_that_resume_at_once_get_one_lease() {
    let world = World::new();
    hibernate(&world.resume("z")).unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let resume = |cache: &'static str| {
            let world = &world;
            move || world.try_resume(&world.options(cache))
        };
        let threads: Vec<_> =
            ["a", "b", "c", "d"].map(|cache| scope.spawn(resume(cache))).into_iter().collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let won = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(won, 1, "{results:?}");
    for result in results {
        assert!(matches!(result, Ok(_) | Err(WorkspaceError::LeaseHeld { .. })), "{result:?}");
    }
}

#[test]
fn a_lost_answer_to_the_acquisition_is_settled_by_reading_the_head() {
    let world = World::new();
    hibernate(&world.resume("z")).unwrap();
    world.faults.inject(When::next(Op::Put, "/head"), Fault::LostAnswer);
    let workspace = world.resume("a");
    assert_eq!(world.faults.injected(), 1);
    assert_eq!(workspace.status().epoch, 2);
    world.files(&workspace).write("f", b"x");
    world.faults.inject(When::next(Op::Put, "/head"), Fault::LostAnswer);
    assert!(checkpoint(&workspace).unwrap().changed);
    world.faults.inject(When::next(Op::Put, "/head"), Fault::LostAnswer);
    assert!(hibernate(&workspace).unwrap().released);
    assert_eq!(world.faults.injected(), 3);
    workspace.close().unwrap();
    drop(workspace);
    assert_eq!(world.files(&world.resume("b")).read("f"), b"x");
}

#[test]
fn a_directory_with_changes_to_a_passed_snapshot_is_refused_and_kept() {
    let world = World::new();
    let first = world.resume("a");
    world.files(&first).write("f", b"one");
    checkpoint(&first).unwrap();
    world.files(&first).write("mine", b"unsealed");
    drop(first);
    let mut options = world.options("b");
    options.steal = true;
    let second = world.try_resume(&options).unwrap();
    world.files(&second).write("theirs", b"sealed");
    hibernate(&second).unwrap();
    match world.try_resume(&world.options("a")) {
        Err(WorkspaceError::Diverged { dir, .. }) => assert!(dir.ends_with("/a")),
        other => panic!("{other:?}"),
    }
    // The refusal took no lease.
    let heads = Store::open(world.remote()).unwrap().workspaces().unwrap();
    assert_eq!(heads[0].holder, None);
    let mut options = world.options("a");
    options.discard_local = true;
    let again = world.try_resume(&options).unwrap();
    let files = world.files(&again);
    assert_eq!(files.find("mine"), None);
    assert_eq!(files.read("theirs"), b"sealed");
    assert_eq!(files.read("f"), b"one");
    // And the numbers that the dropped files had are not given out again.
    files.write("new", b"");
    drop(files);
    let moved = world.move_to(again, "c");
    assert_eq!(world.files(&moved).read("theirs"), b"sealed");
}

#[test]
fn a_clean_directory_takes_over_what_another_machine_sealed() {
    let world = World::new();
    let first = world.resume("a");
    world.files(&first).write("f", &noise(1, 10_000));
    let second = world.move_to(first, "b");
    world.files(&second).write("g", &noise(2, 10_000));
    let counters = second.status();
    let third = world.move_to(second, "a");
    assert_eq!(world.files(&third).read("g"), noise(2, 10_000));
    let status = third.status();
    assert_eq!((status.inodes, status.bytes), (counters.inodes, counters.bytes));
}

#[test]
fn a_stolen_lease_without_a_new_snapshot_leaves_the_local_changes_usable() {
    let world = World::new();
    let first = world.resume("a");
    world.files(&first).write("f", b"1");
    checkpoint(&first).unwrap();
    world.files(&first).write("g", b"2");
    drop(first);
    let mut options = world.options("b");
    options.steal = true;
    hibernate(&world.try_resume(&options).unwrap()).unwrap();
    let again = world.resume("a");
    assert_eq!(world.files(&again).read("g"), b"2");
}

#[test]
fn a_directory_of_another_workspace_or_store_is_refused() {
    let world = World::new();
    hibernate(&world.resume("a")).unwrap();
    let mut options = world.options("a");
    options.name = "other".parse().unwrap();
    match world.try_resume(&options) {
        Err(WorkspaceError::WrongDirectory { theirs, ours, .. }) => {
            assert!(theirs.contains("workspace w ") && ours.contains("workspace other "));
        }
        other => panic!("{other:?}"),
    }
    let elsewhere = World::new();
    let mut options = elsewhere.options("a");
    options.local_dir = world.dir("a");
    assert!(matches!(elsewhere.try_resume(&options), Err(WorkspaceError::WrongDirectory { .. })));
    assert_eq!(world.resume("a").status().epoch, 2, "and is still good for its own");
}

#[test]
fn what_is_not_there_is_said_so() {
    let world = World::new();
    let mut options = world.options("a");
    options.create = false;
    let none = world.try_resume(&options);
    assert!(matches!(none, Err(WorkspaceError::NoWorkspace { .. })), "{none:?}");
    world.faults.set_outage(true);
    let away = world.try_resume(&options);
    assert!(matches!(away, Err(WorkspaceError::Unavailable { .. })), "{away:?}");
    world.faults.heal();
    let remote = world.remote();
    remote.delete("format").unwrap();
    let none = world.try_resume(&options);
    assert!(matches!(none, Err(WorkspaceError::NoStore)), "{none:?}");
}

#[test]
fn damaged_heads_and_formats_are_told_from_newer_ones() {
    let world = World::new();
    hibernate(&world.resume("a")).unwrap();
    let remote = world.remote();
    for key in ["workspaces/w/head", "format"] {
        let object = remote.get(key).unwrap().bytes;
        let mut flipped = object.to_vec();
        flipped[60] ^= 4;
        for damaged in [object.slice(..30), flipped.into(), bytes::Bytes::new()] {
            remote.put(key, damaged, PutMode::Any).unwrap();
            let result = world.try_resume(&world.options("b"));
            assert!(matches!(result, Err(WorkspaceError::Corrupt { .. })), "{key}: {result:?}");
        }
        let mut newer = object.to_vec();
        newer[4] = 99;
        remote.put(key, newer.into(), PutMode::Any).unwrap();
        let result = world.try_resume(&world.options("b"));
        let is_newer = matches!(result, Err(WorkspaceError::NewerFormat { found: 99, .. }));
        assert!(is_newer, "{key}: {result:?}");
        remote.put(key, object, PutMode::Any).unwrap();
    }
    world.resume("b");
}

/// Copies a closed local directory, as a machine's snapshot would.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn of_two_copies_of_one_directory_the_earlier_is_fenced_and_nothing_is_mixed() {
    let world = World::new();
    let first = world.resume("a");
    world.files(&first).write("f", b"one");
    checkpoint(&first).unwrap();
    world.files(&first).write("g", b"unsealed");
    first.close().unwrap();
    drop(first);
    copy(&world.dir("a"), &world.dir("b"));
    // One after the other: a copy takes the lease at once, for it holds it.
    let first = world.resume("a");
    world.files(&first).write("of first", b"1");
    let second = world.resume("b");
    assert_eq!((first.status().epoch, second.status().epoch), (2, 3));
    assert!(matches!(checkpoint(&first), Err(WorkspaceError::Fenced { .. })));
    world.files(&second).write("of second", b"2");
    hibernate(&second).unwrap();
    assert_eq!(world.files(&first).read("of first"), b"1");
    drop(first);
    assert!(matches!(world.try_resume(&world.options("a")), Err(WorkspaceError::Diverged { .. })));
    let third = world.resume("c");
    let files = world.files(&third);
    assert_eq!(files.find("of first"), None);
    assert_eq!((files.read("of second"), files.read("g")), (b"2".to_vec(), b"unsealed".to_vec()));
}

#[test]
fn copies_that_resume_at_once_get_different_epochs_and_one_of_them_seals() {
    for round in 0..10 {
        let world = World::new();
        let first = world.resume("a");
        world.files(&first).write("f", b"one");
        checkpoint(&first).unwrap();
        first.close().unwrap();
        drop(first);
        copy(&world.dir("a"), &world.dir("b"));
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| world.resume("a"));
            let b = scope.spawn(|| world.resume("b"));
            (a.join().unwrap(), b.join().unwrap())
        });
        assert_ne!(a.status().epoch, b.status().epoch, "round {round}");
        world.files(&a).write("of a", b"");
        world.files(&b).write("of b", b"");
        let (loser, winner) = if a.status().epoch < b.status().epoch { (&a, &b) } else { (&b, &a) };
        assert!(matches!(checkpoint(loser), Err(WorkspaceError::Fenced { .. })));
        assert!(checkpoint(winner).unwrap().changed);
        assert!(matches!(checkpoint(loser), Err(WorkspaceError::Fenced { .. })));
    }
}

/// A writer that was told a wrong version of its own head lost the next swap, read its own head
/// there, did not know it for its own (only heads of swaps without an answer were), and took itself
/// for fenced: read-only for good, because of one bad line of an answer.
#[test]
fn an_answer_with_a_wrong_version_costs_a_request_and_fences_nobody() {
    let world = World::new();
    world.faults.inject(When::next(Op::Put, "/head"), Fault::WrongVersion);
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("f", b"one");
    checkpoint(&workspace).unwrap();
    world.faults.inject(When::next(Op::Put, "/head"), Fault::WrongVersion);
    files.write("g", b"two");
    checkpoint(&workspace).unwrap();
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    drop(workspace);
    world.faults.inject(When::next(Op::Get, "/head"), Fault::WrongVersion);
    let workspace = world.resume("b");
    assert_eq!(world.files(&workspace).read("g"), b"two");
    let mut options = world.options("b");
    options.lease_ttl = Duration::ZERO;
    workspace.close().unwrap();
    drop(workspace);
    world.faults.inject(When::next(Op::Put, "/head"), Fault::WrongVersion);
    let workspace = world.try_resume(&options).unwrap();
    workspace.upkeep().unwrap();
    assert!(workspace.status().fenced.is_none(), "by a renewal");
}

/// Over plain HTTP a bit may flip on the way: a mount failed as if the store were damaged.
#[test]
fn a_head_or_format_that_is_damaged_on_its_way_is_fetched_again() {
    let world = World::new();
    let workspace = world.resume("a");
    world.files(&workspace).write("f", b"one");
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    drop(workspace);
    for fault in [Fault::Corrupt(40), Fault::Truncate(20)] {
        for key in ["/head", "format"] {
            world.faults.inject(When::next(Op::Get, key), fault.clone());
        }
        let workspace = world.resume("b");
        assert_eq!(world.files(&workspace).read("f"), b"one");
        hibernate(&workspace).unwrap();
        workspace.close().unwrap();
    }
    world.faults.inject(When::every(Op::Get, "/head"), Fault::Corrupt(40));
    assert!(matches!(world.try_resume(&world.options("c")), Err(WorkspaceError::Corrupt { .. })));
}

/// The mount in between kept no note of its head (it had no keeper), so the one of the mount before
/// it is still there, and says nothing about this one.
#[test]
fn a_mount_is_taken_over_by_its_own_head_and_by_no_earlier_mount_s() {
    let world = World::new();
    let mut kept = world.options("a");
    kept.keeps_head = true;
    drop(world.resume_free(&kept).unwrap());
    let between = world.resume("a");
    world.files(&between).write("f", b"of the second mount");
    checkpoint(&between).unwrap();
    drop(between);
    let mut taking_over = kept.clone();
    taking_over.local.connection = Some(ConnectionId(7));
    let workspace = world.resume_free(&taking_over).unwrap();
    assert_eq!(world.files(&workspace).read("f"), b"of the second mount");
    let epoch = workspace.status().epoch;
    world.files(&workspace).write("g", b"of the third");
    checkpoint(&workspace).unwrap();
    drop(workspace);
    // Its own head: no request, and the same epoch.
    world.counts.reset();
    let workspace = world.resume_free(&taking_over).unwrap();
    assert_eq!(world.counts.log(), []);
    assert_eq!(workspace.status().epoch, epoch);
    let before = world.files(&workspace).facts();
    let moved = world.move_to(workspace, "b");
    assert_eq!(world.files(&moved).facts(), before);
}
