"""Something runs out: disk, inodes, descriptors, the cache's budget, memory. Programs are told so, nothing that
was taken is lost, and when there is room again everything goes on."""

import contextlib
import errno
import os
import pathlib
import subprocess
import threading
import time

import common
import programs
import tools
from common import Failed, remove, run
from disks import Cage, Image
from ledger import Ledger, content

KIB, MIB = 1 << 10, 1 << 20
FLAGS = ("--checkpoint-interval", "0", "--store-timeout", "5s")

#: How commands may end while something has run out; afterwards they must succeed.
SHORTAGES = {"no-space"}

#: How long it may take until there is room again in everybody's eyes: RocksDB looks every five seconds.
RECOVERY_SECS = 60


def rounds(bed):
    """Each case in a workspace of its own."""
    cases = bed.size((store_full, inodes, store_inodes),
                     (disk_full, store_full, inodes, store_inodes, descriptors, budget))
    for _ in bed.rounds(1, 3):
        for case in cases:
            began = time.monotonic()
            told = case(bed, bed.random(case.__name__))
            common.say(f"  {case.__name__}: {told}, {time.monotonic() - began:.0f} s")


def allowed(result, what):
    """What a command came to while something had run out: it worked, or says so."""
    if isinstance(result, str) and result not in SHORTAGES | {"ok", "answers"}:
        raise Failed(f"{what} with nothing left ended with {result}")
    return result if isinstance(result, str) else "ok"


def goes_on(what, work, seconds=RECOVERY_SECS):
    """There is room again: `work` must succeed soon."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            last = work()
            if last and not isinstance(last, str):
                return last
        except OSError as error:
            last = error
        time.sleep(0.2)
    raise Failed(f"{what}: not within {seconds} s after there was room again: {last}")


def finish(bed, workspace, ledger, what):
    """Sealed, resumed on an empty cache, compared, verified."""
    ledger.check(what)
    goes_on(f"{what}: hibernate", lambda: workspace.tried("hibernate", workspace.path))
    workspace.pid = None
    remove(workspace.cache)
    workspace.before = ()
    workspace.mount(*FLAGS)
    ledger.check(f"{what}, resumed on an empty cache")
    workspace.hibernate()
    workspace.verify()
    bed.count(ledger.number)


def leave(workspace):
    """Takes a case's workspace and all that it had away."""
    workspace.stop()
    remove(workspace.folder)


def remounts(workspace, ledger, disk, take, what):
    """A mount while something has run out is refused with the reason, or serves what is here; once it is
    released the mount works, and everything that was taken is there."""
    take()
    told = workspace.try_mount(*FLAGS)
    allowed(told, f"{what}: the mount")
    if told is None:
        ledger.check(f"{what}, mounted with nothing left")
        ledger.write(100 * KIB)
        workspace.kill()
        common.unmount(workspace.path)
    disk.release()
    goes_on(f"{what}: the mount", lambda: workspace.try_mount(*FLAGS) is None)
    ledger.check(what)
    return told or "ok"


def expect_refusals(ledger, what):
    """Where nothing was refused nothing had run out."""
    if not ledger.refusals:
        raise Failed(f"{what}: none was refused, nothing was tested")


def settled(workspace):
    """The daemon works on what waits, of its own accord; and goes on to answer."""
    time.sleep(3)
    if workspace.status()["state"] not in ("active", "sealing"):
        raise Failed(f"while it settles with nothing left: {workspace.status()['state']}")
    return "answers"


def evict(workspace):
    """Drops what the store has too; or is told that there is no room even for that."""
    try:
        workspace.evict()
        return "ok"
    except Failed as error:
        if "'code': 10" not in str(error):
            raise
        workspace.drop_pages()
        return "no-space"


def crash(workspace):
    workspace.kill()
    common.unmount(workspace.path)


def disk_full(bed, chance):
    """The local disk is full at each step of a workspace's life."""
    with Image(bed.folder, "small", 320) as disk:
        workspace = bed.workspace("disk-full", cache=disk.mountpoint / "cache")
        try:
            workspace.start(*FLAGS, "--cache-size", "10G")
            ledger = Ledger(workspace.path / "files", bed.seed)
            told = steps_of_a_full_disk(workspace, ledger, disk, chance)
            finish(bed, workspace, ledger, "after a full disk")
        finally:
            leave(workspace)
    return f"{told}; {ledger.told()}"


