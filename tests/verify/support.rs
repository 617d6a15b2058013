//! A store that can be damaged, verified and read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dormouse::format::Head;
use dormouse::fs::FsError;
use dormouse::remote::{PutMode, Remote};
use dormouse::types::{Clock, Ino, Kind, ManualClock, SystemClock, Time};
use dormouse::workspace::{Depth, Store, VerifyOptions, VerifyReport, Workspace, WorkspaceError};

use crate::world::{Files, World};

/// Everything here follows from one number; another one may be given to search further.
const SEED_VARIABLE: &str = "DORMOUSE_TEST_SEED";

/// The number that this run follows from. A failing test shows it.
pub fn seed() -> u64 {
    let seed = std::env::var(SEED_VARIABLE).map_or(0x5eed, |text| text.parse().unwrap());
    eprintln!("the same again: {SEED_VARIABLE}={seed}");
    seed
}

/// A clock whose date moves only when it is told to; waiting takes its time, as ever.
#[derive(Debug, Default)]
struct Dated {
    date: ManualClock,
    waiting: SystemClock,
}

impl Clock for Dated {
    fn now(&self) -> Time {
        // Each look is a millisecond later, so that no two snapshots are of one time.
        self.date.advance(Duration::from_millis(1));
        self.date.now()
    }

    fn monotonic(&self) -> Duration {
        self.waiting.monotonic()
    }
}

/// A world in memory whose store follows from this run's seed.
pub fn seeded_world() -> World {
    seeded(World::new(), seed())
}

/// Has the store's secret, id and dates follow from a number: the same work makes the same
/// chunks, nodes and packs, with the same names. For a world in which nothing was done yet.
pub fn seeded(world: World, seed: u64) -> World {
    let world = world.with_clock(Arc::new(Dated::default()));
    world.seed_store(seed);
    world
}

/// Replaces what is drawn anew for each head: nobody may be at work.
pub fn same_nonces(world: &World) {
    let objects = Objects::of(world);
    for key in objects.list().iter().filter(|key| key.ends_with("/head")) {
        let head = Head::decode(&objects.get(key)).unwrap();
        assert!(head.lease.is_none(), "{key}: somebody is at work");
        let head = Head { nonce: [0x5e; 16], ..head };
        objects.put(key, head.encode().unwrap());
    }
    world.counts.reset();
}

/// The objects of a store.
pub struct Objects {
    pub remote: Arc<Remote>,
}

impl Objects {
    pub fn of(world: &World) -> Objects {
        Objects { remote: world.remote() }
    }

    pub fn list(&self) -> Vec<String> {
        let listed = self.remote.list("").unwrap();
        listed.into_iter().map(|object| object.key).collect()
    }

    pub fn get(&self, key: &str) -> Bytes {
        self.remote.get(key).unwrap().bytes
    }

    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.remote.put(key, bytes.into(), PutMode::Any).unwrap();
    }

    pub fn delete(&self, key: &str) {
        self.remote.delete(key).unwrap();
    }
}

/// Options that tell every path.
pub fn options(world: &World, depth: Depth) -> VerifyOptions {
    VerifyOptions {
        workspace: None,
        snapshot: None,
        depth,
        jobs: 2,
        paths_max: 10_000,
        scratch: world.dirs.path().to_owned(),
    }
}

pub fn try_verify(world: &World, options: &VerifyOptions) -> Result<VerifyReport, WorkspaceError> {
    let store = Store::open(world.remote())?;
    store.verify(options, &mut |_| std::ops::ControlFlow::Continue(()))
}

pub fn verify(world: &World, depth: Depth) -> VerifyReport {
    try_verify(world, &options(world, depth)).unwrap()
}

/// Resumes workspace `w` read-only on an empty cache.
pub fn look_at(world: &World, cache: &str) -> Result<Workspace, WorkspaceError> {
    let mut options = world.options(cache);
    options.create = false;
    options.read_only = true;
    world.try_resume(&options)
}

/// What reading a file gave: its content, or the errno.
pub type Content = Result<Vec<u8>, i32>;

/// The most inodes that are gone through: a circle of directories has no end.
const INODES_MAX: usize = 5_000;

/// Most directories above a file that are gone into.
const DEPTH_MAX: usize = 40;

/// All that can be reached from the root, by path; directories that can't be listed give their
/// errno, too.
pub fn read_all(files: &Files) -> BTreeMap<String, Content> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(Ino::ROOT, String::new(), Kind::Directory)];
    while let Some((ino, path, kind)) = todo.pop() {
        if all.len() > INODES_MAX {
            return all;
        }
        if path.matches('/').count() > DEPTH_MAX {
            continue;
        }
        match kind {
            Kind::Directory => match list(files, ino) {
                Ok(entries) => {
                    all.insert(format!("{path}/"), Ok(Vec::new()));
                    for (name, ino, kind) in entries {
                        todo.push((ino, format!("{path}/{name}"), kind));
                    }
                }
                Err(error) => _ = all.insert(format!("{path}/"), Err(error.errno())),
            },
            Kind::File => {
                let content = read(files, ino).map_err(|error| error.errno());
                all.insert(path, content);
            }
            _ => {
                let attr = files.fs.getattr(&files.caller(), ino);
                let target = attr.map(|attr| attr.target.to_vec());
                all.insert(path, target.map_err(|error| error.errno()));
            }
        }
    }
    all
}

/// The inodes of all that has a name, by path.
pub fn inodes(files: &Files) -> BTreeMap<String, Ino> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(Ino::ROOT, String::new())];
    while let Some((directory, above)) = todo.pop() {
        for (name, ino, kind) in list(files, directory).unwrap() {
            let path = format!("{above}/{name}");
            if kind == Kind::Directory {
                todo.push((ino, path.clone()));
            }
            all.insert(path, ino);
        }
    }
    all
}

fn list(files: &Files, directory: Ino) -> Result<Vec<(String, Ino, Kind)>, FsError> {
    let mut entries = Vec::new();
    let mut cookie = 0;
    loop {
        let before = cookie;
        let from = dormouse::fs::ListFrom { cookie, plus: false };
        files.fs.readdir(&files.caller(), directory, from, &mut |entry| {
            cookie = entry.cookie;
            if ![&b"."[..], b".."].contains(&entry.name) {
                let name = String::from_utf8_lossy(entry.name).into_owned();
                entries.push((name, entry.ino, entry.kind));
            }
            false
        })?;
        if cookie == before || entries.len() > INODES_MAX {
            return Ok(entries);
        }
    }
}

/// The first 8 MiB of a file.
pub fn read(files: &Files, ino: Ino) -> Result<Vec<u8>, FsError> {
    let size = files.fs.getattr(&files.caller(), ino)?.size.min(8 << 20);
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        let part = files.fs.read(&files.caller(), ino, all.len() as u64, 1 << 20)?;
        assert!(!part.is_empty(), "the file ends before its size");
        all.extend_from_slice(&part);
    }
    Ok(all)
}
