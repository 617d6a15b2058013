//! What we tell the kernel unasked.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::wire;
use crate::types::Ino;

/// The way to the kernel while the mount is served. It holds `/dev/fuse` open, and so must be
/// closed for a connection to end that nobody serves. Lock order: a leaf.
#[derive(Debug, Default)]
pub(super) struct News {
    device: Mutex<Option<Arc<OwnedFd>>>,
}

impl News {
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn open(&self, device: BorrowedFd<'_>) -> std::io::Result<()> {
        *self.device.lock() = Some(Arc::new(device.try_clone_to_owned()?));
        Ok(())
    }

    pub(super) fn close(&self) {
        self.device.lock().take();
    }

    /// The kernel's attributes of an inode are no longer true. Its content is.
    pub(super) fn attributes_changed(&self, ino: Ino) {
        match self.tell(&wire::attributes_changed(ino)) {
            // ENOENT: the kernel has forgotten the inode itself.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => tracing::debug!(%ino, %error, "the kernel did not take new attributes"),
        }
    }

    /// Whether the kernel knows an inode, or may: it says so when it is told news of it, though
    /// these are none. Not for what it may be asking for just now.
    pub(super) fn is_known(&self, ino: Ino) -> bool {
        self.tell(&wire::attributes_changed(ino)) != Err(Errno::ENOENT)
    }

    fn tell(&self, message: &[u8]) -> Result<(), Errno> {
        match self.device() {
            Some(device) => nix::unistd::write(&device, message).map(drop),
            None => Ok(()),
        }
    }

    /// A descriptor of the connection, not to be kept; none when it is not served any more.
    pub(super) fn device(&self) -> Option<Arc<OwnedFd>> {
        self.device.lock().clone()
    }
}
