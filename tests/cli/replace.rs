//! A daemon that dies or is replaced under a live mount: programs see a pause, and nothing else.

use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::num::NonZero;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
use nix::sys::signal::{Signal, kill};

use crate::support::{World, dormouse, is_alive, wait_for};

/// A world whose mounts have a keeper, whatever the transport under test.
fn world() -> World {
    let mut world = World::new();
    world.set("DORMOUSE_TRANSPORT", "dev");
    world.set("DORMOUSE_KEEPER", "on");
    world
}

/// How often the mount was taken over; a daemon that is about to take over is waited for.
fn adoptions(world: &World) -> u64 {
    world.status()["adoptions"].as_u64().unwrap()
}

/// The log of the only daemon.
fn log_of(world: &World) -> String {
    let cache = fs::read_dir(world.path("caches")).unwrap().next().unwrap().unwrap().path();
    fs::read_to_string(cache.join("dormouse.log")).unwrap()
}

/// A shell whose working directory is in the mount.
struct Shell(std::process::Child);

impl Shell {
    fn new(folder: &Path) -> Shell {
        let mut command = Command::new("sh");
        command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        Shell(command.spawn().unwrap())
    }

    fn say(&mut self, line: &str) -> String {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}; echo .").unwrap();
        let mut said = String::new();
        let mut byte = [0];
        while !said.ends_with(".\n") {
            self.0.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            said.push(char::from(byte[0]));
        }
        said.trim_end_matches(".\n").to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A shared mapping of a file.
struct Mapping(&'static mut [u8]);

impl Mapping {
    fn new(file: &File, len: usize) -> Mapping {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let wanted = NonZero::new(len).unwrap();
        // SAFETY: a new mapping, which lives as long as this value; the file is as long.
        Mapping(unsafe {
            let start = mmap(None, wanted, access, MapFlags::MAP_SHARED, file, 0).unwrap();
            std::slice::from_raw_parts_mut(start.as_ptr().cast::<u8>(), len)
        })
    }

    fn start(&mut self) -> NonNull<c_void> {
        NonNull::from(&mut *self.0).cast()
    }

    fn sync(&mut self) {
        // SAFETY: the whole mapping.
        unsafe { msync(self.start(), self.0.len(), MsFlags::MS_SYNC).unwrap() };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nobody refers to any more.
        unsafe { munmap(self.start(), self.0.len()).unwrap() };
    }
}

#[test]
fn what_is_open_mapped_locked_or_entered_outlives_the_daemon_again_and_again() {
    let mut world = world();
    world.set("DORMOUSE_LOG", "info,dormouse::fuse=debug");
    world.mount();
    let ws = world.ws();
    let keeper = world.status()["keeper_pid"].as_u64().unwrap();
    fs::create_dir(ws.join("dir")).unwrap();
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).open(ws.join(name)).unwrap()
    };
    let (mut log, mapped, mut unlinked) = (open("log"), open("mapped"), open("unlinked"));
    log.write_all(b"0").unwrap();
    unlinked.write_all(b"still here").unwrap();
    fs::remove_file(ws.join("unlinked")).unwrap();
    let doomed = open("doomed");
    let lock = Flock::lock(open("lock"), FlockArg::LockExclusive).map_err(|it| it.1).unwrap();
    let is_free = || {
        let tried = Command::new("flock").args(["-n"]).arg(ws.join("lock")).arg("true").status();
        tried.unwrap().success()
    };
    assert!(!is_free());
    mapped.set_len(8192).unwrap();
    let mut memory = Mapping::new(&mapped, 8192);
    let mut shell = Shell::new(&ws.join("dir"));
    for round in 1..=3_u8 {
        memory.0[usize::from(round)] = round;
        let before = world.kill_daemon();
        // No waiting: these calls wait themselves.
        write!(log, "{round}").unwrap();
        memory.0[4096 + usize::from(round)] = round;
        let mut text = String::new();
        unlinked.rewind().unwrap();
        unlinked.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
        let lines = shell.say(&format!("echo {round} >> f; cat f")).lines().count();
        assert_eq!(lines, usize::from(round));
        assert!(!is_free());
        assert!(fs::symlink_metadata(ws.join("unlinked")).is_err());
        let status = world.status();
        assert_eq!(status["adoptions"].as_u64().unwrap(), u64::from(round));
        assert_eq!(status["keeper_pid"].as_u64().unwrap(), keeper);
        assert_ne!(status["pid"].as_u64().unwrap(), u64::from(before.as_raw().unsigned_abs()));
    }
    // Opened before, unlinked now, by a daemon that never heard of it.
    doomed.write_all_at(b"and this", 0).unwrap();
    fs::remove_file(ws.join("doomed")).unwrap();
    let mut text = [0; 8];
    doomed.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"and this");
    memory.sync();
    drop(lock);
    assert!(is_free());
    // The unlinked ones end with their last user, and not before.
    let ends = || log_of(&world).matches("has forgotten an inherited orphan").count();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(ends(), 0);
    drop((unlinked, doomed));
    wait_for("the end of the unlinked files", || ends() == 2);
    // The root, `dir` and four files.
    assert_eq!(world.status()["inodes"], 6);
    drop((memory, log, mapped, shell));
    world.hibernate();
    assert!(!is_alive(nix::unistd::Pid::from_raw(i32::try_from(keeper).unwrap())));
    world.lose_caches();
    world.mount();
    assert_eq!(fs::read_to_string(ws.join("log")).unwrap(), "0123");
    assert_eq!(fs::read_to_string(ws.join("dir/f")).unwrap(), "1\n2\n3\n");
    let content = fs::read(ws.join("mapped")).unwrap();
    for round in 1..=3_u8 {
        assert_eq!(content[usize::from(round)], round);
        assert_eq!(content[4096 + usize::from(round)], round);
    }
    world.ok(&["unmount", &world.text("ws")]);
}

