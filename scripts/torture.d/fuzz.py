"""The fuzz targets of fuzz/: every decoder against bytes that libfuzzer finds by their coverage."""

import concurrent.futures
import os
import re
import subprocess

import common

from common import ROOT, Failed, run

FUZZ = ROOT / "target" / "fuzz"
BINARIES = FUZZ / "bin"

#: The longest input that is tried.
LEN_MAX = 64 * 1024


def targets():
    """Names of the targets, as fuzz/Cargo.toml has them."""
    text = (ROOT / "fuzz" / "Cargo.toml").read_text()
    return re.findall(r'name = "([\w-]+)"\npath = "fuzz_targets/', text)


def fuzz(bed):
    """Each target for some seconds, as many at a time as there are cores. What was found worth keeping
    stays in target/fuzz/corpus, so that a later run begins where this one ended."""
    seconds = bed.options.seconds or bed.size(5, 60)
    seeds = bed.folder / "seeds"
    run(BINARIES / "seeds", seeds)
    names = targets()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda name: fuzz_one(bed, name, seeds / name, seconds), names))
    failures = [failure for _, _, failure in done if failure]
    bed.count(sum(runs for runs, _, _ in done))
    covered = ", ".join(f"{name} {edges}" for name, (_, edges, _) in zip(names, done))
    bed.note(f"{len(names)} targets, {seconds} s each; edges covered: {covered}")
    if failures:
        raise Failed("\n".join(failures))


def fuzz_one(bed, name, seeds, seconds):
    """How many inputs were run, how many edges they cover, and what is wrong."""
    corpus, artifacts = FUZZ / "corpus" / name, FUZZ / "artifacts" / name
    for folder in (corpus, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    log = bed.folder / f"{name}.log"
    # 0 would be a seed of libfuzzer's own choice.
    command = [BINARIES / name, corpus, seeds, f"-seed={bed.seed + 1}",
               f"-max_total_time={seconds}", f"-max_len={LEN_MAX}", "-timeout=20",
               "-rss_limit_mb=1024", f"-artifact_prefix={artifacts}/", "-print_final_stats=1"]
    with log.open("wb") as output:
        ended = subprocess.run([str(word) for word in command], stdout=output, stderr=output,
                               stdin=subprocess.DEVNULL, env=common.ENVIRONMENT, check=False,
                               timeout=seconds * 10 + 600)
    text = log.read_text(errors="replace")
    runs = [int(number) for number in re.findall(r"stat::number_of_executed_units: (\d+)", text)]
    edges = [int(number) for number in re.findall(r" cov: (\d+)", text)]
    failure = None
    if ended.returncode:
        failure = failure_of(name, log, text)
    elif not edges or not runs or runs[-1] <= len(list(seeds.iterdir())):
        failure = f"{name}: nothing but the seeds was run; see {log}"
    return (runs or [0])[-1], (edges or [0])[-1], failure


def failure_of(name, log, text):
    told = re.search(r"panicked at .*(?:\n.*)?|ERROR: libFuzzer: .*", text)
    kept = re.search(r"Test unit written to (\S+)", text)
    lines = [f"{name}: {told.group(0) if told else text[-500:]}", f"all that it wrote: {log}"]
    if kept:
        lines.append(f"the input again: {(BINARIES / name).relative_to(ROOT)} {kept.group(1)}")
    return "\n".join(lines)
