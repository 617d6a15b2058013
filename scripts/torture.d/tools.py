"""What every part uses beside the benchmark's helpers: which processes and mounts are ours."""

import contextlib
import os
import pathlib
import select
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# Commands, inputs and clean-up are those of scripts/bench.
sys.path.append(str(HERE.parent / "bench.d"))

import common  # noqa: E402
from common import BINARIES, ROOT, Failed, Stopped, TooLong, say  # noqa: E402, F401

TOOLS = ROOT / "target" / "torture-tools" / "bin"
EXCLUSIONS = ROOT / "tests" / "torture" / "exclusions"

#: In the environment of every process that a run starts, so that they are found again however
#: they were started: its value is the run's folder.
MARKER = "DORMOUSE_TORTURE_FOLDER"

#: How long a process may stay in D state: an ext4 journal on a busy disk takes its time.
D_STATE_SECS_MAX = 20


def mark(folder):
    """From now on everything that is started is known as ours."""
    os.environ[MARKER] = str(folder)
    common.ENVIRONMENT[MARKER] = str(folder)


def processes():
    """Process ids of all that were started for a run in our folder, but this one."""
    wanted = f"{MARKER}={os.environ[MARKER]}".encode()
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) != os.getpid():
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def state_of(pid):
    """The letter of /proc; none for a process that is gone."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return None


def parent_of(pid):
    with contextlib.suppress(OSError):
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return None


def children_of(pid):
    return [child for child in processes() if parent_of(child) == pid]


def name_of(pid):
    with contextlib.suppress(OSError):
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return words.decode(errors="replace")[:120]
    return "?"


def check_no_d_state():
    """No process of ours is, or stays, in a wait that nothing ends."""
    end = time.monotonic() + D_STATE_SECS_MAX
    while stuck := [pid for pid in processes() if state_of(pid) == "D"]:
        if time.monotonic() > end:
            names = "; ".join(f"{pid} {name_of(pid)}" for pid in stuck)
            raise Failed(f"in D state for {D_STATE_SECS_MAX} s: {names}")
        time.sleep(0.1)


def left_over(patience_secs):
    """What is still there of our processes after a while."""
    end = time.monotonic() + patience_secs
    while (left := processes()) and time.monotonic() < end:
        time.sleep(0.1)
    return [f"{pid} {name_of(pid)}" for pid in left]


def kill(pid, patience_secs=30):
    """Ends a process, also one that is not our child, and waits until it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not select.select([descriptor], [], [], patience_secs)[0]:
            raise Failed(f"process {pid} ({name_of(pid)}) outlives kill -9 for {patience_secs} s")
    finally:
        os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
        return
    # Not ours to bury: who looks for the number still finds it until init has done so.
    common.wait_for(lambda: state_of(pid) is None, f"burying process {pid}", 30)


def mounts_below(folder):
    """Mount points under a folder, innermost last, with the number of their device."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        path = fields[4].encode().decode("unicode_escape")
        if path.startswith(f"{folder}/"):
            found.append((path, fields[2].split(":")[1], " - fuse" in line))
    return found


def abort(mountpoint):
    """Ends a FUSE connection whose daemon does not answer: all who wait on it get an error."""
    for path, minor, is_fuse in mounts_below(pathlib.Path(mountpoint).parent):
        if path == str(mountpoint) and is_fuse:
            with contextlib.suppress(OSError):
                pathlib.Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")


def clean(folder):
    """Takes away every process of ours and every mount in a folder."""
    left = processes()
    for _, minor, is_fuse in mounts_below(folder):
        if is_fuse:
            with contextlib.suppress(OSError):
                pathlib.Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
    for pid in left:
        with contextlib.suppress(Failed):
            kill(pid, patience_secs=10)
    for path, _, is_fuse in reversed(mounts_below(folder)):
        if not is_fuse:
            # One that was left frozen would keep even its unmount waiting.
            common.run("fsfreeze", "-u", path, ok=(0, 1), timeout=30)
        common.run("umount", "-l", path, ok=(0, 1, 32), timeout=120)


def shim():
    """The library that makes a daemon's clock and resolver wrong, compiled if need be."""
    library, source = ROOT / "target" / "torture-tools" / "shim.so", HERE / "shim.c"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        library.parent.mkdir(parents=True, exist_ok=True)
        common.run("cc", "-shared", "-fPIC", "-O2", "-Wall", "-o", library, source, "-ldl")
    return library


def exclusions(part):
    """Names that a part leaves out, with the reasons."""
    found = {}
    for line in EXCLUSIONS.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            owner, name, reason = line.split(None, 2)
            if owner == part:
                found[name] = reason
    return found
