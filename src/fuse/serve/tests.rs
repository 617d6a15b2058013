use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::chunks::{ChunkOptions, Chunks};
use crate::format::HashKeys;
use crate::fs::{FsOptions, Missing};
use crate::local::{Local, LocalOptions};
use crate::namespace::{Base, Counters, Namespace};
use crate::remote::{MemoryStore, Remote, RemoteOptions};
use crate::tree::Tree;
use crate::types::{Clock, SystemClock};

/// What an answer became: the value, or the errno; -1 if it was dropped unanswered, which
/// fuser's replies turn into `EIO`.
type Outcome = i32;

/// An answer like fuser's.
struct Probe(Option<Sender<Outcome>>);

impl Probe {
    fn new() -> (Probe, Receiver<Outcome>) {
        let (sender, receiver) = mpsc::channel();
        (Probe(Some(sender)), receiver)
    }

    fn send(mut self, outcome: Outcome) {
        self.0.take().unwrap().send(outcome).unwrap();
    }
}

impl Answer for Probe {
    fn fail(self, errno: Errno) {
        self.send(errno.code());
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(-1);
        }
    }
}

struct Bench {
    server: Server,
    _directory: TempDir,
}

fn bench(change: impl FnOnce(&mut MountOptions)) -> Bench {
    let directory = TempDir::new().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let local = Local::open(directory.path(), &LocalOptions::default(), Arc::clone(&clock));
    let local = Arc::new(local.unwrap());
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    let remote = Remote::from_store(store, &RemoteOptions::default(), Arc::clone(&clock)).unwrap();
    let keys = HashKeys::new(&[1; 32]);
    let (options, chunk_clock) = (ChunkOptions::default(), Arc::clone(&clock));
    let chunks = Chunks::new(Arc::clone(&local), remote, keys.clone(), options, chunk_clock);
    let base = Base { tree: Tree::empty(Arc::clone(&chunks)), next_ino: Ino(2) };
    let counters = Counters { inodes: 0, bytes: 0 };
    let namespace = Namespace::open(Arc::clone(&local), base, keys, counters).unwrap();
    let fs_options = FsOptions::default();
    let fs = Filesystem::new(Arc::new(namespace), chunks, local, &fs_options, Arc::clone(&clock));
    let mut options = MountOptions::new("/nowhere", "test");
    change(&mut options);
    Bench { server: Server::new(fs, &options, Parts::new(clock)), _directory: directory }
}

fn call(unique: u64) -> Call {
    Call::new(Origin { unique, uid: 0, gid: 0, pid: 0 }, Opcode::Read, Ino(1))
}

fn missing() -> FsError {
    FsError::NotLocal(Missing::Content)
}

fn outcome(answers: &Receiver<Outcome>) -> Outcome {
    let outcome = answers.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(answers.recv_timeout(Duration::from_millis(20)).is_err(), "answered twice");
    outcome
}

#[test]
fn what_is_local_is_answered_on_the_same_thread() {
    let bench = bench(|_| {});
    let (probe, answers) = Probe::new();
    let here = std::thread::current().id();
    bench.server.serve(
        call(2),
        probe,
        move |_, caller, _| {
            assert_eq!(std::thread::current().id(), here);
            assert_eq!(caller.fetch, Fetch::LocalOnly);
            Ok(7)
        },
        |value, probe| probe.send(value),
    );
    assert_eq!(answers.try_recv(), Ok(7));
    assert_eq!(bench.server.parts.in_flight.len(), 0);
}

#[test]
fn what_must_wait_is_tried_again_elsewhere_with_a_deadline() {
    let bench = bench(|_| {});
    let (probe, answers) = Probe::new();
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tries);
    bench.server.serve(
        call(2),
        probe,
        move |_, caller, _| match (counter.fetch_add(1, Ordering::SeqCst), caller.fetch) {
            (0, Fetch::LocalOnly) | (1, Fetch::Until(_)) => Err(missing()),
            (_, Fetch::Until(_)) => Ok(9),
            (_, other) => panic!("tried again with {other:?}"),
        },
        |value, probe| probe.send(value),
    );
    assert_eq!(outcome(&answers), 9);
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    assert_eq!(bench.server.parts.counters.read().waited, 1);
}

#[test]
fn a_panic_answers_and_the_next_request_is_served() {
    let bench = bench(|_| {});
    for fetch in [Fetch::LocalOnly, Fetch::Until(Duration::ZERO)] {
        let (probe, answers) = Probe::new();
        let is_local = fetch == Fetch::LocalOnly;
        bench.server.serve(
            call(2),
            probe,
            move |_, caller, _| {
                if !is_local && caller.fetch == Fetch::LocalOnly {
                    return Err(missing());
                }
                panic!("expected by this test")
            },
            |(), probe| probe.send(0),
        );
        assert_eq!(outcome(&answers), -1, "dropped: fuser answers EIO");
    }
    let (probe, answers) = Probe::new();
    bench.server.serve(call(4), probe, |_, _, _| Ok(1), |value, probe| probe.send(value));
    assert_eq!(outcome(&answers), 1);
    bench.server.close();
    assert_eq!(bench.server.parts.in_flight.len(), 0);
}

