"""The simulator's own errors: what a schedule did, and what is wrong with a schedule.

Owns: every exception that the room raises. A failure of the code under test is raised as itself, never wrapped.
"""

from __future__ import annotations

import attrs


class SimulationError(Exception):
    """The root of what the simulator says about a run or a schedule."""


@attrs.define(slots=False)
class DeadlockError(SimulationError):
    """Nobody can ever run again: every actor waits, and no timer of theirs is left."""

    waiting: tuple[str, ...]
    """Each actor that waits, with where."""

    def __str__(self) -> str:
        return f"deadlock: {len(self.waiting)} actors wait and nothing can wake them: " + "; ".join(self.waiting)


@attrs.define(slots=False)
class LivelockError(SimulationError):
    """The run took more steps than it was allowed."""

    steps: int

    def __str__(self) -> str:
        return f"livelock: {self.steps} steps and no end"


@attrs.define(slots=False)
class UnansweredError(SimulationError):
    """An accepted command got no answer in time."""

    what: str
    seconds: float
    """Virtual seconds that it waited."""

    def __str__(self) -> str:
        return f"no answer to {self.what} within {self.seconds:g} virtual seconds"


@attrs.define(slots=False)
class InvariantError(SimulationError, AssertionError):
    """Something that must hold did not, or never came to hold."""

    oracle: str
    detail: str

    def __str__(self) -> str:
        return f"{self.oracle}: {self.detail}"


@attrs.define(slots=False)
class CommutationError(SimulationError):
    """Two operations are declared independent, but their order can be seen."""

    first: str
    second: str
    differs: tuple[str, ...]
    """What is not the same in both orders."""

    def __str__(self) -> str:
        return (
            f"{self.first} and {self.second} share no conflict key, but their order can be seen: {'; '.join(self.differs)}; "
            "give both a key that they share, or leave out of the comparison what any order may change"
        )


@attrs.define(slots=False)
class DivergedError(SimulationError):
    """A run did not offer the choices that the same decisions offered before: the program is not deterministic."""

    choice: int
    expected: tuple[str, ...]
    found: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"at choice {self.choice} the same decisions made {', '.join(self.found)} ready, and before them "
            f"{', '.join(self.expected)}: something decides that no schedule controls"
        )


@attrs.define(slots=False)
class LeakError(SimulationError):
    """The code under test reached for something that no seed controls."""

    source: str
    call_site: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.source} at {self.call_site} is not reproducible; {self.remedy}"


@attrs.define(slots=False)
class ScheduleSyntaxError(SimulationError):
    """A schedule string cannot be read."""

    text: str
    problem: str

    def __str__(self) -> str:
        return f"schedule {self.text!r}: {self.problem}"


@attrs.define(slots=False)
class ScheduleUnmetError(SimulationError):
    """A schedule asked for what the run did not offer."""

    unmet: tuple[str, ...]

    def __str__(self) -> str:
        return "the schedule could not be met: " + "; ".join(self.unmet)


@attrs.define(slots=False)
class SimulationSetupError(SimulationError):
    """The simulator was used in a way that it cannot serve."""

    problem: str

    def __str__(self) -> str:
        return self.problem


class RunAbandonedError(BaseException):
    """Ends a run whose tasks nothing else can end: what they shield from cancellation waits forever."""
