//! From the first mount to the last: what comes back, after what.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::support::{World, is_mounted, transport, wait_for};

#[test]
fn a_workspace_survives_hibernation_and_the_loss_of_its_cache() {
    let world = World::new();
    world.mount();
    let ws = world.ws();
    fs::create_dir_all(ws.join("a/b")).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 3) as u8).collect();
    fs::write(ws.join("a/b/big"), &content).unwrap();
    fs::write(ws.join("a/tool"), "#!/bin/sh\necho awake\n").unwrap();
    fs::set_permissions(ws.join("a/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(ws.join("a/tool"), ws.join("tool")).unwrap();
    symlink("a/b/big", ws.join("link")).unwrap();
    let before = fs::metadata(ws.join("a/tool")).unwrap();
    let receipt = world.hibernate();
    assert_eq!(receipt["changed"], true);
    assert_eq!(receipt["released"], true);
    assert_eq!(receipt["workspace"], "w");
    assert_eq!(receipt["snapshot"].as_str().unwrap().len(), 64);
    assert!(!is_mounted(&ws));
    world.lose_caches();

    world.ok(&["mount", "w", &world.text("ws")]);
    assert_eq!(fs::read(ws.join("link")).unwrap(), content);
    let after = fs::metadata(ws.join("a/tool")).unwrap();
    assert_eq!((after.ino(), after.mode(), after.nlink()), (before.ino(), before.mode(), 2));
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    let said = std::process::Command::new(ws.join("tool")).output().unwrap().stdout;
    assert_eq!(said, b"awake\n");
    assert_eq!(world.hibernate()["changed"], false);
}

#[test]
fn after_a_killed_daemon_mounting_again_goes_on_with_everything() {
    let world = World::new();
    world.mount();
    for i in 0..50 {
        fs::write(world.ws().join(format!("f{i}")), format!("{i}")).unwrap();
    }
    // What the kernel then knows of the root lets it open the dead mount without asking anyone.
    assert_eq!(fs::read_dir(world.ws()).unwrap().count(), 50);
    fs::metadata(world.ws()).unwrap();
    world.crash();
    assert!(fs::read(world.ws().join("never-looked-up")).is_err(), "a dead mount is still there");
    world.fails(&["status", &world.text("ws")], 5, "has died");
    let all = world.ok(&["status", "--json"]).json();
    assert_eq!(all["mounts"][0]["state"], "dead");
    world.mount();
    for i in 0..50 {
        assert_eq!(fs::read_to_string(world.ws().join(format!("f{i}"))).unwrap(), i.to_string());
    }
    world.hibernate();
}

#[test]
fn after_a_killed_daemon_hibernate_puts_its_data_into_the_store() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "kept").unwrap();
    world.crash();
    let receipt = world.hibernate();
    assert_eq!((&receipt["changed"], &receipt["released"]), (&true.into(), &true.into()));
    world.fails(&["hibernate", &world.text("ws")], 5, "no workspace is mounted there");
    world.lose_caches();
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "kept");
}

#[test]
fn after_a_reboot_hibernate_finds_the_data_by_the_workspace_s_name() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "kept").unwrap();
    world.crash();
    nix::mount::umount2(&world.ws(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir_all(world.path("run")).unwrap();
    assert_eq!(world.ok(&["hibernate", "--json", "w"]).json()["changed"], true);
    world.lose_caches();
    world.fails(&["hibernate", "w"], 5, "no local data");
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "kept");
}

