//! How the threads that serve a mount are scheduled.

use std::process::{Child, Command};
use std::time::Duration;

use dormouse::fuse::{Scheduling, TransportChoice};
use dormouse::types::{Class, Clock, Cores, Standing, SystemClock, ThreadId};

use crate::harness::{Mount, transport};

/// Longest time that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

fn plain() -> Standing {
    Standing::current().unwrap()
}

fn cores() -> usize {
    plain().cores.iter().count()
}

fn governed() -> Mount {
    Mount::with(|options| {
        options.scheduling = Scheduling::Auto;
        options.threads = cores();
    })
}

/// Makes requests until `is_so`: what is seen may be undone a moment later on a busy machine.
fn serve_until(mount: &Mount, what: &str, is_so: impl Fn() -> bool) {
    let clock = SystemClock::new();
    while !is_so() {
        assert!(clock.monotonic() < PATIENCE, "not in time: {what}");
        mount.py("[os.path.lexists(f'missing-{time.time_ns()}') for i in range(100)]");
    }
}

fn standing(thread: ThreadId) -> Standing {
    Standing::of(thread).unwrap()
}

#[test]
fn serving_threads_yield_to_everybody_each_on_its_core() {
    let clock = SystemClock::new();
    loop {
        let mount = governed();
        let threads = || mount.mounted().serving_threads();
        serve_until(&mount, "every thread has served", || threads().len() >= cores());
        let is_lowered = |(thread, core): (ThreadId, usize)| {
            let lowered = Standing { class: Class::IDLE, cores: Cores::only(core).unwrap() };
            standing(thread) == lowered
        };
        // The next looks lower them.
        std::thread::sleep(Duration::from_millis(50));
        if threads().into_iter().zip(plain().cores.iter()).all(is_lowered) {
            return;
        }
        // On a busy machine one may have starved already, and stays plain until its core is
        // free: another mount, other threads.
        assert!(clock.monotonic() < PATIENCE, "not in time: all threads are lowered");
    }
}

#[test]
fn threads_that_wait_for_the_disk_or_the_store_do_not_yield() {
    let mount = governed();
    // A sync runs on a thread that waits, and these are its names.
    serve_until(&mount, "a serving thread is or was lowered", || {
        mount.sh("echo x > file; sync file");
        let threads = mount.mounted().serving_threads();
        let is_lowered = |thread| standing(thread).class == Class::IDLE;
        threads.into_iter().any(is_lowered) || mount.mounted().promotions() > 0
    });
    let mut waiting = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("dormouse-disk") || name.starts_with("dormouse-store") {
            let thread = ThreadId(task.file_name().to_str().unwrap().parse().unwrap());
            // A thread of another test's mount may be gone.
            if let Ok(standing) = Standing::of(thread) {
                assert_eq!(standing, plain(), "{name}");
                waiting += 1;
            }
        }
    }
    assert!(waiting >= 2);
}

#[test]
fn scheduling_can_be_left_alone() {
    let mount = Mount::with(|options| options.scheduling = Scheduling::Plain);
    let threads = || mount.mounted().serving_threads();
    serve_until(&mount, "every thread has served", || threads().len() >= cores().max(2));
    are_plain(threads());
    assert_eq!(mount.mounted().promotions(), 0);
}

#[track_caller]
fn are_plain(threads: Vec<ThreadId>) {
    for (thread, core) in threads.into_iter().zip(plain().cores.iter()) {
        // With io_uring each has a core's queue to serve, and stays there.
        let own = Cores::only(core).unwrap();
        let cores = if transport() == TransportChoice::Uring { own } else { plain().cores };
        assert_eq!(standing(thread), Standing { cores, ..plain() });
    }
}

/// Takes the right to leave the idle class from the calling thread and those that it starts.
fn give_up_priority_rights() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const CAP_SYS_NICE: u32 = 23;
    const VERSION_3: u32 = 0x2008_0522;
    let (_, hard) = getrlimit(Resource::RLIMIT_NICE).unwrap();
    setrlimit(Resource::RLIMIT_NICE, 0, hard).unwrap();
    let mut header = [VERSION_3, 0];
    // Effective, permitted, inheritable; twice 32 bits.
    let mut sets = [0_u32; 6];
    // SAFETY: both have the length that this version asks for.
    unsafe {
        let (header, sets) = (header.as_mut_ptr(), sets.as_mut_ptr());
        assert_eq!(libc::syscall(libc::SYS_capget, header, sets), 0);
        *sets &= !(1 << CAP_SYS_NICE);
        assert_eq!(libc::syscall(libc::SYS_capset, header, sets), 0);
    }
}

#[test]
fn where_it_is_not_permitted_a_mount_works_with_plain_threads() {
    let without_rights = || {
        give_up_priority_rights();
        let mount = governed();
        let threads = || mount.mounted().serving_threads();
        serve_until(&mount, "every thread has served", || threads().len() >= cores());
        are_plain(threads());
        mount.sh("echo x > file; grep -q x file; sync file");
        assert_eq!(mount.mounted().promotions(), 0);
    };
    std::thread::spawn(without_rights).join().unwrap();
}

/// Programs that compute without end, twice as many as there are cores.
struct Busy(Vec<Child>);

impl Busy {
    fn new() -> Busy {
        let spin = || {
            let mut command = Command::new("timeout");
            command.args(["-s", "KILL", "200", "sh", "-c", "while :; do :; done"]);
            command.spawn().unwrap()
        };
        Busy((0..2 * cores()).map(|_| spin()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // `timeout` passes the signal on; it can't pass on KILL.
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

#[test]
fn beside_programs_that_compute_every_request_is_answered_and_starving_threads_are_cured() {
    let mount = governed();
    let _busy = Busy::new();
    mount.py("os.mkdir('d')\n\
         for i in range(300):\n\
         \x20   with open(f'd/f{i}', 'w') as f: f.write(str(i))\n\
         assert len(os.listdir('d')) == 300\n\
         for i in range(300): assert open(f'd/f{i}').read() == str(i)\n");
    let promotions = || mount.mounted().promotions();
    serve_until(&mount, "a thread that starves is cured", || promotions() > 0);
}
