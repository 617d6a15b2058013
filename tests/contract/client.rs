//! The client's own promises: retries, deadlines, priorities, limits, exact counts.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use dormouse::remote::{
    CountingStore, Fault, FaultStore, MemoryStore, ObjectStore, Op, PutMode, RateLimitStore,
    Remote, RemoteError, RemoteOptions, When,
};
use dormouse::types::{Clock, SystemClock};

struct Bench {
    counting: Arc<CountingStore>,
    faults: Arc<FaultStore>,
    remote: Arc<Remote>,
    clock: Arc<SystemClock>,
}

/// A client over faults over counters over memory, so that the counters see what is applied.
fn bench(options: &RemoteOptions) -> Bench {
    let clock = Arc::new(SystemClock::new());
    let counting = CountingStore::new(Arc::new(MemoryStore::new(clock.clone())));
    let faults = FaultStore::new(counting.clone(), 1);
    let remote = Remote::from_store(faults.clone(), options, clock.clone()).unwrap();
    Bench { counting, faults, remote, clock }
}

/// Short, but long enough that a busy machine answers in time what is answered at all.
fn short() -> RemoteOptions {
    RemoteOptions {
        deadline: Duration::from_millis(3000),
        attempt_timeout: Duration::from_millis(1000),
        ..RemoteOptions::default()
    }
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn a_failure_that_passes_is_not_seen() {
    let Bench { counting, faults, remote, .. } = bench(&RemoteOptions::default());
    for op in [Op::Put, Op::Get, Op::Stat, Op::List, Op::Delete] {
        faults.inject(When { times: 2, ..When::next(op, "") }, Fault::Unavailable);
    }
    remote.put("k", body("x"), PutMode::Any).unwrap();
    assert_eq!(remote.get("k").unwrap().bytes, "x");
    assert_eq!(remote.stat("k").unwrap().size, 1);
    assert_eq!(remote.list("").unwrap().len(), 1);
    remote.delete("k").unwrap();
    assert_eq!(remote.stats().retries, 10);
    assert_eq!(remote.stats().requests(), 5, "a retry is no new request");
    assert_eq!(counting.stats().requests(), 5);
}

#[test]
fn a_conditional_put_that_surely_failed_is_tried_again() {
    let Bench { faults, remote, .. } = bench(&RemoteOptions::default());
    faults.inject(When::next(Op::Put, "k"), Fault::Unavailable);
    remote.put("k", body("x"), PutMode::Create).unwrap();
    assert_eq!(remote.stats().retries, 1);
}

#[test]
fn a_lost_answer_to_a_conditional_put_is_ambiguous_and_never_repeated() {
    let Bench { counting, faults, remote, .. } = bench(&short());
    for (key, fault) in [("lost", Fault::LostAnswer), ("hung", Fault::HangAfter)] {
        faults.inject(When::next(Op::Put, key), fault);
        let error = remote.put(key, body("x"), PutMode::Create).unwrap_err();
        assert!(matches!(error, RemoteError::Ambiguous { .. }), "{error}");
        assert_eq!(remote.get(key).unwrap().bytes, "x", "it was applied");
        assert_eq!(counting.count(Op::Put, key), 1);
        let version = remote.stat(key).unwrap().version;
        let fault = if key == "lost" { Fault::LostAnswer } else { Fault::Hang };
        faults.inject(When::next(Op::Put, key), fault);
        let error = remote.put(key, body("y"), PutMode::Swap(version)).unwrap_err();
        assert!(matches!(error, RemoteError::Ambiguous { .. }), "{error}");
    }
    assert_eq!(remote.get("lost").unwrap().bytes, "y", "it was applied");
    assert_eq!(remote.get("hung").unwrap().bytes, "x", "it was not");
    assert_eq!(remote.stats().retries, 0);
}

#[test]
fn a_lost_answer_to_an_unconditional_put_is_repeated() {
    let Bench { counting, faults, remote, .. } = bench(&RemoteOptions::default());
    faults.inject(When::next(Op::Put, "k"), Fault::LostAnswer);
    remote.put("k", body("x"), PutMode::Any).unwrap();
    assert_eq!(counting.count(Op::Put, "k"), 2);
}

#[test]
fn an_attempt_that_hangs_is_given_up_and_repeated() {
    let Bench { faults, remote, .. } = bench(&short());
    remote.put("k", body("x"), PutMode::Any).unwrap();
    faults.inject(When::next(Op::Get, "k"), Fault::Hang);
    assert_eq!(remote.get("k").unwrap().bytes, "x");
    assert_eq!(remote.stats().retries, 1);
}

#[test]
fn every_call_ends_by_its_deadline() {
    let Bench { faults, remote, clock, .. } = bench(&short());
    faults.set_outage(true);
    let start = clock.monotonic();
    let error = remote.get("k").unwrap_err();
    let waited = clock.monotonic() - start;
    assert!(error.is_transient() && error.to_string().contains("injected"), "{error}");
    assert!(waited >= Duration::from_millis(2000), "gave up after {waited:?}");
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    faults.heal();
    faults.inject(When::every(Op::Get, ""), Fault::Hang);
    let start = clock.monotonic();
    let soon = start + Duration::from_millis(50);
    assert!(remote.get_until("k", None, soon).unwrap_err().is_transient());
    assert!(remote.get_many_until(vec![("k".to_owned(), None)], soon)[0].is_err());
    assert!(clock.monotonic() - start < Duration::from_millis(2500), "not the client's deadline");
    faults.heal();
    assert!(matches!(remote.get("k"), Err(RemoteError::Absent { .. })), "back in service");
}

#[test]
fn a_refusal_is_final_at_once() {
    let Bench { faults, remote, .. } = bench(&RemoteOptions::default());
    let denied = RemoteError::Denied { cause: "no".to_owned() };
    faults.inject(When::every(Op::Get, ""), Fault::Answer(denied.clone()));
    assert_eq!(remote.get("k").unwrap_err(), denied);
    assert_eq!(remote.stats().retries, 0);
}

#[test]
fn a_body_cut_off_on_its_way_is_fetched_again() {
    let Bench { faults, remote, .. } = bench(&RemoteOptions::default());
    remote.put("k", body("0123456789"), PutMode::Any).unwrap();
    faults.inject(When { times: 2, ..When::next(Op::Get, "k") }, Fault::Truncate(3));
    assert_eq!(remote.get("k").unwrap().bytes, "0123456789");
    assert_eq!(remote.get_range("k", 5..100).unwrap().bytes, "56789");
    assert_eq!(remote.stats().retries, 2);
    faults.inject(When::next(Op::Get, "k"), Fault::Corrupt(2));
    let damaged = remote.get("k").unwrap().bytes;
    assert_eq!(damaged, "0133456789", "damage within is for the hashes above to find");
}

#[test]
fn random_faults_replay_from_their_seed() {
    let run = || {
        let Bench { faults, remote, .. } = bench(&RemoteOptions::default());
        faults.set_random(300);
        for number in 0..30 {
            remote.put(&format!("k{number}"), body("x"), PutMode::Any).unwrap();
        }
        faults.injected()
    };
    let first = run();
    assert!(first > 3, "{first}");
    assert_eq!(first, run());
}

#[test]
fn the_foreground_never_waits_behind_the_background() {
    let options = RemoteOptions { concurrency_max: 4, ..RemoteOptions::default() };
    let Bench { faults, remote, clock, .. } = bench(&options);
    for number in 0..40 {
        remote.put(&format!("back/{number}"), body("x"), PutMode::Any).unwrap();
    }
    remote.put("front", body("y"), PutMode::Any).unwrap();
    faults.inject(When::every(Op::Get, "back"), Fault::Latency(Duration::from_secs(5)));
    faults.inject(When::every(Op::Put, "back"), Fault::Latency(Duration::from_secs(5)));
    let uploads: Vec<_> = (0..40)
        .map(|number| remote.submit_put(&format!("back/{number}"), body("z"), PutMode::Any))
        .collect();
    let fetches =
        remote.spawn_get_many((0..40).map(|number| (format!("back/{number}"), None)).collect());
    thread::sleep(Duration::from_millis(50));
    assert!(!uploads[39].is_done());
    let start = clock.monotonic();
    assert_eq!(remote.get("front").unwrap().bytes, "y");
    let waited = clock.monotonic() - start;
    assert!(waited < Duration::from_secs(4), "waited {waited:?} behind the background");
    drop((uploads, fetches));
}

#[test]
fn the_upload_limit_holds_large_bodies_back_and_lets_small_ones_pass() {
    let options =
        RemoteOptions { upload_bytes_per_sec_max: 256 * 1024, ..RemoteOptions::default() };
    let Bench { remote, clock, .. } = bench(&options);
    let large = Bytes::from(vec![7; 256 * 1024]);
    let start = clock.monotonic();
    let uploads: Vec<_> = (0..4)
        .map(|number| remote.submit_put(&format!("{number}"), large.clone(), PutMode::Any))
        .collect();
    remote.put("head", body("x"), PutMode::Create).unwrap();
    assert!(clock.monotonic() - start < Duration::from_millis(2500), "the head waited");
    for upload in uploads {
        upload.wait().unwrap();
    }
    let took = clock.monotonic() - start;
    assert!(took >= Duration::from_millis(2800), "1 MiB left in {took:?}");
    assert_eq!(remote.stats().bytes_out, 1024 * 1024 + 1);
}

#[test]
fn requests_bytes_and_round_trips_are_counted_exactly() {
    let Bench { counting, remote, .. } = bench(&RemoteOptions::default());
    remote.put("a", body("12345"), PutMode::Any).unwrap();
    remote.put("b", body("123"), PutMode::Any).unwrap();
    counting.reset();
    let pair = vec![("a".to_owned(), None), ("b".to_owned(), Some(1..3))];
    for answer in remote.get_many(pair) {
        answer.unwrap();
    }
    remote.put("c", body("1"), PutMode::Create).unwrap();
    let stats = counting.stats();
    assert_eq!((stats.gets, stats.puts, stats.requests()), (2, 1, 3));
    assert_eq!((stats.bytes_in, stats.bytes_out), (7, 1));
    let log = counting.log();
    assert_eq!(log.len(), 3);
    assert_eq!((log[2].op, log[2].key.as_str(), log[2].bytes), (Op::Put, "c", 1));
    assert!(log.iter().any(|call| call.key == "b" && call.range == Some(1..3)));
    assert_eq!((counting.count(Op::Get, ""), counting.count(Op::Get, "b")), (2, 1));
    assert_eq!(remote.stats().puts, 3);
}

#[test]
fn requests_at_once_are_one_round_trip() {
    let clock = Arc::new(SystemClock::new());
    let memory = Arc::new(MemoryStore::new(clock.clone()));
    let slow = RateLimitStore::new(memory, Duration::from_millis(500), 0, 0);
    let counting = CountingStore::new(slow);
    let options = RemoteOptions::default();
    let remote = Remote::from_store(counting.clone(), &options, clock.clone()).unwrap();
    let pair = vec![("a".to_owned(), None), ("b".to_owned(), None)];
    assert!(remote.get_many(pair).iter().all(Result::is_err));
    assert_eq!(counting.stats().round_trips, 1);
    remote.put("head", body("x"), PutMode::Create).unwrap();
    assert_eq!(counting.stats().round_trips, 2);
    let places: Vec<_> = counting.log().iter().map(|call| call.round_trip).collect();
    assert_eq!(places, [1, 1, 2]);
    assert_eq!(remote.stats().round_trips, 2);
}

#[test]
fn a_slow_line_is_as_slow_as_told() {
    let clock = Arc::new(SystemClock::new());
    let memory = Arc::new(MemoryStore::new(clock.clone()));
    let store: Arc<dyn ObjectStore> = RateLimitStore::new(memory, Duration::ZERO, 0, 100_000);
    let remote = Remote::from_store(store, &RemoteOptions::default(), clock.clone()).unwrap();
    remote.put("k", Bytes::from(vec![1; 20_000]), PutMode::Any).unwrap();
    let start = clock.monotonic();
    remote.get("k").unwrap();
    assert!(clock.monotonic() - start >= Duration::from_millis(190));
}

#[test]
fn a_client_may_be_used_and_dropped_inside_another_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Bench { remote, .. } = bench(&RemoteOptions::default());
        remote.put("k", body("x"), PutMode::Any).unwrap();
        assert_eq!(remote.get("k").unwrap().bytes, "x");
        drop(remote);
    });
}

#[test]
fn a_store_that_is_away_is_given_up_after_the_deadline_however_much_there_is_to_send() {
    let Bench { faults, remote, .. } = bench(&short());
    faults.set_outage(true);
    // Its transfer may take half a minute on a slow line.
    let body = Bytes::from(vec![0; 4 << 20]);
    match remote.put("large", body, PutMode::Any) {
        Err(RemoteError::Unavailable { waited, .. }) => {
            assert!(waited < Duration::from_secs(10), "{waited:?}");
        }
        other => panic!("{other:?}"),
    }
}
