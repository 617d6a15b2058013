//! What a verification found, as `dormouse verify --json` prints it.

use serde::Serialize;

/// What is wrong, by what may be done about it. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The object is not there.
    Missing,
    /// It is longer or shorter than what names it says.
    Size,
    /// Its bytes are not those that were written, or not of this format.
    Damaged,
    /// Its bytes are those that were written, and make no sense.
    Structure,
    /// A newer Dormouse wrote it.
    Newer,
}

impl ProblemKind {
    /// As `--json` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ProblemKind::Missing => "missing",
            ProblemKind::Size => "size",
            ProblemKind::Damaged => "damaged",
            ProblemKind::Structure => "structure",
            ProblemKind::Newer => "newer",
        }
    }
}

/// One object that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Key of the object, relative to the store's prefix.
    pub object: String,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// What was found, for a person.
    pub what: String,
    /// Whom it hits, by workspace and snapshot; empty: no file that any snapshot holds.
    pub affected: Vec<Affected>,
}

/// What a problem does to one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// The workspace.
    pub workspace: String,
    /// The snapshot's id; none: the workspace's head.
    pub snapshot: Option<String>,
    /// All of it: nothing can be read.
    pub everything: bool,
    /// Files that can't be read or are not right; with `everything` all that there are.
    pub files: u64,
    /// Their paths, at most as many as asked for. A file that lost its name, too, is `inode N`.
    pub paths: Vec<String>,
}

/// A workspace that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedWorkspace {
    /// Its name.
    pub name: String,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Inodes of the newest of them, as it says itself.
    pub inodes: u64,
    /// Bytes of its files, as it says itself.
    pub bytes: u64,
}

/// How much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyCounts {
    /// Distinct tree nodes.
    pub nodes: u64,
    /// Records in them.
    pub records: u64,
    /// Packs of nodes, each read whole.
    pub tree_packs: u64,
    /// Packs of file content.
    pub data_packs: u64,
    /// Those of them that were read whole.
    pub data_packs_read: u64,
    /// Distinct chunks that snapshots name.
    pub chunks: u64,
    /// Those whose content was read and has the hash that is its name.
    pub chunks_sound: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
}

/// What nothing refers to: no damage. It may belong to a seal that is under way, or that a crash
/// ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unreferenced {
    /// Packs; looked for only where all workspaces are verified.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Keys of snapshots that the head does not descend from.
    pub snapshots: Vec<String>,
    /// Keys of objects that are none of Dormouse's; the first 100.
    pub strangers: Vec<String>,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The store, 32 hexadecimal digits.
    pub store_id: String,
    /// Whether nothing is wrong with what was looked at.
    pub sound: bool,
    /// `full`, `sample` or `quick`.
    pub depth: &'static str,
    /// With a sample: what chooses it. The same seed and store give the same sample.
    pub sample_seed: Option<u64>,
    /// What was looked at.
    pub workspaces: Vec<VerifiedWorkspace>,
    /// What is wrong, at most 1,000.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub problems_left_out: u64,
    /// What nothing refers to.
    pub unreferenced: Unreferenced,
    /// How much was looked at.
    pub counts: VerifyCounts,
}

/// What a verification is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyView {
    /// In words.
    pub step: &'static str,
    /// Bytes read, or nodes looked at.
    pub done: u64,
    /// Of so many; 0: not known.
    pub total: u64,
    /// Whether these are bytes.
    pub is_bytes: bool,
}

/// Bytes of a name or path as text: what is not printable UTF-8 is written as `\xNN`.
pub fn printable(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for part in path.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    let bytes = c.encode_utf8(&mut bytes).bytes();
                    bytes.for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
                }
                c => text.push(c),
            }
        }
        part.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_no_text_can_be_told_apart() {
        assert_eq!(printable("ü/a b".as_bytes()), "ü/a b");
        assert_eq!(printable(b"a\\x\n\xff\xfe"), "a\\\\x\\x0a\\xff\\xfe");
    }
}
