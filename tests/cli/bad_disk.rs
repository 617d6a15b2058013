//! A local disk that fails: a filesystem in an image whose own disk has run out of room, so that
//! what the kernel writes to it fails as on a broken device.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags};

use crate::support::{World, is_mounted};

/// Runs a tool of the system; its exit code.
fn tool(name: &str, args: &[&str]) -> i32 {
    let ran = Command::new(name).args(args).output().unwrap();
    let code = ran.status.code().unwrap();
    assert!(code < 2, "{name} {args:?}: {ran:?}");
    code
}

/// A world whose cache directories are on a disk that takes some 40 MiB, and then fails.
struct Failing {
    world: World,
}

impl Failing {
    fn new() -> Failing {
        let mut world = World::new();
        let image = world.disk("backing", "size=40m").join("image");
        File::create(&image).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(tool("mkfs.ext4", &["-q", "-F", "-J", "size=4", image.to_str().unwrap()]), 0);
        fs::create_dir(world.path("disk")).unwrap();
        world.set("DORMOUSE_CACHE_ROOT", world.text("disk/caches"));
        let failing = Failing { world };
        failing.attach();
        failing
    }

    fn attach(&self) {
        let (image, disk) = (self.world.text("backing/image"), self.world.text("disk"));
        assert_eq!(tool("mount", &["-t", "ext4", "-o", "loop", &image, &disk]), 0);
    }

    /// A sound disk with what got onto the failing one.
    fn repair(&self) {
        nix::mount::umount2(&self.world.path("disk"), MntFlags::empty()).unwrap();
        let none: Option<&Path> = None;
        let size = Some("size=512m");
        let backing = self.world.path("backing");
        nix::mount::mount(none, &backing, none, MsFlags::MS_REMOUNT, size).unwrap();
        // 1: it was repaired.
        tool("e2fsck", &["-f", "-y", &self.world.text("backing/image")]);
        self.attach();
    }

    fn file(&self, number: u64) -> PathBuf {
        self.world.ws().join(format!("f{number}"))
    }

    /// A new file, the same old one over again, and a sync of both.
    fn step(&self, number: u64) -> io::Result<()> {
        let newest = self.world.ws().join("newest");
        let newest = File::options().write(true).create(true).truncate(false).open(newest)?;
        newest.write_all_at(&number.to_le_bytes(), 0)?;
        let mut file = File::create_new(self.file(number))?;
        file.write_all(&content(number))?;
        file.sync_all()
    }

    /// All that was synced is there; gives the number of the step that was begun last.
    fn check(&self, synced: u64) -> u64 {
        for number in 0..synced {
            let found = fs::read(self.file(number)).unwrap();
            assert!(found == content(number), "file {number} of {synced}");
        }
        let newest = fs::read(self.world.ws().join("newest")).unwrap();
        u64::from_le_bytes(newest.try_into().unwrap())
    }
}

fn content(number: u64) -> Vec<u8> {
    let mut content = vec![0; 60_000];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

#[test]
fn a_disk_that_fails_is_eio_for_changes_and_what_was_synced_outlives_it() {
    let failing = Failing::new();
    let world = &failing.world;
    world.mount();
    let mut synced = 0;
    let error = loop {
        match failing.step(synced) {
            Ok(()) => synced += 1,
            Err(error) => break error,
        }
    };
    assert!(synced > 100, "{synced} files");
    let is_eio = |error: &io::Error| error.raw_os_error() == Some(libc::EIO);
    assert!(is_eio(&error), "{error}");

    // Whatever changes something is refused; reads go on.
    assert!(is_eio(&File::create(world.ws().join("later")).unwrap_err()));
    assert!(is_eio(&fs::remove_file(failing.file(0)).unwrap_err()));
    assert!(is_eio(&File::open(world.ws()).unwrap().sync_all().unwrap_err()));
    assert_eq!(failing.check(synced), synced);

    // Everybody who asks is told.
    let status = world.status();
    assert_eq!(status["state"], "failed", "{status}");
    let failure = status["local"]["failure"].as_str().unwrap();
    // The sync, or the write after the file system has seen the failure first.
    let causes = ["Input/output error", "Read-only file system"];
    let is_told = failure.contains("/journal/") && causes.iter().any(|it| failure.contains(it));
    assert!(is_told, "{failure}");
    let (ws, text) = (world.text("ws"), world.ok(&["status", &world.text("ws")]).out);
    assert!(text.contains("DISK FAILED") && text.contains(failure), "{text}");
    let metrics = world.ok(&["status", "--metrics", &ws]).out;
    let is_metric =
        |line: &str| line.starts_with("dormouse_local_failed{") && line.ends_with("} 1");
    assert!(metrics.lines().any(is_metric), "{metrics}");
    world.fails(&["checkpoint", "w"], 1, "mount again");
    world.fails(&["hibernate", "w"], 1, "stays mounted");
    world.fails(&["unmount", &ws], 1, "it is kept in");
    assert!(!is_mounted(&world.ws()));
    // As ext4 becomes by itself where it can't write its journal either.
    let (none, flags) =
        (None::<&Path>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY);
    nix::mount::mount(none, &world.path("disk"), none, flags, none).unwrap();
    world.fails(&["mount", "w", &ws], 1, "see to the disk");

    failing.repair();
    world.mount();
    let newest = failing.check(synced);
    assert!([synced - 1, synced].contains(&newest), "{newest}, synced {synced}");
    // What was not synced may be there in part, in the order in which it was written.
    let unsynced = fs::read(failing.file(synced)).unwrap_or_default();
    assert!(content(synced).starts_with(&unsynced), "{} bytes", unsynced.len());
    assert_eq!(world.status()["local"]["failure"], serde_json::Value::Null);
    failing.step(synced + 1).unwrap();
    world.hibernate();
    fs::remove_dir_all(world.path("disk/caches")).unwrap();
    world.mount();
    assert_eq!(failing.check(synced), synced + 1);
    assert!(fs::read(failing.file(synced + 1)).unwrap() == content(synced + 1));
}
