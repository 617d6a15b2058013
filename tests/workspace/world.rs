//! A store in memory (or a directory) that counts and fails as told, and workspaces on it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dormouse::chunks::Fetch;
use dormouse::format::{FORMAT_KEY, StoreFormat};
use dormouse::fs::{At, Caller, Filesystem, ListFrom, XattrMode};
use dormouse::local::LocalError;
use dormouse::remote::{
    CountingStore, DirectoryStore, FaultStore, MemoryStore, ObjectStore, PutMode, Remote,
    RemoteOptions, S3Store,
};
use dormouse::types::{Attr, Clock, Ino, Kind, ManualClock, Name, SystemClock, Time};
use dormouse::workspace::{ProgressView, Receipt, ResumeOptions, Store, Workspace, WorkspaceError};

/// A store and the local directories of machines that use it.
pub struct World {
    /// The machines' clock.
    pub clock: Arc<dyn Clock>,
    /// The store's clock.
    pub store_clock: Arc<ManualClock>,
    pub faults: Arc<FaultStore>,
    pub counts: Arc<CountingStore>,
    pub dirs: tempfile::TempDir,
    /// How long the store's clients wait.
    patience: RemoteOptions,
    _store_dir: Option<tempfile::TempDir>,
}

impl World {
    /// An initialised store in memory.
    pub fn new() -> World {
        let store_clock = Arc::new(ManualClock::default());
        let memory = MemoryStore::new(store_clock.clone() as Arc<dyn Clock>);
        World::over(Arc::new(memory), store_clock)
    }

    /// As `new`, on machines whose clock is moved by hand.
    pub fn in_slow_motion() -> (World, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (World::new().with_clock(clock.clone()), clock)
    }

