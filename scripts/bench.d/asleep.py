"""Waking and sleeping: each phase on a machine that has nothing of the workspace, through the slow
line, with what it asked of S3."""

import dataclasses
import sys
import time

from awake import run_rounds
from common import HERE, Failed, TooLong, machine_busy_secs, output, run, say, shell, sync
from sleepers import Archive, SleepyDormouse, fill

#: name -> what it is; in the order in which they are measured.
PHASES = {
    "wire": "one object of 256 MiB down, the S3 client alone (archive only)",
    "hibernate-first": "first hibernation of 1 GiB",
    "wake-ls": "mount + first ls",
    "wake-git-status": "cold git status, 10,000 tracked files",
    "wake-read-one": "cold read of one small file, metadata there",
    "wake-read-all": "mount + cold read of everything",
    "work-first": "first waking: git status, cargo check, editor",
    "work-second": "second waking, same work, hot set down",
    "work-second-at-once": "second waking, mount + same work at once",
    "work-warm": "the same work, warm",
    "work-local": "the same work, only the local cache warm",
    "hibernate-edits": "hibernation after 20 small edits",
    "build-alone": "cargo build, no checkpoint",
    "build-checkpoint": "cargo build, one checkpoint meanwhile",
}
WORK = ("work-first", "work-second", "work-second-at-once", "work-warm", "work-local")


@dataclasses.dataclass(frozen=True)
class Sizes:
    big_mib: int = 512
    first_mib: int = 1024


QUICK = Sizes(big_mib=32, first_mib=64)


def work_of(path, *words):
    return output(sys.executable, HERE / "work.py", *words, cwd=path)


def git_status(path):
    run("git", "--no-optional-locks", "-C", path / "repository", "status", "--porcelain")


def the_work(path):
    """What somebody does who comes back: looks at git, checks the program, opens the editor."""
    git_status(path)
    (path / "crate" / "src" / "main.rs").touch()
    run("cargo", "check", "--frozen", "--quiet", cwd=path / "crate")
    shell("find . -maxdepth 2 -not -path './.git*' | sort >/dev/null;"
          " git ls-files '*.rs' | awk 'NR % 200 == 0' | head -40 | xargs cat | wc -c",
          cwd=path / "repository")


