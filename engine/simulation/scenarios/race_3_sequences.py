"""Race 3, naive: sequences computed outside of the database, and told before they are true.

Several producers of one session append: a live turn, a restored session, user messages. Each keeps a counter of its own,
or tells its followers, or its caller, before the commit; or the database numbers by what is left in the table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any, Final

import apsw
import trio

from engine.simulation.primitives import point
from engine.simulation.scenarios.declaring import Program, Scenario, naive
from engine.simulation.scenarios.naive import (
    LATER_S,
    NaiveStore,
    doing,
    naive_store,
    opened,
    process_dies,
    shared_memory,
    start_all,
)
from engine.simulation.world import Simulation

SCHEMA: Final = "CREATE TABLE event(id INTEGER PRIMARY KEY AUTOINCREMENT, s TEXT NOT NULL, seq INT NOT NULL, text TEXT)"


class _Producer:
    """Numbers its events itself, from what it found when it started."""

    def __init__(self, store: NaiveStore, session: str, told: list[int] | None = None) -> None:
        self.store = store
        self.session = session
        self.seq = 0
        self.told = told

    async def restore(self) -> None:
        """Go on after what the log holds."""
        self.seq = await self.store.ask(
            "newest seq", doing("SELECT coalesce(max(seq), 0) FROM event WHERE s = ?", self.session), self.session
        )

    async def append(self) -> None:
        """Send an event with the next number of this producer."""
        seq = self.seq = self.seq + 1
        if self.told is not None:
            self.told.append(seq)
        await self.store.send(
            f"append {seq}", doing("INSERT INTO event(s, seq) VALUES(?, ?)", self.session, seq), self.session
        )

    async def append_surely(self) -> None:
        """Take the number only when the append was answered: whoever is cancelled meanwhile thinks it never happened."""
        seq = self.seq + 1
        answer = await self.store.send(
            f"append {seq}", doing("INSERT INTO event(s, seq) VALUES(?, ?)", self.session, seq), self.session
        )
        await point(f"answer {seq}", reads=(self.session,))
        await answer.result()
        self.seq = seq


def _noise(store: NaiveStore) -> Callable[[str, int], Awaitable[None]]:
    async def other(session: str, amount: int) -> None:
        producer = _Producer(store, session)
        await producer.restore()
        for _ in range(amount):
            await producer.append()

    return other


async def _gapless(sim: Simulation, store: NaiveStore) -> None:
    found = [seq for (seq,) in await store.rows("SELECT seq FROM event WHERE s = 's' ORDER BY id")]
    sim.check(found == list(range(1, len(found) + 1)), f"a session's seqs are 1, 2, 3 in their order, found {found}")


def own_counters(noise: int) -> Program:
    """Two producers of one session count for themselves."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            ready = trio.Event()

            async def turn() -> None:
                producer = _Producer(store, "s")
                await producer.restore()
                ready.set()
                for _ in range(sim.random("turn").randint(1, 5)):
                    await producer.append()

            async def user() -> None:
                await ready.wait()
                producer = _Producer(store, "s")
                await producer.restore()
                await producer.append()

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn), ("user", user))
            await _gapless(sim, store)

    return scenario


def restart_at_zero(noise: int) -> Program:
    """The restart of a session drops its counter, and the next event of its user begins at 1 again."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            producers = {"s": _Producer(store, "s")}

            async def turn() -> None:
                for _ in range(sim.random("turn").randint(2, 5)):
                    await producers["s"].append()

            async def user() -> None:
                await store.ask("who am I", doing("SELECT 1"))
                await point("user message", writes=("s",))
                await producers["s"].append()

            async def restart() -> None:
                await trio.sleep(LATER_S)
                await point("restart", writes=("s",))
                producers["s"] = _Producer(store, "s")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn), ("user", user), ("restart", restart))
            await _gapless(sim, store)

    return scenario


def told_too_early(noise: int) -> Program:
    """The producer tells its followers a number, and is stopped before the event is sent."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            told: list[int] = []

            async def turn() -> None:
                producer = _Producer(store, "s", told)
                for _ in range(sim.random("turn").randint(1, 5)):
                    await producer.append()

            async with sim.actors() as actors:
                scopes: list[trio.CancelScope] = []

                async def stop() -> None:
                    await point("stop", writes=("s",))
                    scopes[0].cancel()

                scopes.append(actors.start("turn", turn))
                start_all(sim, actors, noise, _noise(store), ("stop", stop))
            stored = [seq for (seq,) in await store.rows("SELECT seq FROM event WHERE s = 's' ORDER BY id")]
            sim.check(told == stored, f"followers hear of what is stored: told {told}, stored {stored}")

    return scenario


