//! What every store must do, as a list of functions. Run on memory and directories by
//! tests/contract, on real S3 servers by tests/s3.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Barrier};
use std::thread;

use bytes::Bytes;
use dormouse::remote::{Object, PutMode, Remote, RemoteError, Version};

/// A store under test.
pub struct Bench<'a> {
    /// A new client of the same place each time.
    pub open: &'a (dyn Fn() -> Arc<Remote> + Sync),
    /// A client of a place beside it.
    pub sibling: Option<Arc<Remote>>,
    /// Objects that a listing must be able to hold (over 1,000 needs pages on S3).
    pub many: usize,
}

type Check = fn(&Bench<'_>);

/// The promises, each with its name.
pub const SUITE: &[(&str, Check)] = &[
    ("an object reads back whole and in ranges", reads_back),
    ("a range is clamped to the object", ranges_are_clamped),
    ("a large and an empty object are kept", large_and_empty),
    ("an absent object is absent, and may be deleted", absent_is_absent),
    ("a folder of objects is no object", a_folder_is_no_object),
    ("an object is created once", created_once),
    ("a swap needs the current version", swap_needs_current),
    ("an unconditional put overwrites", any_overwrites),
    ("get, stat, list and put name one version", versions_agree),
    ("a deleted object can be created again", deleted_and_created),
    ("one of many racing creators wins", creators_race),
    ("racing swaps lose no update", swaps_race),
    ("a reader sees whole objects while they change", readers_see_whole_objects),
    ("a listing is complete, sorted and of its prefix", listings),
    ("last_modified and store_now are of one clock", one_clock),
    ("many requests are answered each by itself", many_at_once),
    ("background requests all end", background),
    ("places beside each other are apart", siblings_are_apart),
    ("the probe accepts, and leaves nothing", probe_accepts),
];

/// Runs all on a store whose condition style is known.
pub fn run(bench: &Bench<'_>) {
    for (promise, check) in SUITE {
        println!("  {promise}");
        check(bench);
    }
}

fn put(remote: &Remote, key: &str, body: &str, mode: PutMode) -> Result<Version, RemoteError> {
    let stored = remote.put(key, Bytes::copy_from_slice(body.as_bytes()), mode)?;
    assert_eq!((stored.key(), stored.size()), (key, body.len() as u64));
    Ok(stored.version().clone())
}

fn text(object: Object) -> String {
    String::from_utf8(object.bytes.to_vec()).unwrap()
}

fn is_absent<T>(answer: &Result<T, RemoteError>) -> bool {
    matches!(answer, Err(RemoteError::Absent { .. }))
}

fn is_conflict<T>(answer: &Result<T, RemoteError>) -> bool {
    matches!(answer, Err(RemoteError::Conflict { .. }))
}

/// Bytes of which every stretch tells where it is.
pub fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>().into()
}

fn reads_back(bench: &Bench<'_>) {
    let remote = (bench.open)();
    let body = pattern(10_000);
    remote.put("whole/a.b-c_D", body.clone(), PutMode::Any).unwrap();
    let object = remote.get("whole/a.b-c_D").unwrap();
    assert_eq!(object.bytes, body);
    assert_eq!((object.meta.key.as_str(), object.meta.size), ("whole/a.b-c_D", 10_000));
    for range in [0..1, 0..10_000, 9_999..10_000, 1234..5678] {
        let object = remote.get_range("whole/a.b-c_D", range.clone()).unwrap();
        assert_eq!(object.bytes, body[range.start as usize..range.end as usize], "{range:?}");
        assert_eq!(object.meta.size, 10_000, "the size is the whole object's");
    }
}

fn ranges_are_clamped(bench: &Bench<'_>) {
    let remote = (bench.open)();
    put(&remote, "clamp", "0123456789", PutMode::Any).unwrap();
    let cases: [(Range<u64>, &str); 6] = [
        (7..1000, "789"),
        (0..u64::MAX, "0123456789"),
        (10..20, ""),
        (11..20, ""),
        (5..5, ""),
        (0..0, ""),
    ];
    for (range, expected) in cases {
        let object = remote.get_range("clamp", range.clone()).unwrap();
        assert_eq!(object.meta.size, 10, "{range:?}");
        assert_eq!(text(object), expected, "{range:?}");
    }
}

