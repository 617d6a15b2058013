"""docs/benchmarks.md from the JSON of runs: what stands above the mark is written by hand."""

import json

import asleep
import awake  # noqa: F401  (registers the phases)
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


def awake_section(runs, cores):
    mine = [run for run in runs if run["cores"] == cores and run.get("awake")]
    results = merged(mine, "awake")
    if not results:
        return ""
    rounds = sorted({len(measured) for of_phase in results.values()
                     for measured in of_phase.values()})
    titles = {each.name: each.title for each in PHASES.values()}
    heads = ["phase, seconds", "dormouse", "null", "ext4", "to null", "goal", "to ext4", "goal", ""]
    where = "1 core: client and daemon share it" if cores == 1 else f"{cores} cores"
    text = (f"### Awake, {where}\n\n{dates(mine)}, median (smallest-largest) of "
            f"{rounds[0]}{f' to {rounds[-1]}' if rounds[1:] else ''} rounds.\n\n"
            + report.markdown_table(heads, report.awake_rows(results, cores, titles)))
    others = [name for name in report.contenders_of(results)
              if name not in ("ext4", "null", "dormouse")]
    if others:
        rows = [[titles[phase], *(report.cell(of_phase.get(name, [])) for name in others)]
                for phase, of_phase in results.items() if set(of_phase) & set(others)]
        text += "\n\nOthers in the same runs:\n\n" + report.markdown_table(
            ["phase, seconds", *others], rows)
    return text + "\n"


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


def write(files):
    runs = load(files)
    if not runs:
        raise SystemExit("no results: run scripts/bench first")
    parts = ["## Results", facts(runs)]
    for cores in sorted({run["cores"] for run in runs}, reverse=True):
        parts.append(awake_section(runs, cores))
    parts.append(asleep_section(runs))
    above = PAGE.read_text().split(MARK)[0]
    text = "\n\n".join(part.strip() for part in parts if part.strip())
    PAGE.write_text(f"{above}{MARK}\n\n{text}\n")
    say(f"written: {PAGE}")
