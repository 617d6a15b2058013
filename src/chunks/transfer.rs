//! Bringing frames from the store: windows, single flight, and what came along into the cache.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::format::{FrameHeader, FrameKind, PackSlot, pack_key};
use crate::remote::{Brake, GetRequest, RemoteError, Turn};
use crate::types::PackId;

use super::ahead::Purpose;
use super::fetch::Fetcher;
use super::flight::{Departure, Flight, Landing, Lead, Need};
use super::frames::{FrameId, frames_of_data_window, frames_of_tree_window};
use super::window::{TREE_WINDOW_BYTES, Window, slot_range, tree_window, tree_window_of};

/// How long a background request may take before a reader who waits for it tries itself.
pub(super) const BACKGROUND_DEADLINE: Duration = Duration::from_secs(60);

type Frame = Result<Bytes, RemoteError>;

impl Fetcher {
    /// Frames that were not in the cache, unopened, one result each. All requests go out at once;
    /// what is on its way for somebody else is waited for instead. Neighbours that come along are
    /// cached.
    pub(super) fn fetch_frames(
        &self,
        kind: FrameKind,
        list: &[(FrameId, PackSlot)],
        deadline: Duration,
    ) -> Vec<Frame> {
        let mut frames: Vec<Option<Frame>> = vec![None; list.len()];
        let mut left: Vec<(usize, Need)> =
            list.iter().map(|(_, slot)| (slot.pack, slot_range(slot))).enumerate().collect();
        while !left.is_empty() {
            let Departure { joined, mut led } =
                self.flights.depart(&left, deadline, |indices| self.windows(kind, list, indices));
            led.retain(|lead| !self.came_meanwhile(lead, list, &mut frames));
            for (lead, landing) in self.fly(kind, led, deadline) {
                for &index in &lead.wanted {
                    frames[index] = Some(cut(&landing, &lead.flight, &list[index].1));
                }
            }
            left.clear();
            for (index, flight) in joined {
                let slot = &list[index].1;
                match self.join(&flight, slot, deadline) {
                    Some(frame) => frames[index] = Some(frame),
                    None => left.push((index, (slot.pack, slot_range(slot)))),
                }
            }
        }
        // The loop ends when each slot has its frame or its error.
        frames.into_iter().flatten().collect()
    }

    /// The bytes of just these slots, past every cache and flight: for a second look at what was
    /// damaged.
    pub(super) fn fetch_exact(&self, slots: &[PackSlot], deadline: Duration) -> Vec<Frame> {
        let requests = slots.iter().map(|slot| (pack_key(&slot.pack), Some(slot_range(slot))));
        let counters = &self.below.counters;
        counters.fetch_requests.add_len(slots.len());
        let answers = self.below.remote.get_many_until(requests.collect(), deadline);
        answers.into_iter().map(|answer| answer.map(|object| object.bytes)).collect()
    }

    /// Whether the cache has all that a flight is wanted for, which is then in `frames`. A flight
    /// that landed after the caller had looked there, and left the table before this one came to
    /// it, has brought it: without a second look it would be fetched twice.
    fn came_meanwhile(
        &self,
        lead: &Lead,
        list: &[(FrameId, PackSlot)],
        frames: &mut [Option<Frame>],
    ) -> bool {
        let cached = |&index: &usize| self.below.local.cache_get(&list[index].0).ok().flatten();
        let found: Option<Vec<Bytes>> = lead.wanted.iter().map(cached).collect();
        let Some(found) = found else { return false };
        for (&index, frame) in lead.wanted.iter().zip(found) {
            frames[index] = Some(Ok(frame));
        }
        true
    }

    /// The windows that bring the frames of `list` at `indices`.
    fn windows(
        &self,
        kind: FrameKind,
        list: &[(FrameId, PackSlot)],
        indices: &[usize],
    ) -> Vec<Window> {
        let asked: Vec<PackSlot> = indices.iter().map(|&index| list[index].1).collect();
        let mut windows = match kind {
            FrameKind::Chunk => self.planner.plan(&asked),
            FrameKind::Node => tree_windows_for(&asked),
        };
        for window in &mut windows {
            for wanted in &mut window.wanted {
                *wanted = indices[*wanted];
            }
        }
        windows
    }

    /// Makes the requests of these flights, all at once, hands the bytes to who waits for them
    /// and caches the frames. The flights are over when the leads are dropped.
    fn fly(&self, kind: FrameKind, led: Vec<Lead>, deadline: Duration) -> Vec<(Lead, Landing)> {
        if led.is_empty() {
            return Vec::new();
        }
        let requests: Vec<_> = led.iter().map(request).collect();
        self.below.counters.fetch_requests.add_len(requests.len());
        let answers = {
            let _under_way = self.traffic.foreground(&*self.below.clock);
            self.below.remote.get_many_until(requests, deadline)
        };
        let mut flown = Vec::with_capacity(led.len());
        for (lead, answer) in led.into_iter().zip(answers) {
            let landing = Landing::of(answer);
            self.note(kind, &lead.flight, &landing, Purpose::Neighbour);
            lead.land(landing.clone());
            flown.push((lead, landing));
        }
        for (lead, landing) in &flown {
            self.keep(kind, &lead.flight, landing);
        }
        flown
    }

