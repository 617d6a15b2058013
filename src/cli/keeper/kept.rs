//! The daemon's side: what it inherits, what it tells its keeper, and what that tells it.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::link::{Estate, Link, Order, Told};
use super::start::own;
use crate::cli::exit::{Failure, Outcome};

/// A daemon's keeper.
#[derive(Debug, Clone)]
pub struct Keeper {
    link: Arc<Link>,
    pid: u32,
    is_there: Arc<AtomicBool>,
    /// The mount was made over `/dev/fuse`, and the keeper has its descriptor.
    holds: Arc<AtomicBool>,
}

/// A mount to be taken over.
#[derive(Debug)]
pub struct Inheritance {
    /// What is known of it.
    pub estate: Estate,
    /// Its descriptor.
    pub device: OwnedFd,
}

impl Keeper {
    /// The keeper that started this process, with these descriptors in its environment: the
    /// link's, and that of the mount which is to be taken over.
    pub fn of_this_process(descriptors: &str) -> Outcome<(Keeper, Option<Inheritance>)> {
        let mut numbers = descriptors.split(',').map(str::parse::<RawFd>);
        let mut next = || match numbers.next() {
            Some(Ok(number)) => own(number).map(Some).map_err(failed),
            Some(Err(_)) => Err(Failure::usage(format!("{}={descriptors}", super::KEPT))),
            None => Ok(None),
        };
        let link = next()?.ok_or_else(|| Failure::usage(super::KEPT))?;
        let device = next()?;
        let keeper = Keeper {
            link: Arc::new(Link::new(link)),
            pid: nix::unistd::getppid().as_raw().unsigned_abs(),
            is_there: Arc::new(AtomicBool::new(true)),
            holds: Arc::new(AtomicBool::new(device.is_some())),
        };
        let inheritance = match (keeper.link.receive().map_err(failed)?, device) {
            (Some((Order::Adopt(estate), _)), Some(device)) => Some(Inheritance { estate, device }),
            (Some((Order::Begin, _)), None) => None,
            _ => return Err(Failure::internal("the keeper is gone before it said what to do")),
        };
        Ok((keeper, inheritance))
    }

    /// The keeper's process number, while it is there.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.is_there.load(Ordering::Relaxed).then_some(self.pid)
    }

    /// Whether another daemon would take over from this one.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.pid().is_some() && self.holds.load(Ordering::Relaxed)
    }

    /// The mount is made: the keeper is to hold its descriptor.
    pub fn mounted(&self, estate: Estate, device: &OwnedFd) -> Outcome {
        self.link.send_with(&Told::Mounted(estate), Some(device)).map_err(failed)?;
        self.holds.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The mount is usable.
    pub fn ready(&self) {
        self.tell(&Told::Ready);
    }

    /// Passes a message to the service manager on: that listens to the process that it started.
    pub fn notify(&self, state: String) {
        self.tell(&Told::Notify(state));
    }

    /// This daemon is about to end, for another program to take over.
    pub fn hand_over(&self, binary: PathBuf) -> Outcome {
        self.link.send(&Told::HandOver(binary)).map_err(failed)
    }

    fn tell(&self, told: &Told) {
        if let Err(error) = self.link.send(told) {
            tracing::debug!(%error, "the keeper is gone");
        }
    }

    /// Calls `on_signals` with the number of signals that the keeper has had, on a thread.
    pub fn listen(&self, mut on_signals: impl FnMut(u32) + Send + 'static) -> Outcome {
        let keeper = self.clone();
        let wait = move || {
            while let Ok(Some((order, _))) = keeper.link.receive() {
                if let Order::Signals(count) = order {
                    on_signals(count);
                }
            }
            keeper.is_there.store(false, Ordering::Relaxed);
            tracing::warn!("the keeper is gone: the mount ends with this daemon");
        };
        let started = thread::Builder::new().name("keeper-link".into()).spawn(wait);
        started.map(drop).map_err(failed)
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::internal(format!("the link to the keeper: {error}"))
}

/// Signals that mean "leave" may reach the keeper, this process, or both: systemd sends each to
/// all processes of a service, a terminal or a container's runtime to the keeper alone. So each
/// side's are counted, and what counts is the larger number.
#[derive(Debug, Default)]
pub struct Signals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    own: u32,
    keepers: u32,
    told: u32,
}

impl Signals {
    /// One came here. Says whether it is a new one.
    pub fn one(&self) -> bool {
        let mut counts = self.0.lock();
        counts.own += 1;
        counts.is_more()
    }

    /// So many have come to the keeper. Says whether one of them is new.
    pub fn keepers(&self, count: u32) -> bool {
        let mut counts = self.0.lock();
        counts.keepers = count;
        counts.is_more()
    }
}

impl Counts {
    fn is_more(&mut self) -> bool {
        let count = self.own.max(self.keepers);
        let told = self.told.max(count);
        std::mem::replace(&mut self.told, told) < count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_both_get_counts_once() {
        let signals = Signals::default();
        assert!(signals.one());
        assert!(!signals.keepers(1), "the same");
        assert!(signals.keepers(2));
        assert!(!signals.one(), "the same");
        assert!(signals.one(), "for this process alone");
    }
}
