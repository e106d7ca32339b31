"""What a scenario is: a program of actors, a verdict on how it ended, and whether some schedule must break it.

Owns: `Scenario`. Must not know: any race.
Invariants: `build` returns a function that can be run any number of times; what varies between seeds comes from the run's
random streams, never from module state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import attrs

from engine.simulation.schedule import Mode
from engine.simulation.world import Simulation

Program = Callable[[Simulation], Awaitable[None]]
Variant = Literal["naive", "engine"]


@attrs.frozen
class Scenario:
    """A race: who does what, and what must hold afterwards under every schedule."""

    name: str
    variant: Variant
    title: str
    """What happens, in one sentence."""
    build: Callable[[int], Program]
    """Makes the program with so many noise actors: other sessions that do the same kind of work."""
    faults: tuple[str, ...] = ()
    """Kinds of disturbance to explore beside the order."""
    mode: Mode = "macro"
    must_fail: bool = False
    """Whether a schedule that breaks it must be found: true of every naive variant."""

    @property
    def key(self) -> str:
        """Its name among all: `variant/name`."""
        return f"{self.variant}/{self.name}"


def naive(name: str, title: str, build: Callable[[int], Program], *faults: str) -> Scenario:
    """A scenario that some schedule must break."""
    return Scenario(name, "naive", title, build, faults=faults, must_fail=True)
