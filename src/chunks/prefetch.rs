//! Fetching ahead, in the background: tree packs first, so that all metadata is soon local, then
//! chunks that are likely wanted. Foreground requests go first, and join a window that is on its
//! way instead of fetching it again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::format::{FrameKind, PackInfo, PackSlot};
use crate::types::{ChunkId, PackId};

use super::fetch::Fetcher;
use super::flight::{Landing, Need};
use super::transfer::Urgency;
use super::window::{Window, tree_window, tree_windows};

/// Tree windows on their way at once: what prefetch holds in memory, in units of 4 MiB.
const WINDOWS_AT_ONCE: usize = 4;

/// Bytes of chunk frames asked for at once.
const CHUNK_BYTES_AT_ONCE: u64 = 8 * 1024 * 1024;

/// Most windows and most chunks that may wait to be prefetched; more are left to be fetched when
/// they are touched.
const QUEUE_LEN_MAX: usize = 64 * 1024;

/// A window is given up after this many failures: it is fetched when it is touched.
const ATTEMPTS_MAX: u32 = 3;

/// Pause after a failure; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(2);

/// How long a request may take before a reader who waits for it tries itself.
const DEADLINE: Duration = Duration::from_secs(60);

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
    windows: VecDeque<TreeWindow>,
    chunks: VecDeque<(ChunkId, PackSlot)>,
    busy: bool,
    stopping: bool,
}

/// What there is to prefetch next.
enum Work {
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

/// The background reader: one thread, started by the first thing to prefetch.
#[derive(Debug)]
pub(super) struct Prefetcher {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Prefetcher {
    pub(super) fn new(fetcher: Arc<Fetcher>) -> Prefetcher {
        let (queue, changed) = (Mutex::new(Queue::default()), Condvar::new());
        let shared = Arc::new(Shared { fetcher, queue, changed });
        Prefetcher { shared, thread: Mutex::new(None) }
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

    /// Adds to the queue by `add`, which tells the bytes, and starts the thread.
    fn enqueue(&self, add: impl FnOnce(&mut Queue) -> u64) {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name("dormouse-prefetch".to_owned());
            match builder.spawn(move || shared.run()) {
                Ok(handle) => *thread = Some(handle),
                Err(error) => {
                    // Everything is fetched when it is touched, too.
                    tracing::warn!(%error, "no thread for prefetch");
                    return;
                }
            }
        }
        let bytes = add(&mut self.shared.queue.lock());
        self.shared.fetcher.below.counters.prefetch_bytes_left.add(bytes);
        self.shared.changed.notify_all();
    }

    /// Waits until there is nothing left to prefetch; false: `timeout` came first.
    pub(super) fn wait_idle(&self, timeout: Duration) -> bool {
        let mut queue = self.shared.queue.lock();
        let is_busy = |queue: &mut Queue| {
            (queue.busy || !queue.windows.is_empty() || !queue.chunks.is_empty()) && !queue.stopping
        };
        !self.shared.changed.wait_while_for(&mut queue, is_busy, timeout).timed_out()
    }

    /// Stops and joins the thread, after the requests that it has under way.
    pub(super) fn shutdown(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.changed.notify_all();
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the prefetch thread panicked");
        }
    }
}

impl Shared {
    fn run(&self) {
        while let Some(work) = self.next() {
            let pause = match work {
                Work::Windows(windows) => self.fetch_windows(&windows),
                Work::Chunks(chunks) => {
                    self.fetch_chunks(&chunks);
                    None
                }
            };
            let mut queue = self.queue.lock();
            queue.busy = false;
            self.changed.notify_all();
            if let Some(pause) = pause {
                let not_stopped = |queue: &mut Queue| !queue.stopping;
                self.changed.wait_while_for(&mut queue, not_stopped, pause);
            }
        }
    }

    /// Waits for work; none: stop.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue.lock();
        loop {
            if queue.stopping {
                return None;
            }
            if !queue.windows.is_empty() {
                queue.busy = true;
                let count = queue.windows.len().min(WINDOWS_AT_ONCE);
                return Some(Work::Windows(queue.windows.drain(..count).collect()));
            }
            if !queue.chunks.is_empty() {
                queue.busy = true;
                let mut bytes = 0;
                let is_over = |(_, slot): &(ChunkId, PackSlot)| {
                    bytes += u64::from(slot.len);
                    bytes > CHUNK_BYTES_AT_ONCE
                };
                let count = queue.chunks.iter().position(is_over).unwrap_or(queue.chunks.len());
                return Some(Work::Chunks(queue.chunks.drain(..count.max(1)).collect()));
            }
            self.changed.wait(&mut queue);
        }
    }

    fn deadline(&self) -> Duration {
        self.fetcher.below.clock.monotonic() + DEADLINE
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
