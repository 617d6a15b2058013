"""A store that misbehaves, behind the proxy of examples/s3_proxy: no wrong byte, no lost write, no
call that waits longer than its deadline, and when it is over everything drains by itself."""

import errno
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter

import common
import s3
import tools
from bed import Workspace
from common import Failed, remove
from load import Load, check_counts
from reader import content

#: --store-timeout: how long a call may wait for the store.
DEADLINE_SECS = 4

#: What a call may take beyond it, on however busy a machine.
MARGIN_SECS = 6

#: A writer's operation is up to three calls that may have to wait each.
OPERATION_SECS_MAX = 3 * (DEADLINE_SECS + MARGIN_SECS)

#: Until everything is in the store after the faults: checkpoints that failed are tried again
#: after at most a minute.
DRAIN_SECS_MAX = 90

#: Lines of the log per second and in any case that are no flood.
LOG_LINES_MAX = (12, 60)

#: What an object that can't be read yet looks like: it is refused or not answered, and never wrong.
LATE = {"damaged", "unreachable", "lease-held", "EIO"}

#: Until somebody meets what goes wrong: a scene may be over before much was asked of the store.
MET_SECS_MAX = 30

#: Rounds of a full run; in one of them the store is away for minutes.
ROUNDS = 60
OUTAGE_SECS = 150

FLAGS = ("--checkpoint-interval", "1s")
FILES = [f"{kind}/{number}" for kind in ("warm", "cold") for number in range(24)]


def refusal(status, code):
    return {"answer": {"status": status, "code": code}}


def latency(chance):
    return [{"fault": {"latency": {"millis": chance.randrange(300, 3000)}}}]


def internal_errors(_):
    return [{"per_mille": 300, "fault": refusal(500, "InternalError")},
            {"kinds": ["put"], "per_mille": 300,
             "fault": {"answer_after": {"status": 500, "code": "InternalError"}}}]


def damaged_answers(kind, most):
    """The same damage somewhere in the body, for some of the reads."""
    def rules(chance):
        return [{"kinds": ["get"], "per_mille": 120,
                 "fault": {kind: {most: chance.randrange(200_000)}}} for _ in range(4)]
    return rules


def damaged_uploads(chance):
    return [{"kinds": ["put"], "per_mille": 250, "fault": {"flip_upload": {"at": at}}}
            for at in (0, chance.randrange(5_000))]


def cut_uploads(chance):
    return [{"kinds": ["put"], "per_mille": 400,
             "fault": {"cut_upload": {"after": chance.randrange(2_000)}}}]


def twice(chance):
    return [{"kinds": ["put"], "per_mille": 300, "fault": {"twice": {"later_millis": 0}}},
            {"kinds": ["put"], "per_mille": 500,
             "fault": {"twice": {"later_millis": chance.randrange(1, 2000)}}}]


def always(fault, kinds=(), path="", per_mille=1000):
    return lambda _: [{"kinds": list(kinds), "path": path, "per_mille": per_mille, "fault": fault}]


#: What can go wrong, each as rules of the proxy; `names` is the resolver's failure, `away` an
#: outage in which nothing listens.
SCENES = {
    "latency": latency,
    "1 KB/s": always({"slow": {"bytes_per_sec": 1000}}),
    "500": internal_errors,
    "503": always(refusal(503, "SlowDown"), per_mille=700),
    "403": always(refusal(403, "AccessDenied")),
    "expired": always(refusal(400, "ExpiredToken")),
    "reset": always("reset", per_mille=500),
    "cut answers": damaged_answers("cut_answer", "after"),
    "cut uploads": cut_uploads,
    "truncated": damaged_answers("truncate_answer", "after"),
    "corrupt": damaged_answers("flip_answer", "at"),
    "corrupt uploads": damaged_uploads,
    "wrong ETag": always("wrong_etag", per_mille=500),
    "lost answers": always("lost_answer", ["put"], per_mille=600),
    "twice": twice,
    "stale": always({"stale": {"millis": 2500}}, ["get", "head"]),
    "away": always("reset"),
    "names": always("reset", per_mille=300),
    "silent": always("hang"),
    "full": always(refusal(403, "QuotaExceeded"), ["put"], "/packs/"),
    "disk full": always(refusal(507, "InsufficientStorage"), ["put"]),
}


