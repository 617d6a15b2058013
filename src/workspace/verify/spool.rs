//! Packs of nodes in one unlinked temporary file: each is read from the store once, and its nodes
//! can be read again in any order without being held in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The file. It is gone when this is dropped, or the process ends.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    file: File,
    len: u64,
}

impl Spool {
    /// An empty one in this directory, which each error names.
    pub fn new(dir: &Path) -> io::Result<Spool> {
        let file = Spool::create(dir).map_err(|error| named(dir, error))?;
        Ok(Spool { dir: dir.to_owned(), file, len: 0 })
    }

    fn create(dir: &Path) -> io::Result<File> {
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        let path = dir.join(format!("dormouse-verify-{:016x}", u64::from_le_bytes(name)));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    /// Makes room for so many bytes and says where.
    pub fn reserve(&mut self, len: u64) -> u64 {
        let at = self.len;
        self.len += len;
        at
    }

    /// Puts bytes into a place that was reserved.
    pub fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at).map_err(|error| named(&self.dir, error))
    }

    /// Reads `len` bytes, which must have been put.
    pub fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).map_err(|error| named(&self.dir, error))?;
        Ok(bytes)
    }
}

fn named(dir: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", dir.display()))
}
