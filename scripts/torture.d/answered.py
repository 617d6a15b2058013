"""Everything is answered: processes are killed in the middle of every kind of wait, and none stays; a daemon that
is stuck loses its mount, and says so."""

import contextlib
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

import common
import tools
from common import Failed, remove
from disks import Image
from ledger import Ledger

#: What a request may wait for, of the mounts here. The watchdog gives a mount up after twice that.
DEADLINE_SECS = 20
SHORT_SECS = 4

#: A killed process is gone long before the deadline of its request: the daemon looks every 200 ms. On however busy a
#: machine.
KILLED_SECS_MAX = 10

#: Between the beginning of waiters and the stop of the daemon, on however busy a machine.
PAUSE_SECS = 6

#: Threads of a busy machine, and the disk's own work, beside what is promised.
SLACK_SECS = 20

FLAGS = ("--checkpoint-interval", "0", "--settle-cpu", "1")

#: Before what a waiter does: it says when it begins, so that nobody is killed too early.
PRELUDE = """
import fcntl, mmap, os, struct, sys
os.chdir(sys.argv[1])
def begin():
    os.write(1, b"begun\\n")
"""

#: A store that is silent: what is read from it for the first time waits.
READS = {
    "read": "fd = os.open('large', os.O_RDONLY); begin(); os.pread(fd, 4096, 40 << 20)",
    "direct read": "fd = os.open('large', os.O_RDONLY | os.O_DIRECT); page = mmap.mmap(-1, 4096); "
                   "begin(); os.preadv(fd, [page], 30 << 20)",
    "page fault": "fd = os.open('large', os.O_RDONLY); m = mmap.mmap(fd, 0, prot=mmap.PROT_READ); "
                  "begin(); m[20 << 20]",
    "readdir": "begin(); os.listdir('d7')",
    "stat": "begin(); os.stat('d11/f2753')",
    "open": "begin(); open('d3/f751')",
    "getxattr": "begin(); os.getxattr('d5', 'user.none')",
}

#: And so do changes that need to know what is there. Each in a directory of its own: the kernel lets only one in.
CHANGES = {
    "create": "begin(); os.open('d2/new', os.O_CREAT | os.O_WRONLY)",
    "mkdir": "begin(); os.mkdir('d4/new')",
    "unlink": "begin(); os.unlink('d6/f1501')",
    "rename": "begin(); os.rename('d8/f2001', 'd8/moved')",
    "link": "begin(); os.link('d10/f2501', 'd10/linked')",
    "truncate": "begin(); os.truncate('d12/f3001', 3)",
    "chmod": "begin(); os.chmod('d14/f3501', 0o600)",
    "setxattr": "begin(); os.setxattr('d16/f4001', 'user.a', b'x')",
}

LOCKS = {
    "flock": "fd = os.open('lock', os.O_RDWR); begin(); fcntl.flock(fd, fcntl.LOCK_EX)",
    "lockf": "fd = os.open('lock', os.O_RDWR); begin(); fcntl.lockf(fd, fcntl.LOCK_EX)",
    "OFD": "fd = os.open('lock', os.O_RDWR); begin(); "
           "fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))",
}


class Killed:
    """How many were killed in the middle of what, and how long the slowest stayed."""

    def __init__(self):
        self.count, self.slowest, self.of = 0, 0.0, ""

    def all(self, waiters, bound, what):
        """Kills them at once; each must be gone within the bound."""
        for name, process in waiters:
            if process.poll() is not None:
                raise Failed(f"{what}: {name} was to wait and ended with {process.returncode}: "
                             f"{process.stderr.read().decode()[-500:]}")
        began = time.monotonic()
        for _, process in waiters:
            process.kill()
        for name, process in waiters:
            left = bound - (time.monotonic() - began)
            try:
                process.wait(max(left, 0.01))
            except subprocess.TimeoutExpired:
                raise Failed(f"{what}: {name} stays {bound} s after it was killed, in state "
                             f"{tools.state_of(process.pid)} at {stack(process.pid)}") from None
            stayed = time.monotonic() - began
            self.count += 1
            if stayed > self.slowest:
                self.slowest, self.of = stayed, f"{what}: {name}"

    def told(self):
        return f"{self.count} killed, the slowest gone after {self.slowest:.1f} s ({self.of})"


