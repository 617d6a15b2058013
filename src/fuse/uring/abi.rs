//! What we share with the kernel.
//!
//! ```text
//! fuse_uring_req_header  0 in_out (fuse_in_header / fuse_out_header) | 128 op_in | 256 ent_in_out
//! fuse_uring_ent_in_out  0 flags u64 | 8 commit_id u64 | 16 payload_sz | 20 padding | 24 reserved
//! fuse_uring_cmd_req     0 flags u64 | 8 commit_id u64 | 16 qid u16 | 18 padding[6]
//! ```

use std::os::fd::RawFd;

use io_uring::squeue::Entry128;
use io_uring::{opcode, types};

/// Length of the headers of one buffer, bytes.
pub(super) const HEADERS_LEN: usize = 288;

/// Where the fixed part of a request stands.
pub(super) const FIXED_AT: usize = 128;

/// Where the number stands by which the kernel finds the request again.
pub(super) const COMMIT_ID_AT: usize = 256 + 8;

/// Where the length of what is in the buffer stands.
pub(super) const PAYLOAD_LEN_AT: usize = 256 + 16;

/// `FUSE_IO_URING_CMD_REGISTER`: here is a buffer, fetch a request into it.
const REGISTER: u32 = 1;

/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: here is an answer, fetch the next request.
const COMMIT_AND_FETCH: u32 = 2;

/// Where `len` stands in an entry of the submission queue (`struct io_uring_sqe`).
const SQE_LEN_AT: usize = 24;

const _: () = assert!(size_of::<Entry128>() == 128);

/// The kernel's `struct fuse_uring_cmd_req`, in the room that an entry has for commands.
fn command(queue: u16, commit_id: u64) -> [u8; 80] {
    let mut command = [0; 80];
    command[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    command[16..18].copy_from_slice(&queue.to_ne_bytes());
    command
}

/// Offers a buffer. `parts` must live until the kernel has taken the entry, and what they
/// describe until the connection has ended: the headers, and the payload.
pub(super) fn register(device: RawFd, queue: u16, parts: &[libc::iovec; 2]) -> Entry128 {
    let mut entry = opcode::UringCmd80::new(types::Fd(device), REGISTER)
        .cmd(command(queue, 0))
        .addr(Some(parts.as_ptr() as u64))
        .build();
    // The library has no way to set the length that goes with an address.
    // SAFETY: an entry is the kernel's 128 bytes (checked above), and `len` is four of them.
    unsafe {
        let len = (&raw mut entry).cast::<u8>().add(SQE_LEN_AT).cast::<u32>();
        len.write_unaligned(parts.len() as u32);
    }
    entry
}

/// Gives an answer, which stands in the request's buffer.
pub(super) fn commit_and_fetch(device: RawFd, queue: u16, commit_id: u64) -> Entry128 {
    opcode::UringCmd80::new(types::Fd(device), COMMIT_AND_FETCH)
        .cmd(command(queue, commit_id))
        .build()
}
