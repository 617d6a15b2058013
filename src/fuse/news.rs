//! What we tell the kernel unasked.

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

use crate::types::Ino;

/// The way to the kernel while the mount is served. It holds `/dev/fuse` open, and so must be
/// closed for a connection to end that nobody serves. Lock order: a leaf.
#[derive(Debug, Default)]
pub(super) struct News {
    notifier: Mutex<Option<Notifier>>,
}

impl News {
    pub(super) fn open(&self, notifier: Notifier) {
        *self.notifier.lock() = Some(notifier);
    }

    pub(super) fn close(&self) {
        self.notifier.lock().take();
    }

    /// The kernel's attributes of an inode are no longer true. Its content is.
    pub(super) fn attributes_changed(&self, ino: Ino) {
        let notifier = self.notifier.lock().clone();
        if let Some(notifier) = notifier {
            // A negative offset means: attributes only, so this waits for no page.
            if let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0) {
                tracing::debug!(%ino, %error, "the kernel did not take new attributes");
            }
        }
    }
}
