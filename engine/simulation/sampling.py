"""Which of many orderings a failure hangs on, told from runs that wander around the failing one.

Owns: the policy that leaves a trace at some point and goes on at random, and the ranking of orderings by what such runs
showed. Must not know: how shrinking goes on from there.
Invariants: a wandering run is a function of its trace, its length and its random stream; the ranking keeps the order of
those that it cannot tell apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from engine.simulation.actors import Actor
from engine.simulation.choices import Address
from engine.simulation.controller import Controller
from engine.simulation.reducing import Segments
from engine.simulation.running import Following, Run
from engine.simulation.schedule import Hold
from engine.simulation.strategies import Profile, RandomWalk


class Wandering(RandomWalk):
    """Follows a trace for so many steps, then goes on at random."""

    def __init__(self, rng: random.Random, segments: Segments = (), steps: int = 0) -> None:
        super().__init__(rng, Profile())
        self._trace = Following(segments)
        self._steps_followed = steps

    def begin(self, controller: Controller) -> None:
        self._controller = controller
        self._trace.begin(controller)

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        if len(self._controller.steps) < self._steps_followed:
            return self._trace.choose(ready, last)
        return super().choose(ready, last)


def most_telling(holds: Sequence[Hold], samples: Sequence[tuple[Run, bool]]) -> list[Hold]:
    """Holds in the order of how well the samples (a run, whether it failed) agree with them.

    A failing run agrees with a hold when it did the second operation before the first; a passing one when it did not. What
    a failing run contradicts comes after everything that none contradicts.
    """
    places: list[tuple[dict[Address, int], bool]] = [
        ({step.address: index for index, step in enumerate(run.steps)}, failed) for run, failed in samples
    ]

    def disagreements(hold: Hold) -> tuple[int, int]:
        against_failing = against_passing = 0
        for order, failed in places:
            never = len(order)
            had = order.get(hold.until, never) < order.get(hold.held, never)
            against_failing += failed and not had
            against_passing += had and not failed
        return against_failing, against_passing

    return sorted(holds, key=disagreements)
