//! Attributes, permissions, locks, extended attributes, links.

use crate::harness::Mount;

#[test]
fn times_are_set_to_the_nanosecond_and_follow_the_operations() {
    let mount = Mount::new();
    mount.py(r#"
open("f", "w").close()
os.utime("f", ns=(1_000_000_001, -5_000_000_001))
st = os.stat("f")
assert (st.st_atime_ns, st.st_mtime_ns) == (1_000_000_001, -5_000_000_001), st
assert abs(st.st_ctime_ns - time.time_ns()) < 5e9
os.utime("f")
assert abs(os.stat("f").st_mtime_ns - time.time_ns()) < 5e9
subprocess.check_call(["touch", "-m", "-d", "2001-02-03 04:05:06.123456789 UTC", "f"])
st = os.stat("f")
assert st.st_mtime_ns == 981173106_123456789, st.st_mtime_ns
assert abs(st.st_atime_ns - time.time_ns()) < 5e9, "UTIME_OMIT leaves the other"
def later(what, *fields):
    before = [getattr(os.lstat(p), n) for p, n in fields]
    time.sleep(0.012)
    what()
    for (p, n), old in zip(fields, before):
        assert getattr(os.lstat(p), n) > old, (p, n)
os.mkdir("d")
M, C = "st_mtime_ns", "st_ctime_ns"
later(lambda: open("f", "a").write("x"), ("f", M), ("f", C))
later(lambda: os.chmod("f", 0o600), ("f", C))
later(lambda: os.link("f", "d/g"), ("f", C), ("d", M), ("d", C))
later(lambda: os.rename("d/g", "h"), ("f", C), ("d", M), (".", M))
later(lambda: os.unlink("h"), ("f", C), (".", M))
later(lambda: os.mkdir("d/e"), ("d", M))
later(lambda: os.rmdir("d/e"), ("d", M))
later(lambda: os.symlink("x", "d/l"), ("d", M))
later(lambda: os.truncate("f", 0), ("f", M), ("f", C))
later(lambda: os.setxattr("f", "user.a", b"1"), ("f", C))
"#);
}

#[test]
fn hard_links_share_one_inode() {
    let mount = Mount::new();
    mount.py(r#"
open("a", "w").write("x")
os.link("a", "b"); os.mkdir("d"); os.link("b", "d/c")
assert len({os.stat(p).st_ino for p in ("a", "b", "d/c")}) == 1
assert os.stat("a").st_nlink == 3
open("d/c", "a").write("y")
assert open("a").read() == "xy"
os.unlink("a")
assert os.stat("b").st_nlink == 2
fails(errno.EEXIST, os.link, "b", "d/c")
fails(errno.EPERM, os.link, "d", "e")
os.rename("b", "d/c")
assert os.path.exists("b") and os.path.exists("d/c"), "two names of one inode: nothing to do"
assert os.stat("d").st_nlink == 2
os.mkdir("d/sub")
assert os.stat("d").st_nlink == 3
os.rmdir("d/sub")
assert os.stat("d").st_nlink == 2
os.symlink("a", "s"); os.link("s", "t", follow_symlinks=False)
assert os.lstat("t").st_ino == os.lstat("s").st_ino
"#);
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let mount = Mount::new();
    mount.py(r#"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def renameat2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        raise OSError(ctypes.get_errno(), "renameat2")
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
def put(name, text): open(name, "w").write(text)
put("a", "A"); put("b", "B")
fails(errno.EEXIST, renameat2, "a", "b", NOREPLACE)
renameat2("a", "b", EXCHANGE)
assert (open("a").read(), open("b").read()) == ("B", "A")
renameat2("a", "c", NOREPLACE)
assert open("c").read() == "B" and not os.path.exists("a")
fails(errno.ENOENT, renameat2, "c", "none", EXCHANGE)
fails(errno.EINVAL, renameat2, "c", "none", EXCHANGE | NOREPLACE)
os.makedirs("d/e"); put("d/e/f", "F"); os.mkdir("empty")
renameat2("d", "c", EXCHANGE)
assert open("c/e/f").read() == "F" and open("d").read() == "B"
assert os.stat("c/e/..").st_ino == os.stat("c").st_ino
fails(errno.ENOTEMPTY, os.rename, "empty", "c")
fails(errno.EINVAL, os.rename, "c", "c/e/x")
fails(errno.EISDIR, os.rename, "d", "c")
fails(errno.ENOTDIR, os.rename, "c", "d")
os.rename("c", "empty")
assert open("empty/e/f").read() == "F"
os.mkdir("other"); os.rename("empty/e", "other/e")
assert os.stat("other/e/..").st_ino == os.stat("other").st_ino, ".. follows the move"
assert (os.stat("other").st_nlink, os.stat("empty").st_nlink) == (3, 2)
os.rename("d", "d")
"#);
}

#[test]
fn extended_attributes_of_every_space_are_kept() {
    let mount = Mount::new();
    mount.py(r#"
open("f", "w").close(); os.mkdir("d"); os.symlink("f", "l")
for name in ("user.a", "trusted.b", "security.c"):
    for path in ("f", "d"):
        os.setxattr(path, name, name.encode() * 10)
        assert os.getxattr(path, name) == name.encode() * 10
os.setxattr("l", "trusted.link", b"on the link", follow_symlinks=False)
assert os.listxattr("l", follow_symlinks=False) == ["trusted.link"]
assert sorted(os.listxattr("f")) == ["security.c", "trusted.b", "user.a"]
fails(errno.EEXIST, os.setxattr, "f", "user.a", b"x", os.XATTR_CREATE)
fails(errno.ENODATA, os.setxattr, "f", "user.z", b"x", os.XATTR_REPLACE)
os.setxattr("f", "user.a", b"", os.XATTR_REPLACE)
assert os.getxattr("f", "user.a") == b""
big = os.urandom(65536)
os.setxattr("f", "user.big", big)
assert os.getxattr("f", "user.big") == big
fails(errno.E2BIG, os.setxattr, "f", "user.big", big + b"x")
name = "user." + "n" * 250
os.setxattr("f", name, b"long name")
assert os.getxattr("f", name) == b"long name"
os.removexattr("f", "user.big")
fails(errno.ENODATA, os.getxattr, "f", "user.big")
fails(errno.ENODATA, os.removexattr, "f", "user.big")
fails(errno.ENODATA, os.getxattr, "f", "security.capability")
"#);
}

#[test]
fn without_xattrs_they_are_not_supported_and_nothing_else_suffers() {
    let mount = Mount::with(|options| options.xattr = false);
    mount.py(r#"
open("f", "w").write("x")
fails(errno.EOPNOTSUPP, os.setxattr, "f", "user.a", b"1")
fails(errno.EOPNOTSUPP, os.getxattr, "f", "user.a")
subprocess.check_call(["cp", "-a", "f", "g"])
assert open("g").read() == "x"
"#);
}

#[test]
fn access_control_lists_are_enforced_inherited_and_follow_chmod() {
    let mount = Mount::new();
    mount.sh(r#"
chmod 755 .
as() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
echo secret > f; chmod 600 f
! as cat f 2> /dev/null
setfacl -m u:65534:r f
test "$(as cat f)" = secret
! as sh -c 'echo x >> f' 2> /dev/null
test "$(stat -c %a f)" = 640
getfacl -cn f | grep -q '^user:65534:r--$'
chmod 600 f
getfacl -cn f | grep -q '^mask::---$'
! as cat f 2> /dev/null
chmod 660 f; as cat f > /dev/null
setfacl -b f
test "$(stat -c %a f)" = 660 -o "$(stat -c %a f)" = 600
mkdir d; setfacl -d -m u:65534:rwx d; setfacl -m u:65534:rwx d
umask 077
mkdir d/sub; echo hi > d/file
getfacl -cn d/sub | grep -q '^default:user:65534:rwx$'
getfacl -cn d/file | grep -q '^user:65534:rwx'
test "$(as cat d/file)" = hi
as sh -c 'echo there >> d/file; mkdir d/sub/deeper; echo x > d/sub/deeper/y'
getfacl -cn d/sub/deeper | grep -q '^default:user:65534:rwx$'
cp -a d copy
getfacl -cn copy/file | grep -q '^user:65534:rwx'
"#);
}

#[test]
fn permissions_are_checked_for_each_user() {
    let mount = Mount::new();
    mount.sh(r#"
chmod 755 .
as() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
mkdir -m 700 closed; echo x > closed/f; chmod 644 closed/f; cat closed/f
! as cat closed/f 2> /dev/null
! as touch new 2> /dev/null
mkdir -m 1777 sticky; echo x > sticky/root
as sh -c 'echo mine > sticky/mine'
test "$(stat -c %u:%g sticky/mine)" = 65534:65534
! as rm -f sticky/root 2> /dev/null
as rm sticky/mine
echo x > f; chmod 640 f; chgrp 65534 f
as cat f
! as chmod 777 f 2> /dev/null
! as chown 65534 f 2> /dev/null
chown 65534 f; as chmod 600 f
! as chown 0 f 2> /dev/null
"#);
}

#[test]
fn a_setgid_directory_hands_its_group_on() {
    let mount = Mount::new();
    mount.sh(r#"
mkdir d; chgrp 1234 d; chmod 2775 d
mkdir d/sub; touch d/file; ln -s x d/link; mkfifo d/pipe
for f in d/sub d/file d/link d/pipe; do test "$(stat -c %g $f)" = 1234; done
test "$(stat -c %a d/sub)" = 2755
test "$(stat -c %a d/file)" = 644
mkdir plain; test "$(stat -c %g plain)" = "$(id -g)"
"#);
}

#[test]
fn the_umask_is_taken_off_once() {
    let mount = Mount::new();
    mount.sh(r#"
umask 027; touch f; mkdir d; mkfifo p
test "$(stat -c %a f)" = 640
test "$(stat -c %a d)" = 750
test "$(stat -c %a p)" = 640
umask 0; mkdir -m 7777 all; test "$(stat -c %a all)" = 7777
"#);
}

#[test]
fn set_user_id_bits_fall_with_a_write_a_truncation_or_a_new_owner() {
    let mount = Mount::new();
    mount.sh(
        r#"
chmod 777 .
as() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
fresh() { rm -f f; echo text > f; chown 65534:65534 f; chmod 6777 f; test "$(stat -c %a f)" = 6777; }
fresh; as sh -c 'echo x >> f'; test "$(stat -c %a f)" = 777
fresh; as sh -c ': > f'; test "$(stat -c %a f)" = 777
fresh; chown 1:1 f; test "$(stat -c %a f)" = 777
fresh; echo root >> f; test "$(stat -c %a f)" = 6777
rm -f f; touch f; setcap cap_net_raw+ep f 2> /dev/null || exit 0
getcap f | grep -q cap_net_raw
echo x >> f
! getcap f | grep -q cap_net_raw
"#,
    );
}

#[test]
fn special_files_keep_their_kind_and_number() {
    let mount = Mount::with(|options| options.dev = true);
    mount.py(r#"
os.mkfifo("p")
os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.mknod("big", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
os.mknod("plain", stat.S_IFREG | 0o644)
assert stat.S_ISFIFO(os.stat("p").st_mode) and stat.S_ISREG(os.stat("plain").st_mode)
assert os.stat("null").st_rdev == os.makedev(1, 3)
assert os.stat("big").st_rdev == os.makedev(259, 70000)
open("null", "w").write("gone")
import socket
s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect("sock"); c.send(b"hi")
assert s.accept()[0].recv(2) == b"hi"
child = subprocess.Popen(["sh", "-c", "echo through > p"])
assert open("p").read() == "through\n"
assert child.wait() == 0
"#);
}

#[test]
fn locks_hold_between_processes() {
    let mount = Mount::new();
    mount.py(r#"
import fcntl
open("f", "w").close()
fd = os.open("f", os.O_RDWR)
other = '''
import fcntl, os, sys
fd = os.open("f", os.O_RDWR)
try:
    if sys.argv[1] == "flock": fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
except BlockingIOError: sys.exit(3)
'''
def child(kind): return subprocess.call([sys.executable, "-c", other, kind])
assert child("flock") == 0
fcntl.flock(fd, fcntl.LOCK_EX); assert child("flock") == 3
fcntl.flock(fd, fcntl.LOCK_UN); assert child("flock") == 0
fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5); assert child("lockf") == 3
fcntl.lockf(fd, fcntl.LOCK_UN, 10, 5); assert child("lockf") == 0
fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100); assert child("lockf") == 0, "another range"
waiter = subprocess.Popen([sys.executable, "-c",
    "import fcntl, os; fcntl.lockf(os.open('f', os.O_RDWR), fcntl.LOCK_EX, 10, 100)"])
time.sleep(0.1)
assert waiter.poll() is None
waiter.kill()
assert waiter.wait(5) == -9, "a process that waits for a lock can be killed"
"#);
}

#[test]
fn the_filesystem_tells_its_size() {
    let mount = Mount::new();
    mount.py(r#"
st = os.statvfs(".")
assert st.f_namemax == 255 and st.f_bsize >= 512
assert st.f_blocks >= st.f_bfree >= st.f_bavail > 0
assert st.f_files >= st.f_ffree > 0
"#);
    mount.sh("df . > /dev/null");
}
