"""Race 5, naive: a source is ingested again over an index that drifted, or in two transactions.

The drift is real: a bulk load takes the unique index out of `sqlite_schema` for its time and puts it back without a
rebuild, and what others write in between is not in the index, or is still in it. The naive re-ingest clears a session
through that index and inserts its rows again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import apsw

from engine.simulation.primitives import point
from engine.simulation.scenarios.declaring import Program, Scenario, naive
from engine.simulation.scenarios.naive import NaiveStore, Work, doing, naive_store, process_dies, start_all
from engine.simulation.world import Simulation

SCHEMA: Final = """
CREATE TABLE event(id TEXT PRIMARY KEY, s TEXT NOT NULL, seq INT NOT NULL);
CREATE UNIQUE INDEX event_seq ON event(s, seq);
INSERT INTO event VALUES('s.1', 's', 1), ('s.2', 's', 2), ('s.3', 's', 3);
"""
_CLEAR: Final = "DELETE FROM event WHERE s = ?"


def _insert(session: str, last: int, first: int = 1) -> Work:
    def work(connection: apsw.Connection) -> None:
        for seq in range(first, last + 1):
            connection.execute("INSERT INTO event VALUES(?, ?, ?)", (f"{session}.{seq}", session, seq))

    return work


class _Loader:
    """A bulk load that keeps the unique index out of its way."""

    def __init__(self, store: NaiveStore) -> None:
        self.store = store
        self._row: Any = None

    def _unhook(self, connection: apsw.Connection) -> None:
        connection.execute("PRAGMA writable_schema = ON")
        self._row = connection.execute("SELECT * FROM sqlite_schema WHERE name = 'event_seq'").fetchone()
        connection.execute("DELETE FROM sqlite_schema WHERE name = 'event_seq'")
        connection.execute("PRAGMA writable_schema = RESET")

    def _hook(self, connection: apsw.Connection) -> None:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_schema VALUES(?, ?, ?, ?, ?)", self._row)
        connection.execute("PRAGMA writable_schema = RESET")

    async def run(self) -> None:
        """Load, with the index away."""
        await self.store.ask("unhook", self._unhook, "s")
        await self.store.ask("load", doing("SELECT 1"))
        await self.store.ask("hook", self._hook, "s")


def _noise(store: NaiveStore) -> Callable[[str, int], Awaitable[None]]:
    async def other(session: str, amount: int) -> None:
        for seq in range(1, amount + 1):
            await store.ask(f"append {session}", _insert(session, seq, seq), session)

    return other


def _drifted(noise: int, live: Work, last: int) -> Program:
    """A live write, a bulk load, and a re-ingest of `last` events."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            loader = _Loader(store)

            async def turn() -> None:
                for _ in range(sim.random("turn").randint(0, 3)):
                    await store.send("read", doing("SELECT count(*) FROM event WHERE s = 's'"))
                await store.send("write", live, "s")

            async def ingest() -> None:
                await loader.run()
                await store.ask("clear", doing(_CLEAR, "s"))
                await store.ask("insert", _insert("s", last))

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn), ("ingest", ingest))
            found = await store.rows("SELECT count(*) FROM event NOT INDEXED WHERE s = 's'")
            sim.check(found == [(last,)], f"the session holds its source's {last} events, found {found}")

    return scenario


def hidden_row(noise: int) -> Program:
    """A row that the index does not list survives the clearing and blocks the insert."""
    return _drifted(noise, _insert("s", 4, 4), 5)


def ghost_entry(noise: int) -> Program:
    """An entry whose row is gone: the clearing stumbles over it."""
    return _drifted(noise, doing("DELETE FROM event WHERE id = 's.3'"), 4)


def second_row(noise: int) -> Program:
    """A row with a number that is taken gets in, and the clearing leaves it where it is."""
    return _drifted(noise, doing("INSERT INTO event VALUES('other', 's', 3)"), 5)


def neither(noise: int) -> Program:
    """Clear and insert are two transactions, and a reader comes between them."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:

            async def reader() -> None:
                count = doing("SELECT count(*) FROM event WHERE s = 's'")
                for answer in [await store.send("read", count, "s") for _ in range(sim.random("reader").randint(1, 4))]:
                    found = await answer.result()
                    sim.check(found in (3, 5), f"a reader sees the old or the new source, found {found} events")

            async def ingest() -> None:
                await store.ask("source", doing("SELECT 1"))
                await store.ask("clear", doing(_CLEAR, "s"), "s")
                await store.ask("insert", _insert("s", 5), "s")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("reader", reader), ("ingest", ingest))

    return scenario


def crash_between(noise: int) -> Program:
    """Clear and insert are two transactions, and the process dies between them."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:

            async def ingest() -> None:
                await store.ask("clear", doing(_CLEAR, "s"), "s")
                await store.ask("insert", _insert("s", 5), "s")

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    _noise(store),
                    ("ingest", ingest),
                    ("crash", lambda: process_dies(store, actors, "s")),
                )
            found = (await store.rows("SELECT count(*) FROM event WHERE s = 's'"))[0][0]
            sim.check(found in (3, 5), f"a crash leaves the old or the new source, found {found} events")

    return scenario


def live_append(noise: int) -> Program:
    """The session's owner appends between clear and insert, and takes a number that the source has."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:

            async def turn() -> None:
                await store.send("read", doing("SELECT count(*) FROM event WHERE s = 's'"))
                await store.send(
                    "append",
                    doing("INSERT INTO event SELECT 'live', 's', coalesce(max(seq), 0) + 1 FROM event WHERE s = 's'"),
                    "s",
                )

            async def ingest() -> None:
                await point("source", reads=("s",))
                await store.ask("clear", doing(_CLEAR, "s"), "s")
                await store.ask("insert", _insert("s", 5), "s")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn), ("ingest", ingest))

    return scenario


NAIVE: Final[tuple[Scenario, ...]] = (
    naive("5 hidden row", "A row that its index does not list survives the clearing.", hidden_row),
    naive("5 ghost entry", "An index entry without a row stops the clearing.", ghost_entry),
    naive("5 second row", "The index let in a number twice, and the second row survives.", second_row),
    naive("5 neither old nor new", "A reader comes between clear and insert.", neither),
    naive("5 crash between", "A process dies between clear and insert.", crash_between),
    naive("5 live append", "The session is appended to between clear and insert.", live_append),
)