def stack(pid):
    with contextlib.suppress(OSError):
        return " < ".join(line.split()[1].split("+")[0] for line in
                          pathlib.Path(f"/proc/{pid}/stack").read_text().splitlines()[:6])
    return "?"


def waiter(path, script):
    """A process that is in the middle of a call when this returns, or will be in a moment."""
    process = subprocess.Popen([sys.executable, "-c", PRELUDE + script, path], bufsize=0,
                               env=common.ENVIRONMENT, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if not select.select([process.stdout], [], [], 30)[0] or process.stdout.read(6) != b"begun\n":
        process.kill()
        raise Failed(f"{script}: did not begin: {process.stderr.read().decode()[-500:]}")
    return process


def waiters(path, scripts):
    found = [(name, waiter(path, script)) for name, script in scripts.items()]
    time.sleep(0.5)
    return found


class Silence:
    """A `file:` store whose packs can't be opened: a pipe without a writer is in the place of each."""

    def __init__(self, store):
        self.packs = [path for path in (store / "packs").rglob("*") if path.is_file()]
        for path in self.packs:
            path.rename(self.aside(path))
            os.mkfifo(path)

    @staticmethod
    def aside(path):
        return path.parent.parent.parent / f"{path.name}.aside"

    def end(self):
        held = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self.packs]
        for path in self.packs:
            self.aside(path).rename(path)
        for descriptor in held:
            os.close(descriptor)
        self.packs = []


def rounds(bed):
    cases = (silent_store, frozen_disk, frozen_store, locks, stopped_daemon, stuck_daemon)
    killed = Killed()
    for _ in bed.rounds(1, 5):
        for case in cases:
            began = time.monotonic()
            with Image(bed.folder, "disk", 1024) as disk:
                workspace = bed.workspace(case.__name__, cache=disk.mountpoint / "cache")
                try:
                    told = case(bed, workspace, disk, killed)
                finally:
                    disk.thaw()
                    workspace.stop()
            remove(workspace.folder)
            common.say(f"  {case.__name__}: {told}, {time.monotonic() - began:.0f} s")
    bed.count(killed.count)
    bed.note(killed.told())


def fill(workspace):
    """Directories whose records are in many nodes, and a large file."""
    for number in range(4500):
        path = workspace.path / f"d{number // 250}"
        if number % 250 == 0:
            path.mkdir()
        (path / f"f{number}").write_text(f"content of {number}")
    (workspace.path / "large").write_bytes(os.urandom(48 << 20))


def silent_store(bed, workspace, disk, killed):
    """Killed in the middle of waits for the store: reads, listings, changes. None of the changes has happened."""
    workspace.start(*FLAGS)
    fill(workspace)
    workspace.hibernate()
    remove(workspace.cache)
    workspace.drop_pages()
    silence = Silence(workspace.store)
    try:
        workspace.mount(*FLAGS, "--store-timeout", "600s", "--hot-set-size", "0")
        for scripts in (READS, CHANGES):
            killed.all(waiters(workspace.path, scripts), KILLED_SECS_MAX, "a silent store")
    finally:
        silence.end()
    for gone in ("d2/new", "d4/new", "d8/moved", "d10/linked"):
        if os.path.lexists(workspace.path / gone):
            raise Failed(f"{gone} is there: its maker was killed before, and told nothing")
    if os.listxattr(workspace.path / "d16/f4001"):
        raise Failed("an attribute is there: its maker was killed before, and told nothing")
    for number in (1501, 2001, 2501, 3001, 3501, 4001):
        path = workspace.path / f"d{number // 250}/f{number}"
        if path.read_text() != f"content of {number}" or path.stat().st_mode & 0o777 == 0o600:
            raise Failed(f"{path}: changed by a process that was killed before")
    workspace.hibernate()
    workspace.verify()
    return f"{len(READS) + len(CHANGES)} kinds of waits"


