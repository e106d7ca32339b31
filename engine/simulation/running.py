"""One run of a scenario under one schedule, from its first step to its verdict.

Owns: the order of set-up, run and tear-down; what counts as a run's error; the signature by which two failures are the same.
Must not know: how the next schedule is chosen.
Invariants: everything that was replaced is put back; a run raises nothing of the scenario, it reports it.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Final, Literal

import attrs
import trio

from engine.simulation.actors import Actor
from engine.simulation.choices import Disturbance, Step
from engine.simulation.controller import STEPS_MAX, Controller
from engine.simulation.driving import gated, hook_works, hooked
from engine.simulation.errors import LeakError, RunAbandonedError, ScheduleUnmetError, SimulationSetupError
from engine.simulation.policy import DefaultOrder, Policy
from engine.simulation.primitives import controlled_by, controller_now, wrapped
from engine.simulation.schedule import Mode, Schedule, parse
from engine.simulation.traps import Traps
from engine.simulation.virtual import SimulatedClock
from engine.simulation.world import Simulation

Scenario = Callable[..., Awaitable[object]]
Driver = Literal["auto", "hook", "gate"]

COLLECT_EVERY: Final = 64
"""Runs between two garbage collections: a collection in a run would call finalizers at an uncontrolled moment."""


@attrs.define(eq=False)
class Run:
    """What one run was."""

    error: BaseException | None
    """The failure: the first exception that left the scenario, or what the simulator found; None for a pass."""
    steps: list[Step]
    woken: dict[int, list[str]]
    """Who was woken or started during a step, by the step's index: the order that no schedule can reverse."""
    digest: str
    disturbances: list[Disturbance]
    unmet: list[str]
    """What its schedule asked for and the run did not offer."""
    seconds: float
    """Virtual seconds."""
    started: tuple[str, ...] = ()
    items: dict[str, int] = attrs.field(factory=dict)
    covered: Counter[str] = attrs.field(factory=Counter)
    hoped: frozenset[str] = frozenset()
    mode: Mode = "macro"
    notes: tuple[str, ...] = ()
    failed_at: int | None = None
    """The index of the step that the failure came from; None where it came after all of them."""
    forced: int = 0
    """Holds that were given up, because what they waited for did not come, before anything had failed."""
    exact: bool = True
    """For a trace: whether the replay took exactly the steps of the run that it was taken from."""

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return self.error is not None

    @property
    def trace(self) -> list[str]:
        """Each step's address, in order."""
        return [str(step) for step in self.steps]

    @property
    def signature(self) -> str:
        """What makes two failures the same one: the kind of exception, and its text without numbers."""
        return signature_of(self.error) if self.error is not None else ""

    def schedule(self) -> Schedule:
        """The run as a trace."""
        return Schedule(
            disturbances=tuple(self.disturbances),
            segments=segments_of(self.steps),
            mode=self.mode,
            fingerprint=self.digest[:8],
        )


class Following(DefaultOrder):
    """Replays a trace: each segment's actor runs while it can; where it cannot, the rest of the segment is dropped."""

    def __init__(self, segments: tuple[tuple[str, int], ...]) -> None:
        self._segments = segments
        self._at = 0
        self._left = segments[0][1] if segments else 0

    def begin(self, controller: Controller) -> None:
        """Start with the first segment."""
        self._names = controller.steps

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        self._catch_up()
        while self._at < len(self._segments):
            name = self._segments[self._at][0]
            for actor in ready:
                if actor.name == name:
                    return actor
            self._next()
        return super().choose(ready, last)

    def _catch_up(self) -> None:
        # Steps with nobody else ready are taken without asking, so what was taken is read from the log.
        steps = self._names
        while self._done < len(steps):
            name = steps[self._done].actor
            self._done += 1
            if self._at < len(self._segments) and self._segments[self._at][0] == name:
                self._left -= 1
                if self._left <= 0:
                    self._next()

    _done = 0
    _names: list[Step] = []

    def _next(self) -> None:
        self._at += 1
        self._left = self._segments[self._at][1] if self._at < len(self._segments) else 0


