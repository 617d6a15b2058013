//! The packs that snapshots name: what must be in each, and what was found wrong with it.

use std::collections::HashMap;

use crate::format::{
    CHUNK_LEN_MAX, FRAME_HEADER_LEN, PACK_HEADER_LEN, PackInfo, PackKind, pack_key,
};
use crate::types::{ChunkId, PackId};

use super::report::ProblemKind;

/// References to one pack are put in order when there are twice as many as after the last time,
/// from this many on.
const REFS_SORT_MIN: usize = 1024;

/// What a chunk's id begins with: enough to tell it from every other, at half the memory.
pub type IdStart = [u8; 16];

/// A frame that extents name. A million files have about a million of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRef {
    /// First byte of the frame in the pack.
    pub offset: u32,
    /// Bytes of the frame.
    pub len: u32,
    /// What the chunk's id begins with.
    pub id: IdStart,
}

/// An extent's chunk, and how many bytes of plaintext it must have at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needed {
    /// The chunk.
    pub chunk: ChunkRef,
    /// Bytes.
    pub plain_len: u32,
}

/// A pack that a snapshot or an extent names.
#[derive(Debug)]
pub struct Pack {
    /// Its name.
    pub id: PackId,
    /// What it is named as.
    pub kind: PackKind,
    /// The length that whoever names it says, if anyone does.
    pub listed: Option<u64>,
    /// Its length in the store.
    pub found: Option<u64>,
    /// Where its bytes are in the spool.
    pub spooled: Option<std::ops::Range<u64>>,
    /// What was found wrong.
    faults: Vec<(ProblemKind, String)>,
    /// Parts of it that are wrong, for the text: how many, and the first.
    parts: (u64, Option<(ProblemKind, String)>),
    /// Chunks that can't be read beyond this many bytes of plaintext (0: not at all).
    bad: HashMap<ChunkRef, u32>,
    refs: Vec<Needed>,
    refs_sorted: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Packs {
    list: Vec<Pack>,
    index: HashMap<(PackId, PackKind), u32>,
}

impl Packs {
    /// The number of a pack, which is new or known.
    pub fn name(&mut self, id: PackId, kind: PackKind) -> u32 {
        let next = self.list.len() as u32;
        let number = *self.index.entry((id, kind)).or_insert(next);
        if number == next {
            self.list.push(Pack::new(id, kind));
        }
        number
    }

    /// As [`Packs::name`], with its length; false where another was told before.
    pub fn list(&mut self, info: &PackInfo, kind: PackKind) -> (u32, bool) {
        let number = self.name(info.id, kind);
        let listed = self.get_mut(number).listed.get_or_insert(info.len);
        (number, *listed == info.len)
    }

    /// The number of a pack that is known.
    pub fn find(&self, id: &PackId, kind: PackKind) -> Option<u32> {
        self.index.get(&(*id, kind)).copied()
    }

    pub fn get(&self, number: u32) -> &Pack {
        &self.list[number as usize]
    }

    pub fn get_mut(&mut self, number: u32) -> &mut Pack {
        &mut self.list[number as usize]
    }

    /// All, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Pack)> {
        (0..).zip(&self.list)
    }

    /// Numbers of those of this kind.
    pub fn of_kind(&self, kind: PackKind) -> Vec<u32> {
        self.iter().filter(|(_, pack)| pack.kind == kind).map(|(number, _)| number).collect()
    }

    /// Whether any chunk can't be read.
    pub fn any_bad_chunk(&self) -> bool {
        self.list.iter().any(|pack| !pack.bad.is_empty())
    }
}

impl Pack {
    fn new(id: PackId, kind: PackKind) -> Pack {
        Pack {
            id,
            kind,
            listed: None,
            found: None,
            spooled: None,
            faults: Vec::new(),
            parts: (0, None),
            bad: HashMap::new(),
            refs: Vec::new(),
            refs_sorted: 0,
        }
    }

    /// Key of its object.
    pub fn key(&self) -> String {
        pack_key(&self.id)
    }

