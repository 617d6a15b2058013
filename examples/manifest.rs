//! Prints one line per file below a directory: content hash, mode, owner, times, link structure,
//! inode number and extended attributes. Two runs that print the same saw the same tree.
//!
//! `cargo run --release --example manifest -- DIRECTORY [--no-inode] > before.txt`

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(root) = arguments.next().map(PathBuf::from) else {
        return Err(io::Error::other("usage: manifest DIRECTORY [--no-inode]"));
    };
    let with_inode = arguments.next().is_none_or(|argument| argument != "--no-inode");
    let mut paths = Vec::new();
    collect(&root, &mut paths)?;
    paths.sort();
    let out = io::stdout();
    let mut out = io::BufWriter::new(out.lock());
    for path in &paths {
        writeln!(out, "{}", line(&root, path, with_inode)?)?;
    }
    out.flush()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    paths.push(directory.to_owned());
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), paths)?;
        } else {
            paths.push(entry.path());
        }
    }
    Ok(())
}

fn line(root: &Path, path: &Path, with_inode: bool) -> io::Result<String> {
    let meta = std::fs::symlink_metadata(path)?;
    let name = path.strip_prefix(root).unwrap_or(path);
    let content = if meta.is_file() {
        hash(path)?
    } else if meta.is_symlink() {
        format!("-> {:?}", std::fs::read_link(path)?)
    } else {
        format!("rdev {}", meta.rdev())
    };
    let inode = if with_inode { meta.ino() } else { 0 };
    // A directory's size is the filesystem's own business.
    let size = if meta.is_dir() { 0 } else { meta.size() };
    Ok(format!(
        "{name:?} {content} mode {:o} owner {}:{} size {size} links {} inode {inode} \
         mtime {}.{:09} xattrs {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.mtime(),
        meta.mtime_nsec(),
        xattrs(path)?,
    ))
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            read => hasher.update(&buffer[..read]),
        };
    }
}

/// Extended attributes by name, values in hexadecimal.
fn xattrs(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let names = sized(|buffer, len| {
        // SAFETY: the path is NUL-terminated and the kernel writes at most `len` bytes.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), len) }
    })?;
    let mut found = BTreeMap::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let c_name = CString::new(name)?;
        let value = sized(|buffer, len| {
            // SAFETY: as above; both strings are NUL-terminated.
            unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), buffer.cast(), len) }
        })?;
        let hex = value.iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(OsStr::from_bytes(name).to_string_lossy().into_owned(), hex);
    }
    Ok(found)
}

/// Calls an xattr function with room for the largest answer Linux gives (64 KiB).
fn sized(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65536];
    match usize::try_from(call(buffer.as_mut_ptr(), buffer.len())) {
        Ok(len) => {
            buffer.truncate(len);
            Ok(buffer)
        }
        Err(_) => {
            let error = io::Error::last_os_error();
            // A filesystem without extended attributes has none.
            if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(Vec::new()) } else { Err(error) }
        }
    }
}
