"""The daemon dies, or is replaced, under a live mount: every call goes on, and is made once."""

import time

import common
from common import Failed
from load import Load, check_counts

#: Deaths in one mount. The keeper gives a mount up at the sixth within a minute.
KILLS = 4


def rounds(bed):
    pauses = []
    for _ in bed.rounds(2, 100):
        pauses.append(one_round(bed))
    bed.note(f"a call took at most {max(pauses):.2f} s")


def one_round(bed):
    """One mount: daemons are killed and upgraded at random instants, then all is compared."""
    chance = bed.random()
    with bed.workspace(f"round-{bed.seed}", keeper="on") as workspace:
        workspace.start("--checkpoint-interval", "1s")
        load = Load(bed, workspace, "load", stops=True).start()
        steps = ["kill"] * KILLS + ["upgrade"] * chance.randrange(3) + ["evict"]
        chance.shuffle(steps)
        for step in steps:
            time.sleep(chance.uniform(0.02, bed.size(0.5, 1.5)))
            load.require_alive()
            if step == "kill":
                workspace.pid = workspace.status()["pid"]
                workspace.kill()
            elif step == "upgrade":
                workspace.command("upgrade", "--binary", common.BINARIES / "dormouse",
                                  workspace.path)
            else:
                # A daemon that is about to take over is waited for.
                workspace.status()
                workspace.evict()
        time.sleep(chance.uniform(0.02, 0.3))
        load.stop()
        pause = load.longest_pause()
        status = workspace.status()
        workspace.pid = status["pid"]
        if status["adoptions"] != KILLS:
            raise Failed(f"{KILLS} daemons were killed, and {status['adoptions']} took over")
        load.check_whole("after all that")
        check_counts(workspace)
        workspace.resume_empty()
        load.check_whole("and on an empty cache")
        workspace.hibernate()
    common.remove(workspace.folder)
    return pause
