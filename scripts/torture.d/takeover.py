"""Two daemons on one workspace: one is stopped beyond its lease, another takes over, the first
goes on."""

import contextlib
import signal
import time
from collections import Counter

from bed import Workspace
from common import Failed, remove
from faults import Checkpoint, Store
from load import Load

#: The shortest that the product allows.
LEASE_SECS = 10
FLAGS = ("--lease-ttl", f"{LEASE_SECS}s", "--checkpoint-interval", "0")


#: Hours that a machine's clock may be wrong.
SKEW_HOURS_MAX = 48


def rounds(bed):
    """Every second round waits for the lease to expire; the others say --steal. In most of them the
    machines' clocks are wrong, in some the store is on S3, behind a line that loses answers."""
    figures = Counter()
    with contextlib.ExitStack() as stack:
        store = None
        for number, _ in enumerate(bed.rounds(2, 100)):
            chance = bed.random("kind")
            steal = number % 2 == 1 if bed.quick else chance.random() < 0.5
            on_s3 = number % 2 == 1 if bed.quick else chance.random() < 0.4
            skewed = bed.quick or chance.random() < 0.7
            if on_s3 and not store:
                store = stack.enter_context(Store(bed))
            folder = bed.folder / "round"
            machines = [machine(bed, folder, name, store if on_s3 else None, skewed)
                        for name in ("a", "b")]
            # On a sound line: its probe of the conditions is a race that one must be told to win.
            machines[0].command("init")
            if on_s3:
                lose_answers(store, bed)
            try:
                takeover(bed, *machines, steal)
            finally:
                if on_s3:
                    store.line.faults([])
                for one in machines:
                    one.stop()
            figures += Counter(steal=steal, on_s3=on_s3, skewed=skewed)
            remove(folder)
    bed.note(f"{figures['steal']} takeovers by --steal, the others after the lease had expired; "
             f"{figures['on_s3']} on S3, {figures['skewed']} with wrong clocks")


def machine(bed, folder, name, store, skewed):
    """One of the two, with a clock of its own."""
    env = store.environment(f"t{bed.seed}") if store else {}
    one = Workspace(bed, folder / name, store=folder / "store", env=env)
    if skewed:
        secs = SKEW_HOURS_MAX * 3600
        one.shim(skew_secs=bed.random("clock", name).randrange(-secs, secs))
    return one


def lose_answers(store, bed):
    """Of the puts that the server carries out some have no answer, or are delivered again."""
    faults = ("lost_answer", {"twice": {"later_millis": 0}}, {"twice": {"later_millis": 500}})
    rules = [{"kinds": ["put"], "per_mille": 150, "fault": fault} for fault in faults]
    store.line.faults(rules, bed.seed)


def takeover(bed, first, second, steal):
    chance = bed.random()
    first.start(*FLAGS)
    load = Load(bed, first, "first", writers=2).start()
    expect_skewed(first, lambda: time.sleep(chance.uniform(0.2, 1)))
    sealed_at, sealed = 0.0, []
    for _ in range(chance.randrange(1, 4)):
        sealed_at = time.monotonic()
        sealed.append(first.checkpoint())
        time.sleep(chance.uniform(0, 0.3))
    asking = Checkpoint(first) if chance.random() < 0.5 else None
    time.sleep(chance.uniform(0, 0.05))
    load.require_alive()
    first.freeze()
    epoch = first_epoch(second)
    take(second, steal)
    # What the first was told is in the store is there for the second, and a state that was.
    load.check("after the takeover", sealed_at, path=second.path)
    after = Load(bed, second, "second", writers=1).start()
    expect_skewed(second, lambda: time.sleep(chance.uniform(0.1, 0.4)))
    asking_second = Checkpoint(second) if chance.random() < 0.5 else None
    first.signal(signal.SIGCONT)
    time.sleep(chance.uniform(0, 0.2))
    if asking_second:
        if not asking_second.receipt():
            raise Failed(f"the winner's checkpoint: {asking_second.refusal}\n{second.log()}")
        sealed.append(asking_second.receipt())
    if asking and asking.receipt():
        # Its snapshot was there before the takeover, and only the answer came afterwards; all that
        # returned before it was asked for must be in what the second has.
        sealed.append(asking.receipt())
        load.check("what the loser was told late", asking.begun, path=second.path)
    expect_fenced(first)
    after.require_alive()
    after.kill()
    after.wait()
    kept = second.checkpoint()
    expect_one_head(second, kept, epoch)
    expect_listed(second, [*sealed, kept])
    load.wait()
    first.stop()
    second.hibernate()
    remove(second.cache)
    second.mount(*FLAGS)
    after.check("after the loser had gone on", float("inf"))
    load.check("what the second took over", sealed_at, path=second.path)
    second.verify()


def expect_skewed(one, work):
    """Meanwhile only the daemon runs there: it must read the wrong clock that it was given."""
    before = one.shim_acted() if "DORMOUSE_SHIM" in one.more_environment else None
    work()
    if before and one.shim_acted()[1] == before[1]:
        raise Failed("the daemon did not read the wrong clock: nothing was tested")


def first_epoch(workspace):
    return listed(workspace)["epoch"]


def listed(workspace):
    return workspace.asked("workspaces")["workspaces"][0]


def take(second, steal):
    """Mounts on the second machine; before the lease has expired that is refused."""
    if steal:
        second.mount(*FLAGS, "--steal")
        return
    refusal = second.refused("mount", *FLAGS, "w", second.path)
    if refusal != "lease-held":
        raise Failed(f"a mount under another's lease: {refusal}")
    end = time.monotonic() + 3 * LEASE_SECS
    while True:
        try:
            second.mount(*FLAGS)
            return
        except Failed:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def expect_fenced(first):
    """The loser's checkpoint is refused as fenced, its status says so, and it takes no writes."""
    refusal = first.refused("checkpoint", first.path)
    if refusal != "fenced":
        raise Failed(f"the loser's checkpoint ended with {refusal}, not as fenced\n{first.log()}")
    status = first.status()
    if status["state"] != "fenced" or not status["fenced"]:
        raise Failed(f"the loser does not say that it is fenced: {status['state']}")
    try:
        (first.path / "late").write_text("x")
    except OSError as error:
        if error.errno == 30:
            return
        raise Failed(f"a write to the loser: {error}, not EROFS") from None
    raise Failed("the loser takes writes")


def expect_one_head(second, kept, epoch):
    head = listed(second)
    if head["snapshot"] != kept["snapshot"]:
        raise Failed(f"the head is {head['snapshot']}, the winner sealed {kept['snapshot']}")
    if head["epoch"] != kept["epoch"] or head["epoch"] <= epoch:
        raise Failed(f"epoch {head['epoch']}: {epoch} before, the winner's is {kept['epoch']}")


def expect_listed(second, receipts):
    known = {each["id"] for each in second.asked("snapshots", "w")["snapshots"]}
    for receipt in receipts:
        if receipt["snapshot"] not in known:
            raise Failed(f"the acknowledged snapshot {receipt['snapshot']} is not listed")
