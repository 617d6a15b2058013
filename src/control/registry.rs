//! Where the daemons of this machine are: one small JSON file per mountpoint.
//!
//! The name of the file is a hash of the mountpoint, so that any path fits. An entry outlives a
//! killed daemon on purpose: it says where that daemon's data is, so that `hibernate` can go on.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest entry that is read.
const ENTRY_LEN_MAX: u64 = 64 * 1024;

/// Most entries that a listing looks at.
const ENTRIES_MAX: usize = 10_000;

/// What a daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Absolute mountpoint.
    pub mountpoint: PathBuf,
    /// The daemon's process number.
    pub pid: u32,
    /// When that process started, in clock ticks since boot (`/proc/PID/stat`, field 22): tells
    /// it from a later process with the same number.
    pub start_ticks: u64,
    /// Its control socket.
    pub socket: PathBuf,
    /// The workspace's name.
    pub workspace: String,
    /// Its cache directory.
    pub cache_dir: PathBuf,
    /// The store's address, without secrets.
    pub store: String,
    /// Flags that reach the same store again (endpoint, region, ...); no secrets.
    pub store_flags: Vec<String>,
    /// Whether nothing can be written, so that there is nothing to lose.
    pub read_only: bool,
    /// Version of the daemon.
    pub version: String,
    /// Its keeper, which starts another daemon when it dies.
    #[serde(default)]
    pub keeper: Option<Process>,
}

/// A process, told from later ones with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, as in [`Registration`].
    pub start_ticks: u64,
}

impl Process {
    /// The process that has this number now.
    #[must_use]
    pub fn with_pid(pid: u32) -> Option<Process> {
        Some(Process { pid, start_ticks: process_start_ticks(pid)? })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        process_start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Whether no thread of it is left, so that its files are closed: a little later than it has
    /// ended, where a thread was busy in the kernel.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let stat = Stat::of(self.pid).filter(|stat| stat.start_ticks == self.start_ticks);
        stat.is_none_or(|stat| stat.has_ended && stat.threads <= 1)
    }
}

impl Registration {
    /// The daemon.
    #[must_use]
    pub fn daemon(&self) -> Process {
        Process { pid: self.pid, start_ticks: self.start_ticks }
    }
}

/// Whether an entry's daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// The process that wrote the entry runs, or another one will take its place.
    Running,
    /// It has ended without taking its entry away.
    Stale,
}

/// What can't be done with the registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The directory or an entry can't be used.
    #[error("can't {op} {path}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Somebody else could read or write here: nothing in it can be trusted.
    #[error("{path} belongs to another user or is open to others (want mode 0700): remove it")]
    Untrusted {
        /// The directory.
        path: PathBuf,
    },
}

/// A directory of entries and sockets, mode 0700.
#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// The registry in this directory; nothing is touched yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Registry {
        Registry { dir: dir.into() }
    }

    /// The registry's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the daemon of this mountpoint listens.
    #[must_use]
    pub fn socket_path(&self, mountpoint: &Path) -> PathBuf {
        self.dir.join(format!("{}.sock", stem(mountpoint)))
    }

    fn entry_path(&self, mountpoint: &Path) -> PathBuf {
        self.dir.join(format!("{}.json", stem(mountpoint)))
    }

    /// Makes the directory, or checks that it is ours alone.
    pub fn prepare(&self) -> Result<(), RegistryError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|source| self.io("create", &self.dir, source))?;
        self.check_owner()
    }

    fn check_owner(&self) -> Result<(), RegistryError> {
        let meta = fs::symlink_metadata(&self.dir);
        let meta = meta.map_err(|source| self.io("look at", &self.dir, source))?;
        let own = meta.uid() == nix::unistd::geteuid().as_raw();
        if own && meta.is_dir() && meta.mode() & 0o077 == 0 {
            Ok(())
        } else {
            Err(RegistryError::Untrusted { path: self.dir.clone() })
        }
    }

    /// Writes the entry of a mountpoint, whole or not at all; replaces a stale one.
    pub fn register(&self, entry: &Registration) -> Result<(), RegistryError> {
        self.prepare()?;
        let path = self.entry_path(&entry.mountpoint);
        let draft = path.with_extension(format!("{}.tmp", entry.pid));
        let write = || -> io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            serde_json::to_writer_pretty(&mut file, entry)?;
            file.write_all(b"\n")?;
            fs::rename(&draft, &path)
        };
        write().map_err(|source| self.io("write", &path, source))
    }

    /// Takes the entry of a mountpoint and its socket away; absent is fine.
    pub fn unregister(&self, mountpoint: &Path) -> Result<(), RegistryError> {
        for path in [self.entry_path(mountpoint), self.socket_path(mountpoint)] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io("remove", &path, source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The entry of exactly this mountpoint, and whether its daemon runs.
    pub fn find(
        &self,
        mountpoint: &Path,
    ) -> Result<Option<(Registration, Liveness)>, RegistryError> {
        let found = self.read(&self.entry_path(mountpoint))?;
        Ok(found.filter(|entry| entry.mountpoint == mountpoint).map(with_liveness))
    }

    /// All entries, by mountpoint. Unreadable ones are passed over: they are not ours.
    pub fn list(&self) -> Result<Vec<(Registration, Liveness)>, RegistryError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.io("list", &self.dir, source)),
        };
        self.check_owner()?;
        let mut found = Vec::new();
        for entry in entries.take(ENTRIES_MAX) {
            let path = entry.map_err(|source| self.io("list", &self.dir, source))?.path();
            if path.extension() == Some(OsStr::new("json")) {
                found.extend(self.read(&path)?.map(with_liveness));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.mountpoint.cmp(&b.mountpoint));
        Ok(found)
    }

    fn read(&self, path: &Path) -> Result<Option<Registration>, RegistryError> {
        use std::io::Read as _;
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io("read", path, source)),
        };
        self.check_owner()?;
        let mut text = Vec::new();
        let read = file.take(ENTRY_LEN_MAX).read_to_end(&mut text);
        read.map_err(|source| self.io("read", path, source))?;
        Ok(serde_json::from_slice(&text).ok())
    }

    fn io(&self, op: &'static str, path: &Path, source: io::Error) -> RegistryError {
        RegistryError::Io { op, path: path.to_owned(), source }
    }
}

