"""Programs that people use: locks, SQLite, git."""

import difflib
import sqlite3
import subprocess
import sys

import common
import tools
from common import Failed, run

DATE = "2024-01-01T00:00:{:02}Z"


def locks(bed):
    plain = lock_lines(bed.plain())
    with bed.workspace() as workspace:
        workspace.start()
        here = lock_lines(workspace.path)
    if plain != here:
        raise Failed("not as on ext4:\n" + "\n".join(
            difflib.unified_diff(plain, here, "ext4", "dormouse", lineterm="", n=0)))
    if any("still there" in line for line in here):
        raise Failed("a killed process stays")
    bed.count(len(here))


def lock_lines(path):
    text = run(sys.executable, "-B", tools.HERE / "lock_moves.py", path, out=subprocess.PIPE,
               timeout=300)
    return text.decode().splitlines()


JOURNAL_MODES = ("delete", "truncate", "persist", "memory", "wal")


def sqlite(bed):
    """Each journal mode with each synchronous level, then four processes at once."""
    transactions = bed.size(30, 300)
    with bed.workspace() as workspace:
        workspace.start("--checkpoint-interval", "1s")
        for mode in JOURNAL_MODES:
            for level in ("normal", "full"):
                database(bed, workspace.path / f"{mode}-{level}.db", mode, level, transactions)
        shared(bed, workspace.path / "shared.db", transactions)
        workspace.resume_empty()
        names = sorted(workspace.path.glob("*.db"))
        for path in names:
            integrity(path)
        bed.note(f"{len(names)} databases, again on a resumed workspace")


def database(bed, path, mode, level, transactions):
    chance = bed.random(mode, level)
    connection = sqlite3.connect(path, isolation_level=None)
    found = connection.execute(f"pragma journal_mode={mode}").fetchone()[0]
    if found != mode:
        raise Failed(f"SQLite refuses the journal mode {mode}: {found}")
    connection.execute(f"pragma synchronous={level}")
    connection.execute("create table t (id integer primary key, name text unique, data blob)")
    wanted = {}
    for number in range(transactions):
        connection.execute("begin")
        for row in range(10):
            key, data = number * 10 + row, chance.randbytes(chance.randrange(2000))
            connection.execute("insert into t values (?, ?, ?)", (key, f"n{key}", data))
            wanted[key] = data
        if number % 3 == 0:
            gone = chance.choice(sorted(wanted))
            connection.execute("delete from t where id = ?", (gone,))
            del wanted[gone]
        connection.execute("commit")
        if number % 10 == 9:
            connection.execute("begin")
            connection.execute("delete from t")
            connection.execute("rollback")
    connection.execute("vacuum")
    connection.close()
    integrity(path)
    connection = sqlite3.connect(path)
    if dict(connection.execute("select id, data from t")) != wanted:
        raise Failed(f"{path}: not the rows that were put in")
    connection.close()
    bed.count(transactions)


def integrity(path):
    connection = sqlite3.connect(path)
    told = connection.execute("pragma integrity_check").fetchall()
    connection.close()
    if told != [("ok",)]:
        raise Failed(f"{path}: {told[:5]}")


SHARED = """
import sqlite3, sys
path, me, transactions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = sqlite3.connect(path, timeout=120, isolation_level=None)
for number in range(transactions):
    connection.execute("begin immediate")
    before = connection.execute("select value from sum").fetchone()[0]
    connection.execute("insert into t values (?, ?, zeroblob(500))", (me, number))
    connection.execute("update sum set value = ?", (before + 1,))
    connection.execute("commit")
    seen = connection.execute("select count(*) from t where writer = ?", (me,)).fetchone()[0]
    assert seen == number + 1, (seen, number)
"""


def shared(bed, path, transactions):
    writers = 4
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table t (writer integer, number integer, data blob)")
    connection.execute("create table sum (value integer)")
    connection.execute("insert into sum values (0)")
    children = [subprocess.Popen([sys.executable, "-c", SHARED, path, str(me), str(transactions)],
                                 env=common.ENVIRONMENT) for me in range(writers)]
    codes = [child.wait(600) for child in children]
    rows = connection.execute("select count(*) from t").fetchone()[0]
    total = connection.execute("select value from sum").fetchone()[0]
    connection.close()
    wanted = writers * transactions
    if any(codes) or (rows, total) != (wanted, wanted):
        raise Failed(f"four processes in WAL: codes {codes}, {rows} rows, sum {total} of {wanted}")
    integrity(path)
    bed.count(wanted)


