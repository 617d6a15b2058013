//! Bad input on this machine: flags, names, paths, places, disks. Each has its exit code (or
//! errno), says what is wrong and what to do, and loses nothing.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::support::{World, available, is_mounted};

#[test]
fn a_command_line_that_can_t_be_meant_is_a_usage_error() {
    let world = World::new();
    let ws = world.text("ws");
    fs::write(world.path("file"), "").unwrap();
    fs::create_dir_all(world.path("full/x")).unwrap();
    fs::write(world.path("c.toml"), "[mount]\ncache-sise = \"1G\"\n").unwrap();
    let (missing, file, full) = (world.text("missing"), world.text("file"), world.text("full"));
    let inside = format!("{ws}/cache");
    let reader = world.text("caches/w-01234567~ro-89abcdef");
    let config = world.text("c.toml");
    let of_config = format!("the configuration file {missing}: No such file");
    let of_scratch = format!("the directory for temporary files: {missing}: No such file");
    let rows: &[(&[&str], &str)] = &[
        (&["frobnicate"], "unrecognized subcommand"),
        (&["mount", "w"], "required arguments"),
        (&["mount", "--cache-sise=1G", "w", &ws], "unexpected argument"),
        (&["mount", "--cache-size=lots", "w", &ws], "is not a size"),
        (&["mount", "--cache-size=1M", "w", &ws], "at least 128.0 MiB"),
        (&["mount", "--lease-ttl=soon", "w", &ws], "is not a duration"),
        (&["mount", "--lease-ttl=1s", "w", &ws], "between 10 seconds"),
        (&["mount", "--threads=0", "w", &ws], "at least 1"),
        (&["mount", "--store-timeout=0", "w", &ws], "more than zero"),
        (&["mount", "--steal", "--read-only", "w", &ws], "cannot be used with"),
        (&["mount", "--log-level=a=b=c", "w", &ws], "--log-level"),
        (&["mount", "../w", &ws], "is not allowed"),
        (&["mount", "w", ""], "a value is required"),
        (&["mount", "w", &missing], "does not exist"),
        (&["mount", "w", &file], "not a directory"),
        (&["mount", "w", &full], "not empty: what is in it would be hidden; move it away, or"),
        (&["mount", "--cache-dir", &reader, "w", &ws], "folders of read-only mounts"),
        (&["mount", "--cache-dir", &inside, "w", &ws], "inside the mountpoint"),
        (&["mount", "--cache-dir", &ws, "w", &ws], "inside the mountpoint"),
        (&["--config", &missing, "workspaces"], &of_config),
        (&["verify", "--scratch-dir", &missing, "--all"], &of_scratch),
        (
            &["init", "--store", "file:///proc/none/store"],
            "can't be used: cannot create /proc/none",
        ),
        (&["--config", &config, "workspaces"], "cache-sise"),
        (&["workspaces", "--store", "ftp://x/y"], "not a store address"),
        (&["workspaces", "--store", "s3://"], "bucket"),
        (&["workspaces", "--store", "s3://key:secret@bucket"], "credentials do not belong"),
        (&["workspaces", "--store", "file://relative"], "three slashes"),
        (&["workspaces", "--endpoint", "localhost:9000"], "must begin with http"),
    ];
    for (args, says) in rows {
        let ran = world.fails(args, 2, says);
        assert!(!ran.err.contains("secret"), "{}", ran.err);
        assert!(!ran.err.contains("0ns"), "{}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
        // To a program the same is said in its language, whatever was wrong.
        let ran = world.run(&[&["--json"][..], args].concat());
        let said: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((ran.code, &said["error"]["name"]), (2, &"usage".into()), "{said}");
        let text = format!("{}: {}", said["error"]["message"], said["error"]["hint"]);
        assert!(!text.contains("[0m") && !text.contains("error:"), "{text}");
        assert_eq!(ran.out, "", "{args:?}");
    }
    assert!(!is_mounted(&world.ws()));
    assert_eq!(world.ok(&["workspaces", "--json"]).json()["workspaces"], serde_json::json!([]));
}

#[test]
fn without_a_store_the_message_says_how_to_name_one() {
    let mut world = World::bare();
    world.set("DORMOUSE_STORE", "");
    world.fails(&["workspaces"], 2, "DORMOUSE_STORE");
}

#[test]
fn what_is_not_there_is_not_found() {
    let world = World::new();
    let ws = world.text("ws");
    let none = format!("file://{}", world.text("none"));
    let empty = format!("file://{}", world.text("home"));
    let rows: &[(&[&str], &str)] = &[
        (&["mount", "--store", &none, "w", &ws], "does not exist"),
        (&["mount", "--store", &empty, "w", &ws], "dormouse init"),
        (&["mount", "--create", "--store", &empty, "w", &ws], "dormouse init"),
        (&["workspaces", "--store", &empty], "dormouse init"),
        (&["mount", "w", &ws], "--create"),
        (&["mount", "--read-only", "w", &ws], "no workspace w"),
        (&["snapshots", "w"], "no workspace w"),
        (&["status", &ws], "no workspace is mounted"),
        (&["status", "w"], "no workspace is mounted"),
        (&["checkpoint", &ws], "no workspace is mounted"),
        (&["unmount", &ws], "no workspace is mounted"),
        (&["hibernate", &ws], "no workspace is mounted"),
    ];
    for (args, says) in rows {
        world.fails(args, 5, says);
    }
    world.mount();
    world.hibernate();
    world.fails(&["mount", "--at", "0123456789", "w", &ws], 5, "no snapshot 0123456789");
}

#[test]
fn a_place_that_is_taken_is_refused_with_the_one_who_has_it() {
    let world = World::new();
    world.mount();
    let pid = world.daemon().to_string();
    world.fails(&["mount", "w", &world.text("ws")], 8, &pid);
    fs::create_dir(world.path("other")).unwrap();
    // The same workspace, so the same cache directory by default.
    world.fails(&["mount", "w", &world.text("other")], 8, &pid);
    assert!(!is_mounted(&world.path("other")));
    fs::write(world.ws().join("f"), "still works").unwrap();
    world.hibernate();
}

#[test]
fn a_cache_directory_of_somebody_else_is_refused_and_left_alone() {
    let world = World::new();
    let cache = world.text("cache");
    world.ok(&["mount", "--create", "--cache-dir", &cache, "w", &world.text("ws")]);
    world.hibernate();
    let line = ["mount", "--create", "--cache-dir", &cache, "other", &world.text("ws")];
    world.fails(&line, 12, "cache of");
    // Another store, the same workspace name.
    let store = format!("file://{}", world.text("store2"));
    world.ok(&["init", "--store", &store]);
    let line = ["mount", "--create", "--store", &store, "--cache-dir", &cache, "w"];
    world.fails(&[&line[..], &[&world.text("ws")]].concat(), 12, "cache of");
    fs::create_dir(world.path("mine")).unwrap();
    fs::write(world.path("mine/letter"), "dear").unwrap();
    let mine = world.text("mine");
    let line = ["mount", "--create", "--cache-dir", &mine, "w2", &world.text("ws")];
    world.fails(&line, 12, "not empty and not a dormouse directory");
    assert_eq!(fs::read_dir(world.path("mine")).unwrap().count(), 1, "something was left there");
    // The refused mounts left no lease behind, and the cache is as good as before.
    world.ok(&["mount", "--cache-dir", &cache, "w", &world.text("ws")]);
}

#[test]
fn a_read_only_mount_does_not_take_a_cache_that_holds_unsynced_changes() {
    let world = World::new();
    let cache = world.text("cache");
    world.ok(&["mount", "--create", "--cache-dir", &cache, "w", &world.text("ws")]);
    fs::write(world.ws().join("f"), "only here").unwrap();
    world.ok(&["unmount", "--keep-local", "w"]);
    let line = ["mount", "--read-only", "--cache-dir", &cache, "w", &world.text("ws")];
    world.fails(&line, 12, "not in the store");
    world.ok(&["mount", "--cache-dir", &cache, "w", &world.text("ws")]);
    assert_eq!(fs::read_to_string(world.ws().join("f")).unwrap(), "only here");
}

#[test]
fn without_the_device_the_message_says_what_a_container_needs() {
    let world = World::new();
    let script = "mount --bind /dev/null /dev/fuse && umask 077 && exec \"$0\" \"$@\"";
    let mut args = vec!["-m", "sh", "-c", script, crate::support::dormouse().to_str().unwrap()];
    let ws = world.text("ws");
    args.extend(["mount", "--create", "w", &ws]);
    let ran = world.command(Path::new("unshare"), &args).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    // /dev/null opens, but can't be mounted; where it can't be opened, the device is named.
    assert_eq!(ran.status.code(), Some(13), "{said}");
    // Nothing stays taken.
    world.mount();
}

#[test]
fn names_that_are_too_long_and_files_that_are_too_large_are_errnos() {
    let world = World::new();
    world.mount();
    let long = fs::write(world.ws().join("x".repeat(256)), "").unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
    fs::write(world.ws().join("x".repeat(255)), "").unwrap();
    let file = fs::File::create(world.ws().join("f")).unwrap();
    assert!(file.set_len(u64::MAX).is_err());
    world.hibernate();
}

/// Writes until it fails; gives the error and how much was written.
fn fill(path: &Path, len_max: usize) -> (std::io::Error, usize) {
    let mut file = fs::File::create(path).unwrap();
    let mut block = vec![0; 1 << 20];
    for written in 0..len_max >> 20 {
        blake3::Hasher::new().update(&written.to_le_bytes()).finalize_xof().fill(&mut block);
        if let Err(error) = file.write_all(&block) {
            return (error, written << 20);
        }
    }
    panic!("{len_max} bytes were taken");
}

#[test]
fn a_cache_smaller_than_what_is_dirty_is_an_errno_and_loses_nothing() {
    let mut world = World::new();
    world.set("DORMOUSE_CACHE_SIZE", "128M");
    world.mount();
    fs::write(world.ws().join("before"), "fine").unwrap();
    world.take_store_away();
    let (error, written) = fill(&world.ws().join("big"), 400 << 20);
    let errno = error.raw_os_error();
    assert!(matches!(errno, Some(libc::ENOSPC | libc::EDQUOT)), "{error}");
    assert!(written > 32 << 20, "only {written} bytes of 128 MiB were taken");
    let len = fs::metadata(world.ws().join("big")).unwrap().len();
    assert!(usize::try_from(len).unwrap() >= written);
    assert_eq!(fs::read_to_string(world.ws().join("before")).unwrap(), "fine");
    world.put_store_back();
    world.hibernate();
    world.lose_caches();
    world.mount();
    assert_eq!(fs::metadata(world.ws().join("big")).unwrap().len(), len);
    assert_eq!(fs::read_to_string(world.ws().join("before")).unwrap(), "fine");
}

#[test]
fn a_full_disk_is_enospc_and_loses_nothing() {
    let world = World::new();
    let small = world.disk("small", "size=192m");
    let cache = world.text("small/cache");
    world.ok(&["mount", "--create", "--cache-dir", &cache, "w", &world.text("ws")]);
    fs::write(world.ws().join("before"), "fine").unwrap();
    world.take_store_away();
    let told = available(&world.ws());
    assert!(told < available(&small) - (64 << 20) + (1 << 20), "the reserve is for no file");
    let (error, written) = fill(&world.ws().join("big"), 400 << 20);
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(written as u64 <= told && written as u64 > told / 4 * 3, "{written} of {told}");
    assert!(available(&world.ws()) < 2 << 20, "{}", available(&world.ws()));
    assert_eq!(fs::read_to_string(world.ws().join("before")).unwrap(), "fine");
    world.put_store_back();
    fs::remove_file(world.ws().join("big")).unwrap();
    fs::write(world.ws().join("after"), "fine again").unwrap();
    world.hibernate();
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("after")).unwrap(), "fine again");
    assert!(!world.ws().join("big").exists());
}
