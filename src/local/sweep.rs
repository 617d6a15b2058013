//! Mark and sweep: deletes the journal segments that nothing refers to.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::merge::Found;
use super::overlay::{Overlay, Pins};
use super::{LocalError, crash_point};
use crate::format::{KeyParts, Source, decode_extent};

/// What a sweep found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Swept {
    /// Bytes of the segments deleted.
    pub(super) freed: u64,
    /// Staged bytes that extents refer to.
    pub(super) live: u64,
}

/// Deletes each finished segment whose records are applied and whose bytes no extent of the
/// overlay and no cut refers to.
///
/// Why none can come to be referred to meanwhile: new bytes and the record that names them are
/// one commit, into the segment written to, which is not a candidate; other commits only copy
/// references that are live while they do so (their callers hold the source's inode lock), so
/// the view, which is of one commit boundary, has them too.
pub(super) fn sweep(overlay: &Overlay, pins: &Pins, roll_bytes: u64) -> Result<Swept, LocalError> {
    let (view, candidates) = overlay.view(|writer| {
        overlay.journal.roll_if_over(writer, roll_bytes)?;
        let pinned = pins.newest();
        let mut numbers = overlay.journal.segment_numbers();
        numbers.retain(|&number| number < writer.position().segment && number > pinned);
        Ok(numbers)
    })?;
    let mut swept = Swept::default();
    let mut referred = HashSet::new();
    view.scan(&[], &[u8::MAX; 9], &mut |slot| {
        if let Some((segment, len)) = staged(&slot)? {
            referred.insert(segment);
            swept.live += len;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    overlay.applier.wait_for(view.upto.seq)?;
    // The segment written to must be found again before those before it go; where nothing was left
    // to apply, nobody has synced its name yet.
    overlay.journal.sync_with_segment(view.upto)?;
    drop(view);
    for number in candidates {
        if !referred.contains(&number) {
            crash_point("sweep-delete");
            swept.freed += overlay.journal.delete(number)?;
            crash_point("sweep-deleted");
        }
    }
    Ok(swept)
}

/// The segment and length of the staged bytes that a slot refers to.
fn staged(slot: &Found<'_>) -> Result<Option<(u64, u64)>, LocalError> {
    let Some(value) = slot.value() else { return Ok(None) };
    if !matches!(KeyParts::parse(slot.key()), Ok(KeyParts::Extent(..))) {
        return Ok(None);
    }
    // A record that can't be read must stop the sweep: it may refer to any segment.
    let extent = decode_extent(value).map_err(|error| LocalError::corrupt(error.to_string()))?;
    match extent.source {
        Source::Staged(at) => Ok(Some((at.segment, extent.len))),
        Source::Chunk { .. } => Ok(None),
    }
}
