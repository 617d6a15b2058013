//! Fetching before it is asked for, in the background: what a reader will want next, then tree
//! packs, so that all metadata is soon local, then chunks that are likely wanted.
//!
//! The foreground never waits behind it. Foreground requests go first (`remote`), and the line is
//! not filled for them: a request of the background is small, and so few bytes are on their way
//! at once that what is on the line when a foreground request begins has arrived when its own
//! first byte does. A reader joins what is on its way; what only waits for its turn is on nobody's
//! list, so the reader fetches it at once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::format::{FrameKind, PackInfo, PackSlot};
use crate::remote::Brake;
use crate::types::{ChunkId, Standing};

use super::ahead::Purpose;
use super::fetch::Fetcher;
use super::flight::{Landing, Need};
use super::queue::{AHEAD_LEN_MAX, ChunkList, Moment, Queue, Rank, Scan, TreeWindow, Work};
use super::transfer::BACKGROUND_DEADLINE;
use super::window::{Piece, Window, is_chunk_slot, pieces, slot_range, tree_window, tree_windows};

/// Threads, and so requests at once: small pieces in many packs take a round trip each.
const THREADS_MAX: usize = 22;

/// How often a thread looks whether the foreground's request has ended.
const FOREGROUND_POLL: Duration = Duration::from_millis(5);

/// Most windows and most pieces that may wait to be prefetched; more are left to be fetched when
/// they are touched.
const QUEUE_LEN_MAX: usize = 64 * 1024;

/// A window is given up after this many failures: it is fetched when it is touched.
const ATTEMPTS_MAX: u32 = 3;

/// Pause after a failure; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Shared {
    fetcher: Arc<Fetcher>,
    /// How the threads are scheduled: those that start them may be lower.
    standing: Option<Standing>,
    /// No call into another layer is made under it.
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Ends requests under way when the threads are to end.
    brake: Brake,
}

/// The background readers, started as there is something to prefetch.
#[derive(Debug)]
pub(super) struct Prefetcher {
    shared: Arc<Shared>,
}

