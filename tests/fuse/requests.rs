//! Exact numbers of requests.

use dormouse::fuse::Opcode;

use crate::harness::{Mount, sum};

const CREATE_1000: &str = r#"
import os
for i in range(1000):
    fd = os.open(f"files/f{i}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
    os.write(fd, b"x" * 4096)
    os.close(fd)
"#;

#[test]
fn a_written_file_costs_five_requests_and_four_without_xattrs() {
    // LOOKUP, CREATE and WRITE are the floor. Permission checks by the kernel add a GETATTR of
    // the directory that the last CREATE changed; extended attributes add a GETXATTR, because
    // the kernel looks for security.capability before the first write.
    for (xattr, each) in [(true, 5), (false, 4)] {
        let mount = Mount::with(|options| options.xattr = xattr);
        mount.sh("mkdir files; stat files");
        let before = mount.counts();
        mount.py(CREATE_1000);
        let counts = mount.counts().since(&before);
        // Python itself looks around a little.
        assert!(counts.total() <= each * 1000 + 10, "{counts}");
        assert_eq!(counts.of(Opcode::Create), 1000, "{counts}");
        assert_eq!(counts.of(Opcode::Write), 1000, "{counts}");
        let unwanted = [Opcode::Open, Opcode::Flush, Opcode::Release, Opcode::SetAttr];
        assert_eq!(sum(&counts, &unwanted), 0, "{counts}");
    }
}

#[test]
fn a_warm_stat_and_a_warm_read_cost_nothing() {
    let mount = Mount::new();
    mount.sh("mkdir files");
    mount.py(CREATE_1000);
    mount.sh("stat files/* > /dev/null");
    let stat = mount.cost("stat files/* > /dev/null");
    // The shell's own look at the directory.
    assert!(stat.total() <= 2, "{stat}");
    let read = mount.cost("cat files/* > /dev/null");
    assert!(read.total() <= 2, "{read}");
    let find = mount.cost("find files -name 'f1*' > /dev/null");
    assert!(find.total() <= 4, "{find}");
}

#[test]
fn a_name_that_is_missing_is_asked_for_once() {
    let mount = Mount::new();
    let first = mount.cost("test ! -e missing");
    assert_eq!(first.of(Opcode::Lookup), 1, "{first}");
    let second = mount.cost("test ! -e missing; test ! -e missing");
    assert_eq!(second.of(Opcode::Lookup), 0, "{second}");
}

#[test]
fn opening_closing_and_listing_send_no_messages_of_their_own() {
    let mount = Mount::new();
    mount.sh("mkdir d; echo x > d/f; ls d > /dev/null; cat d/f");
    let counts = mount.cost("for i in 1 2 3 4 5; do cat d/f; echo more >> d/f; ls d; done");
    let unwanted =
        [Opcode::Open, Opcode::Flush, Opcode::Release, Opcode::OpenDir, Opcode::ReleaseDir];
    assert_eq!(sum(&counts, &unwanted), 0, "{counts}");
}

#[test]
fn symlinks_are_read_once() {
    let mount = Mount::new();
    mount.sh("ln -s target link; readlink link");
    let counts = mount.cost("readlink link; readlink link");
    assert_eq!(counts.of(Opcode::ReadLink), 0, "{counts}");
}

#[test]
fn a_large_file_is_written_and_read_in_large_requests() {
    let mount = Mount::new();
    let write = mount.cost("dd if=/dev/zero of=big bs=1M count=64 status=none");
    assert!(write.of(Opcode::Write) <= 64 + 2, "{write}");
    // Another file's cache is not this one's: drop it, so that the daemon is asked.
    mount.py("os.posix_fadvise(os.open('big', os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)");
    let read = mount.cost("cat big > /dev/null");
    // The first requests are smaller while read-ahead grows.
    assert!((1..=80).contains(&read.of(Opcode::Read)), "{read}");
}

#[test]
fn the_write_back_cache_makes_small_writes_few() {
    let script = r#"
with open("log", "wb", buffering=0) as f:
    for i in range(1000): f.write(b"x" * 100)
"#;
    let mount = Mount::with(|options| options.writeback_cache = true);
    let before = mount.counts();
    mount.py(script);
    let counts = mount.counts().since(&before);
    assert!(counts.of(Opcode::Write) <= 4, "{counts}");
    assert_eq!(mount.sh("stat -c %s log").trim(), "100000");
}