fn large_and_empty(bench: &Bench<'_>) {
    let remote = (bench.open)();
    let large = pattern(17 * 1024 * 1024 + 1);
    remote.put("large", large.clone(), PutMode::Any).unwrap();
    assert!(remote.get("large").unwrap().bytes == large);
    let tail = remote.get_range("large", 17 * 1024 * 1024 - 5..u64::MAX).unwrap();
    assert_eq!(tail.bytes, large[17 * 1024 * 1024 - 5..]);
    put(&remote, "empty", "", PutMode::Create).unwrap();
    let empty = remote.get("empty").unwrap();
    assert_eq!((empty.meta.size, empty.bytes.len()), (0, 0));
    assert_eq!(remote.get_range("empty", 0..10).unwrap().bytes.len(), 0);
    assert_eq!(remote.stat("empty").unwrap().size, 0);
}

fn absent_is_absent(bench: &Bench<'_>) {
    let remote = (bench.open)();
    assert!(is_absent(&remote.get("nothing")));
    assert!(is_absent(&remote.get("nothing/here/either")));
    assert!(is_absent(&remote.get_range("nothing", 0..10)));
    assert!(is_absent(&remote.get_range("nothing", 0..0)));
    assert!(is_absent(&remote.stat("nothing")));
    remote.delete("nothing").unwrap();
    remote.delete("nothing/here/either").unwrap();
    assert_eq!(remote.list("nothing").unwrap(), Vec::new());
}

fn a_folder_is_no_object(bench: &Bench<'_>) {
    let remote = (bench.open)();
    put(&remote, "folder/object", "x", PutMode::Any).unwrap();
    assert!(is_absent(&remote.get("folder")));
    assert!(is_absent(&remote.stat("folder")));
    remote.delete("folder").unwrap();
    assert_eq!(text(remote.get("folder/object").unwrap()), "x");
}

fn created_once(bench: &Bench<'_>) {
    let (remote, other) = ((bench.open)(), (bench.open)());
    put(&remote, "once/created", "first", PutMode::Create).unwrap();
    assert!(is_conflict(&put(&other, "once/created", "second", PutMode::Create)));
    assert!(is_conflict(&put(&remote, "once/created", "first", PutMode::Create)));
    assert_eq!(text(other.get("once/created").unwrap()), "first");
}

fn swap_needs_current(bench: &Bench<'_>) {
    let (remote, other) = ((bench.open)(), (bench.open)());
    let first = put(&remote, "swap", "first", PutMode::Create).unwrap();
    let seen = other.get("swap").unwrap().meta.version;
    let second = put(&other, "swap", "second", PutMode::Swap(seen)).unwrap();
    assert_ne!(first, second);
    assert!(is_conflict(&put(&remote, "swap", "stale", PutMode::Swap(first.clone()))));
    assert_eq!(text(remote.get("swap").unwrap()), "second");
    put(&remote, "swap", "third", PutMode::Swap(second)).unwrap();
    // Nothing, or nothing any more, is another version too.
    assert!(is_conflict(&put(&remote, "swap-of-nothing", "x", PutMode::Swap(first.clone()))));
    assert!(is_absent(&remote.get("swap-of-nothing")));
    remote.delete("swap").unwrap();
    assert!(is_conflict(&put(&remote, "swap", "x", PutMode::Swap(first))));
    assert!(is_absent(&remote.get("swap")));
}

fn any_overwrites(bench: &Bench<'_>) {
    let remote = (bench.open)();
    let first = put(&remote, "any", "first", PutMode::Any).unwrap();
    put(&remote, "any", "second", PutMode::Any).unwrap();
    assert_eq!(text(remote.get("any").unwrap()), "second");
    assert!(is_conflict(&put(&remote, "any", "third", PutMode::Swap(first))));
    assert!(is_conflict(&put(&remote, "any", "third", PutMode::Create)));
}

