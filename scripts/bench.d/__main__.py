"""The command behind scripts/bench; see docs/benchmarks.md."""

import argparse
import datetime
import json
import os
import pathlib
import signal
import sys

import awake
import contenders
import inputs
import machine
import report
from common import RESULTS, ROOT, say
from phase import PHASES


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures directories beside each other.")
    add = parser.add_argument
    add("--phases", default="", help="names or groups (tree, git, build, data), with commas")
    add("--contenders", default="ext4,null,dormouse", help="which of ext4, null, dormouse, rclone, "
        "s3fs, zerofs; those of the flags below come on top")
    add("--contender", action="append", default=[], metavar="NAME=/DIR", help="any directory")
    add("--contender-dormouse", action="append", default=[], metavar="NAME=FLAGS",
        help="one more workspace, mounted with these flags")
    add("--contender-null", action="append", default=[], metavar="NAME=FLAGS",
        help="one more null filesystem, with these flags")
    add("--dormouse-args", default="", metavar="FLAGS", help="flags of `dormouse mount`")
    add("--null-args", default="", metavar="FLAGS", help="flags of the null filesystem")
    add("--rounds", type=int, default=None, help="default 5; with --quick 1")
    add("--quick", action="store_true", help="small sizes and one round: does it work at all")
    add("--cores", type=int, default=os.cpu_count(), help="cores for clients and daemons")
    add("--timeout", type=int, default=300, help="seconds a phase may take")
    add("--disk", type=pathlib.Path, default=ROOT / "target" / "bench-work",
        help="folder on the disk under test; it is emptied")
    add("--out", type=pathlib.Path, help="where the JSON goes; default target/bench-results")
    add("--list", action="store_true", help="the phases")
    return parser.parse_args()


def list_phases():
    for phase in PHASES.values():
        print(f"{phase.name:<20} {phase.title}")


def make_contenders(options, folder):
    names = [name for name in options.contenders.split(",") if name]
    made = []
    for name in names:
        if name == "ext4":
            made.append(contenders.Contender(name, folder / "ext4-plain"))
        elif name == "null":
            made.append(contenders.Null(name, folder / "null", options.null_args))
        elif name == "dormouse":
            made.append(contenders.Dormouse(name, folder / name, options.dormouse_args))
        else:
            raise SystemExit(f"no contender {name!r}")
    for text in options.contender:
        name, path = contenders.named(text)
        made.append(contenders.Contender(name, pathlib.Path(path) / "bench"))
    for text in options.contender_dormouse:
        name, flags = contenders.named(text)
        made.append(contenders.Dormouse(name, folder / name, flags))
    for text in options.contender_null:
        name, flags = contenders.named(text)
        made.append(contenders.Null(name, folder / f"{name}-null", flags))
    return made


def measure_awake(options, folder):
    sizes = awake.QUICK if options.quick else awake.Sizes()
    phases = awake.selected([name for name in options.phases.split(",") if name])
    material = inputs.Inputs(sizes.tree_files)
    material.make({name for phase in phases for name in phase.inputs})
    made = make_contenders(options, folder)
    running = awake.Awake(made, phases, material, sizes, options)
    try:
        for contender in made:
            contender.start()
        running.run()
    finally:
        for contender in made:
            try:
                contender.stop()
            except Exception as error:  # The others must be stopped all the same.
                say(f"stopping {contender.name}: {error}")
    print(report.awake_table(running.results))
    print()
    print(report.costs_table(running.results))
    facts = {each.name: {"flags": each.flags, "cold": each.coldness} for each in made}
    return {"awake": running.results, "contenders": facts, "inputs": inputs.describe(material)}


def main():
    options = arguments()
    if options.list:
        return list_phases()
    options.rounds = options.rounds or (1 if options.quick else 5)
    # A signal ends the run as an error does: mounts and daemons are taken away.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    options.disk = options.disk.resolve()
    folder = contenders.disk(options.disk)
    contenders.clear(folder)
    # Children inherit it: programs, daemons, and the null filesystem's number of threads.
    os.sched_setaffinity(0, range(options.cores))
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cores": options.cores, "rounds": options.rounds, "quick": options.quick,
        "machine": machine.facts(folder),
    }
    results |= measure_awake(options, folder)
    contenders.clear(folder)
    out = options.out or RESULTS / f"{results['date'].replace(':', '')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    say(f"written: {out}")


if __name__ == "__main__":
    main()
