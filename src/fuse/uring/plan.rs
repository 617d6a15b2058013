//! Whether io_uring can be had, how many workers serve which queues, and how large buffers are.

use std::fs;
use std::io;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::fuse::options::MountOptions;

/// Where root allows it, for all mounts.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Requests that one core's programs can have with us at once; more wait in the kernel.
const DEPTH_DEFAULT: usize = 8;

/// What the depth is lowered to before buffers become smaller.
const DEPTH_GOOD: usize = 4;

/// Smallest buffer, bytes: the longest extended attribute with its name fits.
const PAYLOAD_BYTES_MIN: usize = 128 * 1024;

/// Most memory of all standing buffers together, bytes. Only what requests touched is taken.
const BUFFERS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// More buffers for each running core: a request that waits for the store or the disk keeps its
/// buffer, and those that need not wait must not wait for one. (The kernel gives no request that
/// it has already queued to a buffer that comes later, so they are there from the start.) They
/// keep little memory from one request to the next.
const EXTRA: usize = 120;

/// Why there is no io_uring to be had.
#[derive(Debug, thiserror::Error)]
pub enum NoUring {
    /// The kernel has no such thing.
    #[error("this kernel has no FUSE over io_uring: Linux 6.14 or newer has it")]
    Kernel,
    /// The kernel has it, and it is not allowed.
    #[error("it is switched off: root switches it on with `echo Y > {SWITCH}`")]
    Off,
    /// io_uring itself is not allowed: `kernel.io_uring_disabled`, or a container's rules.
    #[error("io_uring can't be used here: {0}")]
    Ring(#[source] io::Error),
    /// So many cores that buffers for all of them would be too large.
    #[error("{0} cores would need buffers of more than {max} MiB", max = BUFFERS_BYTES_MAX >> 20)]
    TooManyCores(usize),
    /// The kernel refused the rings.
    #[error("the kernel refused it: {0}")]
    Refused(#[source] io::Error),
}

/// The machine's cores, as numbers from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cores {
    /// How many there can ever be.
    possible: usize,
    /// Those that run.
    online: Vec<usize>,
    /// Those of them that we may run on.
    ours: Vec<usize>,
}

/// Who serves what, and with which buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fuse) struct Plan {
    /// Length of a buffer, bytes; also the largest write.
    pub(super) payload_bytes: usize,
    pub(super) workers: Vec<WorkerPlan>,
}

/// What one worker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkerPlan {
    /// The core that it runs on.
    pub(super) core: usize,
    pub(super) queues: Vec<QueuePlan>,
}

/// A queue of the kernel's, for programs on the core of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePlan {
    pub(super) number: u16,
    /// Standing buffers.
    pub(super) depth: usize,
    /// Buffers beside them.
    pub(super) extra: usize,
}

impl Plan {
    /// Looks at the machine.
    ///
    /// # Errors
    /// It has no FUSE over io_uring, does not allow it, or is too large.
    pub(in crate::fuse) fn new(options: &MountOptions) -> Result<Plan, NoUring> {
        match fs::read_to_string(SWITCH) {
            Ok(text) if matches!(text.trim(), "Y" | "y" | "1") => {}
            Ok(_) => return Err(NoUring::Off),
            Err(_) => return Err(NoUring::Kernel),
        }
        probe()?;
        let cores = cores().map_err(NoUring::Ring)?;
        Plan::of(&cores, options).ok_or(NoUring::TooManyCores(cores.possible))
    }

    fn of(cores: &Cores, options: &MountOptions) -> Option<Plan> {
        let page = page_bytes();
        let wanted = (options.write_bytes_max as usize).next_multiple_of(page);
        let (depth, payload_bytes) = sizes(cores, wanted.max(PAYLOAD_BYTES_MIN))?;
        let threads_max = if options.threads == 0 { usize::MAX } else { options.threads };
        let mut workers: Vec<WorkerPlan> = cores
            .ours
            .iter()
            .take(threads_max)
            .map(|&core| WorkerPlan { core, queues: Vec::new() })
            .collect();
        for queue in 0..cores.possible {
            let own = workers.iter().position(|worker| worker.core == queue);
            let place = own.unwrap_or(queue % workers.len().max(1));
            let (depth, extra) =
                if cores.online.contains(&queue) { (depth, EXTRA) } else { (1, 0) };
            let number = u16::try_from(queue).ok()?;
            workers.get_mut(place)?.queues.push(QueuePlan { number, depth, extra });
        }
        Some(Plan { payload_bytes, workers })
    }

    /// Pages that one request may have.
    pub(super) fn pages_max(&self) -> u16 {
        u16::try_from(self.payload_bytes / page_bytes()).unwrap_or(u16::MAX)
    }

    /// Length of all standing buffers, bytes.
    #[cfg(test)]
    fn buffers_bytes(&self) -> usize {
        let queues = self.workers.iter().flat_map(|worker| &worker.queues);
        queues.map(|queue| queue.depth).sum::<usize>() * self.payload_bytes
    }
}

