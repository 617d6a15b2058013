"""What a phase is, and the list of them."""

import dataclasses
import typing


@dataclasses.dataclass(frozen=True)
class Phase:
    name: str
    #: Does the work in a place; may give the seconds itself, else it is timed from outside.
    run: typing.Callable
    title: str
    #: States that the place must have before; see `provider`.
    needs: tuple = ()
    #: The state that it leaves behind.
    makes: str = ""
    #: The state that it takes away.
    ends: str = ""
    #: "", "dropped" or "remounted": see Contender.make_cold.
    cold: str = ""
    #: Done once untimed right before: another contender's cold phase has emptied all caches.
    warm: bool = False
    #: Not timed, right before.
    prepare: typing.Callable = None
    #: Not timed, right after.
    finish: typing.Callable = None
    #: Inputs that must have been made.
    inputs: tuple = ()


class Place:
    """One contender's directory of one round."""

    def __init__(self, contender, number, inputs, sizes, timeout):
        self.contender, self.inputs, self.sizes = contender, inputs, sizes
        self.dir = contender.path / f"round-{number}"
        self.timeout = timeout
        self.states = set()


PHASES = {}


def phase(name, title, **how):
    """Enters a function into the list. Of several on one function, the one next to it is first."""
    def enter(function):
        PHASES[name] = Phase(name=name, title=title, run=function, **how)
        return function
    return enter


def provider(state):
    """The phase that makes a state; it is run untimed where it was not asked for."""
    return next(each for each in PHASES.values() if each.makes == state)
