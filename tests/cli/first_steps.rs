//! What somebody meets who is new to it, and what he is told to do: each advice must help. All of
//! these were found by newcomers.

use std::fs;
use std::path::Path;

use crate::support::{World, available, dormouse, http_server, is_mounted, wait_for};

/// Such a mount came about, and the first write was `ENOSPC`.
#[test]
fn a_disk_that_holds_only_the_reserve_is_refused_with_the_numbers() {
    let world = World::new();
    world.disk("small", "size=72m");
    let (cache, ws) = (world.text("small/cache"), world.text("ws"));
    let line = ["mount", "--create", "--cache-dir", &cache, "w", &ws];
    let ran = world.fails(&line, 10, "72.0 MiB free");
    assert!(ran.err.contains("64.0 MiB") && ran.err.contains("80.0 MiB at least"), "{}", ran.err);
    assert!(!is_mounted(&world.ws()) && !Path::new(&cache).exists());
    let line = ["mount", "--create", "--cache-dir", &world.text("small"), "w", &ws];
    world.fails(&line, 10, "72.0 MiB free");
    // Nothing was done: there is no such workspace yet.
    world.fails(&["mount", "w", &ws], 5, "--create");
}

#[test]
fn what_a_full_disk_holds_still_gets_into_the_store() {
    let world = World::new();
    let small = world.disk("small", "size=192m");
    let (cache, ws) = (world.text("small/cache"), world.text("ws"));
    let line = ["mount", "--create", "--cache-dir", &cache, "w", &ws];
    world.ok(&line);
    fs::write(world.ws().join("f"), "precious").unwrap();
    world.ok(&["unmount", "--keep-local", "w"]);
    let ballast = usize::try_from(available(&small) - (70 << 20)).unwrap();
    fs::write(small.join("ballast"), vec![0; ballast]).unwrap();
    let ran = world.ok(&line);
    assert!(ran.err.contains("hardly anything could be written"), "{}", ran.err);
    world.hibernate();
    world.ok(&["mount", "w", &ws]);
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "precious");
}

#[test]
fn a_directory_that_may_not_be_written_is_no_matter_of_keys() {
    let world = World::bare();
    world.disk("sealed", "ro");
    let store = format!("file://{}/store", world.text("sealed"));
    let ran = world.fails(&["init", "--store", &store], 4, "Read-only file system");
    assert!(!ran.err.contains("AWS") && ran.err.contains("user 0 must"), "{}", ran.err);
}

/// A `mount` or `hibernate` said that there never was a store, and how to make one; to an init
/// script code 5 of `hibernate` means that nothing is left to do.
#[test]
fn a_store_that_is_gone_is_3_for_whoever_has_local_data_of_it_and_5_for_a_stranger() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "precious").unwrap();
    world.take_store_away();
    let ws = world.text("ws");
    let gone = |line: &[&str]| {
        let ran = world.fails(line, 3, "is its volume mounted?");
        assert!(!ran.err.contains("dormouse init"), "{}", ran.err);
    };
    gone(&["checkpoint", "w"]);
    gone(&["hibernate", "w"]);
    let left = world.fails(&["unmount", &ws], 3, "is its volume mounted?");
    let again = format!("`dormouse hibernate --cache-root {} w`", world.text("caches"));
    assert!(left.err.contains(&again), "{}", left.err);
    gone(&["mount", "w", &ws]);
    gone(&["hibernate", "w"]);
    // An empty folder, as under a volume that is not mounted.
    fs::create_dir(world.path("store")).unwrap();
    gone(&["mount", "w", &ws]);
    gone(&["hibernate", "w"]);
    world.fails(&["workspaces"], 5, "dormouse init");
    fs::remove_dir(world.path("store")).unwrap();
    for line in [&["workspaces"][..], &["snapshots", "w"], &["verify", "w"]] {
        world.fails(line, 5, "is the address right, and its volume mounted?");
    }
    world.put_store_back();
    world.mount();
    world.crash();
    world.take_store_away();
    gone(&["hibernate", &ws]);
    world.put_store_back();
    world.ok(&["hibernate", &ws]);
    world.lose_caches();
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "precious");
}

#[test]
fn advice_names_the_cache_directory_where_it_was_named() {
    let world = World::new();
    let (cache, ws) = (world.text("cache"), world.text("ws"));
    world.ok(&["mount", "--create", "--cache-dir", &cache, "w", &ws]);
    fs::write(world.ws().join("f"), "precious").unwrap();
    world.take_store_away();
    let advice = format!("`dormouse hibernate --cache-dir {cache} w`");
    world.fails(&["unmount", "w"], 3, &advice);
    world.put_store_back();
    world.fails(&["hibernate", "w"], 5, "--cache-dir or --cache-root");
    world.ok(&["hibernate", "--cache-dir", &cache, "w"]);
    world.ok(&["mount", "--cache-dir", &cache, "w", &ws]);
    world.crash();
    world.fails(&["status", "w"], 5, &format!("`dormouse mount --cache-dir {cache}` goes on"));
    world.ok(&["hibernate", &ws]);
}

