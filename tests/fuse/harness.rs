//! A workspace's filesystem mounted for one test. Whatever touches the mount runs in a child
//! process: the test process serves it, and must not wait on itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dormouse::chunks::{ChunkOptions, Chunks, Fetch};
use dormouse::format::HashKeys;
use dormouse::fs::{Caller, Filesystem, FsOptions};
use dormouse::fuse::{self, MountOptions, Mounted, Opcode, RequestCounts, TransportChoice};
use dormouse::local::{Local, LocalOptions};
use dormouse::namespace::{Base, Counters, Namespace};
use dormouse::remote::{MemoryStore, ObjectStore, Remote, RemoteOptions};
use dormouse::tree::Tree;
use dormouse::types::{Clock, Ino, SystemClock};
use tempfile::TempDir;

/// Names the transport that the tests use: `dev`, the default, or `uring`.
const TRANSPORT_VARIABLE: &str = "DORMOUSE_TEST_TRANSPORT";

/// The transport that the tests use. A machine that does not offer it fails the tests:
/// `scripts/test` asks for io_uring where the kernel has it.
pub fn transport() -> TransportChoice {
    match std::env::var(TRANSPORT_VARIABLE).as_deref() {
        Err(_) | Ok("dev") => TransportChoice::Device,
        Ok("uring") => TransportChoice::Uring,
        Ok(other) => panic!("{TRANSPORT_VARIABLE}={other}: must be dev or uring"),
    }
}

/// The options that tests mount with.
pub fn options(mountpoint: impl Into<PathBuf>, source: &str) -> MountOptions {
    let mut options = MountOptions::new(mountpoint, source);
    options.transport = transport();
    options
}

/// Longest time that one child may run, in seconds.
const CHILD_SECS_MAX: u32 = 120;

/// The layers below a mount, on a temporary directory and a store in memory.
pub struct Stack {
    pub fs: Arc<Filesystem>,
    pub chunks: Arc<Chunks>,
    pub local: Arc<Local>,
    pub clock: Arc<dyn Clock>,
    directory: TempDir,
}

impl Stack {
    pub fn new() -> Stack {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        Stack::over(Arc::new(MemoryStore::new(Arc::clone(&clock))), clock)
    }

    pub fn over(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> Stack {
        let directory = TempDir::new().unwrap();
        let clock = || Arc::clone(&clock);
        let cache = directory.path().join("cache");
        let local = Arc::new(Local::open(&cache, &LocalOptions::default(), clock()).unwrap());
        let remote = Remote::from_store(store, &RemoteOptions::default(), clock()).unwrap();
        let keys = HashKeys::new(&[7; 32]);
        // No memory cache, so that what is dropped from the disk is gone.
        let options = ChunkOptions { memory_bytes_max: 0, ..ChunkOptions::default() };
        let chunks = Chunks::new(Arc::clone(&local), remote, keys.clone(), options, clock());
        let base = Base { tree: Tree::empty(Arc::clone(&chunks)), next_ino: Ino(2) };
        let counters = Counters { inodes: 0, bytes: 0 };
        let namespace = Namespace::open(Arc::clone(&local), base, keys, counters).unwrap();
        let fs = Filesystem::new(
            Arc::new(namespace),
            Arc::clone(&chunks),
            Arc::clone(&local),
            &FsOptions::default(),
            clock(),
        );
        fs.make_root(&Caller::root(Fetch::LocalOnly), 0o755).unwrap();
        Stack { fs, chunks, local, clock: clock(), directory }
    }

    /// An empty directory to mount on.
    pub fn mountpoint(&self) -> PathBuf {
        let mountpoint = self.directory.path().join("mount");
        std::fs::create_dir_all(&mountpoint).unwrap();
        mountpoint
    }

    pub fn mount(&self, options: &MountOptions) -> Result<Mounted, fuse::FuseError> {
        fuse::mount(Arc::clone(&self.fs), options, Arc::clone(&self.clock))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.chunks.shutdown();
        // What a test leaves is not looked at.
        let _ = self.local.close();
    }
}

/// A mount that goes away with the test, however the test ends.
pub struct Mount {
    // In this order: the mount ends before what it serves.
    mounted: Mounted,
    _stack: Stack,
}

impl Mount {
    pub fn new() -> Mount {
        Mount::with(|_| {})
    }

