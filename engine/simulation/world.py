"""What a scenario sees of its simulation: actors, time, randomness, ids, notes, and what must hold.

Owns: `Simulation` and `Actors`. Must not know: strategies, how schedules are searched.
Invariants: everything here is a function of the run's seed and of the decisions taken; a random stream belongs to one name,
so that leaving out an actor does not shift the others' streams.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from engine.simulation.choices import clean_label
from engine.simulation.controller import Controller
from engine.simulation.errors import InvariantError, SimulationSetupError
from engine.simulation.network import SimulatedNetwork
from engine.simulation.restarting import Life, Lives, restarting
from engine.simulation.virtual import SeededIds, VirtualClock

if TYPE_CHECKING:
    from engine.ports import Ports
    from engine.runtime import Engine
    from engine.simulation.hosting import Host, Process

T = TypeVar("T")


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
        kinds: Collection[str] = (),
        dropped: frozenset[str] = frozenset(),
        dropped_items: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self.controller = controller
        self.seed = seed
        self.kinds = kinds
        """The kinds of disturbance that may happen in this run."""
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
        self._host: Host | None = None
        self.network = SimulatedNetwork()
        """The network as it is outside of every process: clients that outlive a crash connect through it."""
        controller.can["net"] = self.network.disturb

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

    # --- the engine --------------------------------------------------------------------------------

    @property
    def host(self) -> Host:
        """The simulated machine: its disk, its processes, what was acknowledged. Made on first use."""
        if self._host is None:
            from engine.simulation.hosting import Host

            self._host = Host(
                self.controller,
                self.seed,
                kinds=self.kinds,
                clock=self.clock,
                ids=self.ids,
                network=self.network,
                rng=self.random,
            )
        return self._host

    def engine(self, name: str = "sim.db", **options: Any) -> AbstractAsyncContextManager[Engine]:
        """The real engine on the simulated disk: `async with sim.engine() as engine:`; options are `open_engine`'s.

        The first one of a run finds a log that was opened once before; a later one finds what was left.
        """
        return self.host.engine(name, **options)

    def ports(self) -> Ports:
        """Ports into this simulation for what is no engine and outside of every process, such as clients.

        Tasks that are started through them are named after the actor that called this.
        """
        from engine.simulation.engine_ports import simulated_ports

        actor = self.controller.current()
        owner = actor.name if actor is not None else "main"
        return simulated_ports(self.clock, self.ids, self.network, self.random, owner=owner)

    def process(self) -> AbstractAsyncContextManager[Process]:
        """What a crash ends: `async with sim.process() as process:` around an engine and its actors.

        A `crash` disturbance cancels the block, freezes the disk and closes what was opened and accepted on the process's
        network (`process.network`, which an engine in the block has); exceptions of a dying process are nobody's. After the
        block `process.crashed` says whether it died, and the disk is as the crash left it, for the next process.
        """
        return self.host.process()

    def restarting(self, life: Life, name: str = "host") -> AbstractAsyncContextManager[Lives]:
        """Run `life(process)` in a process, and again in a new one whenever it has died or ended, until the block is left.

        `async with sim.restarting(life) as lives:`; leaving cancels the last life and waits for it. `name` is the task's.
        """
        return restarting(self, life, name)

    def check_all(self) -> None:
        """Check what the scenario asked for and, where it had an engine, every promise of the engine. Raises what fails."""
        for holds in self.controller.after_step:
            holds()
        if self.controller.failure is not None:
            raise self.controller.failure
        for check in self.checks:
            found = check()
            if inspect.iscoroutine(found):
                found.close()
                raise SimulationSetupError("check: expected a function that is not async, since the run is over by then")
            if found is False:
                raise InvariantError("check", f"{getattr(check, '__qualname__', check)} returned False")
        if self._host is not None:
            self._host.check()

    def close(self) -> None:
        """Let go of the machine. The runner does it at the end of every run."""
        if self._host is not None:
            self._host.close()

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
        """Fail the run where a condition is false.

        A function is called after the scenario has ended, if it ended well; it fails the run by raising, or by returning
        False.
        """
        if callable(condition):
            self.checks.append(condition)
        elif not condition:
            raise InvariantError("check", message)


def _once(check: Callable[[], None], controller: Controller) -> Callable[[], None]:
    def guarded() -> None:
        if controller.failure is None:
            try:
                check()
            except Exception as problem:  # in the midst of trio's loop, where nothing may be raised
                controller.fail(problem)

    return guarded
