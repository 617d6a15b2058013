//! One operation's changes, collected before they are committed as one.
//!
//! Attributes are copied out of the locked cells, changed in the copy, and put back when the
//! commit has succeeded: a failed commit leaves cells and records as they were.

use super::attr::{Stamp, extents};
use super::extents::{Edit, ExtentMap};
use super::inode::Locked;
use super::request::Caller;
use super::{Filesystem, FsError};
use crate::format::{
    EntryRecord, Extent, Key, Source, StagedAt, encode_attr, encode_entry, encode_extent,
};
use crate::local::{Batch, CarriedOut};
use crate::namespace::{Change, Growth};
use crate::types::{Attr, Ino, Time};

/// Changes of one operation.
#[derive(Debug)]
pub(super) struct Plan {
    /// The time that the operation happens at.
    pub now: Time,
    batch: Batch,
    attrs: Vec<(Ino, Attr)>,
    edits: Vec<(Ino, Edit)>,
    growth: Growth,
    orphaned: Vec<Ino>,
    capability: Option<(Ino, bool)>,
}

impl Plan {
    /// The change frees what is full, so it is let in where others are refused.
    pub fn for_upkeep(&mut self) {
        self.batch = Batch::for_upkeep();
    }

    pub fn new(now: Time) -> Plan {
        Plan {
            now,
            batch: Batch::new(),
            attrs: Vec::new(),
            edits: Vec::new(),
            growth: Growth::default(),
            orphaned: Vec::new(),
            capability: None,
        }
    }

    /// The attributes of a locked inode, to be changed.
    pub fn attr(&mut self, locked: &Locked<'_>, ino: Ino) -> Result<&mut Attr, FsError> {
        let at = match self.attrs.iter().position(|(known, _)| *known == ino) {
            Some(at) => at,
            None => {
                self.attrs.push((ino, locked.attr(ino)?.clone()));
                self.attrs.len() - 1
            }
        };
        Ok(&mut self.attrs[at].1)
    }

    /// Changes an inode's times to now.
    pub fn stamp(&mut self, locked: &Locked<'_>, ino: Ino, stamp: Stamp) -> Result<(), FsError> {
        let now = self.now;
        let attr = self.attr(locked, ino)?;
        attr.ctime = now;
        if stamp == Stamp::Content {
            attr.mtime = now;
        }
        Ok(())
    }

    /// Brings a new inode into being.
    pub fn create(&mut self, ino: Ino, attr: Attr) {
        self.growth.inodes += 1;
        self.attrs.push((ino, attr));
    }

    /// Takes one link of a locked inode away (all of a directory); the last one orphans it.
    pub fn unlink(&mut self, locked: &Locked<'_>, ino: Ino) -> Result<(), FsError> {
        let now = self.now;
        let attr = self.attr(locked, ino)?;
        attr.ctime = now;
        attr.nlink = if attr.is_dir() { 0 } else { attr.nlink.saturating_sub(1) };
        if attr.nlink == 0 {
            let bytes = i64::try_from(attr.allocated).unwrap_or(i64::MAX);
            self.growth.inodes -= 1;
            self.growth.bytes -= bytes;
            self.batch.put(Key::orphan(ino), Vec::new());
            self.orphaned.push(ino);
        }
        Ok(())
    }

    /// Puts a directory entry.
    pub fn put_entry(&mut self, key: Key, entry: EntryRecord) {
        self.batch.put(key, encode_entry(entry));
    }

    /// Notes that a file has a capability attribute now, or has none.
    pub fn set_capability(&mut self, ino: Ino, has: bool) {
        self.capability = Some((ino, has));
    }

    pub fn put(&mut self, key: Key, value: Vec<u8>) {
        self.batch.put(key, value);
    }

    pub fn delete(&mut self, key: Key) {
        self.batch.delete(key);
    }

    /// Changes a file's extents; its `allocated` moves along.
    pub fn edit(&mut self, locked: &Locked<'_>, ino: Ino, edit: Edit) -> Result<(), FsError> {
        self.grow_covered(locked, ino, edit.covered)?;
        put_edit(&mut self.batch, ino, &edit);
        self.edits.push((ino, edit));
        Ok(())
    }

