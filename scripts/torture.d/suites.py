"""Suites that others wrote: pjdfstest, fsx, the file-system class of stress-ng."""

import re
import subprocess

import common
import tools
from bed import Every
from common import Failed, run

PJDFSTEST = """\
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
stat_st_birthtime = {}
rename_ctime = {}
[settings]
naptime = 0.012
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
"""

FSX = """\
flen = 600000
[opsize]
max = 90000
[weights]
close_open = 1
invalidate = 2
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 3
punch_hole = 3
sendfile = 5
posix_fadvise = 1
copy_file_range = 4
"""


#: Tests of it that pass on ext4 wherever it runs as root: of 398, some are skipped.
PJDFSTEST_MIN = 380


def pjdfstest(bed):
    config = bed.folder / "pjdfstest.toml"
    config.write_text(PJDFSTEST)
    secondary = bed.folder / "tmpfs"
    secondary.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", secondary)
    expected = pjdfstest_run(config, bed.plain(), secondary)
    # Its tests open device files and look at setuid bits.
    with bed.workspace(flags=["--allow-dev", "--allow-suid"]) as workspace:
        workspace.start()
        workspace.path.chmod(0o755)
        found = pjdfstest_run(config, workspace.path, secondary)
    excluded = tools.exclusions("pjdfstest")
    worse = [f"{name}: {found.get(name, 'missing')}" for name, result in sorted(expected.items())
             if result == "ok" and found.get(name) != "ok" and name not in excluded]
    passing = list(expected.values()).count("ok")
    if passing < PJDFSTEST_MIN:
        raise Failed(f"only {passing} tests pass on ext4: {PJDFSTEST_MIN} should, there is nothing to "
                     "compare with")
    if worse:
        raise Failed("passes on ext4 but not here:\n" + "\n".join(worse))
    bed.count(len(found))
    tell = lambda results: " / ".join(
        str(list(results.values()).count(word)) for word in ("ok", "FAILED", "skipped"))
    bed.note(f"passed / failed / skipped: {tell(found)}; on ext4: {tell(expected)}")


def pjdfstest_run(config, path, secondary):
    """Results by test."""
    path.chmod(0o755)
    text = run(tools.TOOLS / "pjdfstest", "-c", config, "-p", path, "-s", secondary,
               out=subprocess.PIPE, ok=(0, 1), timeout=600).decode(errors="replace")
    results = dict(re.findall(r"^(\w+(?:::\w+)+)\s+(ok|FAILED|skipped)", text, re.MULTILINE))
    if not results:
        raise Failed(f"pjdfstest said nothing that is understood:\n{text[-2000:]}")
    return results


def fsx(bed):
    """The same histories plainly, under checkpoints, under eviction, across hibernations."""
    config = bed.folder / "fsx.toml"
    config.write_text(FSX)
    operations, often = bed.size(5_000, 100_000), bed.size(0.1, 1)
    with bed.workspace() as workspace:
        workspace.start()
        times, gets = [0, 0], 0
        for seed in bed.rounds(1, 4):
            fsx_run(bed, config, workspace, f"plain-{seed}", seed, operations)
            with Every(often, workspace.checkpoint) as checkpoints:
                fsx_run(bed, config, workspace, f"sealed-{seed}", seed, operations)
            forget = lambda: (workspace.checkpoint(), workspace.evict())
            with Every(often, forget) as evictions:
                before = workspace.status()["store"]["gets"]
                fsx_run(bed, config, workspace, f"evicted-{seed}", seed, operations)
                gets += workspace.status()["store"]["gets"] - before
            times = [times[0] + checkpoints.times, times[1] + evictions.times]
            fsx_hibernated(bed, config, workspace, seed, operations)
            workspace.verify()
    bed.note(f"{times[0]} checkpoints, {times[1]} evictions, {gets} requests to the store meanwhile")
    if not gets:
        raise Failed("nothing was fetched again: the evictions did nothing")


def fsx_run(bed, config, workspace, name, seed, operations, path=None):
    run(tools.TOOLS / "fsx", "-q", "-f", config, "-S", seed, "-N", operations,
        "-P", bed.folder, path or workspace.path / name, timeout=1800)
    bed.count(operations)


def fsx_hibernated(bed, config, workspace, seed, operations):
    """fsx begins with an empty file, so what it leaves is carried over and compared with what
    the same history leaves on ext4."""
    parts = bed.size(2, 5)
    plain = bed.plain()
    for step in range(parts):
        name, share = f"slept-{seed}-{step}", operations // parts
        fsx_run(bed, config, workspace, name, seed + step * 1000, share)
        fsx_run(bed, config, workspace, name, seed + step * 1000, share, plain / name)
        workspace.resume_empty()
        for before in range(step + 1):
            name = f"slept-{seed}-{before}"
            run("cmp", plain / name, workspace.path / name)


#: A subset that takes CI a few seconds.
STRESSORS_QUICK = ("access", "chmod", "copy-file", "dentry", "dir", "fallocate", "fpunch", "hdd",
                   "link", "rename", "symlink", "utime", "xattr")


def stress_ng(bed):
    told = subprocess.run(["stress-ng", "--class", "filesystem?"], capture_output=True, text=True,
                          env=common.ENVIRONMENT, check=False)
    known = (told.stdout + told.stderr).split("stressors:", 1)[1].split()
    wanted = [name for name in known if not bed.quick or name in STRESSORS_QUICK]
    excluded = tools.exclusions("stress-ng")
    seconds = bed.size(1, 5)
    passed, skipped, worse = 0, [], []
    with bed.workspace(flags=["--allow-dev", "--allow-suid"]) as workspace:
        workspace.start()
        for name in wanted:
            if name in excluded:
                skipped.append(name)
                continue
            problem = stressor(name, bed.plain(), seconds)
            if problem:
                skipped.append(name)
                continue
            problem = stressor(name, workspace.path, seconds)
            if problem:
                worse.append(f"{name}: {problem}")
            else:
                passed += 1
    bed.count(passed)
    bed.note(f"{passed} pass; left out or not passing on ext4: {' '.join(skipped) or 'none'}")
    if worse:
        raise Failed("pass on ext4 but not here:\n" + "\n".join(worse))
    if passed < len(wanted) * 3 // 4 or not wanted:
        raise Failed(f"only {passed} of {len(wanted)} stressors pass on ext4 and here")


def stressor(name, path, seconds):
    """What is wrong, if something is."""
    try:
        run("stress-ng", f"--{name}", 2, "--timeout", f"{seconds}s", "--temp-path", path,
            "--verify", "--hdd-bytes", "64m", "--iomix-bytes", "64m", "--fallocate-bytes", "64m",
            cwd=path, timeout=seconds * 10 + 60)
    except (Failed, common.TooLong) as error:
        return str(error)[-500:]
    return None
