//! The journal: the one place that a commit is written to before it is answered. Records and the
//! bytes they refer to, in order, in append-only segment files.
//!
//! Promises: a record is either whole and in its place in the sequence, or it and all after it
//! are gone; a failed append leaves no trace; after a failed sync nothing is promised any more.

mod record;
mod recover;
mod segment;
mod sync;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

pub(super) use record::{Change, HEADER_LEN, PAYLOAD_LEN_MAX, encode_carried_out, encode_change};
pub(super) use recover::replay;

#[cfg(test)]
pub(super) use segment::faults::durable;

use self::record::Header;
use self::segment::{SEGMENT_HEADER_LEN, Segment};
use self::sync::Syncer;
use super::{LocalError, crash_point, crash_point_after};
use crate::format::StagedAt;
use crate::types::CacheId;

/// A place in the journal between two records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The segment's number; its file is called so, in 16 hexadecimal digits. 0: before the first.
    pub segment: u64,
    /// Offset in the segment's file: the end of record `seq`, or of the file's header.
    pub offset: u64,
    /// Sequence number of the last record before this place.
    pub seq: u64,
}

/// Where the journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalEnds {
    /// On the disk: a power cut leaves all that is before this place, and perhaps more.
    pub synced: Position,
    /// With the kernel: a kill leaves all that is before this place.
    pub appended: Position,
}

/// The journal of one directory.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    cache: CacheId,
    segment_bytes_max: u64,
    /// The commit lock. Order: this, then the overlay's tables, then everything else here.
    writer: Mutex<Writer>,
    segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    syncer: Syncer,
    bytes: AtomicU64,
}

/// The end of the journal; who holds it commits.
#[derive(Debug)]
pub(super) struct Writer {
    segment: Arc<Segment>,
    at: Position,
    /// Length of the segment's file: behind `at` lies what was written ahead.
    file_len: u64,
    /// Rounds of syncing when the file last had to grow.
    rounds_grown: u64,
    /// Data bytes in the current segment.
    data_bytes: u64,
    /// Bytes of records since the start; grows only.
    written: u64,
    scratch: Vec<u8>,
}

/// Zeros that are written behind a record whose predecessors were synced one by one. The next
/// ones overwrite them, so that syncing them costs the disk's own write and no commit of the
/// local filesystem's: neither length nor blocks of the file change.
const AHEAD_BYTES: u64 = 256 * 1024;

/// Larger records pay for their own growth: zeros would double what is written.
const AHEAD_RECORD_BYTES_MAX: u64 = 64 * 1024;

/// Most scratch memory that is kept from one commit to the next.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

impl Journal {
    /// Opens the journal after its last whole record, and begins a new segment. Anything behind
    /// that record is cut off, and all before it is on the disk. `applied` is where the records
    /// that RocksDB does not have begin; none in a new directory.
    pub(super) fn open(
        dir: &Path,
        cache: CacheId,
        segment_bytes_max: u64,
        applied: Option<Position>,
    ) -> Result<Journal, LocalError> {
        std::fs::create_dir_all(dir).map_err(|error| LocalError::io("create", dir, error))?;
        let recovered = recover::recover(dir, cache, applied)?;
        let mut segments = recovered.segments;
        let newest = segments.last_key_value().map_or(0, |(&number, _)| number);
        let number = newest.max(recovered.discarded_max).max(recovered.end.segment) + 1;
        let segment = Arc::new(Segment::create(dir, number, cache)?);
        segments.insert(number, Arc::clone(&segment));
        let mut bytes = 0;
        for segment in segments.values() {
            bytes += segment.len()?;
        }
        let at = Position { segment: number, offset: SEGMENT_HEADER_LEN, seq: recovered.end.seq };
        Ok(Journal {
            dir: dir.to_owned(),
            cache,
            segment_bytes_max,
            syncer: Syncer::new(recovered.end, at, Arc::clone(&segment)),
            writer: Mutex::new(Writer {
                segment,
                at,
                file_len: SEGMENT_HEADER_LEN,
                rounds_grown: 0,
                data_bytes: 0,
                written: 0,
                scratch: Vec::new(),
            }),
            segments: RwLock::new(segments),
            bytes: AtomicU64::new(bytes),
        })
    }

