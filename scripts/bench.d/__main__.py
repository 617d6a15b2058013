"""The command behind scripts/bench; see docs/benchmarks.md."""

import argparse
import datetime
import json
import os
import pathlib
import signal

import asleep
import awake
import contenders
import inputs
import machine
import page
import peers
import report
import s3
import sleepers
from common import RESULTS, ROOT, Failed, Stopped, has, say
from phase import PHASES


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures directories beside each other.")
    add = parser.add_argument
    add("--phases", default="", help="names or groups (tree, git, build, data: awake; asleep), "
        "with commas; default all but asleep")
    add("--contenders", default="ext4,null,dormouse,archive",
        help="which of ext4, null, dormouse, rclone, s3fs, zerofs; asleep also archive; those of "
        "the flags below come on top")
    add("--contender", action="append", default=[], metavar="NAME=/DIR", help="any directory")
    add("--contender-dormouse", action="append", default=[], metavar="NAME=FLAGS",
        help="one more workspace, mounted with these flags; @/PATH before them: another build")
    add("--contender-null", action="append", default=[], metavar="NAME=FLAGS",
        help="one more null filesystem, with these flags")
    add("--dormouse-args", default="", metavar="FLAGS", help="flags of `dormouse mount`")
    add("--null-args", default="", metavar="FLAGS", help="flags of the null filesystem")
    add("--rounds", type=int, default=None, help="default 5; with --quick 1")
    add("--quick", action="store_true", help="small sizes and one round: does it work at all")
    add("--cores", type=int, default=os.cpu_count(), help="cores for clients and daemons")
    add("--budget", type=int, default=0, metavar="SECONDS",
        help="begin no round that would end later, inputs and starting not counted")
    add("--timeout", type=int, default=300, help="seconds a phase may take")
    add("--disk", type=pathlib.Path, default=ROOT / "target" / "bench-work",
        help="folder on the disk under test; it is emptied")
    add("--out", type=pathlib.Path, help="where the JSON goes; default target/bench-results")
    add("--latency", type=int, default=25, metavar="MS", help="of the line to S3")
    add("--bandwidth", type=int, default=100_000_000, metavar="BYTES",
        help="per second and direction, of the line to S3")
    add("--markdown", nargs="*", type=pathlib.Path, metavar="JSON",
        help="measure nothing: write docs/benchmarks.md from these results, later ones first; "
        "without names, from all of target/bench-results that are not --quick")
    add("--list", action="store_true", help="the phases")
    return parser.parse_args()


def list_phases():
    for phase in PHASES.values():
        print(f"{phase.name:<20} {phase.title}")
    for name, title in asleep.PHASES.items():
        print(f"{name:<20} {title} (asleep)")


def make_contenders(options, folder, line):
    made = []
    for name in names(options.contenders):
        if name == "ext4":
            made.append(contenders.Contender(name, folder / "ext4-plain"))
        elif name == "null":
            made.append(contenders.Null(name, folder / "null", options.null_args))
        elif name == "dormouse":
            made.append(contenders.Dormouse(name, folder / name, options.dormouse_args))
        elif name in peers.KINDS:
            made += peer(name, folder, line)
        elif name != "archive":
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


def make_sleepers(options, folder, line):
    made = []
    for name in names(options.contenders):
        if name == "dormouse":
            made.append(sleepers.SleepyDormouse(name, folder / name, line, options.dormouse_args))
        elif name == "archive":
            made.append(sleepers.Archive(name, folder / name, line))
        elif name in peers.KINDS:
            made += [sleepers.SleepyPeer(one) for one in peer(name, folder, line)]
    for text in options.contender_dormouse:
        name, flags = contenders.named(text)
        made.append(sleepers.SleepyDormouse(name, folder / name, line, flags))
    return made


def peer(name, folder, line):
    """A peer whose program is not installed is left out."""
    if not has(name):
        say(f"{name} is not installed: left out")
        return []
    (folder / name).mkdir(parents=True, exist_ok=True)
    return [peers.KINDS[name](name, folder / name, line)]


