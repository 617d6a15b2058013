//! The limit on requests at once. The foreground goes first: a background request starts only
//! while no foreground request waits, and the last quarter of the places is never background's.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Who waits for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Somebody's system call.
    Foreground,
    /// Prefetch and uploads.
    Background,
}

#[derive(Debug)]
pub(super) struct Limiter {
    state: Mutex<State>,
    background_max: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    background: usize,
    foreground_waiting: VecDeque<oneshot::Sender<Permit>>,
    background_waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// The right to have one request under way; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limiter: Arc<Limiter>,
    priority: Priority,
}

impl Limiter {
    /// Lets `concurrency_max` requests run at once (at least one).
    pub(super) fn new(concurrency_max: usize) -> Arc<Limiter> {
        let free = concurrency_max.max(1);
        let state = State {
            free,
            background: 0,
            foreground_waiting: VecDeque::new(),
            background_waiting: VecDeque::new(),
        };
        Arc::new(Limiter { state: Mutex::new(state), background_max: (free * 3 / 4).max(1) })
    }

    /// Waits for a place. Waiters of one priority are served in their order; one that is dropped
    /// loses its place in the queue. The queues are bounded by their callers.
    pub(super) async fn acquire(self: &Arc<Self>, priority: Priority) -> Permit {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.state.lock();
            match priority {
                Priority::Foreground => state.foreground_waiting.push_back(sender),
                Priority::Background => state.background_waiting.push_back(sender),
            }
        }
        self.grant();
        match receiver.await {
            Ok(permit) => permit,
            // A sender leaves its queue only with a permit, and the queue lives in `self`.
            Err(_) => unreachable!("a waiting request was forgotten"),
        }
    }

    /// Hands free places to those who wait.
    fn grant(self: &Arc<Self>) {
        loop {
            let Some((waiter, priority)) = self.state.lock().next(self.background_max) else {
                return;
            };
            // Where the waiter has gone, the permit is dropped here, outside the lock.
            let _ = waiter.send(Permit { limiter: Arc::clone(self), priority });
        }
    }
}

impl State {
    /// Takes a place for the next who may have one.
    fn next(&mut self, background_max: usize) -> Option<(oneshot::Sender<Permit>, Priority)> {
        if self.free == 0 {
            return None;
        }
        if let Some(waiter) = pop_live(&mut self.foreground_waiting) {
            self.free -= 1;
            return Some((waiter, Priority::Foreground));
        }
        if self.background >= background_max {
            return None;
        }
        let waiter = pop_live(&mut self.background_waiting)?;
        self.free -= 1;
        self.background += 1;
        Some((waiter, Priority::Background))
    }
}

fn pop_live(queue: &mut VecDeque<oneshot::Sender<Permit>>) -> Option<oneshot::Sender<Permit>> {
    while let Some(waiter) = queue.pop_front() {
        if !waiter.is_closed() {
            return Some(waiter);
        }
    }
    None
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.limiter.state.lock();
            state.free += 1;
            if self.priority == Priority::Background {
                state.background -= 1;
            }
        }
        self.limiter.grant();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn try_acquire(limiter: &Arc<Limiter>, priority: Priority) -> Option<Permit> {
        limiter.acquire(priority).now_or_never()
    }

    #[test]
    fn background_leaves_a_quarter_to_the_foreground() {
        let limiter = Limiter::new(4);
        let held: Vec<_> =
            (0..3).map(|_| try_acquire(&limiter, Priority::Background).unwrap()).collect();
        assert!(try_acquire(&limiter, Priority::Background).is_none());
        let last = try_acquire(&limiter, Priority::Foreground).unwrap();
        assert!(try_acquire(&limiter, Priority::Foreground).is_none());
        drop((held, last));
        assert_eq!(limiter.state.lock().free, 4);
        assert_eq!(limiter.state.lock().background, 0);
    }

    #[test]
    fn a_foreground_request_overtakes_background_ones_that_wait() {
        let limiter = Limiter::new(1);
        let held = try_acquire(&limiter, Priority::Background).unwrap();
        let mut background = Box::pin(limiter.acquire(Priority::Background));
        assert!(background.as_mut().now_or_never().is_none());
        let mut foreground = Box::pin(limiter.acquire(Priority::Foreground));
        assert!(foreground.as_mut().now_or_never().is_none());
        drop(held);
        assert!(background.as_mut().now_or_never().is_none());
        let permit = foreground.as_mut().now_or_never().expect("the foreground goes first");
        drop(permit);
        assert!(background.as_mut().now_or_never().is_some());
    }

    #[test]
    fn a_waiter_that_gives_up_keeps_no_place() {
        let limiter = Limiter::new(1);
        let held = try_acquire(&limiter, Priority::Foreground).unwrap();
        let mut given_up = Box::pin(limiter.acquire(Priority::Foreground));
        assert!(given_up.as_mut().now_or_never().is_none());
        drop(held);
        drop(given_up);
        assert!(try_acquire(&limiter, Priority::Foreground).is_some());
    }
}
