//! How a thread stands with the scheduler: its class and the cores it may run on.
//!
//! A new thread takes its maker's standing. So whatever may be started by a thread of a lower
//! standing (those that serve the kernel) is given the standing it shall have.

use std::io;
use std::mem;

use libc::{c_int, cpu_set_t, pid_t};

/// A thread, by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadId(pub pid_t);

impl ThreadId {
    /// The calling thread.
    #[must_use]
    pub fn current() -> ThreadId {
        // SAFETY: a system call without arguments.
        ThreadId(unsafe { libc::gettid() })
    }
}

/// A scheduling class, as `sched_setscheduler` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class(c_int);

impl Class {
    /// What threads are by default.
    pub const OTHER: Class = Class(libc::SCHED_OTHER);
    /// Runs where nothing else wants to, and stands in nobody's way.
    pub const IDLE: Class = Class(libc::SCHED_IDLE);

    /// Whether threads of it share the cores by weight: neither real-time nor idle.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self == Class::OTHER || self.0 == libc::SCHED_BATCH
    }
}

/// Cores, by number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cores(cpu_set_t);

impl std::fmt::Debug for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Cores {
    /// This core alone; none if there can't be such a one.
    #[must_use]
    pub fn only(core: usize) -> Option<Cores> {
        // SAFETY: a set of bits, all of them zero.
        let mut set: cpu_set_t = unsafe { mem::zeroed() };
        if core >= Cores::places() {
            return None;
        }
        // SAFETY: within the set, as was just checked.
        unsafe { libc::CPU_SET(core, &mut set) };
        Some(Cores(set))
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        // SAFETY: within the set.
        (0..Cores::places()).filter(|&core| unsafe { libc::CPU_ISSET(core, &self.0) })
    }

    fn places() -> usize {
        mem::size_of::<cpu_set_t>() * 8
    }
}

/// A thread's class and cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its class.
    pub class: Class,
    /// Where it may run: what it asked for, within what its cpuset allows.
    pub cores: Cores,
}

impl Standing {
    /// Of the calling thread.
    ///
    /// # Errors
    /// The kernel does not tell: more cores than a set has places, or a sandbox's filter.
    pub fn current() -> io::Result<Standing> {
        Standing::of(ThreadId::current())
    }

    /// Of a thread of this process.
    ///
    /// # Errors
    /// As [`Standing::current`], and when the thread is gone.
    pub fn of(thread: ThreadId) -> io::Result<Standing> {
        // SAFETY: a set of bits, all of them zero.
        let mut set: cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the set is as long as is said.
        let told = unsafe { libc::sched_getaffinity(thread.0, mem::size_of_val(&set), &mut set) };
        checked(told.into())?;
        // By number: some C libraries refuse to offer this call.
        // SAFETY: a system call without pointers.
        let class = unsafe { libc::syscall(libc::SYS_sched_getscheduler, thread.0) };
        checked(class)?;
        let class = c_int::try_from(class).unwrap_or(c_int::MAX);
        Ok(Standing { class: Class(class), cores: Cores(set) })
    }

    /// Gives it to a thread of this process: the class first, since a thread that may not run
    /// can't move.
    ///
    /// # Errors
    /// Not permitted (leaving the idle class needs `CAP_SYS_NICE` or an `RLIMIT_NICE`), none of
    /// the cores is in the process's cpuset, or the thread is gone.
    pub fn give(&self, thread: ThreadId) -> io::Result<()> {
        let none = libc::sched_param { sched_priority: 0 };
        let call = libc::SYS_sched_setscheduler;
        // SAFETY: the parameter lives through the call.
        let classed = unsafe { libc::syscall(call, thread.0, self.class.0, &raw const none) };
        checked(classed)?;
        let cores = &self.cores.0;
        // SAFETY: the set is as long as is said.
        let placed = unsafe { libc::sched_setaffinity(thread.0, mem::size_of_val(cores), cores) };
        checked(placed.into())
    }

    /// Gives it to the calling thread, as far as that is permitted.
    pub fn take(&self) {
        if let Err(error) = self.give(ThreadId::current()) {
            tracing::debug!(%error, "a new thread keeps the scheduling of its maker");
        }
    }
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_told_apart() {
        let third = Cores::only(3).unwrap();
        assert_eq!(third.iter().collect::<Vec<_>>(), [3]);
        assert_ne!(Some(third), Cores::only(4));
        assert_eq!(Cores::only(1 << 20), None);
    }

    #[test]
    fn a_new_thread_takes_its_makers_standing_unless_it_takes_another() {
        let plain = Standing::current().unwrap();
        assert!(plain.class.is_shared());
        let core = plain.cores.iter().next().unwrap();
        let low = Standing { class: Class::IDLE, cores: Cores::only(core).unwrap() };
        let maker = move || {
            low.take();
            let inherits = std::thread::spawn(|| Standing::current().unwrap());
            let takes = std::thread::spawn(move || {
                plain.take();
                Standing::current().unwrap()
            });
            (Standing::current().unwrap(), inherits.join().unwrap(), takes.join().unwrap())
        };
        let (maker, inherits, takes) = std::thread::spawn(maker).join().unwrap();
        assert_eq!((maker, inherits, takes), (low, low, plain));
    }
}
