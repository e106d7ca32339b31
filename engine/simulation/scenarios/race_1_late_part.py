"""Race 1, naive: a late part after a cascade delete.

A turn streams parts of message M; somebody else removes M, or its session; the turn, which was told to stop, still writes
one more part of M. In the naive store the part's upsert breaks its foreign key and takes the turn along, or, with a
deferred key, the whole batch; or what was removed comes back to life.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from engine.simulation.scenarios.declaring import Program, Scenario, naive
from engine.simulation.scenarios.naive import Answer, NaiveStore, doing, naive_store, start_all
from engine.simulation.world import Simulation

_PARTS: Final = """
CREATE TABLE session(id TEXT PRIMARY KEY);
CREATE TABLE message(id TEXT PRIMARY KEY, s TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE, note TEXT);
CREATE TABLE part(id TEXT PRIMARY KEY, text TEXT,
  m TEXT NOT NULL REFERENCES message(id) ON DELETE CASCADE {deferred});
INSERT INTO session VALUES('s');
"""
IMMEDIATE: Final = _PARTS.format(deferred="")
DEFERRED: Final = _PARTS.format(deferred="DEFERRABLE INITIALLY DEFERRED")


class _Turn:
    """A turn of the naive design: it streams without waiting, and looks at what became of it in the end."""

    def __init__(self, sim: Simulation, store: NaiveStore, session: str = "s") -> None:
        self.store = store
        self.session = session
        self.parts = sim.random("turn").randint(1, 5)
        self.started = trio.Event()
        self.ended = False

    async def announce(self, message: str, note: str = "") -> Answer:
        """Upsert a message."""
        return await self.store.send(
            f"announce {message}",
            doing(
                "INSERT INTO message VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET note = excluded.note",
                *(message, self.session, note),
            ),
            f"session {self.session}",
        )

    async def part(self, name: str, message: str, text: str = "") -> Answer:
        """Upsert a part."""
        return await self.store.send(
            f"part {name}",
            doing("INSERT INTO part VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET text = excluded.text", name, text, message),
            f"session {self.session}",
        )

    async def run(self) -> None:
        """Announce M, stream its parts, be told to stop, and write the trailing part."""
        await (await self.announce("M")).result()
        self.started.set()
        answers = [await self.part(f"p{number}", "M") for number in range(self.parts)]
        answers.append(await self.part("late", "M"))
        for answer in answers:
            await answer.result()
        self.ended = True


def _noise(sim: Simulation, store: NaiveStore) -> Callable[[str, int], Awaitable[None]]:
    async def other(session: str, amount: int) -> None:
        await store.ask("create", doing("INSERT INTO session VALUES(?)", session), f"session {session}")
        turn = _Turn(sim, store, session)
        await (await turn.announce(f"{session}.M")).result()
        answers = [await turn.part(f"{session}.p{number}", f"{session}.M") for number in range(amount)]
        for answer in answers:
            await answer.result()

    return other


def _removed(
    noise: int,
    schema: str,
    removal: str,
    writer: Callable[[NaiveStore], Awaitable[None]] = NaiveStore.one_by_one,
) -> Program:
    async def scenario(sim: Simulation) -> None:
        async with naive_store(schema, writer) as store:
            turn = _Turn(sim, store)

            async def user() -> None:
                await turn.started.wait()
                await store.ask("remove", doing(removal), "session s")

            async def neighbour() -> None:
                await _noise(sim, store)("next", 3)

            async with sim.actors() as actors:
                start_all(
                    sim, actors, noise, _noise(sim, store), ("turn", turn.run), ("user", user), ("neighbour", neighbour)
                )
            sim.check(turn.ended, "the turn went on after the removal")
            sim.check(await store.rows("SELECT id FROM part WHERE m = 'M'") == [], "no part outlives its message")
            sim.check(len(await store.rows("SELECT 1 FROM part WHERE m = 'next.M'")) == 3, "the neighbour's parts are there")

    return scenario


def late_part(noise: int) -> Program:
    """The key is checked at once: the turn crashes with the store's raw error."""
    return _removed(noise, IMMEDIATE, "DELETE FROM message WHERE id = 'M'")


def deferred_key(noise: int) -> Program:
    """The key is checked at COMMIT: everybody in the batch is told of an error that is not theirs."""
    return _removed(noise, DEFERRED, "DELETE FROM message WHERE id = 'M'", NaiveStore.in_batches)


def session_removed(noise: int) -> Program:
    """The whole session is removed, and the cascade takes M."""
    return _removed(noise, IMMEDIATE, "DELETE FROM session WHERE id = 's'")


def announced_again(noise: int) -> Program:
    """A late update of the message itself brings back what the user removed."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(IMMEDIATE) as store:
            turn = _Turn(sim, store)

            async def updating() -> None:
                await (await turn.announce("M")).result()
                turn.started.set()
                for number in range(turn.parts):
                    await turn.announce("M", f"step {number}")

            async def user() -> None:
                await turn.started.wait()
                await store.ask("remove", doing("DELETE FROM message WHERE id = 'M'"), "session s")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(sim, store), ("turn", updating), ("user", user))
            found = await store.rows("SELECT note FROM message WHERE id = 'M'")
            sim.check(found == [], "a removed message stays removed")

    return scenario


def next_life(noise: int) -> Program:
    """The session is removed and created again under its id; the old turn's late part lands in the new life."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(IMMEDIATE) as store:
            old = _Turn(sim, store)

            async def user() -> None:
                await old.started.wait()
                await store.ask("remove", doing("DELETE FROM session WHERE id = 's'"), "session s")
                await store.ask("create", doing("INSERT INTO session VALUES('s')"), "session s")
                new = _Turn(sim, store)
                await (await new.announce("M")).result()
                await (await new.part("late", "M", "of the new life")).result()

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(sim, store), ("turn", old.run), ("user", user))
            found = await store.rows("SELECT id, text FROM part WHERE m = 'M'")
            sim.check(found == [("late", "of the new life")], "the new life holds what it wrote, and nothing else")

    return scenario


NAIVE: Final[tuple[Scenario, ...]] = (
    naive("1 late part", "A part is written after its message was removed, and the foreign key breaks.", late_part),
    naive("1 deferred key", "A late part fails at COMMIT and takes its neighbours' writes along.", deferred_key),
    naive("1 session removed", "A part is written after its session was removed.", session_removed),
    naive("1 announced again", "A late update of a removed message brings it back.", announced_again),
    naive("1 next life", "A late part of a removed session lands in the session created under its id.", next_life),
)
