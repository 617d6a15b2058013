//! Requests that come again after their daemon died: those that it had carried out are answered
//! from what is there now, and not carried out once more.

use super::request::{Caller, Entry};
use super::{Filesystem, FsError};
use crate::types::{Ino, RequestId};

impl Filesystem {
    /// What a request is to be answered with that was carried out, perhaps by the daemon before:
    /// the inode that it made or linked, the number of bytes that it wrote or copied, or 0.
    #[must_use]
    pub fn carried_out(&self, request: &RequestId) -> Option<u64> {
        self.local.carried_out(request)
    }

    /// The request was answered: it does not come again.
    pub fn answered(&self, request: &RequestId) {
        self.local.answered(request);
    }

    /// No requests come again but these.
    pub fn forget_requests_but(&self, those: &[RequestId]) {
        self.local.forget_requests_but(those);
    }

    /// The inode that a request made or linked which comes again. Its lookup count grows by one.
    pub fn entry_again(&self, caller: &Caller, ino: Ino) -> Result<Entry, FsError> {
        let attr = self.getattr(caller, ino)?;
        self.lookups.add(ino);
        Ok(Entry { ino, attr })
    }
}
