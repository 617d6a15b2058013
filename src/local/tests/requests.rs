//! Requests that were carried out and not answered when a daemon died.

use super::*;
use crate::types::{ConnectionId, RequestId};

const CONNECTION: ConnectionId = ConnectionId(7);

fn request(unique: u64) -> RequestId {
    RequestId { connection: CONNECTION, unique }
}

fn carry_out(local: &Local, request: RequestId, result: u64) {
    let mut batch = Batch::new();
    batch.put(key(result), b"done".to_vec());
    batch.carry_out(CarriedOut { request, result });
    local.commit(batch).unwrap();
}

fn adopt(dir: &Path) -> Local {
    open_with(dir, &LocalOptions { connection: Some(CONNECTION), ..small() })
}

/// Fills tables until what was committed before has gone to RocksDB, and its segments are swept.
fn push_out(local: &Local, from: u64) {
    for n in from..from + 3000 {
        put(local, n, n);
    }
    local.with_cut(|_| ()).unwrap();
    local.sweep().unwrap();
}

#[test]
fn a_request_without_an_answer_is_known_wherever_its_record_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let other = RequestId { connection: ConnectionId(8), unique: 2 };
    carry_out(&local, request(2), 100);
    carry_out(&local, request(4), 101);
    carry_out(&local, other, 102);
    local.answered(&request(4));
    push_out(&local, 10_000);
    // These stay in the journal.
    carry_out(&local, request(6), 103);
    carry_out(&local, request(8), 104);
    local.answered(&request(8));
    drop(local);
    for _ in 0..2 {
        // The one that takes over dies too, before it has answered.
        let local = adopt(dir.path());
        assert_eq!(local.carried_out(&request(2)), Some(100));
        assert_eq!(local.carried_out(&request(4)), None, "answered before its table was moved");
        assert_eq!(local.carried_out(&other), None, "of another mount");
        assert_eq!(local.carried_out(&request(6)), Some(103));
        assert_eq!(local.carried_out(&request(10)), None);
        push_out(&local, 20_000);
    }
    let local = adopt(dir.path());
    // Answered, which leaves no trace, but it does not come again either.
    local.forget_requests_but(&[request(2), request(6)]);
    assert_eq!(local.carried_out(&request(8)), None);
    local.answered(&request(2));
    assert_eq!(local.carried_out(&request(2)), None);
    assert_eq!(local.carried_out(&request(6)), Some(103));
    local.close().unwrap();
    drop(local);
    // Also after a clean close: an upgrade.
    assert_eq!(adopt(dir.path()).carried_out(&request(6)), Some(103));
    let local = open(dir.path());
    assert_eq!(local.carried_out(&request(6)), None, "a new mount: nothing comes again");
}

#[test]
fn a_commit_that_fails_carries_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    local.close().unwrap();
    let mut batch = Batch::new();
    batch.put(key(1), b"x".to_vec());
    batch.carry_out(CarriedOut { request: request(2), result: 1 });
    assert!(local.commit(batch).is_err());
    assert_eq!(local.carried_out(&request(2)), None);
    drop(local);
    assert_eq!(adopt(dir.path()).carried_out(&request(2)), None);
}