fn stem(mountpoint: &Path) -> String {
    let hash = blake3::hash(mountpoint.as_os_str().as_bytes());
    hash.to_hex().as_str()[..16].to_owned()
}

fn with_liveness(entry: Registration) -> (Registration, Liveness) {
    let runs = entry.daemon().runs() || entry.keeper.is_some_and(|keeper| keeper.runs());
    (entry, if runs { Liveness::Running } else { Liveness::Stale })
}

/// When a process started, in clock ticks since boot; `None` where there is no such process or
/// where it has ended and only waits to be collected.
#[must_use]
pub fn process_start_ticks(pid: u32) -> Option<u64> {
    Stat::of(pid).filter(|stat| !stat.has_ended).map(|stat| stat.start_ticks)
}

/// What the kernel says of a process.
struct Stat {
    /// Its first thread has.
    has_ended: bool,
    /// That one included until the process is collected.
    threads: u64,
    start_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command's name in parentheses and may hold anything: go on after
        // the last closing one. What follows begins with field 3, the state; field 20 is the
        // number of threads, 22 the start.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let threads = fields.nth(16)?.parse().ok()?;
        let start_ticks = fields.nth(1)?.parse().ok()?;
        Some(Stat { has_ended, threads, start_ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(mountpoint: &str) -> Registration {
        let pid = std::process::id();
        Registration {
            mountpoint: mountpoint.into(),
            pid,
            start_ticks: process_start_ticks(pid).unwrap(),
            socket: "/run/x.sock".into(),
            workspace: "w".into(),
            cache_dir: "/var/lib/dormouse/w".into(),
            store: "file:///s".into(),
            store_flags: vec!["--region=eu".into()],
            read_only: false,
            version: "1".into(),
            keeper: None,
        }
    }

    #[test]
    fn an_entry_is_found_by_its_mountpoint_and_gone_after_unregistering() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path().join("run"));
        let (a, b) = (registration("/a"), registration("/b"));
        registry.register(&b).unwrap();
        registry.register(&a).unwrap();
        let found = registry.find(Path::new("/a")).unwrap();
        assert_eq!(found, Some((a.clone(), Liveness::Running)));
        let all: Vec<_> = registry.list().unwrap().into_iter().map(|(entry, _)| entry).collect();
        assert_eq!(all, [a, b]);
        registry.unregister(Path::new("/a")).unwrap();
        registry.unregister(Path::new("/a")).unwrap();
        assert_eq!(registry.find(Path::new("/a")).unwrap(), None);
    }

    #[test]
    fn an_entry_of_another_process_with_the_same_number_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path().join("run"));
        let mut entry = registration("/a");
        entry.start_ticks += 1;
        registry.register(&entry).unwrap();
        let (_, liveness) = registry.find(Path::new("/a")).unwrap().unwrap();
        assert_eq!(liveness, Liveness::Stale);
    }

    #[test]
    fn an_entry_whose_keeper_runs_is_not_stale() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path().join("run"));
        let mut entry = registration("/a");
        entry.keeper = Process::with_pid(entry.pid);
        entry.start_ticks += 1;
        registry.register(&entry).unwrap();
        let (_, liveness) = registry.find(Path::new("/a")).unwrap().unwrap();
        assert_eq!(liveness, Liveness::Running);
    }

    #[test]
    fn a_process_that_ended_has_no_start() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        // It may have ended already: until it is collected the kernel tells of it.
        let process = Process { pid, start_ticks: Stat::of(pid).unwrap().start_ticks };
        child.wait().unwrap();
        assert_eq!(process_start_ticks(pid), None);
        assert!(!process.runs() && process.is_gone());
    }

    #[test]
    fn a_process_is_gone_when_its_last_thread_is() {
        let script = "import ctypes, threading, time\n\
                      threading.Thread(target=time.sleep, args=(60,)).start()\n\
                      ctypes.CDLL(None).pthread_exit(None)";
        let mut child = std::process::Command::new("python3").args(["-c", script]).spawn().unwrap();
        let process = Process::with_pid(child.id()).unwrap();
        assert!(!process.is_gone());
        while process.runs() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!process.is_gone(), "a thread sleeps");
        child.kill().unwrap();
        // Nobody has collected it.
        while !process.is_gone() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(process.is_gone());
    }

    #[test]
    fn a_directory_open_to_others_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let registry = Registry::new(dir.path());
        registry.register(&registration("/a")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(registry.list(), Err(RegistryError::Untrusted { .. })));
        assert!(matches!(registry.find(Path::new("/a")), Err(RegistryError::Untrusted { .. })));
        let denied = registry.register(&registration("/a"));
        assert!(matches!(denied, Err(RegistryError::Untrusted { .. })));
    }

    #[test]
    fn a_damaged_entry_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path().join("run"));
        registry.prepare().unwrap();
        fs::write(registry.entry_path(Path::new("/a")), b"{").unwrap();
        assert_eq!(registry.find(Path::new("/a")).unwrap(), None);
        assert!(registry.list().unwrap().is_empty());
    }
}
