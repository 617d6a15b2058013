"""Rounds of phases over contenders: A B A B, so that what the machine does meanwhile hits all."""

import dataclasses
import time

import phases_tree  # noqa: F401  (the order of these is the order of the phases)
import phases_git  # noqa: F401
import phases_build  # noqa: F401
import phases_data  # noqa: F401
from common import Failed, Stopped, TooLong, remove, say, sync
from phase import PHASES, Place, provider

#: How often a warm phase is done before: after each READ the kernel takes the file's atime for
#: outdated and asks for its attributes once more, so only the third time is quiet.
WARMING = 2

GROUPS = {"tree": phases_tree, "git": phases_git, "build": phases_build, "data": phases_data}


@dataclasses.dataclass(frozen=True)
class Sizes:
    tree_files: int = 10_000
    transactions: int = 1000
    rows: int = 200_000
    appends: int = 10_000
    overwrites: int = 4096
    maps: int = 10_000
    middle_mib: int = 64
    big_mib: int = 1024


QUICK = Sizes(tree_files=1000, transactions=50, rows=5000, appends=1000, overwrites=256, maps=500,
              middle_mib=8, big_mib=64)


def selected(names):
    """Phases by name or by group, in their order."""
    if not names:
        return list(PHASES.values())
    wanted = set()
    for name in names:
        if name in GROUPS:
            wanted |= {each.name for each in PHASES.values()
                       if each.run.__module__ == GROUPS[name].__name__}
        elif name in PHASES:
            wanted.add(name)
        else:
            raise SystemExit(f"no phase {name!r}: see --list")
    return [each for each in PHASES.values() if each.name in wanted]


def run_rounds(options, one_round):
    """Rounds until there are enough or the budget would not hold another."""
    longest, begin = 0, time.monotonic()
    for number in range(options.rounds):
        started = time.monotonic()
        if options.budget and started - begin + longest > options.budget:
            say(f"stopping after {number} rounds: another would be over the budget")
            break
        try:
            one_round(number)
        except Stopped:
            say("stopped: what was measured is kept")
            options.is_stopped = True
            break
        longest = max(longest, time.monotonic() - started)


class Awake:
    def __init__(self, contenders, phases, inputs, sizes, options):
        self.contenders, self.phases = contenders, phases
        self.inputs, self.sizes, self.options = inputs, sizes, options
        #: phase -> contender -> list of measurements
        self.results = {each.name: {} for each in phases}
        #: (contender, state) that could not be made once: not tried again for each phase.
        self.hopeless = set()

    def run(self):
        for contender in self.contenders:
            contender.freeze()
        run_rounds(self.options, self.round)

    def round(self, number):
        places = [Place(contender, number, self.inputs, self.sizes, self.options.timeout)
                  for contender in self.contenders]
        for place in places:
            place.contender.thaw()
            remove(place.dir)
            place.dir.mkdir()
            place.contender.freeze()
        for phase in self.phases:
            # Each is first as often as the others.
            turn = number % len(places)
            for place in places[turn:] + places[:turn]:
                self.measure(phase, place, number)
        for place in places:
            if place.contender.forgets:
                continue
            place.contender.thaw()
            try:
                remove(place.dir)
            finally:
                place.contender.freeze()

    def measure(self, phase, place, number):
        contender = place.contender
        list_of = self.results[phase.name].setdefault(contender.name, [])
        if any("failed" in one for one in list_of):
            return
        contender.thaw()
        try:
            one = self.measured(phase, place)
        except (Failed, TooLong) as error:
            self.hopeless.add((contender.name, phase.makes))
            one = {"failed": str(error), "late": isinstance(error, TooLong)}
            say(f"  {phase.name} on {contender.name}: {error}")
        finally:
            contender.freeze()
        list_of.append(one)
        shown = "failed" if "failed" in one else f"{one['seconds']:.3f} s"
        say(f"round {number + 1}: {phase.name:<20} {contender.name:<14} {shown}")

    def measured(self, phase, place):
        contender = place.contender
        for state in phase.needs:
            if state not in place.states:
                self.provide(state, place)
        if phase.prepare:
            phase.prepare(place)
        for _ in range(WARMING if phase.warm else 0):
            phase.run(place)
        sync(place.dir)
        if phase.cold:
            contender.make_cold(phase.cold)
        requests, cpu = contender.requests(), contender.cpu_secs()
        begin = time.perf_counter()
        said = phase.run(place)
        seconds = time.perf_counter() - begin
        one = {"seconds": said if isinstance(said, float) else seconds,
               "daemon_cpu": round(contender.cpu_secs() - cpu, 3)}
        if requests is not None:
            one["requests"] = contender.requests() - requests
        if phase.finish:
            phase.finish(place)
        if phase.makes:
            place.states.add(phase.makes)
        place.states.discard(phase.ends)
        return one

    def provide(self, state, place):
        """Runs the phase that makes a state, without its clock."""
        if (place.contender.name, state) in self.hopeless:
            raise Failed(f"there is no {state}")
        self.hopeless.add((place.contender.name, state))
        phase = provider(state)
        for needed in phase.needs:
            if needed not in place.states:
                self.provide(needed, place)
        if phase.prepare:
            phase.prepare(place)
        phase.run(place)
        place.states.add(state)
        self.hopeless.discard((place.contender.name, state))
