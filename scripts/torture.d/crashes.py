"""kill -9 of the daemon, and the loss of the machine, at random instants under load."""

import contextlib
import math
import pathlib
import subprocess
import time

import common
import tools
from bed import Every
from common import Failed, remove
from load import Load, check_counts

#: How long a mount may take after a crash, not counting the time in which somebody on the machine waited
#: for a processor; and in any case.
OWN_SECS_MAX, MOUNT_SECS_MAX = 2, 30


def kill_rounds(bed):
    """Rounds in one workspace: what one wrote is looked at again after the next crash."""
    before = None
    with bed.workspace() as workspace:
        workspace.start("--checkpoint-interval", "1s")
        try:
            for _ in bed.rounds(5, 300):
                before = kill_round(bed, workspace, before)
        finally:
            bed.note(mounts(workspace))
        # Nothing that the crashes left behind may be missing in the store.
        workspace.resume_empty()
        before.check("after all crashes, on an empty cache", math.inf)
        check_counts(workspace)
        workspace.hibernate()
        workspace.verify()


def mounts(workspace):
    return f"mounts took at most {max(workspace.mount_secs):.2f} s"


def kill_round(bed, workspace, before):
    chance = bed.random()
    load = Load(bed, workspace, f"round-{bed.seed}").start()
    evicts = chance.random() < 0.3
    time.sleep(chance.uniform(0.05, bed.size(1.0, 2.5)))
    if evicts:
        workspace.evict()
        time.sleep(chance.uniform(0, 0.3))
    load.require_alive()
    workspace.kill()
    load.wait()
    if chance.random() < 0.2:
        # A daemon that dies while it starts: in the middle of recovery as well.
        kill_while_mounting(workspace, chance)
    waited = waited_secs()
    workspace.mount("--checkpoint-interval", "1s")
    took, waited = workspace.mount_secs[-1], waited_secs() - waited
    if took > MOUNT_SECS_MAX or took - waited > OWN_SECS_MAX:
        raise Failed(f"the mount took {took:.1f} s to come back, {waited:.1f} s of them with too few "
                     "processors")
    load.check("after kill -9", math.inf)
    check_counts(workspace)
    workspace.verify_round(bed)
    if before:
        before.check("the round before, after kill -9", math.inf)
        remove(workspace.path / before.name)
    return load


def waited_secs():
    """Since the start of the machine: in how much time some process waited for a processor. Without
    the kernel's account of it nothing is known to have waited."""
    with contextlib.suppress(OSError):
        some = pathlib.Path("/proc/pressure/cpu").read_text().splitlines()[0]
        return int(some.rsplit("=", 1)[1]) / 1e6
    return 0.0


def kill_while_mounting(workspace, chance):
    command = [common.BINARIES / "dormouse", "mount", "--foreground", *workspace.flags, "w",
               workspace.path]
    child = subprocess.Popen(command, env=common.ENVIRONMENT | workspace.environment(),
                             stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(chance.uniform(0, 0.3))
    tools.kill(child.pid)
    child.wait()


def lost_rounds(bed):
    """The cache is gone at a random instant: what comes back is the newest snapshot."""
    with bed.workspace() as workspace:
        workspace.start("--checkpoint-interval", "0")
        missing = [lost_round(bed, workspace) for _ in bed.rounds(2, 50)]
        bed.note(f"at most {max(missing)} operations were newer than the checkpoint")
        bed.note(mounts(workspace))


def lost_round(bed, workspace):
    chance = bed.random()
    load = Load(bed, workspace, f"round-{bed.seed}").start()
    sealed = [0.0]

    def checkpoint():
        begun = time.monotonic()
        workspace.checkpoint()
        sealed.append(begun)
    time.sleep(0.3)
    checkpoint()
    beside = Every(chance.uniform(0.05, 0.5), checkpoint)
    beside.thread.start()
    time.sleep(chance.uniform(0.1, bed.size(1.5, 4)))
    load.require_alive()
    beside.require_ok()
    workspace.kill()
    beside.end()
    load.wait()
    remove(workspace.cache)
    workspace.mount("--steal", "--checkpoint-interval", "0")
    missing = load.check(f"after the loss of the machine ({len(sealed) - 1} checkpoints)",
                         sealed[-1])
    check_counts(workspace)
    workspace.verify_round(bed)
    remove(workspace.path / load.name)
    return missing
