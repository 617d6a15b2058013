"""Many small files: unpacked, looked at, copied, deleted."""

from common import run, shell
from phase import phase


@phase("untar", "untar 10,000 files", makes="tree", inputs=("tree",))
def untar(place):
    run("tar", "-xf", place.inputs.tar, "-C", place.dir, timeout=place.timeout)


@phase("find-warm", "find -ls, warm", needs=("tree",), warm=True, inputs=("tree",))
@phase("find", "find -ls, caches dropped", needs=("tree",), cold="dropped", inputs=("tree",))
def find(place):
    shell("find source -ls | wc -l", cwd=place.dir, timeout=place.timeout)


@phase("du", "du, warm", needs=("tree",), warm=True, inputs=("tree",))
def du(place):
    run("du", "-s", "source", cwd=place.dir, timeout=place.timeout)


@phase("read-all-warm", "read all, warm", needs=("tree",), warm=True, inputs=("tree",))
@phase("read-all", "read all, caches dropped", needs=("tree",), cold="dropped", inputs=("tree",))
def read_all(place):
    shell("find source -type f -print0 | xargs -0 cat | wc -c", cwd=place.dir,
          timeout=place.timeout)


def once_after_dropping(place):
    place.contender.make_cold("dropped")
    read_all(place)


@phase("read-all-second", "read all, a second time after caches were dropped", needs=("tree",),
       prepare=once_after_dropping, inputs=("tree",))
def read_all_second(place):
    read_all(place)


@phase("rg", "rg, warm", needs=("tree",), warm=True, inputs=("tree",))
def ripgrep(place):
    run("rg", "-uuu", "-c", "fn main", "source", cwd=place.dir, timeout=place.timeout)


@phase("grep", "grep -r, warm", needs=("tree",), warm=True, inputs=("tree",))
def grep(place):
    run("grep", "-rc", "fn main", "source", cwd=place.dir, timeout=place.timeout)


@phase("cp", "cp -r", needs=("tree",), makes="copy", inputs=("tree",))
def copy(place):
    run("cp", "-r", "source", "copy", cwd=place.dir, timeout=place.timeout)


@phase("rm", "rm -rf", needs=("copy",), ends="copy", inputs=("tree",))
def delete(place):
    run("rm", "-rf", "copy", cwd=place.dir, timeout=place.timeout)


def four_folders(place):
    for number in range(4):
        (place.dir / f"quarter-{number}").mkdir()


@phase("parallel", "4 processes untar a quarter each", prepare=four_folders, inputs=("tree",))
def parallel(place):
    shell("pids=; for n in 0 1 2 3; do"
          f" tar -xf '{place.inputs.tree}'/quarter-$n.tar -C quarter-$n & pids=\"$pids $!\"; done;"
          " for pid in $pids; do wait $pid || exit 1; done", cwd=place.dir, timeout=place.timeout)


def parallel_warm(place):
    if not (place.dir / "quarter-0").exists():
        four_folders(place)
        parallel(place)


@phase("parallel-grep", "4 processes grep a quarter each, warm", prepare=parallel_warm, warm=True,
       inputs=("tree",))
def parallel_grep(place):
    shell("pids=; for n in 0 1 2 3; do grep -rc 'fn main' quarter-$n >/dev/null &"
          " pids=\"$pids $!\"; done; for pid in $pids; do wait $pid || exit 1; done",
          cwd=place.dir, timeout=place.timeout)
