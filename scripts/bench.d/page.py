"""docs/benchmarks.md from the JSON of runs: what stands above the mark is written by hand."""

import json

import re

import asleep
import awake  # noqa: F401  (registers the phases)
import peers
import report
from common import RESULTS, ROOT, say
from phase import PHASES

PAGE = ROOT / "docs" / "benchmarks.md"
MARK = "<!-- results: written by scripts/bench --markdown -->"


def load(files):
    found = files or sorted(RESULTS.glob("*.json"))
    runs = [json.loads(file.read_text()) for file in found]
    runs = [run for run in runs if files or not run["quick"]]
    return sorted(runs, key=lambda run: run["date"])


def merged(runs, key):
    """phase -> contender -> measurements: of each phase the newest run that has it. A phase is
    never put together from two runs, or its ratios would compare two times of the machine."""
    order = list(PHASES) if key == "awake" else list(asleep.PHASES)
    newest = {}
    for run in runs:
        for phase, of_phase in run.get(key, {}).items():
            if of_phase:
                newest[phase] = of_phase
    return {phase: newest[phase] for phase in order if phase in newest}


def facts(runs):
    last = runs[-1]
    lines = [f"- {name}: {value}" for name, value in last["machine"].items()]
    inputs = {name: fact for run in runs for name, fact in run.get("inputs", {}).items()}
    lines += [f"- input {name}: {fact}" for name, fact in sorted(inputs.items())]
    flags = {(name, one["flags"]) for run in runs for key in ("contenders", "sleepers")
             for name, one in run.get(key, {}).items() if one["flags"]}
    lines += [f"- {name} was run with `{text}`" for name, text in sorted(flags)]
    return "\n".join(lines)


def dates(runs):
    found = sorted({run["date"][:10] for run in runs})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def rounds_of(results):
    """How many rounds the phases had: `3 to 5 rounds`."""
    found = sorted({len(measured) for of_phase in results.values()
                    for measured in of_phase.values()})
    return f"{found[0]}{f' to {found[-1]}' if found[1:] else ''} rounds"


def has_peers(run):
    return bool(set(run.get("contenders", {})) & set(peers.KINDS))


def awake_section(runs, cores):
    mine = [run for run in runs
            if run["cores"] == cores and run.get("awake") and not has_peers(run)]
    results = merged(mine, "awake")
    if not results:
        return ""
    titles = {each.name: each.title for each in PHASES.values()}
    heads = ["phase, seconds", "dormouse", "null", "ext4", "to null", "goal", "to ext4", "goal", ""]
    where = "1 core: client and daemon share it" if cores == 1 else f"{cores} cores"
    text = (f"### Awake, {where}\n\n{dates(mine)}, median (smallest-largest) of "
            f"{rounds_of(results)}.\n\n"
            + report.markdown_table(heads, report.awake_rows(results, cores, titles)))
    others = [name for name in report.contenders_of(results)
              if name not in ("ext4", "null", "dormouse")]
    if others:
        rows = [[titles[phase], *(report.cell(of_phase.get(name, [])) for name in others)]
                for phase, of_phase in results.items() if set(of_phase) & set(others)]
        text += "\n\nOthers in the same runs:\n\n" + report.markdown_table(
            ["phase, seconds", *others], rows)
    return text + "\n"


def peers_section(runs):
    """Peers take so long that they get runs of their own, of few rounds."""
    mine = [run for run in runs if run.get("awake") and has_peers(run)]
    results = merged(mine, "awake")
    if not results:
        return ""
    titles = {each.name: each.title for each in PHASES.values()}
    others = [name for name in report.contenders_of(results) if name in peers.KINDS]
    heads = ["phase, seconds", "ext4", "dormouse"]
    for name in others:
        heads += [name, "to dormouse"]
    rows = []
    for phase, of_phase in results.items():
        ours = report.median(of_phase.get("dormouse", []))
        row = [titles[phase], report.cell(of_phase.get("ext4", [])),
               report.cell(of_phase.get("dormouse", []))]
        for name in others:
            measured = of_phase.get(name, [])
            row += [report.cell(measured), report.times(report.ratio(report.median(measured), ours))]
        rows.append(row)
    line = mine[-1].get("line")
    over = (f", {line['latency_millis']} ms, {line['bytes_per_sec'] / 1e6:.0f} MB/s" if line else "")
    return (f"### Peers, awake{over}\n\n{dates(mine)}, median of {rounds_of(results)}; *too long* is over "
            f"{mine[-1].get('timeout', 300)} s.\n\n" + report.markdown_table(heads, rows) + "\n")


def asleep_section(runs):
    mine = [run for run in runs if run.get("asleep")]
    results = merged(mine, "asleep")
    if not results:
        return ""
    line = mine[-1]["line"]
    heads = ["phase", "", *report.ASLEEP_HEADS, "goal", ""]
    rows = report.asleep_rows(results, line, asleep.PHASES)
    return (f"### Waking and sleeping, {line['latency_millis']} ms, "
            f"{line['bytes_per_sec'] / 1e6:.0f} MB/s\n\n{dates(mine)}, on "
            f"{' or '.join(str(n) for n in sorted({run['cores'] for run in mine}))} cores, which the "
            f"S3 server and the proxy use as well.\n\n" + report.markdown_table(heads, rows) + "\n")


def sections(text):
    """heading -> section, in order; what stands before the first heading is left out."""
    return {part.split("\n", 1)[0]: part.strip()
            for part in re.split(r"(?m)^(?=### )", text) if part.startswith("### ")}


def write(files):
    """What no run here has measured stays as it is: results of other days, with their dates."""
    runs = load(files)
    if not runs:
        raise SystemExit("no results: run scripts/bench first")
    made = [awake_section(runs, cores)
            for cores in sorted({run["cores"] for run in runs}, reverse=True)]
    made += [peers_section(runs), asleep_section(runs)]
    above, below = PAGE.read_text().split(MARK)
    kept = sections(below)
    fresh = {part.split("\n", 1)[0]: part.strip() for part in made if part.strip()}
    order = sorted(kept | fresh, key=lambda heading: (
        [word in heading for word in ("Awake", "Peers", "Waking")].index(True),
        "1 core" in heading))
    parts = ["## Results", facts(runs), *(fresh.get(heading) or kept[heading] for heading in order)]
    text = "\n\n".join(part.strip() for part in parts)
    PAGE.write_text(f"{above}{MARK}\n\n{text}\n")
    say(f"written: {PAGE}")
