"""The parts, in the order in which they run."""

import answered
import crashes
import faults
import fuzz
import installs
import model
import limits
import postgres
import power
import programs
import replace
import suites
import takeover
from bed import Part

PARTS = {part.name: part for part in [
    Part("pjdfstest", "pjdfstest 0.2.2: what passes on ext4", suites.pjdfstest),
    Part("fsx", "fsx 0.3.2: plainly, with checkpoints, evictions, hibernations", suites.fsx),
    Part("stress-ng", "stress-ng's file-system class: what passes on ext4", suites.stress_ng),
    Part("crash", "kill -9 of the daemon under load: nothing that returned is lost",
         crashes.kill_rounds, transports=True),
    Part("lost", "the machine is lost under load: the newest checkpoint comes back",
         crashes.lost_rounds),
    Part("power", "power cuts: a copy of the disk at an instant, against acknowledged fsyncs",
         power.rounds),
    Part("takeover", "two writers: a daemon is stopped, another takes over, the first goes on",
         takeover.rounds),
    Part("faults", "a store that misbehaves: every fault of the proxy before a real server",
         faults.rounds),
    Part("replace", "the daemon is killed or upgraded under a live mount: every call goes on, once",
         replace.rounds),
    Part("limits", "disk, inodes, descriptors, cache run out: told so, nothing lost, goes on after",
         limits.rounds),
    Part("memory", "the daemon in 256 MiB: untar, git, a large file, checkpoint, resume, hibernate",
         limits.memory, quick=False),
    Part("answered", "killed in the middle of every wait, a stopped and a stuck daemon: none stays",
         answered.rounds, transports=True),
    Part("locks", "flock, POSIX and OFD locks between processes: as on ext4", programs.locks),
    Part("sqlite", "SQLite: 5 journal modes x 2 synchronous levels, 4 processes at once",
         programs.sqlite),
    Part("git", "git: fsck, gc, repack, worktree, clone --shared, and on a resumed workspace",
         programs.git),
    Part("npm", "npm ci, 503 packages: every file as on ext4, and on a resumed workspace",
         installs.npm),
    Part("pip", "pip install into a venv: every file as on ext4, and on a resumed workspace",
         installs.pip),
    Part("cargo", "cargo build, 28 crates: every file as on ext4, and on a resumed workspace",
         installs.cargo, quick=False),
    Part("model", "random histories, in process and on a mount: the same as on a plain filesystem",
         model.model, transports=True),
    Part("fuzz", "every decoder of stored bytes, configuration and requests under libfuzzer", fuzz.fuzz),
    Part("postgres", "PostgreSQL: pgbench, kill -9 and restart, amcheck, a resumed workspace",
         postgres.postgres, quick=False),
]}
