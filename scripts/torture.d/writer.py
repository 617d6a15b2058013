"""A process that carries a history out in a directory and notes, outside of it, what was done.

    writer.py FOLDER LOG SEED -        ends when a system call fails: its daemon was killed
    writer.py FOLDER LOG SEED - SIGN   ends when SIGN exists; before that no call may fail
    writer.py FOLDER LOG SEED SECONDS  where the store misbehaves: tries again what fails for want
                                       of it, and fails itself when a call takes longer

Each line of the log that begins with a number is one call that has returned: its number, the
monotonic time, and for an fsync the time when it was begun. One write per line, so that a line is
whole or not there.
"""

import errno
import os
import sys
import time

from history import History

#: How the daemon's death, a fence or the end of the mount look from here.
ENDS = {errno.ENOTCONN, errno.ECONNABORTED, errno.EROFS, errno.EIO, errno.ENODEV,
        errno.ECANCELED}

#: What a call may meet while the store is away; it has changed nothing then.
AGAIN = {errno.EIO, errno.ENOSPC, errno.EDQUOT}

#: Pause before a call is tried again.
AGAIN_SECS = 0.05


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
    folder, log, seed, limit, *sign = sys.argv[1:]
    os.umask(0o022)
    history, writer = History(seed), Writer(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    seconds_max = None if limit == "-" else float(limit)
    while not (sign and os.path.exists(sign[0])):
        kind, arguments = history.next()
        while True:
            begun = time.monotonic()
            error = attempt(writer, kind, arguments)
            seconds = time.monotonic() - begun
            if seconds_max and seconds > seconds_max:
                note(descriptor, f"end {history.number} {kind} took {seconds:.1f} s")
                return 1
            if not error:
                break
            told = f"{history.number} {kind} {errno.errorcode.get(error, error)} {seconds:.3f}"
            if not seconds_max or error not in AGAIN:
                note(descriptor, f"end {told}")
                return 0 if error in ENDS and not sign else 1
            note(descriptor, f"again {told}")
            time.sleep(AGAIN_SECS)
        fsynced = f" {begun:.6f}" if kind == "fsync" else ""
        note(descriptor, f"{history.number} {time.monotonic():.6f}{fsynced}")
    return 0


def attempt(writer, kind, arguments):
    """Carries an operation out; the number of the error that it met, or none."""
    try:
        writer.do(kind, arguments)
    except OSError as error:
        return error.errno
    return None


def note(descriptor, line):
    os.write(descriptor, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
