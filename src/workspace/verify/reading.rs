//! Reading whole packs, each once and in large ranges: hash, header, index, and the chunks that
//! somebody needs. Several at once; each holds one range and at most one frame beside it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::format::{
    FormatError, FrameKind, HashKeys, PACK_HEADER_LEN, PackKind, decode_frame, decode_pack_header,
    decode_pack_index, pack_key,
};
use crate::remote::{Remote, RemoteError};
use crate::types::{ChunkId, PackId};
use crate::workspace::WorkspaceError;

use super::packs::{ChunkRef, IdStart, Needed, id_start};
use super::report::ProblemKind;
use super::spool::Spool;

/// Bytes of one request.
const RANGE_BYTES: u64 = 4 << 20;

/// Bytes at a pack's end that are kept for its index.
const TAIL_BYTES: usize = 1 << 20;

/// Longest index that is looked at: that of 16 MiB of frames of one byte each.
const INDEX_BYTES_MAX: u64 = 8 << 20;

/// How often whoever waits looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What reading needs.
#[derive(Debug)]
pub struct Readers<'a> {
    pub remote: &'a Remote,
    pub keys: &'a HashKeys,
    pub spool: &'a Spool,
    /// Packs read at once.
    pub jobs: usize,
}

/// A pack to read.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub number: u32,
    pub id: PackId,
    pub kind: PackKind,
    /// Its length in the store.
    pub size: u64,
    /// Whether that is the length that it should have.
    pub is_whole: bool,
    /// What must be in it, as [`super::packs::Pack::sort_refs`] orders it.
    pub refs: &'a [Needed],
    /// Where in the spool its bytes go.
    pub spool_at: Option<u64>,
}

/// How a pack is.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is wrong with it as a whole.
    pub faults: Vec<(ProblemKind, String)>,
    /// Chunks of which no more than so many bytes can be read.
    pub bad: Vec<(ChunkRef, u32, String)>,
    /// Chunks that are right.
    pub sound: u64,
    /// Bytes that the store sent.
    pub bytes: u64,
}

impl Outcome {
    fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.bad.is_empty()
    }
}

