//! A store that is slow or silent: what must wait ends in time, what is local does not wait.

use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dormouse::chunks::Fetch;
use dormouse::format::{Extent, Source};
use dormouse::fs::{At, Caller, Filesystem, PIECE_LEN, SettledRegion, Stale};
use dormouse::fuse::{self, Opcode};
use dormouse::remote::{Fault, FaultStore, MemoryStore, Op, When};
use dormouse::types::{Clock, Ino, ManualClock, Name, SystemClock};

use crate::harness::{Mount, Stack, options};

/// A filesystem whose files `remote-0`... have their content in the store only.
pub fn stack_with_remote_files(count: usize) -> (Stack, Arc<FaultStore>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = FaultStore::new(Arc::new(MemoryStore::new(Arc::clone(&clock))), 1);
    let stack = Stack::over(store.clone(), clock);
    let caller = Caller::root(Fetch::Until(Duration::from_secs(60)));
    for n in 0..count {
        let name = Name::new(format!("remote-{n}").as_bytes()).unwrap();
        let at = At { directory: Ino::ROOT, name: &name };
        let entry = stack.fs.create(&caller, at, 0o644, true).unwrap();
        stack.fs.forget(entry.ino, 1);
        let text = format!("content {n}").into_bytes();
        stack.fs.write(&caller, entry.ino, 0, &text, false).unwrap();
        settle(&stack, entry.ino, &text);
    }
    stack.local.evict_all().unwrap();
    (stack, store)
}

/// Moves a small file's bytes into the store, as the workspace does in the background.
fn settle(stack: &Stack, ino: Ino, text: &[u8]) {
    let fetch = Fetch::LocalOnly;
    let id = stack.chunks.add_chunk(text).unwrap();
    stack.chunks.flush().unwrap();
    let slot = stack.chunks.slot_of(&id).unwrap();
    let source = Source::Chunk { id, within: 0, slot };
    let region = SettledRegion {
        from: 0,
        to: PIECE_LEN,
        captured: stack.fs.extents(ino, 0..PIECE_LEN, fetch).unwrap(),
        sealed: vec![(0, Extent { len: text.len() as u64, source })],
    };
    assert_eq!(stack.fs.commit_settled(ino, &[region], Stale::Skip, fetch).unwrap(), 1);
}

#[test]
fn what_is_in_the_store_is_fetched_by_the_threads_that_may_wait() {
    let (stack, _store) = stack_with_remote_files(3);
    let mount = Mount::of(stack, |_| {});
    assert_eq!(mount.sh("cat remote-1"), "content 1");
    assert_eq!(mount.counts().waited, 1);
    assert_eq!(mount.cost("cat remote-1").of(Opcode::Read), 0, "now the kernel has it");
}

#[test]
fn a_silent_store_gives_an_error_in_time_and_local_work_goes_on() {
    let (stack, store) = stack_with_remote_files(40);
    store.inject(When::every(Op::Get, ""), Fault::Hang);
    let deadline = Duration::from_secs(6);
    let mount = Mount::of(stack, |options| {
        options.deadline = deadline;
        options.waiting_threads_max = 4;
    });
    let clock = SystemClock::new();
    // Ten times as many as may wait at once.
    let readers: Vec<Child> =
        (0..40).map(|n| mount.shell(&format!("exec cat remote-{n}")).spawn().unwrap()).collect();
    let local = mount.sh("for i in 1 2 3 4 5; do echo $i > local; cat local; done; sync local");
    assert_eq!(local, "1\n2\n3\n4\n5\n");
    assert!(clock.monotonic() < deadline, "local work waited: {:?}", clock.monotonic());
    assert!(mount.mounted().requests_in_flight() > 0, "the readers wait");
    for reader in readers {
        let output = reader.wait_with_output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("Input/output error"), "{text}");
    }
    let waited = clock.monotonic();
    assert!(waited < deadline * 3, "{waited:?}");
    assert!(mount.counts().late > 0 || mount.counts().waited >= 4, "{}", mount.counts());
    mount.all_answered();
    store.heal();
    assert_eq!(mount.sh("cat remote-7"), "content 7", "the error is not remembered");
}

#[test]
fn a_killed_reader_of_a_silent_store_does_not_stay() {
    let (stack, store) = stack_with_remote_files(1);
    store.inject(When::every(Op::Get, ""), Fault::Hang);
    let mount = Mount::of(stack, |options| options.deadline = Duration::from_secs(2));
    // `timeout` sends a signal that nobody can ignore, then waits for the reader to be gone.
    let output = mount.shell("timeout -s KILL 0.2 cat remote-0").output().unwrap();
    assert!(!output.status.success());
    mount.all_answered();
}

