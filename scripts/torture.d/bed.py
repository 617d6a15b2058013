"""What a part works with: its folder, its seeds, a workspace on a real mount, plain ext4."""

import contextlib
import http.client
import json
import os
import pathlib
import random
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import common
import tools
from common import Failed, remove, run


class Part:
    """One thing that is tested."""

    def __init__(self, name, title, work, quick=True, transports=False):
        self.name, self.title, self.work = name, title, work
        #: Runs in the quick form.
        self.quick = quick
        #: Goes through the kernel's requests so much that it is run over both transports.
        self.transports = transports


class Bed:
    """One run of a part."""

    def __init__(self, part, options, folder):
        self.part, self.options, self.folder = part, options, folder / part.name
        self.quick = options.quick
        self.seed, self.has_rounds = options.seed, False
        self.done_rounds, self.operations, self.notes = 0, 0, []
        self.began = time.monotonic()
        remove(self.folder)
        self.folder.mkdir(parents=True)

    def size(self, quick, long):
        return quick if self.quick else long

    def rounds(self, quick, long):
        """Seeds, one per round. The n-th round of a run is the first of one with its seed."""
        self.has_rounds = True
        count = self.options.rounds or self.size(quick, long)
        seconds = self.options.seconds
        while True:
            if seconds and self.done_rounds and time.monotonic() - self.began > seconds:
                return
            if self.done_rounds >= count and (not seconds or self.options.rounds):
                return
            self.seed = self.options.seed + self.done_rounds
            yield self.seed
            self.done_rounds += 1

    def random(self, *more):
        """Chance of this round; with `more`, a stream of its own."""
        return random.Random(":".join(map(str, (self.part.name, self.seed, *more))))

    def count(self, operations):
        self.operations += operations

    def note(self, text):
        self.notes.append(text)

    def workspace(self, name="dm", **how):
        return Workspace(self, self.folder / name, **how)

    def plain(self, name="ext4"):
        """A directory on the disk that the workspaces' local data is on."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def replay(self):
        words = ["scripts/torture", self.part.name, "--seed", self.seed]
        if self.has_rounds:
            words += ["--rounds", 1]
        for flag in ("quick",):
            words += [f"--{flag}"] if getattr(self.options, flag) else []
        for flag in ("transport", "dormouse_args"):
            value = getattr(self.options, flag)
            words += [f"--{flag.replace('_', '-')}", value] if value else []
        return shlex.join(str(word) for word in words)


class Workspace:
    """A workspace and its daemon, on a `file:` store; on another if the environment says so."""

    def __init__(self, bed, folder, store=None, cache=None, flags=(), env=None, keeper="off"):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "m"
        self.path.mkdir(parents=True, exist_ok=True)
        self.cache = cache or self.folder / "cache"
        self.store = store or self.folder / "store"
        self.more_environment = env or {}
        self.flags = [*flags, *shlex.split(bed.options.dormouse_args)]
        # Most parts kill the daemon and mean the mount; `replace` means the daemon.
        transport = "dev" if keeper == "on" else bed.options.transport
        if transport:
            self.flags += ["--transport", transport]
        self.flags += ["--keeper", keeper]
        self.pid, self.mount_secs = None, []
        #: Words before the command that mounts: limits that the daemon inherits.
        self.before = ()

    def environment(self):
        return {"DORMOUSE_STORE": f"file://{self.store}",
                "DORMOUSE_RUNTIME_DIR": str(self.folder / "run"),
                "DORMOUSE_CACHE_DIR": str(self.cache), **self.more_environment}

    def shim(self, skew_secs=0, names_fail=False):
        """Makes the machine's wall clock wrong and its resolver fail, for this daemon and from
        now on; the first time it must be called before the mount."""
        path = self.folder / "shim"
        self.more_environment |= {"LD_PRELOAD": str(tools.shim()), "DORMOUSE_SHIM": str(path)}
        if not path.exists():
            path.write_bytes(bytes(32))
        with path.open("r+b") as file:
            file.write(struct.pack("<qq", skew_secs, names_fail))

    def shim_acted(self):
        """How many names were not resolved, and how often the wrong clock was read, so far."""
        return struct.unpack("<qq", (self.folder / "shim").read_bytes()[16:])

    def command(self, *words, before=(), **how):
        how.setdefault("timeout", 300)
        return run(*before, common.BINARIES / "dormouse", *words, env=self.environment(),
                   out=subprocess.PIPE, **how)

    def asked(self, *words, **how):
        """A command's JSON."""
        return json.loads(self.command("--json", *words, **how))

    def refused(self, *words):
        """A command that must fail: its exit code's name."""
        told = self.tried(*words)
        if not isinstance(told, str):
            raise Failed(f"{words}: was to be refused and was not")
        return told

    def tried(self, *words, before=()):
        """A command that may fail: its JSON, or the name of its exit code."""
        command = [*before, common.BINARIES / "dormouse", "--json", *words]
        told = subprocess.run(command, env=common.ENVIRONMENT | self.environment(), timeout=300,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if told.returncode == 0:
            return json.loads(told.stdout)
        lines = told.stderr.decode(errors="replace").splitlines()
        try:
            return json.loads(lines[-1])["error"]["name"]
        except (IndexError, ValueError):
            raise Failed(f"{words}: code {told.returncode}, {lines[-5:]}") from None

    def start(self, *flags):
        self.command("init")
        return self.mount(*flags)

    def mount(self, *flags):
        began = time.monotonic()
        facts = self.asked("mount", "--create", *self.flags, *flags, "w", self.path,
                           before=self.before)
        self.mount_secs.append(time.monotonic() - began)
        self.pid = facts["pid"]
        return facts

    def try_mount(self, *flags):
        """None if it is mounted now, else the name of the exit code."""
        told = self.tried("mount", "--create", *self.flags, *flags, "w", self.path,
                          before=self.before)
        if isinstance(told, str):
            return told
        self.pid = told["pid"]
        return None

    def verify(self, *flags):
        """Whatever is in the store is whole and right, also while somebody writes there."""
        told = self.tried("verify", "--all", "--no-progress", "--scratch-dir", self.folder, *flags)
        if isinstance(told, str) or not told["sound"]:
            text = self.tried_text("verify", "--all", "--no-progress", *flags)
            raise Failed(f"the store is not sound: {text[-3000:]}")
        return told

    def tried_text(self, *words):
        told = subprocess.run([common.BINARIES / "dormouse", *words], stdin=subprocess.DEVNULL,
                              env=common.ENVIRONMENT | self.environment(), timeout=300,
                              capture_output=True, check=False)
        return (told.stdout + told.stderr).decode(errors="replace")

    def verify_round(self, bed):
        """What a round can afford: all metadata each time, each byte every tenth time."""
        self.verify(*(() if bed.done_rounds % 10 == 0 else ("--quick",)))

    def status(self):
        return self.asked("status", self.path)

    def checkpoint(self):
        return self.asked("checkpoint", self.path)

    def hibernate(self):
        receipt = self.asked("hibernate", self.path)
        self.pid = None
        return receipt

    def resume_empty(self):
        """As another machine would: everything sealed, the cache gone, mounted again."""
        self.hibernate()
        remove(self.cache)
        run("sync", "-f", self.folder)
        self.drop_pages()
        self.mount()

    def remount(self):
        """The same machine, nothing in memory."""
        self.command("unmount", "--keep-local", self.path)
        self.drop_pages()
        self.mount()

    @staticmethod
    def drop_pages():
        common.drop_caches()

    def evict(self):
        """Drops what the store has too, and the kernel's pages and names of all mounts."""
        self.post("/v1/evict")
        self.drop_pages()

    def post(self, path):
        """A command that only the control socket has."""
        for found in (self.folder / "run").glob("*.sock"):
            connection = Control(found)
            try:
                connection.request("POST", path)
                last = connection.getresponse().read().decode().splitlines()[-1]
            finally:
                connection.close()
            event = json.loads(last)
            if event["event"] != "done":
                raise Failed(f"{path}: {event}")
            return event["receipt"]
        raise Failed(f"{path}: no control socket")

    def kill(self):
        """As an out-of-memory killer does. The mount stays, dead."""
        pid, self.pid = self.pid, None
        tools.kill(pid)

    def signal(self, number):
        os.kill(self.pid, number)

    def freeze(self):
        """SIGSTOP, and returns when no thread can do anything any more but end a system call."""
        self.signal(signal.SIGSTOP)

        def all_stopped():
            stats = pathlib.Path(f"/proc/{self.pid}/task").glob("*/stat")
            letters = [each.read_text().rsplit(")", 1)[1].split()[0] for each in stats]
            return all(letter in "TDZt" for letter in letters)
        common.wait_for(all_stopped, "stopping the daemon", 30)

    def log(self):
        """The newest lines of the daemon's log."""
        with contextlib.suppress(OSError):
            lines = (pathlib.Path(self.cache) / "dormouse.log").read_text(errors="replace")
            return "\n".join(lines.splitlines()[-15:])
        return ""

    def stop(self):
        """Takes the mount away, however it is; what could not be sealed is not looked at."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
        if sys.exc_info()[0] is None:
            # While the mount is there: afterwards nothing can hang on it any more.
            tools.check_no_d_state()
        if self.pid:
            try:
                self.command("unmount", "--keep-local", self.path, timeout=60)
                self.pid = None
            except (Failed, common.TooLong):
                tools.abort(self.path)
                self.kill()
        common.unmount(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Control(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path):
        super().__init__("dormouse", timeout=120)
        self.socket_path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # The path of a socket in a deep folder is longer than an address may be.
        directory = os.open(os.path.dirname(self.socket_path), os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(self.socket_path)}")
        finally:
            os.close(directory)


class Every:
    """Does something again and again beside a test; what goes wrong there fails the test."""

    def __init__(self, seconds, work):
        self.seconds, self.work = seconds, work
        self.times, self.error, self.over = 0, None, threading.Event()
        self.thread = threading.Thread(target=self.go, daemon=True)

    def go(self):
        while not self.over.wait(self.seconds):
            try:
                self.work()
                self.times += 1
            except Exception as error:  # Told by __exit__.
                self.error = error
                return

    def __enter__(self):
        self.thread.start()
        return self

    def require_ok(self):
        """Before its ground is taken away: until now nothing may have gone wrong."""
        if self.error:
            raise self.error

    def end(self):
        self.over.set()
        self.thread.join()

    def __exit__(self, kind, *_):
        self.end()
        if kind is None:
            self.require_ok()
