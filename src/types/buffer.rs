//! Blocks of bytes from a small stock.
//!
//! A block of a mebibyte that is allocated anew has no memory: the first touch of each of its pages
//! enters the kernel, which for large reads cost a fifth of the daemon's time. Blocks that are used
//! again have theirs.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// Smaller blocks are left to the allocator, which keeps their memory itself.
const STOCKED_LEN_MIN: usize = 64 << 10;

/// Larger ones come seldom.
const STOCKED_LEN_MAX: usize = 1 << 20;

/// Most bytes that the stock keeps.
const STOCK_BYTES_MAX: usize = 4 << 20;

/// Free blocks, the one that was given back last at the end. Lock order: a leaf.
static STOCK: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A block of bytes of a fixed length. Its memory goes back to the stock when it is dropped.
#[derive(Default)]
pub struct Buffer {
    /// At least `len` bytes, all of them written at some time.
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// A block with any content: that of an earlier use, perhaps. Who takes it writes all of it.
    #[must_use]
    pub fn unwritten(len: usize) -> Buffer {
        let stocked = is_stocked(len).then(|| take(len)).flatten();
        Buffer { bytes: stocked.unwrap_or_else(|| vec![0; len]), len }
    }
}

/// Whether blocks of this length come from the stock and go back to it.
fn is_stocked(len: usize) -> bool {
    (STOCKED_LEN_MIN..=STOCKED_LEN_MAX).contains(&len)
}

/// The block that was given back last among those that are long enough.
fn take(len: usize) -> Option<Vec<u8>> {
    let mut stock = STOCK.lock();
    let at = stock.iter().rposition(|bytes| bytes.len() >= len)?;
    Some(stock.remove(at))
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if !is_stocked(bytes.len()) {
            return;
        }
        let mut stock = STOCK.lock();
        let kept: usize = stock.iter().map(Vec::len).sum();
        if kept + bytes.len() <= STOCK_BYTES_MAX {
            stock.push(bytes);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer { len: bytes.len(), bytes }
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Buffer {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stocked_bytes() -> usize {
        STOCK.lock().iter().map(Vec::len).sum()
    }

    #[test]
    fn a_buffer_is_as_long_as_was_asked_for_whatever_was_used_before() {
        for len in [0, 1, 70_000, 1 << 20, 65_536, 300_000, 2 << 20] {
            let mut buffer = Buffer::unwritten(len);
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
            assert_eq!(buffer, vec![7; len]);
        }
        assert_eq!(Buffer::from(vec![1, 2]), [1, 2]);
        assert_eq!(Buffer::default(), []);
    }

    #[test]
    fn the_stock_is_bounded() {
        let all: Vec<_> = (0..100).map(|_| Buffer::unwritten(STOCKED_LEN_MAX)).collect();
        drop(all);
        drop((0..100).map(|_| Buffer::unwritten(STOCKED_LEN_MIN)).collect::<Vec<_>>());
        assert!((1..=STOCK_BYTES_MAX).contains(&stocked_bytes()), "{}", stocked_bytes());
        drop(Buffer::unwritten(50 * STOCKED_LEN_MAX));
        assert!(stocked_bytes() <= STOCK_BYTES_MAX);
    }

    #[test]
    fn memory_is_used_again() {
        // Whatever other tests take meanwhile, they give something back.
        let found = (0..1000).any(|_| {
            let mut buffer = Buffer::unwritten(STOCKED_LEN_MAX);
            buffer.fill(0xa5);
            let at = buffer.as_ptr();
            drop(buffer);
            let again = Buffer::unwritten(STOCKED_LEN_MIN);
            again.as_ptr() == at && again[77] == 0xa5
        });
        assert!(found);
    }
}