#[test]
fn a_killed_caller_is_gone_long_before_the_deadline() {
    let (stack, store) = stack_with_remote_files(1);
    store.inject(When::every(Op::Get, ""), Fault::Hang);
    let mount = Mount::of(stack, |options| options.deadline = Duration::from_secs(600));
    // Nobody but the reader itself waits for a direct read, and no signal ends that wait.
    let script = "import mmap\n\
                  fd = os.open('remote-0', os.O_RDONLY | os.O_DIRECT)\n\
                  os.preadv(fd, [mmap.mmap(-1, 4096)], 0)";
    let mut reader = mount.python(script).spawn().unwrap();
    while mount.counts().waited == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let clock = SystemClock::new();
    // `timeout` passes on what can be passed on, and waits for the reader.
    let timeout = nix::unistd::Pid::from_raw(i32::try_from(reader.id()).unwrap());
    nix::sys::signal::kill(timeout, nix::sys::signal::SIGTERM).unwrap();
    reader.wait().unwrap();
    assert!(clock.monotonic() < Duration::from_secs(60), "{:?}", clock.monotonic());
    store.heal();
}

/// Ends a freeze, however the test ends.
struct Thaw<'a>(&'a Filesystem);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

#[test]
fn what_killed_callers_wanted_to_change_does_not_happen_and_they_are_gone_long_before() {
    let (stack, _store) = stack_with_remote_files(0);
    let fs = Arc::clone(&stack.fs);
    let mount = Mount::of(stack, |options| options.deadline = Duration::from_secs(600));
    mount.sh("mkdir d; for i in 1 2 3 4 5 6 7 8 9; do echo old > $i; done; ls d > /dev/null");
    // As during a hibernation: every change waits. One that fails must not wait for its deadline.
    fs.freeze();
    let _thaw = Thaw(&fs);
    let changes = [
        "os.mkdir('new-dir')",
        "os.open('d/new-file', os.O_CREAT | os.O_WRONLY)",
        "os.symlink('target', 'd/link')",
        "os.unlink('1')",
        "os.rename('2', 'd/2')",
        "os.link('3', 'd/3')",
        "os.truncate('4', 1)",
        "os.chmod('5', 0o600)",
        "os.setxattr('6', 'user.a', b'x')",
        "os.pwrite(os.open('7', os.O_WRONLY), b'new', 0)",
        "os.utime('8', (1, 1))",
        "os.posix_fallocate(os.open('9', os.O_WRONLY), 0, 100000)",
    ];
    let mut callers: Vec<Child> = Vec::new();
    for (change, number) in changes.iter().zip(1..) {
        // `timeout` would be a process between.
        let mut child = mount.direct_python(change).stderr(Stdio::piped()).spawn().unwrap();
        // Those in flight are more for a moment, while a name is looked up.
        while mount.counts().waited < number {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                child.stderr.unwrap().read_to_string(&mut said).unwrap();
                panic!("{change} did not wait: {status}, {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // One after the other: the kernel lets only one into a directory.
        child.kill().unwrap();
        callers.push(child);
    }
    let clock = SystemClock::new();
    for (mut caller, change) in callers.into_iter().zip(changes) {
        while caller.try_wait().unwrap().is_none() {
            assert!(clock.monotonic() < Duration::from_secs(60), "{change}: its caller stays");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    fs.thaw();
    mount.all_answered();
    let found = mount.sh("ls; ls d; cat 1 2 3 4 5 6 7 8 9; getfattr -d 6; stat -c %a,%h,%s 3 5 9");
    let olds = "old\n".repeat(9);
    let stats = "644,1,4\n".repeat(3);
    assert_eq!(found, format!("1\n2\n3\n4\n5\n6\n7\n8\n9\nd\n{olds}{stats}"));
    // And the kernel believes nothing else.
    mount.sh("mkdir new-dir; echo new > d/new-file; rm 1; mv 2 d; ln 3 d; cat d/2 d/3 d/new-file");
}

#[test]
fn more_waiting_requests_than_there_is_room_for_are_answered_at_once() {
    let (stack, store) = stack_with_remote_files(12);
    store.inject(When::every(Op::Get, ""), Fault::Hang);
    let mount = Mount::of(stack, |options| {
        options.deadline = Duration::from_secs(20);
        options.waiting_threads_max = 1;
        options.waiting_requests_max = 2;
    });
    let clock = SystemClock::new();
    let waiting = mount.py(r#"
readers = [subprocess.Popen(["cat", f"remote-{n}"], stderr=subprocess.PIPE) for n in range(12)]
time.sleep(2)
print(sum(1 for r in readers if r.poll() is None), flush=True)
for r in readers: r.kill()
os._exit(0)
"#);
    let waiting: usize = waiting.trim().parse().unwrap();
    assert!((1..=3).contains(&waiting), "{waiting} still wait");
    assert!(clock.monotonic() < Duration::from_secs(15));
    store.heal();
}

#[test]
fn many_that_wait_on_one_core_hold_up_nobody_there() {
    let (stack, store) = stack_with_remote_files(60);
    store.inject(When::every(Op::Get, ""), Fault::Hang);
    let mount = Mount::of(stack, |options| options.deadline = Duration::from_secs(600));
    // More than a queue of io_uring has buffers for.
    let mut waits = mount.python(
        r#"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
readers = [subprocess.Popen(['cat', f'remote-{n}'], stderr=subprocess.PIPE) for n in range(60)]
sys.stdin.read()
for reader in readers: reader.kill()
os._exit(0)
"#,
    );
    let mut waits = waits.stdin(std::process::Stdio::piped()).spawn().unwrap();
    while mount.mounted().requests_in_flight() < 60 {
        std::thread::sleep(Duration::from_millis(10));
    }
    mount.py(r#"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for n in range(50):
    with open(f'local-{n}', 'w') as file: file.write('text')
    assert os.stat(f'local-{n}').st_size == 4
    os.unlink(f'local-{n}')
"#);
    // One that was just answered may still be counted.
    assert!(mount.mounted().requests_in_flight() >= 60, "they still wait");
    store.heal();
    drop(waits.stdin.take());
    waits.wait().unwrap();
}

#[test]
fn a_mount_that_does_not_answer_is_aborted() {
    let (stack, store) = stack_with_remote_files(1);
    store.inject(When::every(Op::Get, ""), Fault::Hang);
    // The mount's clock stands still until it leaps; the store's wait goes by the real one.
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(30));
    let mut options = options(stack.mountpoint(), "test");
    options.deadline = Duration::from_secs(4);
    let mounted = fuse::mount(Arc::clone(&stack.fs), &options, clock.clone()).unwrap();
    let mountpoint = mounted.mountpoint().to_owned();
    let child = std::process::Command::new("timeout")
        .args(["60", "cat"])
        .arg(mountpoint.join("remote-0"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while mounted.request_counts().waited == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    clock.advance(options.deadline * 3);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_abort = ["not connected", "connection abort"].iter().any(|part| text.contains(part));
    assert!(is_abort, "{text}");
    store.heal();
    mounted.wait();
    mounted.unmount(false).unwrap();
}

#[test]
fn writers_that_wait_for_room_keep_no_reader_waiting_and_end_in_time_killed_or_not() {
    let (stack, _store) = stack_with_remote_files(2);
    let fs = Arc::clone(&stack.fs);
    // Somebody makes room, and never gets anywhere in time.
    fs.serve_room(true);
    fs.set_admission(Duration::ZERO, 0);
    let mount = Mount::of(stack, |options| {
        options.deadline = Duration::from_secs(20);
        options.waiting_threads_max = 4;
    });
    let clock = SystemClock::new();
    let mut writers: Vec<Child> = (0..12)
        .map(|n| mount.shell(&format!("exec dd if=/dev/zero of=w{n} bs=4k count=1")).spawn())
        .map(Result::unwrap)
        .collect();
    while !fs.wait_for_room_wanted(Duration::from_millis(10)) {
        assert!(clock.monotonic() < Duration::from_secs(15), "nobody writes");
    }
    assert_eq!(mount.sh("cat remote-1"), "content 1");
    assert!(!fs.is_room_stuck(), "the reader waited as long as the writers");
    writers[0].kill().unwrap();
    for writer in writers {
        assert!(!writer.wait_with_output().unwrap().status.success());
    }
    // Whoever comes now is told at once; and when there is room, all is as before.
    assert!(fs.is_room_stuck());
    mount.sh("! echo x > y");
    fs.set_admission(Duration::ZERO, u64::MAX);
    assert_eq!(mount.sh("echo x > y; cat y remote-0"), "x\ncontent 0");
}
