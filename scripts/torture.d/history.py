"""Operations whose n-th state anyone can compute, so that whatever is found can be judged.

A history is a sequence of single system calls in one directory, all from a seed. Each is atomic
(docs/semantics.md), so what a crash leaves must be the state after some number of them: a prefix.
Only a write may be there up to a page boundary: the kernel cuts one that is not aligned.
"""

import hashlib
import os
import random
import stat

NAMES = [f"f{number}" for number in range(12)]
DIRECTORIES = [f"d{number}" for number in range(4)]
FILE_BYTES_MAX = 400_000
WRITE_BYTES_MAX = 120_000
PAGE_BYTES = 4096

KINDS = ("create", "write", "append", "truncate", "rename", "unlink", "link", "symlink", "chmod",
         "mkdir", "rmdir", "setxattr", "exchange", "hold", "fsync")
WEIGHTS = (14, 22, 14, 6, 8, 6, 3, 2, 3, 2, 1, 3, 2, 1, 4)


class File:
    """An inode of the model: content, mode, one attribute."""

    def __init__(self):
        self.content, self.mode, self.attribute = bytearray(), 0o644, None

    def digest(self):
        return ("file", self.mode, self.attribute, digest(self.content))


def splice(content, offset, data):
    content.extend(bytes(max(0, offset - len(content))))
    content[offset:offset + len(data)] = data


def digest(content):
    return len(content), hashlib.blake2b(content, digest_size=16).hexdigest()


class History:
    """The model, and the next operation that makes sense in it."""

    def __init__(self, seed):
        self.seed, self.number = seed, 0
        #: Path to a `File`, a symlink's target (str) or None for a directory.
        self.entries = {}
        #: A file's content before the last write.
        self.before = b""

    def next(self):
        """The next operation: kind, arguments. The model is in the state after it."""
        self.number += 1
        chance = random.Random(f"{self.seed}:{self.number}")
        while True:
            kind = chance.choices(KINDS, WEIGHTS)[0]
            arguments = getattr(self, kind)(chance)
            if arguments is not None:
                return kind, arguments

    def files(self):
        return sorted(path for path, entry in self.entries.items() if isinstance(entry, File))

    def place(self, chance):
        """A path that may or may not be there yet, in a directory that is."""
        folders = [""] + sorted(path + "/" for path, entry in self.entries.items() if entry is None)
        return chance.choice(folders) + chance.choice(NAMES)

    def some_file(self, chance):
        files = self.files()
        return chance.choice(files) if files else None

    def new_place(self, chance):
        place = self.place(chance)
        return None if place in self.entries else place

    def create(self, chance):
        path = self.new_place(chance)
        if path:
            self.entries[path] = File()
            return (path,)
        return None

    def write(self, chance):
        path = self.some_file(chance)
        if not path:
            return None
        content = self.entries[path].content
        offset = chance.randrange(0, min(len(content) + 20_000, FILE_BYTES_MAX))
        return self.put(chance, path, offset)

    def append(self, chance):
        path = self.some_file(chance)
        if not path or len(self.entries[path].content) > FILE_BYTES_MAX:
            return None
        return self.put(chance, path, len(self.entries[path].content))

    def put(self, chance, path, offset):
        small = chance.random() < 0.7
        data = chance.randbytes(chance.randrange(1, 5_000 if small else WRITE_BYTES_MAX))
        content = self.entries[path].content
        self.before = bytes(content)
        splice(content, offset, data)
        return path, offset, data

    def truncate(self, chance):
        path = self.some_file(chance)
        if not path:
            return None
        size, content = chance.randrange(0, FILE_BYTES_MAX), self.entries[path].content
        del content[size:]
        content.extend(bytes(size - len(content)))
        return path, size

    def rename(self, chance):
        old, new = self.some_file(chance), self.place(chance)
        if not old or old == new or self.entries.get(old) is self.entries.get(new):
            # Two names of one inode stay as they are: POSIX.
            return None
        self.entries[new] = self.entries.pop(old)
        return old, new

    def exchange(self, chance):
        """A replacement as editors do it: the new content is there already."""
        return self.rename(chance)

    def unlink(self, chance):
        path = self.some_file(chance)
        if not path:
            return None
        del self.entries[path]
        return (path,)

    #: Unlinks a file that the writer goes on holding open.
    hold = unlink

    def link(self, chance):
        old, new = self.some_file(chance), self.new_place(chance)
        if not old or not new:
            return None
        self.entries[new] = self.entries[old]
        return old, new

    def symlink(self, chance):
        path = self.new_place(chance)
        if not path:
            return None
        self.entries[path] = f"target-{self.number}"
        return path, self.entries[path]

    def chmod(self, chance):
        path = self.some_file(chance)
        if not path:
            return None
        mode = chance.choice((0o600, 0o640, 0o644, 0o755))
        self.entries[path].mode = mode
        return path, mode

    def setxattr(self, chance):
        path = self.some_file(chance)
        if not path:
            return None
        self.entries[path].attribute = value = chance.randbytes(chance.randrange(1, 200))
        return path, value

    def mkdir(self, chance):
        path = chance.choice(DIRECTORIES)
        if path in self.entries:
            return None
        self.entries[path] = None
        return (path,)

    def rmdir(self, chance):
        empty = [path for path, entry in self.entries.items() if entry is None
                 and not any(other.startswith(path + "/") for other in self.entries)]
        if not empty:
            return None
        path = chance.choice(sorted(empty))
        del self.entries[path]
        return (path,)

    def fsync(self, chance):
        path = self.some_file(chance)
        return (path,) if path else None

    def picture(self, paths=None):
        """What a directory in this state looks like, or these paths of it."""
        found = {}
        for path in self.entries if paths is None else paths:
            if path in self.entries:
                entry = self.entries[path]
                found[path] = (entry.digest() if isinstance(entry, File)
                               else ("link", entry) if isinstance(entry, str) else ("dir",))
        return found

    def touched(self, kind, arguments):
        """Paths whose picture an operation may have changed, other names of the inode too."""
        paths = {argument for argument in arguments[:2] if isinstance(argument, str)}
        if kind == "symlink":
            paths = {arguments[0]}
        inodes = {id(self.entries[path]) for path in paths
                  if isinstance(self.entries.get(path), File)}
        return paths | {path for path, entry in self.entries.items() if id(entry) in inodes}


