"""From measurements to tables."""

import statistics

import goals


def seconds_of(measurements):
    return [one["seconds"] for one in measurements if "seconds" in one]


def median(measurements):
    found = seconds_of(measurements)
    return statistics.median(found) if found else None


def short(seconds):
    """Three significant digits."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:#.3g}".rstrip(".")


def cell(measurements):
    """Median, and the smallest and largest in brackets."""
    found = seconds_of(measurements)
    if found:
        spread = f" ({short(min(found))}-{short(max(found))})" if len(found) > 1 else ""
        return short(statistics.median(found)) + spread
    failed = [one for one in measurements if "failed" in one]
    if not failed:
        return "-"
    return "too long" if failed[0].get("late") else "failed"


def ratio(measured, yardstick):
    if not measured or not yardstick:
        return None
    return measured / yardstick


def times(value):
    return "-" if value is None else f"{value:.2f}"


def lay_out(rows, heads):
    """A table for a terminal."""
    widths = [max(len(str(row[at])) for row in [heads, *rows]) for at in range(len(heads))]
    lines = []
    for row in [heads, *rows]:
        cells = [str(text).ljust(width) if at == 0 else str(text).rjust(width)
                 for at, (text, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def contenders_of(results):
    names = []
    for of_phase in results.values():
        names += [name for name in of_phase if name not in names]
    return names


def awake_table(results):
    """Phase, then each contender with its ratios to ext4 and to null."""
    names = contenders_of(results)
    yardsticks = [name for name in ("ext4", "null") if name in names]
    heads = ["seconds: median (min-max)"]
    for name in names:
        heads += [name] + [f"/{yard}" for yard in yardsticks if yard != name and name != "ext4"]
    rows = []
    for phase, of_phase in results.items():
        if not of_phase:
            continue
        row = [phase]
        for name in names:
            measured = of_phase.get(name, [])
            row.append(cell(measured))
            row += [times(ratio(median(measured), median(of_phase.get(yard, []))))
                    for yard in yardsticks if yard != name and name != "ext4"]
        rows.append(row)
    return lay_out(rows, heads)


def costs_table(results):
    """What the daemons used: CPU seconds, requests of the kernel."""
    rows = []
    for phase, of_phase in results.items():
        for name, measured in of_phase.items():
            cpu = [one["daemon_cpu"] for one in measured if "daemon_cpu" in one]
            asked = [one["requests"] for one in measured if "requests" in one]
            if any(cpu) or asked:
                rows.append([phase, name, f"{statistics.median(cpu):.2f}",
                             f"{statistics.median(asked):.0f}" if asked else "-"])
    return lay_out(rows, ["daemon", "contender", "CPU s", "requests"]) if rows else ""


def verdict(found, goal):
    if goal is None or found is None:
        return ""
    return "met" if found <= goal * 1.005 else "**not met**"


def awake_rows(results, cores, titles):
    """Rows of docs/benchmarks.md."""
    rows = []
    for phase, of_phase in results.items():
        ours = median(of_phase.get("dormouse", []))
        ext4, null = median(of_phase.get("ext4", [])), median(of_phase.get("null", []))
        to_null, to_ext4 = ratio(ours, null), ratio(ours, ext4)
        null_goal, ext4_goal = goals.awake(phase, cores)
        verdicts = [verdict(to_null, null_goal), verdict(to_ext4, ext4_goal)]
        both = [text for text in verdicts if text]
        met = "" if not both else "met" if all(text == "met" for text in both) else (
            "**not met**" if "met" not in both else
            "**not met** to " + ("ext4" if verdicts[0] == "met" else "null"))
        show_goal = lambda value: "-" if value is None else f"{value:g}"
        rows.append([titles.get(phase, phase), cell(of_phase.get("dormouse", [])),
                     cell(of_phase.get("null", [])), cell(of_phase.get("ext4", [])),
                     times(to_null), show_goal(null_goal), times(to_ext4), show_goal(ext4_goal),
                     met])
    return rows


def markdown_table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


class Context:
    """What the goals of one contender's waking phases are judged by."""

    def __init__(self, results, name, line):
        self.results, self.name = results, name
        self.latency_secs = line["latency_millis"] / 1000
        self.bytes_per_sec = line["bytes_per_sec"]

    def seconds(self, phase):
        return median(self.results.get(phase, {}).get(self.name, [])) or float("inf")

    def wire_share(self, one, direction):
        if not self.bytes_per_sec or not one["seconds"]:
            return 0
        return one[direction] / self.bytes_per_sec / one["seconds"]


def middle(measurements):
    """The measurement whose time is the median; of two, the slower."""
    ordered = sorted(measurements, key=lambda one: one["seconds"])
    return ordered[len(ordered) // 2]


def megabytes(count):
    return f"{count / 1e6:.1f}" if count < 1e8 else f"{count / 1e6:.0f}"


ASLEEP_HEADS = ["seconds: median (min-max)", "requests", "chain", "MB down", "MB up", "wire used",
                "cores busy"]


def asleep_cells(measurements, context):
    one = middle(measurements)
    direction = max("bytes_down", "bytes_up", key=lambda name: one[name])
    used = context.wire_share(one, direction)
    return [cell(measurements), str(one["requests"]), str(one["chain"]),
            megabytes(one["bytes_down"]), megabytes(one["bytes_up"]),
            f"{used:.0%}" if one[direction] > 1e6 else "-",
            f"{one['busy_secs'] / one['seconds']:.1f}" if one.get("busy_secs") else "-"]


def asleep_table(results, line):
    rows = []
    for phase, of_phase in results.items():
        for name, measured in of_phase.items():
            rows.append([phase, name, *asleep_cells(measured, Context(results, name, line))])
    return lay_out(rows, ["phase", "contender", *ASLEEP_HEADS])


def asleep_rows(results, line, titles):
    """Rows of docs/benchmarks.md."""
    rows = []
    for phase, of_phase in results.items():
        for name, measured in of_phase.items():
            context = Context(results, name, line)
            goal, met = "", ""
            if phase in goals.ASLEEP and name == "dormouse":
                goal, has_it = goals.ASLEEP[phase]
                met = "met" if has_it(middle(measured), context) else "**not met**"
            rows.append([titles.get(phase, phase), name, *asleep_cells(measured, context), goal, met])
    return rows
