"""`RemoteLog`: the reader of one subscription.

Owns: the wait for its items, decoding them when they are taken. Must not know: sockets, reconnecting.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import trio

from engine.client.answers import recorded_of
from engine.client.core import Core
from engine.client.following import Arrived, Following, ReadModelArrived, ViolationError
from engine.client.snapshot import snapshot_of
from engine.errors import ClosedError
from engine.events import Cursor, LogItem
from engine.projections.views import ReadSnapshot


class RemoteLog:
    """`async with client.log(...) as log: async for item in log: ...`.

    Yields what the embedded engine's log yields: `RecordedEvent`s in position order, `CaughtUp`, `Lagging`, and `Reset` at
    the end when what the reader holds is no longer the log's content; with `SNAPSHOT` first a `ReadSnapshot`, as
    `engine.read.snapshot` gives it. Lost connections and restarted servers do not show: it goes on after the last event
    received, without gap or duplicate. `Lagging` comes from the server, or from here when this reader's own buffer was full
    (`ClientLimits.buffer_events_max`, `buffer_bytes_max`); either way the events that were let go come again. A cursor that
    the server refuses (the file was replaced, or lost its tail) is a `Reset`.

    Entering waits for the server to begin, so that after `HEAD` nothing that is committed from then on is missed. Entering
    and reading raise `LimitError` (too many subscriptions) or another error of the server that ended it; `UnauthorizedError`
    and `ProtocolError` when the client itself has ended by one. When the client is closed it ends.

    Only one task may read. Cancelled between two items nothing is lost: the next item, or a new log after the last item's
    cursor, continues exactly there.
    """

    def __init__(self, core: Core, *, after: str, sessions: list[str] | None, skipped: bool, messages: int) -> None:
        self._core = core
        self._changed = trio.Event()
        self._following = Following(
            core.limits, after=after, sessions=sessions, skipped=skipped, messages=messages, wake=self._wake
        )
        self._entered = False
        self._over = False

    @property
    def cursor(self) -> Cursor | None:
        """Where this reader stands: after the last item it was given. None until it has begun."""
        return self._following.cursor

    def _wake(self) -> None:
        self._changed.set()

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ClosedError("the log: it is entered a second time; it")
        self._core.check()
        self._entered = True
        self._core.protocol.follow(self._following)
        self._core.connection.wake()
        try:
            while not self._following.begun and not self._following.ended:
                await self._wait()
            self._raise_error()
        except BaseException:
            self._leave()
            raise
        return self

    def _raise_error(self) -> None:
        if self._following.error is not None:
            raise self._following.error.clone()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._over = True
        self._core.protocol.unfollow(self._following)
        self._core.connection.wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogItem | ReadSnapshot:
        if not self._entered:
            raise ClosedError("the log: it is used before `async with`; it")
        await trio.lowlevel.checkpoint_if_cancelled()
        following = self._following
        while not self._over:
            item = self._core.protocol.take(following)
            if item is not None:
                # A reader that was behind is asked for again.
                self._core.connection.wake()
                await trio.lowlevel.cancel_shielded_checkpoint()
                return self._made(item)
            if following.ended:
                self._raise_error()
                break
            await self._wait()
        raise StopAsyncIteration

    def _made(self, item: LogItem | Arrived | ReadModelArrived) -> LogItem | ReadSnapshot:
        try:
            if isinstance(item, Arrived):
                return recorded_of(self._core.registry, self._core.workspace, item)
            if isinstance(item, ReadModelArrived):
                return snapshot_of(item)
        except ViolationError as problem:
            raise self._core.violated(problem) from None
        return item

    async def _wait(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()