class Store:
    """A real server and the line to it that breaks."""

    def __init__(self, bed):
        self.folder = bed.folder
        self.server = s3.Server(bed.folder)
        self.line = s3.Line(self.server, 0, 0)

    def environment(self, name):
        """Of a workspace whose store is under this prefix. The endpoint is a name, so that it has
        to be resolved."""
        return {"DORMOUSE_STORE": f"s3://{s3.BUCKET}/{name}",
                "DORMOUSE_ENDPOINT": self.line.endpoint.replace("127.0.0.1", "localhost"),
                "DORMOUSE_STORE_TIMEOUT": f"{DEADLINE_SECS}s", **self.server.credentials}

    def __enter__(self):
        try:
            self.server.start()
            self.line.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.line.stop()
        self.server.stop()


def rounds(bed):
    figures = {"read": 0, "EIO": 0, "tried again": 0, "faults": 0, "acknowledged": 0, "drain": 0.0}
    seen = Counter()
    with Store(bed) as store:
        for _ in bed.rounds(2, ROUNDS):
            one = Round(bed, store)
            try:
                one.go()
            finally:
                store.line.faults([])
                one.workspace.stop()
            seen.update(one.met)
            for name, number in one.figures.items():
                keep = max if name == "drain" else lambda old, new: old + new
                figures[name] = keep(figures[name], number)
            remove(one.folder)
    common.say(f"  met: {', '.join(f'{name} {count}' for name, count in sorted(seen.items()))}")
    bed.note(f"{len(seen)} kinds of fault, each met; {figures['faults']} in all; {figures['read']} reads, "
             f"{figures['EIO']} of them EIO; {figures['tried again']} writes tried again; "
             f"{figures['acknowledged']} checkpoints acknowledged meanwhile; drained within "
             f"{figures['drain']:.0f} s")


