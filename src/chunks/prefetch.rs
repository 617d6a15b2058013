//! Fetching before it is asked for, in the background: what a reader will want next, then tree
//! packs, so that all metadata is soon local, then chunks that are likely wanted.
//!
//! The foreground never waits behind it. Foreground requests go first (`remote`), and the line is
//! not filled for them: a request of the background is small, and so few bytes are on their way
//! at once that what is on the line when a foreground request begins has arrived when its own
//! first byte does. A reader joins what is on its way; what only waits for its turn is on nobody's
//! list, so the reader fetches it at once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::format::{FrameKind, PackInfo, PackSlot};
use crate::remote::Brake;
use crate::types::{ChunkId, PackId, Standing};

use super::ahead::Purpose;
use super::fetch::Fetcher;
use super::flight::{Landing, Need};
use super::transfer::BACKGROUND_DEADLINE;
use super::window::{Piece, Window, is_chunk_slot, pieces, tree_window, tree_windows};

/// Bytes on their way at once while nobody waits: 25 ms of a line of 100 MB/s are 2.5 MB, and
/// requests begin and end at their own times.
const BYTES_AT_ONCE_MAX: u64 = 5_000_000;

/// The same for what no reader is on its way to, while a foreground request is under way.
const BYTES_BESIDE_FOREGROUND_MAX: u64 = 2_500_000;

/// Threads, and so requests at once: small pieces in many packs take a round trip each.
const THREADS_MAX: usize = 22;

/// Threads that metadata and the hot set may have; the others are for readers on their way.
const REST_THREADS_MAX: usize = 18;

/// How often a thread looks whether the foreground's request has ended.
const FOREGROUND_POLL: Duration = Duration::from_millis(5);

/// Pieces ahead of readers that may wait; a reader that finds none there fetches for itself.
const AHEAD_LEN_MAX: usize = 256;

/// Most windows and most pieces that may wait to be prefetched; more are left to be fetched when
/// they are touched.
const QUEUE_LEN_MAX: usize = 64 * 1024;

/// A window is given up after this many failures: it is fetched when it is touched.
const ATTEMPTS_MAX: u32 = 3;

/// Pause after a failure; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(2);

/// Chunks and their places.
pub(super) type ChunkList = Vec<(ChunkId, PackSlot)>;

/// Finds out which chunks a reader will want next, in a background thread.
pub(super) struct Scan {
    pub(super) find: Box<dyn FnOnce() -> ChunkList + Send>,
    /// What it finds goes before what other readers have ahead of them.
    pub(super) is_new: bool,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scan")
    }
}

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

/// What a thread does next.
#[derive(Debug)]
enum Work {
    Scan(Scan),
    Piece(Piece, Purpose),
    Window(TreeWindow),
}

