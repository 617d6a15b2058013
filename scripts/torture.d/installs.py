"""npm ci, pip install and cargo build: what is there afterwards is what is there on ext4."""

import contextlib
import fnmatch
import gzip
import json
import os
import pathlib
import shutil
import stat
import subprocess

import common
import inputs
import tools
from common import Failed, run, say
from history import digest

#: The pinned packages of npm; those of pip and cargo are the benchmark's.
NPM = tools.HERE / "inputs" / "npm"
MADE = common.TARGET / "torture-inputs"
PACKAGES_MIN = 500


def npm(bed):
    material = MADE / "npm"
    if not (material / inputs.DONE).exists():
        say("filling npm's cache (once)")
        shutil.rmtree(material, ignore_errors=True)
        (material / "first").mkdir(parents=True)
        npm_files(material / "first")
        npm_ci(material / "first", material / "cache")
        shutil.rmtree(material / "first")
        (material / inputs.DONE).touch()

    def install(folder):
        npm_files(folder)
        packages = len(json.loads((folder / "package-lock.json").read_text())["packages"]) - 1
        if packages < PACKAGES_MIN:
            raise Failed(f"the lock file has {packages} packages only")
        npm_ci(folder, material / "cache", "--offline")
    compare(bed, install)


def npm_files(folder):
    shutil.copy(NPM / "package.json", folder)
    with gzip.open(NPM / "package-lock.json.gz") as packed:
        (folder / "package-lock.json").write_bytes(packed.read())


def npm_ci(folder, cache, *more):
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", cache, *more,
        cwd=folder)


def benchmark_inputs(name):
    material = inputs.Inputs(1)
    material.make({name})
    return getattr(material, name)


def pip(bed):
    material = benchmark_inputs("pip")

    def install(folder):
        run("/usr/bin/python3", "-m", "venv", "--without-pip", folder / "venv")
        # With a fixed date, compiled files hold the hash of their source instead of its time.
        run("/usr/bin/python3", "-m", "pip", "--python", folder / "venv", "install", "-q",
            "--no-index", "--no-deps", "--no-cache-dir", "--find-links", material / "wheels",
            "-r", material / "requirements.txt", env={"SOURCE_DATE_EPOCH": "1700000000"})
        run(folder / "venv" / "bin" / "python", "-B", "-c", "import django; django.VERSION")
    compare(bed, install)


def cargo(bed):
    material = benchmark_inputs("crate")

    # Folders of incremental builds have random names.
    def build(folder):
        told = run("cargo", "build", "--frozen", "--message-format", "json", out=subprocess.PIPE,
                   cwd=folder / "crate", env={"CARGO_INCREMENTAL": "0"})
        made = [json.loads(line) for line in told.splitlines()]
        return [each["target"]["name"] for each in made if each.get("fresh") is False]

    def install(folder):
        shutil.copytree(material, folder / "crate", copy_function=shutil.copy2)
        build(folder)

    def again(folder):
        if stale := build(folder):
            raise Failed(f"cargo compiles again after the resume: {stale}")
    compare(bed, install, again)


def compare(bed, install, again=None):
    """Installs twice under one path, so that paths inside of files are the same."""
    with bed.workspace() as workspace:
        workspace.start("--checkpoint-interval", "1s")
        pictures = []
        for place in (bed.plain(), workspace.path):
            with seen_as(bed.folder / "here", place) as folder:
                install(folder)
                pictures.append(picture(folder))
        plain, here = pictures
        differ("not as on ext4", plain, here, tools.exclusions(bed.part.name))
        workspace.resume_empty()
        differ("not as before the hibernation", here, picture(workspace.path))
        if again:
            with seen_as(bed.folder / "here", workspace.path) as folder:
                again(folder)
        bed.count(len(here))


@contextlib.contextmanager
def seen_as(path, place):
    path.mkdir(exist_ok=True)
    run("mount", "--bind", place, path)
    try:
        yield path
    finally:
        common.unmount(path)


def picture(folder):
    """Kind, mode and content or target of everything in a folder."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = pathlib.Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                what = ("link", os.readlink(path))
            elif stat.S_ISDIR(mode):
                what = ("directory", oct(mode & 0o7777))
            else:
                what = ("file", oct(mode & 0o7777), digest(path.read_bytes()))
            found[str(path.relative_to(folder))] = what
    return found


def differ(what, plain, here, excluded=()):
    wrong = [f"  {path}: {plain.get(path)} there, {here.get(path)} here"
             for path in sorted(plain.keys() | here.keys()) if plain.get(path) != here.get(path)
             and not any(fnmatch.fnmatch(path, pattern) for pattern in excluded)]
    if wrong:
        raise Failed(f"{what}: {len(wrong)} of {len(plain)}\n" + "\n".join(wrong[:20]))
