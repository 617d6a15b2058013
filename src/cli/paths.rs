//! Where things are: cache directories, the registry, and whether a mountpoint can be used.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::exit::{Failure, Outcome};
use super::settings::Environment;

/// Most bytes that the default cache budget takes.
const CACHE_BYTES_DEFAULT_MAX: u64 = 64 << 30;

/// Fewest bytes that the default cache budget takes, on however full a disk.
const CACHE_BYTES_DEFAULT_MIN: u64 = 256 << 20;

/// Where workspaces keep local data by default. Not a cache directory: what is not in the store
/// yet can't be made again, and people clear caches.
pub fn default_cache_root(env: &Environment) -> Outcome<PathBuf> {
    if env.is_root {
        return Ok("/var/lib/dormouse".into());
    }
    let state = env.state_home.clone().or_else(|| Some(env.home.as_ref()?.join(".local/state")));
    let none = || Failure::usage("no place for local data: set HOME or give --cache-dir");
    Ok(state.ok_or_else(none)?.join("dormouse"))
}

/// Where the daemons of this user are registered.
pub fn runtime_dir(env: &Environment) -> PathBuf {
    if let Some(dir) = &env.dormouse_runtime_dir {
        return dir.clone();
    }
    match &env.runtime_dir {
        _ if env.is_root => "/run/dormouse".into(),
        Some(dir) => dir.join("dormouse"),
        None => format!("/tmp/dormouse-{}", env.uid).into(),
    }
}

/// Which local data: a writer's, or that of a look at a snapshot, which must not disturb it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse<'a> {
    /// The writer's; there is one.
    Writer,
    /// A read-only mount at this mountpoint.
    Reader(&'a Path),
}

/// In the name of a reader's folder, and by its `~` in that of no writer's: no workspace's name can
/// have one.
const READER: &str = "~ro-";

/// The folder of one store and workspace below the cache root: readable, and distinct for
/// stores that share a workspace name.
#[must_use]
pub fn cache_folder(store: &str, endpoint: Option<&str>, workspace: &str, of: CacheUse) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(store.trim_end_matches('/').as_bytes());
    hasher.update(b"\0");
    hasher.update(endpoint.unwrap_or("").as_bytes());
    let store = &hasher.finalize().to_hex()[..8];
    match of {
        CacheUse::Writer => format!("{workspace}-{store}"),
        CacheUse::Reader(at) => {
            let at = &blake3::hash(at.as_os_str().as_bytes()).to_hex()[..8];
            format!("{workspace}-{store}{READER}{at}")
        }
    }
}

/// Whether this is what [`cache_folder`] calls a reader's folder.
#[must_use]
pub fn is_readers_folder(dir: &Path) -> bool {
    let name = dir.file_name().and_then(OsStr::to_str);
    let digits = name.and_then(|name| name.rsplit_once(READER)).map(|(_, digits)| digits);
    digits.is_some_and(|it| it.len() == 8 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Absolute, without `.` and `..`, symbolic links followed as far as the path exists. The last
/// component is not looked at, so that a mount whose daemon has died does not stop us.
pub fn absolute(path: &Path, env: &Environment) -> Outcome<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Failure::usage("an empty path was given"));
    }
    let joined = normal(&env.working_dir.join(path));
    let (Some(parent), Some(name)) = (joined.parent(), joined.file_name()) else {
        return Ok(joined);
    };
    Ok(canonical_prefix(parent).join(name))
}

