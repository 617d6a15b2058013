//! The folders, locks and temporary files of a directory store.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::{modified, stamp};
use crate::format::FORMAT_KEY;
use crate::remote::{PutMode, RemoteError};
use crate::types::Time;

/// Our own folder in the root; no key can name it, since it begins with a dot.
const OWN_FOLDER: &str = ".dormouse";

/// A temporary file whose writer is gone is removed when it is at least this old: before that,
/// its writer may just be about to lock it.
const TEMP_AGE_MIN: Duration = Duration::from_secs(600);

/// Names tried for a temporary file: those of dead processes with our number may be in the way.
const TEMP_NAMES_MAX: usize = 1000;

/// Folders remembered as durable; when there are more, all are forgotten and synced again.
const DURABLE_FOLDERS_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// The store's format object, once it was seen: it names the store.
    format: Mutex<Option<Vec<u8>>>,
    /// Folders whose own entries are known to be on the disk.
    durable: Mutex<HashSet<PathBuf>>,
    next_temp: AtomicU64,
    swept: AtomicBool,
}

/// An object's bytes on the disk, not yet under its name. Locked while it exists, and removed
/// when dropped.
#[derive(Debug)]
pub(super) struct Temp {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Files {
    pub(super) fn new(root: &Path) -> Files {
        Files {
            root: root.to_owned(),
            format: Mutex::default(),
            durable: Mutex::default(),
            next_temp: AtomicU64::new(0),
            swept: AtomicBool::new(false),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where an object is. The key has been checked: it cannot lead out of the root.
    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn own(&self, name: &str) -> PathBuf {
        self.root.join(OWN_FOLDER).join(name)
    }

    /// Whether the directory is there, and still the store that it was: where a volume was
    /// unmounted under a mount, an empty folder is in its place, and what went there would be
    /// taken for stored.
    pub(super) fn check_root(&self) -> Result<(), RemoteError> {
        let what = format!("the directory {}", self.root.display());
        match fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => self.check_format(what),
            Ok(_) => Err(RemoteError::NoStore { what, cause: "it is not a directory".into() }),
            Err(error) if super::is_absence(&error) => {
                Err(RemoteError::NoStore { what, cause: error.to_string() })
            }
            Err(error) => Err(failure(&what, "open", &error)),
        }
    }

    /// The format object is to be these bytes from now on: we write it ourselves.
    pub(super) fn expect_format(&self, bytes: &[u8]) {
        *self.format.lock() = Some(bytes.to_vec());
    }

    fn check_format(&self, what: String) -> Result<(), RemoteError> {
        let found = match fs::read(self.root.join(FORMAT_KEY)) {
            Ok(found) => Some(found),
            Err(error) if super::is_absence(&error) => None,
            Err(error) => return Err(failure(&what, "read the format of", &error)),
        };
        let mut known = self.format.lock();
        let cause = match (known.as_ref(), found) {
            (None, None) => return Ok(()),
            (None, Some(found)) => {
                *known = Some(found);
                return Ok(());
            }
            (Some(known), Some(found)) if *known == found => return Ok(()),
            (Some(_), Some(_)) => "another store is in its place",
            (Some(_), None) => {
                "an empty folder, or something else that is no store, is in its place; is a volume \
                 not mounted?"
            }
        };
        Err(RemoteError::NoStore { what, cause: cause.to_owned() })
    }

    pub(super) fn create_root(&self) -> Result<(), RemoteError> {
        let what = self.root.display().to_string();
        fs::create_dir_all(&self.root).map_err(|error| match error.kind() {
            // No folder can be made there: a dangling link, `/proc`.
            io::ErrorKind::NotFound => {
                RemoteError::BadDirectory { cause: format!("cannot create {what}: {error}") }
            }
            _ => failure(&what, "create", &error),
        })?;
        // Which of the folders above are new is not known: sync them as far as we may.
        for folder in self.root.ancestors().skip(1) {
            if self.sync_folder(folder).is_err() {
                break;
            }
        }
        self.check_root()
    }

    /// Makes a folder and those above it up to the root, on the disk before this returns.
    pub(super) fn create_folder(&self, key: &str, folder: &Path) -> Result<(), RemoteError> {
        if folder == self.root || self.durable.lock().contains(folder) {
            return Ok(());
        }
        let above = folder.parent().unwrap_or(&self.root);
        self.create_folder(key, above)?;
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failure(key, "create the folder of", &error)),
        }
        // Also where it was there: its maker may not have synced it yet.
        self.sync_folder(above).map_err(|error| failure(key, "sync the folder of", &error))?;
        let mut durable = self.durable.lock();
        if durable.len() >= DURABLE_FOLDERS_MAX {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    /// Looks at all folders anew from now on.
    pub(super) fn forget_folders(&self) {
        self.durable.lock().clear();
    }

    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    /// The file system's clock; none where nothing can be written.
    pub(super) fn now(&self) -> Option<Time> {
        let options = || OpenOptions::new().write(true).create(true).truncate(false).to_owned();
        let path = self.own("clock");
        let file = options().open(&path).or_else(|_| {
            fs::create_dir(self.root.join(OWN_FOLDER))?;
            options().open(&path)
        });
        let found = file.and_then(|file| stamp::touch(&file)).ok()?;
        Some(modified(&found))
    }

    /// Waits for the lock of a key. It is given back when the file is closed.
    pub(super) fn lock(&self, key: &str) -> Result<File, RemoteError> {
        let folder = self.own("locks");
        self.create_folder(key, &folder)?;
        // One of 256: unrelated keys seldom meet, and the folder stays small.
        let stripe = blake3::hash(key.as_bytes()).as_bytes()[0];
        let path = folder.join(format!("{stripe:02x}"));
        let lock = || -> io::Result<File> {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|error| failure(key, "lock", &error))
    }

    /// Writes and syncs a temporary file.
    pub(super) fn write_temp(&self, key: &str, bytes: &[u8]) -> Result<Temp, RemoteError> {
        self.check_root()?;
        let folder = self.own("temp");
        self.create_folder(key, &folder)?;
        if !self.swept.swap(true, Relaxed) {
            sweep(&folder, self.now());
        }
        let temp = self.create_temp(&folder).map_err(|error| failure(key, "create", &error))?;
        let mut file = &temp.file;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| failure(key, "write", &error))?;
        Ok(temp)
    }