def steps_of_a_full_disk(workspace, ledger, disk, chance):
    # Writes, and nothing can travel: the store is away.
    away = workspace.folder / "store.away"
    os.rename(workspace.store, away)
    ledger.fill(700 * KIB)
    if "ENOSPC" not in ledger.refusals:
        raise Failed(f"the disk was to be full, and programs were told: {ledger.told()}")
    ledger.check("with a full disk")
    # The oldest: a segment of the journal goes when nothing in it is needed any more.
    for name in sorted(ledger.files, key=lambda name: int(name[1:]))[:len(ledger.files) * 2 // 3]:
        ledger.remove(name)
    goes_on("writes after removals", lambda: ledger.write(700 * KIB))
    ledger.fill(700 * KIB)
    os.rename(away, workspace.store)
    goes_on("writes when the store is back", lambda: ledger.write(700 * KIB))
    told = {}

    def with_nothing_left(what, size, work):
        """Some changes, then somebody takes the whole disk, then one step; then there is room again."""
        for _ in range(size):
            goes_on(f"writes before {what}", lambda: ledger.write(chance.randrange(1, MIB)))
        disk.fill(leave=chance.choice((0, 8 * KIB, MIB)))
        told[what] = allowed(work(), what)
        ledger.fill(200 * KIB, refusals=2, files_max=5)
        ledger.check(f"after {what} with nothing left")
        disk.release()

    with_nothing_left("evict", 10, lambda: evict(workspace))
    with_nothing_left("checkpoint", 30, lambda: workspace.tried("checkpoint", workspace.path))
    goes_on("checkpoint", lambda: workspace.tried("checkpoint", workspace.path))
    with_nothing_left("settle", 30, lambda: settled(workspace))
    hibernation = lambda: workspace.tried("hibernate", workspace.path)
    for _ in range(20):
        goes_on("writes before the hibernation", lambda: ledger.write(MIB))
    disk.fill()
    told["hibernate"] = allowed(hibernation(), "hibernate")
    disk.release()
    if told["hibernate"] != "ok":
        ledger.check("after a hibernation that was refused")
        goes_on("hibernate", hibernation)
    workspace.pid = None
    told["mount"] = remounts(workspace, ledger, disk, disk.fill, "mounting on a full disk")
    for _ in range(20):
        goes_on("writes before the crash", lambda: ledger.write(MIB))
    crash(workspace)
    told["recovery"] = remounts(workspace, ledger, disk, disk.fill, "recovery on a full disk")
    return ", ".join(f"{what} {result}" for what, result in told.items())


def store_full(bed, chance):
    """The store's own disk is full: nothing is lost, and everything travels when there is room."""
    return without_a_store(bed, chance, "store-full", 192, lambda disk: disk.fill(), 0)


def store_inodes(bed, chance):
    return without_a_store(bed, chance, "store-inodes", 192, lambda disk: disk.fill_inodes(), 2000)


def without_a_store(bed, chance, name, mib, take, count):
    with Image(bed.folder, f"{name}-disk", mib, count) as disk:
        workspace = bed.workspace(name, store=disk.mountpoint / "store")
        try:
            workspace.start(*FLAGS)
            ledger = Ledger(workspace.path / "files", bed.seed)
            for _ in range(30):
                ledger.write(chance.randrange(1, MIB))
            workspace.checkpoint()
            for _ in range(30):
                ledger.write(chance.randrange(1, MIB))
            take(disk)
            told = [allowed(workspace.tried(command, workspace.path), command)
                    for command in ("checkpoint", "hibernate")]
            if told != ["no-space", "no-space"]:
                raise Failed(f"a store without room: {told}")
            for _ in range(10):
                ledger.write(chance.randrange(1, MIB))
            ledger.check("with a full store")
            crash(workspace)
            # A mount takes the lease, which is a write.
            told.append(allowed(workspace.try_mount(*FLAGS), "mount"))
            disk.release()
            if told[-1] != "ok":
                goes_on("mount", lambda: workspace.try_mount(*FLAGS) is None)
            ledger.check("after a crash with a full store")
            goes_on("checkpoint", lambda: workspace.tried("checkpoint", workspace.path))
            finish(bed, workspace, ledger, f"after {name}")
        finally:
            leave(workspace)
    return f"checkpoint {told[0]}, hibernate {told[1]}, mount {told[2]}; {ledger.told()}"


def inodes(bed, chance):
    """The local disk has no inode left: no new journal segment, table, cache file."""
    with Image(bed.folder, "few", 1024, 400) as disk:
        workspace = bed.workspace("inodes", cache=disk.mountpoint / "cache")
        told = {}
        try:
            workspace.start(*FLAGS, "--cache-size", "10G")
            ledger = Ledger(workspace.path / "files", bed.seed)
            for _ in range(40):
                ledger.write(chance.randrange(1, MIB))
            disk.fill_inodes()
            # Over the end of a journal segment, twice.
            ledger.fill(700 * KIB, refusals=5, files_max=200)
            expect_refusals(ledger, "writes with no inode left")
            ledger.check("with no inode left")
            told["checkpoint"] = allowed(
                workspace.tried("checkpoint", workspace.path), "checkpoint")
            told["evict"] = evict(workspace)
            ledger.check("evicted, with no inode left")
            disk.release()
            goes_on("writes", lambda: ledger.write(MIB))
            goes_on("checkpoint", lambda: workspace.tried("checkpoint", workspace.path))
            for _ in range(40):
                goes_on("writes", lambda: ledger.write(chance.randrange(1, MIB)))
            disk.fill_inodes()
            crash(workspace)
            told["recovery"] = remounts(workspace, ledger, disk, lambda: None,
                                        "recovery with no inode left")
            finish(bed, workspace, ledger, "after a disk without inodes")
        finally:
            leave(workspace)
    return ", ".join(f"{what} {result}" for what, result in told.items()) + f"; {ledger.told()}"


def limit_files(pid, count):
    """Only the soft limit: not everybody may raise the other one again."""
    run("prlimit", "--pid", pid, f"--nofile={count}:")


def descriptors(bed, chance):
    """The daemon may open no more files: at the mount, and while it serves."""
    workspace = bed.workspace("descriptors")
    refused = []
    errors = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC}
    try:
        workspace.command("init")
        least = None
        for count in (12, 20, 28, 36, 48, 64, 96, 128):
            workspace.before = ("prlimit", f"--nofile={count}:{count}")
            told = workspace.try_mount(*FLAGS)
            if told is None:
                least = count
                break
            if told not in ("internal", "busy", "cannot-mount", "unreachable", "no-space"):
                raise Failed(f"a mount with {count} descriptors: {told}")
            refused.append(count)
            if common.is_mount(workspace.path):
                raise Failed(f"a mount that was refused ({count} descriptors) is still there")
        if least is None:
            raise Failed("no mount with 128 descriptors")
        # With so few it may not even be able to hibernate.
        crash(workspace)
        workspace.before = ()
        workspace.mount(*FLAGS)
        ledger = Ledger(workspace.path / "files", bed.seed, errors)
        for _ in range(60):
            ledger.write(chance.randrange(1, 300 * KIB))
        if ledger.refusals:
            raise Failed(f"refused with descriptors left: {ledger.told()}")
        workspace.checkpoint()
        told = starved_of_files(workspace, ledger, chance)
        crash(workspace)
        workspace.mount(*FLAGS)
        finish(bed, workspace, ledger, "after a daemon without descriptors")
    finally:
        leave(workspace)
    return f"mounts from {least} descriptors on; {told}; {ledger.told()}"


