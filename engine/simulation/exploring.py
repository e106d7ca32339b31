"""Campaigns: many schedules of one scenario, until one fails, the count is reached or the time is up.

Owns: which schedule comes next for every strategy, and what a campaign reports. Must not know: how a run is carried out.
Invariants: the nth run of a campaign is a function of (scenario, strategy, seed, n) alone, so that any run can be repeated
without those before it; a campaign stops at its first failure unless told otherwise.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from engine.simulation.campaign import Campaign, Failure
from engine.simulation.directed import candidates
from engine.simulation.errors import ScheduleSyntaxError, SimulationSetupError
from engine.simulation.exhaustive import explore_exhaustively
from engine.simulation.policy import DefaultOrder, Policy
from engine.simulation.running import Driver, Run, Scenario, run, session
from engine.simulation.schedule import Mode, Schedule, Seeded, parse
from engine.simulation.strategies import PORTFOLIO, STRATEGIES, Disturber, Profile, RandomWalk

DIRECTED_FIRST: Final = 24
"""Directed schedules that `auto` tries before it takes turns with the portfolio."""
DIRECTED_MAX: Final = 400
"""Directed schedules in all."""
DIRECTED_EVERY: Final = 4
"""Afterwards one run in so many is directed."""


def explore(
    scenario: Scenario,
    *,
    schedules: int = 500,
    seconds: float | None = None,
    strategy: str = "auto",
    seed: int = 0,
    mode: Mode = "macro",
    faults: Iterable[str] = (),
    failures_max: int = 1,
    driver: Driver = "auto",
    first: Iterable[str] = (),
    on_run: Callable[[int, Run], None] | None = None,
    **options: Any,
) -> Campaign:
    """Run a scenario under many schedules.

    `schedules` bounds their number, `seconds` the wall time. `strategy`: `auto` (the default order, directed reversals, then
    a portfolio), `directed`, `exhaustive` (every order of conflicting operations, see `explore_exhaustively`, which takes
    `options` of its own and no faults), or one of `STRATEGIES`. `faults`: kinds of disturbance to try (`timeout`, `cancel`,
    `cut`, `lose`, `fault`, `crash`, `net`). `first`: schedules to try before anything else (a corpus). `on_run(number, run)`
    hears of every run. Stops after `failures_max` failures. Raises `SimulationSetupError` for an unknown strategy.
    """
    kinds = tuple(faults)
    if strategy == "exhaustive":
        if kinds:
            raise SimulationSetupError(f"exhaustive search only orders operations: leave out {', '.join(kinds)}")
        options |= {"seconds": seconds, "failures_max": failures_max, "driver": driver, "on_run": on_run}
        return explore_exhaustively(scenario, schedules=schedules, seed=seed, mode=mode, first=first, **options)
    plan = Planner(scenario, strategy, seed, mode=mode, kinds=kinds, driver=driver, options=options)
    campaign = Campaign(strategy, seed)
    began = time.perf_counter()
    with session():
        for number, (text, attempt) in enumerate(plan.attempts(first)):
            if number >= schedules or (seconds is not None and time.perf_counter() - began > seconds):
                break
            result = attempt()
            campaign.count(result)
            if on_run is not None:
                on_run(number, result)
            if result.failed:
                campaign.failures.append(Failure(result, text, seed, number + 1, strategy))
                if len(campaign.failures) >= failures_max:
                    break
    campaign.seconds = time.perf_counter() - began
    campaign.verdict = "failed" if campaign.failures else "sampled"
    return campaign


class Planner:
    """What the nth run of a strategy is."""

    def __init__(
        self,
        scenario: Scenario,
        strategy: str,
        seed: int,
        *,
        mode: Mode,
        kinds: tuple[str, ...],
        driver: Driver,
        options: dict[str, Any],
    ) -> None:
        if strategy not in STRATEGIES and strategy not in ("auto", "directed", "default"):
            known = ", ".join(("auto", "directed", "default", "exhaustive", *STRATEGIES))
            raise SimulationSetupError(f"unknown strategy {strategy!r}: expected one of {known}")
        self._scenario = scenario
        self._strategy = strategy
        self._seed = seed
        self._mode: Mode = mode
        self._kinds = kinds
        self._driver: Driver = driver
        self._options = options
        self._profile: Profile | None = None
        self._directed: list[Schedule] = []

    def attempts(self, first: Iterable[str] = ()) -> Any:
        """(schedule string, what runs it), endlessly; ends only where a strategy has no more schedules."""
        for text in first:
            yield text, lambda text=text: self.replay(text)
        number = 0
        while True:
            if self._strategy == "directed" and self._profile is not None and number > len(self._directed):
                return
            yield self.name(number), lambda number=number: self.run(number)
            number += 1

    def name(self, number: int) -> str:
        """The schedule string of the nth run."""
        plan = self._plan(number) if number else Schedule()
        if isinstance(plan, Schedule):
            return str(attrs.evolve(plan, mode=self._mode if self._mode == "await" else None))
        return str(Schedule(seeded=Seeded(self._strategy, self._seed, number), mode=self._mode))

    def run(self, number: int) -> Run:
        """Carry out the nth run."""
        if number == 0:
            result = self._run(Schedule(), DefaultOrder(), 0)
            self._learn(result)
            return result
        if self._profile is None:
            self.run(0)
        plan = self._plan(number)
        if isinstance(plan, Schedule):
            return self._run(plan, DefaultOrder(), 0)
        return self._run(Schedule(), plan, number)

    def replay(self, text: str) -> Run:
        """Carry out a schedule in any form: a seed form by the strategy and the seed that it names."""
        schedule = parse(text)
        if schedule.seeded is None:
            return self._run(schedule, None, 0)
        return replay(self._scenario, text, mode=self._mode, faults=self._kinds, driver=self._driver, **self._options)

    def _learn(self, result: Run) -> None:
        self._profile = Profile.of(result.steps, result.woken)
        if self._strategy in ("auto", "directed"):
            self._directed = candidates(self._profile, self._kinds, DIRECTED_MAX)

    def _plan(self, number: int) -> Schedule | Policy:
        if self._profile is None:
            self.run(0)
        assert self._profile is not None
        directed = self._directed
        if self._strategy == "default":
            return Schedule()
        if self._strategy == "directed":
            return directed[number - 1] if number <= len(directed) else Schedule()
        if self._strategy == "auto":
            if number <= min(DIRECTED_FIRST, len(directed)):
                return directed[number - 1]
            beyond = number - min(DIRECTED_FIRST, len(directed)) - 1
            turn, place = divmod(beyond, DIRECTED_EVERY)
            if place == DIRECTED_EVERY - 1 and DIRECTED_FIRST + turn < len(directed):
                return directed[DIRECTED_FIRST + turn]
            return self._policy(PORTFOLIO[beyond % len(PORTFOLIO)], number)
        return self._policy(self._strategy, number)

    def _policy(self, strategy: str, number: int) -> RandomWalk:
        assert self._profile is not None
        rng = random.Random(f"{self._seed} {strategy} {number}")
        policy = STRATEGIES[strategy](rng, self._profile)
        if self._kinds:
            policy.disturber = Disturber(rng, self._kinds, self._profile)
        return policy

    def _run(self, schedule: Schedule, policy: Policy | None, number: int) -> Run:
        return run(
            self._scenario,
            schedule,
            mode=self._mode,
            seed=self._seed,
            policy=policy,
            driver=self._driver,
            faults=self._kinds,
            **self._options,
        )


def replay(scenario: Scenario, schedule: str, *, mode: Mode = "macro", faults: Iterable[str] = (), **options: Any) -> Run:
    """Run a scenario under a schedule string of any form; see `run`.

    A seed form first runs the default order, from which the strategy learns what there is to choose from. Raises
    `ScheduleSyntaxError`.
    """
    plan = parse(schedule)
    if plan.seeded is None:
        return run(scenario, plan, mode=mode, faults=faults, **options)
    seeded = plan.seeded
    if seeded.strategy not in STRATEGIES and seeded.strategy not in ("auto", "directed", "default"):
        raise ScheduleSyntaxError(schedule, f"unknown strategy {seeded.strategy!r}")
    driver: Driver = options.pop("driver", "auto")
    planner = Planner(
        scenario, seeded.strategy, seeded.seed, mode=plan.mode or mode, kinds=tuple(faults), driver=driver, options=options
    )
    return planner.run(seeded.run)
