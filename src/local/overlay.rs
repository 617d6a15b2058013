//! The overlay: one table that takes new records, frozen ones on their way to RocksDB, RocksDB.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::applier::Applier;
use super::cut::View;
use super::journal::{Change, Journal, Writer, encode_carried_out, encode_change};
use super::memtable::{Frozen, Memtable, State};
use super::merge::{self, Source};
use super::requests::Requests;
use super::rocks::{self, Family, Rocks};
use super::{Batch, LocalError, LocalOptions, Slot, crash_point};
use crate::format::{Key, StagedAt};

/// Frozen tables that may wait before commits do.
const FROZEN_WAITING_MAX: usize = 2;

/// Records of [`Overlay::drop_clean`] that are compared under one hold of the commit lock.
const DROP_SLICE_LEN: usize = 128;

/// The overlay of one directory, and the journal before it.
///
/// Lock order: the journal's commit lock, `tables`, the applier's and the journal's inner locks.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) journal: Journal,
    pub(super) rocks: Rocks,
    pub(super) applier: Applier,
    pub(super) requests: Requests,
    tables: RwLock<Tables>,
    memtable_bytes_max: usize,
    replay_bytes_max: u64,
    /// [`Writer::written`] at the last freeze.
    frozen_at: AtomicU64,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Tables {
    active: Memtable,
    /// Oldest first. A table leaves only when RocksDB has all of it.
    frozen: VecDeque<Arc<Frozen>>,
}

