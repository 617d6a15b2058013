//! A store in a local directory, also shared by processes or over a network file system.
//!
//! ```text
//! <root>/<key>                  an object
//! <root>/.dormouse/locks/<2 hex>  lock of the keys whose hash begins so; its mtime is the
//!                               last stamp given
//! <root>/.dormouse/temp/<name>  an object being written, flock'ed by its writer
//! <root>/.dormouse/clock        touched to read the file system's clock
//! ```
//!
//! A put writes and syncs a temporary file, then compares and renames it under the key's lock,
//! and syncs the folder. Each put's file gets an mtime later than any before under the same
//! lock, so that mtime, inode and length name a version that never comes twice.

mod files;
mod stamp;

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use self::files::{Files, failure};
use super::store::clamp;
use super::{
    OBJECT_LEN_MAX, Object, ObjectMeta, ObjectStore, PutMode, RemoteError, Stored, Version, key,
};
use crate::format::FORMAT_KEY;
use crate::types::Time;

/// A store in a directory. Several may be open on one, in any number of processes.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    files: Arc<Files>,
}

impl DirectoryStore {
    /// The store in this directory. Touches nothing.
    #[must_use]
    pub fn new(root: &Path) -> DirectoryStore {
        DirectoryStore { files: Arc::new(Files::new(root)) }
    }

    /// Runs file operations on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, RemoteError> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let files = Arc::clone(&self.files);
        match tokio::task::spawn_blocking(move || work(&files)).await {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(RemoteError::transient("request", "the store's client was closed")),
            },
        }
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        let key = key.to_owned();
        self.blocking(move |files| get(files, &key, range)).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        let key = key.to_owned();
        self.blocking(move |files| {
            let (_, found) = open(files, &key)?;
            Ok(ObjectMeta { store_now: files.now(), ..meta(&key, &found) })
        })
        .await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        let (key, mode) = (key.to_owned(), mode.clone());
        self.blocking(move |files| {
            let stored = put(files, &key, &bytes, &mode);
            if stored.is_err() {
                // Perhaps somebody removed a folder: the next attempt makes it again.
                files.forget_folders();
            }
            stored
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let key = key.to_owned();
        self.blocking(move |files| delete(files, &key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        let prefix = prefix.to_owned();
        self.blocking(move |files| list(files, &prefix)).await
    }

    async fn create_place(&self) -> Result<(), RemoteError> {
        self.blocking(Files::create_root).await
    }
}

/// The object's open file: what is read from it is one version, whatever happens to its name.
fn open(files: &Files, key: &str) -> Result<(File, Metadata), RemoteError> {
    files.check_root()?;
    let absent = || RemoteError::Absent { key: key.to_owned() };
    let file = match File::open(files.path(key)) {
        Ok(file) => file,
        Err(error) if is_absence(&error) => return Err(absent()),
        Err(error) => return Err(failure(key, "open", &error)),
    };
    let found = file.metadata().map_err(|error| failure(key, "stat", &error))?;
    // A folder is the beginning of longer keys, and no object.
    if found.is_file() { Ok((file, found)) } else { Err(absent()) }
}

/// True where a name leads nowhere: also where a part before the last is an object.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn get(files: &Files, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
    let (file, found) = open(files, key)?;
    let store_now = if range.is_none() { files.now() } else { None };
    let part = clamp(range, found.len());
    let len = part.end - part.start;
    if len > OBJECT_LEN_MAX {
        let cause = format!("{len} bytes are more than any object of ours has");
        return Err(RemoteError::Corrupt { key: key.to_owned(), cause });
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, part.start).map_err(|error| failure(key, "read", &error))?;
    Ok(Object { meta: ObjectMeta { store_now, ..meta(key, &found) }, bytes: bytes.into() })
}

fn put(files: &Files, key: &str, bytes: &[u8], mode: &PutMode) -> Result<Stored, RemoteError> {
    files.check_root()?;
    let path = files.path(key);
    let mut temp = files.write_temp(key, bytes)?;
    let folder = path.parent().unwrap_or(&path);
    files.create_folder(key, folder)?;
    let lock = files.lock(key)?;
    let here = match path.symlink_metadata() {
        Ok(found) => Some(version(&found)),
        Err(error) if is_absence(&error) => None,
        Err(error) => return Err(failure(key, "stat", &error)),
    };
    let wins = match mode {
        PutMode::Any => true,
        PutMode::Create => here.is_none(),
        PutMode::Swap(expected) => here.as_ref() == Some(expected),
    };
    if !wins {
        return Err(RemoteError::Conflict { key: key.to_owned() });
    }
    let written =
        stamp::stamp(&lock, temp.file()).map_err(|error| failure(key, "touch", &error))?;
    temp.publish(key, &path, mode)?;
    if key == FORMAT_KEY {
        files.expect_format(bytes);
    }
    // From here on the put is seen: a failure leaves open whether it lasts.
    files.sync_folder(folder).map_err(|error| match mode {
        PutMode::Any => failure(key, "sync the folder of", &error),
        PutMode::Create | PutMode::Swap(_) => RemoteError::Ambiguous {
            key: key.to_owned(),
            cause: format!("cannot sync its folder: {error}"),
        },
    })?;
    // Whether it went into the store that was looked at before.
    files.check_root()?;
    Ok(Stored::new(key, written.len(), version(&written)))
}

fn delete(files: &Files, key: &str) -> Result<(), RemoteError> {
    files.check_root()?;
    let _lock = files.lock(key)?;
    match std::fs::remove_file(files.path(key)) {
        Err(error) if !is_absence(&error) && error.kind() != io::ErrorKind::IsADirectory => {
            Err(failure(key, "delete", &error))
        }
        _ => Ok(()),
    }
}

fn list(files: &Files, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
    files.check_root()?;
    let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut open_folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = open_folders.pop() {
        for (key, path) in children(files, &folder)? {
            // Only what can lead to a key with the prefix: the prefix or the key goes on.
            if !key.starts_with(prefix) && !prefix.starts_with(&format!("{key}/")) {
                continue;
            }
            match path.symlink_metadata() {
                Ok(entry) if entry.is_dir() => open_folders.push(key),
                Ok(entry) if entry.is_file() => found.push(meta(&key, &entry)),
                Ok(_) => {}
                Err(error) if is_absence(&error) => {} // Deleted meanwhile.
                Err(error) => return Err(failure(&key, "stat", &error)),
            }
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Names in a folder that are keys or their beginnings; those of others are not ours to show.
fn children(files: &Files, folder: &str) -> Result<Vec<(String, PathBuf)>, RemoteError> {
    let path = if folder.is_empty() { files.root().to_owned() } else { files.path(folder) };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failure(folder, "list", &error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failure(folder, "list", &error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let key = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if key::problem(&key).is_none() {
            found.push((key, entry.path()));
        }
    }
    Ok(found)
}

fn meta(key: &str, found: &Metadata) -> ObjectMeta {
    ObjectMeta {
        key: key.to_owned(),
        size: found.len(),
        version: version(found),
        last_modified: Some(modified(found)),
        store_now: None,
    }
}

fn modified(found: &Metadata) -> Time {
    Time::new(found.mtime(), u32::try_from(found.mtime_nsec()).unwrap_or(0))
}

fn version(found: &Metadata) -> Version {
    let Time { secs, nanos } = modified(found);
    Version(format!("{secs:x}.{nanos:x}-{:x}-{:x}", found.ino(), found.len()))
}
