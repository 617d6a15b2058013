"""Writers at work in a mount, and the judgement of what a crash left of their work."""

import os
import subprocess
import sys
import time
from collections import Counter

import common
import tools
from common import Failed
from history import File, History, find_prefix, picture_of, splice

WRITERS = 3


class Load:
    """Some writers, each in its own directory with its own log and history."""

    def __init__(self, bed, workspace, name, writers=WRITERS, seconds_max=None, stops=False):
        """With `seconds_max` the writers outlive a store that misbehaves (see writer.py)."""
        self.bed, self.workspace, self.name = bed, workspace, name
        self.seeds = [f"{bed.seed}-{number}" for number in range(writers)]
        self.folders = [workspace.path / name / f"w{number}" for number in range(writers)]
        self.logs = [bed.folder / f"{name}-w{number}.log" for number in range(writers)]
        self.seconds_max = "-" if seconds_max is None else str(seconds_max)
        self.children, self.was_checked = [], False
        #: Where it exists, writers stop by themselves; before that no call may fail.
        self.sign = bed.folder / f"{name}.stop" if stops else None

    def start(self):
        if self.sign:
            self.sign.unlink(missing_ok=True)
        for folder, log, seed in zip(self.folders, self.logs, self.seeds):
            folder.mkdir(parents=True)
            log.unlink(missing_ok=True)
            self.children.append(subprocess.Popen(
                [sys.executable, "-B", tools.HERE / "writer.py", folder, log, seed,
                 self.seconds_max, *([self.sign] if self.sign else [])],
                env=common.ENVIRONMENT, stdin=subprocess.DEVNULL))
        return self

    def kill(self):
        for child in self.children:
            child.kill()

    def require_alive(self):
        for child, log in zip(self.children, self.logs):
            if child.poll() is not None:
                last = log.read_text().splitlines()[-1:] if log.exists() else []
                raise Failed(f"a writer has ended: {last}")

    def stop(self):
        """Has the writers stop after the call that they are at."""
        self.require_alive()
        self.sign.touch()
        self.wait()

    def longest_pause(self):
        """The longest time from one call's return to the next one's, seconds."""
        found = [0.0]
        for times, _ in self.read_logs():
            found += [after - before for before, after in zip(times[1:], times[2:])]
        return max(found)

    def check_whole(self, what):
        """Each writer's directory must be what its whole history makes."""
        for folder, seed, (times, _) in zip(self.folders, self.seeds, self.read_logs()):
            done = len(times) - 1
            prefix, wrong = find_prefix(seed, picture_of(folder), done, done)
            if prefix is None:
                raise Failed(f"{what}: {folder} is not the state after all {done} operations of "
                             f"seed {seed}:\n{told(wrong)}")
            if not self.was_checked:
                self.bed.count(done)
        self.was_checked = True

    def wait(self):
        """For writers whose daemon is gone: they end by themselves, in time."""
        for child, log in zip(self.children, self.logs):
            try:
                code = child.wait(60)
            except subprocess.TimeoutExpired:
                hangs = f"a writer hangs after the end of its daemon, pid {child.pid}"
                raise Failed(hangs) from None
            if code not in (0, -9):
                last = log.read_text().splitlines()[-1:] if log.exists() else []
                raise Failed(f"a writer met an error that no crash explains: {last}")
        self.children = []

    def read_logs(self):
        """Per writer: times when operations had ended, and when fsyncs were begun."""
        found = []
        for log in self.logs:
            times, fsyncs = [0.0], []
            for line in log.read_text().splitlines() if log.exists() else ():
                fields = line.split()
                if fields[0] == "end":
                    break
                if fields[0] == "again":
                    continue
                times.append(float(fields[1]))
                if len(fields) == 3:
                    fsyncs.append(float(fields[2]))
            found.append((times, fsyncs))
        return found

    def refused(self):
        """Calls that were tried again, by error."""
        lines = [line for log in self.logs if log.exists() for line in log.read_text().splitlines()]
        return Counter(line.split()[3] for line in lines if line.startswith("again "))

    def wait_for_progress(self, seconds_max):
        """Each writer must have carried out a call from now on, and soon."""
        now, end = time.monotonic(), time.monotonic() + seconds_max
        while True:
            self.require_alive()
            idle = [number for number, (times, _) in enumerate(self.read_logs())
                    if times[-1] < now]
            if not idle:
                return
            if time.monotonic() > end:
                raise Failed(f"writers {idle} have done nothing for {seconds_max} s: "
                             f"{[self.logs[number].read_text().splitlines()[-1:] for number in idle]}")
            time.sleep(0.2)

    def newest_fsync(self):
        """When the newest acknowledged fsync was begun: everything that any writer had done by
        then is safe."""
        return max((begun for _, fsyncs in self.read_logs() for begun in fsyncs), default=0.0)

    def check(self, what, safe_until, path=None):
        """Each writer's directory must be a prefix of its history that has at least what was done
        by a time (infinity: everything that had returned), and all of them together a prefix of
        the one order that there is. Returns the operations that are missing at the end, of all
        writers."""
        self.prefixes = self.find_prefixes(what, safe_until, path)
        if not self.was_checked:
            self.bed.count(sum(self.prefixes))
        self.was_checked = True
        return sum(max(0, len(times) - 1 - prefix)
                   for (times, _), prefix in zip(self.read_logs(), self.prefixes))

    def lost(self, now):
        """Bytes that were to be read and were written by calls that are missing, by the last check,
        and how long before `now` the first of those calls had returned."""
        lost, age = 0, 0.0
        for seed, (times, _), prefix in zip(self.seeds, self.read_logs(), self.prefixes):
            history, written = History(seed), {}
            while history.number < len(times) - 1:
                kind, arguments = history.next()
                if history.number <= prefix:
                    continue
                file = history.entries.get(arguments[0])
                if kind in ("write", "append"):
                    _, offset, data = arguments
                    splice(written.setdefault(file, bytearray()), offset, b"x" * len(data))
                elif kind == "truncate" and file in written:
                    del written[file][arguments[1]:]
            there = {entry for entry in history.entries.values() if isinstance(entry, File)}
            lost += sum(marks.count(b"x") for file, marks in written.items() if file in there)
            if prefix < len(times) - 1:
                age = max(age, now - times[prefix + 1])
        return lost, age

    def find_prefixes(self, what, safe_until, path):
        """The shortest that fit. Whatever had returned before the last operation of any of them
        was begun is in the one order before that operation, so it must be there; a longer prefix
        may demand more of the others, and so on."""
        logs, why = self.read_logs(), "safe"
        folders = [path / os.path.relpath(folder, self.workspace.path) if path else folder
                   for folder in self.folders]
        found = [picture_of(folder) if folder.is_dir() else {} for folder in folders]
        least = [sum(1 for time in times[1:] if time <= safe_until) for times, _ in logs]
        prefixes = [-1] * len(logs)
        while True:
            for number, (times, _) in enumerate(logs):
                if prefixes[number] >= least[number]:
                    continue
                # One call may have been carried out without its return having been noted.
                most = len(times)
                prefix, wrong = find_prefix(self.seeds[number], found[number], least[number], most)
                if prefix is None:
                    raise Failed(f"{what}: {folders[number]} is no state between operation "
                                 f"{least[number]} ({why}) and {most} of seed "
                                 f"{self.seeds[number]}; against {least[number]}:\n{told(wrong)}")
                prefixes[number] = prefix
            # The last operation that is there was begun after the one before it had returned.
            begun = max(times[prefix - 1] if prefix else 0.0
                        for (times, _), prefix in zip(logs, prefixes))
            # Two times may be the same by rounding: then nothing is known.
            least = [max(old, sum(1 for time in times[1:] if time < begun))
                     for old, (times, _) in zip(least, logs)]
            if all(prefix >= wanted for prefix, wanted in zip(prefixes, least)):
                return prefixes
            why = "before what another writer has there"


def told(wrong):
    return "\n".join(f"  {path}: wanted {str(wanted)[:120]}, found {str(seen)[:120]}"
                     for path, (wanted, seen) in list(wrong.items())[:12])


def check_counts(workspace):
    """No orphan is left, and no inode lost: the daemon counts what is to be seen."""
    seen = {}
    for place, folders, files in os.walk(workspace.path):
        for name in (".", *folders, *files):
            facts = os.lstat(os.path.join(place, name))
            seen[facts.st_ino] = facts
    status = workspace.status()
    if status["inodes"] != len(seen):
        raise Failed(f"{len(seen)} inodes are to be seen, the daemon counts {status['inodes']}")