fn versions_agree(bench: &Bench<'_>) {
    let remote = (bench.open)();
    let stored = put(&remote, "agree/one", "body", PutMode::Create).unwrap();
    assert_eq!(remote.get("agree/one").unwrap().meta.version, stored);
    assert_eq!(remote.get_range("agree/one", 1..2).unwrap().meta.version, stored);
    assert_eq!(remote.stat("agree/one").unwrap().version, stored);
    let listed = remote.list("agree/").unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].version, listed[0].size), (&stored, 4));
    put(&remote, "agree/one", "through a listing", PutMode::Swap(listed[0].version.clone()))
        .unwrap();
}

fn deleted_and_created(bench: &Bench<'_>) {
    let remote = (bench.open)();
    put(&remote, "again", "first", PutMode::Create).unwrap();
    remote.delete("again").unwrap();
    assert!(is_absent(&remote.get("again")));
    put(&remote, "again", "second", PutMode::Create).unwrap();
    assert_eq!(text(remote.get("again").unwrap()), "second");
}

/// Runs `work` on so many clients at the same moment.
fn race<T: Send>(
    bench: &Bench<'_>,
    clients: usize,
    work: impl Fn(usize, &Remote) -> T + Sync,
) -> Vec<T> {
    let start = Barrier::new(clients);
    thread::scope(|scope| {
        let racer = |number| {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                let remote = (bench.open)();
                start.wait();
                work(number, &remote)
            })
        };
        let racers: Vec<_> = (0..clients).map(racer).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

fn creators_race(bench: &Bench<'_>) {
    let remote = (bench.open)();
    for round in 0..5 {
        let key = format!("race/{round}");
        let won = race(bench, 8, |number, remote| {
            match put(remote, &key, &format!("racer {number}"), PutMode::Create) {
                Ok(_) => Some(number),
                Err(RemoteError::Conflict { .. }) => None,
                // Ceph may answer 500: only a look tells.
                Err(RemoteError::Ambiguous { .. }) => {
                    let there = text(remote.get(&key).unwrap());
                    (there == format!("racer {number}")).then_some(number)
                }
                Err(error) => panic!("{error}"),
            }
        });
        let winners: Vec<_> = won.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?} won");
        let there = text(remote.get(&key).unwrap());
        assert_eq!(there, format!("racer {}", winners[0]), "round {round}");
    }
}

