//! Fetching ahead, in the background: what a sequential reader will want next, then tree packs,
//! so that all metadata is soon local, then chunks that are likely wanted. Foreground requests go
//! first, and join a window that is on its way instead of fetching it again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::format::{FrameKind, PackInfo, PackSlot};
use crate::types::{ChunkId, PackId, Standing};

use super::fetch::Fetcher;
use super::flight::{Landing, Lead, Need};
use super::transfer::{BACKGROUND_DEADLINE, Urgency};
use super::window::{Window, tree_window, tree_windows};

/// Tree windows that a thread has on their way at once: what it holds in memory, in units of
/// 4 MiB.
const WINDOWS_AT_ONCE: usize = 4;

/// Windows to read ahead that may wait; a reader that finds none there fetches for itself.
const AHEAD_LEN_MAX: usize = 16;

/// Bytes of chunk frames asked for at once.
const CHUNK_BYTES_AT_ONCE: u64 = 8 * 1024 * 1024;

/// Most windows and most chunks that may wait to be prefetched; more are left to be fetched when
/// they are touched.
const QUEUE_LEN_MAX: usize = 64 * 1024;

/// A window is given up after this many failures: it is fetched when it is touched.
const ATTEMPTS_MAX: u32 = 3;

/// Pause after a failure; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
struct TreeWindow {
    pack: PackId,
    number: u64,
    /// Bytes of the pack.
    pack_len: u64,
    failures: u32,
}

impl TreeWindow {
    fn need(&self) -> Need {
        let range = tree_window(self.number);
        (self.pack, range.start..range.end.min(self.pack_len.max(range.start + 1)))
    }

    fn bytes(&self) -> u64 {
        let (_, range) = self.need();
        range.end - range.start
    }
}

#[derive(Debug, Default)]
struct Queue {
    ahead: Vec<Lead>,
    windows: VecDeque<TreeWindow>,
    chunks: VecDeque<(ChunkId, PackSlot)>,
    /// Threads at work.
    busy: usize,
    stopping: bool,
}

/// Which work a thread takes: a reader may soon wait for what is read ahead, so that it never
/// stands behind the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Ahead,
    Rest,
}

/// What there is to prefetch next.
enum Work {
    Ahead(Vec<Lead>),
    Windows(Vec<TreeWindow>),
    Chunks(Vec<(ChunkId, PackSlot)>),
}

#[derive(Debug)]
struct Shared {
    fetcher: Arc<Fetcher>,
    /// No call into another layer is made under it.
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The background readers, started by the first thing to prefetch.
#[derive(Debug)]
pub(super) struct Prefetcher {
    shared: Arc<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// How the threads are scheduled: those that start them may be lower.
    standing: Option<Standing>,
}

impl Prefetcher {
    pub(super) fn new(fetcher: Arc<Fetcher>) -> Prefetcher {
        let (queue, changed) = (Mutex::new(Queue::default()), Condvar::new());
        let shared = Arc::new(Shared { fetcher, queue, changed });
        Prefetcher { shared, threads: Mutex::new(Vec::new()), standing: Standing::current().ok() }
    }

    /// Queues the windows of these packs, up to a total of `bytes_max`.
    pub(super) fn add_trees(&self, packs: &[PackInfo], bytes_max: u64) {
        let mut bytes = 0;
        let windows: Vec<TreeWindow> = packs
            .iter()
            .flat_map(|pack| {
                let window =
                    |number| TreeWindow { pack: pack.id, number, pack_len: pack.len, failures: 0 };
                (0..tree_windows(pack.len)).map(window)
            })
            .take(QUEUE_LEN_MAX)
            .take_while(|window| {
                bytes += window.bytes();
                bytes <= bytes_max
            })
            .collect();
        self.enqueue(|queue| {
            let room = QUEUE_LEN_MAX.saturating_sub(queue.windows.len());
            let added = &windows[..windows.len().min(room)];
            queue.windows.extend(added);
            added.iter().map(TreeWindow::bytes).sum()
        });
    }