impl Readers<'_> {
    /// Reads these packs. `done` gets each outcome, `look` the bytes so far; both run on the
    /// caller's thread. Ends at the first failure that says nothing about the pack.
    pub fn read(
        &self,
        jobs: &[Job<'_>],
        done: &mut dyn FnMut(u32, Outcome),
        look: &mut dyn FnMut(u64) -> Result<(), WorkspaceError>,
    ) -> Result<(), WorkspaceError> {
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let stop = AtomicBool::new(false);
        let (sender, outcomes) = crossbeam_channel::bounded(self.jobs);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(jobs.len()) {
                let sender = sender.clone();
                let (next, bytes, stop) = (&next, &bytes, &stop);
                scope.spawn(move || {
                    while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)) {
                        let outcome = self.twice(job, bytes, stop);
                        let failed = outcome.is_err();
                        if sender.send((job.number, outcome)).is_err() || failed {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut result = Ok(());
            loop {
                match outcomes.recv_timeout(LOOK_EVERY) {
                    Ok((number, Ok(outcome))) => done(number, outcome),
                    Ok((_, Err(error))) => result = result.and(Err(error)),
                    Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                    Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return result,
                }
                result = result.and_then(|()| look(bytes.load(Relaxed)));
                if result.is_err() {
                    stop.store(true, Relaxed);
                    next.store(jobs.len(), Relaxed);
                }
            }
        })
    }

    /// What is not right is read again before it is told: it may have been the way here.
    fn twice(
        &self,
        job: &Job<'_>,
        bytes: &AtomicU64,
        stop: &AtomicBool,
    ) -> Result<Outcome, WorkspaceError> {
        let first = self.once(job, bytes, stop)?;
        if first.is_clean() {
            return Ok(first);
        }
        let second = self.once(job, bytes, stop)?;
        Ok(Outcome { bytes: first.bytes + second.bytes, ..second })
    }

    fn once(
        &self,
        job: &Job<'_>,
        bytes_done: &AtomicU64,
        stop: &AtomicBool,
    ) -> Result<Outcome, WorkspaceError> {
        let key = pack_key(&job.id);
        let mut outcome = Outcome::default();
        let mut hasher = blake3::Hasher::new();
        let mut frames = Frames::new(job.refs, self.keys);
        let (mut start, mut tail) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < job.size {
            if stop.load(Relaxed) {
                return Err(WorkspaceError::Stopped);
            }
            let end = job.size.min(at + RANGE_BYTES);
            let bytes = match self.remote.get_range(&key, at..end) {
                Ok(object) => object.bytes,
                Err(error) => {
                    outcome.faults.push(said_of_object(error)?);
                    break;
                }
            };
            bytes_done.fetch_add(bytes.len() as u64, Relaxed);
            outcome.bytes += bytes.len() as u64;
            if let Some(place) = job.spool_at {
                self.spool.put(place + at, &bytes).map_err(scratch_failed)?;
            }
            hasher.update(&bytes);
            frames.feed(at, &bytes);
            if at == 0 {
                start = bytes[..bytes.len().min(PACK_HEADER_LEN)].to_vec();
            }
            keep_tail(&mut tail, &bytes);
            at += bytes.len() as u64;
            if at < end {
                let what = format!("it ends after {at} of {} bytes", job.size);
                outcome.faults.push((ProblemKind::Size, what));
                break;
            }
        }
        frames.end(&mut outcome);
        if at == job.size && job.is_whole {
            self.judge(job, &start, tail, &mut outcome)?;
            if *hasher.finalize().as_bytes() != job.id.0 {
                let what = "its bytes do not have the hash in its name".to_owned();
                outcome.faults.push((ProblemKind::Damaged, what));
            }
        }
        Ok(outcome)
    }

    /// Header and index.
    fn judge(
        &self,
        job: &Job<'_>,
        start: &[u8],
        mut tail: Vec<u8>,
        outcome: &mut Outcome,
    ) -> Result<(), WorkspaceError> {
        match decode_pack_header(start) {
            Ok(kind) if kind == job.kind => {}
            Ok(_) => outcome.faults.push((ProblemKind::Structure, "it is of another kind".into())),
            Err(error) => outcome.faults.push(said_of_format("", error)),
        }
        let mut index = decode_pack_index(&tail, job.size);
        if let Err(FormatError::Truncated { needed, .. }) = index
            && needed > tail.len() as u64
            && needed <= INDEX_BYTES_MAX.min(job.size)
        {
            match self.remote.get_range(&pack_key(&job.id), job.size - needed..job.size) {
                Ok(object) => tail = object.bytes.to_vec(),
                Err(error) => outcome.faults.push(said_of_object(error)?),
            }
            outcome.bytes += tail.len() as u64;
            index = decode_pack_index(&tail, job.size);
        }
        let index = match index {
            Ok(index) => index,
            Err(error) => {
                outcome.faults.push(said_of_format("its index: ", error));
                return Ok(());
            }
        };
        let is_listed = |chunk: &ChunkRef| {
            let found = index.entries.binary_search_by_key(&chunk.offset, |entry| entry.offset);
            found.is_ok_and(|at| {
                let entry = &index.entries[at];
                entry.len == chunk.len && id_start(&ChunkId(entry.id)) == chunk.id
            })
        };
        let bad: HashSet<ChunkRef> = outcome.bad.iter().map(|(chunk, ..)| *chunk).collect();
        let lost = job.refs.iter().map(|needed| &needed.chunk);
        let lost = lost.filter(|chunk| !is_listed(chunk) && !bad.contains(chunk)).count();
        if lost > 0 {
            let what = format!("its index does not list {lost} of its frames as they are");
            outcome.faults.push((ProblemKind::Structure, what));
        }
        Ok(())
    }
}

fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
    let beyond = tail.len().saturating_sub(TAIL_BYTES);
    tail.drain(..beyond);
}

/// The chunk's id and bytes of plaintext, or why there is none.
type Decoded = Result<(IdStart, u32), String>;