def picture_of(folder):
    """What a directory looks like."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in folders:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                found[os.path.relpath(path, folder)] = ("dir",)
        for name in [*files, *(name for name in folders
                               if os.path.islink(os.path.join(place, name)))]:
            path = os.path.join(place, name)
            found[os.path.relpath(path, folder)] = picture_of_file(path)
    return found


def picture_of_file(path):
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        return "link", os.readlink(path)
    attribute = None
    if "user.torture" in os.listxattr(path):
        attribute = os.getxattr(path, "user.torture")
    with open(path, "rb") as file:
        content = file.read()
    if len(content) != facts.st_size:
        return "file", "size", facts.st_size, len(content)
    return "file", stat.S_IMODE(facts.st_mode), attribute, digest(content)


def is_cut_write(history, arguments, wrong, found):
    """Whether what is wrong is explained by the write just done being there in part only."""
    path, offset, data = arguments
    names = history.touched("write", arguments)
    if wrong - names:
        return False
    first = offset // PAGE_BYTES * PAGE_BYTES + PAGE_BYTES
    for cut in range(first, offset + len(data), PAGE_BYTES):
        content = bytearray(history.before)
        splice(content, offset, data[:cut - offset])
        file = history.entries[path]
        picture = ("file", file.mode, file.attribute, digest(content))
        if all(found.get(name) == picture for name in names):
            return True
    return False


def find_prefix(seed, found, least, most):
    """Number of operations after which the directory looked as it does, from `least` to `most`;
    else none, and what differs from the state after `least`."""
    history = History(seed)
    for _ in range(least):
        history.next()
    wanted = history.picture()
    wrong = {path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)}
    first = {path: (wanted.get(path), found.get(path)) for path in sorted(wrong)}
    while wrong:
        if history.number >= most:
            return None, first
        before = history.number
        kind, arguments = history.next()
        if kind in ("write", "append") and is_cut_write(history, arguments, wrong, found):
            return before, {}
        paths = history.touched(kind, arguments)
        wanted = history.picture(paths)
        wrong = wrong - paths | {path for path in paths if wanted.get(path) != found.get(path)}
    return history.number, {}