def told_despite_failure(noise: int) -> Program:
    """A backup holds the database, a flush fails, and the followers were told of it before."""

    async def scenario(sim: Simulation) -> None:
        name = shared_memory()
        async with naive_store(SCHEMA, shared=name) as store:
            told: list[int] = []

            async def turn() -> None:
                producer = _Producer(store, "s", told)
                for _ in range(sim.random("turn").randint(1, 5)):
                    await producer.append()

            async def backup() -> None:
                await trio.sleep(LATER_S)
                await point("lock", writes=("s",))
                with closing(opened(name)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    await trio.sleep(LATER_S)
                    other.execute("COMMIT")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn), ("backup", backup))
            stored = [seq for (seq,) in await store.rows("SELECT seq FROM event WHERE s = 's' ORDER BY id")]
            sim.check(told == stored, f"followers hear of what is stored: told {told}, stored {stored}")

    return scenario


def lost_answer(noise: int) -> Program:
    """A turn is stopped between the commit of its append and the answer: it takes the append for not done."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            producer = _Producer(store, "s")
            stopped = trio.Event()

            async def turn() -> None:
                for _ in range(sim.random("turn").randint(1, 4)):
                    await producer.append_surely()

            async with sim.actors() as actors:
                scopes: list[trio.CancelScope] = []

                async def stop() -> None:
                    await trio.sleep(LATER_S)
                    await point("stop", writes=("s",))
                    scopes[0].cancel()
                    stopped.set()

                async def next_turn() -> None:
                    await stopped.wait()
                    await producer.append_surely()

                scopes.append(actors.start("turn", turn))
                start_all(sim, actors, noise, _noise(store), ("stop", stop), ("next turn", next_turn))
            await _gapless(sim, store)

    return scenario


def answered_before_commit(noise: int) -> Program:
    """The answer is given inside of the open transaction, and the process dies before its commit."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA, NaiveStore.answering_early) as store:
            acknowledged: list[int] = []

            async def turn() -> None:
                for seq in range(1, sim.random("turn").randint(2, 5)):
                    await store.ask("append", doing("INSERT INTO event(s, seq) VALUES('s', ?)", seq), "s")
                    acknowledged.append(seq)

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    _noise(store),
                    ("turn", turn),
                    ("crash", lambda: process_dies(store, actors, "commit")),
                )
            stored = [seq for (seq,) in await store.rows("SELECT seq FROM event WHERE s = 's' ORDER BY id")]
            sim.check(set(acknowledged) <= set(stored), f"acknowledged {acknowledged}, stored {stored}")

    return scenario


def newest_deleted(noise: int) -> Program:
    """The newest row is deleted, and the next append gets its number: a follower at that number never sees it."""

    async def scenario(sim: Simulation) -> None:
        async with naive_store(SCHEMA) as store:
            given: list[int] = []
            ready = trio.Event()

            def append(connection: apsw.Connection) -> Any:
                return connection.execute(
                    "INSERT INTO event(s, seq) SELECT 's', coalesce(max(seq), 0) + 1 FROM event WHERE s = 's' RETURNING seq"
                ).get

            async def turn() -> None:
                given.append(await store.ask("append", append, "s"))
                ready.set()
                answers = [await store.send("append", append, "s") for _ in range(sim.random("turn").randint(1, 4))]
                given.extend([await answer.result() for answer in answers])

            async def undo() -> None:
                await ready.wait()
                await store.ask(
                    "undo",
                    doing("DELETE FROM event WHERE s = 's' AND seq = (SELECT max(seq) FROM event WHERE s = 's')"),
                    "s",
                )

            async with sim.actors() as actors:
                start_all(sim, actors, noise, _noise(store), ("turn", turn), ("undo", undo))
            sim.check(len(set(given)) == len(given), f"no seq is given twice, found {given}")

    return scenario


NAIVE: Final[tuple[Scenario, ...]] = (
    naive("3 own counters", "Two producers of a session keep counters of their own.", own_counters),
    naive("3 restart at zero", "A restarted session counts from the beginning.", restart_at_zero),
    naive("3 told too early", "Followers hear of an event that is never stored.", told_too_early),
    naive("3 told despite failure", "A flush fails, and its events were broadcast already.", told_despite_failure),
    naive("3 lost answer", "An append is committed, its caller is cancelled, and the number is used again.", lost_answer),
    naive("3 answered before commit", "An append is acknowledged and then lost.", answered_before_commit),
    naive("3 newest deleted", "The newest event is deleted, and its number is given again.", newest_deleted),
)