class Round:
    """One workspace, some faults one after the other, and what must be true in the end."""

    def __init__(self, bed, store):
        self.bed, self.store, self.chance = bed, store, bed.random()
        self.folder = bed.folder / "round"
        self.workspace = Workspace(bed, self.folder / "w", env=store.environment(f"r{bed.seed}"))
        self.workspace.shim()
        self.scenes = self.choose()
        self.has_cap = self.chance.random() < 0.5
        self.is_lost = self.chance.random() < 0.3
        self.figures = {name: 0 for name in ("read", "EIO", "tried again", "faults",
                                             "acknowledged", "drain")}
        self.acknowledged, self.began = [], time.monotonic()
        #: By scene, how many requests (or names) met what went wrong.
        self.met = Counter()
        #: One of the seeds of a full run is away for minutes.
        self.is_long = not bed.quick and bed.seed % ROUNDS == 0
        if self.is_long:
            self.scenes[0], self.is_lost = "away", False

    def choose(self):
        """Neighbouring seeds have other scenes, so that a few rounds choose all."""
        count = self.bed.size(3, 4)
        names = list(SCENES)
        first = self.bed.seed * count
        return [names[(first + step) * 8 % len(names)] for step in range(count)]

    def go(self):
        self.workspace.start(*FLAGS, *self.cap())
        self.write_known()
        load = Load(self.bed, self.workspace, "load", 2, OPERATION_SECS_MAX).start()
        self.began = time.monotonic()
        for name in self.scenes:
            self.scene(name, load)
        if self.is_lost:
            self.lose(load)
        else:
            self.drain(load)
        self.figures["tried again"] = sum(load.refused().values())

    def cap(self):
        return ("--max-unsynced-bytes", "2M") if self.has_cap else ()

    def write_known(self):
        """Files that a reader knows; those to be kept warm in packs of their own, and made last:
        whoever reads files is read ahead for in the order in which they were made."""
        for kind in ("cold", "warm"):
            (self.workspace.path / kind).mkdir()
            for name in (name for name in FILES if name.startswith(kind)):
                (self.workspace.path / name).write_bytes(content(self.bed.seed, name))
            self.workspace.checkpoint()

    def scene(self, name, load):
        """One kind of fault, while the writers go on and somebody reads."""
        common.say(f"  {name}")
        self.workspace.evict()
        for file in FILES:
            if file.startswith("warm"):
                (self.workspace.path / file).read_bytes()
        Workspace.drop_pages()
        beside = Beside(self) if name == "stale" else None
        self.store.line.faults(SCENES[name](self.chance), self.bed.seed, away=name == "away")
        before = self.acted(name) if name in ("away", "names") else 0
        self.workspace.shim(names_fail=name == "names")
        readers = [Reader(self, number) for number in range(2)]
        asked = Checkpoint(self.workspace)
        time.sleep(self.chance.uniform(*self.bed.size((1, 2), (1.5, 8))))
        if name == "away" and self.is_long:
            time.sleep(OUTAGE_SECS)
        if beside:
            beside.go()
        for reader in readers:
            reader.stop()
        met = self.wait_until_met(name, before)
        self.met[name] += met
        self.figures["faults"] += met
        last = name == self.scenes[-1]
        if self.is_lost and last:
            self.acknowledged.append(asked)
            return
        self.store.line.faults([])
        self.workspace.shim()
        self.acknowledged.append(asked)
        for child in load.children:
            if child.poll() is not None:
                load.wait()

    def acted(self, name):
        """How often what goes wrong in this scene has met somebody."""
        if name == "away":
            # Nobody listens who could count: what the daemon asks for meanwhile.
            asked = self.workspace.status()["store"]
            return sum(asked[kind] for kind in ("gets", "puts", "stats"))
        if name == "names":
            return self.workspace.shim_acted()[0]
        return sum(rule["met"] for rule in self.store.line.seen())

    def wait_until_met(self, name, before):
        """A scene that nobody met tests nothing: it goes on, and more is asked of the store."""
        end = time.monotonic() + MET_SECS_MAX
        while not (met := self.acted(name) - before):
            if time.monotonic() > end:
                raise Failed(f"{name}: nothing met it within {MET_SECS_MAX} s")
            self.workspace.evict()
            for file in self.chance.sample(FILES, 4):
                try:
                    found = (self.workspace.path / file).read_bytes()
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    self.figures["EIO"] += 1
                    continue
                if found != content(self.bed.seed, file):
                    raise Failed(f"{name}: {file} has wrong bytes")
        return met

    def settle_checkpoints(self):
        """What has been acknowledged; the commands end by themselves in time."""
        done = [asked for asked in self.acknowledged if asked.receipt()]
        self.figures["acknowledged"] = len(done)
        return done

    def read_all(self):
        """Nothing of a failure is remembered; what was on its way when it ended may still fail."""
        end = time.monotonic() + DEADLINE_SECS + MARGIN_SECS
        for name in FILES:
            while True:
                try:
                    found = (self.workspace.path / name).read_bytes()
                    break
                except OSError as error:
                    if error.errno != 5 or time.monotonic() > end:
                        raise Failed(f"{name} after the faults: {error}") from None
            if found != content(self.bed.seed, name):
                raise Failed(f"{name} after the faults: wrong bytes")

    def drain(self, load):
        """All that returned is there, here and, when it has drained by itself, elsewhere."""
        begun = time.monotonic()
        self.read_all()
        # What was refused goes through now.
        load.wait_for_progress(DRAIN_SECS_MAX)
        self.expect_room(load)
        load.kill()
        load.wait()

        def is_drained():
            return not self.workspace.status()["unsynced"]["changed"]
        common.wait_for(is_drained, "draining after the faults", DRAIN_SECS_MAX)
        self.figures["drain"] = time.monotonic() - begun
        load.check("after the faults", math.inf)
        self.expect_counts()
        self.expect_listed()
        self.expect_quiet_log(load)
        receipt = self.workspace.hibernate()
        self.verify()
        remove(self.workspace.cache)
        self.workspace.mount(*FLAGS)
        if self.workspace.status()["snapshot"] != receipt["snapshot"]:
            raise Failed("another snapshot was mounted than was sealed")
        self.read_all()
        load.check("resumed on an empty cache after the faults", math.inf)

    def lose(self, load):
        """The machine is lost in the middle of the last fault: every checkpoint that was
        acknowledged is there."""
        self.workspace.kill()
        load.wait()
        done = self.settle_checkpoints()
        self.store.line.faults([])
        self.workspace.shim()
        remove(self.workspace.cache)
        self.workspace.mount("--steal", *FLAGS)
        load.check("after the loss of the machine during the faults",
                   max((asked.begun for asked in done), default=0.0))
        self.read_all()
        check_counts(self.workspace)
        self.expect_listed()
        self.workspace.hibernate()
        self.verify()

    def expect_counts(self):
        """The files that the killed writers held open are gone in a moment."""
        end = time.monotonic() + MARGIN_SECS
        while True:
            try:
                return check_counts(self.workspace)
            except Failed:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def expect_room(self, load):
        """Only writers over a cap are told that there is no room."""
        refused = load.refused()
        if not self.has_cap and (full := refused["ENOSPC"] + refused["EDQUOT"]):
            raise Failed(f"without a cap {full} writes were told that there is no room: {refused}")

    def expect_listed(self):
        done = self.settle_checkpoints()
        known = {each["id"] for each in self.workspace.asked("snapshots", "w")["snapshots"]}
        for asked in done:
            if asked.receipt()["snapshot"] not in known:
                raise Failed(f"the acknowledged snapshot {asked.receipt()['snapshot']} is not "
                             "listed")

    def verify(self):
        told = subprocess.run([common.BINARIES / "dormouse", "--json", "verify", "w"],
                              env=common.ENVIRONMENT | self.workspace.environment(), timeout=300,
                              capture_output=True, check=False)
        if told.returncode != 0:
            raise Failed(f"dormouse verify: code {told.returncode}, {told.stdout.decode()[:1500]}"
                         f"...\n{told.stderr.decode()[-1000:]}")

    def expect_quiet_log(self, load):
        """Each failure is told, and none over and over."""
        lines = (self.workspace.cache / "dormouse.log").read_text(errors="replace").splitlines()
        told = [line for line in lines if re.search(r"\b(WARN|ERROR)\b", line)]
        eio = [line for line in told if "EIO" in line]
        refused = self.figures["EIO"] + load.refused()["EIO"]
        if refused and not eio:
            raise Failed(f"{refused} calls were answered with EIO, and the log does not say so")
        # A call may be several requests: the kernel reads ahead.
        secs = time.monotonic() - self.began
        others, most = len(told) - len(eio), LOG_LINES_MAX[1] + LOG_LINES_MAX[0] * secs
        if len(eio) > 8 * refused + LOG_LINES_MAX[1] or others > most:
            raise Failed(f"a flood in the log: {len(eio)} lines of EIO for {refused} calls, "
                         f"{others} other warnings; the last are\n" + "\n".join(told[-12:]))