impl Overlay {
    /// Replays what RocksDB does not have.
    pub(super) fn open(
        journal: Journal,
        rocks: Rocks,
        options: &LocalOptions,
    ) -> Result<Overlay, LocalError> {
        let overlay = Overlay {
            requests: Requests::recover(options.connection, &rocks.unanswered()?)?,
            journal,
            rocks,
            applier: Applier::default(),
            tables: RwLock::default(),
            memtable_bytes_max: usize::try_from(options.memtable_bytes_max).unwrap_or(usize::MAX),
            replay_bytes_max: options.replay_bytes_max,
            frozen_at: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        let applied = overlay.rocks.applied()?;
        super::journal::replay(&overlay.journal, applied, &mut |decoded, at| {
            if let Some(done) = decoded.carried_out {
                overlay.requests.recovered(options.connection, done);
            }
            let mut tables = overlay.tables.write();
            for (key, state) in decoded.changes {
                tables.active.insert(key, state);
            }
            if tables.active.bytes() >= overlay.memtable_bytes_max {
                // The journal's recovery has synced these records.
                overlay.rocks.apply(&tables.active, at, &overlay.requests.encode())?;
                overlay.rocks.flush()?;
                crash_point("replay-flushed");
                tables.active = Memtable::default();
            }
            Ok(())
        })?;
        Ok(overlay)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Slot>, LocalError> {
        {
            let tables = self.tables.read();
            if let Some(state) = tables.get(key) {
                return Ok(state.slot());
            }
        }
        // No table has it, so RocksDB says what it was a moment ago, or something newer.
        let found = {
            let family = self.rocks.family(Family::Overlay);
            self.rocks.db.get_pinned_cf_opt(family, key, &self.rocks.reads)
        };
        match found.map_err(rocks::failed)? {
            Some(encoded) => rocks::decode_slot(&encoded).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn range(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Slot)>, LocalError> {
        let mut found = Vec::new();
        let mut from = from.to_vec();
        while from.as_slice() < to && found.len() < limit {
            let Some(next) = self.range_page(&from, to, limit, &mut found)? else { break };
            from = next;
        }
        Ok(found)
    }

    /// Adds slots until `limit`, the end of the range (then: none), or of what was copied of the
    /// active table (then: where to go on). All of one moment: the iterator is made while the
    /// tables can't change.
    fn range_page(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        found: &mut Vec<(Key, Slot)>,
    ) -> Result<Option<Vec<u8>>, LocalError> {
        let want = limit - found.len();
        let tables = self.tables.read();
        let active = tables.active.range(from, to).take(want);
        let active: Vec<_> = active.map(|(key, state)| (key.clone(), state.clone())).collect();
        let frozen: Vec<_> = tables.frozen.iter().rev().cloned().collect();
        // What lies behind the last record copied may be hidden by one that was not.
        let end = match active.last() {
            Some((key, _)) if active.len() == want => [key.as_bytes(), &[0]].concat(),
            _ => to.to_vec(),
        };
        let family = self.rocks.family(Family::Overlay);
        let disk = self.rocks.db.raw_iterator_cf_opt(family, rocks::scan_options(&end));
        drop(tables);
        let mut sources: Vec<Source<'_>> =
            vec![Box::new(active.iter().map(|(key, state)| (key, state)))];
        for frozen in &frozen {
            sources.push(Box::new(frozen.table.range(from, &end)));
        }
        merge::merge(sources, disk, from, &mut |slot| {
            found.extend(slot.to_slot()?);
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok((end != to).then_some(end))
    }

    /// Commits a batch, with the data it refers to where `data` is not empty.
    pub(super) fn commit(
        &self,
        data: &[&[u8]],
        build: &mut dyn FnMut(StagedAt) -> Batch,
    ) -> Result<(), LocalError> {
        let data_crc = data.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let data_len: usize = data.iter().map(|part| part.len()).sum();
        let mut writer = self.writer()?;
        let at = self.journal.begin(&mut writer, data_len as u64)?;
        let batch = build(at);
        if batch.is_empty() && data_len == 0 {
            return Ok(());
        }
        for (key, slot) in &batch.records {
            let change = match slot {
                Slot::Value(value) => Change::Value(value),
                Slot::Tombstone => Change::Tombstone,
            };
            encode_change(writer.batch(), key, change);
        }
        if let Some(done) = &batch.carried_out {
            encode_carried_out(writer.batch(), done);
        }
        self.journal.append(&mut writer, data, data_crc)?;
        if let Some(done) = batch.carried_out {
            // Still under the commit lock: whoever moves this record to RocksDB finds it here.
            self.requests.carried_out(done);
        }
        let mut tables = self.tables.write();
        for (key, slot) in batch.records {
            tables.active.insert(key, slot.into());
        }
        Ok(())
    }

    /// The commit lock, with room for a commit behind it.
    fn writer(&self) -> Result<MutexGuard<'_, Writer>, LocalError> {
        let mut writer = self.journal.writer();
        if self.closed.load(Ordering::Relaxed) {
            return Err(LocalError::Closed);
        }
        let unapplied = writer.written() - self.frozen_at.load(Ordering::Relaxed);
        let full = self.tables.read().active.bytes() >= self.memtable_bytes_max;
        if full || unapplied >= self.replay_bytes_max {
            self.applier.wait_for_room(FROZEN_WAITING_MAX)?;
            self.freeze(&mut writer);
        }
        Ok(writer)
    }

    /// Ends the active table and gives it to the applier.
    fn freeze(&self, writer: &mut Writer) {
        if writer.written() == self.frozen_at.load(Ordering::Relaxed)
            && self.tables.read().active.bytes() == 0
        {
            return;
        }
        self.frozen_at.store(writer.written(), Ordering::Relaxed);
        let upto = writer.position();
        let mut tables = self.tables.write();
        let table = std::mem::take(&mut tables.active);
        let frozen = Arc::new(Frozen { table, upto });
        tables.frozen.push_back(Arc::clone(&frozen));
        drop(tables);
        self.applier.submit(frozen);
    }

    /// Moves one frozen table, the oldest, to RocksDB.
    pub(super) fn apply(&self, frozen: &Arc<Frozen>) -> Result<(), LocalError> {
        // RocksDB must never know what a power cut could take from the journal, not even a segment
        // without a record: a sweep may delete all others.
        self.journal.sync_with_segment(frozen.upto)?;
        crash_point("apply-synced");
        self.rocks.apply(&frozen.table, frozen.upto, &self.requests.encode())?;
        crash_point("apply-written");
        self.rocks.flush()?;
        crash_point("apply-flushed");
        let mut tables = self.tables.write();
        let first = tables.frozen.pop_front();
        debug_assert!(first.is_some_and(|first| Arc::ptr_eq(&first, frozen)), "applied in order");
        Ok(())
    }

    pub(super) fn drop_clean(&self, expected: &[(Key, Slot)]) -> Result<usize, LocalError> {
        let mut dropped = 0;
        for slice in expected.chunks(DROP_SLICE_LEN) {
            dropped += self.drop_slice(slice)?;
        }
        Ok(dropped)
    }

    fn drop_slice(&self, expected: &[(Key, Slot)]) -> Result<usize, LocalError> {
        let mut writer = self.writer()?;
        self.journal.begin(&mut writer, 0)?;
        let mut clean = Vec::new();
        for (key, slot) in expected {
            if self.get(key.as_bytes())?.as_ref() == Some(slot) {
                encode_change(writer.batch(), key, Change::Base);
                clean.push(key);
            }
        }
        if clean.is_empty() {
            return Ok(0);
        }
        self.journal.append(&mut writer, &[], 0)?;
        crash_point("overlay-dropped");
        let mut tables = self.tables.write();
        for key in &clean {
            tables.active.insert((*key).clone(), State::Base);
        }
        Ok(clean.len())
    }

    /// The overlay as of now, for reading. `with_writer` runs at that moment, under the commit
    /// lock.
    pub(super) fn view<R>(
        &self,
        with_writer: impl FnOnce(&mut Writer) -> Result<R, LocalError>,
    ) -> Result<(View<'_>, R), LocalError> {
        // One more than commits may leave waiting, so that a cut does not stop them.
        self.applier.wait_for_room(FROZEN_WAITING_MAX + 1)?;
        let mut writer = self.journal.writer();
        if self.closed.load(Ordering::Relaxed) {
            return Err(LocalError::Closed);
        }
        let result = with_writer(&mut writer)?;
        self.freeze(&mut writer);
        let upto = writer.position();
        let tables = self.tables.read();
        let frozen = tables.frozen.iter().rev().cloned().collect();
        let snapshot = self.rocks.db.snapshot();
        Ok((View { rocks: &self.rocks, snapshot, frozen, upto }, result))
    }

    /// Refuses later commits, and gives the rest to the applier.
    pub(super) fn close(&self) {
        let mut writer = self.journal.writer();
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.freeze(&mut writer);
        }
    }
}

impl Tables {
    fn get(&self, key: &[u8]) -> Option<&State> {
        let newest_first = self.frozen.iter().rev();
        let in_frozen = || newest_first.into_iter().find_map(|frozen| frozen.table.get(key));
        self.active.get(key).or_else(in_frozen)
    }
}

/// Cuts that are alive: the newest segment that each may refer to.
#[derive(Debug, Default)]
pub(super) struct Pins {
    segments: Mutex<Vec<u64>>,
}

/// Keeps a cut's segments until it is dropped.
#[derive(Debug)]
pub(super) struct Pin<'a> {
    pins: &'a Pins,
    segment: u64,
}

impl Pins {
    pub(super) fn pin(&self, segment: u64) -> Pin<'_> {
        self.segments.lock().push(segment);
        Pin { pins: self, segment }
    }

    /// Segments up to this one may be referred to; none are: 0.
    pub(super) fn newest(&self) -> u64 {
        self.segments.lock().iter().copied().max().unwrap_or(0)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut segments = self.pins.segments.lock();
        if let Some(at) = segments.iter().position(|&segment| segment == self.segment) {
            segments.swap_remove(at);
        }
    }
}