def frozen_disk(bed, workspace, disk, killed):
    """The disk answers no write for less than the watchdog's patience: what is here is read and synced meanwhile,
    and a writer gets its answer after the thaw."""
    workspace.start(*FLAGS, "--store-timeout", f"{DEADLINE_SECS}s")
    ledger = Ledger(workspace.path / "files", bed.seed)
    for _ in range(10):
        ledger.write(300_000, sync=True)
    script = "fd = os.open('files/f1', os.O_RDWR); begin(); os.fsync(fd); os.pread(fd, 4096, 0)"
    disk.freeze()
    try:
        for number in range(4):
            if waiter(workspace.path, script).wait(SLACK_SECS):
                raise Failed("what was synced before is not synced beside a frozen disk")
        writer = waiter(workspace.path, "begin(); open('late', 'w').write('late')")
        time.sleep(3)
        if writer.poll() is not None:
            raise Failed(f"a write beside a frozen disk ended with {writer.returncode}")
    finally:
        disk.thaw()
    if writer.wait(SLACK_SECS):
        raise Failed(f"a write failed after the thaw: {writer.stderr.read().decode()[-300:]}")
    ledger.check("after a frozen disk")
    if "aborting the mount" in whole_log(workspace):
        raise Failed("the watchdog had no patience with a disk that was frozen for seconds")
    return "4 syncs answered, a write after the thaw"


def frozen_store(bed, workspace, disk, killed):
    """The store takes nothing: writers at the cap wait, are killed, or are told ENOSPC in time."""
    with Image(bed.folder, "store-disk", 512) as store_disk:
        workspace.store = store_disk.mountpoint / "store"
        workspace.start(*FLAGS, "--store-timeout", f"{DEADLINE_SECS}s", "--max-unsynced-bytes", "8M")
        script = ("fd = os.open('w%d' % os.getpid(), os.O_CREAT | os.O_WRONLY)\nbegin()\n"
                  "for n in range(200):\n    os.pwrite(fd, os.urandom(1 << 20), n << 20)\n")
        store_disk.freeze()
        try:
            writing = [waiter(workspace.path, script) for _ in range(4)]
            # Two of them are left alone.
            time.sleep(3)
            killed.all([(f"write {number}", each) for number, each in enumerate(writing[:2])],
                       KILLED_SECS_MAX, "the cap of unsynced bytes")
            for each in writing[2:]:
                if each.wait(3 * DEADLINE_SECS + SLACK_SECS) == 0:
                    raise Failed("a writer over the cap was not refused")
                text = each.stderr.read().decode()
                if "No space left" not in text:
                    raise Failed(f"a writer over the cap was told {text[-200:]}")
        finally:
            store_disk.thaw()
        workspace.hibernate()
        workspace.verify()
        workspace.mount(*FLAGS)
        workspace.hibernate()
    return "2 writers killed, 2 told ENOSPC"


def locks(bed, workspace, disk, killed):
    """The kernel keeps them: a waiter is gone at once, whatever the daemon does."""
    workspace.start(*FLAGS)
    (workspace.path / "lock").touch()
    holder = waiter(workspace.path, "fd = os.open('lock', os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX); "
                    "fcntl.lockf(fd, fcntl.LOCK_EX); begin(); import time; time.sleep(600)")
    waiting = waiters(workspace.path, LOCKS)
    workspace.freeze()
    try:
        killed.all(waiting, KILLED_SECS_MAX, "locks, and the daemon stopped")
    finally:
        workspace.signal(signal.SIGCONT)
    killed.all([("the holder", holder)], KILLED_SECS_MAX, "locks")
    return f"{len(LOCKS)} kinds"


