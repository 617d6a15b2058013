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


#: Of every second round of `lost`.
CAP_AGE_SECS, CAP_BYTES = 2, 4 << 20
CAPS = ("--max-unsynced-age", f"{CAP_AGE_SECS}s", "--max-unsynced-bytes", str(CAP_BYTES))


def lost_rounds(bed):
    """The cache is gone at a random instant: what comes back is the newest snapshot."""
    with bed.workspace() as workspace:
        workspace.start("--checkpoint-interval", "0")
        missing, lost = [0], [(0, 0.0)]
        for seed in bed.rounds(2, 50):
            if seed % 2:
                lost.append(capped_round(bed, workspace))
            else:
                missing.append(lost_round(bed, workspace))
        bed.note(f"at most {max(missing)} operations were newer than the checkpoint")
        bed.note(f"under caps of {CAP_AGE_SECS} s and {CAP_BYTES >> 20} MiB at most "
                 f"{max(age for _, age in lost):.1f} s and "
                 f"{max(size for size, _ in lost) / 2**20:.1f} MiB were lost")
        bed.note(mounts(workspace))


def capped_round(bed, workspace):
    """Nobody asks for a checkpoint: the caps alone bound what the loss of the machine costs."""
    chance = bed.random()
    workspace.command("unmount", "--keep-local", workspace.path)
    workspace.mount("--checkpoint-interval", "0", *CAPS)
    load = Load(bed, workspace, f"round-{bed.seed}").start()
    made = lambda: workspace.status()["seals"]["made"]
    before = made()
    # The first of them takes the writers' directories along.
    common.wait_for(lambda: made() >= before + 2, "two snapshots that nobody asked for", 60)
    time.sleep(chance.uniform(0.1, bed.size(1.5, 4)))
    load.require_alive()
    killed = time.monotonic()
    workspace.kill()
    load.wait()
    remove(workspace.cache)
    workspace.mount("--steal", "--checkpoint-interval", "0")
    load.check("after the loss of the machine under caps", 0.0)
    check_counts(workspace)
    workspace.verify_round(bed)
    remove(workspace.path / load.name)
    lost, age = load.lost(killed)
    # The cap counts what no pack has: what a seal has just brought there has no snapshot yet, and as much
    # again may be written meanwhile.
    if lost > 2 * CAP_BYTES:
        raise Failed(f"{lost} bytes were lost under a cap of {CAP_BYTES} ({age:.1f} s)")
    return lost, age


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
