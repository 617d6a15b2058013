//! `rename` in all its cases.

use parking_lot::MutexGuard;

use super::attr::Stamp;
use super::create::require_live_directory;
use super::inode::{Locked, Need};
use super::plan::Plan;
use super::request::{At, Caller, RenameMode};
use super::{Filesystem, FsError};
use crate::format::EntryRecord;
use crate::types::{Ino, Kind};

/// Most directories above another that the check for moves into itself walks through; deeper
/// trees than paths can name are damage.
const DEPTH_MAX: usize = 1 << 16;

/// What is renamed over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    source: EntryRecord,
    target: Option<EntryRecord>,
}

impl Filesystem {
    /// Moves a name, replacing or exchanging what has the new one.
    pub fn rename(
        &self,
        caller: &Caller,
        from: At<'_>,
        to: At<'_>,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let unlinked = self.mutate(caller.fetch, || {
            loop {
                if let Some(done) = self.try_rename(caller, (from, to), mode)? {
                    return Ok(done);
                }
            }
        })?;
        if let Some(ino) = unlinked {
            self.reclaim_if_forgotten(ino);
        }
        Ok(())
    }

    fn look_up_pair(&self, from: At<'_>, to: At<'_>) -> Result<Pair, FsError> {
        Ok(Pair { source: self.require_entry(from)?, target: self.entry(to)? })
    }

    /// Renames unless another operation came between: then `None`. Gives the inode whose last
    /// name the rename took.
    fn try_rename(
        &self,
        caller: &Caller,
        (from, to): (At<'_>, At<'_>),
        mode: RenameMode,
    ) -> Result<Option<Option<Ino>>, FsError> {
        let pair = self.look_up_pair(from, to)?;
        let _moves = self.lock_moves(from, to, pair);
        let mut inos = vec![from.directory, to.directory, pair.source.ino];
        inos.extend(pair.target.map(|target| target.ino));
        let cells = self.cells(&inos, Need::Attr)?;
        let mut locked = Locked::write(&cells);
        if self.look_up_pair(from, to)? != pair {
            return Ok(None);
        }
        require_live_directory(locked.attr(from.directory)?)?;
        require_live_directory(locked.attr(to.directory)?)?;
        match (mode, pair.target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            // Two names of one inode: POSIX leaves both.
            (_, Some(target)) if target.ino == pair.source.ino => return Ok(Some(None)),
            _ => {}
        }
        self.require_no_cycle(from, to, pair, mode)?;
        let mut plan = self.plan_for(caller, 0);
        let unlinked = match (mode, pair.target) {
            (RenameMode::Exchange, Some(target)) => {
                plan.put_entry(self.namespace.entry_key(from.directory, from.name), target);
                plan_move(&mut plan, &locked, target, (to.directory, from.directory))?;
                None
            }
            (_, target) => {
                plan.delete(self.namespace.entry_key(from.directory, from.name));
                self.plan_replace(&mut plan, &locked, (pair.source, target), to.directory)?
            }
        };
        plan.put_entry(self.namespace.entry_key(to.directory, to.name), pair.source);
        plan_move(&mut plan, &locked, pair.source, (from.directory, to.directory))?;
        plan.stamp(&locked, from.directory, Stamp::Content)?;
        plan.stamp(&locked, to.directory, Stamp::Content)?;
        self.commit(&mut locked, plan)?;
        Ok(Some(unlinked))
    }

    /// Keeps the directory tree's shape while a directory gets another parent: taken before any
    /// inode's lock.
    fn lock_moves(&self, from: At<'_>, to: At<'_>, pair: Pair) -> Option<MutexGuard<'_, ()>> {
        let is_dir = |entry: EntryRecord| entry.kind == Kind::Directory;
        let moves = is_dir(pair.source) || pair.target.is_some_and(is_dir);
        (moves && from.directory != to.directory).then(|| self.moves.lock())
    }

    /// No directory may become its own ancestor.
    fn require_no_cycle(
        &self,
        from: At<'_>,
        to: At<'_>,
        pair: Pair,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        if from.directory == to.directory {
            return Ok(());
        }
        if pair.source.kind == Kind::Directory && self.is_within(to.directory, pair.source.ino)? {
            return Err(FsError::Invalid);
        }
        let Some(target) = pair.target.filter(|target| target.kind == Kind::Directory) else {
            return Ok(());
        };
        match (mode, self.is_within(from.directory, target.ino)?) {
            (_, false) => Ok(()),
            (RenameMode::Exchange, true) => Err(FsError::Invalid),
            (RenameMode::Replace | RenameMode::NoReplace, true) => Err(FsError::NotEmpty),
        }
    }

    /// Whether `directory` is `ancestor` or somewhere below it.
    fn is_within(&self, directory: Ino, ancestor: Ino) -> Result<bool, FsError> {
        let mut at = directory;
        for _ in 0..DEPTH_MAX {
            if at == ancestor {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = self.parent_of(at)?;
        }
        Err(FsError::Corrupt { ino: directory, what: "a cycle of directories".to_owned() })
    }

    /// Plans the removal of what the new name stood for.
    fn plan_replace(
        &self,
        plan: &mut Plan,
        locked: &Locked<'_>,
        (source, target): (EntryRecord, Option<EntryRecord>),
        directory: Ino,
    ) -> Result<Option<Ino>, FsError> {
        let Some(target) = target else { return Ok(None) };
        match (source.kind, target.kind) {
            (Kind::Directory, Kind::Directory) => {
                self.require_empty(target.ino)?;
                let parent = plan.attr(locked, directory)?;
                parent.nlink = parent.nlink.saturating_sub(1);
            }
            (Kind::Directory, _) => return Err(FsError::NotDirectory),
            (_, Kind::Directory) => return Err(FsError::IsDirectory),
            _ => {}
        }
        plan.unlink(locked, target.ino)?;
        Ok(Some(target.ino))
    }
}

/// Plans what moving `entry` between directories does to it and to their link counts.
fn plan_move(
    plan: &mut Plan,
    locked: &Locked<'_>,
    entry: EntryRecord,
    (from, to): (Ino, Ino),
) -> Result<(), FsError> {
    plan.stamp(locked, entry.ino, Stamp::Attributes)?;
    if entry.kind != Kind::Directory || from == to {
        return Ok(());
    }
    plan.attr(locked, entry.ino)?.parent = to;
    let old = plan.attr(locked, from)?;
    old.nlink = old.nlink.saturating_sub(1);
    plan.attr(locked, to)?.nlink += 1;
    Ok(())
}
