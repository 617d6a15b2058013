"""The daemon dies, or is replaced, under a live mount: every call goes on, and is made once."""

import time

import common
import tools
from common import Failed
from load import Load, check_counts

#: Deaths in one mount. The keeper gives a mount up at the sixth within a minute.
KILLS = 4


def rounds(bed):
    done = [one_round(bed) for _ in bed.rounds(2, 100)]
    bed.note(f"a call took at most {max(pause for pause, _ in done):.2f} s; "
             f"{sum(early for _, early in done)} daemons died while they took over")


def one_round(bed):
    """One mount: daemons are killed and upgraded at random instants, then all is compared."""
    chance = bed.random()
    with bed.workspace(f"round-{bed.seed}", keeper="on") as workspace:
        workspace.start("--checkpoint-interval", "1s")
        load = Load(bed, workspace, "load", stops=True).start()
        steps = ["kill"] * (KILLS - 2) + ["kill twice"] + ["upgrade"] * chance.randrange(3) + ["evict"]
        chance.shuffle(steps)
        for step in steps:
            time.sleep(chance.uniform(0.02, bed.size(0.5, 1.5)))
            load.require_alive()
            if step == "kill":
                workspace.pid = workspace.status()["pid"]
                workspace.kill()
            elif step == "kill twice":
                workspace.pid = workspace.status()["pid"]
                early = kill_in_takeover(workspace, chance)
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
    return pause, early


def kill_in_takeover(workspace, chance):
    """Another daemon is started, and is killed too while it opens what the first one has left. Tells
    whether it had not taken the mount yet."""
    keeper, first = tools.parent_of(workspace.pid), workspace.pid
    ready = times_ready(workspace)
    workspace.kill()
    end, others = time.monotonic() + 60, []
    while not others:
        if time.monotonic() > end:
            raise Failed("no other daemon was started")
        others = [pid for pid in tools.children_of(keeper) if pid != first]
    time.sleep(chance.uniform(0, 0.06))
    tools.kill(others[0])
    return times_ready(workspace) == ready


def times_ready(workspace):
    """How many daemons have taken the mount, by their log."""
    text = (workspace.cache / "dormouse.log").read_text(errors="replace")
    return sum(line.endswith(" ready") or ": ready" in line for line in text.splitlines())
