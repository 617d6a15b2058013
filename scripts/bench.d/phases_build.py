"""Installers and a compiler, all offline."""

import shutil

from common import run
from phase import phase


def npm_folder(place):
    folder = place.dir / "npm"
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(place.inputs.npm / name, folder)


@phase("npm-ci", "npm ci, 477 packages", prepare=npm_folder, inputs=("npm",))
def npm_ci(place):
    run("npm", "ci", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--cache",
        place.inputs.npm / "cache", cwd=place.dir / "npm", timeout=place.timeout)


def python_folder(place):
    run("/usr/bin/python3", "-m", "venv", "--without-pip", place.dir / "venv")


@phase("pip-install", "pip install, 6 wheels", prepare=python_folder, inputs=("pip",))
def pip_install(place):
    run("/usr/bin/python3", "-m", "pip", "--python", place.dir / "venv", "install", "-q",
        "--no-index", "--no-deps", "--no-cache-dir", "--find-links", place.inputs.pip / "wheels",
        "-r", place.inputs.pip / "requirements.txt", timeout=place.timeout)


def crate_folder(place):
    shutil.copytree(place.inputs.crate, place.dir / "crate", dirs_exist_ok=True)
    # The configuration names the folder of vendored crates relative to itself.


@phase("cargo-build", "cargo build, 28 crates vendored", prepare=crate_folder, inputs=("crate",))
def cargo_build(place):
    run("cargo", "build", "--frozen", "--quiet", cwd=place.dir / "crate", timeout=place.timeout)
