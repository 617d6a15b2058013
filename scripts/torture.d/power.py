"""Power cuts: the local data is on an ext4 in an image on XFS, which is copied in an instant."""

import contextlib
import time

import common
from bed import Every
from common import Failed, remove, run
from load import Load, check_counts


class Disk:
    """A machine's disk. What was not written to the device is not in the copy of an instant; what
    was is, so this is a disk without a volatile cache of its own."""

    def __init__(self, folder):
        self.xfs, self.mountpoint = folder / "xfs", folder / "disk"
        self.image = self.xfs / "disk.img"
        for path in (self.xfs, self.mountpoint):
            path.mkdir()
        run("truncate", "-s", "12G", folder / "xfs.img")
        run("mkfs.xfs", "-q", "-m", "reflink=1", folder / "xfs.img")
        run("mount", "-o", "loop", folder / "xfs.img", self.xfs)
        run("truncate", "-s", "4G", self.image)
        run("mkfs.ext4", "-q", "-F", self.image)
        self.mount()

    def mount(self):
        run("mount", "-o", "loop", self.image, self.mountpoint)

    def copy(self):
        run("cp", "--reflink=always", self.image, self.xfs / "copy.img")

    def boot(self):
        """The machine is up again: its disk is what the copy has."""
        run("umount", self.mountpoint)
        self.image.unlink()
        (self.xfs / "copy.img").rename(self.image)
        self.mount()

    def stop(self):
        for path in (self.mountpoint, self.xfs):
            with contextlib.suppress(Failed):
                common.unmount(path)


def rounds(bed):
    """Cuts, one after the other, each booting from what the one before has left."""
    disk = Disk(bed.folder)
    workspace = bed.workspace(cache=disk.mountpoint / "cache")
    try:
        workspace.start("--checkpoint-interval", "0")
        missing = [cut(bed, disk, workspace) for _ in bed.rounds(3, 100)]
        bed.note(f"at most {max(missing)} unsynced operations were lost by a cut")
        bed.note(f"mounts took at most {max(workspace.mount_secs):.2f} s")
    finally:
        workspace.stop()
        disk.stop()


def cut(bed, disk, workspace):
    chance = bed.random()
    load = Load(bed, workspace, f"round-{bed.seed}").start()
    if chance.random() < 0.5:
        seals = Every(chance.uniform(0.1, 0.6), workspace.checkpoint)
    else:
        seals = Every(3600, lambda: None)
    seals.thread.start()
    time.sleep(chance.uniform(0.1, bed.size(1.5, 4)))
    load.require_alive()
    seals.require_ok()
    # The daemon stops first, so that no fsync is acknowledged after the disk's instant; what the
    # kernel was told to write before goes on.
    workspace.freeze()
    time.sleep(chance.choice((0, 0, 0.01, 0.1)))
    disk.copy()
    load.kill()
    workspace.kill()
    seals.end()
    load.wait()
    common.unmount(workspace.path)
    disk.boot()
    workspace.mount("--checkpoint-interval", "0")
    missing = load.check("after a power cut", load.newest_fsync())
    check_counts(workspace)
    workspace.verify_round(bed)
    remove(workspace.path / load.name)
    return missing