def run(
    scenario: Scenario,
    schedule: str | Schedule = "",
    *,
    mode: Mode = "macro",
    seed: int = 0,
    policy: Policy | None = None,
    driver: Driver = "auto",
    strict: bool = False,
    steps_max: int = STEPS_MAX,
    faults: Iterable[str] = (),
    dropped: frozenset[str] = frozenset(),
    dropped_items: frozenset[tuple[str, int]] = frozenset(),
    replace: bool = True,
) -> Run:
    """Run a scenario once under a schedule, and report.

    `scenario` is an async function of no arguments (plain trio code) or of one, the `Simulation`. `schedule` is a string in
    constraint or trace form (the seed form needs `replay`) or a `Schedule`; empty: the default order. `policy` decides what
    the schedule leaves open. `strict` makes an ordering that the run did not offer the run's error, where it has no other.
    Clocks, ids and random numbers of the outside are answered from the seed; without `replace` asking for them is the run's
    error, a `LeakError`, as asking for threads, sockets or processes always is (see `engine.simulation.traps.boundary`).
    Nothing of the scenario is raised: see `Run.error`. Raises `ScheduleSyntaxError` and `SimulationSetupError`.
    """
    plan = parse(schedule) if isinstance(schedule, str) else schedule
    if plan.seeded is not None and policy is None:
        raise SimulationSetupError("a seed form names a strategy's run: use replay()")
    if controller_now() is not None:
        raise SimulationSetupError("a simulated run cannot be started inside of another one")
    if policy is None:
        policy = Following(plan.segments) if plan.segments is not None else DefaultOrder()
    clock = SimulatedClock()
    controller = Controller(policy, plan, mode=mode, clock=clock, steps_max=steps_max)
    kinds = {*faults, *(item.kind for item in plan.disturbances)}
    controller.elides = "timeout" not in kinds
    simulation = Simulation(controller, seed=seed, kinds=kinds, dropped=dropped, dropped_items=dropped_items)
    policy.begin(controller)
    try:
        error = _drive(scenario, simulation, controller, clock, driver, replace)
    finally:
        simulation.close()
    unmet = controller.plan.left_over()
    if error is None and strict and unmet:
        error = ScheduleUnmetError(tuple(unmet))
    result = Run(
        error=error,
        steps=controller.steps,
        woken=controller.woken,
        digest=digest_of(controller),
        disturbances=controller.plan.carried_out,
        unmet=unmet,
        seconds=clock.now,
        started=tuple(simulation.started),
        items=simulation.items,
        covered=simulation.covered,
        hoped=frozenset(simulation.hoped),
        mode=controller.mode,
        notes=tuple(controller.notes),
        failed_at=controller.failed_at(error),
        forced=controller.plan.forced,
    )
    result.exact = not plan.fingerprint or result.digest.startswith(plan.fingerprint)
    _let_go(controller)
    return result


def _let_go(controller: Controller) -> None:
    """Forget the tasks, which all know each other: what is left of a run should not need the garbage collector."""
    for known in (controller.actors, controller.objects, controller.can):
        known.clear()
    for listed in (controller.ready, controller.held, controller.after_step, controller.replies, controller.thrown):
        listed.clear()
    controller.clock.when_idle = controller.nobody_waits = controller.on_receipt = controller.root = None