def starved_of_files(workspace, ledger, chance):
    """Nothing more can be opened: reads of what is in the store only fail, and are right afterwards."""
    workspace.evict()
    # Fewer than it has: every number that becomes free is over the limit too.
    limit_files(workspace.pid, 4)
    failed = 0
    for name in ledger.some(chance, 4):
        try:
            ledger.check("without descriptors", [name])
        except OSError as error:
            if error.errno not in ledger.allowed:
                raise Failed(f"reading without descriptors: {error}") from None
            failed += 1
    # Over the end of a journal segment.
    ledger.fill(700 * KIB, refusals=10, files_max=150)
    if not failed:
        raise Failed("all cold reads worked without descriptors: nothing had run out")
    expect_refusals(ledger, "writes without descriptors")
    limit_files(workspace.pid, 4096)
    goes_on("reads", lambda: ledger.check("with descriptors again") is None)
    goes_on("writes", lambda: ledger.write(MIB))
    goes_on("checkpoint", lambda: workspace.tried("checkpoint", workspace.path))
    return f"{failed} of 4 cold reads failed"


def budget(bed, chance):
    """A working set several times the cache's budget."""
    workspace = bed.workspace("budget")
    try:
        workspace.start(*FLAGS, "--cache-size", "128M")
        ledger = Ledger(workspace.path / "files", bed.seed)
        for _ in range(320):
            ledger.write(chance.randrange(1, 2 * MIB))
        for _ in range(1000):
            if chance.random() < 0.5:
                ledger.check("with a small cache", ledger.some(chance, 2))
            else:
                name = chance.choice(sorted(ledger.files | ledger.doubtful))
                ledger.write(chance.randrange(1, 2 * MIB), name)
            if chance.random() < 0.02:
                workspace.drop_pages()
        used = workspace.status()["local"]["total"]
        if used > 176 * MIB:
            raise Failed(f"{used} bytes are used, of a budget of 128 MiB")
        finish(bed, workspace, ledger, "with a budget below the working set")
    finally:
        leave(workspace)
    return f"{used >> 20} MiB used for {ledger.written >> 20} MiB written; {ledger.told()}"


