//! A file's bytes, in blocks, so that growing never moves much and holes cost nothing.

/// Size of a block: as large as the largest request, so that most touch one block.
const BLOCK_BYTES: usize = 1 << 20;

/// The bytes of one file.
#[derive(Debug, Default)]
pub struct Content {
    /// Each at most `BLOCK_BYTES` long; what is missing at its end is zero.
    blocks: Vec<Vec<u8>>,
    len: u64,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Gives the bytes of a range, as far as the file goes, to `take`.
    pub fn read<T>(&self, offset: u64, len: u64, take: impl FnOnce(&[u8]) -> T) -> T {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return take(&[]);
        }
        let wanted = index(end - offset);
        let (block, at) = split(offset);
        if let Some(bytes) = self.blocks.get(block).and_then(|b| b.get(at..at + wanted)) {
            return take(bytes);
        }
        let mut bytes = vec![0; wanted];
        for (block, at, part) in parts(offset, wanted) {
            let there = self.blocks.get(block).map_or(&[][..], Vec::as_slice);
            let there = there.get(at..there.len().min(at + part.len())).unwrap_or(&[]);
            bytes[part.start..part.start + there.len()].copy_from_slice(there);
        }
        take(&bytes)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (block, at, part) in parts(offset, data.len()) {
            if self.blocks.len() <= block {
                self.blocks.resize_with(block + 1, Vec::new);
            }
            let (block, data) = (&mut self.blocks[block], &data[part]);
            if block.len() < at {
                block.resize(at, 0);
            }
            let old = data.len().min(block.len() - at);
            block[at..at + old].copy_from_slice(&data[..old]);
            block.extend_from_slice(&data[old..]);
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (block, at) = split(len);
            self.blocks.truncate(block + usize::from(at > 0));
            if let Some(last) = self.blocks.get_mut(block) {
                last.truncate(at);
            }
        }
        self.len = len;
    }

    /// Makes a range zero; the file's length stays.
    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        for (block, at, part) in parts(offset, index(end.saturating_sub(offset))) {
            let Some(block) = self.blocks.get_mut(block) else { break };
            if at < block.len() {
                let to = block.len().min(at + part.len());
                block[at..to].fill(0);
            }
        }
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("memory is addressed by 64 bits")
}

fn split(offset: u64) -> (usize, usize) {
    let offset = index(offset);
    (offset / BLOCK_BYTES, offset % BLOCK_BYTES)
}

/// The blocks of a range: number, place in the block, place in the range.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let (block, at) = split(offset + done as u64);
            let from = done;
            done = len.min(from + BLOCK_BYTES - at);
            (block, at, from..done)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(content: &Content) -> Vec<u8> {
        content.read(0, u64::MAX, <[u8]>::to_vec)
    }

    #[test]
    fn what_was_written_is_read_also_across_blocks_and_holes() {
        let mut content = Content::default();
        let border = BLOCK_BYTES as u64;
        content.write(border - 2, b"abcd");
        assert_eq!(content.len(), border + 2);
        assert_eq!(content.read(border - 3, 9, <[u8]>::to_vec), b"\0abcd");
        content.write(3 * border, b"z");
        assert_eq!(content.read(2 * border, 4, <[u8]>::to_vec), [0; 4]);
        assert_eq!(content.read(3 * border - 1, 4, <[u8]>::to_vec), b"\0z");
        assert!(content.read(4 * border, 1, <[u8]>::is_empty));
    }

    #[test]
    fn what_was_cut_off_comes_back_as_zeros() {
        let mut content = Content::default();
        content.write(0, b"abcdef");
        content.set_len(2);
        content.set_len(4);
        assert_eq!(all(&content), b"ab\0\0");
        content.write(3, b"x");
        content.punch(1, 1);
        assert_eq!(all(&content), b"a\0\0x");
        content.punch(2, 100);
        assert_eq!(all(&content), b"a\0\0\0");
    }
}
