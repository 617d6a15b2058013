use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;

/// Longest time that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let clock = SystemClock::new();
    while !is_so() {
        assert!(clock.monotonic() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A connection: the governor's descriptor, and its other end.
fn connection() -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), theirs)
}

fn cores() -> usize {
    Standing::current().unwrap().cores.iter().count()
}

/// A line of `/proc/self/task/N/status`.
fn status(thread: ThreadId, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/self/task/{}/status", thread.0)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

/// A thread until it is dropped.
struct Worker {
    thread: Option<JoinHandle<()>>,
    id: ThreadId,
    is_over: Arc<AtomicBool>,
}

impl Worker {
    fn new(begin: impl FnOnce() + Send + 'static, pass: fn()) -> Worker {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, (tell, told)) = (Arc::clone(&is_over), std::sync::mpsc::channel());
        let run = move || {
            begin();
            tell.send(ThreadId::current()).unwrap();
            while !over.load(Ordering::Relaxed) {
                pass();
            }
        };
        let thread = thread::spawn(run);
        Worker { thread: Some(thread), id: told.recv().unwrap(), is_over }
    }

    /// Serves and sleeps: it can't starve, and so stays lowered on a busy machine too.
    fn sleeping(governor: &Arc<Governor>) -> Worker {
        let governor = Arc::clone(governor);
        Worker::new(move || governor.enlist(), thread::park)
    }

    /// Serves and computes without end.
    fn computing(governor: &Arc<Governor>) -> Worker {
        let governor = Arc::clone(governor);
        Worker::new(move || governor.enlist(), std::hint::spin_loop)
    }

    fn standing(&self) -> Standing {
        Standing::of(self.id).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

#[test]
fn workers_are_lowered_once_requests_come_each_on_its_core_and_plain_at_the_end() {
    let plain = Standing::current().unwrap();
    let governor = Arc::new(Governor::default());
    let (fd, mut requests) = connection();
    governor.start(vec![Requests::Device(fd)], cores()).unwrap();
    let workers: Vec<_> = (0..cores()).map(|_| Worker::sleeping(&governor)).collect();
    assert_eq!(governor.threads(), workers.iter().map(|worker| worker.id).collect::<Vec<_>>());
    for worker in &workers {
        assert_eq!(worker.standing(), plain, "nobody is lowered while nobody watches");
    }
    requests.write_all(b"r").unwrap();
    for (worker, core) in workers.iter().zip(plain.cores.iter()) {
        let lowered = Standing { class: Class::IDLE, cores: Cores::only(core).unwrap() };
        wait_until("the worker is lowered", || worker.standing() == lowered);
    }
    governor.stop();
    for worker in &workers {
        assert_eq!(worker.standing(), plain);
    }
}

#[test]
fn with_fewer_workers_than_cores_they_may_run_anywhere() {
    let plain = Standing::current().unwrap();
    if cores() < 2 {
        return;
    }
    let governor = Arc::new(Governor::default());
    let (fd, mut requests) = connection();
    governor.start(vec![Requests::Device(fd)], cores() - 1).unwrap();
    let worker = Worker::sleeping(&governor);
    requests.write_all(b"r").unwrap();
    let lowered = Standing { class: Class::IDLE, cores: plain.cores };
    wait_until("the worker is lowered", || worker.standing() == lowered);
}

#[test]
fn a_worker_that_starves_is_promoted_and_counted() {
    let plain = Standing::current().unwrap();
    let core = plain.cores.iter().next().unwrap();
    let governor = Arc::new(Governor::default());
    let (fd, mut requests) = connection();
    governor.start(vec![Requests::Device(fd)], cores()).unwrap();
    let worker = Worker::computing(&governor);
    // On the first worker's core.
    let here = Standing { cores: Cores::only(core).unwrap(), ..plain };
    let _busy = Worker::new(move || here.take(), std::hint::spin_loop);
    requests.write_all(b"r").unwrap();
    wait_until("it starves and is cured", || governor.promotions() > 0);
    wait_until("it is like any other", || worker.standing() == plain);
}

#[test]
fn one_that_serves_a_cores_queue_stays_there_when_it_is_cured_and_at_the_end() {
    let plain = Standing::current().unwrap();
    let core = plain.cores.iter().next().unwrap();
    let here = Standing { cores: Cores::only(core).unwrap(), ..plain };
    let governor = Arc::new(Governor::default());
    let (fd, mut requests) = connection();
    governor.start(vec![Requests::Device(fd)], cores()).unwrap();
    let worker = Worker::new(move || here.take(), std::hint::spin_loop);
    governor.enlist_on(worker.id, core);
    let _busy = Worker::new(move || here.take(), std::hint::spin_loop);
    requests.write_all(b"r").unwrap();
    wait_until("it starves and is cured", || governor.promotions() > 0);
    wait_until("it is like any other there", || worker.standing() == here);
    governor.stop();
    assert_eq!(worker.standing(), here);
}

#[test]
fn without_requests_the_governor_sleeps_and_with_them_it_looks() {
    let governor = Governor::default();
    let (fd, mut requests) = connection();
    let mut reader = UnixStream::from(fd.try_clone().unwrap());
    governor.start(vec![Requests::Device(fd)], cores()).unwrap();
    let id = || governor.shared.crew.lock().governor;
    wait_until("it runs", || id().is_some());
    let id = id().unwrap();
    let sleeps = || governor.shared.sleeps.load(Ordering::Relaxed);
    let switches = || status(id, "voluntary_ctxt_switches").parse::<u64>().unwrap();
    let asleep_since = |sleeps_before| {
        wait_until("it falls asleep", || sleeps() > sleeps_before);
        wait_until("it sleeps", || status(id, "State").starts_with('S'));
        switches()
    };
    let before = asleep_since(0);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(switches(), before, "an idle mount uses no CPU");
    requests.write_all(b"r").unwrap();
    wait_until("it looks", || switches() >= before + 5);
    let sleeps_before = sleeps();
    reader.read_exact(&mut [0]).unwrap();
    let before = asleep_since(sleeps_before);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(switches(), before, "and none again");
}

#[test]
fn the_end_of_the_connection_ends_the_governor_and_its_rule() {
    let governor = Arc::new(Governor::default());
    let (fd, requests) = connection();
    governor.start(vec![Requests::Device(fd)], cores()).unwrap();
    drop(requests);
    wait_until("it ends", || governor.shared.crew.lock().rule.is_none());
    let worker = Worker::sleeping(&governor);
    assert_eq!(governor.threads(), [worker.id]);
    assert!(worker.standing().class.is_shared(), "whoever comes later stays plain");
}

#[test]
fn stopping_closes_what_it_was_given() {
    let governor = Governor::default();
    let (fd, mut requests) = connection();
    governor.start(vec![Requests::Device(fd)], cores()).unwrap();
    governor.stop();
    assert_eq!(requests.read(&mut [0]).unwrap(), 0, "the other end is closed");
}

/// Takes the right to rise again from the calling thread and those that it starts.
fn give_up_priority_rights() {
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
fn where_it_is_not_permitted_threads_stay_plain() {
    let without_rights = || {
        give_up_priority_rights();
        let governor = Arc::new(Governor::default());
        let (fd, mut requests) = connection();
        let error = governor.start(vec![Requests::Device(fd)], cores()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let worker = Worker::sleeping(&governor);
        assert_eq!(governor.threads(), [worker.id]);
        assert_eq!(worker.standing(), Standing::current().unwrap());
        assert_eq!(requests.read(&mut [0]).unwrap(), 0, "nothing is kept open");
    };
    thread::spawn(without_rights).join().unwrap();
}

#[test]
fn a_class_that_was_chosen_for_the_daemon_is_respected() {
    let idle = || {
        let plain = Standing::current().unwrap();
        Standing { class: Class::IDLE, ..plain }.take();
        Governor::default().start(Vec::new(), cores()).unwrap_err().to_string()
    };
    assert!(thread::spawn(idle).join().unwrap().contains("class of its own"));
}

/// At the end of a mount its workers end as well, perhaps before the governor: each then left an
/// error in the log of a mount that had ended as it should.
#[test]
fn a_worker_that_has_ended_is_no_error() {
    use tracing_subscriber::layer::SubscriberExt as _;
    struct Errors(Arc<AtomicU64>);
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Errors {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            let is_error = *event.metadata().level() == tracing::Level::ERROR;
            self.0.fetch_add(u64::from(is_error), Ordering::Relaxed);
        }
    }
    let errors = Arc::new(AtomicU64::new(0));
    let log = tracing_subscriber::registry().with(Errors(Arc::clone(&errors)));
    tracing::subscriber::with_default(log, || {
        let thread = Worker::new(|| {}, thread::park);
        let plain = Standing::current().unwrap();
        let worker = super::worker::Worker::new(thread.id, plain, None).unwrap();
        drop(thread);
        worker.promote();
        assert_eq!(errors.load(Ordering::Relaxed), 0);
        // A core that nobody has: that is one.
        let own = ThreadId::current();
        let nowhere = Standing { cores: Cores::only(1000).unwrap(), ..plain };
        super::worker::Worker::new(own, nowhere, None).unwrap().promote();
        assert_eq!(errors.load(Ordering::Relaxed), 1);
    });
}
