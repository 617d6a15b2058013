//! Memory that requests are read to, and is there whatever happens.
//!
//! A thread that is killed while it reads a request must still take it whole: a request that the
//! kernel could not copy it answers with `EIO`, and never sends again. And it can't copy to a page
//! that would first have to be made, or be copied because a child of ours shares it: a process
//! that is being killed gets no pages. So all of them are made at once, locked where that is
//! allowed, and not shared with children.

use std::io;
use std::num::NonZero;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};

/// One thread's.
#[derive(Debug)]
pub(super) struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

impl Buffer {
    pub(super) fn new(len: usize) -> io::Result<Buffer> {
        let wanted = NonZero::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping, which nobody else knows of.
        let start = unsafe { mmap_anonymous(None, wanted, access, flags) }?;
        let buffer = Buffer { start: start.cast(), len };
        // SAFETY: the whole of our own mapping.
        unsafe {
            madvise(start, len, MmapAdvise::MADV_DONTFORK)?;
            if let Err(error) = mlock(start, len) {
                tracing::debug!(%error, "a request's buffer may be swapped out");
            }
        }
        Ok(buffer)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: our own mapping, of this length, as long as we live.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody refers to any more.
        if let Err(error) = unsafe { munmap(self.start.cast(), self.len) } {
            tracing::debug!(%error, "a buffer stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_its_pages_are_there_from_the_start() {
        let buffer = Buffer::new(64 * 4096 + 1).unwrap();
        let mut pages = vec![0_u8; 65];
        let start = buffer.as_ptr().cast_mut().cast();
        // SAFETY: the mapping above, and room for a byte of each of its pages.
        let looked = unsafe { libc::mincore(start, buffer.len(), pages.as_mut_ptr()) };
        assert_eq!(looked, 0);
        assert!(pages.iter().all(|page| page & 1 == 1));
    }
}