def names(text):
    return [name for name in text.split(",") if name]


def measure_awake(options, phases, folder, line):
    sizes = awake.QUICK if options.quick else awake.Sizes()
    material = inputs.Inputs(sizes.tree_files)
    material.make({name for phase in phases for name in phase.inputs})
    made = make_contenders(options, folder, line)
    running = awake.Awake(made, phases, material, sizes, options)
    try:
        for contender in list(made):
            try:
                contender.start()
            except Failed as error:
                if not isinstance(contender, peers.Peer):
                    raise
                say(f"{contender.name} is left out: {error}")
                contender.stop()
                made.remove(contender)
        running.run()
    finally:
        stop_all(made)
    print(report.awake_table(running.results))
    print()
    print(report.costs_table(running.results))
    facts = {each.name: {"flags": each.flags, "cold": each.coldness} for each in made}
    told = {"line": told_of(options)} if line else {}
    return told | {"awake": running.results, "contenders": facts,
                   "inputs": inputs.describe(material)}


def measure_asleep(options, wanted, folder, line):
    material = inputs.Inputs((awake.QUICK if options.quick else awake.Sizes()).tree_files)
    material.make({"repository", "crate"})
    made = make_sleepers(options, folder, line)
    running = asleep.Asleep(made, wanted, line, material, options)
    try:
        running.run()
    finally:
        stop_all(made)
    told = told_of(options)
    print(report.asleep_table(running.results, told))
    facts = {each.name: {"flags": each.flags} for each in made}
    return {"asleep": running.results, "line": told, "sleepers": facts,
            "inputs": inputs.describe(material)}


def told_of(options):
    return {"latency_millis": options.latency, "bytes_per_sec": options.bandwidth}


def stop_all(made):
    for contender in made:
        try:
            contender.stop()
        except Exception as error:  # The others must be stopped all the same.
            say(f"stopping {contender.name}: {error}")


def measure(options, folder):
    """Phases that are asked for by name or group; what they need of S3 is started for them."""
    asked = names(options.phases)
    at_night = {name for name in asked if name in asleep.PHASES}
    if "asleep" in asked:
        at_night = set(asleep.PHASES)
    by_day = [name for name in asked if name not in asleep.PHASES and name != "asleep"]
    phases = awake.selected(by_day) if by_day or not asked else []
    results, server, line = {}, None, None
    try:
        if at_night or set(names(options.contenders)) & set(peers.KINDS):
            server = s3.Server(folder)
            server.start()
            line = s3.Line(server, options.latency, options.bandwidth)
            line.start()
        if phases:
            results |= measure_awake(options, phases, folder, line)
        if at_night and not getattr(options, "is_stopped", False):
            contenders.clear(folder, keep=("ceph",))
            results |= measure_asleep(options, at_night, folder, line)
    finally:
        if line:
            line.stop()
        if server:
            server.stop()
    return results


def stop(*_):
    raise Stopped


def main():
    options = arguments()
    if options.list:
        return list_phases()
    if options.markdown is not None:
        return page.write(options.markdown)
    options.rounds = options.rounds or (1 if options.quick else 5)
    # A signal ends the run as an error does: mounts and daemons are taken away.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    options.disk = options.disk.resolve()
    folder = contenders.disk(options.disk)
    if (folder / "ceph").exists():
        s3.Server(folder).stop()
    contenders.clear(folder)
    # Children inherit it: programs, daemons, and the null filesystem's number of threads.
    os.sched_setaffinity(0, range(options.cores))
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cores": options.cores, "quick": options.quick, "timeout": options.timeout,
        "machine": machine.facts(folder),
    }
    results |= measure(options, folder)
    contenders.clear(folder)
    out = options.out or RESULTS / f"{results['date'].replace(':', '')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    say(f"written: {out}")


if __name__ == "__main__":
    main()
