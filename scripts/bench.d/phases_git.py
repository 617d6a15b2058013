"""git, on a repository of the tree's files."""

from common import run
from inputs import DATE
from phase import phase


def git(place, folder, *words):
    run("git", "-C", place.dir / folder, *words, env=DATE, timeout=place.timeout)


def begin(place):
    git(place, "source", "init", "-q")
    git(place, "source", "config", "gc.auto", "0")


@phase("git-add", "git add, 10,000 new files", needs=("tree",), prepare=begin, makes="added",
       inputs=("tree",))
def add(place):
    git(place, "source", "add", "-A")


@phase("git-commit", "git commit", needs=("tree", "added"), makes="committed", inputs=("tree",))
def commit(place):
    git(place, "source", "commit", "-q", "-m", "all")


@phase("git-status-dropped", "git status, caches dropped", cold="dropped",
       needs=("tree", "added", "committed"), inputs=("tree",))
@phase("git-status", "git status, warm", needs=("tree", "added", "committed"), warm=True,
       inputs=("tree",))
def status(place):
    git(place, "source", "status", "--porcelain")


@phase("git-gc", "git gc", needs=("tree", "added", "committed"), inputs=("tree",))
def collect(place):
    git(place, "source", "gc", "--quiet")


@phase("git-clone", "git clone, 10,000 files", makes="clone", inputs=("repository",))
def clone(place):
    run("git", "clone", "-q", f"file://{place.inputs.repository}", place.dir / "clone",
        timeout=place.timeout)


@phase("git-checkout", "git checkout, 2,500 files there and back", needs=("clone",),
       inputs=("repository",))
def checkout(place):
    git(place, "clone", "checkout", "-q", "--detach", "origin/before")
    git(place, "clone", "checkout", "-q", "main")
