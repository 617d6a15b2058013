//! The changes of a cut as one sorted stream for the tree's merge: what the overlay says of each
//! record, with the extents of settled pieces in the place of the staged ones. Memory is bounded
//! by a page and by the edits.

use std::collections::{HashSet, VecDeque};
use std::iter::Peekable;
use std::vec;

use bytes::Bytes;

use crate::chunks::ChunkError;
use crate::format::{Key, KeyParts, decode_extent};
use crate::local::{Cut, LocalError, Slot};
use crate::tree::TreeError;
use crate::types::Ino;

use super::plan::is_staged;

/// Records read at once.
const PAGE_RECORDS: usize = 4096;

/// A record of the new tree: its value, or none for a record that must not be there.
pub type Change = (Key, Option<Bytes>);

/// First key after all records.
pub const KEYS_END: [u8; 9] = [0xff; 9];

/// Key from which on a scan goes on after `key`: the next one that could exist.
pub fn after(key: &Key) -> Vec<u8> {
    let mut next = key.as_bytes().to_vec();
    next.push(0);
    next
}

/// Sorted pages of a cut's slots, without the mount's own state.
pub struct Slots<'a, 'b> {
    cut: &'a Cut<'b>,
    from: Vec<u8>,
    page: VecDeque<(Key, Slot)>,
    ended: bool,
}

impl<'a, 'b> Slots<'a, 'b> {
    /// All slots of the cut that a seal may look at.
    pub fn new(cut: &'a Cut<'b>) -> Slots<'a, 'b> {
        Slots { cut, from: Vec::new(), page: VecDeque::new(), ended: false }
    }

    fn fill(&mut self) -> Result<(), LocalError> {
        while self.page.is_empty() && !self.ended {
            let page = self.cut.range(&self.from, &KEYS_END, PAGE_RECORDS)?;
            match page.last() {
                Some((key, _)) if page.len() >= PAGE_RECORDS => self.from = after(key),
                _ => self.ended = true,
            }
            let sealed = |key: &Key| !matches!(key.parts(), Some(KeyParts::Local(_)) | None);
            self.page.extend(page.into_iter().filter(|(key, _)| sealed(key)));
        }
        Ok(())
    }
}

impl Iterator for Slots<'_, '_> {
    type Item = Result<(Key, Slot), LocalError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.fill() {
            Ok(()) => self.page.pop_front().map(Ok),
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}

/// The stream. Where an edit and a slot have one key, the edit holds. Staged extents without an
/// edit are those of orphans: they are left out, and the base keeps what it has there, which only
/// the orphan's removal will ever look at.
pub struct Changes<'a, 'b> {
    slots: Slots<'a, 'b>,
    ahead: Option<Change>,
    edits: Peekable<vec::IntoIter<Change>>,
}

impl<'a, 'b> Changes<'a, 'b> {
    /// The slots of `cut` with `edits` (sorted by key, one per key) laid over them.
    pub fn new(cut: &'a Cut<'b>, edits: Vec<Change>) -> Changes<'a, 'b> {
        Changes { slots: Slots::new(cut), ahead: None, edits: edits.into_iter().peekable() }
    }

    fn read_ahead(&mut self) -> Result<(), LocalError> {
        while self.ahead.is_none() {
            let Some(next) = self.slots.next() else { return Ok(()) };
            let (key, slot) = next?;
            self.ahead = match slot {
                Slot::Tombstone => Some((key, None)),
                Slot::Value(value) if staged_record(&key, &value) => None,
                Slot::Value(value) => Some((key, Some(value))),
            };
        }
        Ok(())
    }
}

impl Iterator for Changes<'_, '_> {
    type Item = Result<Change, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.read_ahead() {
            return Some(Err(TreeError::Chunk(ChunkError::Local(error))));
        }
        let edit = self.edits.peek().map(|(key, _)| key);
        let slot = self.ahead.as_ref().map(|(key, _)| key);
        match (edit, slot) {
            (Some(edit), Some(slot)) if edit == slot => {
                self.ahead = None;
                self.edits.next().map(Ok)
            }
            (Some(edit), Some(slot)) if edit > slot => self.ahead.take().map(Ok),
            (Some(_), _) => self.edits.next().map(Ok),
            (None, _) => self.ahead.take().map(Ok),
        }
    }
}

fn staged_record(key: &Key, value: &[u8]) -> bool {
    matches!(key.parts(), Some(KeyParts::Extent(..)))
        && decode_extent(value).is_ok_and(|extent| is_staged(&extent))
}

/// Which inodes of the cut are orphans, and which pieces of all others hold staged bytes (by
/// their start), in key order.
pub fn staged_pieces(
    cut: &Cut<'_>,
) -> Result<(HashSet<Ino>, Vec<(Ino, u64)>), LocalError> {
    let mut orphans = HashSet::new();
    let mut pieces = Vec::new();
    for next in Slots::new(cut) {
        let (key, Slot::Value(value)) = next? else { continue };
        match key.parts() {
            Some(KeyParts::Orphan(ino)) => {
                orphans.insert(ino);
            }
            Some(KeyParts::Extent(ino, offset)) if staged_record(&key, &value) => {
                let piece = (ino, super::plan::piece_start(offset));
                if pieces.last() != Some(&piece) && !orphans.contains(&ino) {
                    pieces.push(piece);
                }
            }
            _ => {}
        }
    }
    Ok((orphans, pieces))
}