/// Removes `.` and `..` by name only.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Follows links in the longest part of the path that exists.
fn canonical_prefix(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut at = path;
    loop {
        if let Ok(real) = at.canonicalize() {
            return rest.iter().rev().fold(real, |joined, name: &&OsStr| joined.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name);
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

/// Checks that local data does not lie in the mount that it serves: the daemon would wait for
/// itself.
pub fn check_outside(cache_dir: &Path, mountpoint: &Path) -> Outcome {
    if cache_dir.starts_with(mountpoint) {
        let message = format!(
            "the cache directory {} is inside the mountpoint {}",
            cache_dir.display(),
            mountpoint.display()
        );
        return Err(Failure::usage(message).hint("choose a --cache-dir elsewhere"));
    }
    Ok(())
}

/// The default budget of local data: half of what is free on its disk, counting what it uses.
#[must_use]
pub fn default_cache_bytes(disk_free: u64, used_already: u64) -> u64 {
    let half = disk_free.saturating_add(used_already) / 2;
    half.clamp(CACHE_BYTES_DEFAULT_MIN, CACHE_BYTES_DEFAULT_MAX)
}

/// Free bytes of the disk that `path`, or the part of it that exists, is on.
pub fn disk_free(path: &Path) -> Option<u64> {
    let exists = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = nix::sys::statvfs::statvfs(exists).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Bytes of the files directly and indirectly in a directory, as allocated; 0 where there is none.
#[must_use]
pub fn used_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            let own = meta.blocks().saturating_mul(512);
            Some(own + if meta.is_dir() { used_bytes(&entry.path()) } else { 0 })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Environment {
        Environment { is_root: false, uid: 7, working_dir: "/".into(), ..Environment::default() }
    }

    #[test]
    fn local_data_of_root_and_of_users_have_their_places() {
        let root = Environment { is_root: true, ..env() };
        assert_eq!(default_cache_root(&root).unwrap(), Path::new("/var/lib/dormouse"));
        assert!(default_cache_root(&env()).is_err());
        let user = Environment { home: Some("/home/u".into()), ..env() };
        let want = Path::new("/home/u/.local/state/dormouse");
        assert_eq!(default_cache_root(&user).unwrap(), want);
        assert_eq!(runtime_dir(&user), Path::new("/tmp/dormouse-7"));
    }

    #[test]
    fn stores_and_readers_have_folders_of_their_own() {
        let writer = |store| cache_folder(store, None, "w", CacheUse::Writer);
        assert_eq!(writer("s3://a/b"), writer("s3://a/b/"));
        assert_ne!(writer("s3://a/b"), writer("s3://a/c"));
        let other = cache_folder("s3://a/b", Some("http://h"), "w", CacheUse::Writer);
        assert_ne!(writer("s3://a/b"), other);
        let reader = cache_folder("s3://a/b", None, "w", CacheUse::Reader(Path::new("/mnt")));
        assert!(reader.starts_with(&writer("s3://a/b")) && reader != writer("s3://a/b"));
        assert!(is_readers_folder(&Path::new("/c").join(reader)));
        assert!(!is_readers_folder(&Path::new("/c").join(writer("s3://a/b"))));
        assert!(!is_readers_folder(Path::new("/c/x~ro-12345")));
        // Such folders are removed without being asked for: no name may make a writer's one.
        for name in ["x.ro", "w-01234567.ro", "w-ro", "ro"] {
            let folder = cache_folder("s3://a/b", None, name, CacheUse::Writer);
            assert!(!is_readers_folder(&Path::new("/c").join(folder)), "{name}");
        }
        assert!("w~ro".parse::<crate::types::WorkspaceName>().is_err());
    }

    #[test]
    fn paths_become_absolute_through_links_that_exist() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("d")).unwrap();
        std::os::unix::fs::symlink("d", real.join("l")).unwrap();
        let env = Environment { working_dir: real.join("d"), ..env() };
        let of = |path: &str| absolute(Path::new(path), &env).unwrap();
        assert_eq!(of("x/../y/."), real.join("d/y"));
        assert_eq!(of("../l/new/deep"), real.join("d/new/deep"));
        assert_eq!(of("/"), Path::new("/"));
        assert!(absolute(Path::new(""), &env).is_err());
    }

    #[test]
    fn a_cache_inside_its_own_mount_is_refused() {
        assert!(check_outside(Path::new("/w/c"), Path::new("/w")).is_err());
        assert!(check_outside(Path::new("/w"), Path::new("/w")).is_err());
        assert!(check_outside(Path::new("/w-cache"), Path::new("/w")).is_ok());
    }

    #[test]
    fn the_default_budget_is_half_of_the_disk_within_bounds() {
        assert_eq!(default_cache_bytes(10 << 30, 2 << 30), 6 << 30);
        assert_eq!(default_cache_bytes(0, 0), CACHE_BYTES_DEFAULT_MIN);
        assert_eq!(default_cache_bytes(u64::MAX, 1), CACHE_BYTES_DEFAULT_MAX);
    }
}