def _drive(
    scenario: Scenario,
    simulation: Simulation,
    controller: Controller,
    clock: SimulatedClock,
    driver: Driver,
    replace: bool,
) -> BaseException | None:
    chosen = hooked if driver == "hook" or (driver == "auto" and hook_works()) else gated
    takes_simulation = _takes_simulation(scenario)

    leaks: list[LeakError] = []

    def acting() -> str:
        actor = controller.current()
        return actor.name if actor is not None else "main"

    async def program() -> None:
        nonlocal leaks
        with (
            trio.CancelScope() as controller.root,
            TRAPS.armed(simulation.seed, clock=clock.current_time, actor=acting, replace=replace) as armed,
        ):
            leaks = armed.leaks
            await (scenario(simulation) if takes_simulation else scenario())

    error: BaseException | None = None
    with session(), controlled_by(controller), chosen(controller) as (watch, wrap):
        try:
            trio.run(wrap(program), clock=clock, instruments=[watch])
        except (trio.TrioInternalError, RunAbandonedError) as problem:
            if not controller.abandoned:
                raise
            _collect_quietly()
            error = controller.failure or problem
        except BaseException as problem:
            if _interrupted(problem):
                raise KeyboardInterrupt from problem
            error = first_of(problem)
        finally:
            TRAPS.disarm()
        # After a leak nothing that the run found can be had again.
        error = leaks[0] if leaks else controller.failure or error
        if error is None:
            try:
                simulation.check_all()
            except Exception as problem:
                error = problem
    return error


def _interrupted(problem: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C: trio raises it in the task that runs, so its nurseries wrap it in groups."""
    if isinstance(problem, BaseExceptionGroup):
        return any(_interrupted(inner) for inner in problem.exceptions)
    return isinstance(problem, KeyboardInterrupt)


@lru_cache(maxsize=256)
def _takes_simulation(scenario: Scenario) -> bool:
    return bool(inspect.signature(scenario).parameters)


TRAPS: Final = Traps()

_open: list[ExitStack] = []
_runs = 0
"""Runs since the last collection."""


@contextmanager
def session() -> Iterator[None]:
    """What many runs share: wrapped primitives, and a garbage collector that only works between runs. Re-entrant."""
    global _runs
    if _open:
        _runs += 1
        if _runs >= COLLECT_EVERY:
            _runs = 0
            gc.collect()
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(wrapped())
        collects = gc.isenabled()
        gc.disable()
        gc.freeze()
        stack.callback(gc.unfreeze)
        if collects:
            stack.callback(gc.enable)
        stack.enter_context(TRAPS)
        _open.append(stack)
        try:
            yield
        finally:
            _open.pop()
    if _runs >= COLLECT_EVERY // 2:
        # The next session would freeze what is left of this one's runs, and no later collection would find it.
        _runs = 0
        gc.collect()


def _collect_quietly() -> None:
    """Let go of the tasks of an abandoned run: their clean-up can only complain."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before


def digest_of(controller: Controller) -> str:
    """A hash of every decision, every note, every disturbance, and the time that passed."""
    text = "\n".join([f"{step.actor}#{step.label}[{step.nth}]" for step in controller.steps])
    tail = f"\n{controller.notes}\n{controller.clock.now:.9f}\n{[str(item) for item in controller.plan.carried_out]}"
    return hashlib.blake2b((text + tail).encode(), digest_size=16).hexdigest()


def first_of(problem: BaseException) -> BaseException:
    """The first exception of a group that is not a cancellation."""
    while isinstance(problem, BaseExceptionGroup):
        problem = next(
            (inner for inner in problem.exceptions if not isinstance(inner, trio.Cancelled)), problem.exceptions[0]
        )
    return problem


def signature_of(error: BaseException) -> str:
    """The kind of an exception and its first line, numbers and addresses left out."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {re.sub(r'0x[0-9a-f]+|[0-9]+', '*', text)[:200]}"


def segments_of(steps: list[Step]) -> tuple[tuple[str, int], ...]:
    """Who ran how many steps, in order."""
    segments: list[tuple[str, int]] = []
    for step in steps:
        if segments and segments[-1][0] == step.actor:
            segments[-1] = (step.actor, segments[-1][1] + 1)
        else:
            segments.append((step.actor, 1))
    return tuple(segments)
