//! Promises about names, orphans, waiting, freezing and threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dormouse::chunks::Fetch;
use dormouse::format::{Key, Tag};
use dormouse::fs::{
    At, Caller, FsError, LINKS_MAX, ListFrom, NewNode, Reclaim, RenameMode, SetAttr, XattrMode,
};
use dormouse::remote::{ObjectStore as _, PutMode};
use dormouse::types::{Attr, Clock, Ino, Kind, Name};

use crate::machine::{Machine, WAIT};

const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0, fetch: WAIT, request: None };
const LOCAL: Caller = Caller { uid: 0, gid: 0, umask: 0, fetch: Fetch::LocalOnly, request: None };

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn in_root(name: &Name) -> At<'_> {
    At { directory: Ino::ROOT, name }
}

/// So many new files in the root directory.
fn made(machine: &Machine, count: usize) -> (Vec<Name>, Vec<Ino>) {
    let names: Vec<Name> = (0..count).map(|number| name(&format!("f{number}"))).collect();
    let create = |name| machine.fs.create(&ROOT, in_root(name), 0o644, true).unwrap().ino;
    let inos = names.iter().map(create).collect();
    (names, inos)
}

#[test]
fn what_is_not_here_is_said_before_anything_happens() {
    let mut machine = Machine::new();
    let (dir, file) = (name("dir"), name("file"));
    let directory = machine.fs.mkdir(&ROOT, in_root(&dir), 0o755).unwrap().ino;
    let at = At { directory, name: &file };
    let ino = machine.fs.create(&ROOT, at, 0o644, true).unwrap().ino;
    machine.fs.write(&ROOT, ino, 0, &[5; 10_000], false).unwrap();
    machine.seal();
    let machine = machine.resume_elsewhere();
    machine.evict();
    let fs = &machine.fs;
    let is_remote = |result: Result<(), FsError>| matches!(result, Err(FsError::NotLocal(_)));
    let other = name("other");
    let other_at = At { directory, name: &other };
    let tries: [(&str, Result<(), FsError>); 8] = [
        ("lookup", fs.lookup(&LOCAL, Ino::ROOT, &dir).map(|_| ())),
        ("create", fs.create(&LOCAL, other_at, 0o644, true).map(|_| ())),
        ("unlink", fs.unlink(&LOCAL, at)),
        ("rename", fs.rename(&LOCAL, at, in_root(&other), RenameMode::Replace)),
        ("write", fs.write(&LOCAL, ino, 5, b"new", false).map(|_| ())),
        (
            "setattr",
            fs.setattr(&LOCAL, ino, &SetAttr { size: Some(1), ..SetAttr::default() }).map(|_| ()),
        ),
        ("setxattr", fs.setxattr(&LOCAL, ino, (b"user.a", b"v"), XattrMode::Set)),
        (
            "readdir",
            fs.readdir(&LOCAL, directory, ListFrom { cookie: 0, plus: true }, &mut |_| false),
        ),
    ];
    for (what, result) in tries {
        assert!(is_remote(result), "{what}");
    }
    assert_eq!((fs.lookup_count(), machine.overlay_records()), (0, 0));
    // With time they come, in one batch of requests; afterwards all is here.
    let found = fs.lookup(&ROOT, directory, &file).unwrap();
    assert_eq!((found.ino, found.attr.size, fs.lookup_count()), (ino, 10_000, 1));
    assert!(is_remote(fs.read(&LOCAL, ino, 0, 10).map(|_| ())), "content was not fetched yet");
    assert_eq!(fs.read(&ROOT, ino, 9_990, 100).unwrap(), [5; 10]);
    assert_eq!(fs.read(&LOCAL, ino, 0, 10).unwrap(), [5; 10]);
    fs.unlink(&LOCAL, at).unwrap();
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten_also_across_a_seal() {
    let mut machine = Machine::new();
    let file = name("file");
    let ino = machine.fs.create(&ROOT, in_root(&file), 0o644, true).unwrap().ino;
    machine.fs.lookup(&ROOT, Ino::ROOT, &file).unwrap();
    machine.fs.write(&ROOT, ino, 0, b"sealed", false).unwrap();
    machine.seal();
    machine.fs.write(&ROOT, ino, 6, b" and staged", false).unwrap();
    machine.fs.unlink(&ROOT, in_root(&file)).unwrap();
    machine.seal();
    machine.fs.write(&ROOT, ino, 17, b"!", false).unwrap();
    let read = |machine: &Machine| machine.fs.read(&ROOT, ino, 0, 100);
    assert_eq!(read(&machine).unwrap(), b"sealed and staged!");
    assert_eq!(machine.fs.getattr(&ROOT, ino).unwrap().nlink, 0);
    let again = name("again");
    assert!(matches!(machine.fs.link(&ROOT, ino, in_root(&again)), Err(FsError::NotFound)));
    machine.fs.forget(ino, 1);
    assert_eq!(read(&machine).unwrap(), b"sealed and staged!", "one lookup is left");
    machine.fs.forget(ino, 1);
    assert!(matches!(read(&machine), Err(FsError::NotFound)));
    assert_eq!(machine.fs.orphan_count(), 0);
    machine.seal();
    let root_only = machine.fs.namespace().counters();
    assert_eq!((root_only.inodes, root_only.bytes), (1, 0));
}

#[test]
fn a_file_forgotten_while_its_records_are_far_away_is_reclaimed_later() {
    let mut machine = Machine::new();
    let file = name("file");
    let ino = machine.fs.create(&ROOT, in_root(&file), 0o644, true).unwrap().ino;
    machine.fs.write(&ROOT, ino, 0, &[1; 5000], false).unwrap();
    machine.seal();
    let machine = machine.resume_elsewhere();
    machine.fs.lookup(&ROOT, Ino::ROOT, &file).unwrap();
    machine.fs.unlink(&ROOT, in_root(&file)).unwrap();
    machine.evict();
    machine.fs.forget(ino, 1);
    assert_eq!(machine.fs.orphan_count(), 1, "a forget waits for nothing");
    machine.fs.freeze();
    assert_eq!(machine.fs.reclaim_orphans(Reclaim::Forgotten, WAIT).unwrap(), 0);
    machine.fs.thaw();
    assert_eq!(machine.fs.reclaim_orphans(Reclaim::Forgotten, WAIT).unwrap(), 1);
    assert!(matches!(machine.fs.getattr(&ROOT, ino), Err(FsError::NotFound)));
}

#[test]
fn of_files_forgotten_at_once_those_go_that_have_neither_name_nor_lookup() {
    let mut machine = Machine::new();
    // More than go in one commit; the large one has more records than that.
    let (names, inos) = made(&machine, 300);
    for ino in &inos {
        machine.fs.write(&ROOT, *ino, 0, b"staged", false).unwrap();
    }
    let (large, named, held) = (inos[10], inos[20], inos[30]);
    for hole in 1..5000 {
        machine.fs.write(&ROOT, large, hole * 8192, b"x", false).unwrap();
    }
    machine.fs.lookup(&ROOT, Ino::ROOT, &names[30]).unwrap();
    machine.fs.forget(inos[40], 1);
    for (name, ino) in names.iter().zip(&inos) {
        if *ino != named {
            machine.fs.unlink(&ROOT, in_root(name)).unwrap();
        }
    }
    assert_eq!(machine.fs.orphan_count(), 298, "one has its name, one was not looked up");
    machine.fs.forget_all(inos.iter().map(|ino| (*ino, 1)));
    assert_eq!(machine.fs.orphan_count(), 1);
    for ino in &inos {
        let lives = *ino == named || *ino == held;
        assert_eq!(machine.fs.getattr(&ROOT, *ino).is_ok(), lives, "inode {ino}");
    }
    assert_eq!(machine.fs.read(&ROOT, held, 0, 100).unwrap(), b"staged");
    machine.fs.forget(held, 1);
    machine.seal();
    let left = machine.fs.namespace().counters();
    assert_eq!((left.inodes, left.bytes), (2, 6));
    let records = |ino| {
        let (from, to) = (Key::attr(ino), Key::tag_end(ino, Tag::Extent));
        machine.fs.namespace().range(&from, &to, 100, WAIT).unwrap().len()
    };
    assert_eq!((records(large), records(held), records(named)), (0, 0, 2));
}

/// Puts other bytes where an object of the store is.
fn overwrite(machine: &Machine, key: &str, bytes: Vec<u8>) {
    let put = machine.store.put(key, bytes.into(), &PutMode::Any);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
}

/// The largest pack of the store, and its key.
fn largest_pack(machine: &Machine) -> (String, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let listed = runtime.block_on(machine.store.list("packs/")).unwrap();
    let largest = listed.into_iter().max_by_key(|object| object.size).unwrap();
    let object = runtime.block_on(machine.store.get(&largest.key, None)).unwrap();
    (largest.key, object.bytes.to_vec())
}

#[test]
fn many_orphans_whose_records_are_far_away_are_reclaimed_and_a_damaged_one_keeps_no_other() {
    let mut machine = Machine::new();
    let (names, inos) = made(&machine, 300);
    // So large that each stands in a node of its own; in all, more than one pack.
    let mut large = vec![0; 60_000];
    for ino in &inos {
        blake3::Hasher::new().update(&ino.0.to_le_bytes()).finalize_xof().fill(&mut large);
        machine.fs.setxattr(&ROOT, *ino, (b"user.large", &large), XattrMode::Set).unwrap();
    }
    machine.seal();
    let machine = machine.resume_elsewhere();
    // Every second one: no two have consecutive numbers.
    for name in names.iter().step_by(2) {
        machine.fs.lookup(&ROOT, Ino::ROOT, name).unwrap();
        machine.fs.unlink(&ROOT, in_root(name)).unwrap();
    }
    machine.evict();
    machine.fs.forget_all(inos.iter().step_by(2).map(|ino| (*ino, 1)));
    assert!(machine.fs.orphan_count() > 100, "a forget waits for nothing");
    // The first pack: what is in the second comes after it.
    let (key, whole) = largest_pack(&machine);
    overwrite(&machine, &key, vec![0; whole.len()]);
    machine.fs.reclaim_orphans(Reclaim::Forgotten, WAIT).unwrap_err();
    let left = machine.fs.orphan_count();
    assert!((100..150).contains(&left), "{left} of 150");
    overwrite(&machine, &key, whole);
    assert_eq!(machine.fs.reclaim_orphans(Reclaim::Forgotten, WAIT).unwrap(), left as u64);
    assert_eq!(machine.fs.orphan_count(), 0);
}

#[test]
fn orphans_are_reclaimed_after_a_crash_and_on_another_machine() {
    let mut machine = Machine::new();
    let file = name("file");
    let orphan = |machine: &Machine| {
        let ino = machine.fs.create(&ROOT, in_root(&file), 0o644, true).unwrap().ino;
        machine.fs.write(&ROOT, ino, 0, &[1; 5000], false).unwrap();
        machine.fs.unlink(&ROOT, in_root(&file)).unwrap();
        assert_eq!(machine.fs.orphan_count(), 1);
        ino
    };
    let ino = orphan(&machine);
    let mut machine_after = machine.crash();
    assert_eq!(machine_after.fs.orphan_count(), 0);
    assert!(matches!(machine_after.fs.getattr(&ROOT, ino), Err(FsError::NotFound)));
    let ino = orphan(&machine_after);
    machine_after.seal();
    machine = machine_after.resume_elsewhere();
    assert_eq!(machine.fs.orphan_count(), 0);
    assert!(matches!(machine.fs.getattr(&ROOT, ino), Err(FsError::NotFound)));
}

#[test]
fn a_listing_has_each_lasting_entry_once_while_others_come_and_go() {
    let machine = Machine::new();
    let make = |text: &str| machine.fs.create(&ROOT, in_root(&name(text)), 0o644, true).unwrap();
    for number in 0..500 {
        make(&format!("stays {number}"));
        make(&format!("goes {number}"));
    }
    let (mut cookie, mut seen, mut number) = (0, Vec::new(), 0);
    loop {
        let mut taken = 0;
        let from = ListFrom { cookie, plus: false };
        machine
            .fs
            .readdir(&ROOT, Ino::ROOT, from, &mut |entry| {
                if taken == 37 {
                    return true;
                }
                taken += 1;
                assert!(entry.cookie > cookie, "cookies grow");
                cookie = entry.cookie;
                seen.push(String::from_utf8(entry.name.to_vec()).unwrap());
                false
            })
            .unwrap();
        if taken == 0 {
            break;
        }
        for _ in 0..17 {
            machine.fs.unlink(&ROOT, in_root(&name(&format!("goes {number}")))).unwrap();
            make(&format!("new {number}"));
            number += 1;
        }
    }
    let stays = seen.iter().filter(|name| name.starts_with("stays")).count();
    assert_eq!((stays, &seen[..2]), (500, &[".".to_owned(), "..".to_owned()][..]));
    seen.sort();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all, "nothing is listed twice");
}

