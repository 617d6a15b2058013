"""The command behind scripts/torture; see docs/testing.md."""

import argparse
import contextlib
import fcntl
import os
import pathlib
import signal
import sys
import time
import traceback

import tools
from tools import ROOT, Failed, Stopped, say

import contenders  # Of scripts/bench: tools has set the path.
import common
from bed import Bed
from parts import PARTS

#: How long what a part has started may take to be gone after its end.
LEFT_SECS_MAX = 15

URING = pathlib.Path("/sys/module/fuse/parameters/enable_uring")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/torture", description=(
        "Suites of others, crashes, power cuts, a bad store and two writers, on real mounts."))
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help="default all; LIST shows them")
    add("--quick", action="store_true", help="what CI runs: a few minutes")
    add("--seed", type=int, default=None, help="default: the time; a failure prints it")
    add("--seconds", type=int, default=0, metavar="N",
        help="parts with rounds go on for so long, instead of their number of rounds")
    add("--rounds", type=int, default=0, metavar="N", help="instead of the part's own number")
    add("--transport", default="dev", choices=["dev", "uring"],
        help="default dev; uring switches it on in the kernel for the run")
    add("--dormouse-args", default="", metavar="FLAGS", help="more flags of `dormouse mount`")
    add("--disk", type=pathlib.Path, default=ROOT / "target" / "torture",
        help="folder on the disk under test; it is emptied")
    return parser.parse_args()


def chosen(options):
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: see scripts/torture LIST")
    if options.parts:
        return [PARTS[name] for name in options.parts]
    return [part for part in PARTS.values() if part.quick or not options.quick]


@contextlib.contextmanager
def uring(options):
    """The kernel's switch, put back afterwards."""
    if options.transport != "uring":
        yield
        return
    before = URING.read_text().strip()
    URING.write_text("Y")
    try:
        yield
    finally:
        URING.write_text(before)


def run_part(part, options, folder):
    """One row of the table."""
    say(f"\n{part.name}: {part.title}")
    bed = Bed(part, options, folder)
    began, result = time.monotonic(), "ok"
    try:
        part.work(bed)
        tools.check_no_d_state()
    except Stopped:
        result = "stopped"
    except Exception as error:
        known = isinstance(error, (Failed, common.TooLong))
        result = "FAILED"
        say(f"FAILED: {part.name}, seed {bed.seed}")
        say(str(error) if known else traceback.format_exc())
        say(f"replay: {bed.replay()}\nleft as it was: {bed.folder}")
    finally:
        left = tools.left_over(LEFT_SECS_MAX) if result == "ok" else []
        # Whatever a second signal breaks off, main() does again.
        tools.clean(bed.folder)
    if left:
        result = "FAILED"
        say(f"FAILED: {part.name} has left processes behind: {'; '.join(left)}")
    if result == "ok":
        common.remove(bed.folder)
    seconds = time.monotonic() - began
    row = (part.name, bed.done_rounds or 1, bed.operations, bed.options.seed, f"{seconds:.0f}",
           result, "; ".join(bed.notes))
    say(f"{part.name}: {result}, {seconds:.0f} s{'; ' if bed.notes else ''}{row[-1]}")
    return row


def table(rows):
    head = ("part", "rounds", "operations", "seed", "seconds", "result", "notes")
    rows = [tuple(f"{cell:,}" if index in (1, 2) else str(cell) for index, cell in enumerate(row))
            for row in rows]
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(6)]
    for row in [head, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        print("  ".join([*cells, row[6]]).rstrip())


def on_signal(number, _frame):
    raise Stopped(signal.Signals(number).name)


def main():
    options = arguments()
    if options.parts == ["LIST"]:
        for part in PARTS.values():
            print(f"{part.name:<12} {part.title}{'' if part.quick else ' (not in --quick)'}")
        return 0
    parts = chosen(options)
    if options.seed is None:
        options.seed = int(time.time()) % 1_000_000
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    options.disk.mkdir(parents=True, exist_ok=True)
    lock = os.open(options.disk, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(f"{options.disk} is in use by another run") from None
    folder = options.disk.resolve()
    tools.mark(folder)
    # What a run has left that was killed.
    tools.clean(folder)
    rows = []
    try:
        work = contenders.disk(folder)
        with uring(options):
            for part in parts:
                rows.append(run_part(part, options, work))
                if rows[-1][5] == "stopped":
                    break
    except Stopped as stopped:
        say(f"stopped by {stopped}")
    finally:
        tools.clean(folder)
        print()
        table(rows)
    done = len(rows) == len(parts) and all(row[5] == "ok" for row in rows)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