/// The chunks of a pack, as its bytes come by.
struct Frames<'a> {
    refs: &'a [Needed],
    keys: &'a HashKeys,
    /// The next that was not looked at.
    next: usize,
    /// Bytes that are still needed, from `base` on.
    window: Vec<u8>,
    base: u64,
    /// The last frame that was decoded: several may refer to one place.
    last: Option<((u32, u32), Decoded)>,
    bad: Vec<(ChunkRef, u32, String)>,
    sound: u64,
}

impl<'a> Frames<'a> {
    fn new(refs: &'a [Needed], keys: &'a HashKeys) -> Frames<'a> {
        let (window, bad) = (Vec::new(), Vec::new());
        Frames { refs, keys, next: 0, window, base: 0, last: None, bad, sound: 0 }
    }

    fn feed(&mut self, at: u64, bytes: &[u8]) {
        if self.window.is_empty() {
            self.base = at;
        }
        self.window.extend_from_slice(bytes);
        let end = at + bytes.len() as u64;
        while let Some(needed) = self.refs.get(self.next) {
            let ChunkRef { offset, len, .. } = needed.chunk;
            if u64::from(offset) + u64::from(len) > end {
                break;
            }
            self.look(needed);
            self.next += 1;
        }
        let wanted = self.refs.get(self.next).map_or(end, |needed| needed.chunk.offset.into());
        let gone = wanted.saturating_sub(self.base).min(self.window.len() as u64);
        self.window.drain(..gone as usize);
        self.base += gone;
    }

    fn look(&mut self, needed: &Needed) {
        let ChunkRef { offset, len, id } = needed.chunk;
        if self.last.as_ref().is_none_or(|(place, _)| *place != (offset, len)) {
            let from = u64::from(offset).checked_sub(self.base).map(|from| from as usize);
            let frame = from.and_then(|from| self.window.get(from..from + len as usize));
            let found = frame.map_or(Err("it can't be there".to_owned()), |f| self.decode(f));
            self.last = Some(((offset, len), found));
        }
        let Some((_, found)) = &self.last else { return };
        let (readable, why) = match found {
            Err(why) => (0, why.clone()),
            Ok((found, _)) if *found != id => (0, "another chunk is there".to_owned()),
            Ok((_, plain_len)) if needed.plain_len > *plain_len => {
                let needed = needed.plain_len;
                (*plain_len, format!("it has {plain_len} bytes where {needed} are needed"))
            }
            Ok(_) => {
                self.sound += 1;
                return;
            }
        };
        self.bad.push((needed.chunk, readable, format!("the chunk at {offset}: {why}")));
    }

    /// What the frame holds, if it is what it says.
    fn decode(&self, frame: &[u8]) -> Decoded {
        let (header, plain) = decode_frame(frame).map_err(|error| error.to_string())?;
        if header.kind != FrameKind::Chunk || header.frame_len as usize != frame.len() {
            return Err("the frame there is another".to_owned());
        }
        if self.keys.chunk(&plain).0 != header.id {
            return Err("the content does not have the hash that is its name".to_owned());
        }
        Ok((id_start(&ChunkId(header.id)), header.plain_len))
    }

    /// What did not come by is not there.
    fn end(self, outcome: &mut Outcome) {
        outcome.bad = self.bad;
        outcome.sound = self.sound;
        for needed in &self.refs[self.next..] {
            let why = format!("the chunk at {} is beyond the end", needed.chunk.offset);
            outcome.bad.push((needed.chunk, 0, why));
        }
    }
}

/// What a failed request says of the object, if it does.
pub fn said_of_object(error: RemoteError) -> Result<(ProblemKind, String), WorkspaceError> {
    match error {
        RemoteError::Absent { .. } => Ok((ProblemKind::Missing, "it is not in the store".into())),
        RemoteError::Corrupt { cause, .. } => Ok((ProblemKind::Damaged, cause)),
        error => Err(error.into()),
    }
}

/// What a failed decoding says.
pub fn said_of_format(of: &str, error: FormatError) -> (ProblemKind, String) {
    let kind = match error {
        FormatError::NewerVersion { .. } => ProblemKind::Newer,
        _ => ProblemKind::Damaged,
    };
    (kind, format!("{of}{error}"))
}

/// The scratch directory failed.
pub fn scratch_failed(error: std::io::Error) -> WorkspaceError {
    WorkspaceError::Scratch { cause: error.to_string() }
}
