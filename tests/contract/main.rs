//! Every store keeps one contract; the client over it keeps its promises when a store fails.

// Clippy knows `#[test]` functions, but not the functions that they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, reason = "nothing here is a library")]

mod client;
mod doubles;
mod suite;

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use dormouse::remote::{PutMode, Remote, RemoteError, RemoteOptions};
use dormouse::types::SystemClock;
use suite::Bench;

/// Set in a child process of this test: the address of the store it works on.
const CHILD: &str = "DORMOUSE_CONTRACT_CHILD";

fn open(url: &str) -> Arc<Remote> {
    let clock = Arc::new(SystemClock::new());
    Remote::open(&url.parse().unwrap(), &RemoteOptions::default(), clock).unwrap()
}

#[test]
fn memory_keeps_the_contract() {
    let open_here = || open("mem:contract");
    let sibling = Some(open("mem:contract-sibling"));
    suite::run(&Bench { open: &open_here, sibling, many: 1500 });
}

#[test]
fn a_directory_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let url = format!("file://{}", root.path().join("here").display());
    let beside = open(&format!("file://{}", root.path().join("beside").display()));
    beside.create_place().unwrap();
    open(&url).create_place().unwrap();
    let open_here = || open(&url);
    suite::run(&Bench { open: &open_here, sibling: Some(beside), many: 120 });
}

#[test]
fn opening_a_store_touches_nothing() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path().join("not-there");
    let remote = open(&format!("file://{}", here.display()));
    assert!(!here.exists());
    for error in [
        remote.get("k").unwrap_err(),
        remote.stat("k").unwrap_err(),
        remote.list("").unwrap_err(),
        remote.delete("k").unwrap_err(),
        remote.put("k", Bytes::new(), PutMode::Any).unwrap_err(),
    ] {
        assert!(matches!(error, RemoteError::NoStore { .. }), "{error}");
    }
    assert!(!here.exists());
    remote.create_place().unwrap();
    remote.put("k", Bytes::new(), PutMode::Any).unwrap();
}

/// Appends its entries; does nothing unless started by the test below.
#[test]
fn child_appends() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let (name, url) = child.split_once(' ').unwrap();
    let remote = open(url);
    for entry in 0..20 {
        suite::append(&remote, "list", &format!("{name}.{entry}"));
    }
}

#[test]
fn processes_that_share_a_directory_lose_no_update() {
    let root = tempfile::tempdir().unwrap();
    let url = format!("file://{}", root.path().display());
    let remote = open(&url);
    remote.put("list", Bytes::new(), PutMode::Create).unwrap();
    let children: Vec<_> = (0..3)
        .map(|name| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_appends"])
                .env(CHILD, format!("{name} {url}"))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let list = remote.get("list").unwrap().bytes;
    let mut entries: Vec<_> = std::str::from_utf8(&list).unwrap().lines().collect();
    assert_eq!(entries.len(), 60);
    entries.sort_unstable();
    entries.dedup();
    assert_eq!(entries.len(), 60, "an update was lost or came twice");
}

#[test]
fn a_directory_shows_no_files_of_others_and_none_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let remote = open(&format!("file://{}", root.path().display()));
    remote.put("packs/one", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    std::fs::write(root.path().join("lost+found~"), "x").unwrap();
    std::fs::write(root.path().join("packs/.hidden"), "x").unwrap();
    let keys: Vec<_> = remote.list("").unwrap().into_iter().map(|meta| meta.key).collect();
    assert_eq!(keys, ["packs/one"]);
    let temp = root.path().join(".dormouse/temp");
    assert_eq!(std::fs::read_dir(temp).unwrap().count(), 0, "temporary files are left");
}

#[test]
fn folders_removed_under_a_running_client_come_back() {
    let root = tempfile::tempdir().unwrap();
    let remote = open(&format!("file://{}", root.path().display()));
    remote.put("packs/one", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    for folder in ["packs", ".dormouse"] {
        std::fs::remove_dir_all(root.path().join(folder)).unwrap();
        remote.put("packs/two", Bytes::from_static(b"y"), PutMode::Any).unwrap();
        assert_eq!(remote.get("packs/two").unwrap().bytes, "y");
    }
}

#[test]
fn a_full_disk_is_full_and_leaves_no_half_object() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let root = tempfile::tempdir().unwrap();
    let tmpfs = Some("tmpfs");
    mount(tmpfs, root.path(), tmpfs, MsFlags::empty(), Some("size=1m"))
        .expect("the right to mount a tmpfs: run this as root");
    let remote = open(&format!("file://{}", root.path().display()));
    remote.put("small", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    let error = remote.put("large", vec![1; 2_000_000].into(), PutMode::Any).unwrap_err();
    let (listed, again) =
        (remote.list(""), remote.put("more", vec![1; 500_000].into(), PutMode::Any));
    umount2(root.path(), MntFlags::MNT_DETACH).unwrap();
    assert!(matches!(error, RemoteError::Full { .. }), "{error}");
    assert_eq!(listed.unwrap().len(), 1);
    again.expect("the space of the failed put is free again");
}

#[test]
fn a_read_only_directory_can_be_read_and_says_so_when_written() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let root = tempfile::tempdir().unwrap();
    let remote = open(&format!("file://{}", root.path().display()));
    remote.put("k", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    let none: Option<&str> = None;
    let bind = MsFlags::MS_BIND;
    mount(Some(root.path()), root.path(), none, bind, none)
        .expect("the right to mount: run this as root");
    let flags = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, root.path(), none, flags, none).unwrap();
    let read = remote.get("k");
    let written = remote.put("l", Bytes::new(), PutMode::Any);
    umount2(root.path(), MntFlags::MNT_DETACH).unwrap();
    assert_eq!(read.unwrap().bytes, "x");
    let error = written.unwrap_err();
    assert!(matches!(error, RemoteError::NotPermitted { .. }), "{error}");
}