#[test]
fn a_freeze_holds_changes_back_and_lets_reads_through() {
    let machine = Machine::new();
    let fs = &machine.fs;
    let (one, two) = (name("one"), name("two"));
    fs.mkdir(&ROOT, in_root(&one), 0o755).unwrap();
    fs.freeze();
    assert!(matches!(fs.mkdir(&LOCAL, in_root(&two), 0o755), Err(FsError::NotLocal(_))));
    let impatient = Caller { fetch: Fetch::Until(machine.clock.monotonic()), ..ROOT };
    let late = fs.mkdir(&impatient, in_root(&two), 0o755);
    assert!(matches!(late, Err(FsError::Frozen)));
    fs.lookup(&LOCAL, Ino::ROOT, &one).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fs.mkdir(&ROOT, in_root(&two), 0o755).map(|entry| entry.ino));
        while !waiting.is_finished() {
            fs.thaw();
        }
        waiting.join().unwrap().unwrap();
    });
    // Slowed down, a write waits; on a thread that may not, it asks for another.
    let three = name("three");
    let file = fs.create(&ROOT, in_root(&three), 0o644, true).unwrap().ino;
    fs.set_admission(Duration::from_millis(1), u64::MAX);
    let write = |caller: &Caller| fs.write(caller, file, 0, b"data", false);
    assert!(matches!(write(&LOCAL), Err(FsError::NotLocal(_))));
    assert_eq!(write(&ROOT).unwrap(), 4);
    // After so many bytes none are let in, whoever looks again and when.
    fs.set_admission(Duration::ZERO, 6);
    assert_eq!(write(&LOCAL).unwrap(), 4);
    assert_eq!(write(&LOCAL).unwrap(), 4);
    assert!(matches!(write(&ROOT), Err(FsError::NoSpace)));
    fs.set_admission(Duration::ZERO, u64::MAX);
    assert_eq!(write(&LOCAL).unwrap(), 4);
    fs.fence();
    fs.thaw();
    let four = name("four");
    let fenced = fs.mkdir(&ROOT, in_root(&four), 0o755).unwrap_err();
    assert_eq!((fs.is_fenced(), fenced.errno()), (true, libc::EROFS));
    fs.lookup(&LOCAL, Ino::ROOT, &two).unwrap();
}

