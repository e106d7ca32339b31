"""What a scenario sees of its simulation: actors, time, randomness, ids, notes, and what must hold.

Owns: `Simulation` and `Actors`. Must not know: strategies, how schedules are searched.
Invariants: everything here is a function of the run's seed and of the decisions taken; a random stream belongs to one name,
so that leaving out an actor does not shift the others' streams.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import attrs
import trio

from engine.simulation.choices import clean_label
from engine.simulation.controller import Controller
from engine.simulation.errors import InvariantError

T = TypeVar("T")

EPOCH_MS: Final = 1_700_000_000_000
"""The wall clock at virtual second 0 of every run: an arbitrary day in 2023."""


class VirtualClock:
    """The wall clock of a run: virtual seconds since the run began, on top of a fixed day."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return EPOCH_MS + int(trio.current_time() * 1000)


@attrs.define(eq=False)
class SeededIds:
    """Ids from the run's seed: one stream a prefix, so that they are stable under edits elsewhere."""

    rng: Callable[[str], random.Random]

    def new_id(self, prefix: str) -> str:
        """A new id."""
        return f"{prefix}_{self.rng('ids ' + prefix).getrandbits(48):012x}"

    def new_epoch(self) -> str:
        """A new epoch id: 12 hexadecimal digits."""
        return f"{self.rng('epochs').getrandbits(48):012x}"


class Actors:
    """Starts a scenario's named actors: `async with sim.actors() as actors: actors.start("turn", fn, arg)`."""

    def __init__(self, simulation: Simulation, nursery: trio.Nursery) -> None:
        self._simulation = simulation
        self._nursery = nursery

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """Cancels them all."""
        return self._nursery.cancel_scope

    def start(self, name: str, function: Callable[..., Awaitable[object]], *args: Any) -> trio.CancelScope:
        """Start an actor under a name of its own; returns the scope that cancels it.

        An exception of the actor is a failure of the run. A shrinking replay may leave an actor out.
        """
        scope = trio.CancelScope()
        if name not in self._simulation.dropped:
            self._simulation.started.append(name)
            self._nursery.start_soon(self._run, scope, function, args, name=clean_label(name))
        return scope

    async def _run(self, scope: trio.CancelScope, function: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        controller = self._simulation.controller
        actor = controller.current()
        if actor is not None:
            actor.scope = scope
        with scope:
            await function(*args)


class Simulation:
    """One run of a scenario."""

    def __init__(
        self,
        controller: Controller,
        *,
        seed: int,
        dropped: frozenset[str] = frozenset(),
        dropped_items: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self.controller = controller
        self.seed = seed
        self.dropped = dropped
        self.dropped_items = dropped_items
        self.started: list[str] = []
        self.items: dict[str, int] = {}
        self.covered: Counter[str] = Counter()
        """How often each `sometimes` was true."""
        self.hoped: set[str] = set()
        """Every `sometimes` that was asked."""
        self.checks: list[Callable[[], Any]] = []
        self.clock = VirtualClock()
        self.ids = SeededIds(self.random)
        self._streams: dict[str, random.Random] = {}

    # --- the world ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def actors(self) -> AsyncIterator[Actors]:
        """A nursery of named actors. Leaving the block waits for them; exceptions come out as the nursery's."""
        async with trio.open_nursery() as nursery:
            yield Actors(self, nursery)

    def random(self, name: str = "scenario") -> random.Random:
        """A random stream of this name, from the run's seed."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = random.Random(f"{self.seed} {name}")
        return stream

    def steps(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """A workload's items under a name: what a shrinking replay may leave out one by one."""
        for number, item in enumerate(items):
            self.items[name] = max(self.items.get(name, 0), number + 1)
            if (name, number) not in self.dropped_items:
                yield item

    def note(self, value: object) -> None:
        """Put a value into the run's digest: two runs of the same schedule must note the same."""
        self.controller.notes.append(repr(value))

    # --- what must hold -------------------------------------------------------------------------------

    def always(self, name: str, holds: Callable[[], bool]) -> None:
        """Check after every step from now on; a step after which it does not hold fails the run."""

        def check() -> None:
            if not holds():
                raise InvariantError(f"always {name}", "it does not hold any more")

        self.controller.after_step.append(_once(check, self.controller))

    def never(self, name: str, happens: Callable[[], bool]) -> None:
        """Check after every step from now on; a step after which it happened fails the run."""

        def check() -> None:
            if happens():
                raise InvariantError(f"never {name}", "it happened")

        self.controller.after_step.append(_once(check, self.controller))

    async def eventually(self, name: str, holds: Callable[[], bool], *, within_s: float = 60.0) -> None:
        """Wait until it holds, at most so many virtual seconds; raises `InvariantError`."""
        with trio.move_on_after(within_s):
            while not holds():  # noqa: ASYNC110 (nothing tells when a predicate becomes true)
                await trio.sleep(within_s / 64)
            return
        raise InvariantError(f"eventually {name}", f"it did not come to hold within {within_s:g} virtual seconds")

    def sometimes(self, name: str, happened: bool = True) -> None:
        """Count that something happened. A campaign in which it never did is not a proof of anything, and fails."""
        self.hoped.add(name)
        if happened:
            self.covered[name] += 1

    def check(self, condition: bool | Callable[[], Any], message: str = "check") -> None:
        """Fail the run where a condition is false; a function is called after the scenario has ended, if it ended well."""
        if callable(condition):
            self.checks.append(condition)
        elif not condition:
            raise InvariantError("check", message)


def _once(check: Callable[[], None], controller: Controller) -> Callable[[], None]:
    def guarded() -> None:
        if controller.failure is None:
            try:
                check()
            except InvariantError as problem:
                controller.fail(problem)

    return guarded