class Peak:
    """The most memory that daemons had while this was watched."""

    def __init__(self, workspace):
        self.workspace, self.bytes, self.over = workspace, {}, threading.Event()
        self.what, self.thread = "begin", threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        while not self.over.wait(0.02):
            with contextlib.suppress(OSError, StopIteration, TypeError):
                lines = pathlib.Path(f"/proc/{self.workspace.pid}/status").read_text().splitlines()
                now = next(line for line in lines if line.startswith("VmRSS"))
                used = int(now.split()[1]) * KIB
                self.bytes[self.what] = max(self.bytes.get(self.what, 0), used)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def told(self):
        return ", ".join(f"{what} {used >> 20}" for what, used in self.bytes.items())


def memory(bed):
    """A daemon in 256 MiB: untar, git, one large file, a checkpoint, a resume, a hibernation."""
    for _ in bed.rounds(1, 1):
        cage = Cage(256)
        if not cage.folder:
            raise Failed("no control group of memory can be made here: nothing would be bounded")
        workspace = bed.workspace()
        try:
            with Peak(workspace) as peak:
                in_a_cage(bed, workspace, cage, peak)
            bed.note(f"bounded by: {cage.kind}; most resident, MiB: {peak.told()}")
            if cage.kills():
                raise Failed(f"the kernel ended the daemon {cage.kills()} times for want of memory")
            worst = max(peak.bytes.values())
            if worst > cage.limit:
                raise Failed(f"{worst >> 20} MiB resident")
        finally:
            workspace.stop()
            cage.close()


def in_a_cage(bed, workspace, cage, peak):
    workspace.before = cage.words()
    workspace.start("--checkpoint-interval", "0")
    chance = bed.random()
    tree = Tree(workspace.path, bed.size(3_000, 100_000), chance)
    peak.what = "untar"
    tree.unpack(bed.folder)
    peak.what = "git"
    commits = bed.size(60, 500)
    log = programs.history(bed, workspace.path / "repository", commits)
    programs.caller(workspace.path / "repository")("gc", "--quiet")
    peak.what = "large file"
    large = Large(workspace.path / "large", bed.size(192, 1024), bed.seed)
    large.write()
    peak.what = "checkpoint"
    workspace.checkpoint()
    peak.what = "hibernate"
    workspace.hibernate()
    remove(workspace.cache)
    workspace.drop_pages()
    peak.what = "wake"
    workspace.mount("--checkpoint-interval", "0")
    run("find", workspace.path, "-ls")
    peak.what = "read"
    tree.check()
    large.check()
    call = programs.caller(workspace.path / "repository")
    call("fsck", "--full")
    if programs.log(call) != log:
        raise Failed("another history than was made")
    peak.what = "hibernate again"
    tree.change()
    workspace.hibernate()
    workspace.verify()
    bed.count(tree.count)


class Tree:
    """Small files from an archive."""

    def __init__(self, folder, count, chance):
        self.folder, self.count, self.seed = folder / "tree", count, chance.random()

    def content(self, number):
        return content(f"{self.seed}-{number}", 200 + number % 97 * 60)

    def name(self, number):
        return f"d{number // 500}/f{number}"

    def unpack(self, scratch):
        plain = scratch / "plain"
        for number in range(self.count):
            path = plain / self.name(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.content(number))
        run("tar", "-cf", scratch / "tree.tar", "-C", plain, ".")
        remove(plain)
        self.folder.mkdir()
        run("tar", "-xf", scratch / "tree.tar", "-C", self.folder, timeout=1800)
        (scratch / "tree.tar").unlink()

    def check(self):
        for number in range(self.count):
            if (self.folder / self.name(number)).read_bytes() != self.content(number):
                raise Failed(f"tree/{self.name(number)} has not what was written")

    def change(self):
        for number in range(0, self.count, 50):
            (self.folder / self.name(number)).write_bytes(b"changed")


class Large:
    """One large file, written and compared piece by piece."""

    def __init__(self, path, mib, seed):
        self.path, self.mib, self.seed = path, mib, seed

    def write(self):
        with open(self.path, "wb", buffering=0) as file:
            for number in range(self.mib):
                file.write(content(f"{self.seed}-{number}", MIB))

    def check(self):
        with open(self.path, "rb", buffering=0) as file:
            for number in range(self.mib):
                if file.read(MIB) != content(f"{self.seed}-{number}", MIB):
                    raise Failed(f"{self.path}: not what was written at MiB {number}")
