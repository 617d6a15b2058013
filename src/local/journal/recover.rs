//! Finding the end of the journal after a crash, and reading it again.
//!
//! From the applied position on, records are read in order. The first that is not whole, or not
//! the next in the sequence, ends the journal: it and everything behind it is removed, durably,
//! before anything new is written. So what a crash loses is a suffix.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::record::{Decoded, HEADER_LEN, Header, decode_batch};
use super::segment::{self, SEGMENT_HEADER_LEN, Segment};
use super::{Journal, Position, sync};
use crate::local::{LocalError, crash_point};
use crate::types::CacheId;

/// Most bytes of a record read at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// What is left of a journal.
pub(super) struct Recovered {
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    /// The end of the last whole record.
    pub(super) end: Position,
    /// Largest number of a segment that was removed; 0: none was.
    pub(super) discarded_max: u64,
}

/// Finds the end and cuts off what is behind it.
pub(super) fn recover(
    dir: &Path,
    cache: CacheId,
    applied: Option<Position>,
) -> Result<Recovered, LocalError> {
    let numbers = segment::list(dir)?;
    if applied.is_some() && numbers.is_empty() {
        return Err(LocalError::corrupt(format!("{}: the journal is missing", dir.display())));
    }
    let applied = applied.unwrap_or_default();
    let mut left = Recovered { segments: BTreeMap::new(), end: applied, discarded_max: 0 };
    let mut torn = false;
    for number in numbers {
        let segment = Segment::open(dir, number)?;
        if torn {
            tracing::warn!(number, "removing a journal segment behind the end of the journal");
            segment.delete()?;
            left.discarded_max = number;
            continue;
        }
        if number >= applied.segment {
            segment.forget_cached()?;
            let found = take_valid(&segment, cache, applied, &mut left.end)?;
            torn = found != Found::Whole;
            if found == Found::Nothing {
                segment.delete()?;
                left.discarded_max = number;
                continue;
            }
            segment.sync()?;
        }
        left.segments.insert(number, Arc::new(segment));
    }
    crash_point("journal-cut");
    sync::sync_dir(dir)?;
    Ok(left)
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// With its last record, and perhaps room for more.
    Whole,
    /// With something that is no record, or not the next; it was cut off.
    Torn,
    /// Before it began: it has not even its header.
    Nothing,
}

/// Moves `end` over the segment's valid records, and cuts off what follows them.
fn take_valid(
    segment: &Segment,
    cache: CacheId,
    applied: Position,
    end: &mut Position,
) -> Result<Found, LocalError> {
    let len = segment.len()?;
    // A position behind just the header says nothing of the file: the records before it, which
    // were synced, are in other segments.
    let begin = if segment.number == applied.segment && applied.offset > SEGMENT_HEADER_LEN {
        if len < applied.offset {
            let number = segment.number;
            return Err(LocalError::corrupt(format!(
                "journal segment {number} has {len} bytes, but {} were synced",
                applied.offset
            )));
        }
        applied.offset
    } else {
        if !segment.has_header(cache)? {
            return Ok(Found::Nothing);
        }
        SEGMENT_HEADER_LEN
    };
    *end = Position { segment: segment.number, offset: begin, seq: end.seq };
    while end.offset < len {
        let Some(header) = valid_record(segment, *end, len)? else {
            if is_room(segment, end.offset, len)? {
                // Whether the next segment goes on from here, its first record's number tells.
                segment.truncate(end.offset)?;
                return Ok(Found::Whole);
            }
            let dropped = len - end.offset;
            tracing::warn!(segment = segment.number, dropped, "cutting off the journal's torn end");
            segment.truncate(end.offset)?;
            return Ok(Found::Torn);
        };
        end.offset += header.record_len();
        end.seq = header.seq;
    }
    Ok(Found::Whole)
}

/// Whether no record was begun at `at`: there are only zeros that were written ahead.
fn is_room(segment: &Segment, at: u64, len: u64) -> Result<bool, LocalError> {
    let mut bytes = [0; HEADER_LEN];
    let header = &mut bytes[..HEADER_LEN.min((len - at) as usize)];
    segment.read_exact_at(header, at).map_err(|error| segment.error("read", error))?;
    Ok(header.iter().all(|&byte| byte == 0))
}

/// The record at `at`, if it is whole and the next one.
fn valid_record(segment: &Segment, at: Position, len: u64) -> Result<Option<Header>, LocalError> {
    let Some(header) = read_header(segment, at.offset, len)? else { return Ok(None) };
    if header.seq != at.seq + 1 {
        return Ok(None);
    }
    let mut crc = 0;
    let mut buffer = vec![0; READ_BYTES_MAX.min(header.payload_len() as usize)];
    let mut offset = at.offset + HEADER_LEN as u64;
    let mut left = header.payload_len() as usize;
    while left > 0 {
        let piece = &mut buffer[..left.min(READ_BYTES_MAX)];
        segment.read_exact_at(piece, offset).map_err(|error| segment.error("read", error))?;
        crc = crc32c::crc32c_append(crc, piece);
        offset += piece.len() as u64;
        left -= piece.len();
    }
    Ok((crc == header.payload_crc).then_some(header))
}

fn read_header(segment: &Segment, at: u64, len: u64) -> Result<Option<Header>, LocalError> {
    if len - at < HEADER_LEN as u64 {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_LEN];
    segment.read_exact_at(&mut bytes, at).map_err(|error| segment.error("read", error))?;
    Ok(Header::decode(&bytes).filter(|header| header.record_len() <= len - at))
}

/// Hands what every record after `applied` says to `visit`, with the position after it.
/// The journal was just opened: all its records are whole.
pub(in crate::local) fn replay(
    journal: &Journal,
    applied: Option<Position>,
    visit: &mut dyn FnMut(Decoded, Position) -> Result<(), LocalError>,
) -> Result<(), LocalError> {
    let applied = applied.unwrap_or_default();
    let mut at = applied;
    let segments: Vec<_> = journal
        .segments
        .read()
        .range(applied.segment..)
        .map(|(_, segment)| segment.clone())
        .collect();
    for segment in segments {
        let len = segment.len()?;
        let offset =
            if segment.number == applied.segment { applied.offset } else { SEGMENT_HEADER_LEN };
        at = Position { segment: segment.number, offset, seq: at.seq };
        while at.offset < len {
            let (header, decoded) = read_batch(&segment, at, len)?;
            at.offset += header.record_len();
            at.seq = header.seq;
            visit(decoded, at)?;
        }
    }
    Ok(())
}

fn read_batch(segment: &Segment, at: Position, len: u64) -> Result<(Header, Decoded), LocalError> {
    let damaged = |what: &str| {
        let (number, offset) = (segment.number, at.offset);
        LocalError::corrupt(format!("journal segment {number}, record at {offset}: {what}"))
    };
    let header = read_header(segment, at.offset, len)?.ok_or_else(|| damaged("unreadable"))?;
    let mut batch = vec![0; header.batch_len as usize];
    let offset = at.offset + HEADER_LEN as u64 + u64::from(header.data_len);
    segment.read_exact_at(&mut batch, offset).map_err(|error| segment.error("read", error))?;
    // The checksum was right, so this is not a torn write: a program wrote it so.
    Ok((header, decode_batch(&batch).map_err(damaged)?))
}
