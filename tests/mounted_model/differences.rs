//! Where a mount may differ from ext4, and why. Nothing here may hide a loss of data.

use crate::ops::Op;
use crate::side::Answer;

/// A difference that is meant.
pub struct Difference {
    /// What promises it, or why it can't be otherwise.
    pub reason: &'static str,
    /// Whether this answer of the mount and this one of ext4 are it.
    pub is_it: fn(&Op, &Answer, &Answer) -> bool,
}

/// All of them.
pub const DIFFERENCES: [Difference; 1] = [Difference {
    reason: "SEEK_DATA and SEEK_HOLE are exact here; ext4 rounds to blocks, and takes what was \
             allocated for a hole or not. That what is skipped reads as zeros is looked at, and \
             tests/model compares the offsets with exact ones",
    is_it: |op, mount, plain| {
        let found = |answer: &Answer| matches!(answer, Answer::Number(_));
        let none = |answer: &Answer| *answer == Answer::Fails(libc::ENXIO);
        matches!(op, Op::Seek { .. })
            && (found(mount) || none(mount))
            && (found(plain) || none(plain))
    },
}];

/// Operations that are not tried. A `chown` to nobody in particular takes set-user-id bits off on
/// ext4; the kernel does not tell a FUSE daemon that there was one.
pub fn is_left_out(op: &Op) -> bool {
    matches!(op, Op::Chown { uid: None, gid: None, .. })
}

/// A mode as it is compared. A file's set-group-id bit without execution by the group gives nobody
/// anything. When somebody without privileges writes, ext4 takes it off unless he is in the file's
/// group; FUSE leaves it, since a request does not tell all of its caller's groups.
pub fn comparable(mode: u32) -> u32 {
    let is_idle = mode & libc::S_IFMT != libc::S_IFDIR && mode & libc::S_IXGRP == 0;
    if is_idle { mode & !libc::S_ISGID } else { mode }
}

/// Whether the answers say the same, or differ as they may.
pub fn is_same(op: &Op, mount: &Answer, plain: &Answer) -> bool {
    mount == plain || DIFFERENCES.iter().any(|difference| (difference.is_it)(op, mount, plain))
}
