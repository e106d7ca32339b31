"""An engine behind a server in a process that is restarted, and clients that live on: what these scenarios share.

Owns: the server's lives, clients that insist on their first connection, followers that remember what they were given.
Must not know: any scenario.
Invariants: whatever is lost, a follower has been given exactly the log after its place, in order; see `Follower.check`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from engine.client import Client, ReadSnapshot, connect
from engine.errors import ProtocolError, UnknownSessionError, UnreachableError
from engine.events import START, CaughtUp, Cursor, Envelope, Lagging, LogItem, RecordedEvent, Reset, SessionNoted
from engine.limits import ClientLimits, ServerLimits
from engine.ports import Network
from engine.runtime import Engine, Workspace
from engine.server import Server, Token, serve
from engine.session import Session
from engine.simulation.hosting import Process
from engine.simulation.oracles import must
from engine.simulation.restarting import Lives
from engine.simulation.scenarios.live.transcript import Transcript
from engine.simulation.world import Simulation

PORT: Final = 8765
URL: Final = f"ws://127.0.0.1:{PORT}"
ATTEMPTS_MAX: Final = 200
"""Of a client to be connected for the first time: more than any schedule takes from it."""
END: Final = "end"
"""Id of the note after which a follower has seen enough."""

Work = Callable[[Engine, Server], Awaitable[object]]


@attrs.define(eq=False)
class Live:
    """An engine that is served, and who talks to it."""

    sim: Simulation
    tokens: Sequence[Token] = ()
    limits: ServerLimits | None = None
    client_limits: ClientLimits | None = None
    work: Work | None = None
    """What happens in the server's process, in every life of it; it may end before the life does."""
    database: str = "sim.db"
    listening: trio.Event = attrs.field(factory=trio.Event)
    """A server listens, or did."""
    lives: Lives = attrs.field(factory=Lives)

    async def life(self, process: Process) -> None:
        """One life of the server's process. It ends when the server does, or is cancelled."""
        async with self.sim.engine(self.database) as engine, trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve, engine, port=PORT, tokens=self.tokens, limits=self.limits))
            self.listening.set()
            try:
                if self.work is not None:
                    await self.work(engine, server)
                await server.ended.wait()
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await server.ended.wait()
                left = server.statistics().commands
                must(process.crashed or not left, "a command that was read is carried out, or given up in the end", left)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Lives]:
        """Serve until the block is left, and then say what became of it."""
        async with self.sim.restarting(self.life) as self.lives:
            yield self.lives
        said = [record.getMessage() for record in self.sim.host.logged if record.levelno >= logging.ERROR]
        wrong = [line for line in said if "broke the protocol" in line or "bug" in line]
        must(not wrong, "server and client keep to the protocol", wrong)
        self.sim.sometimes("the server's process died", "crash" not in self.sim.kinds or self.lives.died > 0)

    @asynccontextmanager
    async def client(
        self, token: str | None = None, network: Network | None = None, limits: ClientLimits | None = None
    ) -> AsyncIterator[Client]:
        """A client; it insists on its first connection, as it does by itself on every further one."""
        await self.listening.wait()
        ports = self.sim.ports()
        if network is not None:
            ports = attrs.evolve(ports, network=network)
        async with AsyncExitStack() as stack:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                try:
                    client = await stack.enter_async_context(
                        connect(URL, token=token, limits=limits or self.client_limits, ports=ports)
                    )
                    break
                except (UnreachableError, ProtocolError) as problem:
                    # What says no hello in time may be a server that is far away.
                    late = isinstance(problem, UnreachableError) or "hello in time" in problem.problem
                    if not late or attempt == ATTEMPTS_MAX:
                        raise
            yield client

    async def noise(self, name: str, amount: int) -> None:
        """A client that appends to a session of its own and reads it."""
        async with self.client() as client:
            session = await client.create_session(name)
            for number in range(amount):
                await session.append(SessionNoted(f"{number}", "k"))
            await session.append(end_note())
            follower = Follower(name, session_id=name)
            await follower.follow(client)
        must(len(follower.events) == amount + 2, "neighbours go on", follower.events)


async def session_of(workspace: Workspace, session_id: str = "s") -> Session:
    """The session, made where it is not there."""
    try:
        return await workspace.session(session_id)
    except UnknownSessionError:
        return await workspace.create_session(session_id)


def end_note() -> Envelope:
    """Follows on everything that a follower is to see."""
    return Envelope(SessionNoted(END, "end"), END)


@attrs.define(eq=False)
class Follower:
    """Reads a log to its end note, and remembers what it was given."""

    name: str
    after: Any = START
    session_id: Any = "s"
    ends: int = 1
    """End notes that it waits for."""
    begun: Cursor | None = None
    """Where the server began."""
    place: Cursor | None = None
    """After the last item."""
    events: list[RecordedEvent] = attrs.field(factory=list)
    transcript: Transcript = attrs.field(factory=Transcript)
    snapshots: int = 0
    caught_up: int = 0
    lagging: int = 0
    resets: list[Reset] = attrs.field(factory=list)
    pause: Callable[[], Awaitable[object]] | None = None
    """Awaited before each item: a reader that is slow."""
    entered: trio.Event = attrs.field(factory=trio.Event)

    async def follow(self, client: Client, *, at_most: int | None = None) -> None:
        """Follow until the last end note, or a reset; or for so many events, and go on behind them when called again."""
        async with client.log(after=self.place or self.after, session_id=self.session_id) as log:
            refused = self.place is not None and log.cursor is None
            goes_on = refused or self.place in (None, log.cursor)
            must(goes_on, f"{self.name}: it goes on where it left", (self.place, log.cursor))
            self.begun = self.begun or log.cursor
            self.entered.set()
            until = None if at_most is None else len(self.events) + at_most
            while self.ends and not self.resets and len(self.events) != until:
                if self.pause is not None:
                    await self.pause()
                self._take(await anext(log))
                must(not refused or bool(self.resets), f"{self.name}: a cursor that is refused is a reset")
                must(bool(self.resets) or log.cursor == self.place, f"{self.name}: it stands behind its last item")

    def _take(self, item: LogItem | ReadSnapshot) -> None:
        match item:
            case Reset():
                self.resets.append(item)
                return
            case RecordedEvent():
                self.events.append(item)
                self.transcript.apply(item)
                self.ends -= item.event_id == END
            case CaughtUp():
                self.caught_up += 1
            case Lagging():
                self.lagging += 1
            case ReadSnapshot():
                must(not self.events and not self.snapshots, f"{self.name}: a snapshot comes first, once")
                self.snapshots += 1
                self.transcript = Transcript.of(item)
        self.place = item.cursor

    def check(self, found: Sequence[RecordedEvent]) -> None:
        """It was given every event of `found` behind its place, up to the last end note; nothing else, in order, once."""
        start = self.begun.position if self.begun is not None else 0
        last = self.events[-1].position if self.events else 0
        expected = [event for event in found if start < event.position <= last]
        must(self.ends == 0, f"{self.name}: it saw the end", self.ends)
        given, there = list(map(told_of, self.events)), list(map(told_of, expected))
        must(given == there, f"{self.name}: exactly the log, each event once, in order", (given, there))


def told_of(event: RecordedEvent) -> tuple[Any, ...]:
    """What a follower is told of an event."""
    return (
        event.position,
        event.session_id,
        event.incarnation,
        event.seq,
        event.type,
        event.event,
        event.event_id,
        event.outcome,
        event.recorded_at,
        event.cursor,
    )
