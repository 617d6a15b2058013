"""A process that carries a history out in a directory and notes, outside of it, what was done.

    writer.py FOLDER LOG SEED       ends when a system call fails: its daemon was killed
    writer.py FOLDER LOG SEED SIGN  ends when SIGN exists; before that no call may fail

Each line of the log is one call that has returned: its number, the monotonic time, and for an
fsync the time when it was begun. One write per line, so that a line is whole or not there.
"""

import errno
import os
import sys
import time

from history import History

#: How the daemon's death, a fence or the end of the mount look from here.
ENDS = {errno.ENOTCONN, errno.ECONNABORTED, errno.EROFS, errno.EIO, errno.ENODEV,
        errno.ECANCELED}


class Writer:
    """Carries operations out."""

    def __init__(self, folder):
        self.folder, self.held = folder, []

    def at(self, path):
        return os.path.join(self.folder, path)

    def do(self, kind, arguments):
        getattr(self, kind)(*arguments)

    def opened(self, path, flags):
        return os.open(self.at(path), flags)

    def create(self, path):
        descriptor = os.open(self.at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.close(descriptor)

    def write(self, path, offset, data):
        descriptor = self.opened(path, os.O_WRONLY)
        try:
            # A daemon that dies between two requests of one write leaves it short.
            while data:
                written = os.pwrite(descriptor, data, offset)
                data, offset = data[written:], offset + written
        finally:
            os.close(descriptor)

    append = write

    def truncate(self, path, size):
        os.truncate(self.at(path), size)

    def rename(self, old, new):
        os.rename(self.at(old), self.at(new))

    exchange = rename

    def unlink(self, path):
        os.unlink(self.at(path))

    def hold(self, path):
        self.held.append(self.opened(path, os.O_RDONLY))
        os.unlink(self.at(path))
        if len(self.held) > 20:
            os.close(self.held.pop(0))

    def link(self, old, new):
        os.link(self.at(old), self.at(new))

    def symlink(self, path, target):
        os.symlink(target, self.at(path))

    def chmod(self, path, mode):
        os.chmod(self.at(path), mode)

    def setxattr(self, path, value):
        os.setxattr(self.at(path), "user.torture", value)

    def mkdir(self, path):
        os.mkdir(self.at(path))

    def rmdir(self, path):
        os.rmdir(self.at(path))

    def fsync(self, path):
        descriptor = self.opened(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def main():
    folder, log, seed, *sign = sys.argv[1:]
    os.umask(0o022)
    history, writer = History(seed), Writer(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    while not (sign and os.path.exists(sign[0])):
        kind, arguments = history.next()
        begun = time.monotonic()
        try:
            writer.do(kind, arguments)
        except OSError as error:
            line = f"end {history.number} {kind} {errno.errorcode.get(error.errno, error.errno)}\n"
            os.write(descriptor, line.encode())
            return 0 if error.errno in ENDS and not sign else 1
        fsynced = f" {begun:.6f}" if kind == "fsync" else ""
        os.write(descriptor, f"{history.number} {time.monotonic():.6f}{fsynced}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
