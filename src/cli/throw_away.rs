//! Local data of mounts that only look. It has nothing that the store does not have, and its
//! folder of the cache root is removed when the mount ends; what a killed one left, by the next
//! such mount.

use std::path::Path;
use std::thread;

use super::context::Context;
use super::exit::{Code, Failure};
use super::paths::is_readers_folder;
use super::settings::WorkspaceSettings;
use crate::control::Liveness;
use crate::local;

/// Removes the folder of a mount that has ended and closed it.
pub fn remove(settings: &WorkspaceSettings) {
    if settings.is_throw_away
        && let Err(error) = local::remove(&settings.cache_dir)
    {
        // The next mount tries again.
        tracing::warn!(%error, "the local data of a read-only mount stays");
    }
}

/// Removes the folder of a mount that did not come about, unless it is another process's, or was
/// refused for what is in it.
pub fn give_up(settings: &WorkspaceSettings, failure: &Failure) {
    if settings.is_throw_away && failure.code != Code::Diverged {
        remove_left(&settings.cache_dir);
    }
}

/// Removes in the background what other mounts left in the cache root.
pub fn sweep(context: &Context, settings: &WorkspaceSettings) {
    let (true, Some(root)) = (settings.is_throw_away, settings.cache_dir.parent()) else { return };
    // Between a daemon that died and the one that takes over nobody has the folder open.
    let Ok(mounts) = context.registry.list() else { return };
    let used: Vec<_> = mounts
        .into_iter()
        .filter(|(_, liveness)| *liveness == Liveness::Running)
        .map(|(entry, _)| entry.cache_dir)
        .collect();
    let root = root.to_owned();
    let sweep = move || {
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let dir = entry.path();
            if is_readers_folder(&dir) && !used.contains(&dir) {
                remove_left(&dir);
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("dormouse-tidy".into()).spawn(sweep) {
        tracing::debug!(%error, "what read-only mounts left stays");
    }
}

fn remove_left(dir: &Path) {
    match local::remove_unused(dir) {
        Ok(true) => tracing::info!(dir = %dir.display(), "removed what a read-only mount left"),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "what a read-only mount left stays"),
    }
}