#[test]
fn what_is_never_there_is_answered_with_eio_at_the_deadline() {
    let bench = bench(|options| options.deadline = Duration::from_millis(50));
    let (probe, answers) = Probe::new();
    let run = |_: &Filesystem, caller: &Caller, _: &mut Probe| -> Result<(), FsError> {
        if caller.fetch != Fetch::LocalOnly {
            std::thread::sleep(Duration::from_millis(30));
        }
        Err(missing())
    };
    bench.server.serve(call(2), probe, run, |(), probe| probe.send(0));
    assert_eq!(outcome(&answers), libc::EIO);
    assert_eq!(bench.server.parts.counters.read().late, 1);
}

#[test]
fn those_that_find_no_room_to_wait_are_answered_at_once() {
    let bench = bench(|options| {
        options.waiting_threads_max = 1;
        options.waiting_requests_max = 1;
    });
    let (release, gate) = crossbeam_channel::bounded::<()>(0);
    let (started, has_started) = mpsc::channel();
    let wait = move |_: &Filesystem, caller: &Caller, _: &mut Probe| {
        if caller.fetch == Fetch::LocalOnly {
            return Err(missing());
        }
        started.send(()).unwrap();
        gate.recv().unwrap();
        Ok(3)
    };
    let mut waiting = Vec::new();
    for n in 0..3 {
        let (probe, answers) = Probe::new();
        bench.server.serve(call(2 * n + 2), probe, wait.clone(), |value, probe| probe.send(value));
        waiting.push(answers);
        if n == 0 {
            has_started.recv().unwrap();
        }
    }
    assert_eq!(waiting[2].try_recv(), Ok(-1), "no room for the third");
    for answers in &waiting[..2] {
        release.send(()).unwrap();
        assert_eq!(outcome(answers), 3);
    }
}

#[test]
fn a_sync_does_not_wait_behind_the_store() {
    let bench = bench(|options| options.waiting_threads_max = 1);
    let (release, gate) = crossbeam_channel::bounded::<()>(0);
    let (probe, remote) = Probe::new();
    bench.server.serve(
        call(2),
        probe,
        move |_, caller, _| match caller.fetch {
            Fetch::LocalOnly | Fetch::Within(_) => Err(missing()),
            Fetch::Until(_) => gate.recv().map(|()| 1).map_err(|_| FsError::TimedOut),
        },
        |value, probe| probe.send(value),
    );
    let (probe, sync) = Probe::new();
    bench.server.serve_sync(call(4), probe, |_, _, _| Ok(2), |value, probe| probe.send(value));
    assert_eq!(outcome(&sync), 2);
    release.send(()).unwrap();
    assert_eq!(outcome(&remote), 1);
}

