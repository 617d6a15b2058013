//! Directory listings.

use super::answer::{AnswerListing, AnswerListingPlus};
use super::convert::bare_attr;
use crate::chunks::Fetch;
use crate::fs::{Caller, Filesystem, FsError, ListFrom, Missing};
use crate::types::Ino;

/// Fills the answer of a READDIR.
pub(super) fn plain(
    fs: &Filesystem,
    caller: &Caller,
    directory: Ino,
    cookie: u64,
    answer: &mut impl AnswerListing,
) -> Result<(), FsError> {
    let mut taken = 0_usize;
    let result = fs.readdir(caller, directory, ListFrom { cookie, plus: false }, &mut |entry| {
        let is_full = answer.add(&entry);
        taken += usize::from(!is_full);
        is_full
    });
    settle(result, taken)
}

/// Fills the answer of a READDIRPLUS: each entry but `.` and `..` is a lookup too.
pub(super) fn plus<A: AnswerListingPlus>(
    fs: &Filesystem,
    caller: &Caller,
    directory: Ino,
    cookie: u64,
    answer: &mut A,
) -> Result<(), FsError> {
    let mut taken = 0_usize;
    // Who could wait has tried to fetch what is missing: it is damaged.
    let takes_bare_names = A::LISTS_BARE_NAMES && caller.fetch != Fetch::LocalOnly;
    let mut lacks_attributes = None;
    let result = fs.readdir(caller, directory, ListFrom { cookie, plus: true }, &mut |entry| {
        let is_dots = matches!(entry.name, b"." | b"..");
        let is_full = match &entry.attr {
            Some(attr) => answer.add(&entry, attr),
            None if is_dots => answer.add(&entry, &bare_attr(entry.kind)),
            None if takes_bare_names => answer.add_bare(&entry),
            None => {
                // The list ends before it.
                lacks_attributes = Some(entry.ino);
                return true;
            }
        };
        taken += usize::from(!is_full);
        is_full
    });
    match (result, lacks_attributes) {
        (Ok(()), Some(ino)) => settle(Err(FsError::NotLocal(Missing::attributes_of(ino))), taken),
        (other, _) => settle(other, taken),
    }
}

/// What was taken is answered: the next request meets the error again, if it lasts.
fn settle(result: Result<(), FsError>, taken: usize) -> Result<(), FsError> {
    match result {
        Err(_) if taken > 0 => Ok(()),
        other => other,
    }
}