/// Each request said it again, in a kilobyte; and it went on for a minute.
#[test]
fn instance_metadata_that_refuses_is_told_once_and_not_asked_again() {
    let mut world = World::bare();
    world.set("DORMOUSE_STORE", "s3://bucket/prefix");
    world.set("DORMOUSE_ENDPOINT", http_server(|_| (500, Vec::new(), Vec::new())));
    world.set("DORMOUSE_STORE_TIMEOUT", "60s");
    world.set("AWS_REGION", "us-east-1");
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&asked);
    world.set(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        http_server(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            (403, Vec::new(), Vec::new())
        }),
    );
    let ran = world.fails(&["mount", "-f", "w", &world.text("ws")], 4, "no credentials were found");
    let warned = ran.err.lines().filter(|line| line.contains(" WARN ")).count();
    assert_eq!(warned, 1, "{}", ran.err);
    // Two requests, the head's and the format's.
    let asked = asked.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..=2).contains(&asked), "{asked}");
}

#[test]
fn a_device_that_is_kept_from_users_is_told_with_what_lets_them_in() {
    let world = World::new();
    let script = r#"set -e
        mount -t tmpfs tmpfs "$1"; cd "$1"
        mknod fuse c 10 229; chmod 600 fuse; mount --bind fuse /dev/fuse
        cp "$2" dormouse; mkdir ws home; chown -R 1000:1000 .; chown 0:0 fuse
        run() { setpriv --reuid 1000 --regid 1000 --clear-groups \
            env -i PATH="$PATH" HOME="$1/home" DORMOUSE_RUNTIME_DIR="$1/run" \
            DORMOUSE_STORE="file://$1/store" DORMOUSE_CACHE_SIZE=200M ./dormouse "$2" $3 $4 $5; }
        run "$1" init
        run "$1" mount --create w ./ws
    "#;
    let (top, binary) = (world.text("home"), dormouse().to_str().unwrap());
    let args = ["-m", "--propagation", "private", "sh", "-c", script, "sh", &top, binary];
    let ran = world.command(Path::new("unshare"), &args).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(13), "{said}");
    assert!(said.contains("chmod 666 /dev/fuse") && !said.contains("container"), "{said}");
}

#[test]
fn a_usage_line_tells_nothing_that_the_environment_gives() {
    let mut world = World::bare();
    let ran = world.fails(&["mount", "w"], 2, "<MOUNTPOINT>");
    let usage = "\nUsage: dormouse mount [OPTIONS] <NAME> <MOUNTPOINT>\n";
    assert!(ran.err.contains(usage), "{}", ran.err);
    world.set("DORMOUSE_LEASE_TTL", "soon");
    let line = ["mount", "w", &world.text("ws")];
    world.fails(&line, 2, "comes from the environment: DORMOUSE_LEASE_TTL");
    world.fails(&[&["--json"][..], &line].concat(), 2, "environment: DORMOUSE_LEASE_TTL\"");
    let ran = world.fails(&["mount", "--lease-ttl", "later", "w", &world.text("ws")], 2, "later");
    assert!(!ran.err.contains("environment"), "{}", ran.err);
}

#[test]
fn one_file_is_no_files() {
    let world = World::new();
    world.mount();
    assert!(world.ok(&["status", "w"]).out.contains("1 file, 0 B"));
    let ran = world.ok(&["hibernate", "w"]);
    assert!(ran.out.contains("  1 file, 0 B\n"), "{}", ran.out);
    let ran = world.ok(&["verify", "w"]);
    assert!(ran.out.contains("w: 1 snapshot; the newest has 1 file, 0 B"), "{}", ran.out);
}

/// Folders below the cache root.
fn folders(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.path("caches")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_mount_that_only_looks_leaves_nothing_behind_and_takes_away_what_dead_ones_left() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "seen").unwrap();
    world.ok(&["checkpoint", "w"]);
    let look = |name: &str| {
        fs::create_dir_all(world.path(name)).unwrap();
        world.ok(&["mount", "--read-only", "w", &world.text(name)]);
        assert_eq!(fs::read_to_string(world.path(name).join("f")).unwrap(), "seen");
    };
    let writer = folders(&world);
    for command in ["unmount", "hibernate"] {
        look("one");
        assert_eq!(folders(&world).len(), 2);
        world.ok(&[command, &world.text("one")]);
        assert_eq!(folders(&world), writer, "after {command}");
    }
    // One that dies, and one that lives while a third comes.
    look("dead");
    look("lives");
    assert_eq!(folders(&world).len(), 3);
    let status = world.ok(&["status", "--json", &world.text("dead")]).json();
    for process in ["keeper_pid", "pid"] {
        let Some(pid) = status[process].as_i64() else { continue };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        wait_for("its end", || !crate::support::is_alive(pid));
    }
    look("third");
    let dead = Path::new(status["cache_dir"].as_str().unwrap()).to_owned();
    wait_for("the dead one's folder to go", || !dead.exists());
    assert_eq!(folders(&world).len(), 3);
    assert_eq!(fs::read_to_string(world.path("lives/f")).unwrap(), "seen");
    // A place that somebody chose is his.
    let own = world.text("own");
    fs::create_dir(world.path("fourth")).unwrap();
    let line = ["mount", "--read-only", "--cache-dir", &own, "w", &world.text("fourth")];
    world.ok(&line);
    world.ok(&["unmount", &world.text("fourth")]);
    assert!(world.path("own/dormouse").is_file());
    for name in ["lives", "third"] {
        world.ok(&["unmount", &world.text(name)]);
    }
    assert_eq!(folders(&world), writer);
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "seen");
}