#[test]
fn a_checkpoint_is_a_restore_point_that_can_be_mounted_beside_the_writer() {
    let world = World::new();
    world.mount();
    let file = world.ws().join("f");
    fs::write(&file, "first").unwrap();
    let first = world.ok(&["checkpoint", "--json", "w"]).json();
    fs::write(&file, "second").unwrap();
    world.ok(&["checkpoint", "w"]);
    let list = world.ok(&["snapshots", "--json", "w"]).json();
    let list = list["snapshots"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((&list[0]["newest"], &list[1]["id"]), (&true.into(), &first["snapshot"]));

    for name in ["old", "new"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let id = &first["snapshot"].as_str().unwrap()[..16];
    world.ok(&["mount", "--at", id, "w", &world.text("old")]);
    world.ok(&["mount", "--read-only", "w", &world.text("new")]);
    assert_eq!(fs::read_to_string(world.path("old/f")).unwrap(), "first");
    assert_eq!(fs::read_to_string(world.path("new/f")).unwrap(), "second");
    let refused = fs::write(world.path("old/f"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    fs::write(&file, "the writer goes on").unwrap();
    // A name means the writer; readers are named by their place.
    assert_eq!(world.ok(&["status", "--json", "w"]).json()["read_only"], false);
    for name in ["old", "new"] {
        world.ok(&["unmount", &world.text(name)]);
    }
    assert_eq!(world.hibernate()["changed"], true);
}

#[test]
fn local_data_is_for_its_owner_only() {
    let world = World::new();
    world.mount();
    let dir = world.status()["cache_dir"].as_str().unwrap().to_owned();
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn an_expired_lease_of_a_dead_machine_is_taken_without_asking() {
    let mut world = World::new();
    world.set("DORMOUSE_LEASE_TTL", "10s");
    world.mount();
    fs::write(world.ws().join("f"), "sealed").unwrap();
    world.ok(&["checkpoint", "w"]);
    world.crash();
    fs::create_dir(world.path("other")).unwrap();
    let (other, cache) = (world.text("other"), world.text("other-cache"));
    let line = ["mount", "--cache-dir", &cache, "w", &other];
    world.fails(&line, 6, "lease");
    wait_for("the lease's end", || world.run(&line).code == 0);
    assert_eq!(fs::read_to_string(world.path("other/f")).unwrap(), "sealed");
}

#[test]
fn the_daemon_seals_by_itself() {
    let mut world = World::new();
    world.set("DORMOUSE_CHECKPOINT_INTERVAL", "1s");
    world.mount();
    fs::write(world.ws().join("f"), "x").unwrap();
    wait_for("a checkpoint", || world.status()["seals"]["made"].as_u64().unwrap() > 0);
}

#[test]
fn another_machine_waits_for_the_lease_or_steals_it_and_the_first_is_fenced() {
    let world = World::new();
    world.mount();
    fs::write(world.ws().join("f"), "first machine").unwrap();
    world.ok(&["checkpoint", "w"]);
    fs::write(world.ws().join("late"), "not sealed").unwrap();
    fs::create_dir(world.path("other")).unwrap();
    let (other, cache) = (world.text("other"), world.text("other-cache"));
    let line = ["mount", "--cache-dir", &cache, "w", &other];
    let held = world.fails(&line, 6, "lease");
    let here = format!("`dormouse hibernate {}` first", world.text("ws"));
    assert!(held.err.contains(&here) && !held.err.contains("--steal"), "{}", held.err);
    // Another machine knows nothing of that mount.
    let mut elsewhere = world.command(crate::support::dormouse(), &line);
    let held = elsewhere.env("DORMOUSE_RUNTIME_DIR", world.path("run2")).output().unwrap();
    let said = String::from_utf8(held.stderr).unwrap();
    assert!(held.status.code() == Some(6) && said.contains("--steal"), "{said}");

    world.ok(&["mount", "--steal", "--cache-dir", &cache, "w", &other]);
    assert_eq!(fs::read_to_string(world.path("other/f")).unwrap(), "first machine");
    world.fails(&["checkpoint", &world.text("ws")], 7, "taken over");
    let status = world.status();
    assert_eq!(status["state"], "fenced");
    let refused = fs::write(world.ws().join("x"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read_to_string(world.ws().join("late")).unwrap(), "not sealed");
    // Of two mounts here, the advice is about the one that has it.
    fs::create_dir(world.path("third")).unwrap();
    let third = ["mount", "--cache-dir", &world.text("third-cache"), "w", &world.text("third")];
    world.fails(&third, 6, &format!("`dormouse hibernate {other}` first"));
    let fenced = world.fails(&["hibernate", &world.text("ws")], 7, "taken over");
    let help = !fenced.err.contains("same command") && fenced.err.contains("--keep-local");
    assert!(help, "{}", fenced.err);
    assert!(is_mounted(&world.ws()), "its data can still be copied out");
    world.ok(&["unmount", "--keep-local", &world.text("ws")]);
    fs::write(world.path("other/g"), "second machine").unwrap();
    world.ok(&["hibernate", &other]);

    // Both have changed it: the two can't be joined, and nothing is thrown away unasked.
    world.fails(&["mount", "w", &world.text("ws")], 12, "never sealed");
    world.ok(&["mount", "--discard-local", "w", &world.text("ws")]);
    assert_eq!(fs::read_to_string(world.ws().join("g")).unwrap(), "second machine");
    assert!(!world.ws().join("late").exists());
}

#[test]
fn a_user_without_root_mounts_by_fusermount() {
    let world = World::new();
    // The device is root's here: a copy for everybody, in a mount namespace of its own.
    let script = r#"set -e
        mount -t tmpfs tmpfs "$1"; cd "$1"
        mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse
        cp "$2" dormouse; mkdir ws home; chown -R 1000:1000 .
        top=$1
        run() { setpriv --reuid 1000 --regid 1000 --clear-groups \
            env -i PATH="$PATH" HOME="$top/home" DORMOUSE_RUNTIME_DIR="$top/run" \
            DORMOUSE_STORE="file://$top/store" DORMOUSE_CACHE_SIZE=200M "$@"; }
        run ./dormouse init; run ./dormouse mount --create w ./ws
        run sh -c 'echo mine >ws/f'
        run ./dormouse hibernate ./ws
        rm -rf home/.local
        run ./dormouse mount w ./ws
        [ "$(run cat ws/f)" = mine ]
        run ./dormouse unmount w
    "#;
    let (top, binary) = (world.text("home"), crate::support::dormouse().to_str().unwrap());
    let args = ["-m", "--propagation", "private", "sh", "-c", script, "sh", &top, binary];
    let ran = world.command(std::path::Path::new("unshare"), &args).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn a_killed_daemon_leaves_no_process_hanging() {
    let world = World::new();
    world.mount();
    // Each ends when something fails; requests of all kinds are under way when the daemon goes.
    let script = "while echo $1 > file-$1 && cat file-$1 && mv file-$1 other-$1 && \\
                  rm other-$1 && sync . && ls -l && head -c 2000000 /dev/zero > big-$1; do :; done";
    let inside = |n: usize| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, "sh", &n.to_string()]).current_dir(world.ws());
        let (out, err) = (std::process::Stdio::null(), std::process::Stdio::null());
        command.stdout(out).stderr(err).spawn().unwrap()
    };
    let mut busy: Vec<_> = (0..8).map(inside).collect();
    let served = || world.status()["fuse_requests"].as_u64().unwrap();
    let before = served();
    wait_for("all are at work", || served() > before + 500);
    world.crash();
    for child in &mut busy {
        wait_for("a process inside to end", || child.try_wait().unwrap().is_some());
    }
    world.mount();
    world.hibernate();
}

#[test]
fn a_mount_says_how_its_requests_come() {
    let world = World::new();
    world.mount();
    assert_eq!(world.status()["transport"], transport().as_str());
    let text = world.ok(&["status", &world.text("ws")]).out;
    let name = if transport() == "uring" { "io_uring" } else { "/dev/fuse" };
    let line = text.lines().find(|line| line.trim_start().starts_with("transport")).unwrap();
    assert!(line.ends_with(name), "{line}");
    world.hibernate();
}

#[test]
fn io_uring_that_is_switched_off_is_refused_with_the_way_to_have_it() {
    let switch = fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    if switch.is_ok_and(|text| text.trim() == "Y") {
        return;
    }
    let world = World::new();
    let ws = world.text("ws");
    let arguments = ["mount", "--create", "--transport", "uring", "w", &ws];
    world.fails(&arguments, 13, "FUSE over io_uring can't be used");
    assert!(!is_mounted(&world.ws()));
    world.ok(&["mount", "--create", "--transport", "auto", "w", &ws]);
    assert_eq!(world.status()["transport"], "dev");
    world.hibernate();
}

#[test]
fn what_the_kernel_has_not_sent_yet_is_in_a_checkpoint() {
    let world = World::new();
    let line = ["mount", "--create", "--write-cache", "back", "--checkpoint-interval", "0", "w"];
    world.ok(&[&line[..], &[&world.text("ws")]].concat());
    let mut log = fs::File::create(world.ws().join("log")).unwrap();
    for _ in 0..1000 {
        log.write_all(b"a line of a log\n").unwrap();
    }
    world.ok(&["checkpoint", "w"]);
    // The other machine sees what the store has, not what is closed or written back later.
    fs::create_dir(world.path("other")).unwrap();
    world.ok(&["mount", "--read-only", "w", &world.text("other")]);
    let there = fs::read_to_string(world.path("other").join("log")).unwrap();
    assert_eq!(there, "a line of a log\n".repeat(1000));
    world.ok(&["unmount", &world.text("other")]);
    drop(log);
    world.ok(&["hibernate", &world.text("ws")]);
}

/// A restart came upon a mount in the moment in which its daemon died: what had asked whether it
/// is dead was told `ECONNABORTED`, took that for an answer of the living, and the mount was
/// refused.
#[test]
fn a_daemon_that_dies_while_it_is_asked_is_dead() {
    let world = World::new();
    world.ok(&["mount", "--keeper", "off", "--create", "w", &world.text("ws")]);
    let daemon = world.daemon();
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ws = world.text("ws");
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(&ws)).unwrap();
    let minor = line.split(' ').nth(2).unwrap().split(':').nth(1).unwrap();
    let control = world.path("fusectl");
    fs::create_dir(&control).unwrap();
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(none, &control, Some("fusectl"), flags, none).unwrap();
    let waiting = control.join(minor).join("waiting");
    let killer = std::thread::spawn(move || {
        let is_asked = || fs::read_to_string(&waiting).unwrap().trim() != "0";
        wait_for("the question", is_asked);
        nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    dormouse::fuse::detach_dead(&world.ws()).unwrap();
    killer.join().unwrap();
    assert!(!is_mounted(&world.ws()), "the dead mount is still there");
    world.mount();
    world.hibernate();
}
