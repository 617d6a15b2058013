//! One of the two directories, and the system calls that are made in it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use dormouse::fs::{AllocateMode, RenameMode, XattrMode};
use dormouse::types::Kind;

use crate::differences::comparable;
use crate::facts;
use crate::ops::{Op, written};

pub const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"\xff\x01 odd", &[b'n'; 255]];
const XATTRS: [&str; 6] =
    ["user.a", "user.b", "trusted.t", "security.capability", "security.s", "other.x"];
const TARGET: &str = "../some/where";
const USER: u32 = 1000;

/// Longest value of an extended attribute here: ext4 keeps all of a file's in one block.
const XATTR_LEN_MAX: u16 = 600;

/// What a system call answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Names(Vec<Vec<u8>>),
    Fails(i32),
}

/// A file that an operation is about.
#[derive(Debug, Clone)]
pub enum Target {
    /// By its path from the base.
    Path(PathBuf),
    /// One that is held open.
    Held(usize),
}

/// What an operation is about, the same on both sides.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Up to two files or directories.
    pub targets: Vec<Target>,
    /// Up to two directories that something is named in.
    pub dirs: Vec<PathBuf>,
    /// Which one of the history it is.
    pub step: u64,
}

/// A directory with what is held open in it.
pub struct Side {
    pub base: PathBuf,
    pub held: Vec<File>,
}

pub fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// For as long as it lives, files are touched as this user would.
struct Acting;

impl Acting {
    fn user(is_root: bool) -> Acting {
        let (id, umask) = if is_root { (0, 0o022) } else { (USER, 0o077) };
        Acting::set(id, umask);
        Acting
    }

    fn set(id: u32, umask: u32) {
        nix::unistd::setfsgid(id.into());
        nix::unistd::setfsuid(id.into());
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        Acting::set(0, 0o022);
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn done(result: libc::c_int) -> Answer {
    if result < 0 { Answer::Fails(last_errno()) } else { Answer::Done }
}

fn number(result: i64) -> Answer {
    u64::try_from(result).map_or_else(|_| Answer::Fails(last_errno()), Answer::Number)
}

fn of_io<T>(result: std::io::Result<T>, ok: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(value) => ok(value),
        Err(error) => Answer::Fails(error.raw_os_error().unwrap_or(-1)),
    }
}

impl Side {
    fn path(&self, relative: &Path) -> PathBuf {
        if relative == Path::new("") { self.base.clone() } else { self.base.join(relative) }
    }

    fn named(&self, dir: &Path, name: u8) -> CString {
        let name = std::ffi::OsStr::from_bytes(NAMES[usize::from(name)]);
        c_path(&self.path(dir).join(name))
    }

    /// A descriptor of its own, for reading and writing.
    fn open(&self, target: &Target) -> Result<File, i32> {
        match target {
            Target::Held(index) => Ok(self.held[*index].try_clone().unwrap()),
            Target::Path(path) => {
                open_raw(&c_path(&self.path(path)), libc::O_RDWR | libc::O_NONBLOCK, 0)
            }
        }
    }

    /// A path that leads to a file, also to one that has no name any more.
    fn way(&self, target: &Target) -> CString {
        match target {
            Target::Path(path) => c_path(&self.path(path)),
            Target::Held(index) => {
                let descriptor = self.held[*index].as_raw_fd();
                CString::new(format!("/proc/self/fd/{descriptor}")).unwrap()
            }
        }
    }

    /// Carries out one operation.
    pub fn apply(&mut self, op: &Op, chosen: &Chosen) -> Answer {
        match op {
            Op::Make { .. } | Op::Open { .. } | Op::Lookup { .. } | Op::Link { .. } => {
                self.naming(op, chosen)
            }
            Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } => self.removing(op, chosen),
            Op::Chmod { .. } | Op::Chown { .. } | Op::Utimes { .. } => {
                self.attributes(op, &chosen.targets[0])
            }
            Op::SetXattr { .. } | Op::RemoveXattr { .. } => self.xattrs(op, &chosen.targets[0]),
            Op::List { .. } => {
                facts::list(&self.path(&chosen.dirs[0])).map_or_else(Answer::Fails, Answer::Names)
            }
            Op::Access { mask, root, .. } => {
                self.access(&chosen.targets[0], i32::from(*mask), *root)
            }
            Op::Copy { .. } => self.copy(op, chosen),
            _ => match self.open(&chosen.targets[0]) {
                Ok(file) => content(op, &file, chosen.step),
                Err(errno) => Answer::Fails(errno),
            },
        }
    }

