//! The file system's clock, and stamps that only rise.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

/// A lock's stamp further ahead of the clock than this comes from a clock that was wrong.
const AHEAD_NANOS_MAX: i128 = 1_000_000_000;

/// Sets the file's mtime to the file system's clock and returns what it then says.
pub(super) fn touch(file: &File) -> io::Result<Metadata> {
    futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW)?;
    file.metadata()
}

/// Gives `file` an mtime: now, but later than the last one given under this lock. The caller
/// holds the lock. Returns the file's facts afterwards.
pub(super) fn stamp(lock: &File, file: &File) -> io::Result<Metadata> {
    let last = nanos(&lock.metadata()?);
    let now = nanos(&touch(lock)?);
    let ahead = last - now;
    let stamp = if (0..AHEAD_NANOS_MAX).contains(&ahead) { last + 1 } else { now };
    if stamp != now {
        set(lock, stamp)?;
    }
    set(file, stamp)?;
    file.metadata()
}

fn nanos(found: &Metadata) -> i128 {
    i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec())
}

fn set(file: &File, nanos: i128) -> io::Result<()> {
    let secs = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
    let part = i64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
    futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(secs, part))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_also_within_one_tick_of_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let lock = File::create(folder.path().join("lock")).unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        let stamps: Vec<_> = (0..1000).map(|_| nanos(&stamp(&lock, &file).unwrap())).collect();
        assert!(stamps.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_lock_stamped_by_a_wrong_clock_does_not_bind() {
        let folder = tempfile::tempdir().unwrap();
        let lock = File::create(folder.path().join("lock")).unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        let now = nanos(&touch(&file).unwrap());
        set(&lock, now + 3_600_000_000_000).unwrap();
        let given = nanos(&stamp(&lock, &file).unwrap());
        assert!(given < now + 60_000_000_000, "the stamp is an hour ahead");
    }
}
