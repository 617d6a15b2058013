"""What the workloads work on: made once, kept under target/bench-inputs, the same on each machine.

Registries are asked in this step only; versions are pinned by the lock files in `inputs/`.
"""

import gzip
import json
import shutil

from common import HERE, INPUTS, ROOT, output, run, say

PINNED = HERE / "inputs"
# Written last into each folder, so that one that was broken off is made again.
DONE = ".complete"
# Fixed, so that every commit has the same id everywhere.
DATE = {"GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z"}
CRATE_FILES_MAX = 1500
FILE_BYTES_MAX = 256 * 1024


class Inputs:
    """Paths of the inputs for one size of run."""

    def __init__(self, tree_files):
        self.tree_files = tree_files
        self.folder = INPUTS
        self.tree = INPUTS / f"tree-{tree_files}"
        self.tar = self.tree / "tree.tar"
        self.repository = INPUTS / f"repository-{tree_files}" / "bare.git"
        self.npm = INPUTS / "npm"
        self.pip = INPUTS / "pip"
        self.crate = INPUTS / "crate"

    def make(self, wanted):
        """Makes those of `wanted` (tree, repository, npm, pip, crate) that are missing."""
        makers = {"tree": (self.tree, self._tree), "npm": (self.npm, make_npm),
                  "repository": (self.repository.parent, self._repository),
                  "pip": (self.pip, make_pip), "crate": (self.crate, make_crate)}
        if "repository" in wanted:
            wanted = {"tree"} | set(wanted)
        for name, (folder, make) in makers.items():
            if name in wanted and not (folder / DONE).exists():
                say(f"making the input {name} (once)")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                make(folder)
                (folder / DONE).touch()

    def _tree(self, folder):
        """A source tree of exactly so many files: whole crates of this project's dependencies."""
        vendor = INPUTS / "vendor"
        if not (vendor / DONE).exists():
            shutil.rmtree(vendor, ignore_errors=True)
            run("cargo", "vendor", "--locked", "--versioned-dirs", vendor, cwd=ROOT)
            (vendor / DONE).touch()
        source, left = folder / "source", self.tree_files
        for crate in sorted(path for path in vendor.iterdir() if path.is_dir()):
            files = [path for path in sorted(crate.rglob("*")) if is_wanted(path)]
            if len(files) > CRATE_FILES_MAX:
                continue
            for file in files[:left]:
                place = source / file.relative_to(vendor)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
            left -= len(files[:left])
        if left:
            raise SystemExit(f"the dependencies have {left} files too few")
        run("tar", "--sort=name", "--mtime=@1700000000", "--owner=0", "--group=0",
            "--numeric-owner", "--mode=u=rwX,go=rX", "-cf", self.tar, "-C", folder, "source")
        # Quarters, for four processes at once.
        crates = sorted(path.name for path in source.iterdir())
        for quarter in range(4):
            run("tar", "-cf", folder / f"quarter-{quarter}.tar", "-C", source, *crates[quarter::4])

    def _repository(self, folder):
        """The tree as five commits; the last adds a fifth of it and changes some of the rest."""
        work = folder / "work"
        git = lambda *words: run("git", "-C", work, *words, env=DATE)
        run("git", "init", "-q", "-b", "main", work)
        crates = sorted((self.tree / "source").iterdir())
        for step in range(5):
            for crate in crates[step::5]:
                shutil.copytree(crate, work / crate.name)
            if step == 4:
                for file in sorted(work.rglob("*.rs"))[::20]:
                    if ".git" not in file.parts:
                        file.write_bytes(file.read_bytes() + b"\n// changed\n")
            git("add", "-A")
            git("commit", "-q", "-m", f"step {step}")
        git("branch", "before", "HEAD~1")
        run("git", "clone", "-q", "--bare", work, self.repository)
        run("git", "-C", self.repository, "repack", "-adq")
        shutil.rmtree(work)


def is_wanted(path):
    return (path.is_file() and not path.is_symlink() and path.stat().st_size <= FILE_BYTES_MAX
            and str(path).isascii())


def make_npm(folder):
    """package.json, its lock and a cache that is enough to install offline."""
    shutil.copy(PINNED / "npm" / "package.json", folder)
    with gzip.open(PINNED / "npm" / "package-lock.json.gz") as packed:
        (folder / "package-lock.json").write_bytes(packed.read())
    first = folder / "first"
    first.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(folder / name, first)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", folder / "cache",
        cwd=first)
    shutil.rmtree(first)


def make_pip(folder):
    shutil.copy(PINNED / "pip" / "requirements.txt", folder)
    run("/usr/bin/python3", "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:",
        "-d", folder / "wheels", "-r", folder / "requirements.txt")


def make_crate(folder):
    """A small program with its dependencies beside it."""
    shutil.copytree(PINNED / "crate", folder, dirs_exist_ok=True)
    config = output("cargo", "vendor", "--locked", "vendor", cwd=folder)
    (folder / ".cargo").mkdir()
    (folder / ".cargo" / "config.toml").write_text(config)


def describe(inputs):
    """Facts of the inputs for the page of results."""
    facts = {}
    if inputs.tar.exists():
        megabytes = inputs.tar.stat().st_size / 1e6
        facts["tree"] = f"{inputs.tree_files:,} files, {megabytes:.0f} MB as tar"
    lock = inputs.npm / "package-lock.json"
    if lock.exists():
        facts["npm"] = f"{len(json.loads(lock.read_text())['packages']) - 1} packages"
    requirements = inputs.pip / "requirements.txt"
    if requirements.exists():
        facts["pip"] = f"{len(requirements.read_text().split())} wheels"
    return facts