    /// The same with another clock for the machines.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> World {
        World { clock, ..self }
    }

    /// An initialised store in a directory.
    pub fn in_directory() -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(&dir.path().join("store"));
        World { _store_dir: Some(dir), ..World::over(Arc::new(store), Arc::default()) }
    }

    /// An initialised store in this bucket.
    pub fn on_s3(endpoint: &str, bucket: &str) -> World {
        let options = RemoteOptions {
            endpoint: Some(endpoint.to_owned()),
            region: Some(String::from("us-east-1")),
            ..RemoteOptions::default()
        };
        let store = S3Store::new(bucket, "workspace tests", &options).unwrap();
        // A real server on a busy machine may take seconds: an attempt given up meanwhile would
        // be a request more than the test counts.
        let patience = RemoteOptions {
            deadline: Duration::from_secs(120),
            attempt_timeout: Duration::from_secs(60),
            ..RemoteOptions::default()
        };
        World::with_patience(Arc::new(store), Arc::default(), patience)
    }

    fn over(store: Arc<dyn ObjectStore>, store_clock: Arc<ManualClock>) -> World {
        let patience = RemoteOptions {
            deadline: Duration::from_millis(3000),
            attempt_timeout: Duration::from_millis(1000),
            ..RemoteOptions::default()
        };
        World::with_patience(store, store_clock, patience)
    }

    fn with_patience(
        store: Arc<dyn ObjectStore>,
        store_clock: Arc<ManualClock>,
        patience: RemoteOptions,
    ) -> World {
        let faults = FaultStore::new(store, 7);
        let world = World {
            clock: Arc::new(SystemClock::new()),
            store_clock,
            counts: CountingStore::new(faults.clone()),
            faults,
            dirs: tempfile::tempdir().unwrap(),
            patience,
            _store_dir: None,
        };
        assert!(Store::init(world.remote(), &*world.clock).unwrap().1);
        world.counts.reset();
        world
    }

    /// A machine's client of the store.
    pub fn remote(&self) -> Arc<Remote> {
        Remote::from_store(self.counts.clone(), &self.patience, self.clock.clone()).unwrap()
    }

    /// A client that waits so long for an answer.
    pub fn patient_remote(&self, patience: Duration) -> Arc<Remote> {
        let (deadline, attempt_timeout) = (patience, patience);
        let options = RemoteOptions { deadline, attempt_timeout, ..self.patience.clone() };
        Remote::from_store(self.counts.clone(), &options, self.clock.clone()).unwrap()
    }

    pub fn dir(&self, cache: &str) -> PathBuf {
        self.dirs.path().join(cache)
    }

    /// Options without threads or prefetch, so that every request is the test's own.
    pub fn options(&self, cache: &str) -> ResumeOptions {
        let mut options = ResumeOptions::new("w".parse().unwrap(), self.dir(cache));
        options.create = true;
        options.host = format!("host-{cache}");
        options.upkeep.threads = false;
        options.upkeep.prefetch = false;
        options
    }

    pub fn try_resume(&self, options: &ResumeOptions) -> Result<Workspace, WorkspaceError> {
        Workspace::resume(self.remote(), self.clock.clone(), options)
    }

    /// Has the store's secret, id and date follow from a number, and with them which chunks and
    /// nodes there are. For a world in which nothing was done yet.
    pub fn seed_store(&self, seed: u64) {
        let remote = self.remote();
        let drawn = StoreFormat::decode(&remote.get(FORMAT_KEY).unwrap().bytes).unwrap();
        let bytes = noise(seed, 48);
        let format = StoreFormat {
            store_id: bytes[..16].try_into().unwrap(),
            secret: bytes[16..].try_into().unwrap(),
            created: Time::new(1_700_000_000, 0),
            ..drawn
        };
        let encoded = format.encode().unwrap();
        remote.put(FORMAT_KEY, encoded.into(), PutMode::Any).unwrap();
        self.counts.reset();
    }

    /// Resumes once nobody has the directory: a thread of a mount that was dropped, at the end of
    /// its work, may be the last that does, and no process ends here that would take it along.
    pub fn resume_free(&self, options: &ResumeOptions) -> Result<Workspace, WorkspaceError> {
        for _ in 0..1000 {
            match self.try_resume(options) {
                Err(WorkspaceError::Local(LocalError::Locked { .. })) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
        self.try_resume(options)
    }

    pub fn resume(&self, cache: &str) -> Workspace {
        self.resume_free(&self.options(cache)).unwrap()
    }

    /// The files of a workspace, as a test uses them.
    pub fn files(&self, workspace: &Workspace) -> Files {
        Files { fs: workspace.fs(), clock: self.clock.clone() }
    }

    /// Hibernates, closes, and resumes with this cache.
    pub fn move_to(&self, workspace: Workspace, cache: &str) -> Workspace {
        hibernate(&workspace).unwrap();
        workspace.close().unwrap();
        drop(workspace);
        self.resume(cache)
    }
}

pub fn watch(_: &ProgressView) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn hibernate(workspace: &Workspace) -> Result<Receipt, WorkspaceError> {
    workspace.hibernate(None, &mut watch)
}

pub fn checkpoint(workspace: &Workspace) -> Result<Receipt, WorkspaceError> {
    workspace.checkpoint(&mut watch)
}

/// Path-based access to a filesystem. Panics on errors.
#[derive(Clone)]
pub struct Files {
    pub fs: Arc<Filesystem>,
    pub clock: Arc<dyn Clock>,
}

/// All that must survive of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub ino: Ino,
    pub attr: Attr,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub content: Option<blake3::Hash>,
}

impl Files {
    pub fn caller(&self) -> Caller {
        Caller::root(Fetch::Until(self.clock.monotonic() + Duration::from_secs(30)))
    }

