"""work.py WORKLOAD FILE [NUMBER...]: one pattern of reads and writes; prints the seconds it took."""

import json
import mmap
import os
import random
import sqlite3
import subprocess
import sys
import time

PAGE = 4096
MIB = 1 << 20
# What programs that copy use, and what dormouse cuts large files into.
PIECE = 256 * 1024


def offsets(size, count):
    """The same places in every run."""
    places = random.Random(7)
    return [places.randrange(size // PAGE) * PAGE for _ in range(count)]


def pattern(length, seed=11):
    return random.Random(seed).randbytes(length)


def fsyncs(file, count):
    page = pattern(PAGE)
    fd = os.open(file, os.O_CREAT | os.O_WRONLY)
    begin = time.perf_counter()
    for number in range(int(count)):
        os.pwrite(fd, page, number * PAGE)
        os.fsync(fd)
    return time.perf_counter() - begin


def sqlite_transactions(file, count, journal):
    base = sqlite3.connect(file, isolation_level=None)
    base.execute(f"pragma journal_mode = {journal}")
    base.execute("pragma synchronous = full")
    base.execute("create table event (id integer primary key, body text)")
    begin = time.perf_counter()
    for number in range(int(count)):
        base.execute("insert into event (body) values (?)", (f"event {number} " * 8,))
    seconds = time.perf_counter() - begin
    base.close()
    return seconds


def sqlite_bulk(file, rows):
    base = sqlite3.connect(file, isolation_level=None)
    base.execute("create table event (id integer primary key, body text)")
    base.execute("create index by_body on event (body)")
    data = [(f"{number * 2654435761 % 4294967296:08x} " * 8,) for number in range(int(rows))]
    begin = time.perf_counter()
    base.execute("begin")
    base.executemany("insert into event (body) values (?)", data)
    base.execute("commit")
    return time.perf_counter() - begin


def appends(file, count):
    line = b"x" * 99 + b"\n"
    fd = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    begin = time.perf_counter()
    for _ in range(int(count)):
        os.write(fd, line)
    os.close(fd)
    return time.perf_counter() - begin


def random_overwrite(file, count):
    fd = os.open(file, os.O_RDWR)
    places, page = offsets(os.fstat(fd).st_size, int(count)), pattern(PAGE)
    begin = time.perf_counter()
    for place in places:
        os.pwrite(fd, page, place)
    os.fsync(fd)
    return time.perf_counter() - begin


def mapped(file, count, is_write):
    fd = os.open(file, os.O_RDWR)
    size = os.fstat(fd).st_size
    places, total = offsets(size, int(count)), 0
    begin = time.perf_counter()
    with mmap.mmap(fd, size) as memory:
        for place in places:
            if is_write:
                memory[place:place + 8] = b"written!"
            else:
                total += memory[place + 100]
        if is_write:
            memory.flush()
    return time.perf_counter() - begin


def sequential_write(file, mib):
    # Half of each piece repeats itself, as files do.
    half = PIECE // 2
    pieces = [bytearray(pattern(half, seed) + (b"the same " * half)[:half]) for seed in range(64)]
    fd = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    begin = time.perf_counter()
    for number in range(int(mib) * MIB // PIECE):
        piece = pieces[number % len(pieces)]
        # No two are equal, or a store would keep one.
        piece[:8] = number.to_bytes(8, "little")
        os.write(fd, piece)
    os.fsync(fd)
    return time.perf_counter() - begin


def sequential_read(file):
    fd, room = os.open(file, os.O_RDONLY), bytearray(MIB)
    begin = time.perf_counter()
    while os.readv(fd, [room]):
        pass
    return time.perf_counter() - begin


def fio(file, mib):
    """Half reads, half writes, one at a time, and what fio itself says they took."""
    told = subprocess.run(
        ["fio", "--name=mixed", f"--filename={file}", "--rw=randrw", "--bs=4k", "--ioengine=psync",
         f"--size={mib}m", "--end_fsync=1", "--fallocate=none", "--randseed=7", "--invalidate=0",
         "--output-format=json"], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    text = told.stdout.decode()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    return job["job_runtime"] / 1000


WORKLOADS = {
    "fsyncs": fsyncs, "sqlite-transactions": sqlite_transactions, "sqlite-bulk": sqlite_bulk,
    "appends": appends, "random-overwrite": random_overwrite, "fio": fio,
    "mmap-read": lambda file, count: mapped(file, count, False),
    "mmap-write": lambda file, count: mapped(file, count, True),
    "sequential-write": sequential_write, "sequential-read": sequential_read,
}

if __name__ == "__main__":
    print(WORKLOADS[sys.argv[1]](*sys.argv[2:]))
