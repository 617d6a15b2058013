//! Looking names up and listing them; removing directories.

use super::attr::Stamp;
use super::create::require_live_directory;
use super::inode::{Locked, Need};
use super::request::{At, Caller, DirEntry, Entry, ListFrom};
use super::{Filesystem, FsError};
use crate::chunks::Fetch;
use crate::format::{EntryRecord, Key, KeyParts, Tag, decode_entry};
use crate::types::{Attr, Ino, Kind, Name};

/// Entries read at once.
const ENTRIES_AT_ONCE: usize = 128;

const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;

/// Takes entries of a listing, in order. Says `true` when one does not fit any more: that one was
/// not taken.
pub type Sink<'a> = dyn FnMut(DirEntry<'_>) -> bool + 'a;

/// An entry read from its record.
#[derive(Debug)]
struct Listed {
    hash: u64,
    name: Box<[u8]>,
    record: EntryRecord,
}

impl Filesystem {
    /// The inode with this name. Its lookup count grows by one.
    pub fn lookup(&self, caller: &Caller, directory: Ino, name: &Name) -> Result<Entry, FsError> {
        self.read_only(caller.fetch, || {
            let cell = self.filled(directory, Need::Attr)?;
            // While the directory is locked, its entries stay, and so do the inodes that they
            // name: counting the lookup can't come too late.
            let state = cell.state.read();
            if state.attr()?.kind != Kind::Directory {
                return Err(FsError::NotDirectory);
            }
            let record = self.require_entry(At { directory, name })?;
            let attr = self.peek_attr(record.ino)?;
            self.lookups.add(record.ino);
            Ok(Entry { ino: record.ino, attr })
        })
    }

