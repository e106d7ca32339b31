"""Runs of one failure's scenario under a budget: does it still fail in the same way, also when only part of it is there.

Owns: the budget, what counts as the same failure, what is left out of a scenario. Must not know: what is tried, or why.
Invariants: no run is made beyond the budget; a run that gave up a hold before it failed did not fail by it.
"""

from __future__ import annotations

import random
from typing import Any, Final

import attrs

from engine.simulation.campaign import Failure
from engine.simulation.exploring import replay
from engine.simulation.policy import Policy
from engine.simulation.running import Run, Scenario, run
from engine.simulation.sampling import Wandering
from engine.simulation.schedule import Mode, Schedule

ROBUST: Final = 5
"""Random orders of all else in which an ordering must have the failure to be taken for its cause."""


class BudgetSpentError(Exception):
    """The budget is used up; what has been found so far is the result."""


@attrs.frozen
class World:
    """What is left out of a scenario."""

    actors: frozenset[str] = frozenset()
    items: frozenset[tuple[str, int]] = frozenset()


WHOLE: Final = World()
"""Nothing is left out."""


class Tries:
    """Runs of one failure's scenario, counted."""

    def __init__(self, scenario: Scenario, failure: Failure, runs_max: int, options: dict[str, Any]) -> None:
        self.scenario = scenario
        self.failure = failure
        self.signature = failure.run.signature
        self.mode: Mode = failure.run.mode
        self.options = {"seed": failure.seed, **options}
        self.runs_max = runs_max
        self.runs = 0

    def go(self, schedule: Schedule, world: World = WHOLE, policy: Policy | None = None) -> Run:
        """One run; raises `BudgetSpentError` when the budget is used up."""
        if self.runs >= self.runs_max:
            raise BudgetSpentError
        self.runs += 1
        if schedule.seeded is not None:
            rest = {name: value for name, value in self.options.items() if name != "seed"}  # the string has it
            return replay(self.scenario, str(schedule), mode=self.mode, **rest)
        return run(
            self.scenario,
            attrs.evolve(schedule, mode=self.mode),
            policy=policy,
            dropped=world.actors,
            dropped_items=world.items,
            **self.options,
        )

    def fails(self, schedule: Schedule, world: World = WHOLE) -> Run | None:
        """The run of a schedule if it fails in the same way and had every ordering that it asked for."""
        found = self.go(schedule, world)
        if found.signature != self.signature:
            return None
        return None if found.forced else found

    def robust(self, schedule: Schedule, world: World = WHOLE, tries: int = ROBUST) -> int:
        """How often in a row it fails in the same way with a random order of all that it leaves open, up to `tries`."""
        for number in range(tries):
            if self.at_random(schedule, number, world).signature != self.signature:
                return number
        return tries

    def at_random(self, schedule: Schedule, number: int, world: World = WHOLE) -> Run:
        """One run with a random order of all that the schedule leaves open."""
        return self.go(schedule, world, Wandering(random.Random(f"{number} around")))
