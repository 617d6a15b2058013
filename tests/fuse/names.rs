//! Names and directories.

use crate::harness::Mount;

#[test]
fn a_listing_is_whole_while_entries_come_and_go() {
    let mount = Mount::new();
    mount.py(r#"
os.mkdir("d")
for i in range(3000): os.symlink(f"target-{i}", f"d/steady-{i}")
changer = subprocess.Popen([sys.executable, "-c", '''
import os
for i in range(10**9):
    open(f"d/passing-{i}", "w").close()
    if i % 3: os.unlink(f"d/passing-{i}")
    elif i > 9: os.rename(f"d/passing-{i}", "d/moved-%d" % (i % 50))
'''])
steady = {f"steady-{i}" for i in range(3000)}
try:
    for _ in range(30):
        # scandir reads in pieces; while it does, the directory changes.
        seen = [e.name for e in os.scandir("d")]
        assert len(seen) == len(set(seen)), "a name came twice"
        assert steady <= set(seen), sorted(steady - set(seen))[:5]
finally:
    changer.kill(); changer.wait()
assert changer.returncode == -9, changer.returncode
"#);
}

#[test]
fn deleting_while_listing_deletes_everything() {
    let mount = Mount::new();
    mount.py(r#"
os.mkdir("d")
for i in range(3000): open(f"d/{i}", "w").close()
for entry in os.scandir("d"): os.unlink(entry.path)
assert os.listdir("d") == []
os.rmdir("d")
"#);
    mount.sh("mkdir -p a/b/c; touch a/x a/b/y a/b/c/z; rm -r a; test ! -e a");
}

#[test]
fn a_listing_position_can_be_kept_and_gone_back_to() {
    let mount = Mount::new();
    mount.py(r#"
import ctypes
os.mkdir("d")
for i in range(500): open(f"d/{i}", "w").close()
libc = ctypes.CDLL(None)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
d = ctypes.c_void_p(libc.opendir(b"d"))
def read():
    p = libc.readdir(d)
    return ctypes.string_at(p + 19) if p else None
first = [read() for _ in range(100)]
place = libc.telldir(d)
rest = []
while (name := read()) is not None: rest.append(name)
libc.seekdir(d, ctypes.c_long(place))
again = []
while (name := read()) is not None: again.append(name)
assert again == rest and len(first + rest) == 502, (len(again), len(rest))
libc.rewinddir(d)
assert [read() for _ in range(100)] == first
"#);
}

#[test]
fn names_may_be_any_bytes_up_to_255() {
    let mount = Mount::new();
    mount.py(
        r#"
names = [b"\xff\xfe\x80", b"\n", b" ", b"-rf", b"n" * 255, "ü".encode() * 127, b"\\", b"a\tb", b"..."]
for name in names:
    with open(name, "wb") as f: f.write(name)
assert sorted(os.listdir(b".")) == sorted(names)
for name in names:
    assert open(name, "rb").read() == name
    os.rename(name, name[:254] + b"!")
for name in names: os.unlink(name[:254] + b"!")
fails(errno.ENAMETOOLONG, open, b"n" * 256, "wb")
fails(errno.ENAMETOOLONG, os.stat, b"n" * 256)
fails(errno.ENAMETOOLONG, os.mkdir, b"n" * 256)
long = "t" * 4095
os.symlink(long, "link")
assert os.readlink("link") == long and os.lstat("link").st_size == 4095
os.symlink(b"\xff/\n", b"raw")
assert os.readlink(b"raw") == b"\xff/\n"
"#,
    );
}

#[test]
fn paths_may_be_deep() {
    let mount = Mount::new();
    mount.py(r#"
for i in range(300):
    os.mkdir(f"level-{i}"); os.chdir(f"level-{i}")
open("bottom", "w").write("deep")
assert len(os.getcwd()) > 2500
for i in range(300): os.chdir("..")
assert os.getcwd() == os.environ["MOUNT"]
subprocess.check_call(["rm", "-r", "level-0"])
"#);
}

#[test]
fn directories_are_removed_when_empty_only() {
    let mount = Mount::new();
    mount.py(r#"
os.mkdir("d"); open("d/f", "w").close()
fails(errno.ENOTEMPTY, os.rmdir, "d")
fails(errno.EISDIR, os.unlink, "d")
fails(errno.ENOTDIR, os.rmdir, "d/f")
fails(errno.EEXIST, os.mkdir, "d")
fails(errno.ENOENT, os.rmdir, "none")
fails(errno.ENOTDIR, os.stat, "d/f/x")
os.unlink("d/f"); os.rmdir("d")
fails(errno.ENOENT, os.mkdir, "d/e")
"#);
}
