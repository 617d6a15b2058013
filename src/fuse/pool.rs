//! Threads that wait, so that those that read requests never do.
//!
//! A thread takes its maker's scheduling, and those that submit may yield to everybody
//! ([`super::governor`]): a thread made by them might starve before its first instruction. So the
//! pool's threads make each other, and one is always ready.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::types::Standing;

/// How long an idle thread stays that is not the last one.
const IDLE_SECS_MAX: u64 = 10;

/// A piece of work. Dropping it unrun must answer its request.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A bounded queue and up to a number of threads, one from the start and more on demand.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    threads_max: usize,
    queue_max: usize,
    /// How the pool's maker is scheduled, and its threads: those who submit may be lower.
    standing: Option<Standing>,
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
    /// Of these: made, and not yet there.
    starting: usize,
    /// Of these: waiting for a job.
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(super) fn new(name: &'static str, threads_max: usize, queue_max: usize) -> Pool {
        let shared = Shared {
            name,
            threads_max: threads_max.max(1),
            queue_max,
            standing: Standing::current().ok(),
            state: Mutex::default(),
            wake: Condvar::new(),
        };
        let pool = Pool { shared: Arc::new(shared) };
        // If that fails, `submit` tries again.
        let _ = pool.shared.add_thread(&mut pool.shared.state.lock());
        pool
    }

    /// Hands a job over. Gives it back if the queue is full, the pool is closed, or no thread
    /// can be started.
    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        let mut state = self.shared.state.lock();
        if state.closed || state.queue.len() >= self.shared.queue_max {
            return Err(job);
        }
        if state.running == 0 && self.shared.add_thread(&mut state).is_err() {
            return Err(job);
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

impl Drop for Pool {
    fn drop(&mut self) {
        // Not waited for: this may be one of its threads, in its last job.
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn add_thread(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name(self.name.to_owned());
        let thread = builder.spawn(move || shared.work())?;
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        state.running += 1;
        state.starting += 1;
        Ok(())
    }

    fn work(self: &Arc<Self>) {
        if let Some(standing) = self.standing {
            standing.take();
        }
        let mut state = self.state.lock();
        state.starting -= 1;
        loop {
            if let Some(job) = state.queue.pop_front() {
                let ready = state.idle + state.starting;
                if !state.closed && ready <= state.queue.len() && state.running < self.threads_max {
                    // Without another one, those that run get to the rest.
                    let _ = self.add_thread(&mut state);
                }
                drop(state);
                // The job answers with EIO while it unwinds; the thread goes on.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            let is_last = state.idle == 0;
            state.idle += 1;
            let is_late = if is_last {
                self.wake.wait(&mut state);
                false
            } else {
                self.wake.wait_for(&mut state, Duration::from_secs(IDLE_SECS_MAX)).timed_out()
            };
            state.idle -= 1;
            if is_late && state.queue.is_empty() && state.idle > 0 {
                break;
            }
        }
        state.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Class, Cores};
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
    fn threads_are_scheduled_like_the_pools_maker_whoever_submits() {
        let maker = Standing::current().unwrap();
        let core = maker.cores.iter().next().and_then(Cores::only).unwrap();
        let low = Standing { class: Class::IDLE, cores: core };
        let pool = Pool::new("test", 8, 8);
        let barrier = Arc::new(std::sync::Barrier::new(4));
        let (tell, told) = mpsc::channel();
        let submit = || {
            low.take();
            assert_eq!(Standing::current().unwrap(), low);
            for _ in 0..4 {
                let (barrier, tell) = (Arc::clone(&barrier), tell.clone());
                let job = Box::new(move || {
                    barrier.wait();
                    tell.send(Standing::current().unwrap()).unwrap();
                });
                assert!(pool.submit(job).is_ok());
            }
        };
        thread::scope(|scope| scope.spawn(submit).join().unwrap());
        for _ in 0..4 {
            assert_eq!(told.recv_timeout(Duration::from_secs(60)).unwrap(), maker);
        }
        pool.close();
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
