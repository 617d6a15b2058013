//! All that can be seen of a tree.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::differences::comparable;
use crate::side::last_errno;

/// What ext4 and a mount must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Kind and permission bits.
    pub mode: u32,
    pub owner: (u32, u32),
    pub links: u64,
    /// Of anything but a directory.
    pub size: Option<u64>,
    pub device: u64,
    pub target: Option<PathBuf>,
    pub content: Option<blake3::Hash>,
    pub xattrs: BTreeMap<Vec<u8>, Result<Vec<u8>, i32>>,
}

/// What a mount keeps beside that, whatever happens to its daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub shared: Shared,
    pub ino: u64,
    pub blocks: u64,
    /// Access, modification, change: seconds and nanoseconds.
    pub times: [(i64, i64); 3],
}

/// Facts by path; the tree's own directory is the empty one.
pub type Tree = BTreeMap<PathBuf, Kept>;

/// Looks at everything below a directory.
pub fn tree(base: &Path) -> Tree {
    let mut found = Tree::new();
    collect(base, Path::new(""), &mut found);
    found
}

/// What both have to agree on, of such a tree.
pub fn shared(tree: &Tree) -> BTreeMap<&Path, Shared> {
    let comparable = |kept: &Kept| {
        let mode = comparable(kept.shared.mode);
        Shared { mode, ..kept.shared.clone() }
    };
    tree.iter().map(|(path, kept)| (path.as_path(), comparable(kept))).collect()
}

fn collect(base: &Path, relative: &Path, found: &mut Tree) {
    let path = if relative == Path::new("") { base.to_owned() } else { base.join(relative) };
    let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    if meta.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            collect(base, &relative.join(entry.unwrap().file_name()), found);
        }
    }
    found.insert(relative.to_owned(), one(&path, &meta));
}

fn one(path: &Path, meta: &fs::Metadata) -> Kept {
    let kind = meta.file_type();
    let content = kind.is_file().then(|| {
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).custom_flags(libc::O_NOATIME).open(path).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(bytes.len() as u64, meta.size(), "{path:?} is as long as it says");
        blake3::hash(&bytes)
    });
    let is_device = kind.is_char_device() || kind.is_block_device();
    let shared = Shared {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        size: (!kind.is_dir()).then(|| meta.size()),
        device: if is_device { meta.rdev() } else { 0 },
        target: kind.is_symlink().then(|| fs::read_link(path).unwrap()),
        content,
        xattrs: xattrs(path),
    };
    let times = [
        (meta.atime(), meta.atime_nsec()),
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    ];
    Kept { shared, ino: meta.ino(), blocks: meta.blocks(), times }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Result<Vec<u8>, i32>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0_u8; 64 * 1024];
    // SAFETY: the buffer is as long as is said, the path ends with NUL.
    let len = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    assert!(len >= 0, "{path:?}: {}", last_errno());
    names.truncate(len as usize);
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names.map(|name| (name.to_vec(), xattr(&path, name))).collect()
}

/// A value, or the errno: the kernel lets an empty `security.capability` in, and nobody read it.
fn xattr(path: &CString, name: &[u8]) -> Result<Vec<u8>, i32> {
    let name = CString::new(name).unwrap();
    let mut value = vec![0_u8; 64 * 1024];
    let (at, room) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: as above.
    let len = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), at, room) };
    if len < 0 {
        return Err(last_errno());
    }
    value.truncate(len as usize);
    Ok(value)
}

/// Names in a directory.
pub fn list(path: &Path) -> Result<Vec<Vec<u8>>, i32> {
    let entries = fs::read_dir(path).map_err(|error| error.raw_os_error().unwrap())?;
    let mut names: Vec<Vec<u8>> =
        entries.map(|entry| OsStr::as_bytes(&entry.unwrap().file_name()).to_vec()).collect();
    names.sort();
    Ok(names)
}
