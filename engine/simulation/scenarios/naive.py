"""The naive store that the naive variants share: one writer task, its mailbox, a real database, and no guard of its own.

Owns: the mailbox, answers, the two ways of writing (a transaction a command, or one for all that is queued), noise actors.
Must not know: any race; each race brings its tables and its statements.
Invariants: commands are carried out in the order in which they were sent; an answer is given once, error or value.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from typing import Any, Final

import apsw
import attrs
import trio

from engine.simulation.primitives import point
from engine.simulation.world import Actors, Simulation

Work = Callable[[apsw.Connection], Any]

INBOX_MAX: Final = 4_096
"""Commands that may wait: no sender of a scenario ever has to."""
BATCH_MAX: Final = 64
LATER_S: Final = 60.0
"""When something comes that has nothing to do with the rest, in virtual seconds."""


@attrs.define(eq=False)
class Answer:
    """What became of a command, for whoever wants to know."""

    _send: trio.MemorySendChannel[tuple[Any, BaseException | None]]
    _receive: trio.MemoryReceiveChannel[tuple[Any, BaseException | None]]

    @classmethod
    def create(cls) -> Answer:
        """An answer that has not come."""
        return cls(*trio.open_memory_channel[tuple[Any, BaseException | None]](1))

    def give(self, value: Any, problem: BaseException | None = None) -> None:
        """Answer."""
        self._send.send_nowait((value, problem))

    async def result(self) -> Any:
        """Wait for it; raises what the command raised."""
        value, problem = await self._receive.receive()
        if problem is not None:
            raise problem
        return value


@attrs.frozen(eq=False)
class Command:
    """Something for the writer to do."""

    sim_label: str
    conflict_keys: tuple[str, ...]
    """What it touches: two commands without a common key can be swapped."""
    work: Work
    answer: Answer


class NaiveStore:
    """A database, and the mailbox of the task that writes it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._inbox, self._commands = trio.open_memory_channel[Command](INBOX_MAX)

    async def send(self, label: str, work: Work, *keys: str) -> Answer:
        """Hand a command over without waiting for its answer."""
        command = Command(label, keys, work, Answer.create())
        await self._inbox.send(command)
        return command.answer

    async def ask(self, label: str, work: Work, *keys: str) -> Any:
        """Hand a command over and wait for its answer."""
        answer = await self.send(label, work, *keys)
        return await answer.result()

    async def rows(self, sql: str, *values: Any) -> list[Any]:
        """What a query finds, once everything that was sent before has been done."""
        found: list[Any] = await self.ask("look", lambda db: db.execute(sql, values).fetchall())
        return found

    def end(self) -> None:
        """Nothing more will be sent: the writer ends after what is queued."""
        self._inbox.close()

    def die(self) -> None:
        """What a crash of the process does to it: what is queued is gone, an open transaction too."""
        self.taken(INBOX_MAX)
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def taken(self, most: int) -> list[Command]:
        """Up to so many commands that are queued, without waiting."""
        commands: list[Command] = []
        while len(commands) < most:
            try:
                commands.append(self._commands.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        return commands

    async def one_by_one(self) -> None:
        """The writer that gives each command a transaction of its own."""
        async for command in self._commands:
            self._carry_out([command])

    async def in_batches(self) -> None:
        """The writer that puts all that is queued into one transaction."""
        async for command in self._commands:
            self._carry_out([command, *self.taken(BATCH_MAX - 1)])

    async def answering_early(self) -> None:
        """The writer that answers each command of a batch before the batch's commit."""
        async for command in self._commands:
            self.connection.execute("BEGIN")
            for each in (command, *self.taken(BATCH_MAX - 1)):
                each.answer.give(each.work(self.connection))
            await point("commit", writes=("commit",))
            if self.connection.in_transaction:
                self.connection.execute("COMMIT")

    def _carry_out(self, batch: list[Command]) -> None:
        try:
            with self.connection:
                values = [command.work(self.connection) for command in batch]
        except apsw.Error as problem:
            for command in batch:
                command.answer.give(None, problem)
        else:
            for command, value in zip(batch, values, strict=True):
                command.answer.give(value)


_shared_names = count()


def shared_memory() -> str:
    """The name of a database in memory that several connections of this run can open."""
    return f"file:/naive {next(_shared_names)}?vfs=memdb"


def opened(name: str) -> apsw.Connection:
    """A connection to it."""
    return apsw.Connection(name, flags=apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)


@asynccontextmanager
async def naive_store(
    schema: str, writer: Callable[[NaiveStore], Awaitable[None]] = NaiveStore.one_by_one, *, shared: str = ""
) -> AsyncIterator[NaiveStore]:
    """A fresh database with this schema in memory, and its writer. Leaving the block waits for what is queued.

    `shared`: a name of `shared_memory`, where others open it too.
    """
    connection = opened(shared) if shared else apsw.Connection(":memory:")
    try:
        if shared:
            connection.execute(schema)
        else:
            connection.deserialize("main", _template(schema))
        connection.execute("PRAGMA foreign_keys = ON")
        store = NaiveStore(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer, store, name="writer")
            yield store
            store.end()
    finally:
        connection.close()


@cache
def _template(schema: str) -> bytes:
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(schema)
        return connection.serialize("main")
    finally:
        connection.close()


def doing(sql: str, *values: Any) -> Work:
    """A command that runs one statement."""
    return lambda connection: connection.execute(sql, values).get


def start_all(
    sim: Simulation,
    actors: Actors,
    noise: int,
    other: Callable[[str, int], Awaitable[None]],
    *own: tuple[str, Callable[[], Awaitable[None]]],
) -> None:
    """Start the race's own actors, in this order, and among them so many noise actors, where the seed puts them.

    A noise actor runs `other(session id, how much to do)`.
    """
    rng = sim.random("noise")
    places = sorted(rng.randint(0, len(own)) for _ in range(noise))
    for place in range(len(own) + 1):
        for number in [n for n, at in enumerate(places, 1) if at == place]:
            actors.start(f"noise {number}", other, f"n{number}", rng.randint(1, 4))
        if place < len(own):
            actors.start(*own[place])


async def process_dies(store: NaiveStore, actors: Actors, *keys: str) -> None:
    """An actor: the process is killed, by default when everything is done."""
    await trio.sleep(LATER_S)
    await point("the process dies", writes=keys)
    store.die()
    actors.cancel_scope.cancel()