/// One round of changes that can each be done once. Every call must say what it would say if
/// there were no crashes.
fn change_all(folder: &Path, round: u64) -> std::io::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&one)?;
    write!(file, "round {round}")?;
    drop(file);
    set_new_xattr(&one)?;
    fs::hard_link(&one, &other)?;
    fs::remove_file(&one)?;
    fs::create_dir(folder.join("dir"))?;
    fs::rename(&other, folder.join("dir/moved"))?;
    std::os::unix::fs::symlink("dir/moved", &one)?;
    let content = fs::read_to_string(&one)?;
    if content != format!("round {round}") {
        return Err(std::io::Error::other(format!("round {round}: {content:?}")));
    }
    fs::remove_file(&one)?;
    fs::remove_file(folder.join("dir/moved"))?;
    fs::remove_dir(folder.join("dir"))?;
    match fs::read_dir(folder)?.count() {
        0 => Ok(()),
        left => Err(std::io::Error::other(format!("round {round}: {left} entries are left"))),
    }
}

/// Sets an attribute that must not be there, and removes it, which must be.
fn set_new_xattr(path: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let (name, value) = (c"user.once", b"value");
    // SAFETY: NUL-terminated strings, and a value of this length.
    let done = unsafe {
        let (path, name) = (path.as_ptr(), name.as_ptr());
        let set = libc::setxattr(path, name, value.as_ptr().cast(), 5, libc::XATTR_CREATE);
        if set == 0 { libc::removexattr(path, name) } else { set }
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Runs `disturb` while some threads change all that they can, and gives the rounds they made.
fn under_load(world: &World, disturb: impl FnOnce(&AtomicU64)) -> u64 {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let mut writers = Vec::new();
        for number in 0..4 {
            let folder = world.ws().join(format!("w{number}"));
            fs::create_dir_all(&folder).unwrap();
            let (stop, rounds) = (&stop, &rounds);
            writers.push(scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    change_all(&folder, rounds.fetch_add(1, Ordering::Relaxed))?;
                }
                Ok::<(), std::io::Error>(())
            }));
        }
        disturb(&rounds);
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap().expect("a call was answered as if there had been a crash");
        }
    });
    rounds.load(Ordering::Relaxed)
}

