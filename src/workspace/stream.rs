//! The changes of a cut as one sorted stream for the tree's merge: what the overlay says of each
//! record, with the extents of settled pieces in the place of the staged ones. Memory is bounded
//! by a page and by the edits.

use std::collections::{HashSet, VecDeque};
use std::iter::Peekable;
use std::vec;

use bytes::Bytes;

use crate::chunks::Fetch;
use crate::format::{Key, KeyParts, Tag, decode_extent};
use crate::namespace::{CutView, NamespaceError};
use crate::tree::TreeError;
use crate::types::Ino;

use super::plan::{is_staged, piece_start};

/// Records read at once.
const PAGE_RECORDS: usize = 4096;

/// A record of the new tree: its value, or none for a record that must not be there.
pub type Change = (Key, Option<Bytes>);

/// Sorted pages of a cut's changes, without the mount's own state.
struct Records<'a, 'b> {
    view: &'a CutView<'b>,
    from: Vec<u8>,
    page: VecDeque<Change>,
    ended: bool,
}

impl<'a, 'b> Records<'a, 'b> {
    fn new(view: &'a CutView<'b>) -> Records<'a, 'b> {
        Records { view, from: Vec::new(), page: VecDeque::new(), ended: false }
    }

    fn fill(&mut self) -> Result<(), NamespaceError> {
        if self.page.is_empty() && !self.ended {
            let page = self.view.changes(&self.from, PAGE_RECORDS)?;
            match page.last() {
                Some((key, _)) => self.from = key.successor().as_bytes().to_vec(),
                None => self.ended = true,
            }
            self.page.extend(page);
        }
        Ok(())
    }
}

impl Iterator for Records<'_, '_> {
    type Item = Result<Change, NamespaceError>;

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

/// The stream. Where an edit and a record have one key, the edit holds. Staged extents without an
/// edit are those of orphans, which nobody will read on another machine: the tree gets a hole
/// there. What the base has under such a key may not stay: it may be longer than what was written
/// over it, and lie across what else the overlay says.
pub struct NewRecords<'a, 'b> {
    records: Records<'a, 'b>,
    ahead: Option<Change>,
    edits: Peekable<vec::IntoIter<Change>>,
}

impl<'a, 'b> NewRecords<'a, 'b> {
    /// The changes of `view` with `edits` (sorted by key, one per key) laid over them.
    pub fn new(view: &'a CutView<'b>, edits: Vec<Change>) -> NewRecords<'a, 'b> {
        let records = Records::new(view);
        NewRecords { records, ahead: None, edits: edits.into_iter().peekable() }
    }

    fn read_ahead(&mut self) -> Result<(), NamespaceError> {
        while self.ahead.is_none() {
            let Some(next) = self.records.next() else { return Ok(()) };
            let (key, value) = next?;
            let staged = value.as_ref().is_some_and(|value| is_staged_record(&key, value));
            self.ahead = Some((key, value.filter(|_| !staged)));
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Change> {
        let edit = self.edits.peek().map(|(key, _)| key);
        let record = self.ahead.as_ref().map(|(key, _)| key);
        match (edit, record) {
            (Some(edit), Some(record)) if edit > record => self.ahead.take(),
            (Some(edit), record) => {
                if Some(edit) == record {
                    self.ahead = None;
                }
                self.edits.next()
            }
            (None, _) => self.ahead.take(),
        }
    }
}

impl Iterator for NewRecords<'_, '_> {
    type Item = Result<Change, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read_ahead() {
            Ok(()) => self.take().map(Ok),
            Err(NamespaceError::Tree(error)) => Some(Err(error)),
            Err(error) => Some(Err(TreeError::Changes(Box::new(error)))),
        }
    }
}

/// The removal of every record of the cut's orphans: what a snapshot that nobody has files open in
/// gets. No piece of an orphan is ever settled, so no other edit has these keys.
pub fn removals(view: &CutView<'_>, fetch: Fetch) -> Result<Vec<Change>, NamespaceError> {
    let mut removals = Vec::new();
    for ino in view.orphans(fetch)? {
        removals.push((Key::orphan(ino), None));
        let end = Key::tag_end(ino, Tag::Extent);
        let mut from = Key::attr(ino);
        loop {
            let page = view.range(&from, &end, PAGE_RECORDS, fetch)?;
            let Some((last, _)) = page.last() else { break };
            from = last.successor();
            removals.extend(page.into_iter().map(|(key, _)| (key, None)));
        }
    }
    Ok(removals)
}

fn is_staged_record(key: &Key, value: &[u8]) -> bool {
    matches!(key.parts(), Some(KeyParts::Extent(..)))
        && decode_extent(value).is_ok_and(|extent| is_staged(&extent))
}

/// Pieces of the cut that hold staged bytes, by inode and start, in order; but for the orphans'.
pub fn staged_pieces(
    view: &CutView<'_>,
    orphans: &HashSet<Ino>,
) -> Result<Vec<(Ino, u64)>, NamespaceError> {
    let mut pieces = Vec::new();
    for next in Records::new(view) {
        let (key, Some(value)) = next? else { continue };
        let Some(KeyParts::Extent(ino, offset)) = key.parts() else { continue };
        let piece = (ino, piece_start(offset));
        let known = pieces.last() == Some(&piece) || orphans.contains(&ino);
        if !known && is_staged_record(&key, &value) {
            pieces.push(piece);
        }
    }
    Ok(pieces)
}