class Beside:
    """Another workspace on the same store, hibernated and taken over at once while its reads are behind
    its writes."""

    def __init__(self, one):
        self.line, self.refusals = one.store.line, Counter()
        name = f"s{one.bed.seed}"
        env = one.store.environment(name)
        self.machines = [Workspace(one.bed, one.folder / f"{name}-{letter}", env=env)
                         for letter in "ab"]
        # On a sound line: its probe of the conditions is a race that one must be told to win.
        self.machines[0].command("init")

    def go(self):
        try:
            for hop in (self.hibernated, self.taken_over):
                before = self.met()
                hop()
                if self.met() == before:
                    raise Failed(f"{hop.__name__}: no read was behind a write, nothing was tested")
        finally:
            for one in self.machines:
                one.stop()
        common.say(f"    met {self.met()}; refused meanwhile: {dict(self.refusals) or 'nothing'}")

    def met(self):
        return sum(rule["met"] for rule in self.line.seen())

    def until(self, what, work):
        """What is behind looks as if it were missing, and is refused so; a moment later it goes on."""
        end = time.monotonic() + DRAIN_SECS_MAX
        while isinstance(told := work(), str):
            self.refusals[f"{what} {told}"] += 1
            if told not in LATE:
                raise Failed(f"on a store whose reads are late: {what} ended with {told}")
            if time.monotonic() > end:
                raise Failed(f"on a store whose reads are late: {what} still ends with {told}")
            time.sleep(0.1)

    def mount(self, workspace, *flags):
        self.until("mount", lambda: workspace.try_mount("--checkpoint-interval", "0", *flags))

    def seal(self, workspace, command):
        self.until(command, lambda: workspace.tried(command, workspace.path))
        if command == "hibernate":
            workspace.pid = None

    def call(self, work):
        """What `work` gives; a call on something that is behind may meet EIO for a moment."""
        found = []

        def once():
            try:
                found.append(work())
            except OSError as error:
                return errno.errorcode[error.errno]
            return None
        self.until("call", once)
        return found[0]

    def add(self, workspace, number):
        path = workspace.path / f"file-{number}"
        self.call(lambda: path.write_bytes(content(number, "beside")))

    def check(self, workspace, count):
        names = sorted(self.call(lambda: os.listdir(workspace.path)))
        if names != [f"file-{number}" for number in range(count)]:
            raise Failed(f"on a store whose reads are late: {names} of {count} files")
        for number in range(count):
            path = workspace.path / f"file-{number}"
            if self.call(path.read_bytes) != content(number, "beside"):
                raise Failed(f"on a store whose reads are late: file-{number} is wrong")

    def hibernated(self):
        """Sealed on one machine, and mounted on another at once."""
        first, second = self.machines
        self.mount(first)
        self.add(first, 0)
        self.seal(first, "checkpoint")
        self.add(first, 1)
        self.seal(first, "hibernate")
        self.mount(second)
        self.check(second, 2)

    def taken_over(self):
        """The other dies right after a checkpoint, and the first one takes its place at once."""
        first, second = self.machines
        self.add(second, 2)
        self.seal(second, "checkpoint")
        second.kill()
        self.mount(first, "--steal")
        self.check(first, 3)
        self.seal(first, "hibernate")


