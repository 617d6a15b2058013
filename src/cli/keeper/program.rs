//! The file that a daemon is started from.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::{Path, PathBuf};

/// A program, also when another file was installed over it since.
#[derive(Debug)]
pub struct Program(Option<File>);

impl Program {
    /// The one that runs here.
    pub fn own() -> Program {
        Program(None)
    }

    /// The one in this file.
    pub fn open(path: &Path) -> io::Result<Program> {
        File::open(path).map(|file| Program(Some(file)))
    }

    /// The descriptor that its path goes through: a script's interpreter opens it once more.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.0.as_ref().map(|file| file.as_raw_fd())
    }

    /// Its path, for this process and a child that has not begun another program.
    pub fn path(&self) -> PathBuf {
        match &self.0 {
            None => PathBuf::from("/proc/self/exe"),
            Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        }
    }
}