/// Waits until there were some more rounds.
fn more_rounds(rounds: &AtomicU64) {
    let until = rounds.load(Ordering::Relaxed) + 30;
    wait_for("writers to go on", || rounds.load(Ordering::Relaxed) >= until);
}

#[test]
fn every_change_is_made_exactly_once_whenever_the_daemon_is_killed() {
    let world = world();
    world.mount();
    under_load(&world, |rounds| {
        for _ in 0..4 {
            more_rounds(rounds);
            world.kill_daemon();
        }
        more_rounds(rounds);
    });
    assert_eq!(adoptions(&world), 4);
    world.hibernate();
}

/// Each daemon dies right after it has written a change to its journal, before it answers: the very
/// instant at which the kernel's second request must not be carried out.
#[test]
fn a_change_that_was_made_and_not_answered_is_not_made_again() {
    let mut world = world();
    let folder = world.ws().join("w");
    for appends in [23, 26, 30, 33] {
        world.set("DORMOUSE_CRASH_POINT", format!("journal-appended:{appends}"));
        world.mount();
        fs::create_dir_all(&folder).unwrap();
        let mut round = 0;
        while adoptions(&world) < 4 {
            change_all(&folder, round).expect("a call was answered as if there had been a crash");
            round += 1;
        }
        world.crash();
    }
    world.set("DORMOUSE_CRASH_POINT", "");
    world.mount();
    change_all(&folder, 0).unwrap();
    world.hibernate();
}