#[test]
fn a_default_acl_is_inherited_in_place_of_the_umask_and_follows_chmod() {
    let machine = Machine::new();
    let fs = &machine.fs;
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    };
    const NONE: u32 = u32::MAX;
    let (access, default) = (&b"system.posix_acl_access"[..], &b"system.posix_acl_default"[..]);
    let dir = name("dir");
    let directory = fs.mkdir(&ROOT, in_root(&dir), 0o755).unwrap().ino;
    let list = acl(&[(1, 7, NONE), (2, 6, 500), (4, 5, NONE), (16, 7, NONE), (32, 0, NONE)]);
    fs.setxattr(&ROOT, directory, (default, &list), XattrMode::Set).unwrap();
    let caller = Caller { umask: 0o077, ..ROOT };
    let (file, sub) = (name("file"), name("sub"));
    let made = fs.create(&caller, At { directory, name: &file }, 0o664, true).unwrap();
    assert_eq!(made.attr.mode, 0o660, "the list decides, not the umask");
    let got = fs.getxattr(&ROOT, made.ino, access).unwrap();
    let want = acl(&[(1, 6, NONE), (2, 6, 500), (4, 5, NONE), (16, 6, NONE), (32, 0, NONE)]);
    assert_eq!(&got[..], &want[..]);
    let sub = fs.mkdir(&caller, At { directory, name: &sub }, 0o777).unwrap().ino;
    assert_eq!(&fs.getxattr(&ROOT, sub, default).unwrap()[..], &list[..]);
    fs.setattr(&ROOT, made.ino, &SetAttr { mode: Some(0o640), ..SetAttr::default() }).unwrap();
    let got = fs.getxattr(&ROOT, made.ino, access).unwrap();
    let want = acl(&[(1, 6, NONE), (2, 6, 500), (4, 5, NONE), (16, 4, NONE), (32, 0, NONE)]);
    assert_eq!(&got[..], &want[..]);
    // A list that says no more than a mode becomes one.
    let plain = acl(&[(1, 7, NONE), (4, 5, NONE), (32, 1, NONE)]);
    fs.setxattr(&ROOT, made.ino, (access, &plain), XattrMode::Set).unwrap();
    assert!(matches!(fs.getxattr(&ROOT, made.ino, access), Err(FsError::NoData)));
    assert_eq!(fs.getattr(&ROOT, made.ino).unwrap().mode, 0o751);
    let junk = fs.setxattr(&ROOT, made.ino, (access, b"junk"), XattrMode::Set);
    assert!(matches!(junk, Err(FsError::Invalid)));
}