impl Prefetcher {
    pub(super) fn new(fetcher: Arc<Fetcher>) -> Prefetcher {
        let (queue, changed) = (Mutex::new(Queue::default()), Condvar::new());
        let standing = Standing::current().ok();
        let brake = Brake::default();
        Prefetcher { shared: Arc::new(Shared { fetcher, standing, queue, changed, brake }) }
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

    /// Queues chunks, about in this order, up to a total of `bytes_max`, and with what lies between
    /// them `fetched_bytes_max`; but for those that are local. The list comes from the store: it
    /// may say anything.
    pub(super) fn add_hot(
        &self,
        list: &[(ChunkId, PackSlot)],
        bytes_max: u64,
        fetched_bytes_max: u64,
    ) {
        let mut bytes = 0;
        let fitting: ChunkList = list
            .iter()
            .filter(|(_, slot)| is_chunk_slot(slot))
            .take_while(|(_, slot)| {
                bytes += u64::from(slot.len);
                bytes <= bytes_max
            })
            .filter(|(id, _)| !self.shared.fetcher.is_local(id))
            .copied()
            .collect();
        let mut fetched = 0;
        let fits = |piece: &Piece| {
            fetched += piece.bytes();
            fetched <= fetched_bytes_max
        };
        let pieces: Vec<Piece> = pieces(&fitting).into_iter().take_while(fits).collect();
        self.enqueue(|queue| {
            let room = QUEUE_LEN_MAX.saturating_sub(queue.hot.len());
            let before = queue.hot.len();
            queue.hot.extend(pieces.into_iter().take(room));
            queue.hot.range(before..).map(Piece::bytes).sum()
        });
    }

    /// Queues a look at what readers will reach; what it finds goes by its rank. False: too many
    /// wait already.
    pub(super) fn add_scan(&self, scan: Scan) -> bool {
        let mut is_taken = false;
        self.enqueue(|queue| {
            let scans = match scan.rank {
                Rank::Sweep => &mut queue.sweep_scans,
                Rank::First | Rank::On => &mut queue.scans,
            };
            if scans.len() < AHEAD_LEN_MAX {
                scans.push_back(scan);
                is_taken = true;
            }
            0
        });
        is_taken
    }

    /// Adds to the queue by `add`, which tells the bytes, and wakes or starts threads.
    fn enqueue(&self, add: impl FnOnce(&mut Queue) -> u64) {
        let mut queue = self.shared.queue.lock();
        if queue.stopping {
            return;
        }
        // Counted under the lock: a thread may be done with it at once.
        let bytes = add(&mut queue);
        self.shared.fetcher.below.counters.prefetch_bytes_left.add(bytes);
        Shared::staff(&self.shared, &mut queue);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until there is nothing left to prefetch; false: `timeout` came first.
    pub(super) fn wait_idle(&self, timeout: Duration) -> bool {
        let mut queue = self.shared.queue.lock();
        let is_busy = |queue: &mut Queue| (queue.busy > 0 || queue.len() > 0) && !queue.stopping;
        !self.shared.changed.wait_while_for(&mut queue, is_busy, timeout).timed_out()
    }

    /// Stops and joins the threads. Their requests are given up: a reader who waits for one asks
    /// for itself.
    pub(super) fn shutdown(&self) {
        let (threads, scans) = {
            let mut queue = self.shared.queue.lock();
            queue.stopping = true;
            let mut scans = std::mem::take(&mut queue.scans);
            scans.append(&mut queue.sweep_scans);
            (std::mem::take(&mut queue.threads), scans)
        };
        self.shared.brake.pull();
        self.shared.changed.notify_all();
        drop(scans);
        for thread in threads {
            // A scan may be the last that holds the layer, and drop it here.
            if thread.thread().id() == std::thread::current().id() {
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a prefetch thread panicked");
            }
        }
    }
}

impl Shared {
    /// Starts threads for what waits.
    fn staff(shared: &Arc<Shared>, queue: &mut Queue) {
        while queue.threads.len() < THREADS_MAX.min(queue.busy + queue.len()) {
            let owner = Arc::clone(shared);
            let name = format!("dormouse-fetch-{}", queue.threads.len());
            match std::thread::Builder::new().name(name).spawn(move || {
                if let Some(standing) = owner.standing {
                    standing.take();
                }
                owner.run();
            }) {
                Ok(thread) => queue.threads.push(thread),
                Err(error) => {
                    // Fewer threads do the same work, and everything is fetched when it is
                    // touched, too.
                    tracing::warn!(%error, "no thread for prefetch");
                    return;
                }
            }
        }
    }

    fn run(self: Arc<Shared>) {
        while let Some(work) = self.next() {
            let (bytes, is_rest) = (work.bytes(), !work.is_for_a_reader());
            let busy = Busy { shared: &self, bytes, is_rest };
            match work {
                Work::Scan(scan) => self.scan(scan),
                Work::Piece(piece, purpose) => self.fetch_piece(&piece, purpose, busy),
                Work::Window(window) => self.fetch_window(window, busy),
            }
        }
    }

    /// Waits for work; none: stop.
    fn next(&self) -> Option<Work> {
        let mut was_watching = false;
        let mut queue = self.queue.lock();
        loop {
            if queue.stopping {
                return None;
            }
            let now = self.moment();
            if let Some(work) = queue.take(now) {
                queue.busy += 1;
                queue.rest_busy += usize::from(!work.is_for_a_reader());
                queue.bytes += work.bytes();
                if was_watching {
                    // Another one watches now, if there is reason to.
                    self.changed.notify_all();
                }
                return Some(work);
            }
            was_watching = !now.is_quiet && queue.len() > 0 && !queue.is_watched;
            if was_watching {
                queue.is_watched = true;
                self.changed.wait_for(&mut queue, FOREGROUND_POLL);
                queue.is_watched = false;
            } else {
                self.changed.wait(&mut queue);
            }
        }
    }

    fn moment(&self) -> Moment {
        let Fetcher { traffic, below, .. } = &*self.fetcher;
        Moment {
            has_foreground: traffic.has_foreground(),
            is_quiet: traffic.is_quiet(&*below.clock),
            hot_used_bytes: below.counters.hot_used_bytes.get(),
        }
    }

    fn deadline(&self) -> Duration {
        self.fetcher.below.clock.monotonic() + BACKGROUND_DEADLINE
    }

    fn scan(self: &Arc<Shared>, scan: Scan) {
        let pieces = pieces(&(scan.find)());
        let mut queue = self.queue.lock();
        queue.add_found(pieces, scan.rank);
        Shared::staff(self, &mut queue);
        drop(queue);
        self.changed.notify_all();
    }

    /// Fetches what `wanted` says when its turn comes, unless somebody else has it on its way. Only
    /// then is it on the list of what is on its way: nobody waits for what itself waits behind
    /// other requests. None: nothing was fetched.
    fn fetch(
        &self,
        kind: FrameKind,
        wanted: impl Fn() -> Option<Need>,
        purpose: Purpose,
        busy: &mut Busy<'_>,
    ) -> Option<(Range<u64>, Landing)> {
        wanted()?;
        let turn = self.fetcher.below.remote.wait_for_turn(&self.brake)?;
        let need = wanted()?;
        let window = Window::whole(need.0, need.1.clone(), Vec::new());
        let led = self.fetcher.flights.depart(&[(0, need)], self.deadline(), |_| vec![window]).led;
        let lead = led.into_iter().next()?;
        let landing = self.fetcher.fly_in_turn(kind, &lead, purpose, (turn, &self.brake));
        let range = lead.flight.range.clone();
        busy.arrived(range.end - range.start);
        self.fetcher.keep(kind, &lead.flight, &landing);
        Some((range, landing))
    }

    /// Fetches chunks, unopened: they are checked when they are read. Where it fails, the reader
    /// finds out for itself.
    fn fetch_piece(&self, piece: &Piece, purpose: Purpose, mut busy: Busy<'_>) {
        let comes = |id: &ChunkId, slot: &PackSlot| {
            let range = slot_range(slot);
            // In this order: what lands in between is local.
            self.fetcher.flights.bring(&slot.pack, &range) || self.fetcher.is_local(id)
        };
        let mut from = 0;
        loop {
            let wanted = || piece.next(from, comes).map(|range| (piece.pack, range));
            match self.fetch(FrameKind::Chunk, wanted, purpose, &mut busy) {
                Some((range, Landing::Bytes(_))) => from = range.end,
                _ => break,
            }
        }
        if purpose == Purpose::Hot {
            self.fetcher.below.counters.prefetch_bytes_left.sub(piece.bytes());
        }
    }

    /// Fetches a window of a tree pack that is not local yet. One that failed goes back into the
    /// queue after a pause.
    fn fetch_window(&self, mut window: TreeWindow, mut busy: Busy<'_>) {
        let wanted = || {
            let is_known = self.fetcher.has_tree_window(&window.pack, window.number);
            (!is_known).then(|| (window.pack, tree_window(window.number)))
        };
        let landing = self.fetch(FrameKind::Node, wanted, Purpose::Neighbour, &mut busy);
        busy.arrived(u64::MAX);
        window.failures += 1;
        if !matches!(landing, Some((_, Landing::Failed(_)))) || window.failures >= ATTEMPTS_MAX {
            self.fetcher.below.counters.prefetch_bytes_left.sub(window.bytes());
            return;
        }
        let pause = PAUSE_FIRST * 2_u32.pow(window.failures - 1);
        let mut queue = self.queue.lock();
        self.changed.wait_while_for(&mut queue, |queue| !queue.stopping, pause);
        queue.windows.push_back(window);
    }
}

/// A thread at work, and its bytes on the line. Dropped with the work, however that ends.
struct Busy<'a> {
    shared: &'a Shared,
    bytes: u64,
    is_rest: bool,
}

impl Busy<'_> {
    /// So many of the bytes have arrived, or will not: the next may take their place on the line.
    fn arrived(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        if bytes > 0 {
            self.shared.queue.lock().bytes -= bytes;
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.bytes -= self.bytes;
        queue.busy -= 1;
        queue.rest_busy -= usize::from(self.is_rest);
        drop(queue);
        self.shared.changed.notify_all();
    }
}