#[test]
fn closing_answers_what_did_not_begin() {
    let bench = bench(|options| options.waiting_threads_max = 1);
    let (started, has_started) = mpsc::channel();
    let run = move |_: &Filesystem, caller: &Caller, _: &mut Probe| {
        if caller.fetch == Fetch::LocalOnly {
            return Err(missing());
        }
        started.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    let (probe, first) = Probe::new();
    bench.server.serve(call(2), probe, run.clone(), |(), probe| probe.send(0));
    has_started.recv().unwrap();
    let (probe, second) = Probe::new();
    bench.server.serve(call(4), probe, run, |(), probe| probe.send(0));
    bench.server.close();
    assert_eq!(outcome(&first), 0, "what had begun ended well");
    assert_eq!(outcome(&second), -1);
}

#[test]
fn what_a_killed_caller_asked_for_is_answered_at_once_and_taken_back_when_it_is_there() {
    let bench = bench(|_| {});
    let mut caller = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let origin = Origin { unique: 2, uid: 0, gid: 0, pid: caller.id() };
    let (probe, answers) = Probe::new();
    let (begun, has_begun) = mpsc::channel();
    let (found, finding) = mpsc::channel::<i32>();
    let (undone, undoing) = mpsc::channel();
    bench.server.serve_undoable(
        Call::new(origin, Opcode::Lookup, Ino(1)),
        probe,
        move |_, caller| {
            if caller.fetch == Fetch::LocalOnly {
                return Err(missing());
            }
            begun.send(()).unwrap();
            Ok(finding.recv().unwrap())
        },
        |value, probe| probe.send(value),
        move |_, value| undone.send(value).unwrap(),
    );
    has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert_eq!(answers.recv_timeout(Duration::from_secs(60)), Ok(libc::EINTR));
    found.send(7).unwrap();
    assert_eq!(undoing.recv_timeout(Duration::from_secs(60)), Ok(7));
    assert!(answers.try_recv().is_err(), "answered once");
}

/// Waits until nothing is under way any more.
fn settled(server: &Server) {
    let clock = SystemClock::new();
    while server.parts.in_flight.len() > 0 {
        assert!(clock.monotonic() < Duration::from_secs(60), "a request is under way for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_change_whose_caller_is_killed_while_it_waits_does_not_happen() {
    let bench = bench(|_| {});
    // Somebody makes room, one day.
    bench.server.fs.serve_room(true);
    let mut caller = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let origin = Origin { unique: 2, uid: 0, gid: 0, pid: caller.id() };
    let (probe, answers) = Probe::new();
    let (tries, tried) = mpsc::channel();
    let lacks_room = || FsError::NotLocal(Missing::Room(crate::fs::Lack::Budget));
    bench.server.serve(
        Call::new(origin, Opcode::MkDir, Ino(1)),
        probe,
        move |_, caller, _| {
            tries.send(caller.fetch).unwrap();
            Err::<(), _>(lacks_room())
        },
        |(), probe| probe.send(0),
    );
    while !bench.server.fs.wait_for_room_wanted(Duration::from_millis(10)) {}
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert_eq!(answers.recv_timeout(Duration::from_secs(60)), Ok(libc::EINTR));
    bench.server.fs.make_room(|| true);
    settled(&bench.server);
    assert_eq!(tried.try_iter().collect::<Vec<_>>(), [Fetch::LocalOnly], "it was tried again");
}

#[test]
fn a_change_that_must_wait_happens_with_what_is_here_when_that_has_come() {
    let bench = bench(|_| {});
    bench.server.fs.serve_room(true);
    let (probe, answers) = Probe::new();
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tries);
    bench.server.serve(
        call(2),
        probe,
        move |_, caller, _| {
            assert_eq!(caller.fetch, Fetch::LocalOnly);
            match counter.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Err(FsError::NotLocal(Missing::Room(crate::fs::Lack::Disk))),
                _ => Ok(5),
            }
        },
        |value, probe| probe.send(value),
    );
    for _ in 0..2 {
        while !bench.server.fs.wait_for_room_wanted(Duration::from_millis(10)) {}
        bench.server.fs.make_room(|| true);
    }
    assert_eq!(outcome(&answers), 5);
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    // And when none can be made, it is told what it lacks.
    let (probe, answers) = Probe::new();
    bench.server.serve(
        call(4),
        probe,
        |_, _, _| Err::<(), _>(FsError::NotLocal(Missing::Room(crate::fs::Lack::Budget))),
        |(), probe| probe.send(0),
    );
    while !bench.server.fs.wait_for_room_wanted(Duration::from_millis(10)) {}
    bench.server.fs.make_room(|| false);
    assert_eq!(outcome(&answers), libc::EDQUOT);
}

#[test]
fn a_killed_caller_does_not_wait_for_a_disk_that_does_not_answer() {
    let bench = bench(|_| {});
    let mut caller = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let origin = Origin { unique: 2, uid: 0, gid: 0, pid: caller.id() };
    let (probe, answers) = Probe::new();
    let (begun, has_begun) = mpsc::channel();
    let (thaw, thawed) = mpsc::channel::<()>();
    let thawed = std::sync::Mutex::new(thawed);
    bench.server.serve_sync_alone(
        Call::new(origin, Opcode::FSync, Ino(1)),
        probe,
        move |_, _| {
            begun.send(()).unwrap();
            thawed.lock().unwrap().recv().unwrap();
            Ok(())
        },
        |(), probe| probe.send(0),
    );
    has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert_eq!(answers.recv_timeout(Duration::from_secs(60)), Ok(libc::EINTR));
    thaw.send(()).unwrap();
    settled(&bench.server);
    assert!(answers.try_recv().is_err(), "answered once");
}

#[test]
fn a_sync_that_fails_at_once_does_not_make_the_disk_a_quick_one() {
    let bench = bench(|_| {});
    for unique in 0..20 {
        let (probe, answers) = Probe::new();
        let run = |_: &Filesystem, _: &Caller| Err(FsError::NotPermitted);
        bench.server.serve_sync_alone(call(2 * unique), probe, run, |(), probe| probe.send(0));
        assert_eq!(outcome(&answers), libc::EPERM);
    }
    assert!(bench.server.pace.inline().is_none());
}
