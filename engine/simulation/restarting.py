"""A process that is started again: what is behind an address stays there, whatever happens to it.

    async def life(process):                                # what every process of it does, until it is cancelled
        async with sim.engine() as engine:
            await serve(engine, port=8765)

    async with sim.restarting(life):                        # restarts it as often as it dies or ends
        async with connect("ws://127.0.0.1:8765", ports=sim.ports()) as client:     # lives on
            await client.create_session("s")

Owns: the order of lives. Must not know: what a life does.
Invariants: one life at a time; what a life raises fails the run, unless its process had died.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import attrs
import trio

if TYPE_CHECKING:
    from engine.simulation.hosting import Process
    from engine.simulation.world import Simulation

Life = Callable[["Process"], Awaitable[object]]
LIVES_MAX: Final = 1_000
"""Of one run: one that ends at once, again and again, would otherwise never get the run to its end."""


@attrs.define(eq=False)
class Lives:
    """What has become of the processes so far."""

    begun: int = 0
    """Processes that were started."""
    died: int = 0
    """Those that a crash ended."""
    over: bool = False
    """Whether the block is being left: no further one is started."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Around the life that is."""

    def end(self) -> None:
        """End the life that is, in order, so that the next one begins."""
        self.scope.cancel()


@asynccontextmanager
async def restarting(sim: Simulation, life: Life, name: str) -> AsyncIterator[Lives]:
    """See `Simulation.restarting`."""
    lives = Lives()

    async def live() -> None:
        while not lives.over and lives.begun < LIVES_MAX:
            lives.begun += 1
            async with sim.process() as process:
                with trio.CancelScope() as lives.scope:
                    await life(process)
            lives.died += process.crashed

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live, name=name)
        try:
            yield lives
        finally:
            lives.over = True
            lives.end()