    fn create_temp(&self, folder: &Path) -> io::Result<Temp> {
        for _ in 0..TEMP_NAMES_MAX {
            let number = self.next_temp.fetch_add(1, Relaxed);
            // The address tells stores of one process apart.
            let name = format!("{:x}-{:p}-{number:x}", std::process::id(), self);
            let path = folder.join(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    file.lock()?;
                    return Ok(Temp { path, file, published: false });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("too many old temporary files"))
    }
}

impl Temp {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name. The caller holds the key's lock and has compared.
    pub(super) fn publish(
        &mut self,
        key: &str,
        path: &Path,
        mode: &PutMode,
    ) -> Result<(), RemoteError> {
        if *mode == PutMode::Create {
            // A link never replaces, even where a network file system forgot the lock.
            match fs::hard_link(&self.path, path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(RemoteError::Conflict { key: key.to_owned() });
                }
                // No links on this file system: the lock alone has to do.
                Err(_) => {}
            }
        }
        fs::rename(&self.path, path).map_err(|error| failure(key, "rename", &error))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            // A file left behind is swept later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what writers left that were killed. Best effort: it only frees space.
fn sweep(folder: &Path, now: Option<Time>) {
    let (Ok(entries), Some(now)) = (fs::read_dir(folder), now) else { return };
    for entry in entries.flatten() {
        let Ok(file) = File::open(entry.path()) else { continue };
        let old = file
            .metadata()
            .is_ok_and(|found| now.seconds_since(modified(&found)) >= TEMP_AGE_MIN.as_secs());
        if old && file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A failed file operation, by what the caller does about it.
pub(super) fn failure(key: &str, action: &str, error: &io::Error) -> RemoteError {
    let cause = format!("cannot {action} {key}: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RemoteError::Full { cause },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            RemoteError::NotPermitted { cause }
        }
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::FileTooLarge => RemoteError::BadDirectory { cause },
        _ => RemoteError::transient(key, cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_of_dead_writers_are_swept_and_others_kept() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::new(root.path());
        let held = files.write_temp("k", b"held").unwrap();
        let folder = files.own("temp");
        let (dead, young) = (folder.join("dead"), folder.join("young"));
        let hour_ago = std::time::UNIX_EPOCH + Duration::from_secs(1000);
        for path in [&dead, &young] {
            File::create(path).unwrap();
        }
        File::options().write(true).open(&dead).unwrap().set_modified(hour_ago).unwrap();
        held.file().set_modified(hour_ago).unwrap();
        sweep(&folder, files.now());
        assert!(!dead.exists());
        assert!(young.exists() && held.path.exists());
        drop(held);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "a dropped put leaves no file");
    }

    #[test]
    fn a_full_disk_and_a_refusal_are_told_apart_from_what_may_pass() {
        let kind = |code| failure("k", "write", &io::Error::from_raw_os_error(code));
        assert!(matches!(kind(libc::ENOSPC), RemoteError::Full { .. }));
        assert!(matches!(kind(libc::EDQUOT), RemoteError::Full { .. }));
        assert!(matches!(kind(libc::EACCES), RemoteError::NotPermitted { .. }));
        assert!(matches!(kind(libc::EROFS), RemoteError::NotPermitted { .. }));
        assert!(matches!(kind(libc::ENOTDIR), RemoteError::BadDirectory { .. }));
        assert!(kind(libc::EIO).is_transient() && kind(libc::ESTALE).is_transient());
    }
}
