//! Counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::counting::Op;

/// Totals since the start, for receipts, metrics and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct RemoteStats {
    /// GET requests.
    pub gets: u64,
    /// HEAD requests.
    pub stats: u64,
    /// PUT requests.
    pub puts: u64,
    /// DELETE requests.
    pub deletes: u64,
    /// LIST requests (one, however many pages it has).
    pub lists: u64,
    /// Attempts repeated after a failure (not counted above).
    pub retries: u64,
    /// Object bytes received.
    pub bytes_in: u64,
    /// Object bytes sent and acknowledged.
    pub bytes_out: u64,
    /// Longest chain of requests each started after the one before it had ended.
    pub round_trips: u64,
}

impl RemoteStats {
    /// All requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.gets + self.stats + self.puts + self.deletes + self.lists
    }
}

/// The longest chain of requests of which each began after the one before it had ended. Whether
/// one really depended on the other is not known, so this is an upper bound.
#[derive(Debug, Default)]
pub(super) struct Chain {
    ended: AtomicU64,
}

impl Chain {
    /// A request begins now; it ends when the link is dropped, so also when it is given up.
    pub(super) fn begin(&self) -> Link<'_> {
        Link { chain: self, place: self.ended.load(Relaxed) + 1 }
    }

    pub(super) fn len(&self) -> u64 {
        self.ended.load(Relaxed)
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Link<'a> {
    chain: &'a Chain,
    /// Its place in the chain, from 1.
    pub(super) place: u64,
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        self.chain.ended.fetch_max(self.place, Relaxed);
    }
}

/// Running totals behind [`RemoteStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: [AtomicU64; Op::ALL.len()],
    retries: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    pub(super) chain: Chain,
}

impl Counters {
    pub(super) fn request(&self, op: Op) {
        self.requests[op as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    pub(super) fn totals(&self) -> RemoteStats {
        let requests = |op: Op| self.requests[op as usize].load(Relaxed);
        RemoteStats {
            gets: requests(Op::Get),
            stats: requests(Op::Stat),
            puts: requests(Op::Put),
            deletes: requests(Op::Delete),
            lists: requests(Op::List),
            retries: self.retries.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            round_trips: self.chain.len(),
        }
    }
}
