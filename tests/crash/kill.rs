//! `kill -9` at any moment: nothing that was acknowledged is lost, and what is left is a state
//! that existed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse::local::Local;
use dormouse::types::SystemClock;

use crate::child::{self, Worker};
use crate::workload::{self, Random};

const CHILD: &str = "kill::child_commits_until_it_dies";

/// Commits of a child that nobody kills; reaching it is a failure of the test.
const COMMITS_MAX: u64 = 100_000;

fn open(dir: &Path) -> Local {
    let mut options = workload::options();
    if std::env::var("DORMOUSE_CRASH_POINT").is_ok_and(|point| point == "replay-flushed") {
        // So that a single record is enough to be flushed.
        options.memtable_bytes_max = 1;
    }
    Local::open(dir, &options, Arc::new(SystemClock::new())).unwrap()
}

/// The child: commits and syncs, while other threads sweep, cut and cache.
#[test]
#[ignore = "started by the other tests"]
fn child_commits_until_it_dies() {
    let Some((dir, seed)) = child::task() else { return };
    let mut random = Random(seed);
    let local = open(&dir);
    child::report("open");
    let begin = workload::committed(&local);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                local.sweep().unwrap();
                local.with_cut(|_| ()).unwrap();
            }
        });
        scope.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let id = *blake3::hash(&n.to_le_bytes()).as_bytes();
                local.cache_put(&id, &[n as u8; 9000]).unwrap();
                if n.is_multiple_of(40) {
                    local.evict_to(200_000).unwrap();
                }
                if n.is_multiple_of(100) {
                    local.evict_all().unwrap();
                }
                n += 1;
            }
        });
        for n in begin + 1..begin + COMMITS_MAX {
            workload::commit(&local, n).unwrap();
            child::report(&n.to_string());
            if random.below(50) == 0 {
                local.sync().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Runs one child to its death. Returns the last commit that was acknowledged.
fn run(dir: &Path, seed: u64, crash_point: Option<&str>, kill_after: u64) -> u64 {
    let (acknowledged, mut worker) = run_to_end(dir, seed, crash_point, kill_after);
    worker.expect_killed(&format!("seed {seed}, crash point {crash_point:?}"));
    acknowledged
}

/// Runs one child until it is silent.
fn run_to_end(dir: &Path, seed: u64, crash_point: Option<&str>, kill_after: u64) -> (u64, Worker) {
    let mut worker = Worker::start(CHILD, dir, seed, crash_point);
    let (mut acknowledged, mut reports) = (0, 0);
    while let Some(report) = worker.next() {
        acknowledged = report.parse().unwrap_or(acknowledged);
        reports += 1;
        if reports == kill_after {
            worker.kill();
        }
    }
    (acknowledged, worker)
}

fn check(dir: &Path, acknowledged: u64, context: &str) {
    let local = open(dir);
    let found = workload::check(&local, context);
    assert!(found >= acknowledged, "{context}: {found} left of {acknowledged}");
    // And life goes on.
    workload::commit(&local, found + 1).unwrap();
    workload::check(&local, context);
}

#[test]
fn a_kill_at_a_random_moment_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..12 {
        let kill_after = 1 + Random(seed).below(1500);
        let acknowledged = run(dir.path(), seed, None, kill_after);
        check(dir.path(), acknowledged, &format!("seed {seed}"));
    }
}

#[test]
fn a_kill_at_each_step_loses_nothing_acknowledged() {
    let points = [
        "journal-torn",
        "journal-appended",
        "journal-rolled",
        "journal-sync",
        "journal-synced",
        "apply-synced",
        "apply-written",
        "apply-flushed",
        "sweep-delete",
        "sweep-deleted",
        "cache-appended",
        "cache-evicted",
        "cache-cleared",
    ];
    for (seed, point) in points.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        for generation in 0..3 {
            let pass = 1 + Random(seed as u64 * 3 + generation).below(9);
            let point = format!("{point}:{pass}");
            let acknowledged = run(dir.path(), generation, Some(&point), u64::MAX);
            check(dir.path(), acknowledged, &format!("{point}, generation {generation}"));
        }
    }
}

#[test]
fn a_kill_during_recovery_loses_nothing() {
    // What there must be to recover: records that RocksDB lacks, or a frame that the index lacks.
    let (records, frame) = ("apply-synced:3", "cache-appended:50");
    for (point, before) in [
        ("journal-cut", records),
        ("replay-flushed", records),
        ("cache-indexed", frame),
        ("local-opened", records),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = 0;
        let mut deaths = 0;
        for seed in 0..12 {
            acknowledged = acknowledged.max(run(dir.path(), seed, Some(before), u64::MAX));
            let (newer, mut worker) = run_to_end(dir.path(), seed, Some(point), u64::MAX);
            if worker.was_killed() {
                assert_eq!(newer, 0, "{point}: before the first commit");
                deaths += 1;
            }
            // A frame that was there before, under another place that the index has, needs none.
            acknowledged = acknowledged.max(newer);
            if deaths == 3 {
                break;
            }
        }
        assert_eq!(deaths, 3, "{point}: recoveries that were killed, of twelve");
        check(dir.path(), acknowledged, &format!("after recoveries that were killed at {point}"));
    }
}