#[test]
fn an_upgrade_under_load_is_seen_by_nobody() {
    let world = world();
    world.mount();
    let keeper = world.status()["keeper_pid"].as_i64().unwrap();
    let copy = world.path("dormouse-next");
    fs::copy(dormouse(), &copy).unwrap();
    under_load(&world, |rounds| {
        more_rounds(rounds);
        let before = world.daemon();
        let binary = copy.to_str().unwrap();
        let told = world.ok(&["upgrade", "--json", "--binary", binary, &world.text("ws")]).json();
        assert_eq!(told["old_pid"].as_i64().unwrap(), i64::from(before.as_raw()));
        let pid = told["pid"].as_i64().unwrap();
        assert_ne!(pid, i64::from(before.as_raw()));
        assert_eq!(told["new_version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(fs::read_link(format!("/proc/{pid}/exe")).unwrap(), copy);
        more_rounds(rounds);
        // The keeper is the new program too, in the same process.
        wait_for("the keeper's own upgrade", || {
            fs::read_link(format!("/proc/{keeper}/exe")).unwrap() == copy
        });
        world.kill_daemon();
        more_rounds(rounds);
        assert_eq!(fs::read_link(format!("/proc/{}/exe", world.daemon())).unwrap(), copy);
        // And back, to the program that runs the command.
        world.ok(&["upgrade", "w"]);
        more_rounds(rounds);
    });
    let status = world.status();
    assert_eq!(status["keeper_pid"].as_i64().unwrap(), keeper);
    assert_eq!(status["adoptions"], 1, "an upgrade is no crash");
    world.hibernate();
}

#[test]
fn a_program_that_can_not_take_over_leaves_the_old_one_at_work() {
    let world = world();
    world.mount();
    let (before, ws) = (world.daemon(), world.text("ws"));
    let script = |name: &str, text: &str| {
        let path = world.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let other = script("other", "echo something else");
    world.fails(&["upgrade", "--binary", &other, &ws], 2, "does not say that it is a dormouse");
    world.fails(&["upgrade", "--binary", "/does/not/exist", &ws], 2, "the mount was left alone");
    assert_eq!(world.daemon(), before);
    let broken = script("broken", r#"[ "$1" = --version ] && echo "dormouse 99.0" || exit 7"#);
    let ran = world.fails(&["upgrade", "--binary", &broken, &ws], 1, "did not take the mount over");
    assert!(ran.err.contains("exit code 7"), "{ran:?}");
    fs::write(world.ws().join("f"), "served again").unwrap();
    assert!(world.status()["failed_upgrade"].as_str().unwrap().contains("exit code 7"));
    world.ok(&["upgrade", "--binary", dormouse().to_str().unwrap(), &ws]);
    assert!(world.status()["failed_upgrade"].is_null());
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "served again");
    world.hibernate();
}

#[test]
fn a_mount_without_a_keeper_is_not_upgraded() {
    let mut world = world();
    world.set("DORMOUSE_KEEPER", "off");
    world.mount();
    assert!(world.status()["keeper_pid"].is_null());
    let before = world.daemon();
    world.fails(&["upgrade", "w"], 2, "hibernate and mount it again");
    assert_eq!(world.daemon(), before);
    fs::write(world.ws().join("f"), "x").unwrap();
    world.hibernate();
    let arguments = ["mount", "--keeper", "on", "--transport", "uring", "w", &world.text("ws")];
    world.fails(&arguments, 2, "ends with its daemon");
}

#[test]
fn a_takeover_asks_the_store_for_nothing_and_goes_on_as_the_same_writer() {
    let world = world();
    world.mount();
    let file = |name: &str| world.ws().join(name);
    fs::write(file("sealed"), "sealed").unwrap();
    world.ok(&["checkpoint", "w"]);
    fs::write(file("unsealed"), "unsealed").unwrap();
    let epoch = world.status()["epoch"].as_u64().unwrap();
    world.take_store_away();
    world.kill_daemon();
    fs::write(file("late"), "late").unwrap();
    assert_eq!(fs::read_to_string(file("sealed")).unwrap(), "sealed");
    assert_eq!(fs::read_to_string(file("unsealed")).unwrap(), "unsealed");
    assert_eq!(adoptions(&world), 1);
    world.put_store_back();
    world.ok(&["checkpoint", "w"]);
    world.kill_daemon();
    fs::write(file("later"), "later").unwrap();
    assert_eq!(world.status()["epoch"].as_u64().unwrap(), epoch);
    world.hibernate();
    world.lose_caches();
    world.mount();
    for name in ["sealed", "unsealed", "late", "later"] {
        assert_eq!(fs::read_to_string(file(name)).unwrap(), name);
    }
    world.hibernate();
}

#[test]
fn a_daemon_that_dies_while_it_moves_the_head_fences_nobody() {
    let mut world = world();
    world.set("DORMOUSE_CRASH_POINT", "swap.won");
    world.mount();
    for name in ["one", "two"] {
        fs::write(world.ws().join(name), name).unwrap();
        let ran = world.run(&["checkpoint", "w"]);
        assert_ne!(ran.code, 0, "{ran:?}");
        fs::write(world.ws().join(format!("after-{name}")), name).unwrap();
        assert!(world.status()["fenced"].is_null());
    }
    assert_eq!(adoptions(&world), 2);
    world.crash();
    world.set("DORMOUSE_CRASH_POINT", "");
    world.mount();
    world.hibernate();
    world.lose_caches();
    world.mount();
    for name in ["one", "two"] {
        assert_eq!(fs::read_to_string(world.ws().join(name)).unwrap(), name);
        let after = world.ws().join(format!("after-{name}"));
        assert_eq!(fs::read_to_string(after).unwrap(), name);
    }
    world.hibernate();
}

/// Whatever a call gets that waited for a daemon which does not come.
fn is_told(result: &std::io::Result<Vec<u8>>) -> bool {
    let told = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO];
    matches!(result, Err(error) if error.raw_os_error().is_some_and(|it| told.contains(&it)))
}

#[test]
fn daemons_that_die_one_after_the_other_are_given_up_and_callers_are_told() {
    let mut world = world();
    world.set("DORMOUSE_CRASH_POINT", "resume.inherited");
    world.mount();
    let keeper = i32::try_from(world.status()["keeper_pid"].as_i64().unwrap()).unwrap();
    fs::write(world.ws().join("f"), "kept").unwrap();
    let pid = world.kill_daemon();
    // Waits for each of those that die, and is told in the end.
    let result = File::open(world.ws().join("absent")).map(|_| Vec::new());
    assert!(is_told(&result), "{result:?}");
    wait_for("the keeper's end", || !is_alive(nix::unistd::Pid::from_raw(keeper)));
    assert!(!is_alive(pid));
    let log = log_of(&world);
    assert!(log.contains("nobody takes the mount over"), "{log}");
    world.set("DORMOUSE_CRASH_POINT", "");
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "kept");
    world.hibernate();
}

#[test]
fn where_recovery_fails_the_mount_is_aborted_and_the_exit_code_says_why() {
    let world = world();
    let foreground = world.foreground(&["w", &world.text("ws")]);
    fs::write(world.ws().join("f"), "kept").unwrap();
    let cache = fs::read_dir(world.path("caches")).unwrap().next().unwrap().unwrap().path();
    let marker = cache.join("dormouse");
    let text = fs::read(&marker).unwrap();
    fs::write(&marker, "damaged").unwrap();
    world.kill_daemon();
    let result = File::open(world.ws().join("absent")).map(|_| Vec::new());
    assert!(is_told(&result), "{result:?}");
    assert_eq!(foreground.wait().code, 9);
    fs::write(&marker, text).unwrap();
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "kept");
    world.hibernate();
}

