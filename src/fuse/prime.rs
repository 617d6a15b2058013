//! The first OPEN of a mount, made on purpose.
//!
//! The kernel learns that there are no OPEN, FLUSH and RELEASE requests when its first OPEN is
//! answered `ENOSYS`. Until then each file that a CREATE opened costs a FLUSH and a RELEASE; and
//! a mount that only creates never sends an OPEN. So a child process opens one file right after
//! the mount: a name in the root directory that exists for that moment only, in this adapter and
//! not in the workspace.

use std::sync::atomic::{AtomicBool, Ordering};

use super::convert::bare_attr;
use crate::types::{Attr, Ino, Kind};

/// An inode number that no file has: numbers are given from 2 up.
pub(super) const INO: Ino = Ino(u64::MAX - 1);

/// The name of the file that a mount of this process opens once.
#[must_use]
pub fn first_open_name() -> String {
    format!(".dormouse-prime-{}", std::process::id())
}

/// The passing file.
#[derive(Debug)]
pub(super) struct Prime {
    name: String,
    is_shown: AtomicBool,
}

impl Prime {
    pub(super) fn new() -> Prime {
        Prime { name: first_open_name(), is_shown: AtomicBool::new(true) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// From now on the name is an ordinary one.
    pub(super) fn hide(&self) {
        self.is_shown.store(false, Ordering::Release);
    }

    /// The file's attributes if this looks it up.
    pub(super) fn looked_up(&self, parent: Ino, name: &[u8]) -> Option<Attr> {
        let matches = self.is_shown.load(Ordering::Acquire)
            && parent == Ino::ROOT
            && name == self.name.as_bytes();
        matches.then(attr)
    }

    /// The file's attributes if it has this number. The kernel may hold the inode for long
    /// after the name is gone.
    pub(super) fn attr_of(ino: Ino) -> Option<Attr> {
        (ino == INO).then(attr)
    }
}

fn attr() -> Attr {
    Attr { mode: 0o444, ..bare_attr(Kind::File) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_seen_in_the_root_until_it_is_hidden() {
        let prime = Prime::new();
        let name = prime.name().to_owned();
        assert!(prime.looked_up(Ino::ROOT, name.as_bytes()).is_some());
        assert!(prime.looked_up(Ino(2), name.as_bytes()).is_none());
        assert!(prime.looked_up(Ino::ROOT, b"x").is_none());
        prime.hide();
        assert!(prime.looked_up(Ino::ROOT, name.as_bytes()).is_none());
        assert!(Prime::attr_of(INO).is_some(), "the kernel may still ask");
        assert!(Prime::attr_of(Ino(1)).is_none());
    }
}
