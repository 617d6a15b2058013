//! The workspace as it was at one commit boundary: what a seal reads.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Base, Counters, NamespaceError, base_get, base_range, is_local, merge, totals};
use crate::chunks::Fetch;
use crate::format::{Key, KeyParts, Tag};
use crate::local::{Cut, Slot};
use crate::types::Ino;

/// Orphans read at once.
pub(super) const ORPHANS_AT_ONCE: usize = 1024;

/// A consistent view of overlay and base. Staged bytes that it refers to stay readable.
#[derive(Debug)]
pub struct CutView<'a> {
    cut: &'a Cut<'a>,
    base: &'a Base,
    next_ino: Ino,
    initial: Counters,
}

impl<'a> CutView<'a> {
    pub(super) fn new(
        cut: &'a Cut<'a>,
        base: &'a Base,
        next_ino: Ino,
        initial: Counters,
    ) -> CutView<'a> {
        CutView { cut, base, next_ino, initial }
    }

    /// All inodes of the view are below this.
    #[must_use]
    pub fn next_ino(&self) -> Ino {
        self.next_ino
    }

    /// The base that the view lies on.
    #[must_use]
    pub fn base(&self) -> &Base {
        self.base
    }

    /// The totals of linked inodes, at the cut.
    pub fn counters(&self) -> Result<Counters, NamespaceError> {
        totals::at_cut(|key| self.cut.get(key), self.initial)
    }

    /// As [`super::Namespace::get`], at the cut.
    pub fn get(&self, key: &Key, fetch: Fetch) -> Result<Option<Bytes>, NamespaceError> {
        match self.cut.get(key.as_bytes())? {
            Some(Slot::Value(value)) => Ok(Some(value)),
            Some(Slot::Tombstone) => Ok(None),
            None => base_get(self.base, key, fetch),
        }
    }

    /// As [`super::Namespace::range`], at the cut.
    pub fn range(
        &self,
        from: &Key,
        to: &Key,
        limit: usize,
        fetch: Fetch,
    ) -> Result<Vec<(Key, Bytes)>, NamespaceError> {
        let mut overlay = |from: &[u8], limit| Ok(self.cut.range(from, to.as_bytes(), limit)?);
        let mut base =
            |from: &[u8], to: &[u8], limit| base_range(self.base, (from, to), limit, fetch);
        merge::range(from, to, limit, &mut overlay, &mut base)
    }

    /// The first changes against the base from `from` on, ascending: `None` removes. At most
    /// `limit` of them; empty only at the end. The mount's own state is left out.
    pub fn changes(
        &self,
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Option<Bytes>)>, NamespaceError> {
        let end = Key::tag_end(Ino(u64::MAX), Tag::Local);
        let mut from = from.to_vec();
        loop {
            let slots = self.cut.range(&from, end.as_bytes(), limit.max(1))?;
            let Some((last, _)) = slots.last() else { return Ok(Vec::new()) };
            from = last.successor().as_bytes().to_vec();
            let change = |(key, slot)| match slot {
                Slot::Value(value) => (key, Some(value)),
                Slot::Tombstone => (key, None),
            };
            let changes: Vec<_> =
                slots.into_iter().filter(|(key, _)| !is_local(key)).map(change).collect();
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// Inodes that were unlinked but still open.
    pub fn orphans(&self, fetch: Fetch) -> Result<HashSet<Ino>, NamespaceError> {
        read_orphans(&mut |from, to| self.range(from, to, ORPHANS_AT_ONCE, fetch))
    }
}

/// Reads the records between two keys, as many as come at once.
type ReadPage<'a> = dyn FnMut(&Key, &Key) -> Result<merge::Records, NamespaceError> + 'a;

/// Collects the orphan list, page by page.
pub(super) fn read_orphans(read: &mut ReadPage<'_>) -> Result<HashSet<Ino>, NamespaceError> {
    let to = Key::tag_end(Ino::META, Tag::Orphan);
    let mut from = Key::orphan(Ino(0));
    let mut orphans = HashSet::new();
    loop {
        let page = read(&from, &to)?;
        let Some((last, _)) = page.last() else { return Ok(orphans) };
        let Some(KeyParts::Orphan(last)) = last.parts() else { return Ok(orphans) };
        from = Key::orphan(Ino(last.0.saturating_add(1)));
        orphans.extend(page.iter().filter_map(|(key, _)| match key.parts() {
            Some(KeyParts::Orphan(ino)) => Some(ino),
            _ => None,
        }));
    }
}