    /// Takes the commit lock.
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }

    /// Makes room for a record of about `len` bytes and says where its data will begin.
    pub(super) fn begin(&self, writer: &mut Writer, len: u64) -> Result<StagedAt, LocalError> {
        self.syncer.check()?;
        let end = writer.at.offset + HEADER_LEN as u64 + len;
        if end > self.segment_bytes_max && writer.at.offset > SEGMENT_HEADER_LEN {
            self.roll(writer)?;
        }
        let offset = writer.at.offset + HEADER_LEN as u64;
        writer.scratch.clear();
        writer.scratch.resize(HEADER_LEN, 0);
        Ok(StagedAt { segment: writer.at.segment, offset })
    }

    /// Appends the record begun: `data`, whose CRC-32C is `data_crc`, and the batch that was
    /// encoded into [`Writer::batch`]. On an error the journal is as before.
    pub(super) fn append(
        &self,
        writer: &mut Writer,
        data: &[&[u8]],
        data_crc: u32,
    ) -> Result<(), LocalError> {
        let data_len: usize = data.iter().map(|part| part.len()).sum();
        let batch_len = writer.scratch.len() - HEADER_LEN;
        if data_len + batch_len > PAYLOAD_LEN_MAX {
            return Err(LocalError::TooLarge { bytes: (data_len + batch_len) as u64 });
        }
        let header = Header {
            seq: writer.at.seq + 1,
            data_len: data_len as u32,
            batch_len: batch_len as u32,
            payload_crc: crc32c::crc32c_append(data_crc, &writer.scratch[HEADER_LEN..]),
        };
        writer.scratch[..HEADER_LEN].copy_from_slice(&header.encode());
        self.write(writer, data)?;
        crash_point("journal-appended");
        writer.at.offset += header.record_len();
        writer.at.seq = header.seq;
        writer.data_bytes += data_len as u64;
        writer.written += header.record_len();
        writer.scratch.truncate(SCRATCH_BYTES_MAX);
        writer.scratch.shrink_to(SCRATCH_BYTES_MAX);
        self.grow(writer, header.record_len());
        self.syncer.appended(writer.at);
        Ok(())
    }

    /// Takes note of the file's new length, and writes ahead where records are small and synced.
    fn grow(&self, writer: &mut Writer, record_len: u64) {
        #[cfg(test)]
        writer.segment.faults.appended_to.store(writer.at.offset, Ordering::Relaxed);
        if writer.at.offset <= writer.file_len {
            return;
        }
        self.set_file_len(writer, writer.at.offset);
        let rounds = self.syncer.rounds();
        let is_synced = std::mem::replace(&mut writer.rounds_grown, rounds) != rounds;
        let room = self.segment_bytes_max.saturating_sub(writer.at.offset).min(AHEAD_BYTES);
        if !is_synced || record_len > AHEAD_RECORD_BYTES_MAX || room == 0 {
            return;
        }
        match writer.segment.write_zeros(writer.at.offset, room) {
            Ok(()) => self.set_file_len(writer, writer.at.offset + room),
            // The record is there; a full disk must not be filled further.
            Err(error) => {
                tracing::debug!(%error, "the journal is not written ahead");
                self.cut(writer);
            }
        }
    }

    /// Cuts off what is behind the last record. A failure leaves a journal that can't go on.
    fn cut(&self, writer: &mut Writer) {
        match writer.segment.truncate(writer.at.offset) {
            Ok(()) => self.set_file_len(writer, writer.at.offset),
            Err(error) => self.syncer.poison(&error),
        }
    }

    fn set_file_len(&self, writer: &mut Writer, len: u64) {
        let before = std::mem::replace(&mut writer.file_len, len);
        // Wraps around to a subtraction.
        self.bytes.fetch_add(len.wrapping_sub(before), Ordering::Relaxed);
    }

    fn write(&self, writer: &mut Writer, data: &[&[u8]]) -> Result<(), LocalError> {
        let (segment, offset) = (Arc::clone(&writer.segment), writer.at.offset);
        crash_point_after("journal-torn", || {
            let part = if data.is_empty() { writer.scratch.len() / 2 } else { HEADER_LEN };
            let _ = segment.write_at(&mut [IoSlice::new(&writer.scratch[..part])], offset);
        });
        let result = if data.is_empty() {
            segment.write_at(&mut [IoSlice::new(&writer.scratch)], offset)
        } else {
            let (header, batch) = writer.scratch.split_at(HEADER_LEN);
            let mut parts = Vec::with_capacity(data.len() + 2);
            parts.push(IoSlice::new(header));
            parts.extend(data.iter().map(|part| IoSlice::new(part)));
            parts.push(IoSlice::new(batch));
            segment.write_at(&mut parts, offset)
        };
        let Err(error) = result else { return Ok(()) };
        // Half a record must not stay: the next one has to follow the last whole one.
        self.cut(writer);
        Err(segment.error("write", error))
    }

    fn roll(&self, writer: &mut Writer) -> Result<(), LocalError> {
        if writer.file_len > writer.at.offset {
            writer.segment.truncate(writer.at.offset)?;
            self.set_file_len(writer, writer.at.offset);
        }
        let number = writer.at.segment + 1;
        let next = Arc::new(Segment::create(&self.dir, number, self.cache)?);
        crash_point("journal-rolled");
        self.segments.write().insert(number, Arc::clone(&next));
        self.bytes.fetch_add(SEGMENT_HEADER_LEN, Ordering::Relaxed);
        writer.at = Position { segment: number, offset: SEGMENT_HEADER_LEN, seq: writer.at.seq };
        self.syncer.rolled(Arc::clone(&next), writer.at);
        writer.segment = next;
        writer.file_len = SEGMENT_HEADER_LEN;
        writer.data_bytes = 0;
        Ok(())
    }

    /// Begins a new segment if the current one holds at least this much data, so that it can
    /// be swept.
    pub(super) fn roll_if_over(&self, writer: &mut Writer, bytes: u64) -> Result<(), LocalError> {
        self.syncer.check()?;
        if writer.data_bytes >= bytes { self.roll(writer) } else { Ok(()) }
    }

    /// Returns when every record appended before survives a power cut.
    pub(super) fn sync(&self) -> Result<(), LocalError> {
        self.syncer.sync_to(self.syncer.newest(), &self.dir)
    }

    /// Returns when the records up to `seq` survive a power cut.
    pub(super) fn sync_to(&self, seq: u64) -> Result<(), LocalError> {
        self.syncer.sync_to(seq, &self.dir)
    }

    /// As [`Journal::sync_to`] up to `at`, and the segment that it is in is there too.
    pub(super) fn sync_with_segment(&self, at: Position) -> Result<(), LocalError> {
        self.syncer.sync_with_segment(at, &self.dir)
    }

    /// Where the journal ends now.
    pub(super) fn ends(&self) -> JournalEnds {
        self.syncer.ends()
    }

    /// Why no more writes are taken.
    pub(super) fn failure(&self) -> Option<String> {
        self.syncer.failure()
    }

    /// Rounds of syncing so far.
    pub(super) fn sync_rounds(&self) -> u64 {
        self.syncer.rounds()
    }

    /// Fills `buf` with bytes from `at` on.
    pub(super) fn read(&self, at: StagedAt, buf: &mut [u8]) -> Result<(), LocalError> {
        let segment = self.segments.read().get(&at.segment).cloned();
        let segment = segment.ok_or(LocalError::NotStaged(at))?;
        segment.read_exact_at(buf, at.offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => LocalError::corrupt(format!(
                "journal segment {} ends before offset {} + {}",
                at.segment,
                at.offset,
                buf.len()
            )),
            _ => segment.error("read", error),
        })
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The numbers of all segments, ascending.
    pub(super) fn segment_numbers(&self) -> Vec<u64> {
        self.segments.read().keys().copied().collect()
    }

    /// Deletes a segment that is not written to. Returns its bytes.
    pub(super) fn delete(&self, number: u64) -> Result<u64, LocalError> {
        let Some(segment) = self.segments.read().get(&number).cloned() else { return Ok(0) };
        let len = segment.len()?;
        segment.delete()?;
        self.segments.write().remove(&number);
        self.bytes.fetch_sub(len, Ordering::Relaxed);
        Ok(len)
    }

    #[cfg(test)]
    fn faults<R>(&self, f: impl FnOnce(&segment::faults::Faults) -> R) -> R {
        f(&self.writer.lock().segment.faults)
    }
}

impl Writer {
    /// Where the next record will begin.
    pub(super) fn position(&self) -> Position {
        self.at
    }

    /// Bytes of records since the start; grows only.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Where the batch of the record begun is encoded: append to it only.
    pub(super) fn batch(&mut self) -> &mut Vec<u8> {
        &mut self.scratch
    }
}

#[cfg(test)]
mod tests;