/// Adds one entry of ours to the list that an object holds, however often that takes.
pub fn append(remote: &Remote, key: &str, entry: &str) {
    loop {
        let object = remote.get(key).unwrap();
        let version = object.meta.version.clone();
        let list = format!("{}{entry}\n", text(object));
        match put(remote, key, &list, PutMode::Swap(version)) {
            Ok(_) => return,
            Err(RemoteError::Conflict { .. }) => {}
            Err(RemoteError::Ambiguous { .. }) => {
                if text(remote.get(key).unwrap()).lines().any(|line| line == entry) {
                    return;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn swaps_race(bench: &Bench<'_>) {
    let remote = (bench.open)();
    put(&remote, "list", "", PutMode::Create).unwrap();
    race(bench, 4, |number, remote| {
        for entry in 0..8 {
            append(remote, "list", &format!("{number}.{entry}"));
        }
    });
    let list = text(remote.get("list").unwrap());
    let entries: BTreeSet<_> = list.lines().collect();
    assert_eq!((list.lines().count(), entries.len()), (32, 32), "{list}");
}

fn readers_see_whole_objects(bench: &Bench<'_>) {
    let remote = (bench.open)();
    let body = |letter: u8| Bytes::from(vec![letter; 300_000 + usize::from(letter)]);
    remote.put("changing", body(b'a'), PutMode::Any).unwrap();
    race(bench, 3, |number, remote| {
        for round in 0..12 {
            if number == 0 {
                remote.put("changing", body(b'a' + round), PutMode::Any).unwrap();
                continue;
            }
            let object = remote.get("changing").unwrap();
            assert_eq!(object.meta.size, object.bytes.len() as u64);
            assert_eq!(object.bytes, body(object.bytes[0]), "a mixture of two versions");
        }
    });
}

fn listings(bench: &Bench<'_>) {
    let remote = (bench.open)();
    let keys: BTreeSet<_> = (0..bench.many).map(|n| format!("many/{:02x}/{n:05}", n % 7)).collect();
    let tickets: Vec<_> = keys
        .iter()
        .map(|key| remote.submit_put(key, Bytes::copy_from_slice(key.as_bytes()), PutMode::Any))
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    put(&remote, "many-more", "x", PutMode::Any).unwrap();
    let listed = |prefix: &str| -> Vec<String> {
        remote.list(prefix).unwrap().into_iter().map(|meta| meta.key).collect()
    };
    let expected = |prefix: &str| -> Vec<String> {
        keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect()
    };
    // A prefix is the beginning of a key, not a folder.
    for prefix in ["many/", "many/03/", "many/0", "many/03/0000", "many/none"] {
        assert_eq!(listed(prefix), expected(prefix), "{prefix}");
    }
    assert_eq!(listed("many").len(), bench.many + 1);
    let all = listed("");
    assert!(all.is_sorted() && all.len() > bench.many);
    assert!(remote.list("many/").unwrap().iter().all(|meta| meta.size == 13));
}

fn one_clock(bench: &Bench<'_>) {
    let remote = (bench.open)();
    put(&remote, "clock", "x", PutMode::Any).unwrap();
    let metas = [remote.get("clock").unwrap().meta, remote.stat("clock").unwrap()];
    for meta in metas {
        let (written, now) = (meta.last_modified.unwrap(), meta.store_now.unwrap());
        // Whole seconds on S3: written may be rounded up.
        let ago = now.secs - written.secs;
        assert!((-1..=30).contains(&ago), "written {written:?}, now {now:?}");
    }
}

fn many_at_once(bench: &Bench<'_>) {
    let remote = (bench.open)();
    for number in 0..20 {
        put(&remote, &format!("batch/{number}"), &format!("body {number}"), PutMode::Any).unwrap();
    }
    let mut requests: Vec<_> =
        (0..20).rev().map(|number| (format!("batch/{number}"), None)).collect();
    requests.push(("batch/none".to_owned(), None));
    requests.push(("batch/7".to_owned(), Some(5..6)));
    requests.push(("../escape".to_owned(), None));
    let mut answers = remote.get_many(requests);
    assert!(matches!(answers.pop().unwrap(), Err(RemoteError::BadKey { .. })));
    assert_eq!(text(answers.pop().unwrap().unwrap()), "7");
    assert!(is_absent(&answers.pop().unwrap()));
    for (answer, number) in answers.into_iter().zip((0..20).rev()) {
        assert_eq!(text(answer.unwrap()), format!("body {number}"));
    }
    let stats = remote.stat_many(vec!["batch/3".to_owned(), "batch/none".to_owned()]);
    assert_eq!(stats[0].as_ref().unwrap().size, 6);
    assert!(is_absent(&stats[1]));
}

fn background(bench: &Bench<'_>) {
    let remote = (bench.open)();
    let key = |number: usize| format!("background/{number}");
    let tickets: Vec<_> = (0..30)
        .map(|number| remote.submit_put(&key(number), pattern(1000 + number), PutMode::Create))
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    let requests = (0..30).map(|number| (key(number), None)).collect();
    let mut seen = BTreeSet::new();
    for (place, answer) in remote.spawn_get_many(requests) {
        assert_eq!(answer.unwrap().bytes, pattern(1000 + place));
        assert!(seen.insert(place));
    }
    assert_eq!(seen.len(), 30);
    // A reader that loses interest holds nothing up.
    drop(remote.spawn_get_many((0..30).map(|number| (key(number), None)).collect()));
    assert_eq!(remote.get(&key(0)).unwrap().bytes, pattern(1000));
}

fn siblings_are_apart(bench: &Bench<'_>) {
    let Some(sibling) = &bench.sibling else { return };
    let remote = (bench.open)();
    put(&remote, "apart", "here", PutMode::Any).unwrap();
    put(sibling, "apart", "there", PutMode::Any).unwrap();
    put(sibling, "only-there", "x", PutMode::Any).unwrap();
    assert_eq!(text(remote.get("apart").unwrap()), "here");
    assert!(is_absent(&remote.get("only-there")));
    assert_eq!(remote.list("only").unwrap(), Vec::new());
    assert_eq!(sibling.list("").unwrap().len(), 2);
}

fn probe_accepts(bench: &Bench<'_>) {
    let remote = (bench.open)();
    remote.probe_conditions().unwrap();
    assert_eq!(remote.list("probe/").unwrap(), Vec::new());
}