impl Work {
    /// Bytes that it puts on the line.
    fn bytes(&self) -> u64 {
        match self {
            Work::Scan(_) => 0,
            Work::Piece(piece, _) => piece.range.end - piece.range.start,
            Work::Window(window) => window.bytes(),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    scans: VecDeque<Scan>,
    ahead: VecDeque<Piece>,
    windows: VecDeque<TreeWindow>,
    hot: VecDeque<Piece>,
    /// Bytes on their way.
    bytes: u64,
    /// Threads at work.
    busy: usize,
    /// Those of them that work for no reader.
    rest_busy: usize,
    threads: Vec<std::thread::JoinHandle<()>>,
    stopping: bool,
}

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
            fetched += piece.range.end - piece.range.start;
            fetched <= fetched_bytes_max
        };
        let pieces: Vec<Piece> = pieces(&fitting).into_iter().take_while(fits).collect();
        self.enqueue(|queue| {
            let room = QUEUE_LEN_MAX.saturating_sub(queue.hot.len());
            let before = queue.hot.len();
            queue.hot.extend(pieces.into_iter().take(room));
            queue.hot.range(before..).map(|piece| piece.range.end - piece.range.start).sum()
        });
    }

    /// Queues a look at what a reader will reach soon; what it finds goes first. False: too many
    /// wait already.
    pub(super) fn add_scan(&self, scan: Scan) -> bool {
        let mut is_taken = false;
        self.enqueue(|queue| {
            if queue.scans.len() < AHEAD_LEN_MAX {
                queue.scans.push_back(scan);
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
            (std::mem::take(&mut queue.threads), std::mem::take(&mut queue.scans))
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

impl Queue {
    fn len(&self) -> usize {
        self.scans.len() + self.ahead.len() + self.windows.len() + self.hot.len()
    }

    /// Whether so many bytes more may be put on the line. One request always may.
    fn has_room(&self, bytes: u64, beside_foreground: bool) -> bool {
        let max = if beside_foreground { BYTES_BESIDE_FOREGROUND_MAX } else { BYTES_AT_ONCE_MAX };
        self.bytes == 0 || self.bytes + bytes <= max
    }

    /// The next work, if there is any that may begin.
    fn take(&mut self, beside_foreground: bool) -> Option<Work> {
        if let Some(scan) = self.scans.pop_front() {
            return Some(Work::Scan(scan));
        }
        let bytes = |piece: &Piece| piece.range.end - piece.range.start;
        if let Some(piece) = self.ahead.front() {
            // The request beside it is often its own reader's.
            let may = self.has_room(bytes(piece), false);
            let piece = if may { self.ahead.pop_front() } else { None };
            return piece.map(|piece| Work::Piece(piece, Purpose::Ahead));
        }
        if self.rest_busy >= REST_THREADS_MAX {
            return None;
        }
        if let Some(window) = self.windows.front() {
            let may = self.has_room(window.bytes(), beside_foreground);
            return if may { self.windows.pop_front().map(Work::Window) } else { None };
        }
        let piece = self.hot.front()?;
        let may = self.has_room(bytes(piece), beside_foreground);
        let piece = if may { self.hot.pop_front() } else { None };
        piece.map(|piece| Work::Piece(piece, Purpose::Hot))
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
        let mut queue = self.queue.lock();
        loop {
            if queue.stopping {
                return None;
            }
            let beside_foreground = self.fetcher.traffic.has_foreground();
            if let Some(work) = queue.take(beside_foreground) {
                queue.busy += 1;
                queue.rest_busy += usize::from(!work.is_for_a_reader());
                queue.bytes += work.bytes();
                return Some(work);
            }
            if beside_foreground && queue.len() > 0 {
                self.changed.wait_for(&mut queue, FOREGROUND_POLL);
            } else {
                self.changed.wait(&mut queue);
            }
        }
    }

    fn deadline(&self) -> Duration {
        self.fetcher.below.clock.monotonic() + BACKGROUND_DEADLINE
    }

    fn scan(self: &Arc<Shared>, scan: Scan) {
        let pieces = pieces(&(scan.find)());
        let mut queue = self.queue.lock();
        let room = AHEAD_LEN_MAX.saturating_sub(queue.ahead.len());
        let pieces = pieces.into_iter().take(room);
        if scan.is_new {
            pieces.rev().for_each(|piece| queue.ahead.push_front(piece));
        } else {
            queue.ahead.extend(pieces);
        }
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
    ) -> Option<Landing> {
        wanted()?;
        let turn = self.fetcher.below.remote.wait_for_turn(&self.brake)?;
        let need = wanted()?;
        let window = Window { pack: need.0, range: need.1.clone(), wanted: Vec::new() };
        let led = self.fetcher.flights.depart(&[(0, need)], self.deadline(), |_| vec![window]).led;
        let lead = led.into_iter().next()?;
        let landing = self.fetcher.fly_in_turn(kind, &lead, purpose, (turn, &self.brake));
        busy.arrived();
        self.fetcher.keep(kind, &lead.flight, &landing);
        Some(landing)
    }

    /// Fetches chunks, unopened: they are checked when they are read. Where it fails, the reader
    /// finds out for itself.
    fn fetch_piece(&self, piece: &Piece, purpose: Purpose, mut busy: Busy<'_>) {
        let wanted = || {
            let rest = piece.rest(|id| self.fetcher.is_local(id));
            rest.map(|range| (piece.pack, range))
        };
        drop(self.fetch(FrameKind::Chunk, wanted, purpose, &mut busy));
        if purpose == Purpose::Hot {
            let bytes = piece.range.end - piece.range.start;
            self.fetcher.below.counters.prefetch_bytes_left.sub(bytes);
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
        busy.arrived();
        window.failures += 1;
        if !matches!(landing, Some(Landing::Failed(_))) || window.failures >= ATTEMPTS_MAX {
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
    /// The bytes of the request have arrived: the next may take their place on the line.
    fn arrived(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
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

impl Work {
    fn is_for_a_reader(&self) -> bool {
        matches!(self, Work::Scan(_) | Work::Piece(_, Purpose::Ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn piece(pack: u8, bytes: u64) -> Piece {
        Piece { pack: PackId([pack; 32]), range: 8..8 + bytes, chunks: Vec::new() }
    }

    /// Takes all that may begin, and tells which packs.
    fn begin(queue: &mut Queue, beside_foreground: bool) -> Vec<u8> {
        let mut packs = Vec::new();
        while let Some(work) = queue.take(beside_foreground) {
            queue.bytes += work.bytes();
            packs.push(match &work {
                Work::Piece(piece, _) => piece.pack.0[0],
                Work::Window(window) => window.pack.0[0],
                Work::Scan(_) => 0,
            });
        }
        packs
    }

    #[test]
    fn readers_go_first_then_metadata_then_the_hot_set_within_the_bytes_at_once() {
        let mut queue = Queue::default();
        queue.hot.extend([piece(1, MIB), piece(2, MIB)]);
        queue.windows.push_back(TreeWindow {
            pack: PackId([3; 32]),
            number: 0,
            pack_len: MIB,
            failures: 0,
        });
        queue.ahead.extend([piece(4, MIB), piece(5, MIB)]);
        queue.scans.push_back(Scan { find: Box::new(Vec::new), is_new: true });
        assert_eq!(begin(&mut queue, false), [0, 4, 5, 3, 1]);
        queue.bytes -= MIB;
        assert_eq!(begin(&mut queue, false), [2]);
    }

    #[test]
    fn beside_a_foreground_request_only_half_as_much_begins_but_never_nothing() {
        let mut queue = Queue::default();
        queue.hot.extend((1..=9).map(|pack| piece(pack, MIB)));
        assert_eq!(begin(&mut queue, true), [1, 2]);
        assert_eq!(begin(&mut queue, false), [3, 4]);
        queue.bytes -= 2 * MIB;
        assert!(begin(&mut queue, true).is_empty(), "what is on its way is enough");
        queue.bytes = 0;
        queue.hot.push_front(piece(10, 8 * MIB));
        assert_eq!(begin(&mut queue, true), [10]);
    }
}
