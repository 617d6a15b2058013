"""What locks do between processes, one line per fact: run in two directories, the lines must be
the same.

    lock_moves.py FOLDER
"""

import errno
import fcntl
import os
import select
import signal
import struct
import sys
import time

OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38
FLOCK_LAYOUT = "hhqqi4x"
INCREMENTS, COUNTERS = 100, 4
PATIENCE_SECS = 20


class Interrupted(Exception):
    """Our signal's handler was run."""


def flock_call(descriptor, kind, wait, start=0, length=0):
    flags = {"read": fcntl.LOCK_SH, "write": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}[kind]
    fcntl.flock(descriptor, flags | (0 if wait else fcntl.LOCK_NB))


def record(descriptor, command, kind, start, length):
    number = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}[kind]
    asked = struct.pack(FLOCK_LAYOUT, number, os.SEEK_SET, start, length, 0)
    return struct.unpack(FLOCK_LAYOUT, fcntl.fcntl(descriptor, command, asked))


def posix_call(descriptor, kind, wait, start=0, length=0):
    record(descriptor, fcntl.F_SETLKW if wait else fcntl.F_SETLK, kind, start, length)


def ofd_call(descriptor, kind, wait, start=0, length=0):
    record(descriptor, OFD_SETLKW if wait else OFD_SETLK, kind, start, length)


CALLS = {"flock": flock_call, "posix": posix_call, "ofd": ofd_call}


def outcome(call, *arguments):
    try:
        call(*arguments)
        return "ok"
    except OSError as error:
        name = errno.errorcode[error.errno]
        return "EAGAIN" if name in ("EACCES", "EWOULDBLOCK") else name
    except Interrupted:
        return "interrupted"


class Other:
    """Another process, told what to do by this one."""

    def __init__(self, path):
        (told, self.tell), (self.hear, said) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.tell)
            os.close(self.hear)
            serve(path, os.fdopen(told), os.fdopen(said, "w"))
            os._exit(0)
        os.close(told)
        os.close(said)
        self.tell, self.hear = os.fdopen(self.tell, "w"), os.fdopen(self.hear)

    def begin(self, how, kind, wait=False, start=0, length=0):
        print(how, kind, int(wait), start, length, file=self.tell, flush=True)

    def end(self):
        return self.hear.readline().strip()

    def do(self, *what, **how):
        self.begin(*what, **how)
        return self.end()

    def has_ended(self):
        return bool(select.select([self.hear], [], [], 0.3)[0])

    def kill(self):
        """Whether it is gone in time."""
        os.kill(self.pid, signal.SIGKILL)
        return self.gone()

    def gone(self):
        end = time.monotonic() + PATIENCE_SECS
        while time.monotonic() < end:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return "gone"
            time.sleep(0.01)
        return "still there"


def serve(path, told, said):
    def handler(*_):
        raise Interrupted
    signal.signal(signal.SIGUSR1, handler)
    descriptor = os.open(path, os.O_RDWR)
    for line in told:
        how, kind, wait, start, length = line.split()
        call = CALLS[how]
        text = outcome(call, descriptor, kind, bool(int(wait)), int(start), int(length))
        print(text, file=said, flush=True)


def say(*words):
    print(*words, flush=True)


def between_two(how, path):
    """Conflicts, conversions, waits that a release ends."""
    one, two = Other(path), Other(path)
    say(how, "first", one.do(how, "write"))
    say(how, "second against it", two.do(how, "write"), two.do(how, "read"))
    say(how, "first goes down", one.do(how, "read"))
    say(how, "second beside it", two.do(how, "read"), two.do(how, "write"))
    say(how, "second gives up", two.do(how, "none"))
    say(how, "first goes up", one.do(how, "write"))
    two.begin(how, "write", wait=True)
    say(how, "a wait waits", not two.has_ended())
    say(how, "first lets go", one.do(how, "none"))
    say(how, "the wait ends", two.end())
    say(how, "second is killed", two.kill())
    say(how, "its lock is gone", one.do(how, "write"))
    say(how, "end", one.kill())


