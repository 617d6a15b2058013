//! Requests of the kernel that were carried out and perhaps not answered.
//!
//! A daemon can die between the two. The kernel then sends the request again, to the daemon that
//! takes the mount over, and that one must not carry it out a second time: a name that was removed
//! would be missed. So a commit's record in the journal says which request it carries out. Where
//! the journal's records go to RocksDB, those that have no answer yet go along, in the same write
//! as the applied position; so at any instant what is in RocksDB and what is in the journal behind
//! the position name them all. There may be more: an answer leaves no trace.
//!
//! ```text
//! 0            8        16       24
//! | connection | unique | result | ...
//! | u64        | u64    | u64    |
//! ```

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{CarriedOut, LocalError};
use crate::types::{ConnectionId, RequestId};

/// Length of one, bytes.
const ENCODED_LEN: usize = 24;

/// Lock order: a leaf, also under the commit lock. Bounded by the requests under way, and while a
/// daemon takes over by the records that the journal holds.
#[derive(Debug, Default)]
pub(super) struct Requests {
    results: Mutex<HashMap<RequestId, u64>>,
}

impl Requests {
    /// Those that RocksDB has of this connection; none is wanted of others.
    pub(super) fn recover(
        connection: Option<ConnectionId>,
        encoded: &[u8],
    ) -> Result<Requests, LocalError> {
        let requests = Requests::default();
        let (all, rest) = encoded.as_chunks::<ENCODED_LEN>();
        if !rest.is_empty() {
            return Err(LocalError::corrupt("the requests without an answer"));
        }
        for one in all {
            requests.recovered(connection, decode(one));
        }
        Ok(requests)
    }

    /// One that the journal has.
    pub(super) fn recovered(&self, connection: Option<ConnectionId>, done: CarriedOut) {
        if connection == Some(done.request.connection) {
            self.carried_out(done);
        }
    }

    pub(super) fn carried_out(&self, done: CarriedOut) {
        self.results.lock().insert(done.request, done.result);
    }

    pub(super) fn answered(&self, request: &RequestId) {
        self.results.lock().remove(request);
    }

    pub(super) fn result(&self, request: &RequestId) -> Option<u64> {
        self.results.lock().get(request).copied()
    }

    pub(super) fn forget_but(&self, those: &[RequestId]) {
        let mut results = self.results.lock();
        let kept = those.iter().filter_map(|id| results.get(id).map(|&result| (*id, result)));
        *results = kept.collect();
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let results = self.results.lock();
        let mut out = Vec::with_capacity(results.len() * ENCODED_LEN);
        for (request, result) in results.iter() {
            out.extend_from_slice(&request.connection.0.to_le_bytes());
            out.extend_from_slice(&request.unique.to_le_bytes());
            out.extend_from_slice(&result.to_le_bytes());
        }
        out
    }
}

fn decode(bytes: &[u8; ENCODED_LEN]) -> CarriedOut {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let request = RequestId { connection: ConnectionId(word(0)), unique: word(8) };
    CarriedOut { request, result: word(16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(connection: u64, unique: u64) -> CarriedOut {
        let request = RequestId { connection: ConnectionId(connection), unique };
        CarriedOut { request, result: unique + 1 }
    }

    #[test]
    fn those_of_the_connection_come_back_and_of_no_other() {
        let requests = Requests::default();
        let (mine, answered, other) = (done(1, 2), done(1, 4), done(9, 2));
        for one in [mine, answered, other] {
            requests.carried_out(one);
        }
        requests.answered(&answered.request);
        let encoded = requests.encode();
        let again = Requests::recover(Some(ConnectionId(1)), &encoded).unwrap();
        assert_eq!(again.result(&mine.request), Some(3));
        assert_eq!(again.result(&answered.request), None);
        assert_eq!(again.result(&other.request), None);
        assert!(Requests::recover(None, &encoded).unwrap().encode().is_empty());
        assert!(Requests::recover(None, &encoded[1..]).is_err());
    }

    #[test]
    fn what_does_not_come_again_is_forgotten() {
        let requests = Requests::default();
        requests.carried_out(done(1, 2));
        requests.carried_out(done(1, 4));
        requests.forget_but(&[done(1, 4).request, done(1, 6).request]);
        assert_eq!(requests.result(&done(1, 2).request), None);
        assert_eq!(requests.result(&done(1, 4).request), Some(5));
        assert_eq!(requests.result(&done(1, 6).request), None);
    }
}
