//! `dormouse verify`: is everything that the snapshots of a store name there, whole and right?
//! Straight on the store: no mount, no daemon, no lease, and nothing is written to it.
//!
//! ```text
//! heads and snapshots    each object, its hash, what it says beside what the others say
//! tree packs             each read once, into an unlinked temporary file
//! trees                  each node once, however many snapshots share it: hash, structure, order;
//!                        then each tree as a whole: link counts, parents, names, totals; from one
//!                        snapshot to the next only what changed
//! data packs             presence, length, places; then each read once in large ranges: its hash,
//!                        and that of every chunk that a snapshot names
//! what is wrong          to the files that are hit, by snapshot
//! ```
//! Memory, whatever the number of snapshots: about 100 bytes for each inode of one workspace, 30
//! for each distinct chunk, 500 for each distinct tree node or pack, and [`VerifyOptions::jobs`]
//! times 9 MiB. Nothing that the store says of a length is believed before it was bounded.

mod inodes;
mod nodes;
mod objects;
mod packs;
mod paths;
mod reading;
mod records;
mod report;
mod run;
mod spool;
mod walk;

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::types::{SnapshotId, WorkspaceName};

pub use report::{
    Affected, Problem, ProblemKind, Unreferenced, VerifiedWorkspace, VerifyCounts, VerifyReport,
    VerifyView,
};
pub use run::{problem_of_format, verify};

/// How much of the file content is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All of it.
    Full,
    /// So many percent of the packs, chosen by the seed and their names.
    Sample {
        /// 1 to 100.
        percent: u8,
        /// Another one chooses others.
        seed: u64,
    },
    /// None: only that the packs are there, with their lengths.
    Quick,
}

/// What to verify, and how.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// This workspace; none: all.
    pub workspace: Option<WorkspaceName>,
    /// Of its snapshots only this one.
    pub snapshot: Option<SnapshotId>,
    /// How much file content is read.
    pub depth: Depth,
    /// Packs read at once; at least 1.
    pub jobs: usize,
    /// Paths told for each problem and snapshot.
    pub paths_max: usize,
    /// A directory for the metadata of all snapshots, compressed, while it is looked at.
    pub scratch: PathBuf,
}

/// Is shown what is being done several times a second; `Break` ends it.
pub type VerifyWatch<'a> = dyn FnMut(&VerifyView) -> ControlFlow<()> + 'a;

/// Something wrong with an object that is not a pack.
#[derive(Debug)]
struct Finding {
    object: String,
    kind: ProblemKind,
    what: String,
    hit: Hit,
}

/// Whom it hits.
#[derive(Debug)]
enum Hit {
    Nothing,
    /// Whoever wants to mount it.
    Workspace(WorkspaceName),
    /// None of its files, at least while the head names it.
    Snapshot(WorkspaceName, SnapshotId),
    /// All of it.
    WholeSnapshot(WorkspaceName, SnapshotId),
    /// So many inodes of the tree with this number, and the first of them.
    Inodes(Vec<(usize, u64, Vec<u64>)>),
}

impl Finding {
    /// The snapshot that it is about.
    fn snapshot(&self) -> Option<SnapshotId> {
        match &self.hit {
            Hit::Snapshot(_, id) | Hit::WholeSnapshot(_, id) => Some(*id),
            Hit::Nothing | Hit::Workspace(_) | Hit::Inodes(_) => None,
        }
    }
}
