//! Directory listings.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::reply::{FOREVER, bare_attr, file_attr, file_type};
use crate::fs::{Caller, Filesystem, FsError, ListFrom, Missing};
use crate::types::Ino;

/// Fills the answer of a READDIR.
pub(super) fn plain(
    fs: &Filesystem,
    caller: &Caller,
    directory: Ino,
    cookie: u64,
    reply: &mut ReplyDirectory,
) -> Result<(), FsError> {
    let mut taken = 0_usize;
    let result = fs.readdir(caller, directory, ListFrom { cookie, plus: false }, &mut |entry| {
        let name = OsStr::from_bytes(entry.name);
        let is_full = reply.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), name);
        taken += usize::from(!is_full);
        is_full
    });
    settle(result, taken)
}

/// Fills the answer of a READDIRPLUS: each entry but `.` and `..` is a lookup too.
pub(super) fn plus(
    fs: &Filesystem,
    caller: &Caller,
    directory: Ino,
    cookie: u64,
    reply: &mut ReplyDirectoryPlus,
) -> Result<(), FsError> {
    let mut taken = 0_usize;
    let mut lacks_attributes = false;
    let result = fs.readdir(caller, directory, ListFrom { cookie, plus: true }, &mut |entry| {
        let name = OsStr::from_bytes(entry.name);
        let is_dots = matches!(entry.name, b"." | b"..");
        let attr = match &entry.attr {
            Some(attr) => file_attr(entry.ino, attr),
            None if is_dots => bare_attr(entry.ino, entry.kind),
            None => {
                // fuser can't send a name without its inode: the list ends before it.
                lacks_attributes = true;
                return true;
            }
        };
        let ino = INodeNo(entry.ino.0);
        let is_full = reply.add(ino, entry.cookie, name, &FOREVER, &attr, Generation(0));
        taken += usize::from(!is_full);
        is_full
    });
    match result {
        Ok(()) if lacks_attributes => settle(Err(FsError::NotLocal(Missing::Content)), taken),
        other => settle(other, taken),
    }
}

/// What was taken is answered: the next request meets the error again, if it lasts.
fn settle(result: Result<(), FsError>, taken: usize) -> Result<(), FsError> {
    match result {
        Err(_) if taken > 0 => Ok(()),
        other => other,
    }
}
