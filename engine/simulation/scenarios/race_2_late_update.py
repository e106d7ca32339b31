"""Race 2, naive: a streaming update that comes after the finish.

The last step's update of a message is sent by a task that nobody waits for; the finish is sent by the turn; a sweep may
settle what looks abandoned. The naive store writes the whole message each time, whatever its status is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import apsw
import trio

from engine.simulation.primitives import point
from engine.simulation.scenarios.declaring import Program, Scenario, naive
from engine.simulation.scenarios.naive import NaiveStore, Work, doing, naive_store, start_all
from engine.simulation.world import Simulation

SCHEMA: Final = "CREATE TABLE message(id TEXT PRIMARY KEY, status TEXT, text TEXT, cost INT, reason TEXT)"
DONE: Final = ("completed", "the whole text", 240_000_000, "stop")
_SWEEP: Final = "UPDATE message SET status = 'aborted' WHERE status = 'streaming'"


def _write(message: str, status: str, text: str, cost: int | None = None, reason: str | None = None) -> Work:
    return doing("REPLACE INTO message VALUES(?, ?, ?, ?, ?)", message, status, text, cost, reason)


def _finish(message: str) -> Work:
    return _write(message, *DONE)


def _noise(store: NaiveStore) -> Callable[[str, int], Awaitable[None]]:
    async def other(session: str, amount: int) -> None:
        for number in range(amount):
            await store.send(f"update {session}", _write(session, "streaming", f"step {number}"), session)
        await store.ask(f"finish {session}", _finish(session), session)

    return other


async def _verdict(sim: Simulation, store: NaiveStore) -> None:
    found = await store.rows("SELECT status, text, cost, reason FROM message WHERE id = 'M'")
    sim.check(found == [DONE], f"a finished message stays as it was finished, found {found}")


class _Turn:
    """A turn whose streaming updates are sent by tasks of their own; the last one is the race."""

    def __init__(self, sim: Simulation, store: NaiveStore) -> None:
        self.store = store
        self.steps = sim.random("turn").randint(1, 5)
        self.streamed = trio.Event()
        self.finished = False
        """The flag in memory: it saves a write, and guards nothing."""
        self.settled = trio.Event()

    async def run(self) -> None:
        """Stream, ask what the model call did cost, finish."""
        for number in range(self.steps):
            await self.store.ask("update M", _write("M", "streaming", f"step {number}"), "M")
        self.streamed.set()
        await self.store.ask("prices", doing("SELECT 1"))
        self.finished = True
        await self.store.ask("finish M", _finish("M"), "M")
        self.settled.set()

    async def late(self) -> None:
        """The update that nobody waits for."""
        await self.streamed.wait()
        await self.store.send("update M", _write("M", "streaming", "the whole te"), "M")

    async def late_unless_finished(self) -> None:
        """The same, behind the flag: it looks, and then it writes."""
        await self.streamed.wait()
        if not self.finished:
            await self.store.send("update M", _write("M", "streaming", "the whole te"), "M")


def late_update(noise: int) -> Program:
    """The update commits last, and the message streams again without usage and reason."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            turn = _Turn(sim, store)
            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn.run), ("update", turn.late))
            await _verdict(sim, store)

    return scenario


def flag_in_memory(noise: int) -> Program:
    """A flag in memory is looked at before the write; the finish comes between the look and the write."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            turn = _Turn(sim, store)
            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn.run), ("update", turn.late_unless_finished))
            await _verdict(sim, store)

    return scenario


def sweep_after(noise: int) -> Program:
    """The late update makes the next start's sweep call a completed message aborted."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            turn = _Turn(sim, store)

            async def next_start() -> None:
                await turn.settled.wait()
                await store.ask("sweep", doing(_SWEEP), "M")

            async with sim.actors() as actors:
                start_all(
                    sim, actors, noise, _noise(store), ("turn", turn.run), ("update", turn.late), ("next start", next_start)
                )
            await _verdict(sim, store)

    return scenario


def sweep_in_two_steps(noise: int) -> Program:
    """A sweep lists what streams and settles it one by one: what its owner finished in between becomes aborted."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            turn = _Turn(sim, store)

            def streaming(connection: apsw.Connection) -> list[str]:
                return [name for (name,) in connection.execute("SELECT id FROM message WHERE status = 'streaming'")]

            async def sweep() -> None:
                await turn.settled.wait()
                for name in await store.ask("list streaming", streaming, "M"):
                    await store.ask(f"abort {name}", doing("UPDATE message SET status = 'aborted' WHERE id = ?", name), "M")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", _early(turn)), ("sweep", sweep))
            await _verdict(sim, store)

    return scenario


def _early(turn: _Turn) -> Callable[[], Awaitable[None]]:
    """A turn of which the sweep hears before it has ended."""

    async def run() -> None:
        await turn.store.ask("update M", _write("M", "streaming", "step"), "M")
        turn.settled.set()
        await point("the last words", reads=("M",))
        await turn.store.ask("finish M", _finish("M"), "M")

    return run


NAIVE: Final[tuple[Scenario, ...]] = (
    naive("2 late update", "A streaming update commits after the finish and undoes it.", late_update),
    naive("2 flag in memory", "A flag is checked, the finish comes, and then the update.", flag_in_memory),
    naive("2 sweep after", "A completed message streams again, and the next start's sweep aborts it.", sweep_after),
    naive("2 sweep in two steps", "A message is finished between a sweep's list and its writes.", sweep_in_two_steps),
)
