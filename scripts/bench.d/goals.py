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
