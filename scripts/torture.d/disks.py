"""What a part takes away from a daemon: room on a small disk, inodes, an answer of the disk, memory."""

import contextlib
import errno
import os
import pathlib

import common
from common import Failed, run


class Image:
    """A small ext4 of its own, that can be filled, frozen, and emptied again."""

    def __init__(self, folder, name, mib, inodes=0):
        self.image, self.mountpoint = folder / f"{name}.img", folder / name
        self.mountpoint.mkdir()
        run("truncate", "-s", f"{mib}M", self.image)
        run("mkfs.ext4", "-q", "-F", "-m", "0", *(["-N", inodes] if inodes else []), self.image)
        run("mount", "-o", "loop", self.image, self.mountpoint)
        self.ballast, self.is_frozen = self.mountpoint / "ballast", False
        self.ballast.mkdir()

    def fill(self, leave=0):
        """Takes all room but `leave` bytes."""
        with open(self.ballast / "bytes", "ab") as file:
            size, step = file.tell(), 64 << 20
            while step >= 4096:
                free = os.statvfs(self.mountpoint)
                step = min(step, max(0, free.f_bavail * free.f_frsize - leave))
                try:
                    os.posix_fallocate(file.fileno(), size, step or 4096)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
                if not step:
                    return

    def fill_inodes(self):
        """Takes all inodes."""
        number = 0
        with contextlib.suppress(OSError):
            while True:
                (self.ballast / f"inode-{number}").touch(exist_ok=False)
                number += 1
        if not number:
            raise Failed(f"{self.mountpoint}: there were no inodes to take")

    def release(self):
        for path in self.ballast.iterdir():
            path.unlink()

    def freeze(self):
        run("fsfreeze", "-f", self.mountpoint)
        self.is_frozen = True

    def thaw(self):
        if self.is_frozen:
            run("fsfreeze", "-u", self.mountpoint)
            self.is_frozen = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thaw()
        with contextlib.suppress(Failed):
            common.unmount(self.mountpoint)
        self.image.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.mountpoint.rmdir()


class Cage:
    """A control group that bounds memory, page cache included: version 2 or 1, whichever this
    machine lets us have; else nothing is bounded and only measured."""

    def __init__(self, mib):
        self.folder, self.kind, self.limit = None, "none", mib << 20
        name = f"dormouse-torture-{os.getpid()}"
        for kind, top, limit in self.places():
            folder = top / name
            try:
                folder.mkdir()
                (folder / limit).write_text(str(self.limit))
            except OSError:
                with contextlib.suppress(OSError):
                    folder.rmdir()
                continue
            self.folder, self.kind = folder, kind
            # No swap: it would be room that nobody has bounded.
            for swap, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", self.limit)):
                with contextlib.suppress(OSError):
                    (folder / swap).write_text(str(value))
            return

    @staticmethod
    def places():
        """Where a group may be made: below our own, and at the top."""
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            number, names, path = line.split(":", 2)
            if number == "0":
                for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                    for below in (path, "/"):
                        folder = pathlib.Path(top + below)
                        if (folder / "cgroup.subtree_control").exists():
                            with contextlib.suppress(OSError):
                                (folder / "cgroup.subtree_control").write_text("+memory")
                            yield "cgroup v2", folder, "memory.max"
            elif "memory" in names.split(","):
                for below in ("/", path):
                    yield "cgroup v1", pathlib.Path(f"/sys/fs/cgroup/memory{below}"), \
                        "memory.limit_in_bytes"

    def words(self):
        """Before a command that is to live inside."""
        if not self.folder:
            return ()
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return "sh", "-c", enter, self.folder

    def kills(self):
        """How often the kernel ended a process for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, TypeError):
                for line in (self.folder / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        return 0

    def close(self):
        if self.folder:
            common.wait_for(self.is_gone, "removing a control group", 30)

    def is_gone(self):
        try:
            self.folder.rmdir()
        except OSError:
            return not self.folder.exists()
        return True
