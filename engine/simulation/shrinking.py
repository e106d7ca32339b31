"""Shrinking: the fewest orderings and disturbances that a found failure needs, checked both ways.

Owns: the order in which things are left out, the budget, the last checks. Must not know: strategies, how reports look.

First actors and workload items are dropped, then disturbances; in what is left single reversals are tried, then the
orderings of all conflicting operations are reduced, then the trace's segments are merged and written as orderings. What
comes out must fail in the whole scenario, with nothing dropped, so that its string can be replayed against the test as it
stands; the trace remains where no ordering expresses it.

Invariants: a failure is the same one when its signature is; every schedule that is kept has failed in a run; a result says
how often it failed again, and whether the opposite orders pass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import attrs

from engine.simulation.campaign import Failure
from engine.simulation.choices import Disturbance
from engine.simulation.orderings import Orderings
from engine.simulation.reducing import fewest
from engine.simulation.running import Run, Scenario, session
from engine.simulation.schedule import Hold, Schedule, parse
from engine.simulation.trying import ROBUST, WHOLE, BudgetSpentError, Tries, World

RUNS_MAX: Final = 400
CONFIRM: Final = 10
"""Runs by which a result, and each opposite order, is confirmed."""


@attrs.frozen
class Flipped:
    """One needed ordering turned round (or one disturbance left out), the rest kept."""

    what: Hold | Disturbance
    schedule: Schedule
    passed: int
    of: int
    around: int
    """How often it passed with a random order of all that it leaves open, of as many."""

    @property
    def passes(self) -> bool:
        """Whether it passed every time."""
        return self.passed == self.of


@attrs.define(eq=False)
class Shrunk:
    """What a failure came down to."""

    found: Failure
    schedule: Schedule
    run: Run
    """A run of `schedule` in the whole scenario."""
    default: Run
    """The run in the default order."""
    searched: int
    """Runs that the search took."""
    runs: int
    """Runs in all, with those that confirm."""
    seconds: float
    confirmed: tuple[int, int]
    """How often `schedule` failed in the same way, of how many."""
    around: tuple[int, int]
    """How often it failed in the same way with a random order of all that `schedule` leaves open, of how many."""
    flipped: list[Flipped]
    dropped: World
    """What the failure does not need."""
    complete: bool
    """Whether the search ended by itself, not because its budget was spent."""

    @property
    def reliable(self) -> bool:
        """Whether it failed every time."""
        return self.confirmed[0] == self.confirmed[1]

    @property
    def proved(self) -> bool:
        """Whether every opposite order passed every time, and there is one."""
        return bool(self.flipped) and all(item.passes for item in self.flipped)


def shrink(
    scenario: Scenario, failure: Failure, *, runs_max: int = RUNS_MAX, confirm: int = CONFIRM, **options: Any
) -> Shrunk:
    """Reduce a failure to the fewest orderings and disturbances with which the scenario still fails in the same way.

    `runs_max` bounds the search, to which `confirm` runs of the result and of each opposite order come. `options` are those
    of `run`, and must be the ones that the failure was found with. A failure that does not come back at all (something in
    the scenario is not under control) is returned as it was found, with the number of times that it did.
    """
    with session():
        return _Shrinker(scenario, failure, runs_max, options).result(confirm)


class _Shrinker:
    def __init__(self, scenario: Scenario, failure: Failure, runs_max: int, options: dict[str, Any]) -> None:
        self.tries = Tries(scenario, failure, runs_max, options)
        self.best = parse(failure.schedule)
        self.world = WHOLE
        self.default: Run | None = None

    # --- the search --------------------------------------------------------------------------------------

    def result(self, confirm: int) -> Shrunk:
        """Search, confirm, and turn each ordering round."""
        began = time.perf_counter()
        complete = True
        try:
            self.search()
        except BudgetSpentError:
            complete = False
        searched = self.tries.runs
        self.tries.runs_max += 1 << 30
        default = self.default if self.default is not None else self.tries.go(Schedule())
        schedule = self.best
        if schedule.seeded is None and schedule.segments is None and self.tries.mode == "await":
            schedule = attrs.evolve(schedule, mode="await")
        again = [self.tries.go(schedule) for _ in range(confirm)]
        same = [found for found in again if found.signature == self.tries.signature]
        around = 0
        if schedule.segments is None and schedule.seeded is None:
            around = sum(self.tries.at_random(schedule, n).signature == self.tries.signature for n in range(confirm))
        return Shrunk(
            found=self.tries.failure,
            schedule=schedule,
            run=same[0] if same else self.tries.failure.run,
            default=default,
            flipped=self.flip(schedule, confirm),
            confirmed=(len(same), confirm),
            around=(around, confirm),
            dropped=self.world,
            complete=complete,
            searched=searched,
            runs=self.tries.runs,
            seconds=time.perf_counter() - began,
        )

    def search(self) -> None:
        """Find the best schedule; what is found is kept in `best` and `world` as it is found."""
        default = self.default = self.tries.go(Schedule())
        if default.signature == self.tries.signature:
            self.best = Schedule()
            return
        plan = self.best
        if plan.seeded is not None or plan.segments is not None:
            plan = self.tries.failure.run.schedule()
            if not self.tries.fails(plan):
                return
            self.best = plan
        plan = self.least_disturbed(plan)
        if plan.segments is None:
            plan = self.best = self.fewest_terms(plan)
        self.world = self.smallest_world(plan)
        if plan.segments is not None or (plan.holds and self.tries.robust(plan) < ROBUST):
            self.order(plan)
        self.name_what_came()

    def order(self, plan: Schedule) -> None:
        """Look for better orderings where less is in the way first, then in the whole scenario."""
        for world in dict.fromkeys((self.world, WHOLE)):
            found = Orderings(self.tries).as_orderings(plan, world)
            if found is not None and self.tries.fails(found):
                self.best = self.fewest_terms(found)
                return

    def name_what_came(self) -> None:
        """Let a hold wait for the failing step itself where the failure came before what it waits for."""
        failing = self.tries.fails(self.best)
        if failing is None or failing.failed_at is None:
            return
        last = failing.steps[failing.failed_at]
        came = {step.address for step in failing.steps[: failing.failed_at + 1]}
        for hold in self.best.holds:
            if hold.until not in came and hold.held.actor != last.actor:
                others = tuple(Hold(hold.held, last.address) if other is hold else other for other in self.best.holds)
                plan = attrs.evolve(self.best, holds=others)
                if self.tries.fails(plan):
                    self.best = plan

    def least_disturbed(self, plan: Schedule) -> Schedule:
        """The plan with no more disturbances than it needs."""
        if not plan.disturbances:
            return plan
        alone = Schedule(disturbances=plan.disturbances)
        if self.tries.fails(alone):
            plan = alone
        kept = fewest(plan.disturbances, lambda some: bool(self.tries.fails(attrs.evolve(plan, disturbances=tuple(some)))))
        self.best = attrs.evolve(plan, disturbances=tuple(kept))
        return self.best

    def smallest_world(self, plan: Schedule) -> World:
        """What can be dropped while the plan fails in the same way and the default order does not."""
        whole = self.tries.failure.run
        actors = list(whole.started)
        needed = {address.actor for hold in plan.holds for address in (hold.held, hold.until)}
        needed |= {item.at.actor for item in plan.disturbances}
        optional = [name for name in actors if name not in needed]

        def enough(some: Sequence[str]) -> bool:
            return self.holds_in(plan, World(frozenset(optional) - frozenset(some)))

        kept = fewest(optional, enough) if optional else []
        world = World(frozenset(optional) - frozenset(kept))
        items = [(name, number) for name, count in whole.items.items() for number in range(count)]
        if not items:
            return world
        needs = fewest(
            items, lambda some: self.holds_in(plan, attrs.evolve(world, items=frozenset(items) - frozenset(some)))
        )
        return attrs.evolve(world, items=frozenset(items) - frozenset(needs))

    def holds_in(self, plan: Schedule, world: World) -> bool:
        """Whether a smaller world has the same failure, and has it because of the schedule."""
        return bool(self.tries.fails(plan, world)) and not self.tries.go(Schedule(), world).failed

    def fewest_terms(self, plan: Schedule) -> Schedule:
        """A failing constraint without the holds that it does not need in the whole scenario."""
        if not plan.holds or (len(plan.holds) == 1 and not plan.disturbances):
            return plan
        kept = fewest(plan.holds, lambda some: bool(self.tries.fails(attrs.evolve(plan, holds=tuple(some)))))
        return attrs.evolve(plan, holds=tuple(kept))

    # --- proof -------------------------------------------------------------------------------------------

    def flip(self, schedule: Schedule, confirm: int) -> list[Flipped]:
        """Each hold turned round, each disturbance left out, and how often that passed."""
        if schedule.segments is not None or schedule.seeded is not None:
            return []
        turned: list[tuple[Hold | Disturbance, Schedule]] = []
        for hold in schedule.holds:
            others = tuple(hold.flipped if other is hold else other for other in schedule.holds)
            turned.append((hold, attrs.evolve(schedule, holds=others)))
        for item in schedule.disturbances:
            rest = tuple(other for other in schedule.disturbances if other is not item)
            turned.append((item, attrs.evolve(schedule, disturbances=rest)))
        return [
            Flipped(
                what,
                plan,
                sum(not self.tries.go(plan).failed for _ in range(confirm)),
                confirm,
                sum(not self.tries.at_random(plan, number).failed for number in range(confirm)),
            )
            for what, plan in turned
        ]
