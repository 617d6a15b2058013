//! Every way to leave: what is in the store afterwards, what stays, which exit code tells.

use std::fs;

use dormouse::types::{Clock as _, SystemClock};
use nix::sys::signal::Signal;

use crate::support::{World, is_mounted, wait_for};

/// Another machine sees this content.
fn assert_in_store(world: &World, content: &str) {
    world.lose_caches();
    world.ok(&["mount", "w", &world.text("ws")]);
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), content);
}

#[test]
fn sigterm_hibernates_and_the_supervisor_is_told() {
    let world = World::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = world.foreground(&["w", &world.text("ws")]);
        fs::write(world.ws().join("f"), signal.as_str()).unwrap();
        daemon.signal(signal);
        daemon.expect("STOPPING=1");
        let ran = daemon.wait();
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!is_mounted(&world.ws()));
        assert_in_store(&world, signal.as_str());
        world.hibernate();
    }
}

#[test]
fn sigterm_hibernates_under_open_files_too() {
    let world = World::new();
    let daemon = world.foreground(&["w", &world.text("ws")]);
    fs::write(world.ws().join("f"), "sealed").unwrap();
    let open = fs::File::open(world.ws().join("f")).unwrap();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code, 0);
    assert!(!is_mounted(&world.ws()));
    drop(open);
    assert_in_store(&world, "sealed");
}

#[test]
fn sigterm_with_the_store_away_ends_with_its_code_and_keeps_everything_here() {
    let world = World::new();
    let daemon = world.foreground(&["w", &world.text("ws")]);
    fs::write(world.ws().join("f"), "kept").unwrap();
    world.take_store_away();
    daemon.signal(Signal::SIGTERM);
    let ran = daemon.wait();
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("kept in"), "{}", ran.err);
    assert!(!is_mounted(&world.ws()));
    world.put_store_back();
    world.ok(&["hibernate", "w"]);
    assert_in_store(&world, "kept");
}

#[test]
fn a_second_signal_leaves_at_once_and_keeps_everything_here() {
    let mut world = World::new();
    world.set("DORMOUSE_UPLOAD_LIMIT", "1M");
    let mut daemon = world.foreground(&["--max-unsynced-age=1h", "w", &world.text("ws")]);
    let content = noise(60 << 20);
    fs::write(world.ws().join("big"), &content).unwrap();
    daemon.signal(Signal::SIGTERM);
    daemon.expect("STOPPING=1");
    // It is unmounted by now, but where somebody on this machine just looked at it.
    daemon.expect("STATUS=uploading");
    daemon.signal(Signal::SIGTERM);
    let clock = SystemClock::new();
    let ran = daemon.wait();
    let took = clock.monotonic();
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(took.as_secs() < 30, "60 MiB at 1 MiB/s were waited for: {took:?}");
    world.set("DORMOUSE_UPLOAD_LIMIT", "1G");
    world.mount();
    assert!(fs::read(world.ws().join("big")).unwrap() == content, "the content changed");
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

#[test]
fn umount_from_outside_hibernates() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "by umount").unwrap();
    let pid = world.daemon();
    let cache_dir = world.status()["cache_dir"].as_str().unwrap().to_owned();
    nix::mount::umount(&world.ws()).unwrap();
    wait_for("the daemon's end", || !crate::support::is_alive(pid));
    let receipt = fs::read(format!("{cache_dir}/receipt.json")).unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!((&receipt["released"], &receipt["changed"]), (&true.into(), &true.into()));
    world.fails(&["status", &world.text("ws")], 5, "no workspace is mounted there");
    assert_in_store(&world, "by umount");
}

/// Somebody in a mount namespace of his own that was made after the mount, as a container or a
/// service is: what he has of it no unmount takes away. (Of other tests' mounts he lets go.)
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn of(world: &World) -> Elsewhere {
        let keep_one = r#"while read -r _ _ _ _ at _; do
            case $at in "$0") ;; */ws) umount -l "$at" ;; esac
        done < /proc/self/mountinfo; echo there; exec sleep 600"#;
        let mut child = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", keep_one, &world.text("ws")])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(&said, b"there\n");
        Elsewhere(child)
    }

    fn is_there(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A hibernation waited for as long as any container, service or `unshare` lived that had been
/// started after the mount: found by `scripts/torture faults` beside somebody's `unshare`.
#[test]
fn whoever_has_the_mount_in_another_namespace_holds_up_no_end() {
    let world = World::new();
    for (number, command) in ["hibernate", "unmount"].into_iter().enumerate() {
        world.mount();
        let mut elsewhere = Elsewhere::of(&world);
        let content = format!("content {number}");
        fs::write(world.ws().join("f"), &content).unwrap();
        let pid = world.daemon();
        world.ok(&[command, &world.text("ws")]);
        wait_for("the daemon's end", || !crate::support::is_alive(pid));
        assert!(elsewhere.is_there());
        assert_in_store(&world, &content);
        world.hibernate();
    }
    let daemon = world.foreground(&["w", &world.text("ws")]);
    let mut elsewhere = Elsewhere::of(&world);
    fs::write(world.ws().join("f"), "by a signal").unwrap();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code, 0);
    assert!(elsewhere.is_there());
    assert_in_store(&world, "by a signal");
}