/// Depth and buffer length that keep to the bound: first less depth, then smaller buffers, then
/// hardly any depth.
fn sizes(cores: &Cores, wanted_bytes: usize) -> Option<(usize, usize)> {
    let spare = cores.possible.saturating_sub(cores.online.len());
    let fits = |depth: usize, bytes: usize| {
        let buffers = cores.online.len() * depth + spare;
        buffers.saturating_mul(bytes) <= BUFFERS_BYTES_MAX
    };
    let (mut depth, mut bytes) = (DEPTH_DEFAULT, wanted_bytes);
    while !fits(depth, bytes) {
        if depth > DEPTH_GOOD {
            depth /= 2;
        } else if bytes > PAYLOAD_BYTES_MIN {
            bytes = (bytes / 2).next_multiple_of(page_bytes()).max(PAYLOAD_BYTES_MIN);
        } else if depth > 1 {
            depth /= 2;
        } else {
            return None;
        }
    }
    Some((depth, bytes))
}

/// Makes a ring and throws it away: containers often forbid it.
fn probe() -> Result<(), NoUring> {
    let mut builder = IoUring::<squeue::Entry128, cqueue::Entry>::builder();
    let ring = builder.dontfork().build(2).map_err(NoUring::Ring)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(NoUring::Ring)?;
    if probe.is_supported(opcode::UringCmd80::CODE) { Ok(()) } else { Err(NoUring::Kernel) }
}

fn cores() -> io::Result<Cores> {
    let list = |name: &str| {
        let text = fs::read_to_string(format!("/sys/devices/system/cpu/{name}"))?;
        parse_list(text.trim()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    let online: Vec<usize> = list("online")?;
    let allowed: CpuSet = sched_getaffinity(Pid::from_raw(0))?;
    let may_run = |core: &usize| allowed.is_set(*core).unwrap_or(false);
    let ours: Vec<usize> = online.iter().copied().filter(may_run).collect();
    io::Result::Ok(Cores { possible: list("possible")?.len(), online, ours })
}

/// `0-3,8` as numbers.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(numbers)
}

pub(super) fn page_bytes() -> usize {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    page.ok().flatten().and_then(|page| usize::try_from(page).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(possible: usize, online: usize, ours: &[usize]) -> Cores {
        Cores { possible, online: (0..online).collect(), ours: ours.to_vec() }
    }

    fn plan(cores: &Cores) -> Plan {
        Plan::of(cores, &MountOptions::new("/nowhere", "test")).unwrap()
    }

    #[test]
    fn each_core_has_its_worker_and_its_queue() {
        let plan = plan(&machine(2, 2, &[0, 1]));
        assert_eq!(plan.payload_bytes, 1 << 20);
        let queue = |number| QueuePlan { number, depth: DEPTH_DEFAULT, extra: EXTRA };
        let worker = |core, number| WorkerPlan { core, queues: vec![queue(number)] };
        assert_eq!(plan.workers, [worker(0, 0), worker(1, 1)]);
        assert_eq!(plan.pages_max() as usize * page_bytes(), plan.payload_bytes);
    }

    #[test]
    fn every_possible_core_has_a_queue_also_where_we_may_not_run() {
        let plan = plan(&machine(6, 4, &[1, 3]));
        let queues = plan.workers.iter().flat_map(|worker| &worker.queues);
        let mut depths: Vec<_> = queues.map(|queue| (queue.number, queue.depth)).collect();
        depths.sort_unstable();
        let depth = DEPTH_DEFAULT;
        assert_eq!(depths, [(0, depth), (1, depth), (2, depth), (3, depth), (4, 1), (5, 1)]);
        let has = |worker: usize, number| {
            plan.workers[worker].queues.iter().any(|queue| queue.number == number)
        };
        assert!(has(0, 1) && has(1, 3), "each worker has its own core's");
    }

    #[test]
    fn buffers_keep_to_their_bound_on_any_machine() {
        for cores in [1, 2, 8, 9, 16, 64, 128, 256, 512] {
            let all: Vec<_> = (0..cores).collect();
            let plan = plan(&machine(cores, cores, &all));
            assert!(plan.buffers_bytes() <= BUFFERS_BYTES_MAX, "{cores} cores");
            assert!(plan.payload_bytes >= PAYLOAD_BYTES_MIN);
            assert_eq!(plan.payload_bytes % page_bytes(), 0);
        }
        let all: Vec<_> = (0..1024).collect();
        let huge = machine(1024, 1024, &all);
        assert_eq!(Plan::of(&huge, &MountOptions::new("/nowhere", "test")), None);
    }

    #[test]
    fn threads_that_are_limited_share_the_queues() {
        let mut options = MountOptions::new("/nowhere", "test");
        options.threads = 1;
        let plan = Plan::of(&machine(2, 2, &[0, 1]), &options).unwrap();
        assert_eq!(plan.workers.len(), 1);
        assert_eq!(plan.workers[0].queues.len(), 2);
    }

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse_list("0"), Some(vec![0]));
        assert_eq!(parse_list("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(parse_list(""), None);
        assert_eq!(parse_list("a-b"), None);
    }
}
