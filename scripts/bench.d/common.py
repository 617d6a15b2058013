"""What every part of the driver uses: commands, caches, processes."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / "target"
BINARIES = TARGET / "release"
INPUTS = TARGET / "bench-inputs"
RESULTS = TARGET / "bench-results"

# Programs see no configuration of whoever runs the benchmark.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("GIT_", "CARGO_TARGET", "RUSTFLAGS", "DORMOUSE_", "npm_", "PIP_",
                            "AWS_"))
} | {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench", "GIT_COMMITTER_EMAIL": "bench@localhost",
    "GIT_TERMINAL_PROMPT": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "LC_ALL": "C.UTF-8",
}


class Failed(Exception):
    """A command failed; the text says which and what it wrote."""


class Stopped(Exception):
    """Somebody ends the run: what was measured is kept."""


class TooLong(Exception):
    """A command took longer than the phase may."""


# Before a daemon's command: it does not outlive us, however we end.
MORTAL = ("setpriv", "--pdeathsig", "KILL")


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, cwd=None, env=None, timeout=900, stdin=None, ok=(0,), out=subprocess.DEVNULL):
    """Runs a command in a process group of its own, which is ended as a whole if it is late."""
    environment = ENVIRONMENT | (env or {})
    command = [str(word) for word in command]
    with subprocess.Popen(command, cwd=cwd, env=environment, stdin=stdin or subprocess.DEVNULL,
                          stdout=out, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            text, wrong = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise TooLong(f"{' '.join(command)[:200]}: more than {timeout} s") from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode not in ok:
            tail = wrong.decode(errors="replace")[-2000:]
            raise Failed(f"{' '.join(command)[:300]}: code {process.returncode}\n{tail}")
        return text


def output(*command, **how):
    return run(*command, out=subprocess.PIPE, **how).decode()


def shell(text, **how):
    return run("bash", "-c", "set -o pipefail; " + text, **how)


def sync(path):
    """Only this filesystem: the others' daemons may be frozen."""
    run("sync", "-f", path, timeout=600)


def drop_caches():
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")


def filesystem_of(path):
    return output("stat", "-f", "-c", "%T", path).strip()


def is_mount(path):
    text = pathlib.Path("/proc/self/mountinfo").read_text()
    return any(line.split()[4] == str(path) for line in text.splitlines())


def unmount(path):
    """Takes a mount away, whatever state it is in."""
    for flags in ((), ("-l",)):
        if is_mount(path):
            run("umount", *flags, path, ok=(0, 1, 32), timeout=120)


def remove(path):
    if path.exists() or path.is_symlink():
        run("rm", "-rf", "--", path, timeout=1800)


def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def machine_busy_secs():
    """Processor time that everything on this machine has used, over all cores."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle, waiting = int(fields[3]), int(fields[4])
    # The last two (guests) are part of the first two.
    return (sum(int(field) for field in fields[:8]) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def cpu_secs(pids):
    """CPU time that processes have used; those that are gone count nothing."""
    ticks = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def stop_process(process):
    """Ends a daemon that we started."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def has(program):
    return shutil.which(program) is not None
