//! What we tell the kernel unasked.

use super::fields::Put;
use super::reply::OUT_HEADER_LEN;
use crate::types::Ino;

/// `FUSE_NOTIFY_INVAL_INODE`, in the place of an error.
const INVALIDATE_INODE: u32 = 2;

/// The kernel's attributes of an inode are no longer true. A negative offset means that its
/// content still is, so that the kernel waits for no page.
pub(in crate::fuse) fn attributes_changed(ino: Ino) -> Vec<u8> {
    let len = OUT_HEADER_LEN + 24;
    let mut message = Vec::with_capacity(len);
    // 40 bytes.
    message.u32(len as u32);
    message.u32(INVALIDATE_INODE);
    // No request has this number: nobody asked.
    message.u64(0);
    message.u64(ino.0);
    message.i64(-1);
    message.i64(0);
    message
}

/// `FUSE_NOTIFY_RESEND`.
const RESEND: u32 = 7;

/// What has no answer yet is to be sent again.
pub(in crate::fuse) fn resend() -> Vec<u8> {
    let mut message = Vec::with_capacity(OUT_HEADER_LEN);
    // 16 bytes.
    message.u32(OUT_HEADER_LEN as u32);
    message.u32(RESEND);
    message.u64(0);
    message
}