/// Where the store's volume was unmounted for a moment, packs went into the empty folder under it,
/// were taken for stored, and were not in the store that came back: `hibernate` said that
/// everything was, and a new machine got `EIO`. Found by a newcomer.
#[test]
fn an_empty_folder_in_the_place_of_the_store_gets_nothing() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("first"), "sealed").unwrap();
    world.ok(&["checkpoint", &world.text("ws")]);
    world.take_store_away();
    fs::create_dir(world.path("store")).unwrap();
    fs::write(world.ws().join("f"), "precious").unwrap();
    world.fails(&["checkpoint", &world.text("ws")], 3, "is in its place");
    world.fails(&["hibernate", &world.text("ws")], 3, "is in its place");
    let left: Vec<_> = fs::read_dir(world.path("store")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    fs::remove_dir(world.path("store")).unwrap();
    world.put_store_back();
    world.hibernate();
    world.ok(&["verify", "w"]);
    assert_in_store(&world, "precious");
}

/// A writer dies with what is nowhere else, beside a mount of the same name that only looks; what
/// `hibernate` takes with these flags is the writer's.
fn hibernate_takes_the_dead_writer(flags: impl FnOnce(&World) -> Vec<String>) {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("first"), "sealed").unwrap();
    world.ok(&["checkpoint", &world.text("ws")]);
    let flags = flags(&world);
    fs::create_dir(world.path("looking")).unwrap();
    world.ok(&["mount", "--read-only", "w", &world.text("looking")]);
    fs::write(world.ws().join("f"), "precious").unwrap();
    world.crash();
    let mut line = vec!["hibernate"];
    line.extend(flags.iter().map(String::as_str));
    line.push("w");
    world.ok(&line);
    assert!(is_mounted(&world.path("looking")));
    world.ok(&["unmount", &world.text("looking")]);
    assert_in_store(&world, "precious");
}

/// A name meant the mount that only looks: nothing was put anywhere, and success was told.
#[test]
fn hibernate_by_name_means_a_dead_writer_before_a_mount_that_only_looks() {
    hibernate_takes_the_dead_writer(|_| Vec::new());
}

/// Where the cache directory is named, no other mount of that name is meant.
#[test]
fn hibernate_of_a_named_cache_directory_means_the_dead_writer_in_it() {
    hibernate_takes_the_dead_writer(|world| {
        let caches = fs::read_dir(world.path("caches")).unwrap();
        let names: Vec<_> = caches.map(|entry| entry.unwrap().path()).collect();
        let [cache] = &names[..] else { panic!("one mount, and caches {names:?}") };
        vec!["--cache-dir".to_owned(), cache.to_str().unwrap().to_owned()]
    });
}

#[test]
fn hibernate_with_the_store_away_stays_mounted_and_can_be_given_again() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "one").unwrap();
    world.take_store_away();
    let ran = world.fails(&["hibernate", &world.text("ws")], 3, "stays mounted");
    assert_eq!(ran.out, "");
    fs::write(world.ws().join("f"), "two").unwrap();
    let failed = world.run(&["hibernate", "--json", "--timeout", "1s", &world.text("ws")]);
    assert_eq!(failed.code, 3);
    let said: serde_json::Value = serde_json::from_str(failed.err.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&said["error"]["code"], &said["error"]["name"]),
        (&3.into(), &"unreachable".into())
    );
    world.put_store_back();
    world.hibernate();
    assert_in_store(&world, "two");
}

#[test]
fn hibernate_does_not_wait_for_open_files_but_unmount_refuses() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "open").unwrap();
    let open = fs::File::open(world.ws().join("f")).unwrap();
    world.fails(&["unmount", &world.text("ws")], 8, "busy");
    assert!(is_mounted(&world.ws()));
    world.hibernate();
    assert!(!is_mounted(&world.ws()));
    drop(open);
    assert_in_store(&world, "open");
    world.ok(&["unmount", "w"]);
    assert!(!is_mounted(&world.ws()));
}

#[test]
fn unmount_that_keeps_local_needs_no_store_and_the_next_mount_goes_on() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "local").unwrap();
    world.take_store_away();
    let told = world.ok(&["unmount", "--json", "--keep-local", &world.text("ws")]).json();
    assert_eq!(told["kept_local"], true);
    world.put_store_back();
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "local");
    world.ok(&["unmount", "--keep-local", "w"]);
    world.ok(&["hibernate", "w"]);
    assert_in_store(&world, "local");
}

#[test]
fn a_file_that_is_open_and_unlinked_does_not_keep_a_workspace_awake() {
    use std::io::Write as _;
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "x").unwrap();
    let mut gone = fs::File::create(world.ws().join("gone")).unwrap();
    gone.write_all(b"unlinked").unwrap();
    fs::remove_file(world.ws().join("gone")).unwrap();
    world.hibernate();
    drop(gone);
    assert_in_store(&world, "x");
    assert_eq!(fs::read_dir(world.ws()).unwrap().count(), 1);
}