def waits(how, path):
    """A blocking lock that a signal ends, and one whose process is killed."""
    one, two, three = Other(path), Other(path), Other(path)
    one.do(how, "write")
    two.begin(how, "write", wait=True)
    say(how, "waits", not two.has_ended())
    os.kill(two.pid, signal.SIGUSR1)
    say(how, "after a signal", two.end())
    two.begin(how, "read", wait=True)
    three.begin(how, "write", wait=True)
    say(how, "both wait", not two.has_ended(), not three.has_ended())
    say(how, "a waiter is killed", two.kill())
    say(how, "the other still waits", not three.has_ended())
    say(how, "the holder is killed", one.kill())
    say(how, "the other has it", three.end())
    say(how, "end", three.kill())


def ranges(how, path):
    one, two = Other(path), Other(path)
    say(how, "0-99", one.do(how, "write", start=0, length=100))
    say(how, "100-199", two.do(how, "write", start=100, length=100))
    say(how, "across", one.do(how, "read", start=50, length=100))
    say(how, "hole", one.do(how, "none", start=20, length=20))
    say(how, "into it", two.do(how, "write", start=20, length=20))
    say(how, "beside it", two.do(how, "write", start=19, length=1))
    say(how, "to the end", two.do(how, "read", start=1 << 40, length=0))
    say(how, "in there", one.do(how, "write", start=1 << 50, length=1))
    say(how, "end", one.kill(), two.kill())


def dead_lock(path):
    one, two = Other(path), Other(path)
    one.do("posix", "write", start=0, length=1)
    two.do("posix", "write", start=1, length=1)
    one.begin("posix", "write", wait=True, start=1, length=1)
    say("posix waits", not one.has_ended())
    say("posix deadlock", two.do("posix", "write", wait=True, start=0, length=1))
    say("posix end", two.kill(), one.end(), one.kill())


def mixtures(path):
    one, two = Other(path), Other(path)
    for first in CALLS:
        for second in CALLS:
            say("mixture", first, second, one.do(first, "write"), two.do(second, "write"))
            one.do(first, "none")
            two.do(second, "none")
    say("mixture end", one.kill(), two.kill())


def owners(path):
    """Whose a lock is: the process's, or the open file's."""
    one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    say("own flock", outcome(flock_call, one, "write", False),
        outcome(flock_call, two, "write", False))
    flock_call(one, "none", False)
    say("own ofd", outcome(ofd_call, one, "write", False), outcome(ofd_call, two, "write", False))
    ofd_call(one, "none", False)
    say("own posix", outcome(posix_call, one, "write", False),
        outcome(posix_call, two, "write", False))
    child = os.fork()
    if child == 0:
        kind, _, _, _, owner = record(one, fcntl.F_GETLK, "write", 0, 0)
        say("asked", kind == fcntl.F_WRLCK, owner == os.getppid())
        say("in a child", outcome(posix_call, one, "write", False))
        os._exit(0)
    os.waitpid(child, 0)
    # Closing any descriptor of the file drops the process's locks.
    os.close(two)
    other = Other(path)
    say("after a close", other.do("posix", "write"), other.kill())
    read_only = os.open(path, os.O_RDONLY)
    say("write lock on a read-only file", outcome(posix_call, read_only, "write", False),
        outcome(ofd_call, read_only, "write", False),
        outcome(flock_call, read_only, "write", False))


def counters(how, path):
    """Processes that add to one number, each under the lock."""
    with open(path, "w") as file:
        file.write("0")
    children = []
    for _ in range(COUNTERS):
        child = os.fork()
        if child == 0:
            descriptor = os.open(path, os.O_RDWR)
            for _ in range(INCREMENTS):
                CALLS[how](descriptor, "write", True)
                number = int(os.pread(descriptor, 20, 0))
                os.pwrite(descriptor, str(number + 1).encode(), 0)
                CALLS[how](descriptor, "none", True)
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    with open(path) as file:
        say(how, "counted", file.read(), codes)


def main():
    path = os.path.join(sys.argv[1], "locked")
    with open(path, "w") as file:
        file.write("content\n")
    for how in CALLS:
        between_two(how, path)
        waits(how, path)
        counters(how, path)
    for how in ("posix", "ofd"):
        ranges(how, path)
    dead_lock(path)
    mixtures(path)
    owners(path)


if __name__ == "__main__":
    main()
