"""The orderings behind a failure: from a failing plan to the fewest holds that have the failure.

Owns: which orderings are tried, in which order. Must not know: how runs are made, what is dropped, what is reported.
Invariants: what is returned has failed in the world that was asked for; one ordering that has the failure whatever the rest
does is preferred to one that has it by luck of the default order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import attrs

from engine.simulation.directed import candidates
from engine.simulation.reducing import (
    Segments,
    boundary_holds,
    conflict_order,
    fewest,
    pulled_together,
    reversed_pairs,
    without_segment,
)
from engine.simulation.running import Run, segments_of
from engine.simulation.sampling import Wandering, most_telling
from engine.simulation.schedule import Hold, Schedule
from engine.simulation.strategies import Profile
from engine.simulation.trying import ROBUST, Tries, World

FEW: Final = 4
"""Reversals up to which no samples are taken to rank them."""
SAMPLES: Final = 24
"""Runs around a failing one by which its reversals are ranked."""
SINGLES_MAX: Final = 40
"""Single reversals that are tried."""
DIRECTED_MAX: Final = 60
"""Directed schedules that are tried where two or more orderings were found."""
PAIRS_OF: Final = 12
"""Reversals of which all pairs are tried where three or more orderings were found."""


class Orderings:
    """The search for a failure's orderings."""

    def __init__(self, tries: Tries) -> None:
        self.tries = tries

    def as_orderings(self, plan: Schedule, world: World) -> Schedule | None:
        """The fewest holds that have a plan's failure; None when none do, the plan's own when no fewer do."""
        failing = self.tries.fails(plan, world)
        if failing is None:
            return None
        base = Schedule(disturbances=plan.disturbances)
        default = self.tries.go(base, world)
        if default.signature == self.tries.signature:
            return base
        singles = reversed_pairs(failing.steps, failing.woken, default.steps, _end(failing))
        singles = self.ranked(singles, failing, world)
        found = self.best_single(singles, base, world)
        if found is not None or plan.segments is None:
            return found or plan
        for holds in (singles, conflict_order(failing.steps, failing.woken, _end(failing))):
            found = self.fewest_holds(base, holds, world)
            if found is not None:
                return self.with_fewer(found, singles, default, world)
        return self.from_segments(plan, world)

    def ranked(self, holds: list[Hold], failing: Run, world: World) -> list[Hold]:
        """The holds in the order of what runs around the failing one say about them, where there are many."""
        if len(holds) <= FEW:
            return holds
        samples = [(failing, True)]
        segments = segments_of(failing.steps)
        for number in range(SAMPLES):
            length = len(failing.steps) * (number % 4) // 4
            sample = self.tries.go(Schedule(), world, Wandering(random.Random(f"{number} sample"), segments, length))
            samples.append((sample, sample.signature == self.tries.signature))
        return most_telling(holds, samples)

    def best_single(self, holds: Sequence[Hold], base: Schedule, world: World) -> Schedule | None:
        """The one hold that has the failure whatever the rest does; else the one that has it most often, if any has.

        Each is tried as it is, then with the other actor running whenever it can: where many do the same, that keeps the
        rest of them out.
        """
        best: Schedule | None = None
        most = -1
        for hold in holds[:SINGLES_MAX]:
            for eager in (False, True):
                plan = attrs.evolve(base, holds=(attrs.evolve(hold, eager=eager),))
                if not self.tries.fails(plan, world):
                    continue
                times = self.tries.robust(plan, world)
                if times == ROBUST:
                    return plan
                if times > most:
                    best, most = plan, times
                break
        return best

    def fewest_holds(self, base: Schedule, holds: Sequence[Hold], world: World) -> Schedule | None:
        """The fewest of these holds that fail, if they fail together."""
        if len(holds) < 2 or not self.tries.fails(attrs.evolve(base, holds=tuple(holds)), world):
            return None
        kept = fewest(holds, lambda some: bool(self.tries.fails(attrs.evolve(base, holds=tuple(some)), world)))
        return attrs.evolve(base, holds=tuple(kept))

    def with_fewer(self, found: Schedule, singles: Sequence[Hold], default: Run, world: World) -> Schedule:
        """One hold instead of more where a directed search from the default order has one, else two instead of more."""
        profile = Profile.of(default.steps, default.woken)
        if len(found.holds) > 1:
            for plan in candidates(profile, (), DIRECTED_MAX):
                if self.tries.fails(attrs.evolve(found, holds=plan.holds), world):
                    return attrs.evolve(found, holds=plan.holds)
        if len(found.holds) > 2:
            for pair in combinations(singles[:PAIRS_OF], 2):
                if self.tries.fails(attrs.evolve(found, holds=pair), world):
                    return attrs.evolve(found, holds=pair)
        return found

    def from_segments(self, plan: Schedule, world: World) -> Schedule | None:
        """Merge the trace's segments, then write what is left as holds; the merged trace where holds do not do."""
        merged = self.merge(plan, world)
        failing = self.tries.fails(merged, world)
        if failing is None:
            return None
        base = Schedule(disturbances=plan.disturbances)
        found = self.fewest_holds(base, boundary_holds(failing.steps, _end(failing)), world)
        return found if found is not None else failing.schedule()

    def merge(self, plan: Schedule, world: World) -> Schedule:
        """A trace with as few segments as leaving out and moving them gives."""
        best: Segments = plan.segments or ()

        def attempt(segments: Segments) -> bool:
            return bool(self.tries.fails(attrs.evolve(plan, segments=segments, fingerprint=""), world))

        length = len(best)
        while length > 1 and attempt(best[: length // 2]):
            length //= 2
            best = best[:length]
        best = tuple(fewest(best, lambda some: attempt(tuple(some))))
        again = True
        while again:
            again = False
            moves = [without_segment(best, at) for at in range(len(best))] + list(pulled_together(best))
            for segments in moves:
                if len(segments) < len(best) and segments and attempt(segments):
                    best, again = segments, True
                    break
        return attrs.evolve(plan, segments=best, fingerprint="")


def _end(failing: Run) -> int:
    return failing.failed_at if failing.failed_at is not None else max(0, len(failing.steps) - 1)