    /// Changes where a file's bytes are, not what they are: no attribute changes.
    pub fn replace_sources(&mut self, ino: Ino, edit: Edit) {
        put_edit(&mut self.batch, ino, &edit);
        self.edits.push((ino, edit));
    }

    fn grow_covered(&mut self, locked: &Locked<'_>, ino: Ino, by: i64) -> Result<(), FsError> {
        let attr = self.attr(locked, ino)?;
        attr.allocated = attr.allocated.saturating_add_signed(by);
        if attr.nlink > 0 {
            self.growth.bytes += by;
        }
        Ok(())
    }

    fn encode_attrs(attrs: &[(Ino, Attr)], batch: &mut Batch) {
        for (ino, attr) in attrs {
            batch.put(Key::attr(*ino), encode_attr(attr));
        }
    }
}

fn is_staged(extent: &Extent) -> bool {
    matches!(extent.source, Source::Staged(_))
}

fn put_edit(batch: &mut Batch, ino: Ino, edit: &Edit) {
    for &offset in &edit.removes {
        batch.delete(Key::extent(ino, offset));
    }
    for (offset, extent) in &edit.puts {
        batch.put(Key::extent(ino, *offset), encode_extent(extent));
    }
}

impl Filesystem {
    /// A plan that happens now.
    pub(super) fn plan(&self) -> Plan {
        Plan::new(self.clock.now())
    }

    /// A plan whose commit carries out what the caller asks for, the last one where it takes
    /// several. `result` is what `carried_out` gives if the kernel asks again: a new or linked
    /// inode, a number of bytes, or 0.
    pub(super) fn plan_for(&self, caller: &Caller, result: u64) -> Plan {
        let mut plan = self.plan();
        if let Some(request) = caller.request {
            plan.batch.carry_out(CarriedOut { request, result });
        }
        plan
    }

    /// Commits a plan and brings the locked cells up to date.
    pub(super) fn commit(&self, locked: &mut Locked<'_>, mut plan: Plan) -> Result<(), FsError> {
        Plan::encode_attrs(&plan.attrs, &mut plan.batch);
        let batch = std::mem::take(&mut plan.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.namespace.commit(Change { batch, growth: plan.growth })?;
        self.install(locked, plan);
        Ok(())
    }

    /// Commits a write: appends `data`, which `edit` turns into extents when their place in the
    /// log is known. `covered` is what the edit will say that it is.
    pub(super) fn commit_write(
        &self,
        locked: &mut Locked<'_>,
        mut plan: Plan,
        (ino, covered): (Ino, i64),
        data: &[u8],
        edit: &mut dyn FnMut(&ExtentMap, StagedAt) -> Edit,
    ) -> Result<(), FsError> {
        plan.grow_covered(locked, ino, covered)?;
        let mut done = Edit::default();
        let map = extents(locked, ino)?;
        self.namespace.commit_with_data(&[data], plan.growth, &mut |at| {
            // Nearly always empty, which costs nothing to copy.
            let mut batch = plan.batch.clone();
            done = edit(map, at);
            put_edit(&mut batch, ino, &done);
            Plan::encode_attrs(&plan.attrs, &mut batch);
            batch
        })?;
        debug_assert_eq!(done.covered, covered);
        plan.edits.push((ino, done));
        self.install(locked, plan);
        Ok(())
    }

    fn install(&self, locked: &mut Locked<'_>, plan: Plan) {
        for (ino, attr) in plan.attrs {
            locked.state_mut(ino).attr = Some(attr);
        }
        let now = self.clock.monotonic();
        for (ino, edit) in plan.edits {
            let Some(content) = &mut locked.state_mut(ino).content else { continue };
            content.extents.apply(&edit);
            let extents = content.extents.len();
            self.inodes.set_extents(locked.cell(ino), extents);
            let written = edit.puts.iter().any(|(_, extent)| is_staged(extent));
            if locked.attr(ino).is_ok_and(|attr| attr.nlink > 0) {
                self.dirty.grow(ino, edit.staged, now, written);
            }
        }
        if let Some((ino, has)) = plan.capability
            && let Some(content) = &mut locked.state_mut(ino).content
        {
            content.has_capability = has;
        }
        for ino in plan.orphaned {
            self.orphans.add(ino);
            self.dirty.remove(ino);
        }
    }
}
