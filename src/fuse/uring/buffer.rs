//! A buffer that the kernel copies a request into and its answer out of.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::abi::{COMMIT_ID_AT, FIXED_AT, HEADERS_LEN, PAYLOAD_LEN_AT};
use super::plan::page_bytes;
use crate::fuse::wire::{FIXED_LEN_MAX, HEADER_LEN};

/// A page of headers, then the payload. Pages are taken when they are first touched, and not
/// copied into the children that we fork.
#[derive(Debug)]
pub(super) struct Buffer {
    start: NonNull<u8>,
    payload_at: usize,
    len: usize,
    is_kept: bool,
}

// SAFETY: the memory belongs to its owner alone, but for the kernel, which touches it only between
// a submission and its completion.
unsafe impl Send for Buffer {}

impl Buffer {
    pub(super) fn new(payload_bytes: usize) -> io::Result<Buffer> {
        let payload_at = HEADERS_LEN.next_multiple_of(page_bytes());
        let len = payload_at + payload_bytes;
        let wanted = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping, which nobody else knows of.
        let start = unsafe { mmap_anonymous(None, wanted, access, flags) }?;
        let buffer = Buffer { start: start.cast(), payload_at, len, is_kept: false };
        // SAFETY: the whole of our own mapping.
        unsafe { madvise(start, len, MmapAdvise::MADV_DONTFORK) }?;
        Ok(buffer)
    }

    /// What the kernel must know of it: its headers and its payload.
    pub(super) fn parts(&mut self) -> [libc::iovec; 2] {
        let (headers, payload) = self.halves_mut();
        [headers, payload]
            .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() })
    }

    /// A request's header, its fixed part with what may lie behind it, and the rest.
    pub(super) fn request(&self) -> (&[u8], &[u8], &[u8]) {
        let (headers, payload) = self.bytes().split_at(self.payload_at);
        let len = number(headers, PAYLOAD_LEN_AT) as usize;
        let fixed = &headers[FIXED_AT..FIXED_AT + FIXED_LEN_MAX];
        (&headers[..HEADER_LEN], fixed, &payload[..len.min(payload.len())])
    }

    /// Bytes of the payload that the request has.
    pub(super) fn used(&self) -> usize {
        self.request().2.len()
    }

    /// The number by which the kernel finds the request again.
    pub(super) fn commit_id(&self) -> u64 {
        let field = self.bytes()[COMMIT_ID_AT..].first_chunk();
        field.copied().map_or(0, u64::from_ne_bytes)
    }

    /// Puts an answer in; false if the body is longer than the payload may be.
    pub(super) fn answer(&mut self, header: &[u8], body: &[u8]) -> bool {
        let (headers, payload) = self.halves_mut();
        if body.len() > payload.len() {
            return false;
        }
        payload[..body.len()].copy_from_slice(body);
        // Checked above: payloads have less than 4 GiB.
        let len = (body.len() as u32).to_ne_bytes();
        headers[..header.len()].copy_from_slice(header);
        headers[PAYLOAD_LEN_AT..PAYLOAD_LEN_AT + len.len()].copy_from_slice(&len);
        true
    }

    /// Gives the memory behind the first `used` bytes of the payload back to the machine.
    pub(super) fn shrink(&mut self, used: usize) {
        let from = (self.payload_at + used).next_multiple_of(page_bytes()).min(self.len);
        // SAFETY: whole pages of our own mapping, which read as zeros from now on.
        let given = unsafe {
            madvise(self.start.add(from).cast(), self.len - from, MmapAdvise::MADV_DONTNEED)
        };
        if let Err(error) = given {
            tracing::debug!(%error, "a buffer keeps its memory");
        }
    }

    /// Leaves the memory mapped for ever.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the whole of our own mapping, whose bytes begin as zeros.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn halves_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        // SAFETY: the whole of our own mapping, borrowed as a whole.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) };
        bytes.split_at_mut(self.payload_at)
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_ne_bytes)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // SAFETY: our own mapping, used by nobody any more.
        if let Err(error) = unsafe { munmap(self.start.cast(), self.len) } {
            tracing::error!(%error, "a buffer can't be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_what_is_put_in_up_to_its_length() {
        let mut buffer = Buffer::new(8192).unwrap();
        assert!(buffer.answer(&[7; 16], &[1; 8192]));
        let (header, _, rest) = buffer.request();
        assert_eq!((&header[..16], rest), (&[7_u8; 16][..], &[1_u8; 8192][..]));
        assert!(!buffer.answer(&[0; 16], &[0; 8193]), "too long");
        let [headers, payload] = buffer.parts();
        assert!(headers.iov_len >= HEADERS_LEN);
        assert_eq!(payload.iov_len, 8192);
    }

    #[test]
    fn memory_that_is_given_back_reads_as_zeros_and_the_rest_stays() {
        let mut buffer = Buffer::new(4 * page_bytes()).unwrap();
        assert!(buffer.answer(&[7; 16], &vec![1; 4 * page_bytes()]));
        buffer.shrink(page_bytes() + 1);
        let (header, _, rest) = buffer.request();
        assert_eq!(header[0], 7);
        assert!(rest[..2 * page_bytes()].iter().all(|&b| b == 1));
        assert!(rest[2 * page_bytes()..].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_length_beyond_the_buffer_is_cut() {
        let mut buffer = Buffer::new(8192).unwrap();
        buffer.halves_mut().0[PAYLOAD_LEN_AT..PAYLOAD_LEN_AT + 4].fill(0xff);
        assert_eq!(buffer.request().2.len(), 8192);
    }
}
