//! What ends while requests are under way: a handler, the connection, the mount.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dormouse::fuse::{FuseError, Mounted};
use dormouse::remote::{Fault, FaultStore, MemoryStore, Op, When};
use dormouse::types::{Clock, SystemClock, Time};

use crate::faults::stack_with_remote_files;
use crate::harness::{Mount, Stack, checked, mount_line, options};

/// Longest time that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let clock = SystemClock::new();
    while !is_so() {
        assert!(clock.monotonic() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The machine's clock, but to ask it for the time of day is a panic while it is broken. Every
/// change of a filesystem asks.
#[derive(Debug, Default)]
struct BrokenClock {
    real: SystemClock,
    is_broken: AtomicBool,
    panics: AtomicU64,
}

impl Clock for BrokenClock {
    fn now(&self) -> Time {
        if self.is_broken.load(Ordering::SeqCst) {
            self.panics.fetch_add(1, Ordering::SeqCst);
            panic!("a test's broken clock");
        }
        self.real.now()
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }
}

#[test]
fn a_handler_that_panics_answers_eio_and_the_mount_lives_on() {
    let clock = Arc::new(BrokenClock::default());
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let mount = Mount::of(Stack::over(store, clock.clone()), |_| {});
    mount.sh("echo text > file");
    clock.is_broken.store(true, Ordering::SeqCst);
    // More than a queue of io_uring has buffers, on each core, and what runs in the threads that
    // wait for the disk.
    mount.py(r#"
for core in os.sched_getaffinity(0):
    os.sched_setaffinity(0, {core})
    for n in range(150): fails(errno.EIO, os.mkdir, f'd{n}')
    fails(errno.EIO, os.unlink, 'file')
    fd = os.open('file', os.O_WRONLY | os.O_DSYNC)
    for n in range(20): fails(errno.EIO, os.write, fd, b'other')
"#);
    clock.is_broken.store(false, Ordering::SeqCst);
    assert!(clock.panics.load(Ordering::SeqCst) >= 171);
    assert!(!mount.mounted().has_ended());
    mount.all_answered();
    assert_eq!(
        mount.sh("mkdir d0; echo more >> file; sync file; cat file; ls"),
        "text\nmore\nd0\nfile\n"
    );
    unmount(mount.mounted());
}

/// A mount in which programs wait for a silent store, on each core, and one does not wait.
struct Waiting {
    // In this order: the store speaks before anybody waits for the end of the mount.
    readers: Vec<Child>,
    store: Arc<FaultStore>,
    mount: Mount,
}

/// What the readers do: nobody but the reader waits for a direct read, and no signal ends it.
const READ_DIRECTLY: &str = r#"
import mmap
n = int(sys.argv[1])
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[n % len(cores)]})
fd = os.open(f'remote-{n}', os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
length = os.preadv(fd, [page], 0)
print(page[:length].decode())
"#;

impl Waiting {
    fn new(count: usize) -> Waiting {
        let (stack, store) = stack_with_remote_files(count);
        store.inject(When::every(Op::Get, ""), Fault::Hang);
        let mount = Mount::of(stack, |options| options.deadline = Duration::from_secs(600));
        let read = |n: usize| mount.python(READ_DIRECTLY).arg(n.to_string()).spawn().unwrap();
        let readers = (0..count).map(read).collect();
        wait_until("all readers wait", || mount.counts().waited == count as u64);
        Waiting { readers, store, mount }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.store.heal();
    }
}

/// Unmounts. Others on this machine may look at all mounts just now, and hold this one meanwhile.
#[track_caller]
fn unmount(mounted: &Mounted) {
    wait_until("nobody looks at the mount", || match mounted.unmount(false) {
        Err(FuseError::Busy(_)) => false,
        other => other.map(|()| true).unwrap(),
    });
}

/// Python gives 1 for an error that nobody caught.
fn fails(reader: Child) {
    let output = reader.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn an_abort_ends_all_who_wait_and_the_threads_that_served_them() {
    let mut waiting = Waiting::new(24);
    let busy = waiting.mount.shell("while :; do echo x > f; cat f; rm f; done").spawn().unwrap();
    waiting.mount.mounted().abort().unwrap();
    // The store is still silent.
    waiting.readers.drain(..).for_each(fails);
    // What the shell gives depends on which of its commands met the end; `timeout` gives 124.
    let output = busy.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    waiting.store.heal();
    waiting.mount.mounted().wait();
    assert_eq!(waiting.mount.mounted().requests_in_flight(), 0);
    unmount(waiting.mount.mounted());
    assert_eq!(mount_line(waiting.mount.path()), None);
}

#[test]
fn a_forced_unmount_from_outside_ends_all_who_wait() {
    let mut waiting = Waiting::new(4);
    let path = waiting.mount.path().to_owned();
    let status = Command::new("umount").args(["-f", "-l"]).arg(&path).status().unwrap();
    assert!(status.success());
    waiting.readers.drain(..).for_each(fails);
    waiting.store.heal();
    waiting.mount.mounted().wait();
    assert_eq!(waiting.mount.mounted().requests_in_flight(), 0);
}

#[test]
fn who_waits_in_a_mount_that_was_taken_away_lazily_is_still_answered() {
    let mut waiting = Waiting::new(24);
    waiting.mount.mounted().unmount(true).unwrap();
    assert_eq!(mount_line(waiting.mount.path()), None);
    assert_eq!(waiting.mount.mounted().requests_in_flight(), 24);
    assert!(!waiting.mount.mounted().has_ended());
    waiting.store.heal();
    for (n, reader) in waiting.readers.drain(..).enumerate() {
        assert_eq!(checked(reader.wait_with_output().unwrap()), format!("content {n}\n"));
    }
    waiting.mount.mounted().wait();
}

/// A mount that the kernel has taken away while one of its requests waits for the silent store.
fn gone_with_a_request() -> (Mount, Arc<FaultStore>) {
    let (stack, store) = stack_with_remote_files(1);
    store.inject(When::every(Op::Get, ""), Fault::Hang);
    let mount = Mount::of(stack, |options| options.deadline = Duration::from_secs(600));
    let script = "os.posix_fadvise(os.open('remote-0', os.O_RDONLY), 0, 0, os.POSIX_FADV_WILLNEED)";
    mount.py(script);
    wait_until("it is read ahead", || mount.counts().waited == 1);
    // The kernel takes it away at once, whoever still answers it.
    let umount = || Command::new("umount").arg(mount.path()).status().unwrap().success();
    wait_until("nobody looks at the mount", umount);
    (mount, store)
}

#[test]
fn an_unmount_while_the_kernel_reads_ahead_for_nobody_waits_for_the_store_only() {
    let (mount, store) = gone_with_a_request();
    assert_eq!(mount_line(mount.path()), None);
    store.heal();
    mount.mounted().wait();
    assert_eq!(mount.mounted().requests_in_flight(), 0);
}

#[test]
fn an_abort_of_a_mount_that_is_gone_does_not_end_the_one_that_has_its_number_now() {
    // Another test's mount may get the number first.
    let has_met = (0..10).any(|_| {
        let (gone, store) = gone_with_a_request();
        let number = gone.mounted().connection();
        let mut others = vec![Mount::new()];
        while others[others.len() - 1].mounted().connection() < number {
            others.push(Mount::new());
        }
        let other = &others[others.len() - 1];
        let has_met = other.mounted().connection() == number;
        assert!(!gone.mounted().has_ended(), "it waits for the store");
        gone.mounted().abort().unwrap();
        other.sh("echo text > file; cat file");
        store.heal();
        gone.mounted().wait();
        has_met
    });
    assert!(has_met, "no mount got the number of another");
}

#[test]
fn what_was_unlinked_while_open_is_forgotten_when_it_is_closed() {
    let stack = Stack::new();
    let fs = Arc::clone(&stack.fs);
    let mount = Mount::of(stack, |_| {});
    mount.py(r#"
for n in range(500):
    fd = os.open(f'f{n}', os.O_RDWR | os.O_CREAT)
    os.write(fd, b'x')
    os.unlink(f'f{n}')
    os.close(fd)
"#);
    wait_until("each was forgotten", || fs.orphan_count() == 0);
    let lookups = fs.lookup_count();
    assert!(lookups < 10, "{lookups}");
}

/// Says to this test program that it runs one test, and nothing beside it.
const ALONE_VARIABLE: &str = "DORMOUSE_TEST_ALONE";

/// Runs a test of this program once more in a process of its own; false if this is that one.
fn ran_alone(test: &str) -> bool {
    if std::env::var_os(ALONE_VARIABLE).is_some() {
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture"]).env(ALONE_VARIABLE, "1");
    let output = command.output().unwrap();
    let text = checked(output);
    assert!(text.contains("1 passed"), "{text}");
    true
}

/// What the process has open, and how many threads run.
fn held() -> (Vec<PathBuf>, usize) {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut open: Vec<_> = links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect();
    open.sort();
    (open, std::fs::read_dir("/proc/self/task").unwrap().count())
}

#[test]
fn two_hundred_mounts_leave_no_descriptor_and_no_thread() {
    if ran_alone("endings::two_hundred_mounts_leave_no_descriptor_and_no_thread") {
        return;
    }
    let stack = Stack::new();
    let options = options(stack.mountpoint(), "test");
    let cycle = |number: usize| {
        let mounted = stack.mount(&options).unwrap();
        if number.is_multiple_of(20) {
            let file = mounted.mountpoint().join("file");
            let status = Command::new("touch").arg(file).status().unwrap();
            assert!(status.success());
        }
        match number % 10 {
            7 => {
                mounted.abort().unwrap();
                mounted.wait();
                unmount(&mounted);
            }
            8 => {
                mounted.unmount(true).unwrap();
                mounted.wait();
            }
            _ => unmount(&mounted),
        }
    };
    (0..10).for_each(cycle);
    let before = held();
    (10..200).for_each(cycle);
    // What ended a moment before may have been counted before, not what stays for ever.
    let is_no_more = |(open, threads): (Vec<PathBuf>, usize)| {
        open.len() <= before.0.len() && threads <= before.1
    };
    let clock = SystemClock::new();
    while !is_no_more(held()) {
        assert!(clock.monotonic() < PATIENCE, "before {before:?}, now {:?}", held());
        std::thread::sleep(Duration::from_millis(10));
    }
}
