"""Race 4, naive: replaying what is already applied.

Two public verbs, `append` and `project`: whoever calls the second one over tables that are not empty runs raw INSERT
handlers again; a crash between the two loses an event for the tables; a crash between an apply and its checkpoint
applies it twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import apsw
import trio

from engine.simulation.scenarios.declaring import Program, Scenario, naive
from engine.simulation.scenarios.naive import NaiveStore, doing, naive_store, process_dies, start_all
from engine.simulation.world import Simulation

SCHEMA: Final = """
CREATE TABLE event(id INTEGER PRIMARY KEY, s TEXT NOT NULL, type TEXT NOT NULL);
CREATE TABLE chats(id TEXT PRIMARY KEY, title TEXT, unread INT NOT NULL DEFAULT 0);
CREATE TABLE counted(s TEXT PRIMARY KEY, n INT NOT NULL, applied INT NOT NULL);
"""


def _log(connection: apsw.Connection, session: str, kind: str) -> None:
    connection.execute("INSERT INTO event(s, type) VALUES(?, ?)", (session, kind))


def _count(connection: apsw.Connection, session: str) -> None:
    connection.execute("INSERT INTO counted VALUES(?, 1, 0) ON CONFLICT DO UPDATE SET n = n + 1", (session,))


def _creating(session: str, insert: str) -> Callable[[apsw.Connection], None]:
    def work(connection: apsw.Connection) -> None:
        _log(connection, session, "created")
        connection.execute(f"{insert} INTO chats(id, title) VALUES(?, 'New')", (session,))

    return work


def _saying(session: str) -> Callable[[apsw.Connection], None]:
    def work(connection: apsw.Connection) -> None:
        _log(connection, session, "said")
        connection.execute("UPDATE chats SET unread = unread + 1 WHERE id = ?", (session,))

    return work


def _again(noise: int, insert: str) -> Program:
    """`project everything` of the chats projection, which owns the row but not its `unread`."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:

            def project(connection: apsw.Connection) -> None:
                for (session,) in connection.execute("SELECT s FROM event WHERE type = 'created' ORDER BY id").fetchall():
                    connection.execute(f"{insert} INTO chats(id, title) VALUES(?, 'New')", (session,))

            async def chat(session: str, amount: int) -> None:
                await store.send(f"create {session}", _creating(session, insert), session, "all chats")
                for _ in range(amount):
                    await store.send(f"say {session}", _saying(session), session)

            async def startup() -> None:
                await store.ask("project everything", project, "s", "all chats")

            async with sim.actors() as actors:
                actors.start("startup", startup)
                start_all(sim, actors, noise, chat, ("turn", lambda: chat("s", sim.random("turn").randint(1, 5))))
            said, unread = (
                await store.rows(
                    "SELECT (SELECT count(*) FROM event WHERE s = 's' AND type = 'said'), unread FROM chats WHERE id = 's'"
                )
            )[0]
            sim.check(said == unread, f"every event is applied once: {said} were said, {unread} are counted")

    return scenario


def project_again(noise: int) -> Program:
    """A raw INSERT handler runs twice and breaks the key."""
    return _again(noise, "INSERT")


def made_idempotent(noise: int) -> Program:
    """INSERT OR REPLACE instead: nothing breaks, and what other events made of the row is gone."""
    return _again(noise, "INSERT OR REPLACE")


def crash_before_projection(noise: int) -> Program:
    """The event is in the log, the process dies, and the tables never hear of it."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:

            async def other(session: str, amount: int) -> None:
                for _ in range(amount):
                    await store.ask("append", lambda db: _log(db, session, "said"), session)
                    await store.ask("project", lambda db: _count(db, session), session)

            async def turn() -> None:
                await other("s", sim.random("turn").randint(1, 4))

            async with sim.actors() as actors:
                start_all(sim, actors, noise, other, ("turn", turn), ("crash", lambda: process_dies(store, actors, "s")))
            logged, counted = (await store.rows(_COUNTS))[0]
            sim.check(logged == counted, f"every event is applied: {logged} are in the log, {counted} are counted")

    return scenario


_COUNTS: Final = """
SELECT (SELECT count(*) FROM event WHERE s = 's'), coalesce((SELECT n FROM counted WHERE s = 's'), 0)
"""


async def _catch_up(store: NaiveStore, session: str, ready: trio.Event | None = None) -> None:
    """Apply what the checkpoint does not cover, then write the checkpoint: two transactions an event."""

    def behind(connection: apsw.Connection) -> list[int]:
        found = connection.execute(
            "SELECT id FROM event WHERE s = ?1 AND id > coalesce((SELECT applied FROM counted WHERE s = ?1), 0) ORDER BY id",
            (session,),
        )
        return [event for (event,) in found]

    events = await store.ask("what is new", behind, session)
    if ready is not None:
        ready.set()
    for event in events:
        await store.send(f"apply {event}", lambda db: _count(db, session), session)
        await store.send(f"checkpoint {event}", doing("UPDATE counted SET applied = ? WHERE s = ?", event, session), session)


def _noise(store: NaiveStore) -> Callable[[str, int], Awaitable[None]]:
    async def other(session: str, amount: int) -> None:
        for _ in range(amount):
            await store.ask("append", lambda db: _log(db, session, "said"), session)
        await _catch_up(store, session)

    return other


async def _begun(sim: Simulation, store: NaiveStore) -> None:
    for _ in range(sim.random("turn").randint(1, 4)):
        await store.ask("append", lambda db: _log(db, "s", "said"))


async def _applied_once(sim: Simulation, store: NaiveStore) -> None:
    logged, counted = (await store.rows(_COUNTS))[0]
    sim.check(logged == counted, f"every event is applied once: {logged} are in the log, {counted} are counted")


def crash_before_checkpoint(noise: int) -> Program:
    """The delta is applied, the process dies before its checkpoint, and the next process applies it again."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            await _begun(sim, store)
            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    _noise(store),
                    ("catching up", lambda: _catch_up(store, "s")),
                    ("crash", lambda: process_dies(store, actors, "s")),
                )
            await _catch_up(store, "s")
            await _applied_once(sim, store)

    return scenario


def two_catch_up(noise: int) -> Program:
    """Two callers find the same events new, and each applies them."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            await _begun(sim, store)
            ready = trio.Event()

            async def second() -> None:
                await ready.wait()
                await _catch_up(store, "s")

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    _noise(store),
                    ("first", lambda: _catch_up(store, "s", ready)),
                    ("second", second),
                )
            await _applied_once(sim, store)

    return scenario


NAIVE: Final[tuple[Scenario, ...]] = (
    naive("4 project again", "Everything is projected again while events are appended.", project_again),
    naive("4 made idempotent", "A replay with INSERT OR REPLACE clobbers what later events changed.", made_idempotent),
    naive("4 crash before projection", "A process dies between append and projection.", crash_before_projection),
    naive("4 crash before checkpoint", "A process dies between a delta and its checkpoint.", crash_before_checkpoint),
    naive("4 two catch up", "Two callers replay the same events.", two_catch_up),
)
