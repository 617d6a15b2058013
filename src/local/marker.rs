//! The file that says what a directory is: our local state, its version and its random id.
//!
//! ```text
//! dormouse local state
//! version 2
//! cache 00112233445566778899aabbccddeeff
//! ```
//!
//! Version 1 had no requests in the journal's records; it is read, and is version 2 from then on.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::{LocalError, lock};
use crate::types::CacheId;

const MARKER_NAME: &str = "dormouse";
const TEMPORARY_NAME: &str = "dormouse.new";
/// The daemon keeps its log beside us, and may begin it before us.
const LOG_PREFIX: &str = "dormouse.log";
const FIRST_LINE: &str = "dormouse local state";
const VERSION: u32 = 2;
/// Oldest version that is read.
const VERSION_MIN: u32 = 1;

/// Reads the marker, or makes one where the directory is empty (but for the lock).
pub(super) fn read_or_create(dir: &Path) -> Result<CacheId, LocalError> {
    let path = dir.join(MARKER_NAME);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let (found, id) = parse(dir, &text)?;
            if found < VERSION {
                write(dir, id)?;
            }
            Ok(id)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(dir),
        Err(error) => Err(LocalError::io("read", &path, error)),
    }
}

/// The id of the local state in a directory; none where there is none that can be understood.
#[must_use]
pub fn id_of(dir: &Path) -> Option<CacheId> {
    let text = fs::read_to_string(dir.join(MARKER_NAME)).ok()?;
    parse(dir, &text).ok().map(|(_, id)| id)
}

fn parse(dir: &Path, text: &str) -> Result<(u32, CacheId), LocalError> {
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let damaged = || LocalError::corrupt(format!("{}", dir.join(MARKER_NAME).display()));
    if field("dormouse") != Some("local state") {
        return Err(damaged());
    }
    let found = field("version").and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    if !(VERSION_MIN..=VERSION).contains(&found) {
        return Err(LocalError::Version { path: dir.to_owned(), found, supported: VERSION });
    }
    let id = field("cache").and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    Ok((found, id))
}

/// Whether the directory holds a local state of ours.
#[must_use]
pub fn is_there(dir: &Path) -> bool {
    dir.join(MARKER_NAME).is_file()
}

/// Fails where the directory holds something that is not ours, before anything is put there.
pub(super) fn refuse_foreign(dir: &Path) -> Result<(), LocalError> {
    let marker = dir.join(MARKER_NAME);
    match marker.try_exists().map_err(|error| LocalError::io("look for", &marker, error))? {
        true => Ok(()),
        false => check_empty(dir),
    }
}

fn check_empty(dir: &Path) -> Result<(), LocalError> {
    let entries = fs::read_dir(dir).map_err(|error| LocalError::io("list", dir, error))?;
    for entry in entries {
        let name = entry.map_err(|error| LocalError::io("list", dir, error))?.file_name();
        // The second name is left by a creation that did not finish, the third by mkfs.
        let known = [lock::LOCK_NAME, TEMPORARY_NAME, "lost+found"].iter().any(|&k| name == k);
        let is_log = name.to_str().is_some_and(|name| name.starts_with(LOG_PREFIX));
        if !known && !is_log {
            return Err(LocalError::Foreign { path: dir.to_owned() });
        }
    }
    Ok(())
}

fn create(dir: &Path) -> Result<CacheId, LocalError> {
    check_empty(dir)?;
    let mut id = CacheId([0; CacheId::LEN]);
    getrandom::fill(&mut id.0).map_err(|error| {
        LocalError::io("draw an id for", dir, std::io::Error::other(error.to_string()))
    })?;
    write(dir, id)?;
    Ok(id)
}

fn write(dir: &Path, id: CacheId) -> Result<(), LocalError> {
    let temporary = dir.join(TEMPORARY_NAME);
    let text = format!("{FIRST_LINE}\nversion {VERSION}\ncache {id}\n");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(MARKER_NAME))?;
        File::open(dir)?.sync_all()
    });
    written.map_err(|error| LocalError::io("write", &temporary, error))
}

/// Says that RocksDB was flushed when the directory was closed. Not synced: without it, or with
/// one too many, only the cache's index is looked after too much or too little.
const CLEAN_NAME: &str = "clean";

/// Whether the directory was closed, and takes the mark away: from now on it was not.
pub(super) fn take_clean(dir: &Path) -> Result<bool, LocalError> {
    let path = dir.join(CLEAN_NAME);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(LocalError::io("delete", &path, error)),
    }
}

/// Marks the directory as closed.
pub(super) fn leave_clean(dir: &Path) -> Result<(), LocalError> {
    let path = dir.join(CLEAN_NAME);
    File::create(&path).map(drop).map_err(|error| LocalError::io("write", &path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let id = read_or_create(dir.path()).unwrap();
        assert_eq!(read_or_create(dir.path()).unwrap(), id);
        assert_eq!(id_of(dir.path()), Some(id));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(read_or_create(other.path()).unwrap(), id);
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(read_or_create(dir.path()), Err(LocalError::Foreign { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_version_and_damage_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let id = read_or_create(dir.path()).unwrap();
        let path = dir.path().join(MARKER_NAME);
        fs::write(&path, format!("{FIRST_LINE}\nversion 1\ncache {id}\n")).unwrap();
        assert_eq!(read_or_create(dir.path()).unwrap(), id);
        assert!(fs::read_to_string(&path).unwrap().contains("version 2\n"), "brought up to date");
        fs::write(&path, format!("{FIRST_LINE}\nversion 3\ncache {id}\n")).unwrap();
        let error = read_or_create(dir.path()).unwrap_err();
        assert!(
            matches!(error, LocalError::Version { found: 3, supported: VERSION, .. }),
            "{error}"
        );
        for damage in ["", "dormouse local state\nversion 2\n", "something"] {
            fs::write(&path, damage).unwrap();
            let error = read_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, LocalError::Corrupt { .. }), "{error}");
        }
    }
}
