//! How a mount begins and ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dormouse::fuse::{FuseError, MountOptions, Mounted, Transport, TransportChoice};

use crate::harness::{Mount, Stack, mount_line, options, outside, transport};

/// Mounts and keeps what the mount serves.
fn try_mount(options: &MountOptions) -> Result<(Mounted, Stack), FuseError> {
    let stack = Stack::new();
    stack.mount(options).map(|mounted| (mounted, stack))
}

fn refusal(options: &MountOptions) -> FuseError {
    try_mount(options).map(|_| ()).unwrap_err()
}

#[test]
fn the_mount_table_shows_the_workspace_and_safe_options() {
    let mount = Mount::new();
    let line = mount_line(mount.path()).unwrap();
    assert!(line.starts_with("test "), "{line}");
    for part in ["fuse.dormouse", "nosuid", "nodev", "default_permissions", "allow_other"] {
        assert!(line.contains(part), "{part} not in {line}");
    }
}

#[test]
fn a_read_only_mount_takes_no_writes() {
    let mount = Mount::with(|options| options.read_only = true);
    mount.py("fails(errno.EROFS, os.mkdir, 'd')");
}

#[test]
fn a_mountpoint_that_does_not_suit_is_refused_by_its_kind() {
    let (_keep, outside) = outside();
    let missing = outside.join("missing");
    let result = refusal(&options(&missing, "x"));
    assert!(matches!(result, FuseError::Missing(_)), "{result:?}");
    let file = outside.join("file");
    std::fs::write(&file, b"").unwrap();
    let result = refusal(&options(&file, "x"));
    assert!(matches!(result, FuseError::NotADirectory(_)), "{result:?}");
    let result = refusal(&options(&outside, "x"));
    assert!(matches!(result, FuseError::NotEmpty(_)), "{result:?}");
    let mut options = options(&outside, "x");
    options.allow_nonempty = true;
    let (over, _stack) = try_mount(&options).unwrap();
    over.unmount(false).unwrap();
}

#[test]
fn a_second_mount_on_the_same_place_is_refused() {
    let mount = Mount::new();
    let result = refusal(&options(mount.path(), "other"));
    let FuseError::AlreadyMounted { source_name, .. } = result else {
        panic!("{result:?}");
    };
    assert_eq!(source_name, "test");
    mount.sh("touch still-works");
}

#[test]
fn unmounting_a_busy_mount_is_refused_and_harmless() {
    let mount = Mount::new();
    let mut child = mount.shell("exec sleep 60").spawn().unwrap();
    let is_inside = || {
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", child_of(child.id())));
        cwd.is_ok_and(|cwd| cwd == mount.path())
    };
    wait_until("the child is inside", is_inside);
    let result = mount.mounted().unmount(false);
    assert!(matches!(result, Err(FuseError::Busy(_))), "{result:?}");
    mount.sh("echo alive > file; grep -q alive file");
    let inner = nix::unistd::Pid::from_raw(i32::try_from(child_of(child.id())).unwrap());
    nix::sys::signal::kill(inner, nix::sys::signal::SIGKILL).unwrap();
    child.wait().unwrap();
    mount.mounted().unmount(false).unwrap();
}

/// The shell that `timeout` started.
fn child_of(timeout: u32) -> u32 {
    let path = format!("/proc/{timeout}/task/{timeout}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(timeout)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 10 s: {what}");
}

#[test]
fn an_unmount_from_outside_ends_the_wait() {
    let mount = Mount::new();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            mount.mounted().wait();
            has_ended.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!has_ended.load(Ordering::SeqCst), "nobody unmounted yet");
        let status = std::process::Command::new("umount").arg(mount.path()).status().unwrap();
        assert!(status.success());
    });
    assert!(mount.mounted().has_ended());
    assert_eq!(mount_line(mount.path()), None);
    mount.mounted().unmount(false).unwrap();
}

#[test]
fn what_was_mounted_below_survives_an_unmount_from_outside() {
    let (_keep, outside) = outside();
    let below = Mount::with(|options| options.mountpoint = outside.clone());
    let mut options = options(&outside, "over");
    options.allow_nonempty = true;
    // A second Dormouse is refused there, so the upper one is a bind mount of another.
    let other = Mount::new();
    let bound = std::process::Command::new("mount")
        .args(["--bind"])
        .args([other.path(), outside.as_path()])
        .status()
        .unwrap();
    assert!(bound.success());
    // What lies on top is not ours: taking ours away must leave it alone.
    below.mounted().unmount(false).unwrap();
    assert!(mount_line(&outside).unwrap().starts_with("test "));
    let unbound = std::process::Command::new("umount").arg(&outside).status().unwrap();
    assert!(unbound.success());
    below.mounted().unmount(false).unwrap();
}

#[test]
fn an_aborted_mount_gives_errors_and_is_called_dead() {
    let mount = Mount::new();
    mount.sh("touch file");
    mount.mounted().abort().unwrap();
    mount.mounted().wait();
    let output = mount.shell("ls").output().unwrap();
    assert!(!output.status.success());
    // The dead mount stays, so that nobody writes into the directory below it.
    assert!(mount_line(mount.path()).is_some());
    let result = refusal(&options(mount.path(), "again"));
    assert!(matches!(result, FuseError::Dead(_)), "{result:?}");
    mount.mounted().unmount(false).unwrap();
    assert_eq!(mount_line(mount.path()), None);
}

#[test]
fn a_file_stays_readable_in_a_mount_that_was_taken_away_lazily() {
    let mount = Mount::new();
    mount.sh("echo kept > file");
    let mut child = mount.shell("exec 3< file; echo open; sleep 0.5; cat <&3").spawn().unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    mount.mounted().unmount(true).unwrap();
    assert_eq!(mount_line(mount.path()), None);
    assert_eq!(crate::harness::checked(child.wait_with_output().unwrap()), "kept\n");
    mount.mounted().wait();
}

/// Whether the kernel offers io_uring at the moment.
fn has_uring() -> bool {
    let switch = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    switch.is_ok_and(|text| text.trim() == "Y")
}

#[test]
fn a_mount_has_the_transport_that_was_asked_for() {
    let expected = match transport() {
        TransportChoice::Uring => Transport::Uring,
        _ => Transport::Device,
    };
    let mount = Mount::new();
    assert_eq!(mount.mounted().transport(), expected);
    let other = Mount::with(|options| options.transport = TransportChoice::Device);
    assert_eq!(other.mounted().transport(), Transport::Device);
    other.sh("echo text > file; grep -q text file");
}

#[test]
fn without_a_choice_io_uring_is_taken_where_it_is_offered() {
    let before = has_uring();
    let mount = Mount::with(|options| options.transport = TransportChoice::Auto);
    mount.sh("echo text > file; grep -q text file");
    // Whoever runs the tests may switch it meanwhile.
    if before == has_uring() {
        let expected = if before { Transport::Uring } else { Transport::Device };
        assert_eq!(mount.mounted().transport(), expected);
    }
}

#[test]
fn io_uring_that_is_not_offered_is_refused_and_nothing_stays_mounted() {
    if has_uring() {
        return;
    }
    let stack = Stack::new();
    let mut options = options(stack.mountpoint(), "test");
    options.transport = TransportChoice::Uring;
    let result = stack.mount(&options).map(|_| ()).unwrap_err();
    assert!(matches!(result, FuseError::NoUring(_)), "{result:?}");
    assert_eq!(mount_line(&options.mountpoint), None);
}