    /// Queues chunks in this order, up to a total of `bytes_max`.
    pub(super) fn add_chunks(&self, list: &[(ChunkId, PackSlot)], bytes_max: u64) {
        let mut bytes = 0;
        let fitting = list.iter().take_while(|(_, slot)| {
            bytes += u64::from(slot.len);
            bytes <= bytes_max
        });
        let fitting: Vec<_> = fitting.collect();
        self.enqueue(|queue| {
            let room = QUEUE_LEN_MAX.saturating_sub(queue.chunks.len());
            let added = &fitting[..fitting.len().min(room)];
            queue.chunks.extend(added.iter().copied());
            added.iter().map(|(_, slot)| u64::from(slot.len)).sum()
        });
    }

    /// Queues windows of data packs that readers will reach soon; they go first.
    pub(super) fn add_ahead(&self, windows: Vec<Lead>) {
        self.enqueue(|queue| {
            let room = AHEAD_LEN_MAX.saturating_sub(queue.ahead.len());
            // Those beyond are dropped here: their readers lead themselves.
            queue.ahead.extend(windows.into_iter().take(room));
            0
        });
    }

    /// Adds to the queue by `add`, which tells the bytes, and starts the threads.
    fn enqueue(&self, add: impl FnOnce(&mut Queue) -> u64) {
        if !self.start() {
            return;
        }
        // Counted first: a thread may be done with it at once.
        let mut queue = self.shared.queue.lock();
        if queue.stopping {
            return;
        }
        let bytes = add(&mut queue);
        self.shared.fetcher.below.counters.prefetch_bytes_left.add(bytes);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Makes sure that the threads are there.
    fn start(&self) -> bool {
        let mut threads = self.threads.lock();
        for duty in [Duty::Ahead, Duty::Rest].into_iter().skip(threads.len()) {
            let shared = Arc::clone(&self.shared);
            let name = format!("dormouse-fetch-{}", threads.len());
            let standing = self.standing;
            let run = move || {
                if let Some(standing) = standing {
                    standing.take();
                }
                shared.run(duty);
            };
            match std::thread::Builder::new().name(name).spawn(run) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    // Everything is fetched when it is touched, too.
                    tracing::warn!(%error, "no thread for prefetch");
                    return false;
                }
            }
        }
        true
    }

    /// Waits until there is nothing left to prefetch; false: `timeout` came first.
    pub(super) fn wait_idle(&self, timeout: Duration) -> bool {
        let mut queue = self.shared.queue.lock();
        let is_busy = |queue: &mut Queue| {
            let is_empty =
                queue.ahead.is_empty() && queue.windows.is_empty() && queue.chunks.is_empty();
            (queue.busy > 0 || !is_empty) && !queue.stopping
        };
        !self.shared.changed.wait_while_for(&mut queue, is_busy, timeout).timed_out()
    }

    /// Stops and joins the threads, after the requests that they have under way.
    pub(super) fn shutdown(&self) {
        let mut queue = self.shared.queue.lock();
        queue.stopping = true;
        // Nobody flies them any more: their readers lead themselves.
        let unflown = std::mem::take(&mut queue.ahead);
        drop(queue);
        drop(unflown);
        self.shared.changed.notify_all();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a prefetch thread panicked");
            }
        }
    }
}

impl Queue {
    fn take(&mut self, duty: Duty) -> Option<Work> {
        if duty == Duty::Ahead {
            let ahead = std::mem::take(&mut self.ahead);
            return (!ahead.is_empty()).then_some(Work::Ahead(ahead));
        }
        if !self.windows.is_empty() {
            let count = self.windows.len().min(WINDOWS_AT_ONCE);
            return Some(Work::Windows(self.windows.drain(..count).collect()));
        }
        if self.chunks.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let is_over = |(_, slot): &(ChunkId, PackSlot)| {
            bytes += u64::from(slot.len);
            bytes > CHUNK_BYTES_AT_ONCE
        };
        let count = self.chunks.iter().position(is_over).unwrap_or(self.chunks.len());
        Some(Work::Chunks(self.chunks.drain(..count.max(1)).collect()))
    }
}