    /// Takes back `count` lookups. An unlinked inode without lookups is reclaimed.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.forget_all([(ino, count)].into_iter());
    }

    /// Takes back lookups, so many of each inode; those that are reclaimed go together.
    pub fn forget_all(&self, forgets: impl Iterator<Item = (Ino, u64)>) {
        let gone = forgets.filter(|&(ino, count)| self.lookups.remove(ino, count));
        self.reclaim_all_forgotten(gone.map(|(ino, _)| ino));
    }

    /// Lists a directory from a cookie on: `.`, `..`, then the entries in the order of their
    /// names' hashes. An entry that stays is listed exactly once, whatever comes and goes.
    /// Attributes that are asked for are fetched if the caller may wait; else they are given if
    /// they are on this machine. Where they are damaged the name is given without them: a lookup
    /// of it says what is wrong.
    ///
    /// Two names with one hash (chance 2^-63 for a pair) share a cookie; a listing that breaks
    /// off between them lists the first one twice.
    pub fn readdir(
        &self,
        caller: &Caller,
        directory: Ino,
        from: ListFrom,
        sink: &mut Sink<'_>,
    ) -> Result<(), FsError> {
        let mut taken = Taken { cookie: from.cookie, any: false, full: false };
        let want = match (from.plus, caller.fetch) {
            (false, _) => Want::Names,
            (true, Fetch::LocalOnly) => Want::LocalAttrs,
            (true, Fetch::Until(_) | Fetch::Within(_)) => Want::Attrs,
        };
        let mut listed =
            self.read_only(caller.fetch, || self.list(directory, want, &mut taken, sink));
        let damaged = listed.as_ref().is_err_and(FsError::is_damage);
        if damaged && !taken.any && matches!(want, Want::Attrs) {
            // A node with attributes can't be had: the names may lie in another.
            let want = Want::LocalAttrs;
            listed = self.read_only(caller.fetch, || self.list(directory, want, &mut taken, sink));
        }
        // What was given stays given; the next call goes on from there, or meets the error.
        if taken.any { Ok(()) } else { listed }
    }

    fn list(
        &self,
        directory: Ino,
        want: Want,
        taken: &mut Taken,
        sink: &mut Sink<'_>,
    ) -> Result<(), FsError> {
        let cell = self.filled(directory, Need::Attr)?;
        let state = cell.state.read();
        let attr = state.attr()?;
        require_live_directory(attr)?;
        for (cookie, name, ino) in
            [(COOKIE_DOT, &b"."[..], directory), (COOKIE_DOT_DOT, b"..", attr.parent)]
        {
            if taken.cookie < cookie && !taken.full {
                let attr = None;
                let entry = DirEntry { name, ino, kind: Kind::Directory, cookie, attr };
                taken.offer(entry, sink);
            }
        }
        let to = Key::tag_end(directory, Tag::Entry);
        let mut from = Key::entry(directory, taken.cookie.saturating_add(1), &[]);
        while !taken.full {
            let page = self.range(&from, &to, ENTRIES_AT_ONCE)?;
            let more = page.len() == ENTRIES_AT_ONCE;
            let listed: Result<Vec<Listed>, FsError> =
                page.iter().map(|(key, value)| parse_entry(directory, key, value)).collect();
            let listed = listed?;
            for (entry, next) in listed.iter().zip(listed.iter().skip(1).map(Some).chain([None])) {
                let shares_hash = next.is_some_and(|next| next.hash == entry.hash);
                let cookie = if shares_hash { entry.hash - 1 } else { entry.hash };
                if !self.list_entry(entry, cookie, want, taken, sink)? {
                    return Ok(());
                }
            }
            match page.last() {
                Some((last, _)) if more => from = last.successor(),
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn list_entry(
        &self,
        entry: &Listed,
        cookie: u64,
        want: Want,
        taken: &mut Taken,
        sink: &mut Sink<'_>,
    ) -> Result<bool, FsError> {
        let EntryRecord { ino, kind } = entry.record;
        let attr = self.wanted_attr(ino, want)?;
        let counts = attr.is_some();
        let entry = DirEntry { name: &entry.name, ino, kind, cookie, attr };
        let fits = taken.offer(entry, sink);
        if fits && counts {
            self.lookups.add(ino);
        }
        Ok(fits)
    }

    fn wanted_attr(&self, ino: Ino, want: Want) -> Result<Option<Attr>, FsError> {
        if matches!(want, Want::Names) {
            return Ok(None);
        }
        match self.peek_attr(ino) {
            Err(FsError::NotLocal(_)) if matches!(want, Want::LocalAttrs) => Ok(None),
            // Not the whole directory for one record. There is none: as damaged.
            Err(error) if error.is_damage() || matches!(error, FsError::NotFound) => Ok(None),
            attr => attr.map(Some),
        }
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: &Caller, at: At<'_>) -> Result<(), FsError> {
        let key = self.namespace.entry_key(at.directory, at.name);
        let removed = self.mutate(caller.fetch, || {
            loop {
                let entry = self.require_entry(at)?;
                if entry.kind != Kind::Directory {
                    return Err(FsError::NotDirectory);
                }
                let cells = self.cells(&[at.directory, entry.ino], Need::Attr)?;
                let mut locked = Locked::write(&cells);
                if self.require_entry(at)? != entry {
                    continue;
                }
                self.require_empty(entry.ino)?;
                let mut plan = self.plan_for(caller, 0);
                plan.delete(key.clone());
                plan.unlink(&locked, entry.ino)?;
                plan.stamp(&locked, at.directory, Stamp::Content)?;
                let parent = plan.attr(&locked, at.directory)?;
                parent.nlink = parent.nlink.saturating_sub(1);
                self.commit(&mut locked, plan)?;
                return Ok(entry.ino);
            }
        })?;
        self.reclaim_if_forgotten(removed);
        Ok(())
    }

    /// `NotEmpty` unless the directory has no entries.
    pub(super) fn require_empty(&self, directory: Ino) -> Result<(), FsError> {
        let from = Key::tag_start(directory, Tag::Entry);
        let to = Key::tag_end(directory, Tag::Entry);
        match self.range(&from, &to, 1)?.is_empty() {
            true => Ok(()),
            false => Err(FsError::NotEmpty),
        }
    }

    /// The entry with this name, if there is one.
    pub(super) fn entry(&self, at: At<'_>) -> Result<Option<EntryRecord>, FsError> {
        let key = self.namespace.entry_key(at.directory, at.name);
        let value = self.get(&key)?;
        value
            .map(|value| decode_entry(&value))
            .transpose()
            .map_err(|error| FsError::malformed(at.directory, &error))
    }

    /// The entry with this name; else `NotFound`, or `NotDirectory` where no names can be.
    pub(super) fn require_entry(&self, at: At<'_>) -> Result<EntryRecord, FsError> {
        match self.entry(at)? {
            Some(entry) => Ok(entry),
            None if self.peek_attr(at.directory)?.is_dir() => Err(FsError::NotFound),
            None => Err(FsError::NotDirectory),
        }
    }

    /// Attributes of a directory's parent, for the check that nothing moves into itself.
    pub(super) fn parent_of(&self, directory: Ino) -> Result<Ino, FsError> {
        let attr: Attr = self.peek_attr(directory)?;
        if attr.is_dir() { Ok(attr.parent) } else { Err(FsError::NotDirectory) }
    }
}

/// What a listing gives of each entry.
#[derive(Debug, Clone, Copy)]
enum Want {
    Names,
    LocalAttrs,
    Attrs,
}

/// How far a listing came.
#[derive(Debug)]
struct Taken {
    cookie: u64,
    any: bool,
    full: bool,
}

impl Taken {
    /// Gives an entry to the sink; whether it was taken.
    fn offer(&mut self, entry: DirEntry<'_>, sink: &mut Sink<'_>) -> bool {
        let cookie = entry.cookie;
        self.full = sink(entry);
        if !self.full {
            self.cookie = cookie;
            self.any = true;
        }
        !self.full
    }
}

fn parse_entry(directory: Ino, key: &Key, value: &[u8]) -> Result<Listed, FsError> {
    let Some(KeyParts::Entry(_, hash, name)) = key.parts() else {
        return Err(FsError::Corrupt { ino: directory, what: "a key among the entries".into() });
    };
    let record = decode_entry(value).map_err(|error| FsError::malformed(directory, &error))?;
    Ok(Listed { hash, name: name.into(), record })
}
