//! Asking the store whether it really has what it acknowledged.

use std::time::Duration;

use crate::format::{PackInfo, pack_id, pack_key};
use crate::remote::{Durable, RemoteError, Version};
use crate::types::PackId;

use super::ChunkError;
use super::fetch::Below;

/// What the store should have.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pack: PackId,
    size: u64,
    version: Option<Version>,
}

impl From<&PackInfo> for Expected {
    fn from(info: &PackInfo) -> Expected {
        Expected { pack: info.id, size: info.len, version: None }
    }
}

impl From<&Durable<PackId>> for Expected {
    fn from(pack: &Durable<PackId>) -> Expected {
        let evidence = pack.evidence();
        let version = Some(evidence.version().clone());
        Expected { pack: *pack.value(), size: evidence.size(), version }
    }
}

/// What was acknowledged and is not found is asked for again after these pauses: a store whose
/// reads are behind its writes for a moment has lost nothing. (Ours must have read-after-write;
/// proxies and caches before one may not.)
const PAUSES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(2)];

/// One HEAD for each pack, at once. Size and version (for most stores a checksum) must be those
/// of the upload.
pub(super) fn confirm(below: &Below, packs: &[Expected]) -> Result<(), ChunkError> {
    let mut absent = ask(below, packs.iter().collect())?;
    for pause in PAUSES {
        let was_seen = absent.iter().all(|expected| expected.version.is_some());
        if absent.is_empty() || !was_seen {
            break;
        }
        tracing::warn!(
            packs = absent.len(),
            "the store does not show what it acknowledged; asking again"
        );
        std::thread::sleep(pause);
        absent = ask(below, absent)?;
    }
    match absent.first() {
        Some(expected) => Err(ChunkError::Missing {
            pack: expected.pack,
            cause: format!("there is no object {}", pack_key(&expected.pack)),
        }),
        None => Ok(()),
    }
}

/// Asks for these once; those that are not there.
fn ask<'a>(below: &Below, packs: Vec<&'a Expected>) -> Result<Vec<&'a Expected>, ChunkError> {
    let keys = packs.iter().map(|expected| pack_key(&expected.pack)).collect();
    let mut absent = Vec::new();
    for (expected, answer) in packs.into_iter().zip(below.remote.stat_many(keys)) {
        let missing = |cause: String| ChunkError::Missing { pack: expected.pack, cause };
        let meta = match answer {
            Ok(meta) => meta,
            Err(RemoteError::Absent { .. }) => {
                absent.push(expected);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if meta.size != expected.size {
            let sizes = format!("{} bytes instead of {}", meta.size, expected.size);
            return Err(missing(sizes));
        }
        if expected.version.as_ref().is_some_and(|version| *version != meta.version) {
            compare(below, expected.pack)?;
        }
    }
    Ok(absent)
}

/// Reads a whole pack and compares its hash. Another version can hold the same bytes: an upload
/// whose answer was lost may have been applied after the one that was acknowledged.
fn compare(below: &Below, pack: PackId) -> Result<(), ChunkError> {
    let object = below.remote.get(&pack_key(&pack))?;
    if pack_id(&object.bytes) == pack {
        Ok(())
    } else {
        let cause = "other bytes than the ones uploaded".to_owned();
        Err(ChunkError::Missing { pack, cause })
    }
}
