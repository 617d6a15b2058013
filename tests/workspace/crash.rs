//! `kill -9` at each step of resume, settle, seal and hibernation. The victim is this test binary
//! run again with a crash point armed; the store is a directory that both use.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dormouse::remote::{Remote, RemoteOptions};
use dormouse::types::{Clock, SystemClock};
use dormouse::workspace::{Depth, ResumeOptions, Store, VerifyOptions, Workspace};

use crate::world::{Files, checkpoint, hibernate, noise};

/// Where the victim works.
const DIR_VARIABLE: &str = "DORMOUSE_TEST_CRASH_DIR";

/// Every crash point of this layer and of the one that uploads, and those of the local layer that
/// only a seal passes; about in the order in which a run passes them. With how often a run must
/// pass each: the first time in settling or the checkpoint, the second in the hibernation.
const POINTS: &[(&str, u32)] = &[
    (AT_RESUME[0], 1),
    (AT_RESUME[1], 1),
    ("upload.begun", 2),
    ("upload.stored", 2),
    ("upload.located", 2),
    ("seal.cut", 2),
    ("seal.tree", 2),
    ("seal.flushed", 2),
    ("seal.exchanging", 1),
    ("seal.exchanged", 2),
    ("seal.before_snapshot", 2),
    ("seal.after_snapshot", 2),
    ("seal.before_swap", 2),
    ("seal.after_swap", 2),
    ("seal.rebased", 2),
    ("overlay-dropped", 2),
    ("seal.trimmed", 2),
    ("local-closed", 1),
];

/// Of these, those that a run passes before it has done anything.
const AT_RESUME: [&str; 2] = ["resume.acquired", "resume.remembered"];

struct Machine {
    clock: Arc<dyn Clock>,
    remote: Arc<Remote>,
}

impl Machine {
    fn new(dir: &Path) -> Machine {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let url = format!("file://{}", dir.join("store").display()).parse().unwrap();
        let remote = Remote::open(&url, &RemoteOptions::default(), Arc::clone(&clock)).unwrap();
        Store::init(Arc::clone(&remote), &*clock).unwrap();
        Machine { clock, remote }
    }

    fn resume(&self, dir: &Path, cache: &str) -> Workspace {
        let mut options = ResumeOptions::new("w".parse().unwrap(), dir.join(cache));
        options.create = true;
        options.upkeep.threads = false;
        Workspace::resume(Arc::clone(&self.remote), Arc::clone(&self.clock), &options).unwrap()
    }

    /// Whatever a kill leaves in the store is sound.
    fn verify(&self, dir: &Path, point: &str) {
        assert_sound(&Store::open(Arc::clone(&self.remote)).unwrap(), dir, point);
    }

    fn files(&self, workspace: &Workspace) -> Files {
        Files { fs: workspace.fs(), clock: Arc::clone(&self.clock) }
    }
}

/// Nothing in the store is damaged.
pub fn assert_sound(store: &Store, scratch: &Path, when: &str) {
    let options = VerifyOptions {
        workspace: None,
        snapshot: None,
        depth: Depth::Full,
        jobs: 1,
        paths_max: 10,
        scratch: scratch.to_owned(),
    };
    let report = store.verify(&options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.sound, "{when}: {:?}", report.problems);
}

/// What a run of the victim does: each round leaves a file that names it, and rewrites others.
fn work(files: &Files, round: u64) {
    files.write(&format!("round{round}"), &noise(round, 30_000));
    let large = files.write("large", b"");
    files.write_at(large, round * 200_000, &noise(50 + round, 350_000));
    for i in 0..20 {
        files.write(&format!("n{}", (round * 7 + i) % 40), &noise(round * 100 + i, 500));
    }
    if round > 0 {
        files.unlink(&format!("n{}", round * 7 % 40));
    }
    files.fs.fsync(&files.caller(), large).unwrap();
}

