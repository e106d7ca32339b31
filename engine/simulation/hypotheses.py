"""Hypothesis and the simulator: workloads and parameters from the one, schedules and their shrinking from the other.

Owns: `schedules`, `under`, `explored`, `SimStateMachine`. Must not know: the engine. The only file that needs Hypothesis,
which is no dependency of the package; nothing else here imports it.

Hypothesis draws parameters of a schedule, never its decisions: a draw a decision is slow, and shrinks badly. Parameters that
shrink away leave the default order, so that what stays in a minimal example is what matters.

Invariants: a run is a function of the example and its parameters. What importing Hypothesis changes in trio (a switch, and a
random source that it registers) changes no run: both drivers decide every step themselves.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import attrs
import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st

from engine.simulation.actors import Actor
from engine.simulation.campaign import Failure
from engine.simulation.controller import Controller
from engine.simulation.exploring import explore
from engine.simulation.policy import DefaultOrder
from engine.simulation.running import Run, Scenario, run
from engine.simulation.shrinking import shrink
from engine.simulation.world import Simulation

ACTORS: Final = 8
"""Actors that can have a priority of their own, by default."""
CHANGES: Final = 3
"""Places at which the running actor can fall behind, by default: bugs rarely need more."""
DECISIONS: Final = 150
"""How far into a run such a place can lie, in decisions, by default."""
FAIR_AFTER: Final = 5_000
"""Decisions after which whoever waits longest runs: a polling loop must not starve the others."""


@attrs.frozen
class Parameters:
    """A schedule by its parameters; without any it is the default order."""

    ranks: tuple[int, ...] = ()
    """By actor, in the order of their start: those of the lowest rank go first. Who is not listed has 0."""
    changes: tuple[int, ...] = ()
    """Decisions, counted from 1, at which the actor that would run falls behind everybody else."""

    def policy(self) -> Ranked:
        """What carries them out; one for each run."""
        return Ranked(self)


class Ranked(DefaultOrder):
    """Runs whoever has the lowest rank; among equals the default order decides."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._ranks: dict[str, int] = {}
        self._fell: dict[str, int] = {}
        self._decisions = 0

    def begin(self, controller: Controller) -> None:
        self._names = controller.names

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        self._decisions += 1
        if self._decisions > FAIR_AFTER:
            return ready[0]
        chosen = self._first(ready, last)
        if self._decisions in self._parameters.changes:
            self._fell[chosen.name] = self._decisions
            chosen = self._first(ready, last)
        return chosen

    def _first(self, ready: list[Actor], last: Actor | None) -> Actor:
        return min(ready, key=lambda actor: (self._fell.get(actor.name, 0), self._rank(actor), actor is not last))

    def _rank(self, actor: Actor) -> int:
        if actor.housekeeping or not actor.index:
            return 0
        if actor.name not in self._ranks:
            started = [name for name, other in self._names.items() if other.index and not other.housekeeping]
            for name, rank in zip(started, self._parameters.ranks, strict=False):
                self._ranks[name] = rank
        return self._ranks.get(actor.name, 0)


def schedules(actors: int = ACTORS, changes: int = CHANGES, decisions: int = DECISIONS) -> st.SearchStrategy[Parameters]:
    """Parameters of schedules: ranks for at most so many actors, and at most so many places where one falls behind.

    The simplest value is the default order.
    """
    place = st.one_of(st.integers(1, 8), st.integers(1, 40), st.integers(1, decisions))
    return st.builds(
        Parameters,
        ranks=st.lists(st.integers(0, 3), max_size=actors).map(tuple),
        changes=st.lists(place, max_size=changes, unique=True).map(tuple),
    )


def under(scenario: Scenario, parameters: Parameters, **options: Any) -> Run:
    """Run a scenario under drawn parameters, and raise its failure; in a minimal example, with a note of the schedule.

    `options` are those of `run`.
    """
    result = run(scenario, policy=parameters.policy(), **options)
    _raise(scenario, result, str(result.schedule()), options)
    return result


def _raise(scenario: Scenario, result: Run, schedule: str, options: dict[str, Any]) -> None:
    if result.error is not None:
        hypothesis.note(_Note(scenario, Failure(result, schedule, 0, 1, "hypothesis"), options))
        raise result.error


