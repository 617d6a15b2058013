//! The overlay as it was at one commit boundary.

use std::ops::ControlFlow;
use std::sync::Arc;

use rocksdb::Snapshot;

use super::journal::Position;
use super::memtable::Frozen;
use super::merge::{self, Found, Source};
use super::overlay::Pin;
use super::rocks::{self, Family, Rocks};
use super::{LocalError, Slot};
use crate::format::Key;

/// A readable state of the overlay: frozen tables over a RocksDB snapshot.
pub(super) struct View<'a> {
    pub(super) rocks: &'a Rocks,
    pub(super) snapshot: Snapshot<'a>,
    /// Newest first.
    pub(super) frozen: Vec<Arc<Frozen>>,
    /// The journal's end at that moment.
    pub(super) upto: Position,
}

impl View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Slot>, LocalError> {
        if let Some(state) = self.frozen.iter().find_map(|frozen| frozen.table.get(key)) {
            return Ok(state.slot());
        }
        let found = self.snapshot.get_pinned_cf(self.rocks.family(Family::Overlay), key);
        match found.map_err(rocks::failed)? {
            Some(encoded) => rocks::decode_slot(&encoded).map(Some),
            None => Ok(None),
        }
    }

    /// Visits the slots with `from <= key < to` in order.
    pub(super) fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Found<'_>) -> Result<ControlFlow<()>, LocalError>,
    ) -> Result<(), LocalError> {
        if from >= to {
            return Ok(());
        }
        let family = self.rocks.family(Family::Overlay);
        let disk = self.snapshot.raw_iterator_cf_opt(family, rocks::scan_options(to));
        let sources = self.frozen.iter();
        let sources =
            sources.map(|frozen| Box::new(frozen.table.range(from, to)) as Source<'_>).collect();
        merge::merge(sources, disk, from, visit)
    }
}

/// The overlay as it was at one commit boundary. Staged bytes that it refers to stay readable
/// while it lives.
pub struct Cut<'a> {
    pub(super) view: View<'a>,
    pub(super) _pin: Pin<'a>,
}

impl std::fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut").field("upto", &self.view.upto).finish_non_exhaustive()
    }
}

impl Cut<'_> {
    /// As [`super::Local::get`], at the cut.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slot>, LocalError> {
        self.view.get(key)
    }

    /// As [`super::Local::range`], at the cut: pages of one cut fit together.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Slot)>, LocalError> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        self.view.scan(from, to, &mut |slot| {
            found.extend(slot.to_slot()?);
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(found)
    }
}
