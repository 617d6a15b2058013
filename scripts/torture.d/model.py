"""The model: random histories in process and on a real mount, beside a plain filesystem."""

import concurrent.futures
import contextlib
import re
import shutil
import subprocess
import tempfile

import common
from common import ROOT, Failed

#: The two tests and the name of what runs for as long as it is told.
TESTS = {"model": "for_as_long_as_asked",
         "mounted_model": "histories_give_the_same_as_on_the_local_disk"}

SAID = re.compile(r"(\w+): (\d+) histories, (\d+) operations, from seed \d+, (\d+) s, (\d+) histories a minute")


def model(bed):
    """Both at once, for the same time, each history from its own seed."""
    seconds = bed.options.seconds or bed.size(8, 900)
    with concurrent.futures.ThreadPoolExecutor(len(TESTS)) as pool:
        done = list(pool.map(lambda test: one(bed, test, seconds), TESTS))
    for operations, note, _ in done:
        bed.count(operations)
        bed.note(note)
    failures = [failure for _, _, failure in done if failure]
    if failures:
        raise Failed("\n".join(failures))


def one(bed, test, seconds):
    """Operations, what is to be told, and what is wrong."""
    log = bed.folder / f"{test}.log"
    with place(bed, test) as folder:
        return within(bed, test, seconds, folder, log)


def place(bed, test):
    """Where its directories are: on the disk under test, where there are mounts and plain
    directories beside them; what is in process needs no disk, and is faster without."""
    memory = "/dev/shm"
    with contextlib.suppress(OSError):
        if test == "model" and shutil.disk_usage(memory).free >= 1 << 30:
            return tempfile.TemporaryDirectory(prefix="dormouse-model-", dir=memory)
    return contextlib.nullcontext(bed.plain(test))


def within(bed, test, seconds, folder, log):
    """The same, below this folder."""
    environment = common.ENVIRONMENT | {
        "TMPDIR": str(folder), "DORMOUSE_MODEL_SEED": str(bed.seed),
        "DORMOUSE_MODEL_SECONDS": str(seconds), "DORMOUSE_TEST_TRANSPORT": bed.options.transport,
    }
    command = ["cargo", "test", "--release", "--locked", "--quiet", "--test", test, "--",
               "--include-ignored", "--nocapture", "--exact", TESTS[test]]
    with log.open("wb") as output:
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                               stdout=output, stderr=output, check=False,
                               timeout=seconds + 1800)
    text = log.read_text(errors="replace")
    said = SAID.search(text)
    if ended.returncode or not said:
        return 0, f"{test} failed", f"{test}: all that it wrote: {log}\n{text[-3000:]}"
    if not int(said[2]):
        return 0, f"{test} did nothing", f"{test}: no history ended within {seconds} s: {log}"
    name, histories, operations, _, rate = said.groups()
    note = f"{name}: {int(histories):,} histories, {int(operations):,} operations, {int(rate):,} a minute"
    return int(operations), note, None