    /// Notes something wrong with it as a whole.
    pub fn fault(&mut self, kind: ProblemKind, what: impl Into<String>) {
        let what = what.into();
        if !self.faults.iter().any(|(_, known)| *known == what) {
            self.faults.push((kind, what));
        }
    }

    /// Notes something wrong with a node or chunk in it; the first one's words are kept.
    pub fn part_fault(&mut self, kind: ProblemKind, what: impl FnOnce() -> String) {
        self.parts.0 += 1;
        self.parts.1.get_or_insert_with(|| (kind, what()));
    }

    /// Whether anything is wrong with it.
    pub fn is_bad(&self) -> bool {
        !self.is_whole() || self.has_bad_parts()
    }

    /// Whether nothing is wrong with it as a whole.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether anything in it is wrong.
    pub fn has_bad_parts(&self) -> bool {
        self.parts.0 > 0
    }

    /// What is wrong, in one line; none: nothing.
    pub fn verdict(&self) -> Option<(ProblemKind, String)> {
        let mut words: Vec<String> = self.faults.iter().map(|(_, what)| what.clone()).collect();
        let (count, first) = &self.parts;
        if let Some((_, what)) = first {
            words.push(match count {
                1 => what.clone(),
                more => format!("{what}, and {} more like it", more - 1),
            });
        }
        let kinds = self.faults.iter().chain(first.iter());
        Some((kinds.map(|(kind, _)| *kind).min()?, words.join("; ")))
    }

    /// Takes in what an extent needs of it.
    pub fn need(&mut self, needed: Needed) {
        self.refs.push(needed);
        if self.refs.len() >= REFS_SORT_MIN.max(2 * self.refs_sorted) {
            self.sort_refs();
        }
    }

    /// What extents need of it, in the order in which it lies, each chunk once.
    pub fn sort_refs(&mut self) {
        // Of the same chunk the neediest comes first, and stays.
        self.refs
            .sort_unstable_by(|a, b| a.chunk.cmp(&b.chunk).then(b.plain_len.cmp(&a.plain_len)));
        self.refs.dedup_by_key(|needed| needed.chunk);
        self.refs.shrink_to_fit();
        self.refs_sorted = self.refs.len();
    }

    /// As [`Pack::sort_refs`] has left them.
    pub fn refs(&self) -> &[Needed] {
        &self.refs
    }

    /// Notes that a chunk has no more than so many bytes that can be read.
    pub fn mark_bad(&mut self, chunk: ChunkRef, readable: u32) {
        self.bad.insert(chunk, readable);
    }

    /// Whether an extent that needs this can't be read.
    pub fn hits(&self, needed: &Needed) -> bool {
        self.bad.get(&needed.chunk).is_some_and(|&readable| needed.plain_len > readable)
    }

    /// Marks the chunks that can't be inside the pack as it is.
    pub fn check_places(&mut self) {
        let end = self.found.unwrap_or(0);
        let outside = |needed: &&Needed| {
            let ChunkRef { offset, len, .. } = needed.chunk;
            let stop = u64::from(offset) + u64::from(len);
            (offset as usize) < PACK_HEADER_LEN || stop > end
        };
        let lost: Vec<Needed> = self.refs.iter().filter(outside).copied().collect();
        for needed in lost {
            self.mark_bad(needed.chunk, 0);
            if self.found.is_some() {
                self.part_fault(ProblemKind::Size, || {
                    let ChunkRef { offset, len, .. } = needed.chunk;
                    format!("a chunk of {len} bytes at {offset} would be outside of it")
                });
            }
        }
    }
}

/// What a chunk's id begins with.
pub fn id_start(id: &ChunkId) -> IdStart {
    std::array::from_fn(|i| id.0[i])
}

/// Whether a frame of a chunk may have this length.
pub fn is_chunk_frame_len(len: u32) -> bool {
    (FRAME_HEADER_LEN..=FRAME_HEADER_LEN + CHUNK_LEN_MAX).contains(&(len as usize))
}