class _Note:
    """Shrinks a schedule when Hypothesis prints it, which it does for the minimal example only."""

    def __init__(self, scenario: Scenario, failure: Failure, options: dict[str, Any]) -> None:
        self._what = scenario, failure, options

    def __repr__(self) -> str:
        return f"schedule: {_constraint(*self._what) or 'the default order'}"


def _constraint(scenario: Scenario, failure: Failure, options: dict[str, Any]) -> str:
    return str(shrink(scenario, failure, confirm=0, **options).schedule)


def explored(count: int = 50, **options: Any) -> Callable[[Callable[..., Awaitable[object]]], Callable[..., None]]:
    """Turn a scenario that takes a workload into a test of it, under `count` schedules an example.

    `@given(workload) @explored(50) async def test(sim, workload)`. Once an example has failed, the orderings that it needed
    are kept, and further examples are tried under them first, then in the default order, and under nothing else: so
    Hypothesis shrinks the workload under a fixed cause. In the minimal example the schedule is shrunk once more, and noted.
    `options` are those of `explore`.
    """

    def decorate(function: Callable[..., Awaitable[object]]) -> Callable[..., None]:
        kept: list[str] = []

        @functools.wraps(function)
        def test(*args: Any, **kwargs: Any) -> None:
            def scenario(sim: Simulation) -> Awaitable[object]:
                return function(sim, *args, **kwargs)

            for text in [*kept, ""] if kept else []:
                _raise(scenario, run(scenario, text, **_for_run(options)), text, _for_run(options))
            if not kept:
                campaign = explore(scenario, schedules=count, **options)
                failure = campaign.failure
                if failure is not None:
                    kept.append(_constraint(scenario, failure, _for_run(options)))
                    _raise(scenario, failure.run, failure.schedule, _for_run(options))

        signature = inspect.signature(function)
        plain: Any = test
        plain.__signature__ = signature.replace(
            parameters=list(signature.parameters.values())[1:], return_annotation=inspect.Signature.empty
        )
        del plain.__wrapped__
        return test

    return decorate


def _for_run(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `explore`'s options that a single run takes."""
    own = ("strategy", "seconds", "failures_max", "first", "on_run")
    return {name: value for name, value in options.items() if name not in own}


Command = Callable[..., Awaitable[object]]


class SimStateMachine(stateful.RuleBasedStateMachine):
    """A state machine whose rules queue commands for named actors; each example is one simulated run of all of them.

    Rules are synchronous and say who does what: `self.enqueue("turn", append, session, event)`. When Hypothesis has made
    its steps, every actor carries out its own commands in their order, under drawn schedule parameters. Override `world` to
    give the commands something to work on, and `finish` to check what came of it. A failure of either is the example's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queued: dict[str, list[tuple[Command, tuple[Any, ...]]]] = {}
        self.parameters = Parameters()

    @stateful.initialize(parameters=schedules())
    def schedule(self, parameters: Parameters) -> None:
        """Draw the schedule."""
        self.parameters = parameters

    def enqueue(self, actor: str, command: Command, *args: Any) -> None:
        """Let an actor do `await command(world, *args)` after what it was given before."""
        self.queued.setdefault(actor, []).append((command, args))

    def world(self, sim: Simulation) -> AbstractAsyncContextManager[Any]:
        """What the commands work on, for one run; the simulation itself unless overridden."""
        return _only(sim)

    async def finish(self, sim: Simulation, world: Any) -> None:
        """Check what came of the commands, while the world is still there."""

    def teardown(self) -> None:
        """Run everything. Raises the run's failure."""

        async def actor(world: Any, commands: list[tuple[Command, tuple[Any, ...]]]) -> None:
            for command, args in commands:
                await command(world, *args)

        async def scenario(sim: Simulation) -> None:
            async with self.world(sim) as world:
                async with sim.actors() as actors:
                    for name, commands in self.queued.items():
                        actors.start(name, actor, world, commands)
                await self.finish(sim, world)

        under(scenario, self.parameters)


@asynccontextmanager
async def _only(sim: Simulation) -> AsyncIterator[Simulation]:
    yield sim
