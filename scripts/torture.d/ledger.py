"""Files whose content is known, in a mount where writes may be refused: what was taken must be there, and
what was refused may be there in part, but nothing else may."""

import errno
import os
import random

from common import Failed

#: What a program may be told when something has run out.
REFUSALS = {errno.ENOSPC, errno.EDQUOT}

#: Written at once, and so there or not as a whole: nothing smaller than the kernel's own unit.
PIECE_BYTES = 64 * 1024
PAGE_BYTES = 4096


def content(seed, size):
    return random.Random(seed).randbytes(size)


class Ledger:
    """The files of one folder."""

    def __init__(self, folder, seed, allowed=REFUSALS):
        self.folder, self.seed, self.allowed = folder, seed, frozenset(allowed)
        #: Name to (seed, bytes) of a file that must be as it was written.
        self.files = {}
        #: Name to what it had before and what it was to have: each page is of either.
        self.doubtful = {}
        self.refusals, self.written, self.number = {}, 0, 0
        folder.mkdir(exist_ok=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def refused(self, error, what):
        """Counts a refusal; one that nothing explains is a failure."""
        if error.errno not in self.allowed:
            raise Failed(f"{what}: {error}") from None
        name = errno.errorcode[error.errno]
        self.refusals[name] = self.refusals.get(name, 0) + 1
        return False

    def write(self, size, name=None, sync=False):
        """A new file, or an old one anew; whether it was taken whole."""
        self.number += 1
        name = name or f"f{self.number}"
        seed = f"{self.seed}-{self.number}"
        before = self.files.pop(name, None)
        self.doubtful.setdefault(name, [before]).append((seed, size))
        try:
            descriptor = os.open(self.path(name), os.O_CREAT | os.O_WRONLY, 0o644)
            try:
                if os.fstat(descriptor).st_size > size:
                    os.ftruncate(descriptor, size)
                self.put(descriptor, content(seed, size))
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            return self.refused(error, f"writing {name}")
        del self.doubtful[name]
        self.files[name] = (seed, size)
        self.written += size
        return True

    @staticmethod
    def put(descriptor, data):
        view = memoryview(data)
        for begin in range(0, len(data), PIECE_BYTES):
            piece = view[begin:begin + PIECE_BYTES]
            while piece:
                at = begin + min(PIECE_BYTES, len(data) - begin) - len(piece)
                piece = piece[os.pwrite(descriptor, piece, at):]

    def fill(self, size, refusals=3, files_max=10_000, sync=False):
        """Writes files until so many were refused; how many were taken."""
        taken = 0
        for _ in range(files_max):
            if self.write(size, sync=sync):
                taken += 1
            else:
                refusals -= 1
                if not refusals:
                    return taken
        return taken

    def remove(self, name):
        """Removals go on whatever has run out."""
        os.unlink(self.path(name))
        self.files.pop(name, None)
        self.doubtful.pop(name, None)

    def some(self, chance, count):
        """Names of files that are known."""
        names = sorted(self.files)
        return chance.sample(names, min(count, len(names)))

    def check(self, what, names=None):
        """All that is known must be so."""
        for name in names if names is not None else list(self.files):
            seed, size = self.files[name]
            with open(self.path(name), "rb") as file:
                if file.read() != content(seed, size):
                    raise Failed(f"{what}: {name} has not what was written")
        if names is not None:
            return
        for name, versions in self.doubtful.items():
            self.check_doubtful(what, name, [content(*each) if each else b"" for each in versions])
        there = set(os.listdir(self.folder))
        strange = there - set(self.files) - set(self.doubtful)
        if strange or set(self.files) - there:
            raise Failed(f"{what}: names {sorted(strange)[:5]} too many, "
                         f"{sorted(set(self.files) - there)[:5]} missing")

    def check_doubtful(self, what, name, versions):
        try:
            with open(self.path(name), "rb") as file:
                found = file.read()
        except FileNotFoundError:
            if versions[0]:
                raise Failed(f"{what}: {name} is gone, which was only refused a change") from None
            return
        if len(found) > max(map(len, versions)):
            raise Failed(f"{what}: {name} is longer than it ever was to be")
        for begin in range(0, len(found), PAGE_BYTES):
            page = found[begin:begin + PAGE_BYTES]
            of = [each[begin:begin + PAGE_BYTES] for each in versions]
            if not any(page == each[:len(page)].ljust(len(page), b"\0") for each in of):
                raise Failed(f"{what}: {name} has bytes at {begin} that nobody wrote")

    def told(self):
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.refusals.items()))
        return told or "nothing refused"
