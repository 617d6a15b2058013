//! A segment: one file of the journal, `<number as 16 hex digits>.log`.
//!
//! ```text
//! 0           8        16         32    36
//! | "DMJRNL1\n" | number | cache id | crc | records ...
//! |             | u64    | 16       | u32 (CRC-32C of bytes 0 to 31)
//! ```
//! Records are only appended. Behind the last one there may be zeros that were written ahead, for
//! the next to overwrite; what follows the last whole record is cut off at recovery.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::local::LocalError;
use crate::types::CacheId;

/// Bytes before the first record.
pub(super) const SEGMENT_HEADER_LEN: u64 = 36;

const MAGIC: &[u8; 8] = b"DMJRNL1\n";
const SUFFIX: &str = ".log";

/// An open segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    path: PathBuf,
    file: File,
    #[cfg(test)]
    pub(super) faults: faults::Faults,
}

impl Segment {
    /// Makes the file with its header. Neither it nor its name is durable yet.
    pub(super) fn create(dir: &Path, number: u64, cache: CacheId) -> Result<Segment, LocalError> {
        let path = dir.join(name_of(number));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let segment = Segment::open_with(number, path, &options)?;
        if let Err(error) = segment.file.write_all_at(&encode_header(number, cache), 0) {
            // A file without its header must not stay: the number will be tried again.
            let _ = std::fs::remove_file(&segment.path);
            return Err(segment.error("write", error));
        }
        Ok(segment)
    }

    pub(super) fn open(dir: &Path, number: u64) -> Result<Segment, LocalError> {
        let path = dir.join(name_of(number));
        Segment::open_with(number, path, OpenOptions::new().read(true).write(true))
    }

    fn open_with(number: u64, path: PathBuf, options: &OpenOptions) -> Result<Segment, LocalError> {
        match options.open(&path) {
            Ok(file) => Ok(Segment {
                number,
                path,
                file,
                #[cfg(test)]
                faults: faults::Faults::default(),
            }),
            Err(error) => Err(LocalError::io("open", &path, error)),
        }
    }

    /// Whether the header is this segment's of this directory.
    pub(super) fn has_header(&self, cache: CacheId) -> Result<bool, LocalError> {
        let mut found = [0; SEGMENT_HEADER_LEN as usize];
        match self.file.read_exact_at(&mut found, 0) {
            Ok(()) => Ok(found == encode_header(self.number, cache)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(self.error("read", error)),
        }
    }

    pub(super) fn len(&self) -> Result<u64, LocalError> {
        self.file.metadata().map(|data| data.len()).map_err(|error| self.error("stat", error))
    }

    /// Writes all parts one after the other from `offset` on; usually one system call. After an
    /// error some of them may have been written.
    pub(super) fn write_at(&self, mut parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            #[cfg(test)]
            self.faults.before_write(&self.file, parts, at)?;
            let to = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            match nix::sys::uio::pwritev(&self.file, &parts[..parts.len().min(IOV_MAX)], to) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Writes zeros behind the last record.
    pub(super) fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut at = offset;
        while at < offset + len {
            let piece = &ZEROS[..ZEROS.len().min((offset + len - at) as usize)];
            self.write_at(&mut [IoSlice::new(piece)], at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    pub(super) fn sync(&self) -> Result<(), LocalError> {
        #[cfg(test)]
        self.faults.before_sync().map_err(|error| self.error("sync", error))?;
        #[cfg(test)]
        let synced_len = match self.faults.appended_to.load(std::sync::atomic::Ordering::Relaxed) {
            0 => self.len()?,
            appended_to => appended_to,
        };
        self.file.sync_data().map_err(|error| self.error("sync", error))?;
        #[cfg(test)]
        faults::synced(&self.path, synced_len);
        Ok(())
    }

    /// Has the next reads come from the disk. After a sync that failed the kernel keeps pages that
    /// never reached it, takes them for written, and reports the failure once only.
    pub(super) fn forget_cached(&self) -> Result<(), LocalError> {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        self.file.sync_data().map_err(|error| self.error("sync", error))?;
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|errno| self.error("forget cached pages of", errno.into()))
    }

    pub(super) fn truncate(&self, len: u64) -> Result<(), LocalError> {
        self.file.set_len(len).map_err(|error| self.error("truncate", error))
    }

    /// Takes the file out of the directory. Those who have it open can still read it.
    pub(super) fn delete(&self) -> Result<(), LocalError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error("delete", error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn error(&self, op: &'static str, error: io::Error) -> LocalError {
        LocalError::io(op, &self.path, error)
    }
}

/// Most parts of one `pwritev` (Linux `UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

fn encode_header(number: u64, cache: CacheId) -> [u8; SEGMENT_HEADER_LEN as usize] {
    let mut out = [0; SEGMENT_HEADER_LEN as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..32].copy_from_slice(cache.as_bytes());
    let crc = crc32c::crc32c(&out[..32]);
    out[32..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn name_of(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// The numbers of the segments in `dir`, ascending. Files of other names are not ours to judge.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, LocalError> {
    let wrap = |error| LocalError::io("list", dir, error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(wrap)? {
        let name = entry.map_err(wrap)?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(SUFFIX))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        numbers.extend(number.filter(|&number| name_of(number).as_str() == name));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
pub(super) mod faults {
    //! Failures of the disk, on demand.

    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use parking_lot::Mutex;

    use super::{File, FileExt, IoSlice, Path, PathBuf, io};

    /// What a power cut would leave of each journal file: the bytes that were there when the last
    /// good sync began, and whether its name was synced since it was made.
    static SYNCED: Mutex<BTreeMap<PathBuf, Durable>> = Mutex::new(BTreeMap::new());

    #[derive(Debug, Clone, Copy, Default)]
    pub struct Durable {
        pub len: u64,
        pub has_name: bool,
    }

    pub fn synced(path: &Path, len: u64) {
        SYNCED.lock().entry(path.to_owned()).or_default().len = len;
    }

    pub fn names_synced(names: &[PathBuf]) {
        let mut synced = SYNCED.lock();
        names.iter().for_each(|path| synced.entry(path.clone()).or_default().has_name = true);
    }

    pub fn durable(path: &Path) -> Durable {
        SYNCED.lock().get(path).copied().unwrap_or_default()
    }

    #[derive(Debug)]
    pub struct Faults {
        /// No byte at or after this offset can be written: the disk is full there.
        pub full_at: AtomicU64,
        /// Every sync fails, as after a lost write-back.
        pub sync_fails: AtomicBool,
        /// End of the last record that was appended; 0: none yet.
        pub appended_to: AtomicU64,
    }

    impl Default for Faults {
        fn default() -> Faults {
            Faults {
                full_at: AtomicU64::new(u64::MAX),
                sync_fails: AtomicBool::new(false),
                appended_to: AtomicU64::new(0),
            }
        }
    }

    impl Faults {
        pub fn before_sync(&self) -> io::Result<()> {
            match self.sync_fails.load(Ordering::Relaxed) {
                true => Err(io::Error::from_raw_os_error(libc::EIO)),
                false => Ok(()),
            }
        }

        /// Writes what still fits, as a kernel would, then says that the disk is full.
        pub fn before_write(
            &self,
            file: &File,
            parts: &[IoSlice<'_>],
            offset: u64,
        ) -> io::Result<()> {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            let full_at = self.full_at.load(Ordering::Relaxed);
            if offset + all.len() as u64 <= full_at {
                return Ok(());
            }
            file.write_all_at(&all[..full_at.saturating_sub(offset) as usize], offset)?;
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        }
    }
}
