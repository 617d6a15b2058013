"""What can sleep: put everything into S3 and go, and come back on an empty machine."""

import time

from common import drop_caches, remove, run, shell, sync
from contenders import Contender, Dormouse
from s3 import BUCKET, Rclone


class SleepyDormouse(Dormouse):
    """A workspace in S3, through the slow line."""

    def __init__(self, name, folder, line, flags=""):
        env = line.server.credentials | {"DORMOUSE_ENDPOINT": line.endpoint}
        super().__init__(name, folder, flags, store=f"s3://{BUCKET}/{name}", env=env)

    def begin(self, workspace):
        """A new, empty workspace, awake."""
        self.workspace = workspace
        self.path.mkdir(parents=True, exist_ok=True)
        self.command("init")
        self.forget()
        self.wake()

    def wake(self):
        # Starting the daemon is part of it.
        self.mount()

    def sleep(self):
        return self.hibernate()

    def forget(self):
        remove(self.cache)
        drop_caches()


class Archive(Contender):
    """tar and zstd: what one does without any of this. Everything comes down, everything goes up."""

    def __init__(self, name, folder, line):
        super().__init__(name, folder / "files")
        self.folder, self.rclone = folder, None
        self.line, self.object = line, ""

    def begin(self, workspace):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rclone = Rclone(self.folder, self.line)
        self.object = f"s3:{BUCKET}/{self.name}/{workspace}.tar.zst"
        self.forget()

    def wake(self):
        shell(f"{self.rclone.text('cat', self.object)} | zstd -dcq | tar -x -C '{self.path}'")

    def sleep(self):
        shell(f"tar -c -C '{self.path}' . | zstd -1 -T0 -q"
              f" | {self.rclone.text('rcat', self.object)}")

    def forget(self):
        remove(self.path)
        self.path.mkdir(parents=True)
        drop_caches()

    def stop(self):
        remove(self.path)


class SleepyPeer:
    """A peer's mount under the same names."""

    def __init__(self, peer):
        self.peer, self.name, self.path, self.flags = peer, peer.name, peer.path, ""
        self.coldness = peer.coldness

    def begin(self, workspace):
        self.peer.start()

    def wake(self):
        self.peer.wake()

    def sleep(self):
        self.peer.sleep()

    def forget(self):
        self.peer.forget()
        drop_caches()

    def make_cold(self, how):
        self.peer.make_cold(how)

    def stop(self):
        self.peer.stop()


def commit_something(repository):
    """As somebody who worked: right after a clone git would take the files of its last second for
    perhaps changed, and read them again at each status until something is committed."""
    time.sleep(1.1)
    with open(repository / "notes.txt", "w") as out:
        out.write("what was found out\n")
    run("git", "-C", repository, "add", "notes.txt")
    run("git", "-C", repository, "commit", "-q", "-m", "notes")


def fill(path, material, work, big_mib, timeout):
    """The workspace that sleeps: a repository, a program that was built, one large file."""
    repository = path / "repository"
    run("git", "clone", "-q", f"file://{material.repository}", repository, timeout=timeout)
    commit_something(repository)
    run("cp", "-r", material.crate, path / "crate", timeout=timeout)
    run("cargo", "check", "--frozen", "--quiet", cwd=path / "crate", timeout=timeout)
    work(path, "sequential-write", "big.bin", big_mib)
    sync(path)
