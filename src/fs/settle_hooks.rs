//! What settling and sealing do to a file's extents: replace staged bytes by stored chunks, only
//! where the file is still as it was when they looked. Neither is a change that anybody sees.

use std::collections::{BTreeMap, BTreeSet};

use super::attr::extents;
use super::extents::Edit;
use super::inode::{Locked, Need};
use super::{Filesystem, FsError};
use crate::chunks::Fetch;
use crate::format::{Extent, Key, encode_extent};
use crate::local::Batch;
use crate::namespace::Change;
use crate::types::Ino;

/// A part of a file whose content was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledRegion {
    /// First byte. No captured extent crosses it.
    pub from: u64,
    /// End. No captured extent crosses it.
    pub to: u64,
    /// All extents that began in the region at the time of looking, ascending.
    pub captured: Vec<(u64, Extent)>,
    /// What replaces them, ascending: the same bytes at the same offsets.
    pub sealed: Vec<(u64, Extent)>,
}

/// What to do with a region that was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Leave it: its new bytes are settled another time.
    Skip,
    /// A sealed tree holds `sealed`, and becomes the base: give each key that the tree answers
    /// differently than before a slot in the overlay, that says what the file says now.
    Shadow,
}

/// A slot to set: a value, or none for a tombstone.
type Shadow = (Key, Option<Vec<u8>>);

impl Filesystem {
    /// Replaces the regions that are still as captured, in one commit. Returns how many regions
    /// were. mtime, ctime and `allocated` stay. An inode that is gone has no such region. Also
    /// works while changes are frozen.
    pub fn commit_settled(
        &self,
        ino: Ino,
        regions: &[SettledRegion],
        stale: Stale,
        fetch: Fetch,
    ) -> Result<u64, FsError> {
        self.with_fetch(fetch, || {
            let cells = match self.cells(&[ino], Need::Content) {
                Ok(cells) => cells,
                Err(FsError::NotFound) => {
                    self.shadow_gone(ino, regions, stale)?;
                    return Ok(0);
                }
                Err(error) => return Err(error),
            };
            let mut locked = Locked::write(&cells);
            if locked.attr(ino).is_err() {
                drop(locked);
                self.shadow_gone(ino, regions, stale)?;
                return Ok(0);
            }
            let mut plan = self.plan();
            plan.for_upkeep();
            let mut replaced = 0;
            for region in regions {
                let live = extents(&locked, ino)?.whole(region.from..region.to);
                if live == region.captured {
                    plan.replace_sources(ino, Edit::between(&live, &region.sealed));
                    replaced += 1;
                } else if stale == Stale::Shadow {
                    for (key, value) in self.shadows(ino, region, &live)? {
                        match value {
                            Some(value) => plan.put(key, value),
                            None => plan.delete(key),
                        }
                    }
                }
            }
            self.commit(&mut locked, plan)?;
            Ok(replaced)
        })
    }

    /// The slots that keep a changed region as it is on a base that holds the sealed one.
    fn shadows(
        &self,
        ino: Ino,
        region: &SettledRegion,
        live: &[(u64, Extent)],
    ) -> Result<Vec<Shadow>, FsError> {
        let captured: BTreeMap<u64, Extent> = region.captured.iter().copied().collect();
        let sealed: BTreeMap<u64, Extent> = region.sealed.iter().copied().collect();
        let live: BTreeMap<u64, Extent> = live.iter().copied().collect();
        let offsets: BTreeSet<u64> = captured.keys().chain(sealed.keys()).copied().collect();
        let mut shadows = Vec::new();
        for offset in offsets {
            let key = Key::extent(ino, offset);
            if captured.get(&offset) != sealed.get(&offset) && !self.namespace.has_slot(&key)? {
                shadows.push((key, live.get(&offset).map(encode_extent)));
            }
        }
        Ok(shadows)
    }

    /// A reclaimed inode's shadows are tombstones. Nothing can bring the inode back.
    fn shadow_gone(
        &self,
        ino: Ino,
        regions: &[SettledRegion],
        stale: Stale,
    ) -> Result<(), FsError> {
        if stale == Stale::Skip {
            return Ok(());
        }
        let mut batch = Batch::for_upkeep();
        for region in regions {
            for (key, value) in self.shadows(ino, region, &[])? {
                debug_assert!(value.is_none());
                batch.delete(key);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        Ok(self.namespace.commit(Change { batch, ..Change::default() })?)
    }

    /// The extents of a file that begin in a range or cross into it, as they are now.
    pub fn extents(
        &self,
        ino: Ino,
        range: std::ops::Range<u64>,
        fetch: Fetch,
    ) -> Result<Vec<(u64, Extent)>, FsError> {
        self.with_fetch(fetch, || {
            let cell = self.filled(ino, Need::Content)?;
            let state = cell.state.read();
            state.attr()?;
            let content = state.content.as_ref();
            Ok(content.map(|content| content.extents.whole(range.clone())).unwrap_or_default())
        })
    }
}