def git(bed):
    """The same history here and on ext4 gives the same commits; then everything that rewrites."""
    commits = bed.size(200, 2_000)
    plain = history(bed, bed.plain() / "repository", commits)
    with bed.workspace() as workspace:
        workspace.start()
        repository = workspace.path / "repository"
        if history(bed, repository, commits) != plain:
            raise Failed("the same commits have other ids than on ext4")
        rewrite(workspace.path, repository, commits)
        workspace.resume_empty()
        call = caller(repository)
        call("fsck", "--full", "--strict")
        clean(call)
        if log(call) != plain:
            raise Failed("the resumed workspace has another history")
        call("commit", "-q", "--allow-empty", "-m", "after the resume", env={
            "GIT_AUTHOR_DATE": DATE.format(0), "GIT_COMMITTER_DATE": DATE.format(0)})
        call("fsck", "--full", "--strict")
    bed.count(commits)
    bed.note(f"{commits} commits, head {plain[0][:12]}")


def caller(path):
    return lambda *words, **how: run("git", "-C", path, *words, out=subprocess.PIPE, **how).decode()


def clean(call):
    if told := call("status", "--porcelain"):
        raise Failed(f"git status sees changes: {told[:300]}")


def log(call):
    return call("rev-list", "--all", "--topo-order").split()


def history(bed, path, commits):
    """A history with branches, merges, renames and removals; gives the ids of its commits."""
    path.mkdir(parents=True)
    call, chance = caller(path), bed.random("git")
    call("init", "-q", "-b", "main")
    call("config", "gc.auto", "0")
    call("config", "core.fsync", "committed")
    names = []
    for number in range(commits):
        if not names or chance.random() < 0.3:
            name = f"directory-{chance.randrange(20)}/file-{number}"
            (path / name).parent.mkdir(exist_ok=True)
            names.append(name)
        else:
            name = chance.choice(names)
        with open(path / name, "a") as file:
            file.write(f"{number} {chance.randbytes(chance.randrange(1500)).hex()}\n")
        call("add", name)
        if number % 7 == 6:
            old = names.pop(chance.randrange(len(names)))
            call("rm", "-q", "-f", old) if chance.random() < 0.5 else rename(call, names, old)
        dates = {key: DATE.format(number % 60) for key in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE")}
        call("commit", "-q", "--allow-empty", "-m", f"commit {number}", env=dates)
        if number % 50 == 20:
            call("branch", f"b{number}", "HEAD~5")
            call("merge", "-q", "-s", "ours", "--no-edit", f"b{number}", env=dates)
    clean(call)
    return log(call)


def rename(call, names, old):
    call("mv", old, f"{old}-moved")
    names.append(f"{old}-moved")


def rewrite(folder, repository, commits):
    call = caller(repository)
    call("fsck", "--full", "--strict")
    call("repack", "-q", "-d", "-l")
    call("gc", "--quiet", "--prune=now")
    call("worktree", "add", "-q", folder / "worktree", "HEAD~10")
    inside = caller(folder / "worktree")
    clean(inside)
    run("git", "clone", "-q", "--shared", repository, folder / "shared")
    run("git", "clone", "-q", repository, folder / "hard-links")
    run("git", "clone", "-q", "--no-local", repository, folder / "copy")
    for name in ("shared", "hard-links", "copy"):
        clone = caller(folder / name)
        clone("fsck", "--full", "--strict")
        clean(clone)
        clone("checkout", "-q", f"HEAD~{commits // 2}")
        clone("checkout", "-q", "main")
        clean(clone)
    call("repack", "-q", "-a", "-d", "-f", "--depth=10")
    call("worktree", "remove", folder / "worktree")
    call("fsck", "--full", "--strict")
    clean(call)
