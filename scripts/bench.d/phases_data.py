"""Large files, databases, and patterns of single reads and writes. Each is a program that times
itself (work.py), so that starting it costs nobody anything."""

import sys

from common import HERE, output
from phase import phase


def work(place, *words):
    return float(output(sys.executable, HERE / "work.py", *words, cwd=place.dir,
                        timeout=place.timeout))


@phase("fsync", "fsync of 4 KiB, 200 times")
def fsync(place):
    return work(place, "fsyncs", "fsync.bin", 200)


@phase("sqlite-tx", "SQLite, 1,000 transactions")
def sqlite_transactions(place):
    return work(place, "sqlite-transactions", "tx.sqlite", place.sizes.transactions, "delete")


@phase("sqlite-wal", "SQLite, 1,000 transactions, WAL")
def sqlite_wal(place):
    return work(place, "sqlite-transactions", "wal.sqlite", place.sizes.transactions, "wal")


@phase("sqlite-bulk", "SQLite, 200,000 rows in one transaction")
def sqlite_bulk(place):
    return work(place, "sqlite-bulk", "bulk.sqlite", place.sizes.rows)


@phase("appends", "10,000 appends of 100 bytes")
def appends(place):
    return work(place, "appends", "appends.log", place.sizes.appends)


def middle_file(place):
    if not (place.dir / "middle.bin").exists():
        work(place, "sequential-write", "middle.bin", place.sizes.middle_mib)


@phase("overwrite", "4,096 random 4 KiB overwrites in 64 MiB + fsync", prepare=middle_file)
def overwrite(place):
    return work(place, "random-overwrite", "middle.bin", place.sizes.overwrites)


def middle_file_read(place):
    middle_file(place)
    work(place, "sequential-read", "middle.bin")


@phase("mmap-read", "10,000 random 4 KiB mmap reads in 64 MiB, warm", prepare=middle_file_read)
def mmap_read(place):
    return work(place, "mmap-read", "middle.bin", place.sizes.maps)


@phase("mmap-read-dropped", "10,000 random 4 KiB mmap reads in 64 MiB, caches dropped",
       prepare=middle_file, cold="dropped")
def mmap_read_dropped(place):
    return work(place, "mmap-read", "middle.bin", place.sizes.maps)


@phase("mmap-write", "10,000 random 4 KiB mmap writes in 64 MiB + msync", prepare=middle_file_read)
def mmap_write(place):
    return work(place, "mmap-write", "middle.bin", place.sizes.maps)


@phase("fio", "fio, 64 MiB of random 4 KiB reads and writes", prepare=middle_file)
def fio(place):
    return work(place, "fio", "middle.bin", place.sizes.middle_mib)


@phase("write-big", "1 GiB sequential write + fsync", makes="big")
def write_big(place):
    return work(place, "sequential-write", "big.bin", place.sizes.big_mib)


def read_once(place):
    work(place, "sequential-read", "big.bin")


@phase("read-big-warm", "read 1 GiB, page cache warm", needs=("big",), prepare=read_once)
def read_big_warm(place):
    return work(place, "sequential-read", "big.bin")


def settled(place):
    place.contender.settle()


@phase("read-big-local", "read 1 GiB, only the local cache warm", needs=("big",), prepare=settled,
       cold="remounted", ends="big",
       finish=lambda place: (place.dir / "big.bin").unlink(missing_ok=True))
def read_big_local(place):
    return work(place, "sequential-read", "big.bin")
