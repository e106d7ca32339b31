"""One subscription: the log, or a snapshot and then the log, as frames.

Owns: how events are cut into frames, what a subscription says in which order. Must not know: sockets.
Where events wait: in the log's own bounded buffer for this reader, and nowhere else. A client that does not read stops this
task at its next frame; the buffer overflows, the reader is told that it lags, and reads the log again.
Invariants: the frames of a subscription follow on each other without a gap; after its end nothing of it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import trio

from engine.errors import EngineError
from engine.events import HEAD, START, After, CaughtUp, Cursor, Lagging, LogItem, RecordedEvent, Reset
from engine.limits import ServerLimits, StreamLimits
from engine.server import frames
from engine.server.protocol import ServerProtocol
from engine.server.served import ServedLog, ServedWorkspace
from engine.server.shared import Shared
from engine.server.snapshots import parts
from engine.server.texts import Texts


class Listener(Protocol):
    """The connection that subscribed."""

    @property
    def protocol(self) -> ServerProtocol: ...

    @property
    def snapshots(self) -> trio.StrictFIFOLock:
        """Held by the subscription that is sending a snapshot."""

    async def send(self, make: Callable[[], str | None]) -> bool:
        """Send a text once the socket is free; False: there is nothing to be said any more."""


class Following:
    """A subscription on its way. `end` ends it: nothing that was not being written is said after that."""

    def __init__(self, shared: Shared, workspace: ServedWorkspace, frame: frames.Subscribe, listener: Listener) -> None:
        self._shared = shared
        self._workspace = workspace
        self._frame = frame
        self._listener = listener
        self._scope = trio.CancelScope()
        self._over = False

    def end(self) -> None:
        """Say nothing more. Its id may be used again right away."""
        self._over = True
        self._scope.cancel()

    async def run(self) -> None:
        """Follow until it is ended, refused or reset, or until the engine closes."""
        protocol, name = self._listener.protocol, self._frame.id
        with self._scope:
            try:
                await self._follow()
            except EngineError as problem:
                refusal = problem
                await self._say(lambda: protocol.refuse(name, refusal))

    async def _follow(self) -> None:
        protocol, name = self._listener.protocol, self._frame.id
        if self._frame.after == "snapshot":
            # One at a time: a snapshot is large, and a client that does not read it has it in memory.
            async with self._listener.snapshots:
                after = await self._show()
            async with self._log(after) as log:
                await self._pass_on(log)
            return
        async with self._log(_place(self._frame.after)) as log:
            await self._say(partial(protocol.begin, name, log.cursor))
            await self._pass_on(log)

    async def _show(self) -> Cursor:
        """Send the read model as it is at a place in the log; that place."""
        protocol, frame = self._listener.protocol, self._frame
        read = self._workspace.read
        if frame.sessions is None:
            snapshot = await read.snapshot(None, sessions=frame.messages)
        else:
            snapshot = await read.snapshot(frame.sessions, messages=frame.messages)
        await self._say(partial(protocol.begin, frame.id, snapshot.cursor, snapshot=True))
        bytes_max = self._shared.limits.events_bytes
        for sessions, last in parts(snapshot, bytes_max=bytes_max):
            await self._say(partial(protocol.snapshot, frame.id, sessions, last=last, more=snapshot.more))
        return snapshot.cursor

    def _log(self, after: After) -> ServedLog:
        return self._workspace.log(
            after=after,
            follow=True,
            session_id=self._frame.sessions,
            skipped=self._frame.skipped,
            limits=stream_limits(self._shared.limits),
        )

    async def _pass_on(self, log: ServedLog) -> None:
        protocol, name = self._listener.protocol, self._frame.id
        limits, counters = self._shared.limits, self._shared.counters
        while items := await log.batch(limits.events_max, limits.events_bytes):
            for texts, cursor in cut(items, self._shared.texts, limits):
                if await self._say(partial(protocol.events, name, texts, cursor)):
                    counters.frames_sent += 1
                    counters.events_sent += len(texts)
            match items[-1]:
                case CaughtUp(cursor):
                    await self._say(partial(protocol.caught_up, name, cursor))
                case Lagging(cursor, dropped):
                    counters.lagging += 1
                    await self._say(partial(protocol.lagging, name, cursor, dropped))
                case Reset(reason, start):
                    await self._say(partial(protocol.reset, name, reason, start))
                    return

    async def _say(self, make: Callable[[], str | None]) -> bool:
        # The id may belong to another subscription by the time the socket is free.
        return await self._listener.send(lambda: None if self._over else make())


def stream_limits(limits: ServerLimits) -> StreamLimits:
    """What one subscription may hold in memory."""
    return StreamLimits(
        buffer_events_max=limits.buffer_events_max,
        buffer_bytes_max=limits.buffer_bytes_max,
        page_events_max=limits.page_events_max,
        page_bytes_max=limits.page_bytes_max,
    )


def _place(after: str) -> After:
    if after == "start":
        return START
    return HEAD if after == "now" else Cursor.parse(after)


def cut(items: Sequence[LogItem], texts: Texts, limits: ServerLimits) -> Iterator[tuple[list[str], Cursor]]:
    """The events of a batch as they go into frames, each with the cursor after it."""
    waiting: list[str] = []
    size = 0
    cursor: Cursor | None = None
    for item in items:
        if not isinstance(item, RecordedEvent):
            break
        text = texts.of(item)
        waiting.append(text)
        size += len(text)
        cursor = item.cursor
        if len(waiting) >= limits.events_max or size >= limits.events_bytes:
            yield waiting, cursor
            waiting, size = [], 0
    if waiting and cursor is not None:
        yield waiting, cursor