    pub fn find(&self, path: &str) -> Option<Ino> {
        let mut ino = Ino::ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            ino = match self.fs.lookup(&self.caller(), ino, &name(part)) {
                Ok(entry) => entry.ino,
                Err(dormouse::fs::FsError::NotFound) => return None,
                Err(error) => panic!("{path}: {error}"),
            };
            self.fs.forget(ino, 1);
        }
        Some(ino)
    }

    pub fn ino(&self, path: &str) -> Ino {
        self.find(path).unwrap_or_else(|| panic!("{path} is not there"))
    }

    fn parent<'a>(&self, path: &'a str) -> (Ino, &'a str) {
        match path.rsplit_once('/') {
            Some((parent, last)) => (self.ino(parent), last),
            None => (Ino::ROOT, path),
        }
    }

    pub fn mkdir(&self, path: &str) -> Ino {
        let (directory, last) = self.parent(path);
        let at = At { directory, name: &name(last) };
        let entry = self.fs.mkdir(&self.caller(), at, 0o750).unwrap();
        self.fs.forget(entry.ino, 1);
        entry.ino
    }

    pub fn create_in(&self, directory: Ino, last: &str) -> Ino {
        let at = At { directory, name: &name(last) };
        let entry = self.fs.create(&self.caller(), at, 0o640, false).unwrap();
        self.fs.forget(entry.ino, 1);
        entry.ino
    }

    pub fn create(&self, path: &str) -> Ino {
        let (directory, last) = self.parent(path);
        self.create_in(directory, last)
    }

    pub fn write_at(&self, ino: Ino, offset: u64, data: &[u8]) {
        for (i, part) in data.chunks(1 << 20).enumerate() {
            let at = offset + ((i << 20) as u64);
            let written = self.fs.write(&self.caller(), ino, at, part, false).unwrap();
            assert_eq!(written as usize, part.len());
        }
    }

    /// Creates or overwrites a file from its start.
    pub fn write(&self, path: &str, data: &[u8]) -> Ino {
        let ino = self.create(path);
        self.write_at(ino, 0, data);
        ino
    }

    pub fn read_ino(&self, ino: Ino) -> Vec<u8> {
        let size = self.fs.getattr(&self.caller(), ino).unwrap().size;
        let mut all = Vec::new();
        while (all.len() as u64) < size {
            let part = self.fs.read(&self.caller(), ino, all.len() as u64, 1 << 20).unwrap();
            assert!(!part.is_empty(), "the file ends before its size");
            all.extend_from_slice(&part);
        }
        all
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        self.read_ino(self.ino(path))
    }

    pub fn unlink(&self, path: &str) {
        let (directory, last) = self.parent(path);
        self.fs.unlink(&self.caller(), At { directory, name: &name(last) }).unwrap();
    }

    pub fn set_xattr(&self, ino: Ino, name: &str, value: &[u8]) {
        let xattr = (name.as_bytes(), value);
        self.fs.setxattr(&self.caller(), ino, xattr, XattrMode::Set).unwrap();
    }

    /// Names in a directory with their inodes, but for `.` and `..`.
    pub fn list(&self, directory: Ino, plus: bool) -> Vec<(Vec<u8>, Ino, Kind)> {
        let mut entries = Vec::new();
        let mut cookie = 0;
        loop {
            let before = cookie;
            let from = ListFrom { cookie, plus };
            let mut sink = |entry: dormouse::fs::DirEntry<'_>| {
                cookie = entry.cookie;
                if ![&b"."[..], b".."].contains(&entry.name) {
                    entries.push((entry.name.to_vec(), entry.ino, entry.kind));
                    if entry.attr.is_some() {
                        // Counted as a lookup.
                        forget_later(entry.ino);
                    }
                }
                false
            };
            self.fs.readdir(&self.caller(), directory, from, &mut sink).unwrap();
            if cookie == before {
                return entries;
            }
        }
    }

    /// Everything, by path.
    pub fn facts(&self) -> BTreeMap<String, Facts> {
        let mut facts = BTreeMap::new();
        self.collect(Ino::ROOT, String::new(), &mut facts);
        facts
    }

    fn collect(&self, ino: Ino, path: String, facts: &mut BTreeMap<String, Facts>) {
        let attr = self.fs.getattr(&self.caller(), ino).unwrap();
        let names = self.fs.listxattr(&self.caller(), ino).unwrap();
        let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let xattrs = names
            .map(|name| {
                let value = self.fs.getxattr(&self.caller(), ino, name).unwrap();
                (name.to_vec(), value.to_vec())
            })
            .collect();
        let content = (attr.kind == Kind::File).then(|| blake3::hash(&self.read_ino(ino)));
        if attr.is_dir() {
            for (name, child, _) in self.list(ino, false) {
                let name = String::from_utf8_lossy(&name).into_owned();
                self.collect(child, format!("{path}/{name}"), facts);
            }
        }
        facts.insert(path, Facts { ino, attr, xattrs, content });
    }
}

/// Lookups that `readdir` counted are left: the tests' mounts end soon.
fn forget_later(_: Ino) {}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// Bytes that do not compress and differ by seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