    /// A mount with changed options.
    pub fn with(change: impl FnOnce(&mut MountOptions)) -> Mount {
        Mount::of(Stack::new(), change)
    }

    pub fn of(stack: Stack, change: impl FnOnce(&mut MountOptions)) -> Mount {
        let mut options = options(stack.mountpoint(), "test");
        change(&mut options);
        let mounted = stack.mount(&options).unwrap();
        Mount { mounted, _stack: stack }
    }

    pub fn path(&self) -> &Path {
        self.mounted.mountpoint()
    }

    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    pub fn counts(&self) -> RequestCounts {
        self.mounted.request_counts()
    }

    /// Waits until every request is answered: what a program did last, the kernel's RELEASE above
    /// all, may still be under way when it has ended. Fails after 20 seconds.
    #[track_caller]
    pub fn all_answered(&self) {
        let clock = SystemClock::new();
        while self.mounted.requests_in_flight() > 0 {
            assert!(clock.monotonic() < Duration::from_secs(20), "a request is never answered");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A child that runs a shell script inside the mount.
    pub fn shell(&self, script: &str) -> Command {
        self.command("sh", "set -eu\ncd \"$MOUNT\"\n", script)
    }

    /// A child that runs a Python script inside the mount.
    pub fn python(&self, script: &str) -> Command {
        let prelude = "import os, sys, errno, stat, time, subprocess\n\
             def fails(code, call, *args, **named):\n\
             \x20   try: call(*args, **named)\n\
             \x20   except OSError as error:\n\
             \x20       assert error.errno == code, (errno.errorcode[error.errno], call, args)\n\
             \x20   else: raise AssertionError(('succeeded', call, args))\n\
             os.chdir(os.environ['MOUNT'])\n";
        self.command("/usr/bin/python3", prelude, script)
    }

    /// A Python process inside the mount that is our own child, for who kills it.
    pub fn direct_python(&self, script: &str) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        command
            .args(["-c", &format!("import os\nos.chdir(os.environ['MOUNT'])\n{script}")])
            .env("MOUNT", self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn command(&self, program: &str, prelude: &str, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", &CHILD_SECS_MAX.to_string(), program, "-c"])
            .arg(format!("{prelude}{script}"))
            .env("MOUNT", self.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a shell script inside the mount; it must succeed. Gives what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        checked(self.shell(script).output().unwrap())
    }

    /// Runs a Python script inside the mount; it must succeed. Gives what it printed.
    #[track_caller]
    pub fn py(&self, script: &str) -> String {
        checked(self.python(script).output().unwrap())
    }

    /// Requests that a shell script costs.
    #[track_caller]
    pub fn cost(&self, script: &str) -> RequestCounts {
        let before = self.counts();
        self.sh(script);
        self.counts().since(&before)
    }
}

#[track_caller]
pub fn checked(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);
    text
}

/// Requests of some kinds.
pub fn sum(counts: &RequestCounts, opcodes: &[Opcode]) -> u64 {
    opcodes.iter().map(|&opcode| counts.of(opcode)).sum()
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A test that failed may have left processes inside: a lazy unmount alone would leave
        // them with a filesystem, and an abort alone would leave the dead mount.
        if self.mounted.unmount(false).is_err() {
            let _ = self.mounted.abort();
            let _ = self.mounted.unmount(true);
            self.mounted.wait();
        }
    }
}

/// The mount table's line for a path.
pub fn mount_line(path: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let path = path.to_str().unwrap().to_owned();
    table.lines().find(|line| line.split(' ').nth(1) == Some(&path)).map(str::to_owned)
}

/// A directory of the local disk for what must not be in the mount.
pub fn outside() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}