#[test]
fn limits_of_names_links_and_attributes_have_their_errno() {
    let machine = Machine::new();
    let fs = &machine.fs;
    let file = name("file");
    let ino = fs.create(&ROOT, in_root(&file), 0o644, true).unwrap().ino;
    for number in 1..LINKS_MAX {
        fs.link(&ROOT, ino, in_root(&name(&format!("link {number}")))).unwrap();
    }
    let last = fs.link(&ROOT, ino, in_root(&name("one more"))).unwrap_err();
    assert_eq!(last.errno(), libc::EMLINK);
    fs.forget(ino, u64::from(LINKS_MAX));
    let link = fs.symlink(&ROOT, in_root(&name("sym")), &[b'x'; 4095]).unwrap();
    assert_eq!(fs.readlink(&ROOT, link.ino).unwrap(), [b'x'; 4095]);
    let long = fs.symlink(&ROOT, in_root(&name("long")), &[b'x'; 4096]).unwrap_err();
    assert_eq!(long.errno(), libc::ENAMETOOLONG);
    let set = |name: &[u8], value: &[u8]| fs.setxattr(&ROOT, ino, (name, value), XattrMode::Set);
    set(b"user.big", &vec![1; 65536]).unwrap();
    assert_eq!(set(b"user.big", &vec![1; 65537]).unwrap_err().errno(), libc::E2BIG);
    assert_eq!(set(&[b"user.", &[b'n'; 251][..]].concat(), b"").unwrap_err().errno(), libc::ERANGE);
    assert_eq!(set(b"system.other", b"").unwrap_err().errno(), libc::EOPNOTSUPP);
    let mut names = 0;
    let full = loop {
        let name = format!("user.{names:0>250}");
        if let Err(error) = set(name.as_bytes(), b"") {
            break error;
        }
        names += 1;
    };
    assert_eq!((full.errno(), names), (libc::ENOSPC, (65536 - 9) / 256));
    let pipe = NewNode { kind: Kind::Fifo, mode: 0o600, rdev: 0 };
    let pipe = fs.mknod(&ROOT, in_root(&name("pipe")), pipe).unwrap().ino;
    assert_eq!(fs.write(&ROOT, pipe, 0, b"x", false).unwrap_err().errno(), libc::EINVAL);
}

