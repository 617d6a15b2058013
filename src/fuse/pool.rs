//! Threads that wait, so that those that read requests never do.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long an idle thread stays.
const IDLE_SECS_MAX: u64 = 10;

/// A piece of work. Dropping it unrun must answer its request.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A bounded queue and up to a number of threads, started on demand.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    threads_max: usize,
    queue_max: usize,
    state: Mutex<State>,
    wake: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(self.name).field("threads_max", &self.threads_max).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    running: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(super) fn new(name: &'static str, threads_max: usize, queue_max: usize) -> Pool {
        let shared = Shared {
            name,
            threads_max: threads_max.max(1),
            queue_max,
            state: Mutex::default(),
            wake: Condvar::new(),
        };
        Pool { shared: Arc::new(shared) }
    }

    /// Hands a job over. Gives it back if the queue is full, the pool is closed, or no thread
    /// can be started.
    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        let mut state = self.shared.state.lock();
        if state.closed || state.queue.len() >= self.shared.queue_max {
            return Err(job);
        }
        if state.idle <= state.queue.len() && state.running < self.shared.threads_max {
            let shared = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name(shared.name.to_owned());
            match builder.spawn(move || shared.work()) {
                Ok(thread) => {
                    state.threads.retain(|thread| !thread.is_finished());
                    state.threads.push(thread);
                    state.running += 1;
                }
                Err(_) if state.running == 0 => return Err(job),
                // Those that run get to it.
                Err(_) => {}
            }
        }
        state.queue.push_back(job);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Drops what is queued, lets what runs end, and waits for it.
    pub(super) fn close(&self) {
        let (threads, unrun) = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.threads), std::mem::take(&mut state.queue))
        };
        self.shared.wake.notify_all();
        drop(unrun);
        for thread in threads {
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // The job answers with EIO while it unwinds; the thread goes on.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let late = self.wake.wait_for(&mut state, Duration::from_secs(IDLE_SECS_MAX));
            state.idle -= 1;
            if late.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let pool = Pool::new("test", 1, 1);
        let (release, gate) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        let first = Box::new(move || {
            started.send(()).unwrap();
            gate.recv().unwrap();
        });
        assert!(pool.submit(first).is_ok());
        has_started.recv().unwrap();
        assert!(pool.submit(Box::new(|| {})).is_ok(), "one may wait");
        assert!(pool.submit(Box::new(|| {})).is_err(), "a second may not");
        release.send(()).unwrap();
        pool.close();
        assert!(pool.submit(Box::new(|| {})).is_err(), "closed");
    }

    #[test]
    fn a_panicking_job_does_not_cost_the_next_one_its_thread() {
        let pool = Pool::new("test", 1, 8);
        let done = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&done);
        assert!(pool.submit(Box::new(|| panic!("expected by this test"))).is_ok());
        let (sent, received) = mpsc::channel();
        let job = Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            sent.send(()).unwrap();
        });
        assert!(pool.submit(job).is_ok());
        received.recv_timeout(Duration::from_secs(10)).unwrap();
        pool.close();
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn jobs_that_wait_run_beside_each_other() {
        let pool = Pool::new("test", 8, 8);
        let barrier = Arc::new(std::sync::Barrier::new(8));
        let (met, meetings) = mpsc::channel();
        for _ in 0..8 {
            let (barrier, met) = (Arc::clone(&barrier), met.clone());
            let job = Box::new(move || {
                barrier.wait();
                met.send(()).unwrap();
            });
            assert!(pool.submit(job).is_ok());
        }
        // Closing drops what did not begin: the last job must have met the others before.
        for _ in 0..8 {
            meetings.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        pool.close();
    }

    #[test]
    fn closing_drops_what_was_not_run() {
        struct Answer(mpsc::Sender<()>);
        impl Drop for Answer {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let pool = Pool::new("test", 1, 8);
        let (release, gate) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        let first = Box::new(move || {
            started.send(()).unwrap();
            gate.recv().unwrap();
        });
        assert!(pool.submit(first).is_ok());
        has_started.recv().unwrap();
        let (dropped, answers) = mpsc::channel();
        let answer = Answer(dropped);
        assert!(pool.submit(Box::new(move || drop(answer))).is_ok());
        let releaser = thread::spawn(move || {
            // The queued job is dropped while the first still runs.
            answers.recv_timeout(Duration::from_secs(10)).unwrap();
            release.send(()).unwrap();
        });
        pool.close();
        releaser.join().unwrap();
    }
}
