"""What the project wants to reach: ratios of medians (issue "Speed", section 2)."""

#: phase -> (to the null filesystem, to ext4 on one core, to ext4 on two cores)
AWAKE = {}


def _goal(phases, null, one_core, two_cores):
    for phase in phases.split():
        AWAKE[phase] = (null, one_core, two_cores)


_goal("untar cp npm-ci pip-install", 1.2, 1.3, 3)
_goal("git-clone git-checkout", 1.15, 1.1, 2)
_goal("git-add git-commit", 1.1, 1.1, 1.3)
_goal("git-status find-warm", 1.05, 1.3, 1.3)
_goal("rg grep read-all-warm", 1.05, 1.2, 1.3)
_goal("cargo-build", 1.05, 1.05, 1.15)
_goal("rm", 1.2, 1.0, 1.2)
_goal("fsync sqlite-tx sqlite-wal", None, 1.3, 1.3)
_goal("write-big", 1.3, 1.3, 1.3)
_goal("read-big-warm", 1.1, 1.1, 1.2)
_goal("read-big-local", None, 1.3, 1.5)
_goal("overwrite", 1.3, 1.3, 1.5)
_goal("mmap-read", 1.1, 2, 3)
_goal("appends", 1.1, 3, 3)


def awake(phase, cores):
    """The goals of a phase: to null, to ext4; None where there is none."""
    null, one_core, two_cores = AWAKE.get(phase, (None, None, None))
    return null, one_core if cores == 1 else two_cores


def _chain(most):
    return (f"at most {most} dependent round trips",
            lambda one, _: one["chain"] <= most)


def _wire(direction):
    return ("85% of the wire",
            lambda one, context: context.wire_share(one, direction) >= 0.85)


def _against(other, most):
    return (f"at most {most} of {other}",
            lambda one, context: one["seconds"] <= most * context.seconds(other))


#: phase -> what is wanted in words, and whether a measurement has it (issue "Speed", section 3).
ASLEEP = {
    "wake-ls": ("2 round trips + 30 ms", lambda one, context: one["chain"] <= 2
                and one["seconds"] <= 2 * context.latency_secs + 0.030),
    "wake-git-status": _chain(8),
    "wake-read-one": _chain(1),
    "wake-read-all": _wire("bytes_down"),
    "work-second": _against("work-local", 1.3),
    "hibernate-first": _wire("bytes_up"),
    "hibernate-edits": _chain(4),
    "build-checkpoint": _against("build-alone", 1.05),
}
