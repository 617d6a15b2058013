"""Directories that are measured beside each other, and what it takes to have them.

A contender is frozen (its daemon stopped by SIGSTOP) while another is measured, so that what it
still has to do in the background is paid in its own phases and nobody else's.
"""

import json
import pathlib
import re
import shlex
import signal
import subprocess

from common import (BINARIES, ENVIRONMENT, MORTAL, Failed, cpu_secs, drop_caches,
                    filesystem_of, is_mount, output, remove, run, say, send, stop_process, sync, unmount)


class Contender:
    """A directory on the disk under test; the others are this with a daemon."""

    #: What `make_cold("remounted")` does, for the page of results.
    coldness = "caches dropped"
    #: Not worth emptying after a round: it ends with the run, and deleting takes it minutes.
    forgets = False

    def __init__(self, name, path):
        self.name, self.path = name, pathlib.Path(path)
        self.flags = ""

    def start(self):
        self.path.mkdir(parents=True, exist_ok=True)

    def stop(self):
        pass

    def pids(self):
        return []

    def freeze(self):
        send(self.pids(), signal.SIGSTOP)

    def thaw(self):
        send(self.pids(), signal.SIGCONT)

    def cpu_secs(self):
        return cpu_secs(self.pids())

    def requests(self):
        """Requests of the kernel up to now, where they can be asked for."""
        return None

    def settle(self):
        """Everything that was written is where a restart finds it."""
        sync(self.path)

    def make_cold(self, how):
        """`dropped`: the kernel's caches are empty. `remounted`: the daemon's memory as well."""
        sync(self.path)
        drop_caches()


class Null(Contender):
    """FUSE with nothing behind it."""

    coldness = "caches dropped (a new mount would be empty)"

    def __init__(self, name, path, flags=""):
        super().__init__(name, path)
        self.flags, self.process = flags, None

    def start(self):
        super().start()
        self.process = start_null(self.path, self.flags)

    def stop(self):
        # It unmounts by itself; the second is for one that could not.
        stop_process(self.process)
        unmount(self.path)

    def pids(self):
        return [self.process.pid] if self.process else []


def start_null(path, flags):
    command = [*MORTAL, BINARIES / "examples" / "null_fs", path, *shlex.split(flags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
    if not process.stdout.readline():
        raise Failed(f"null_fs did not mount {path}")
    return process


class Dormouse(Contender):
    """A workspace, by default on a `file:` store beside it on the same disk."""

    coldness = "unmounted with --keep-local, caches dropped, mounted again"

    def __init__(self, name, folder, flags="", store=None, env=None):
        folder = pathlib.Path(folder)
        super().__init__(name, folder / "mount")
        self.flags = flags
        self.words = shlex.split(flags)
        self.binary = BINARIES / "dormouse"
        if self.words and self.words[0].startswith("@"):
            # Another build: `@/PATH/TO/dormouse FLAGS`.
            self.binary = pathlib.Path(self.words.pop(0)[1:]).resolve()
        self.workspace = "w"
        self.folder, self.cache = folder, folder / "cache"
        self.store = store or f"file://{folder / 'store'}"
        self.pid = None
        self.env = {"DORMOUSE_STORE": self.store, "DORMOUSE_RUNTIME_DIR": str(folder / "run"),
                    "DORMOUSE_CACHE_DIR": str(self.cache)} | (env or {})

    def command(self, *words, **how):
        return run(self.binary, *words, env=self.env, out=subprocess.PIPE, **how)

    def start(self):
        self.path.mkdir(parents=True, exist_ok=True)
        self.command("init")
        self.mount()

    def mount(self):
        told = self.command("mount", "--json", "--create", *self.words, self.workspace, self.path)
        self.pid = json.loads(told)["pid"]

    def hibernate(self):
        told = json.loads(self.command("hibernate", "--json", self.path))
        self.pid = None
        return told

    def stop(self):
        self.thaw()
        if is_mount(self.path):
            self.command("unmount", "--keep-local", self.path, ok=tuple(range(256)))
            unmount(self.path)
        self.pid = None

    def pids(self):
        return [self.pid] if self.pid else []

    def status(self):
        return json.loads(self.command("status", "--json", self.path))

    def requests(self):
        counts = self.status()["fuse_requests"]
        return sum(counts.values()) if isinstance(counts, dict) else counts

    def settle(self):
        self.command("checkpoint", self.path)

    def make_cold(self, how):
        sync(self.path)
        if how == "remounted":
            self.command("unmount", "--keep-local", self.path)
            drop_caches()
            self.mount()
        else:
            drop_caches()


def disk(folder):
    """The folder that everything is done in: on ext4, in an image of its own if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    if filesystem_of(folder) == "ext2/ext3":
        # stat gives all three one name; the mount table tells them apart.
        kind = output("findmnt", "-n", "-o", "FSTYPE", "-T", folder).strip()
        if kind == "ext4":
            return folder
    image, mountpoint = folder / "ext4.img", folder / "ext4"
    say(f"{folder} is not on ext4: using an image in it")
    mountpoint.mkdir(exist_ok=True)
    if not is_mount(mountpoint):
        run("truncate", "-s", "40G", image)
        run("mkfs.ext4", "-q", "-F", image)
        run("mount", "-o", "loop", image, mountpoint)
    return mountpoint


def clear(folder, keep=()):
    """Takes away what a run that was killed has left: mounts, their daemons, files."""
    text = pathlib.Path("/proc/self/mountinfo").read_text()
    left = [line.split()[4] for line in text.splitlines() if f" {folder}/" in line]
    for program in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (program / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        # Only what serves a directory of ours.
        if any(word in left for word in words):
            send([int(program.name)], signal.SIGCONT)
    for mountpoint in reversed(left):
        if pathlib.Path(mountpoint).name != "ext4" or pathlib.Path(mountpoint).parent != folder:
            unmount(mountpoint)
    for entry in folder.iterdir():
        if entry.name not in ("ext4.img", "ext4", *keep):
            remove(entry)


def named(text):
    """`name=value`, as flags give it."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.+-]+", name):
        raise SystemExit(f"{text!r} is not name=value")
    return name, value