/// The files that rounds rewrite are byte for byte what so many rounds of `work` make of nothing.
fn assert_work(files: &Files, rounds: u64, point: &str) {
    let (mut large, mut small) = (Vec::new(), BTreeMap::new());
    for round in 0..rounds {
        let (at, data) = (round as usize * 200_000, noise(50 + round, 350_000));
        large.resize(large.len().max(at + data.len()), 0);
        large[at..at + data.len()].copy_from_slice(&data);
        for i in 0..20 {
            small.insert((round * 7 + i) % 40, noise(round * 100 + i, 500));
        }
        if round > 0 {
            small.remove(&(round * 7 % 40));
        }
    }
    if rounds > 0 {
        assert!(files.read("large") == large, "{point}: large");
    }
    for number in 0..40 {
        let path = format!("n{number}");
        let found = files.find(&path).map(|ino| files.read_ino(ino));
        assert!(found.as_ref() == small.get(&number), "{point}: {path}");
    }
}

#[test]
#[ignore = "the victim of the other tests"]
fn victim() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return };
    let dir = Path::new(&dir);
    let machine = Machine::new(dir);
    let workspace = machine.resume(dir, "a");
    let files = machine.files(&workspace);
    let round = (0..).find(|round| files.find(&format!("done{round}")).is_none()).unwrap();
    work(&files, round);
    files.write(&format!("done{round}"), b"");
    files.fs.fsync(&files.caller(), dormouse::types::Ino::ROOT).unwrap();
    workspace.settle(true).unwrap();
    checkpoint(&workspace).unwrap();
    files.write("last", &noise(round, 100_000));
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
}

/// Runs the victim; true if it was killed, false if it ended well.
fn run_victim(dir: &Path, point: &str) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::victim", "--ignored", "--test-threads=1"])
        .env(DIR_VARIABLE, dir)
        .env("DORMOUSE_CRASH_POINT", point)
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    match (output.status.signal(), output.status.success()) {
        (Some(libc::SIGKILL), _) => true,
        (None, true) => false,
        _ => panic!("{point}: {}", String::from_utf8_lossy(&output.stdout)),
    }
}

/// After a crash the directory goes on; what it shows is what the same work shows elsewhere.
fn check(dir: &Path, rounds: u64, point: &str) {
    let machine = Machine::new(dir);
    let workspace = machine.resume(dir, "a");
    let files = machine.files(&workspace);
    for round in 0..rounds {
        assert!(files.find(&format!("done{round}")).is_some(), "{point}: round {round}");
        assert!(files.read(&format!("round{round}")) == noise(round, 30_000), "{point}");
    }
    assert_work(&files, rounds, point);
    let before = files.facts();
    let sealed = hibernate(&workspace).unwrap();
    assert!(sealed.released);
    assert_eq!(files.facts(), before, "{point}: after the seal");
    workspace.close().unwrap();
    drop((files, workspace));
    let elsewhere = machine.resume(dir, &format!("check-{point}-{rounds}"));
    assert_eq!(machine.files(&elsewhere).facts(), before, "{point}: on an empty cache");
    hibernate(&elsewhere).unwrap();
    elsewhere.close().unwrap();
    machine.verify(dir, point);
}

#[test]
fn a_kill_at_any_step_loses_nothing_and_the_next_mount_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut rounds = 0;
    for (point, passes) in POINTS {
        let at_resume = AT_RESUME.contains(point);
        for pass in 1..=*passes {
            assert!(run_victim(dir.path(), &format!("{point}:{pass}")), "{point}:{pass}");
            rounds += u64::from(!at_resume);
            check(dir.path(), rounds, &format!("{point}-{pass}"));
        }
    }
    assert!(!run_victim(dir.path(), "no.such.point"));
    check(dir.path(), rounds + 1, "none");
}

#[test]
fn kills_in_a_row_without_a_clean_seal_between_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let points = POINTS.iter().map(|(point, _)| point).filter(|point| !AT_RESUME.contains(point));
    let points: Vec<_> = points.collect();
    for (i, point) in points.iter().enumerate() {
        assert!(run_victim(dir.path(), point), "{point}");
        let machine = Machine::new(dir.path());
        let workspace = machine.resume(dir.path(), "a");
        let files = machine.files(&workspace);
        for round in 0..=i {
            assert!(files.find(&format!("done{round}")).is_some(), "{point}: round {round}");
        }
        machine.verify(dir.path(), point);
    }
    check(dir.path(), points.len() as u64, "all");
}