    /// Makes the request of one flight for the background, and hands the bytes to who waits for
    /// them. [`Fetcher::keep`] them before the lead is dropped.
    pub(super) fn fly_in_turn(
        &self,
        kind: FrameKind,
        lead: &Lead,
        purpose: Purpose,
        (turn, brake): (Turn, &Brake),
    ) -> Landing {
        self.below.counters.fetch_requests.add(1);
        let answer = self.below.remote.get_in_turn(turn, request(lead), brake);
        let landing = answer.map_or(Landing::Abandoned, Landing::of);
        self.note(kind, &lead.flight, &landing, purpose);
        lead.land(landing.clone());
        landing
    }

    /// Waits for somebody else's flight; none: it gave up before we have to, so fetch it again.
    fn join(&self, flight: &Flight, slot: &PackSlot, deadline: Duration) -> Option<Frame> {
        match flight.wait(deadline, self.below.clock.as_ref()) {
            Some(Landing::Abandoned) => None,
            Some(Landing::Failed(_)) if flight.deadline < deadline => None,
            Some(landing) => Some(cut(&landing, flight, slot)),
            None => Some(Err(RemoteError::Unavailable {
                key: pack_key(&slot.pack),
                waited: Duration::ZERO,
                cause: "the deadline came while another request for it was under way".to_owned(),
            })),
        }
    }

    /// Counts the frames of a window; those of data as fetched for this purpose. Before those who
    /// wait for the window are told.
    fn note(&self, kind: FrameKind, flight: &Flight, landing: &Landing, purpose: Purpose) {
        let Landing::Bytes(bytes) = landing else { return };
        let counters = &self.below.counters;
        let found = frames_of(kind, flight, bytes);
        match kind {
            FrameKind::Chunk => {
                counters.chunk_fetched_bytes.add_len(bytes.len());
                counters.chunks_fetched.add_len(found.len());
                let frames = found.iter().map(|(place, header)| (header.id, place.len()));
                self.ahead.fetched(purpose, frames, counters);
            }
            FrameKind::Node => {
                counters.node_fetched_bytes.add_len(bytes.len());
                counters.nodes_fetched.add_len(found.len());
            }
        }
    }

    /// Caches the frames of a window.
    pub(super) fn keep(&self, kind: FrameKind, flight: &Flight, landing: &Landing) {
        let Landing::Bytes(bytes) = landing else { return };
        let (pack, range) = (&flight.pack, &flight.range);
        for (place, header) in frames_of(kind, flight, bytes) {
            self.below.cache(&header.id, &bytes[place]);
        }
        if kind == FrameKind::Node && range.start.is_multiple_of(TREE_WINDOW_BYTES) {
            self.note_tree_window(pack, tree_window_of(range.start));
        }
    }

    /// Notes that a tree window was fetched whole, so that a later mount does not prefetch it
    /// again. The note lives in the cache, and goes the way of what it speaks of.
    pub(super) fn note_tree_window(&self, pack: &PackId, number: u64) {
        self.below.cache(&note_id(pack, number), &number.to_le_bytes());
    }

    /// Whether the window was fetched before and its note is still in the cache.
    pub(super) fn has_tree_window(&self, pack: &PackId, number: u64) -> bool {
        self.below.is_cached(&note_id(pack, number))
    }
}

/// The whole frames in the bytes of a window.
fn frames_of(kind: FrameKind, flight: &Flight, bytes: &[u8]) -> Vec<(Range<usize>, FrameHeader)> {
    match kind {
        FrameKind::Chunk => frames_of_data_window(bytes),
        FrameKind::Node => frames_of_tree_window(bytes, flight.range.start),
    }
}

fn request(lead: &Lead) -> GetRequest {
    (pack_key(&lead.flight.pack), Some(lead.flight.range.clone()))
}

fn note_id(pack: &PackId, number: u64) -> FrameId {
    let mut hasher = blake3::Hasher::new_derive_key("dormouse 2026 fetched tree window");
    hasher.update(pack.as_bytes()).update(&number.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// The windows that bring these nodes: aligned ones, and for a node that reaches beyond its
/// window's slack, its own bytes.
fn tree_windows_for(slots: &[PackSlot]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        let own = slot_range(slot);
        let aligned = tree_window(tree_window_of(own.start));
        let range = if own.end <= aligned.end { aligned } else { own };
        match windows.iter_mut().find(|w| w.pack == slot.pack && w.range == range) {
            Some(window) => window.wanted.push(index),
            // Whole, for it is noted as fetched.
            None => windows.push(Window::whole(slot.pack, range, vec![index])),
        }
    }
    windows
}

/// A slot's bytes out of a window's.
fn cut(landing: &Landing, flight: &Flight, slot: &PackSlot) -> Frame {
    let damaged =
        |cause: &str| RemoteError::Corrupt { key: pack_key(&slot.pack), cause: cause.to_owned() };
    match landing {
        Landing::Bytes(bytes) => {
            let start = slot_range(slot).start.checked_sub(flight.range.start);
            let start = start.and_then(|start| usize::try_from(start).ok());
            let range = start.map(|start| start..start.saturating_add(slot.len as usize));
            match range {
                Some(range) if range.end <= bytes.len() => Ok(bytes.slice(range)),
                _ => Err(damaged("the pack ends before the frame")),
            }
        }
        Landing::Failed(error) => Err(error.clone()),
        Landing::Abandoned => Err(damaged("the request was abandoned")),
    }
}
