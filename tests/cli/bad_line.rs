//! A store that misbehaves under a real mount, where what must happen is exact: requests, lines of
//! the log, errors. With every fault at once and a real server: `scripts/torture faults`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::sleep;
use std::time::Duration;

use crate::s3_double::{Double, Trouble};
use crate::support::{World, wait_for};

const KEY: &str = "AKIADORMOUSE";

/// A store with a workspace on it; the credentials are in the environment.
fn initialised() -> (Double, World) {
    let (double, mut world) = Double::world();
    world.set("AWS_ACCESS_KEY_ID", KEY);
    world.set("AWS_SECRET_ACCESS_KEY", "secret");
    world.ok(&["init"]);
    (double, world)
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines of the daemon's log that have this part.
fn logged(world: &World, part: &str) -> Vec<String> {
    let caches = fs::read_dir(world.path("caches")).unwrap();
    let logs: Vec<PathBuf> =
        caches.map(|cache| cache.unwrap().path().join("dormouse.log")).collect();
    let text: String = logs.iter().filter_map(|log| fs::read_to_string(log).ok()).collect();
    text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

/// Waits as long as a daemon may pause between two tries, and a little.
fn wait_until_drained(world: &World) {
    for _ in 0..900 {
        if world.status()["unsynced"]["changed"] == false {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    panic!("not drained: {}", world.status());
}

#[test]
fn a_store_that_does_not_answer_is_one_request_one_error_and_one_line_in_the_log() {
    let (double, mut world) = initialised();
    // It was written last, and would be fetched for nobody as soon as nobody waits.
    world.set("DORMOUSE_HOT_SET_SIZE", "0");
    world.mount();
    let content = noise(1, 100_000);
    fs::write(world.ws().join("far"), &content).unwrap();
    world.hibernate();
    world.lose_caches();
    world.mount();
    // What is fetched ahead of the metadata is there, and the name is known.
    wait_for("all metadata", || world.status()["ahead"]["left_bytes"] == 0);
    assert_eq!(fs::metadata(world.ws().join("far")).unwrap().len(), 100_000);
    double.reset();
    double.trouble(|request| request.path.contains("/packs/").then_some(Trouble::Silence));
    // Without the kernel's cache, which asks a second time for what it could not read ahead.
    let mut options = fs::OpenOptions::new();
    let far = options.read(true).custom_flags(libc::O_DIRECT).open(world.ws().join("far")).unwrap();
    let error = far.read_at(&mut [0; 4096], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(double.count("GET", "/packs/"), 1, "an attempt may take as long as the call");
    let lines = logged(&world, "EIO");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("ERROR") && lines[0].contains("opcode=read"), "{lines:#?}");
    assert!(lines[0].contains("no answer"), "{lines:#?}");
    // The store's lateness is not remembered.
    double.heal();
    assert!(fs::read(world.ws().join("far")).unwrap() == content);
    assert_eq!(logged(&world, "EIO").len(), 1);
    world.hibernate();
}

#[test]
fn each_answer_of_503_costs_one_more_request() {
    let (double, world) = initialised();
    world.mount();
    fs::write(world.ws().join("f"), noise(2, 100_000)).unwrap();
    double.reset();
    let left = AtomicUsize::new(3);
    double.trouble(move |request| {
        let is_pack = request.method == "PUT" && request.path.contains("/packs/");
        let is_due = is_pack && left.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        is_due.then_some(Trouble::Answer(503, "SlowDown"))
    });
    world.ok(&["checkpoint", "w"]);
    assert_eq!(double.count("PUT", "/packs/"), double.objects("/packs/") + 3);
    assert_eq!(double.count("PUT", "/snapshots/"), 1);
    assert!(logged(&world, "WARN").is_empty(), "{:#?}", logged(&world, "WARN"));
    world.hibernate();
}

#[test]
fn in_an_outage_writers_are_stopped_at_the_cap_and_when_it_is_over_everything_drains_by_itself() {
    const MIB: usize = 1 << 20;
    let (double, mut world) = initialised();
    world.set("DORMOUSE_CHECKPOINT_INTERVAL", "1s");
    world.set("DORMOUSE_MAX_UNSYNCED_BYTES", "6M");
    world.mount();
    fs::write(world.ws().join("before"), "before").unwrap();
    world.ok(&["checkpoint", "w"]);
    double.trouble(|_| Some(Trouble::Answer(500, "InternalError")));
    let path = |number: usize| world.ws().join(format!("f{number}"));
    let mut written = 0;
    let error = loop {
        match fs::write(path(written), noise(written as u64, MIB)) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 200, "nobody stops the writer");
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "after {written}");
    assert!((4..=6).contains(&written), "{written}: the cap is 6 MiB, a write waits only near it");
    wait_for("a failure that is told", || !logged(&world, "WARN").is_empty());
    // What is here goes on, and removing makes no room in the store's favour but is not refused.
    for number in 0..written {
        assert!(fs::read(path(number)).unwrap() == noise(number as u64, MIB), "{number}");
    }
    fs::remove_file(path(written)).unwrap();
    assert_eq!(fs::read_to_string(world.ws().join("before")).unwrap(), "before");
    assert_eq!(world.status()["unsynced"]["changed"], true);
    double.heal();
    wait_until_drained(&world);
    fs::write(path(written), noise(written as u64, MIB)).unwrap();
    // A minute's worth of tries, and each told once.
    let warnings = logged(&world, "WARN");
    assert!(!warnings.is_empty() && warnings.len() < 100, "{}", warnings.len());
    world.hibernate();
    world.lose_caches();
    world.mount();
    for number in 0..=written {
        assert!(fs::read(path(number)).unwrap() == noise(number as u64, MIB), "{number}");
    }
    world.hibernate();
}

/// Credentials of a process: which keys it gives, and how often it was asked.
fn give_keys(world: &World, id: &str) {
    let keys = format!(
        "{{\"Version\": 1, \"AccessKeyId\": \"{id}\", \"SecretAccessKey\": \"secret\", \
         \"SessionToken\": \"token\", \"Expiration\": \"2099-01-01T00:00:00Z\"}}"
    );
    fs::write(world.path("home/keys"), keys).unwrap();
}

fn with_credential_process() -> (Double, World) {
    let (double, world) = Double::world();
    fs::create_dir(world.path("home/.aws")).unwrap();
    let script = format!("echo asked >> {0}/asked\ncat {0}/keys\n", world.text("home"));
    fs::write(world.path("home/process"), script).unwrap();
    let config = format!("[default]\ncredential_process = sh {}\n", world.text("home/process"));
    fs::write(world.path("home/.aws/config"), config).unwrap();
    give_keys(&world, "OLD");
    (double, world)
}

/// The SDK renews credentials when their own time is over. A session that the store ends earlier,
/// or whose end a wrong clock misjudges, was refused for ever: every upload failed until the
/// daemon was started again.
#[test]
fn credentials_that_end_in_the_middle_of_a_long_upload_are_renewed_once_and_it_goes_on() {
    let (double, world) = with_credential_process();
    world.ok(&["init"]);
    world.mount();
    for number in 0..5 {
        fs::write(world.ws().join(format!("f{number}")), noise(number, 10 << 20)).unwrap();
    }
    fs::remove_file(world.path("home/asked")).unwrap();
    let (ended, refused) = (AtomicBool::new(false), Arc::new(AtomicUsize::new(0)));
    let (keys, refusals) = (world.path("home/keys"), Arc::clone(&refused));
    let packs = AtomicUsize::new(0);
    double.trouble(move |request| {
        let is_pack = request.method == "PUT" && request.path.contains("/packs/");
        if is_pack && packs.fetch_add(1, SeqCst) == 1 && !ended.swap(true, SeqCst) {
            let text = fs::read_to_string(&keys).unwrap().replace("OLD", "NEW");
            fs::write(&keys, text).unwrap();
        }
        let is_old = request.header("authorization").unwrap().contains("Credential=OLD/");
        let is_refused = ended.load(SeqCst) && is_old;
        refusals.fetch_add(usize::from(is_refused), SeqCst);
        is_refused.then_some(Trouble::Answer(400, "ExpiredToken"))
    });
    world.hibernate();
    assert!(refused.load(SeqCst) >= 1, "nothing was refused");
    let asked = fs::read_to_string(world.path("home/asked")).unwrap();
    assert_eq!(asked.lines().count(), 1, "asked for new keys once");
    assert!(logged(&world, "WARN").is_empty(), "{:#?}", logged(&world, "WARN"));
    assert!(double.objects("/packs/") >= 4);
    world.lose_caches();
    world.mount();
    for number in 0..5 {
        let read = fs::read(world.ws().join(format!("f{number}"))).unwrap();
        assert!(read == noise(number, 10 << 20), "f{number} is as it was written");
    }
    world.hibernate();
}

/// Where the new credentials are no better, that is said, and their source is not asked in a loop.
#[test]
fn credentials_that_stay_refused_are_told_and_not_asked_for_in_a_loop() {
    let (double, world) = with_credential_process();
    world.ok(&["init"]);
    world.mount();
    fs::write(world.ws().join("f"), "f").unwrap();
    fs::remove_file(world.path("home/asked")).unwrap();
    double.trouble(|_| Some(Trouble::Answer(400, "ExpiredToken")));
    double.reset();
    world.fails(&["checkpoint", "w"], 4, "ExpiredToken");
    let requests = double.count("PUT", "") + double.count("GET", "");
    let asked = fs::read_to_string(world.path("home/asked")).unwrap().lines().count();
    assert!(asked >= 1 && asked <= requests, "{asked} times for {requests} requests");
    double.heal();
    world.hibernate();
}
