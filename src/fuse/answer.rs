//! Answers: one small trait for each kind that the protocol has, so that an operation does not
//! know over which transport it was asked.
//!
//! Each answer is sent exactly once: by the operation, or as `EIO` when it is dropped.

use std::time::Duration;

use fuser::{Errno, FopenFlags};

use crate::fs::{DirEntry, StatFs};
use crate::types::{Attr, Buffer, Ino};

/// How long the kernel may believe a name or attributes: for ever, because nobody else changes
/// them. (The kernel clamps it; about 136 years.)
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// How a created file is open: its pages stay, and closing it sends nothing.
pub(super) const CREATED_FLAGS: FopenFlags =
    FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);

/// Any answer.
pub(super) trait Answer: Send + 'static {
    /// Answers with an error.
    fn fail(self, errno: Errno);
}

/// That it is done.
pub(super) trait AnswerEmpty: Answer {
    /// Answers.
    fn done(self);
}

/// An inode with its attributes; inode 0 says that there is no such name.
pub(super) trait AnswerEntry: Answer {
    /// Answers; the kernel may believe it for `ttl`.
    fn entry(self, ttl: Duration, ino: Ino, attr: &Attr);
}

/// Attributes.
pub(super) trait AnswerAttr: Answer {
    /// Answers; the kernel may believe it for `ttl`.
    fn attr(self, ttl: Duration, ino: Ino, attr: &Attr);
}

/// A created and opened file.
pub(super) trait AnswerCreated: Answer {
    /// Answers.
    fn created(self, ino: Ino, attr: &Attr);
}

/// Bytes: a piece of a file, a symlink's target.
pub(super) trait AnswerData: Answer {
    /// Answers.
    fn data(self, bytes: Buffer);
}

/// A number of bytes written.
pub(super) trait AnswerWritten: Answer {
    /// Answers.
    fn written(self, bytes: u32);
}

/// An offset in a file.
pub(super) trait AnswerOffset: Answer {
    /// Answers.
    fn offset(self, offset: i64);
}

/// What `statfs` tells.
pub(super) trait AnswerStatFs: Answer {
    /// Answers.
    fn statfs(self, stat: &StatFs);
}

/// An extended attribute's value or a list of names, or the length of it.
pub(super) trait AnswerXattr: Answer {
    /// Answers with the length.
    fn len(self, bytes: u32);
    /// Answers with the bytes.
    fn value(self, value: &[u8]);
}

/// A listing, filled entry by entry.
pub(super) trait AnswerListing: Answer {
    /// Adds an entry; true if it did not fit, and was not added.
    fn add(&mut self, entry: &DirEntry<'_>) -> bool;
    /// Answers.
    fn listed(self);
}

/// A listing with attributes.
pub(super) trait AnswerListingPlus: Answer {
    /// Whether a name can be listed without its inode.
    const LISTS_BARE_NAMES: bool;
    /// Adds an entry; true if it did not fit, and was not added.
    fn add(&mut self, entry: &DirEntry<'_>, attr: &Attr) -> bool;
    /// Adds a name that the kernel has to look up before it knows its inode; true if it did not
    /// fit, and was not added.
    fn add_bare(&mut self, entry: &DirEntry<'_>) -> bool;
    /// Answers.
    fn listed(self);
}