impl Shared {
    fn run(&self, duty: Duty) {
        while let Some(work) = self.next(duty) {
            let pause = match work {
                Work::Ahead(led) => {
                    // If it fails, the reader finds out for itself.
                    let deadline = self.deadline();
                    self.fetcher.fly(FrameKind::Chunk, led, deadline, Urgency::Background);
                    None
                }
                Work::Windows(windows) => self.fetch_windows(&windows),
                Work::Chunks(chunks) => {
                    self.fetch_chunks(&chunks);
                    None
                }
            };
            let mut queue = self.queue.lock();
            queue.busy -= 1;
            self.changed.notify_all();
            if let Some(pause) = pause {
                let not_stopped = |queue: &mut Queue| !queue.stopping;
                self.changed.wait_while_for(&mut queue, not_stopped, pause);
            }
        }
    }

    /// Waits for work; none: stop.
    fn next(&self, duty: Duty) -> Option<Work> {
        let mut queue = self.queue.lock();
        loop {
            if queue.stopping {
                return None;
            }
            if let Some(work) = queue.take(duty) {
                queue.busy += 1;
                return Some(work);
            }
            self.changed.wait(&mut queue);
        }
    }

    fn deadline(&self) -> Duration {
        self.fetcher.below.clock.monotonic() + BACKGROUND_DEADLINE
    }

    /// Fetches windows that are not local yet. What failed goes back into the queue; how long to
    /// rest before it is its turn.
    fn fetch_windows(&self, windows: &[TreeWindow]) -> Option<Duration> {
        let needs: Vec<(usize, Need)> = windows
            .iter()
            .enumerate()
            .filter(|(_, window)| !self.fetcher.has_tree_window(&window.pack, window.number))
            .map(|(index, window)| (index, window.need()))
            .collect();
        let plan = |list: &[usize]| {
            let whole = |&index: &usize| Window {
                pack: windows[index].pack,
                range: tree_window(windows[index].number),
                wanted: vec![index],
            };
            list.iter().map(whole).collect()
        };
        let deadline = self.deadline();
        // What somebody else has under way needs no help.
        let led = self.fetcher.flights.depart(&needs, deadline, plan).led;
        let flown = self.fetcher.fly(FrameKind::Node, led, deadline, Urgency::Background);
        let mut failed = Vec::new();
        for (lead, landing) in flown {
            if !matches!(landing, Landing::Bytes(_)) {
                failed.extend(lead.wanted.iter().copied());
            }
        }
        self.settle_windows(windows, &failed)
    }

    fn settle_windows(&self, windows: &[TreeWindow], failed: &[usize]) -> Option<Duration> {
        let mut left: Vec<TreeWindow> = failed.iter().map(|&index| windows[index]).collect();
        left.iter_mut().for_each(|window| window.failures += 1);
        left.retain(|window| window.failures < ATTEMPTS_MAX);
        let bytes = |list: &[TreeWindow]| list.iter().map(TreeWindow::bytes).sum::<u64>();
        self.fetcher.below.counters.prefetch_bytes_left.sub(bytes(windows) - bytes(&left));
        let failures = left.iter().map(|window| window.failures).max()?;
        self.queue.lock().windows.extend(left);
        Some(PAUSE_FIRST * 2_u32.pow(failures - 1))
    }

    /// Fetches chunks that are not local yet, unopened: they are checked when they are read.
    fn fetch_chunks(&self, chunks: &[(ChunkId, PackSlot)]) {
        let missing = chunks.iter().filter(|(id, _)| !self.fetcher.is_local(id));
        let slots: Vec<PackSlot> = missing.map(|(_, slot)| *slot).collect();
        if !slots.is_empty() {
            let deadline = self.deadline();
            self.fetcher.fetch_frames(FrameKind::Chunk, &slots, deadline, Urgency::Background);
        }
        let bytes = chunks.iter().map(|(_, slot)| u64::from(slot.len)).sum();
        self.fetcher.below.counters.prefetch_bytes_left.sub(bytes);
    }
}
