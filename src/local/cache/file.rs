//! A cache file: frames one after the other, `<number as 16 hex digits>.frames`.
//!
//! ```text
//! 0       4     8    40           44            48
//! | magic | len | id | frame crc  | header crc  | frame ...
//! | u32   | u32 | 32 | u32        | u32 (CRC-32C of bytes 0 to 43)
//! ```
//! Not synced: what a power cut takes is fetched again, and what it garbles fails its checksum.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::local::LocalError;
use crate::types::Buffer;

pub(super) const ENTRY_HEADER_LEN: usize = 48;
/// Longest frame that is cached (`format`'s longest node, and room for its header).
pub(super) const FRAME_LEN_MAX: usize = 8 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"DMC1");
const SUFFIX: &str = ".frames";

/// A bit of [`CacheFile::used`] stands for the frames that begin in this many bytes.
const USED_GRAIN: u64 = 4096;

/// One file of frames.
#[derive(Debug)]
pub(super) struct CacheFile {
    pub(super) number: u64,
    path: PathBuf,
    file: File,
    len: AtomicU64,
    /// When a frame was last read, in ticks of the cache.
    pub(super) last_used: AtomicU64,
    /// Which frames were read since they were written, one bit per [`USED_GRAIN`].
    used: Box<[AtomicU64]>,
}

/// A frame's header in a cache file, checked.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: [u8; 32],
    frame_len: u32,
    crc: u32,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: u64,
    pub(super) offset: u32,
    pub(super) frame_len: u32,
}

impl Place {
    pub(super) fn encode(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.file.to_le_bytes());
        out[8..12].copy_from_slice(&self.offset.to_le_bytes());
        out[12..].copy_from_slice(&self.frame_len.to_le_bytes());
        out
    }

    /// None: damaged, and so a miss.
    pub(super) fn decode(bytes: &[u8]) -> Option<Place> {
        let bytes: &[u8; 16] = bytes.try_into().ok()?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let file = u64::from(word(0)) | u64::from(word(4)) << 32;
        let place = Place { file, offset: word(8), frame_len: word(12) };
        (place.frame_len as usize <= FRAME_LEN_MAX).then_some(place)
    }
}

impl CacheFile {
    pub(super) fn create(dir: &Path, number: u64, capacity: u64) -> Result<CacheFile, LocalError> {
        let path = dir.join(name_of(number));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| LocalError::io("create", &path, error))?;
        Ok(CacheFile::new(number, path, file, 0, capacity))
    }

    pub(super) fn open(dir: &Path, number: u64) -> Result<CacheFile, LocalError> {
        let path = dir.join(name_of(number));
        let opened = File::open(&path).and_then(|file| {
            let len = file.metadata()?.len();
            Ok((file, len))
        });
        let (file, len) = opened.map_err(|error| LocalError::io("open", &path, error))?;
        Ok(CacheFile::new(number, path, file, len, len))
    }

    fn new(number: u64, path: PathBuf, file: File, len: u64, capacity: u64) -> CacheFile {
        let words = (capacity / USED_GRAIN / 64 + 1) as usize;
        CacheFile {
            number,
            path,
            file,
            len: AtomicU64::new(len),
            last_used: AtomicU64::new(0),
            used: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Appends a frame; one writer at a time. Returns where it begins. On an error the file is as
    /// before, as far as anyone reads it.
    pub(super) fn append(&self, id: &[u8; 32], frame: &[u8]) -> Result<u64, LocalError> {
        let at = self.len();
        let header = encode_header(id, frame);
        let mut parts = [IoSlice::new(&header), IoSlice::new(frame)];
        let mut parts = &mut parts[..];
        let mut offset = at;
        while !parts.is_empty() {
            let to = i64::try_from(offset).unwrap_or(i64::MAX);
            let error = match nix::sys::uio::pwritev(&self.file, parts, to) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                    continue;
                }
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => io::Error::from(errno),
            };
            // Only gives room back: the next frame is written over this one anyway.
            let _ = self.file.set_len(at);
            return Err(LocalError::io("write", &self.path, error));
        }
        self.len.store(offset, Ordering::Relaxed);
        Ok(at)
    }

    /// The frame of `id` that begins at `at`; none if something else is there.
    pub(super) fn read(&self, id: &[u8; 32], at: u64, frame_len: u32) -> io::Result<Option<Bytes>> {
        let mut bytes = Buffer::unwritten(ENTRY_HEADER_LEN + frame_len as usize);
        self.file.read_exact_at(&mut bytes, at)?;
        let entry = decode_header(&bytes);
        let frame = Bytes::from_owner(bytes).slice(ENTRY_HEADER_LEN..);
        Ok(entry
            .filter(|entry| {
                let as_indexed = entry.id == *id && entry.frame_len == frame_len;
                as_indexed && entry.crc == crc32c::crc32c(&frame)
            })
            .map(|_| frame))
    }

    /// The frames in the file, in order, up to its end or where it is damaged.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Place, [u8; 32])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let mut bytes = [0; ENTRY_HEADER_LEN];
            if at + ENTRY_HEADER_LEN as u64 > self.len() {
                return None;
            }
            self.file.read_exact_at(&mut bytes, at).ok()?;
            let entry = decode_header(&bytes)?;
            let place = Place {
                file: self.number,
                offset: u32::try_from(at).ok()?,
                frame_len: entry.frame_len,
            };
            at += ENTRY_HEADER_LEN as u64 + u64::from(entry.frame_len);
            Some((place, entry.id))
        })
    }

    pub(super) fn mark_used(&self, at: u64, tick: u64) {
        self.last_used.store(tick, Ordering::Relaxed);
        if let Some((word, bit)) = self.used_bit(at) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn was_used(&self, at: u64) -> bool {
        self.used_bit(at).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn used_bit(&self, at: u64) -> Option<(&AtomicU64, u64)> {
        let grain = at / USED_GRAIN;
        let word = self.used.get(usize::try_from(grain / 64).ok()?)?;
        Some((word, 1 << (grain % 64)))
    }

    pub(super) fn delete(&self) -> Result<(), LocalError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LocalError::io("delete", &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

fn encode_header(id: &[u8; 32], frame: &[u8]) -> [u8; ENTRY_HEADER_LEN] {
    let mut out = [0; ENTRY_HEADER_LEN];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    out[8..40].copy_from_slice(id);
    out[40..44].copy_from_slice(&crc32c::crc32c(frame).to_le_bytes());
    let crc = crc32c::crc32c(&out[..44]);
    out[44..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode_header(bytes: &[u8]) -> Option<Entry> {
    let header = bytes.first_chunk::<ENTRY_HEADER_LEN>()?;
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if word(0) != MAGIC || word(44) != crc32c::crc32c(&header[..44]) {
        return None;
    }
    let mut id = [0; 32];
    id.copy_from_slice(&header[8..40]);
    Some(Entry { id, frame_len: word(4), crc: word(40) })
}

fn name_of(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// The numbers of the cache files in `dir`, ascending.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, LocalError> {
    let wrap = |error| LocalError::io("list", dir, error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(wrap)? {
        let name = entry.map_err(wrap)?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        numbers.extend(number.filter(|&number| name_of(number).as_str() == name));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