class Reader:
    """A process of reader.py."""

    def __init__(self, one, number):
        self.one = one
        self.log = one.folder / f"reader-{number}.log"
        self.log.unlink(missing_ok=True)
        self.child = subprocess.Popen(
            [sys.executable, "-B", tools.HERE / "reader.py", one.workspace.path, self.log,
             str(one.bed.seed), str(DEADLINE_SECS + MARGIN_SECS), *FILES],
            env=common.ENVIRONMENT, stdin=subprocess.DEVNULL)

    def stop(self):
        self.child.kill()
        try:
            code = self.child.wait(DEADLINE_SECS + MARGIN_SECS)
        except subprocess.TimeoutExpired:
            raise Failed("a killed reader waits longer than its deadline") from None
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        if code != -9:
            raise Failed(f"a reader: {lines[-1:]}\n{self.one.workspace.log()}")
        self.one.figures["read"] += len(lines)
        self.one.figures["EIO"] += sum(line.startswith("EIO") for line in lines)
        self.one.bed.count(len(lines))


class Checkpoint:
    """A checkpoint that was asked for, and may be acknowledged or not."""

    def __init__(self, workspace):
        command = [common.BINARIES / "dormouse", "--json", "checkpoint", workspace.path]
        self.begun, self.told, self.refusal = time.monotonic(), None, ""
        self.child = subprocess.Popen(command, env=common.ENVIRONMENT | workspace.environment(),
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def receipt(self):
        """Waits for its end; what was acknowledged, or none."""
        if self.told is None:
            try:
                text, wrong = self.child.communicate(timeout=DRAIN_SECS_MAX)
            except subprocess.TimeoutExpired:
                self.child.kill()
                raise Failed("a checkpoint does not end") from None
            self.told = json.loads(text) if self.child.returncode == 0 else {}
            self.refusal = wrong.decode(errors="replace")[-300:]
        return self.told
