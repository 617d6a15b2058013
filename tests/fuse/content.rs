//! What is in files.

use crate::harness::{Mount, outside};

#[test]
fn a_sixty_four_mebibyte_file_reads_back_as_written() {
    let mount = Mount::new();
    let (_keep, outside) = outside();
    let outside = outside.display();
    mount.sh(&format!(
        "head -c 67108864 /dev/urandom > {outside}/big; cp {outside}/big big; cmp {outside}/big big"
    ));
    mount
        .py("fd = os.open('big', os.O_RDONLY)\nos.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)");
    mount.sh(&format!("cmp {outside}/big big; test \"$(stat -c %s big)\" = 67108864"));
}

#[test]
fn writes_at_any_offset_and_of_any_size_meet_a_plain_files_content() {
    let mount = Mount::new();
    mount.py(r#"
import random
random.seed(7)
model = bytearray()
fd = os.open("f", os.O_CREAT | os.O_RDWR)
for step in range(600):
    what = random.randrange(10)
    if what < 6:
        at, n = random.randrange(1 << 20), random.choice([1, 100, 4096, 5000, 70000, 300000])
        data = random.randbytes(n)
        os.pwrite(fd, data, at)
        if len(model) < at: model.extend(bytes(at - len(model)))
        model[at:at + n] = data
    elif what < 8:
        at, n = random.randrange(1 << 20), random.randrange(1, 200000)
        assert os.pread(fd, n, at) == bytes(model[at:at + n]), (step, at, n)
    elif what < 9:
        size = random.randrange(1 << 20)
        os.ftruncate(fd, size)
        model = model[:size] + bytes(size - len(model[:size]))
    else:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.fstat(fd).st_size == len(model)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
assert os.pread(fd, len(model) + 1, 0) == bytes(model)
"#);
}

#[test]
fn a_shared_mapping_is_the_file_and_a_private_one_is_not() {
    let mount = Mount::new();
    mount.py(r#"
import mmap
with open("f", "wb") as f: f.write(b"a" * 10000)
fd = os.open("f", os.O_RDWR)
shared = mmap.mmap(fd, 10000)
shared[5000:5003] = b"xyz"
assert os.pread(fd, 3, 5000) == b"xyz", "seen before it is flushed"
os.pwrite(fd, b"Q", 9999)
assert shared[9999:10000] == b"Q", "a write is seen in the mapping"
shared.flush()
shared.close()
os.close(fd)
fd = os.open("f", os.O_RDWR)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
assert os.pread(fd, 3, 5000) == b"xyz"
private = mmap.mmap(fd, 10000, flags=mmap.MAP_PRIVATE)
private[0:3] = b"ZZZ"
assert os.pread(fd, 3, 0) == b"aaa"
program = mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
assert program[0:1] == b"a"
"#);
}

#[test]
fn sparse_files_keep_their_holes() {
    let mount = Mount::new();
    mount.py(r#"
fd = os.open("f", os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"x" * 4096, 0)
os.pwrite(fd, b"y" * 4096, 1 << 30)
st = os.fstat(fd)
assert st.st_size == (1 << 30) + 4096
assert st.st_blocks * 512 < 1 << 20, st.st_blocks
assert os.lseek(fd, 0, os.SEEK_DATA) == 0
assert os.lseek(fd, 0, os.SEEK_HOLE) == 4096
assert os.lseek(fd, 4096, os.SEEK_DATA) == 1 << 30
assert os.lseek(fd, 1 << 30, os.SEEK_HOLE) == (1 << 30) + 4096
fails(errno.ENXIO, os.lseek, fd, st.st_size, os.SEEK_DATA)
assert os.pread(fd, 10, 1 << 29) == bytes(10)
os.ftruncate(fd, 1 << 40)
assert os.fstat(fd).st_size == 1 << 40
assert os.lseek(fd, (1 << 30) + 4096, os.SEEK_HOLE) == (1 << 30) + 4096
fails(errno.ENXIO, os.lseek, fd, (1 << 30) + 4096, os.SEEK_DATA)
os.ftruncate(fd, 2)
assert os.fstat(fd).st_blocks <= 8
os.ftruncate(fd, 8192)
assert os.pread(fd, 8192, 0) == b"xx" + bytes(8190), "what was cut off does not come back"
"#);
}

#[test]
fn a_file_ends_at_the_largest_offset_and_not_beyond() {
    let mount = Mount::new();
    mount.py(r#"
fd = os.open("f", os.O_CREAT | os.O_RDWR)
last = (1 << 63) - 1
os.ftruncate(fd, last)
assert os.fstat(fd).st_size == last
assert os.pread(fd, 4, last - 4) == bytes(4)
os.pwrite(fd, b"end", 1 << 62)
assert os.pread(fd, 3, 1 << 62) == b"end"
assert os.pwrite(fd, b"z", last - 1) == 1
assert os.pread(fd, 3, last - 3) == b"\0\0z"
assert os.fstat(fd).st_size == last
fails(errno.EINVAL, os.pwrite, fd, b"z", last)
"#);
}

#[test]
fn fallocate_extends_punches_and_zeroes() {
    let mount = Mount::new();
    mount.py(r#"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(fd, mode, at, n):
    if libc.fallocate(fd, mode, ctypes.c_long(at), ctypes.c_long(n)):
        raise OSError(ctypes.get_errno(), "fallocate")
KEEP, PUNCH, COLLAPSE, ZERO = 1, 2, 8, 16
fd = os.open("f", os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"d" * 100000, 0)
fallocate(fd, 0, 50000, 100000)
assert os.fstat(fd).st_size == 150000
fallocate(fd, KEEP, 0, 1 << 20)
assert os.fstat(fd).st_size == 150000
fallocate(fd, PUNCH | KEEP, 4096, 8192)
assert os.pread(fd, 3 * 4096, 4096 - 100)[:100 + 8192 + 5] == b"d" * 100 + bytes(8192) + b"d" * 5
assert os.lseek(fd, 0, os.SEEK_HOLE) == 4096
fallocate(fd, PUNCH | KEEP, 50001, 7)
assert os.pread(fd, 9, 50000) == b"d" + bytes(7) + b"d", "holes need no alignment"
fallocate(fd, ZERO, 99990, 100000)
assert os.fstat(fd).st_size == 199990
assert os.pread(fd, 20, 99980) == b"d" * 10 + bytes(10)
fallocate(fd, ZERO | KEEP, 199000, 5000)
assert os.fstat(fd).st_size == 199990
fails(errno.EOPNOTSUPP, fallocate, fd, COLLAPSE, 0, 4096)
os.posix_fallocate(fd, 0, 300000)
assert os.fstat(fd).st_size == 300000
"#);
}

#[test]
fn copy_file_range_copies_between_and_within_files() {
    let mount = Mount::new();
    mount.py(r#"
data = os.urandom(1 << 20) + b"tail"
with open("a", "wb") as f: f.write(data)
a, b = os.open("a", os.O_RDWR), os.open("b", os.O_CREAT | os.O_RDWR)
def copy(source, target, n, at, to):
    done = 0
    while done < n:
        step = os.copy_file_range(source, target, n - done, at + done, to + done)
        if not step: break
        done += step
    return done
assert copy(a, b, 1 << 30, 0, 0) == len(data)
assert os.pread(b, 1 << 21, 0) == data
assert copy(a, b, 1000, 12345, 777) == 1000, "nothing aligned"
expected = bytearray(data); expected[777:1777] = data[12345:13345]
assert os.pread(b, 1 << 21, 0) == bytes(expected)
assert copy(a, a, 4096, 0, 1 << 21) == 4096
assert os.pread(a, 4096, 1 << 21) == data[:4096]
os.pwrite(a, b"changed", 0)
assert os.pread(b, 7, 0) == data[:7], "the copy is its own"
assert copy(a, b, 10, 1 << 40, 0) == 0
fails(errno.EINVAL, os.copy_file_range, a, a, 4096, 0, 100)
"#);
}

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    let mount = Mount::new();
    mount.py(r#"
fd = os.open("f", os.O_CREAT | os.O_RDWR)
os.write(fd, b"still here")
os.unlink("f")
fails(errno.ENOENT, os.stat, "f")
assert os.fstat(fd).st_nlink == 0
assert os.pread(fd, 100, 0) == b"still here"
os.pwrite(fd, b"more", 100000)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
assert os.pread(fd, 4, 100000) == b"more"
os.ftruncate(fd, 3)
os.fsync(fd)
with open("f", "wb") as other: other.write(b"another")
assert os.pread(fd, 100, 0) == b"sti"
again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
assert os.pread(again, 100, 0) == b"sti", "opened anew through /proc"
os.mkdir("d"); held = os.open("d", os.O_RDONLY); os.rmdir("d")
assert os.listdir(held) in ([], ), os.listdir(held)
fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_RDWR, dir_fd=held)
"#);
}

#[test]
fn a_file_replaced_by_a_rename_stays_readable_by_those_who_have_it_open() {
    let mount = Mount::new();
    mount.py(r#"
with open("f", "w") as f: f.write("old")
fd = os.open("f", os.O_RDONLY)
with open("g", "w") as f: f.write("new!")
os.rename("g", "f")
assert os.pread(fd, 10, 0) == b"old"
assert os.fstat(fd).st_nlink == 0
assert open("f").read() == "new!"
"#);
}

#[test]
fn appenders_do_not_overwrite_each_other() {
    let mount = Mount::new();
    mount.py(r#"
script = '''
import os, sys
fd = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for i in range(500): os.write(fd, (sys.argv[1] + "%03d\\n" % i).encode())
'''
children = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "abcd"]
assert [c.wait() for c in children] == [0] * 4
lines = open("log").read().split("\n")
assert len(lines) == 2001 and lines[-1] == ""
for name in "abcd":
    assert [l for l in lines if l[:1] == name] == [name + "%03d" % i for i in range(500)]
"#);
}

#[test]
fn truncating_on_open_empties_the_file() {
    let mount = Mount::new();
    mount.py(r#"
with open("f", "w") as f: f.write("long text")
before = os.stat("f")
time.sleep(0.02)
fd = os.open("f", os.O_WRONLY | os.O_TRUNC)
after = os.stat("f")
assert after.st_size == 0 and after.st_ino == before.st_ino
assert after.st_mtime_ns > before.st_mtime_ns
os.close(fd)
fails(errno.EEXIST, os.open, "f", os.O_CREAT | os.O_EXCL)
"#);
}

#[test]
fn direct_io_and_synchronous_writes_work() {
    let mount = Mount::new();
    mount.sh("dd if=/dev/urandom of=a bs=1M count=4 oflag=direct status=none
         dd if=a of=b bs=64K iflag=direct oflag=dsync status=none
         cmp a b
         dd if=/dev/zero of=c bs=4K count=8 oflag=sync status=none
         sync a b c; sync -f a");
}