#[test]
fn a_signal_to_the_keeper_or_to_both_hibernates_once() {
    let world = world();
    for to_both in [false, true] {
        let foreground = world.foreground(&["w", &world.text("ws")]);
        let status = world.status();
        assert_eq!(status["keeper_pid"].as_i64().unwrap(), i64::from(foreground.pid().as_raw()));
        fs::write(world.ws().join("f"), format!("{to_both}")).unwrap();
        if to_both {
            // After a takeover, as systemd does: each process of the service.
            world.kill_daemon();
            assert_eq!(adoptions(&world), 1);
            kill(world.daemon(), Signal::SIGTERM).unwrap();
        }
        foreground.signal(Signal::SIGTERM);
        let ran = foreground.wait();
        assert_eq!(ran.code, 0, "{ran:?}");
        world.lose_caches();
        world.mount();
        let content = fs::read_to_string(world.ws().join("f")).unwrap();
        assert_eq!(content, format!("{to_both}"));
        world.hibernate();
    }
}

#[test]
fn a_daemon_that_is_signalled_itself_takes_its_keeper_along() {
    let world = world();
    let foreground = world.foreground(&["w", &world.text("ws")]);
    fs::write(world.ws().join("f"), "sealed").unwrap();
    kill(world.daemon(), Signal::SIGINT).unwrap();
    assert_eq!(foreground.wait().code, 0);
    world.lose_caches();
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "sealed");
    world.hibernate();
}

#[test]
fn a_mount_whose_keeper_is_killed_goes_on_and_ends_with_its_daemon() {
    let world = world();
    world.mount();
    let keeper = i32::try_from(world.status()["keeper_pid"].as_i64().unwrap()).unwrap();
    kill(nix::unistd::Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    wait_for("the daemon to notice", || world.status()["keeper_pid"].is_null());
    fs::write(world.ws().join("f"), "x").unwrap();
    world.fails(&["upgrade", "w"], 2, "hibernate and mount it again");
    let pid = world.kill_daemon();
    wait_for("the daemon's end", || !is_alive(pid));
    wait_for("the mount's end", || {
        thread::sleep(Duration::from_millis(1));
        let looked = fs::metadata(world.ws().join("absent"));
        looked.is_err_and(|error| error.kind() != ErrorKind::NotFound)
    });
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "x");
    world.hibernate();
}
