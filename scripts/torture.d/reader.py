"""A process that reads files whose content it knows, and notes what each call gave and took.

    reader.py FOLDER LOG SEED SECONDS NAME...       goes on until it is killed

Reads of files in warm/ must succeed; others may fail with EIO. Wrong bytes, another error, and
a call that takes longer than SECONDS end it with code 1 and a last line that says so.
"""

import errno
import os
import random
import sys
import time

#: Between two reads: there are others on the machine.
PAUSE_SECS = 0.002

FILE_BYTES = (1, 20_000, 300_000, 700_000)


def content(seed, name):
    chance = random.Random(f"{seed}:{name}")
    return chance.randbytes(chance.randrange(1, chance.choice(FILE_BYTES) + 1))


class Wrong(Exception):
    """What no fault of a store explains."""


def timed(seconds_max, what, work, *arguments):
    begun = time.monotonic()
    try:
        return work(*arguments)
    finally:
        seconds = time.monotonic() - begun
        if seconds > seconds_max:
            raise Wrong(f"{what} took {seconds:.1f} s")


def read(folder, name, wanted, chance, seconds_max):
    """Reads a range; the number of the error that it met, or none."""
    offset = chance.randrange(len(wanted))
    length = chance.choice((1, 4096, 100_000, len(wanted)))
    descriptor = None
    try:
        path = os.path.join(folder, name)
        descriptor = timed(seconds_max, f"opening {name}", os.open, path, os.O_RDONLY)
        # Not from the kernel's memory: what it has is dropped first.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        found = timed(seconds_max, f"reading {name}", os.pread, descriptor, length, offset)
    except OSError as error:
        if error.errno != errno.EIO or name.startswith("warm/"):
            raise Wrong(f"{name}: {error}") from None
        return error.errno
    finally:
        if descriptor is not None:
            os.close(descriptor)
    # An error in the middle of a read leaves it short.
    if not found or found != wanted[offset:offset + length][:len(found)]:
        raise Wrong(f"{name}: wrong bytes at {offset}, {len(found)} of {length}")
    return None


def main():
    folder, log, seed, seconds_max, *names = sys.argv[1:]
    known = {name: content(seed, name) for name in names}
    chance = random.Random(f"{seed}:reads:{log}")
    with open(log, "a", encoding="ascii", buffering=1) as lines:
        while True:
            name = chance.choice(names)
            begun = time.monotonic()
            try:
                error = read(folder, name, known[name], chance, float(seconds_max))
            except Wrong as wrong:
                lines.write(f"wrong {wrong}\n")
                return 1
            told = errno.errorcode[error] if error else "ok"
            lines.write(f"{told} {time.monotonic() - begun:.3f} {name}\n")
            time.sleep(PAUSE_SECS)


if __name__ == "__main__":
    sys.exit(main())
