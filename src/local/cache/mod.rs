//! The cache of stored frames: append-only files, indexed by RocksDB, within a byte limit.
//!
//! Whole files are evicted, least recently used first. Frames of the victim that were read since
//! they were written get a second chance: they are copied to the newest file. Nothing here is
//! durable, and everything can be fetched again: a frame that can't be read is a miss.

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rocksdb::WriteBatch;

use self::file::{CacheFile, ENTRY_HEADER_LEN, FRAME_LEN_MAX, Place};
use super::rocks::{self, Family, Rocks};
use super::{LocalError, crash_point};

/// Files that a full cache is made of, so that evicting one frees little; within the bounds below.
const FILES_AIMED_AT: u64 = 128;
const FILE_BYTES_MIN: u64 = 1 << 20;
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The cache of one directory. Lock order: `writer`, then `files`.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    file_bytes_max: u64,
    /// The file that is appended to; none: make one. Who holds it changes the index.
    writer: Mutex<Option<Arc<CacheFile>>>,
    files: RwLock<BTreeMap<u64, Arc<CacheFile>>>,
    bytes: AtomicU64,
    ticks: AtomicU64,
}

impl Cache {
    /// Opens the files that are there. `bytes_max` is what the cache may come to.
    pub(super) fn open(dir: &Path, bytes_max: u64) -> Result<Cache, LocalError> {
        std::fs::create_dir_all(dir).map_err(|error| LocalError::io("create", dir, error))?;
        let mut files = BTreeMap::new();
        for number in file::list(dir)? {
            files.insert(number, Arc::new(CacheFile::open(dir, number)?));
        }
        let bytes = files.values().map(|file| file.len()).sum();
        Ok(Cache {
            dir: dir.to_owned(),
            file_bytes_max: (bytes_max / FILES_AIMED_AT).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX),
            writer: Mutex::new(None),
            files: RwLock::new(files),
            bytes: AtomicU64::new(bytes),
            ticks: AtomicU64::new(0),
        })
    }

    /// Puts frames back into the index whose entries were not flushed when the process died.
    /// Goes back from the newest file to the first that lacks none.
    pub(super) fn index_again(&self, rocks: &Rocks) -> Result<(), LocalError> {
        let _writer = self.writer.lock();
        for file in self.files.read().values().rev() {
            let mut batch = WriteBatch::default();
            for (place, id) in file.entries() {
                let indexed = place_of(rocks, &id)?;
                if indexed.is_none_or(|place| !self.files.read().contains_key(&place.file)) {
                    batch.put_cf(rocks.family(Family::Cache), id, place.encode());
                }
            }
            if batch.is_empty() {
                break;
            }
            tracing::info!(file = file.number, frames = batch.len(), "cached frames indexed again");
            rocks.write(batch)?;
            crash_point("cache-indexed");
        }
        Ok(())
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn has(&self, rocks: &Rocks, id: &[u8; 32]) -> Result<bool, LocalError> {
        let place = place_of(rocks, id)?;
        Ok(place.is_some_and(|place| self.files.read().contains_key(&place.file)))
    }

    pub(super) fn get(&self, rocks: &Rocks, id: &[u8; 32]) -> Result<Option<Bytes>, LocalError> {
        let Some(place) = place_of(rocks, id)? else { return Ok(None) };
        // Gone: evicted just now, or by a process that was killed before its index was flushed.
        let Some(file) = self.files.read().get(&place.file).cloned() else { return Ok(None) };
        let at = u64::from(place.offset);
        match file.read(id, at, place.frame_len) {
            Ok(Some(frame)) => {
                file.mark_used(at, self.ticks.fetch_add(1, Ordering::Relaxed) + 1);
                Ok(Some(frame))
            }
            result => {
                tracing::warn!(file = place.file, at, ?result, "dropping a damaged cached frame");
                self.remove(rocks, id)?;
                Ok(None)
            }
        }
    }

    /// Caches a frame, evicting others so that the cache stays within `limit`. A full disk, or a
    /// frame larger than the limit, is no error: it is not cached.
    pub(super) fn put(
        &self,
        rocks: &Rocks,
        id: &[u8; 32],
        frame: &[u8],
        limit: u64,
    ) -> Result<(), LocalError> {
        let len = (ENTRY_HEADER_LEN + frame.len()) as u64;
        if frame.len() > FRAME_LEN_MAX || len > limit {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        if self.has(rocks, id)? {
            return Ok(());
        }
        self.shrink(rocks, &mut writer, limit - len)?;
        let mut batch = WriteBatch::default();
        match self.append(rocks, &mut writer, &mut batch, id, frame) {
            Err(LocalError::Full) => return Ok(()),
            result => result?,
        }
        crash_point("cache-appended");
        rocks.write(batch)
    }

    /// Takes a frame out of the index; its bytes go when its file does.
    pub(super) fn remove(&self, rocks: &Rocks, id: &[u8; 32]) -> Result<(), LocalError> {
        let _writer = self.writer.lock();
        let mut batch = WriteBatch::default();
        batch.delete_cf(rocks.family(Family::Cache), id);
        rocks.write(batch)
    }

    /// Evicts until the cache has at most `bytes`.
    pub(super) fn evict_to(&self, rocks: &Rocks, bytes: u64) -> Result<(), LocalError> {
        self.shrink(rocks, &mut self.writer.lock(), bytes)
    }

    /// Evicts everything, also index entries whose file is gone.
    pub(super) fn clear(&self, rocks: &Rocks) -> Result<(), LocalError> {
        let mut writer = self.writer.lock();
        *writer = None;
        let mut batch = WriteBatch::default();
        // Longer than any id, so that the largest one is within the range too.
        batch.delete_range_cf(rocks.family(Family::Cache), &[][..], &[u8::MAX; 33]);
        rocks.write(batch)?;
        crash_point("cache-cleared");
        let files = std::mem::take(&mut *self.files.write());
        for file in files.values() {
            self.bytes.fetch_sub(file.len(), Ordering::Relaxed);
            file.delete()?;
        }
        Ok(())
    }

    fn append(
        &self,
        rocks: &Rocks,
        writer: &mut Option<Arc<CacheFile>>,
        batch: &mut WriteBatch,
        id: &[u8; 32],
        frame: &[u8],
    ) -> Result<(), LocalError> {
        let len = (ENTRY_HEADER_LEN + frame.len()) as u64;
        let fits =
            |file: &Arc<CacheFile>| file.len() + len <= self.file_bytes_max || file.len() == 0;
        let file = match writer.as_ref().filter(|file| fits(file)) {
            Some(file) => Arc::clone(file),
            None => self.next_file(writer)?,
        };
        let at = file.append(id, frame)?;
        self.bytes.fetch_add(len, Ordering::Relaxed);
        let place = Place { file: file.number, offset: at as u32, frame_len: frame.len() as u32 };
        batch.put_cf(rocks.family(Family::Cache), id, place.encode());
        Ok(())
    }

    fn next_file(&self, writer: &mut Option<Arc<CacheFile>>) -> Result<Arc<CacheFile>, LocalError> {
        let mut files = self.files.write();
        let number = files.last_key_value().map_or(0, |(&number, _)| number) + 1;
        let file = Arc::new(CacheFile::create(&self.dir, number, self.file_bytes_max)?);
        // A new file counts as just used, or it would be evicted before anyone could read it.
        file.last_used.store(self.ticks.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        files.insert(number, Arc::clone(&file));
        *writer = Some(Arc::clone(&file));
        Ok(file)
    }

    fn shrink(
        &self,
        rocks: &Rocks,
        writer: &mut Option<Arc<CacheFile>>,
        bytes: u64,
    ) -> Result<(), LocalError> {
        while self.bytes() > bytes {
            let Some(victim) = self.victim(writer.as_ref()) else {
                // Only the file being written is left: it is a candidate from now on.
                if writer.take().is_none() {
                    return Ok(());
                }
                continue;
            };
            // Too little room for a second chance: what is left must not be copied in a circle.
            let spare = if bytes >= 2 * victim.len() { victim.len() / 2 } else { 0 };
            self.evict(rocks, writer, &victim, spare)?;
        }
        Ok(())
    }

    /// The least recently used file, but not the one being written.
    fn victim(&self, writer: Option<&Arc<CacheFile>>) -> Option<Arc<CacheFile>> {
        let files = self.files.read();
        let finished =
            files.values().filter(|file| writer.is_none_or(|writer| writer.number != file.number));
        finished.min_by_key(|file| file.last_used.load(Ordering::Relaxed)).cloned()
    }

    /// Deletes a file, and copies up to `spare` bytes of the frames in use to the newest one.
    fn evict(
        &self,
        rocks: &Rocks,
        writer: &mut Option<Arc<CacheFile>>,
        victim: &Arc<CacheFile>,
        mut spare: u64,
    ) -> Result<(), LocalError> {
        let mut batch = WriteBatch::default();
        for (place, id) in victim.entries() {
            if place_of(rocks, &id)? != Some(place) {
                continue;
            }
            let at = u64::from(place.offset);
            let len = ENTRY_HEADER_LEN as u64 + u64::from(place.frame_len);
            let again = victim.was_used(at) && len <= spare;
            let frame = if again { victim.read(&id, at, place.frame_len) } else { Ok(None) };
            let copied = match frame {
                Ok(Some(frame)) => self.append(rocks, writer, &mut batch, &id, &frame).is_ok(),
                _ => false,
            };
            match copied {
                true => spare -= len,
                false => batch.delete_cf(rocks.family(Family::Cache), id),
            }
        }
        rocks.write(batch)?;
        crash_point("cache-evicted");
        self.files.write().remove(&victim.number);
        self.bytes.fetch_sub(victim.len(), Ordering::Relaxed);
        victim.delete()
    }
}

fn place_of(rocks: &Rocks, id: &[u8; 32]) -> Result<Option<Place>, LocalError> {
    let found = rocks.db.get_pinned_cf(rocks.family(Family::Cache), id).map_err(rocks::failed)?;
    Ok(found.and_then(|bytes| Place::decode(&bytes)))
}

#[cfg(test)]
mod tests;