/// Sums up a tree: inodes, and what each directory's link count should be.
fn check_tree(machine: &Machine) -> (u64, u64) {
    let fs = &machine.fs;
    let mut links: std::collections::HashMap<Ino, (Attr, u32)> = Default::default();
    let root = fs.getattr(&ROOT, Ino::ROOT).unwrap();
    let mut open = vec![(Ino::ROOT, root)];
    while let Some((directory, attr)) = open.pop() {
        let mut subdirectories = 0;
        let mut found = Vec::new();
        let from = ListFrom { cookie: 2, plus: true };
        fs.readdir(&ROOT, directory, from, &mut |entry| {
            found.push((entry.ino, entry.attr.unwrap()));
            false
        })
        .unwrap();
        for (ino, child) in found {
            fs.forget(ino, 1);
            if child.is_dir() {
                assert_eq!(child.parent, directory);
                subdirectories += 1;
                open.push((ino, child));
            } else {
                links.entry(ino).or_insert((child, 0)).1 += 1;
            }
        }
        assert_eq!(attr.nlink, 2 + subdirectories, "links of directory {directory}");
        links.insert(directory, (attr.clone(), attr.nlink));
    }
    for (ino, (attr, count)) in &links {
        assert_eq!(attr.nlink, *count, "links of {ino}");
    }
    let bytes = links.values().map(|(attr, _)| attr.allocated).sum();
    (links.len() as u64, bytes)
}