    fn naming(&mut self, op: &Op, chosen: &Chosen) -> Answer {
        let path = |name| self.named(&chosen.dirs[0], name);
        // SAFETY (all below): the paths end with NUL and live as long as the call.
        match *op {
            Op::Make { name, kind, mode, root, .. } => {
                let path = path(name);
                let _user = Acting::user(root);
                done(make(&path, kind, mode))
            }
            Op::Open { name, mode, exclusive, .. } => {
                let exclusive = if exclusive { libc::O_EXCL } else { 0 };
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NONBLOCK | exclusive;
                match open_raw(&path(name), flags, mode) {
                    Ok(file) => {
                        self.held.push(file);
                        Answer::Done
                    }
                    Err(errno) => Answer::Fails(errno),
                }
            }
            Op::Link { name, .. } => {
                let (from, path) = (self.way(&chosen.targets[0]), path(name));
                let here = libc::AT_FDCWD;
                let flags = match &chosen.targets[0] {
                    Target::Held(_) => libc::AT_SYMLINK_FOLLOW,
                    Target::Path(_) => 0,
                };
                done(unsafe { libc::linkat(here, from.as_ptr(), here, path.as_ptr(), flags) })
            }
            Op::Lookup { name, .. } => {
                let path = path(name);
                let path = std::ffi::OsStr::from_bytes(path.as_bytes());
                of_io(std::fs::symlink_metadata(path), |meta| {
                    let facts = (comparable(meta.mode()), meta.uid(), meta.gid(), meta.nlink());
                    Answer::Bytes(format!("{facts:?}").into_bytes())
                })
            }
            _ => unreachable!("not an operation that names"),
        }
    }

    fn removing(&self, op: &Op, chosen: &Chosen) -> Answer {
        let path = |index: usize, name| self.named(&chosen.dirs[index], name);
        match *op {
            Op::Unlink { name, .. } => done(unsafe { libc::unlink(path(0, name).as_ptr()) }),
            Op::Rmdir { name, .. } => done(unsafe { libc::rmdir(path(0, name).as_ptr()) }),
            Op::Rename { from, to, mode } => {
                let (from, to) = (path(0, from.1), path(1, to.1));
                let flags = match mode {
                    RenameMode::Replace => 0,
                    RenameMode::NoReplace => libc::RENAME_NOREPLACE,
                    RenameMode::Exchange => libc::RENAME_EXCHANGE,
                };
                let here = libc::AT_FDCWD;
                done(unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), flags) })
            }
            _ => unreachable!("not an operation that removes"),
        }
    }

    fn attributes(&self, op: &Op, target: &Target) -> Answer {
        let path = self.way(target);
        // /proc/self/fd is itself a link, which has to be followed.
        let is_held = matches!(target, Target::Held(_));
        let no_follow = if is_held { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        let here = libc::AT_FDCWD;
        match *op {
            // Follows a link, to where nothing is: links have no mode of their own.
            Op::Chmod { mode, .. } => done(unsafe { libc::chmod(path.as_ptr(), mode) }),
            Op::Chown { uid, gid, .. } => {
                let [uid, gid] = [uid, gid].map(|id| id.unwrap_or(u32::MAX));
                done(unsafe { libc::fchownat(here, path.as_ptr(), uid, gid, no_follow) })
            }
            Op::Utimes { atime, mtime, .. } => {
                let times = [atime, mtime].map(|time| libc::timespec {
                    tv_sec: time.unwrap_or(0),
                    tv_nsec: time.map_or(libc::UTIME_OMIT, |_| 123),
                });
                let set =
                    unsafe { libc::utimensat(here, path.as_ptr(), times.as_ptr(), no_follow) };
                if set < 0 { done(set) } else { self.times(&path, is_held, (atime, mtime)) }
            }
            _ => unreachable!("not an operation on attributes"),
        }
    }

    /// What the user may do with a file; of a link, with the link.
    fn access(&self, target: &Target, mask: libc::c_int, root: bool) -> Answer {
        let path = self.way(target);
        let no_follow = match target {
            Target::Held(_) => 0,
            Target::Path(_) => libc::AT_SYMLINK_NOFOLLOW,
        };
        let flags = libc::AT_EACCESS | no_follow;
        let _user = Acting::user(root);
        // The C library's own looks at modes by itself. SAFETY: the path ends with NUL.
        let may = unsafe {
            libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), mask, flags)
        };
        done(may as libc::c_int)
    }

    /// The times that were set, as they are then.
    fn times(&self, path: &CString, is_held: bool, set: (Option<i64>, Option<i64>)) -> Answer {
        let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let meta = if is_held { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
        let meta = meta.unwrap();
        let atime = set.0.map(|_| (meta.atime(), meta.atime_nsec()));
        let mtime = set.1.map(|_| (meta.mtime(), meta.mtime_nsec()));
        Answer::Bytes(format!("{atime:?} {mtime:?}").into_bytes())
    }

    fn xattrs(&self, op: &Op, target: &Target) -> Answer {
        let path = self.way(target);
        let is_held = matches!(target, Target::Held(_));
        match *op {
            Op::SetXattr { name, len, mode, .. } => {
                let name = CString::new(XATTRS[usize::from(name)]).unwrap();
                let value = vec![len as u8; usize::from(len % XATTR_LEN_MAX)];
                let flags = match mode {
                    XattrMode::Set => 0,
                    XattrMode::Create => libc::XATTR_CREATE,
                    XattrMode::Replace => libc::XATTR_REPLACE,
                };
                let set = if is_held { libc::setxattr } else { libc::lsetxattr };
                let value_at = value.as_ptr().cast();
                done(unsafe { set(path.as_ptr(), name.as_ptr(), value_at, value.len(), flags) })
            }
            Op::RemoveXattr { name, .. } => {
                let name = CString::new(XATTRS[usize::from(name)]).unwrap();
                let remove = if is_held { libc::removexattr } else { libc::lremovexattr };
                done(unsafe { remove(path.as_ptr(), name.as_ptr()) })
            }
            _ => unreachable!("not an operation on extended attributes"),
        }
    }

    fn copy(&self, op: &Op, chosen: &Chosen) -> Answer {
        let &Op::Copy { source_offset, target_offset, len, .. } = op else {
            unreachable!("not a copy")
        };
        let source = match self.open(&chosen.targets[0]) {
            Ok(file) => file,
            Err(errno) => return Answer::Fails(errno),
        };
        let target = match self.open(&chosen.targets[1]) {
            Ok(file) => file,
            Err(errno) => return Answer::Fails(errno),
        };
        let (mut from, mut to) = (source_offset as i64, target_offset as i64);
        let (source, target) = (source.as_raw_fd(), target.as_raw_fd());
        let _user = Acting::user(false);
        let copied =
            unsafe { libc::copy_file_range(source, &mut from, target, &mut to, len as usize, 0) };
        number(copied as i64)
    }
}

