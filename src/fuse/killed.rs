//! Callers that are killed while their request waits: for the store, for room, for a sync.
//!
//! A killed process is only gone when its request is answered, and that may take as long as the
//! deadline. The kernel tells of signals by INTERRUPT, but once per request, of any signal,
//! and fuser does not pass it on. So callers are looked at, as long as there are any.
//!
//! A request may be given up only while nothing is left behind by it: one that changes something
//! takes its answer back before it does, and gives it here again if it must wait once more.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::Errno;
use parking_lot::Mutex;

use super::answer::Answer;

/// Time between looks.
const PAUSE: Duration = Duration::from_millis(200);

/// `SIGKILL` in a set of signals.
const KILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// Gives a request up, if it is not answered yet.
type GiveUp = Box<dyn Fn() + Send>;

/// The callers of requests that wait. Lock order: the table, then a held answer's lock.
#[derive(Default)]
pub(super) struct Callers {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiting: HashMap<u64, (u32, GiveUp)>,
    is_watched: bool,
}

impl std::fmt::Debug for Callers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callers").finish_non_exhaustive()
    }
}

impl Callers {
    /// Holds the answer of a request while it waits. `pid` is the thread that asks.
    pub(super) fn hold<A: Answer>(self: &Arc<Self>, unique: u64, pid: u32, answer: A) -> Held<A> {
        let slot = Arc::new(Mutex::new(Some(answer)));
        let given_up = Arc::clone(&slot);
        let give_up = Box::new(move || {
            if let Some(answer) = given_up.lock().take() {
                answer.fail(Errno::EINTR);
            }
        });
        self.table.lock().waiting.insert(unique, (pid, give_up));
        Held { slot, callers: Arc::clone(self), unique }
    }

    /// Looks at them until none waits any more. Not to be called by a serving thread, since the
    /// thread that is made here is scheduled like its maker.
    pub(super) fn watch(self: &Arc<Self>) {
        let mut table = self.table.lock();
        if table.is_watched || table.waiting.is_empty() {
            return;
        }
        let callers = Arc::clone(self);
        let thread = thread::Builder::new().name("dormouse-killed".to_owned());
        // Without a thread they wait for the deadline; the next one tries again.
        table.is_watched = thread.spawn(move || callers.look_until_none()).is_ok();
    }

    fn look_until_none(&self) {
        loop {
            thread::sleep(PAUSE);
            let mut table = self.table.lock();
            if table.waiting.is_empty() {
                table.is_watched = false;
                return;
            }
            let mut killed: Vec<_> =
                table.waiting.iter().map(|(&unique, &(pid, _))| (unique, pid)).collect();
            drop(table);
            // There may be thousands, and who serves needs the table.
            killed.retain(|&(_, pid)| is_killed(pid));
            if killed.is_empty() || !sees_itself() {
                continue;
            }
            let table = self.table.lock();
            for (unique, _) in killed {
                if let Some((_, give_up)) = table.waiting.get(&unique) {
                    give_up();
                }
            }
        }
    }
}

/// Whether a thread is gone, or will be as soon as it is let. One that we can't see (0) is not.
fn is_killed(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => pending(&status).is_some_and(|signals| signals & KILL_BIT != 0),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Whether `/proc` has the numbers that we are told: it may be that of another namespace.
fn sees_itself() -> bool {
    let own = fs::read_link("/proc/self");
    own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
}

/// The thread's pending signals. Whatever ends a process is `SIGKILL` to each of its threads.
fn pending(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigPnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// An answer that may be given by whoever comes first.
#[derive(Debug)]
pub(super) struct Held<A: Answer> {
    slot: Arc<Mutex<Option<A>>>,
    callers: Arc<Callers>,
    unique: u64,
}

impl<A: Answer> Held<A> {
    /// The answer, unless the request was given up.
    pub(super) fn take(&self) -> Option<A> {
        self.slot.lock().take()
    }

    /// Holds the answer that was taken once more. It must not have been answered.
    pub(super) fn put_back(&self, answer: A) {
        *self.slot.lock() = Some(answer);
    }
}

impl<A: Answer> Answer for Held<A> {
    fn fail(self, errno: Errno) {
        if let Some(answer) = self.take() {
            answer.fail(errno);
        }
    }
}

impl<A: Answer> Drop for Held<A> {
    fn drop(&mut self) {
        self.callers.table.lock().waiting.remove(&self.unique);
        // Dropped here, an answer that nobody gave is EIO.
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc;

    struct Probe(mpsc::Sender<i32>);

    impl Answer for Probe {
        fn fail(self, errno: Errno) {
            self.0.send(errno.code()).unwrap();
        }
    }

    #[test]
    fn the_request_of_a_killed_caller_is_given_up_and_no_other() {
        let callers = Arc::new(Callers::default());
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let (sender, answers) = mpsc::channel();
        let (others, other_answers) = mpsc::channel();
        let killed = callers.hold(2, child.id(), Probe(sender));
        let other = callers.hold(4, std::process::id(), Probe(others));
        callers.watch();
        child.kill().unwrap();
        child.wait().unwrap();
        let patience = Duration::from_secs(60);
        assert_eq!(answers.recv_timeout(patience), Ok(libc::EINTR));
        assert!(killed.take().is_none(), "answered once");
        assert!(other_answers.try_recv().is_err());
        other.fail(Errno::ENOENT);
        assert_eq!(other_answers.recv_timeout(patience), Ok(libc::ENOENT));
        drop(killed);
        assert!(callers.table.lock().waiting.is_empty());
    }

    #[test]
    fn pending_signals_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n";
        assert_eq!(pending(status), Some(KILL_BIT));
        assert_eq!(pending("Name:\tcat\n"), None);
        assert!(sees_itself() && !is_killed(std::process::id()));
        assert!(!is_killed(0), "a caller that can't be seen");
    }
}