#[test]
fn threads_that_meet_everywhere_neither_stop_nor_break_the_tree() {
    let mut machine = Machine::new();
    let dirs: Vec<Ino> = (0..4)
        .map(|n| machine.fs.mkdir(&ROOT, in_root(&name(&format!("d{n}"))), 0o755).unwrap().ino)
        .collect();
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 1..5_u64 {
            let (fs, dirs, done) = (Arc::clone(&machine.fs), &dirs, &done);
            scope.spawn(move || {
                let mut state = seed;
                let mut next = |bound: u64| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
                    (state >> 33) % bound
                };
                for _ in 0..2500 {
                    let names = [0, 1].map(|_| name(&format!("n{}", next(6))));
                    let [from, to] = [0, 1]
                        .map(|i: usize| At { directory: dirs[next(4) as usize], name: &names[i] });
                    let outcome = match next(9) {
                        0 | 1 => fs.create(&ROOT, from, 0o644, false).and_then(|entry| {
                            let written = fs.write(&ROOT, entry.ino, next(9000), &[1; 700], true);
                            fs.forget(entry.ino, 1);
                            written.map(|_| ())
                        }),
                        2 => fs.mkdir(&ROOT, from, 0o755).map(|entry| fs.forget(entry.ino, 1)),
                        3 => fs.unlink(&ROOT, from),
                        4 => fs.rmdir(&ROOT, from),
                        5 => fs.rename(&ROOT, from, to, RenameMode::Exchange),
                        6 => fs.lookup(&ROOT, from.directory, from.name).and_then(|entry| {
                            let linked = fs.link(&ROOT, entry.ino, to);
                            fs.forget(entry.ino, 1 + u64::from(linked.is_ok()));
                            linked.map(|_| ())
                        }),
                        _ => fs.rename(&ROOT, from, to, RenameMode::Replace),
                    };
                    if let Err(error) = outcome {
                        assert!(!error.is_unexpected(), "{error:?}");
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while done.load(Ordering::Relaxed) < 10_000 {
                for dirty in machine.fs.dirty() {
                    let Ok(extents) = machine.fs.extents(dirty.ino, 0..u64::MAX, WAIT) else {
                        continue;
                    };
                    let regions = machine.settled(extents);
                    let stale = dormouse::fs::Stale::Skip;
                    machine.fs.commit_settled(dirty.ino, &regions, stale, WAIT).unwrap();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    });
    assert_eq!((machine.fs.orphan_count(), machine.fs.lookup_count()), (0, 4));
    for _ in 0..3 {
        let totals = check_tree(&machine);
        let counters = machine.fs.namespace().counters();
        assert_eq!(totals, (counters.inodes, counters.bytes));
        machine.seal();
        machine = machine.crash();
    }
}