def stopped_daemon(bed, workspace, disk, killed):
    """SIGSTOP of the daemon for longer than its deadline: whoever waits gets an answer afterwards, who is killed
    and was not heard yet is gone at once, and the mount lives on."""
    workspace.start(*FLAGS, "--store-timeout", f"{SHORT_SECS}s")
    later = f"begin(); import time; time.sleep({PAUSE_SECS})"
    (workspace.path / "file").write_text("text")
    began = time.monotonic()
    try:
        # They begin before: a process needs an answer even to get into the mount.
        scripts = {f"{name} {number}": script for number in range(4) for name, script in {
            "create": f"{later}; os.open('c{number}', os.O_CREAT | os.O_WRONLY)",
            "stat": f"{later}; os.stat('unknown-{number}')",
            "write": f"fd = os.open('file', os.O_WRONLY); {later}; os.pwrite(fd, b'{number}', 4)",
        }.items()}
        waiting = [(name, waiter(workspace.path, script)) for name, script in scripts.items()]
        patient = [waiter(workspace.path, f"{later}; open('p{number}', 'w').write('x' * 5000)")
                   for number in range(4)]
        workspace.freeze()
        time.sleep(PAUSE_SECS)
        killed.all(waiting, KILLED_SECS_MAX, "a stopped daemon")
        time.sleep(max(0.0, 3 * SHORT_SECS - (time.monotonic() - began)))
    finally:
        workspace.signal(signal.SIGCONT)
    for number, each in enumerate(patient):
        if each.wait(SLACK_SECS):
            raise Failed(f"a writer beside a stopped daemon: {each.stderr.read().decode()[-300:]}")
        if (workspace.path / f"p{number}").read_text() != "x" * 5000:
            raise Failed("what was written beside a stopped daemon is not there")
    if "aborting the mount" in whole_log(workspace):
        raise Failed("a daemon that was only stopped has given its mount up")
    workspace.hibernate()
    return f"stopped for {time.monotonic() - began:.0f} s, a deadline of {SHORT_SECS} s"


def whole_log(workspace):
    with contextlib.suppress(OSError):
        return (pathlib.Path(workspace.cache) / "dormouse.log").read_text(errors="replace")
    return ""


def stuck_daemon(bed, workspace, disk, killed):
    """Every thread that serves is stuck in the disk: the watchdog ends the connection and says so; nobody stays;
    the next mount has all that was taken."""
    workspace.start(*FLAGS, "--store-timeout", f"{SHORT_SECS}s")
    ledger = Ledger(workspace.path / "files", bed.seed)
    for _ in range(10):
        ledger.write(300_000)
    disk.freeze()
    began = time.monotonic()
    try:
        script = "fd = os.open('files/f1', os.O_WRONLY); begin(); os.pwrite(fd, b'', 0) or os.pwrite(fd, b'x', 1 << 20)"
        stuck = [waiter(workspace.path, script.replace("f1", f"f{number + 1}")) for number in range(8)]
        ended = []
        for each in stuck:
            try:
                ended.append(each.wait(2 * SHORT_SECS + SLACK_SECS + KILLED_SECS_MAX))
            except subprocess.TimeoutExpired:
                raise Failed(f"stuck for {time.monotonic() - began:.0f} s, state "
                             f"{tools.state_of(each.pid)} at {stack(each.pid)}") from None
        took = time.monotonic() - began
        if not all(ended):
            raise Failed("a write was answered while the disk was frozen")
    finally:
        disk.thaw()
    pid, workspace.pid = workspace.pid, None
    common.wait_for(lambda: tools.state_of(pid) in (None, "Z"), "the daemon's end", 60)
    if "was not answered in time: aborting the mount" not in whole_log(workspace):
        raise Failed(f"the watchdog did not say what it did:\n{workspace.log()}")
    common.unmount(workspace.path)
    workspace.mount(*FLAGS)
    # The writes that were never answered may be there.
    ledger.check("after the watchdog", [name for name in ledger.files if int(name[1:]) > 8])
    workspace.hibernate()
    workspace.verify()
    return f"given up after {took:.0f} s, a deadline of {SHORT_SECS} s"