/// Operations on the content of one file.
fn content(op: &Op, file: &File, step: u64) -> Answer {
    let descriptor: RawFd = file.as_raw_fd();
    match *op {
        Op::Write { offset, len, byte, kill_priv, .. } => {
            let data = written(step, byte, len);
            // What an unprivileged writer does to set-user-id bits.
            let _user = Acting::user(!kill_priv);
            of_io(file.write_at(&data, offset), |len| Answer::Number(len as u64))
        }
        Op::Read { offset, len, .. } => {
            let mut bytes = vec![0; len as usize];
            let mut filled = 0;
            while filled < bytes.len() {
                match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(error) => return Answer::Fails(error.raw_os_error().unwrap()),
                }
            }
            bytes.truncate(filled);
            Answer::Bytes(bytes)
        }
        Op::Resize { size, root, .. } => {
            let _user = Acting::user(root);
            of_io(file.set_len(size), |()| Answer::Done)
        }
        Op::Allocate { offset, len, mode, .. } => {
            let keep = libc::FALLOC_FL_KEEP_SIZE;
            let flags = match mode {
                AllocateMode::Extend => 0,
                AllocateMode::KeepSize => keep,
                AllocateMode::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | keep,
                AllocateMode::ZeroRange { keep_size: true } => libc::FALLOC_FL_ZERO_RANGE | keep,
                AllocateMode::ZeroRange { keep_size: false } => libc::FALLOC_FL_ZERO_RANGE,
            };
            let _user = Acting::user(false);
            done(unsafe { libc::fallocate(descriptor, flags, offset as i64, len as i64) })
        }
        Op::Seek { offset, data, .. } => seek(file, offset, data),
        Op::Fsync { .. } => of_io(file.sync_all(), |()| Answer::Done),
        _ => unreachable!("not an operation on content"),
    }
}

/// What is skipped on the way to data must read as zeros.
fn seek(file: &File, offset: u64, data: bool) -> Answer {
    let whence = if data { libc::SEEK_DATA } else { libc::SEEK_HOLE };
    // SAFETY: takes numbers only.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
    let answer = number(found);
    let size = file.metadata().unwrap().len();
    let end = match answer {
        Answer::Number(found) if data => found,
        Answer::Fails(libc::ENXIO) if data => size,
        _ => return answer,
    };
    if offset < end {
        let mut skipped = vec![1; (end - offset) as usize];
        file.read_exact_at(&mut skipped, offset).unwrap();
        assert!(skipped.iter().all(|&byte| byte == 0), "data before what SEEK_DATA found");
    }
    answer
}

fn open_raw(path: &CString, flags: libc::c_int, mode: u32) -> Result<File, i32> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the path ends with NUL; the descriptor that comes back is nobody else's.
    unsafe {
        match libc::open(path.as_ptr(), flags, mode) {
            descriptor if descriptor < 0 => Err(last_errno()),
            descriptor => Ok(File::from_raw_fd(descriptor)),
        }
    }
}

fn make(path: &CString, kind: Kind, mode: u32) -> libc::c_int {
    let path = path.as_ptr();
    let target = CString::new(TARGET).unwrap();
    // SAFETY: the paths end with NUL.
    unsafe {
        match kind {
            Kind::Directory => libc::mkdir(path, mode),
            Kind::Symlink => libc::symlink(target.as_ptr(), path),
            Kind::Fifo => libc::mknod(path, libc::S_IFIFO | mode, 0),
            Kind::CharDevice => libc::mknod(path, libc::S_IFCHR | mode, libc::makedev(1, 3)),
            _ => libc::mknod(path, libc::S_IFREG | mode, 0),
        }
    }
}