class Asleep:
    def __init__(self, sleepers, wanted, line, material, options):
        self.sleepers, self.wanted, self.line = sleepers, wanted, line
        self.material, self.options = material, options
        self.sizes = QUICK if options.quick else Sizes()
        self.results = {name: {} for name in PHASES if name in wanted}

    def run(self):
        self.line.fast()
        if self.wanted - {"hibernate-first"}:
            for sleeper in self.sleepers:
                self.guarded("filling", sleeper, self.filled)
        self.line.slow()
        run_rounds(self.options, self.round)

    def round(self, number):
        say(f"round {number + 1}")
        for part in (self.wire, self.first, self.wake_ls, self.wake_git_status,
                     self.wake_read_one, self.wake_read_all, self.work, self.edits, self.builds):
            for sleeper in self.sleepers:
                self.guarded(part.__name__, sleeper, part, number)

    def guarded(self, what, sleeper, part, *more):
        if getattr(sleeper, "broken", False):
            return
        try:
            part(sleeper, *more)
        except (Failed, TooLong) as error:
            say(f"  {what} on {sleeper.name}: {error}")
            # It is in no known state: nothing more can be said of it.
            sleeper.broken = True
            sleeper.stop()

    def filled(self, sleeper):
        say(f"filling {sleeper.name}")
        sleeper.begin("w")
        fill(sleeper.path, self.material, work_of, self.sizes.big_mib, self.options.timeout)
        sleeper.sleep()

    def asks(self, *names):
        return bool(self.wanted & set(names))

    def measure(self, phase, sleeper, timed):
        """Runs `timed` with the counts at zero, and keeps what it cost."""
        self.line.reset()
        busy_before, begin = machine_busy_secs(), time.perf_counter()
        timed()
        seconds = time.perf_counter() - begin
        busy = machine_busy_secs() - busy_before
        counts = self.line.counts()
        if phase in self.wanted:
            one = {"seconds": seconds, "busy_secs": busy} | counts
            self.results[phase].setdefault(sleeper.name, []).append(one)
            say(f"  {phase:<20} {sleeper.name:<12} {seconds:8.3f} s {counts['requests']:6} requests"
                f" chain {counts['chain']:4}  down {counts['bytes_down'] / 1e6:8.2f} MB"
                f"  up {counts['bytes_up'] / 1e6:8.2f} MB  {busy / seconds:.1f} cores busy")

    def away(self, sleeper):
        """Asleep, and on another machine."""
        sleeper.forget()
        self.line.wait_quiet()

    # The phases.

    def wire(self, sleeper, number):
        if not self.asks("wire") or not isinstance(sleeper, Archive):
            return
        target = f"s3:bench/{sleeper.name}/wire"
        if number == 0:
            mib = 256 if not self.options.quick else 16
            shell(f"head -c {mib}M /dev/urandom | {sleeper.rclone.text('rcat', target)}")
        self.measure("wire", sleeper,
                     lambda: shell(f"{sleeper.rclone.text('cat', target)} | wc -c"))

    def first(self, sleeper, number):
        if not self.asks("hibernate-first"):
            return
        sleeper.begin(f"first-{number}")
        work_of(sleeper.path, "sequential-write", f"first-{number}.bin", self.sizes.first_mib)
        self.measure("hibernate-first", sleeper, sleeper.sleep)
        self.away(sleeper)
        if isinstance(sleeper, SleepyDormouse):
            sleeper.workspace = "w"
        elif isinstance(sleeper, Archive):
            sleeper.begin("w")

    def wake_ls(self, sleeper, _):
        if not self.asks("wake-ls"):
            return
        self.away(sleeper)

        def wake():
            sleeper.wake()
            run("ls", sleeper.path)
        self.measure("wake-ls", sleeper, wake)
        self.line.wait_quiet()
        sleeper.sleep()

    def wake_git_status(self, sleeper, _):
        if not self.asks("wake-git-status"):
            return
        self.away(sleeper)
        sleeper.wake()
        run("ls", sleeper.path)
        self.measure("wake-git-status", sleeper, lambda: git_status(sleeper.path))
        self.line.wait_quiet()
        sleeper.sleep()

    def wake_read_one(self, sleeper, number):
        if not self.asks("wake-read-one"):
            return
        self.away(sleeper)
        sleeper.wake()
        listed = output("find", sleeper.path / "repository", "-name", "*.rs", "-size", "-8").split()
        one = sorted(listed)[len(listed) // 2 + number]
        self.line.wait_quiet()
        self.measure("wake-read-one", sleeper, lambda: run("cat", one))
        sleeper.sleep()

    def wake_read_all(self, sleeper, _):
        if not self.asks("wake-read-all"):
            return
        self.away(sleeper)

        def read():
            sleeper.wake()
            shell("find . -type f -print0 | xargs -0 cat | wc -c", cwd=sleeper.path)
        self.measure("wake-read-all", sleeper, read)
        sleeper.sleep()

    def work(self, sleeper, _):
        if not self.asks(*WORK):
            return
        self.away(sleeper)
        sleeper.wake()
        run("ls", sleeper.path)
        self.measure("work-first", sleeper, lambda: the_work(sleeper.path))
        sleeper.sleep()
        self.away(sleeper)
        sleeper.wake()
        self.line.wait_quiet()
        self.measure("work-second", sleeper, lambda: the_work(sleeper.path))
        self.measure("work-warm", sleeper, lambda: the_work(sleeper.path))
        # What the second waking is judged by: programs and kernel as cold, and everything here.
        sleeper.make_cold("remounted")
        self.line.wait_quiet()
        self.measure("work-local", sleeper, lambda: the_work(sleeper.path))
        sleeper.sleep()
        self.away(sleeper)

        def at_once():
            sleeper.wake()
            the_work(sleeper.path)
        self.measure("work-second-at-once", sleeper, at_once)
        self.line.wait_quiet()
        sleeper.sleep()

    def edits(self, sleeper, number):
        if not self.asks("hibernate-edits"):
            return
        self.away(sleeper)
        sleeper.wake()
        listed = sorted((sleeper.path / "repository").rglob("*.rs"))
        for file in listed[number::len(listed) // 20][:20]:
            with open(file, "ab") as out:
                out.write(b"// edited\n")
        sync(sleeper.path)
        self.line.wait_quiet()
        self.measure("hibernate-edits", sleeper, sleeper.sleep)

    def builds(self, sleeper, number):
        if not self.asks("build-alone", "build-checkpoint"):
            return
        if not isinstance(sleeper, SleepyDormouse):
            return
        self.away(sleeper)
        sleeper.wake()
        # Beside the one that the next round's work needs.
        target = sleeper.path / "crate" / "built"
        build_command = "cargo build --frozen --quiet --target-dir built"

        def build():
            shell(build_command, cwd=sleeper.path / "crate")

        def build_beside_checkpoint():
            # Begun when there is something to seal, and waited for: it is part of the cost.
            shell(f"{build_command} & build=$!; sleep 1.5; "
                  f"'{sleeper.binary}' checkpoint '{sleeper.path}' & wait $!; wait $build",
                  cwd=sleeper.path / "crate", env=sleeper.env)
        pair = [("build-alone", build), ("build-checkpoint", build_beside_checkpoint)]
        # Everything that they read has been fetched before.
        run("rm", "-rf", target)
        build()
        for phase, timed in pair if number % 2 == 0 else reversed(pair):
            run("rm", "-rf", target)
            # What deleting and building left to do in the background is not the next build's.
            sleeper.command("checkpoint", sleeper.path)
            self.measure(phase, sleeper, timed)
        run("rm", "-rf", target)
        sleeper.sleep()
