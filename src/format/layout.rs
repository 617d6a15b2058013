//! Keys of the store's objects, relative to its prefix.

use std::str::FromStr;

use crate::types::{PackId, SnapshotId, Time, WorkspaceName};

/// Key of the [`super::StoreFormat`].
pub const FORMAT_KEY: &str = "format";

/// What the keys of all packs begin with.
pub const PACKS_PREFIX: &str = "packs/";

/// What the keys of all heads and snapshots begin with.
pub const WORKSPACES_PREFIX: &str = "workspaces/";

/// `packs/<first 2 digits>/<pack id>`.
#[must_use]
pub fn pack_key(pack: &PackId) -> String {
    format!("{PACKS_PREFIX}{:02x}/{pack}", pack.0[0])
}

/// `workspaces/<name>/head`.
#[must_use]
pub fn head_key(workspace: &WorkspaceName) -> String {
    format!("{WORKSPACES_PREFIX}{workspace}/head")
}

/// `workspaces/<name>/snapshots/`.
#[must_use]
pub fn snapshots_prefix(workspace: &WorkspaceName) -> String {
    format!("{WORKSPACES_PREFIX}{workspace}/snapshots/")
}

/// `workspaces/<name>/snapshots/<unix ms, 20 digits>-<snapshot id>`: in a listing they stand in
/// order of creation.
#[must_use]
pub fn snapshot_key(workspace: &WorkspaceName, created: Time, id: &SnapshotId) -> String {
    let millis = unix_millis(created);
    format!("{}{millis:020}-{id}", snapshots_prefix(workspace))
}

/// What the last part of a snapshot's key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    /// When it was made: milliseconds since 1970; 0 for any time before.
    pub created_unix_ms: u64,
    /// The snapshot.
    pub id: SnapshotId,
}

/// A key that is not a snapshot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot's key")]
pub struct SnapshotNameError;

impl FromStr for SnapshotName {
    type Err = SnapshotNameError;

    /// Takes a whole key or its last part.
    fn from_str(key: &str) -> Result<SnapshotName, SnapshotNameError> {
        let name = key.rsplit('/').next().unwrap_or(key);
        let (millis, id) = name.split_once('-').ok_or(SnapshotNameError)?;
        if millis.len() != 20 || !millis.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(SnapshotNameError);
        }
        let created_unix_ms = millis.parse().map_err(|_| SnapshotNameError)?;
        let id = id.parse().map_err(|_| SnapshotNameError)?;
        Ok(SnapshotName { created_unix_ms, id })
    }
}

fn unix_millis(time: Time) -> u64 {
    let secs = u64::try_from(time.secs).unwrap_or(0);
    let millis = if time.secs < 0 { 0 } else { u64::from(time.nanos / 1_000_000) };
    secs.saturating_mul(1000).saturating_add(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_s_key_tells_its_time_and_id_and_sorts_by_time() {
        let workspace: WorkspaceName = "agent-7".parse().unwrap();
        let id = SnapshotId([7; 32]);
        let earlier = snapshot_key(&workspace, Time::new(99, 999_999_999), &id);
        let later = snapshot_key(&workspace, Time::new(1_700_000_000, 5_000_000), &id);
        assert!(earlier < later);
        let name: SnapshotName = later.parse().unwrap();
        assert_eq!(name, SnapshotName { created_unix_ms: 1_700_000_000_005, id });
        assert!(earlier.starts_with("workspaces/agent-7/snapshots/00000000000000099999-0707"));
        for bad in ["", "head", "workspaces/a/head", "1-00", &later[..later.len() - 1]] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn packs_spread_over_256_folders() {
        let key = pack_key(&PackId([0xab; 32]));
        assert_eq!(key, format!("packs/ab/{}", "ab".repeat(32)));
    }
}
