//! Taking away a whole directory of ours.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::lock::DirLock;
use super::{LocalError, marker};

/// RocksDB's threads may still finish a file while its folder is emptied.
const TRIES: u32 = 5;

/// Removes a local directory with all that is in it, unless a process has it open, or it is none of
/// ours. Whether it did.
pub fn remove_unused(dir: &Path) -> Result<bool, LocalError> {
    if !marker::is_there(dir) {
        return Ok(false);
    }
    match DirLock::take(dir) {
        // Held until the directory is gone: nobody begins to use what is half there.
        Ok(_lock) => remove(dir).map(|()| true),
        Err(LocalError::Locked { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the caller's own local directory, which it has closed.
pub fn remove(dir: &Path) -> Result<(), LocalError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries < TRIES => {}
            Err(error) => return Err(LocalError::io("remove", dir, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_of_ours_that_nobody_has_open_is_removed() {
        let top = tempfile::tempdir().unwrap();
        let theirs = top.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("letter"), "dear").unwrap();
        assert!(!remove_unused(&theirs).unwrap() && theirs.join("letter").exists());
        let ours = top.path().join("ours");
        fs::create_dir(&ours).unwrap();
        marker::read_or_create(&ours).unwrap();
        fs::create_dir(ours.join("cache")).unwrap();
        let open = DirLock::take(&ours).unwrap();
        assert!(!remove_unused(&ours).unwrap() && ours.join("cache").exists());
        drop(open);
        assert!(remove_unused(&ours).unwrap() && !ours.exists());
        assert!(!remove_unused(&ours).unwrap());
    }
}
