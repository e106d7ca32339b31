"""One reader of the log: catching up from a place, then live, without gap, duplicate or reorder.

Owns: the state machine catching up -> live -> lagging -> catching up, and the async iterator over it.
Must not know: who publishes.
How the hand-over leaves no gap: the subscriber is attached first, then the rest of the log is read in one synchronous step;
whatever is committed later goes to the buffer, and what is in both is recognised by its position.
Nothing past the last published position is read while following, so an event is never delivered before its COMMIT has
been made durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import trio

from engine.errors import ClosedError
from engine.events import START, After, CaughtUp, Cursor, Lagging, LogItem, RecordedEvent, Reset, Skipped
from engine.ports import Ports
from engine.store import LogReader
from engine.subscriptions.hub import Hub, Subscriber

LIVE_TAKEN = 100
"""Events taken out of the buffer at once: few enough that the buffer's bounds stay the bounds."""


class LogStream:
    """`async with engine.log(...) as log: async for item in log: ...`.

    Yields `RecordedEvent`s in position order, `CaughtUp` whenever everything committed was delivered (with `follow`, also
    after each `Lagging`), `Lagging` when the buffer overflowed and the log is read again, and `Reset` at the end when what
    the reader holds is no longer the log's content. Without `follow` it ends after `CaughtUp`.

    Entering raises `CursorError` for a cursor that this log cannot have given. Cancelled between two items, nothing is
    lost: the next item, or a new stream from the last item's cursor, continues exactly there. The buffer is bounded by
    `Limits.subscriber_events_max` and `subscriber_bytes_max`; a reader that does not read costs no more than that.
    """

    def __init__(
        self,
        reader: LogReader,
        hub: Hub | None,
        ports: Ports,
        *,
        workspace: str,
        after: After,
        follow: bool,
        sessions: Sequence[str] | None,
        skipped: bool,
    ) -> None:
        self._reader = reader
        self._hub = hub
        self._ports = ports
        self._workspace = workspace
        self._after = after
        self._follow = follow
        self._sessions = sessions
        self._skipped = skipped
        self._subscriber: Subscriber | None = None
        self._ready: deque[LogItem] = deque()
        self._position = 0
        self._read = 0
        self._epoch = ""
        self._state = "new"

    @property
    def state(self) -> str:
        """`new`, `catching up`, `live` or `ended`."""
        return self._state

    @property
    def cursor(self) -> Cursor:
        """Where this reader stands: after the last item it was given."""
        return Cursor(self._epoch, self._position)

    async def __aenter__(self) -> Self:
        await self._ports.step(self._open)
        await trio.lowlevel.checkpoint()
        return self

    def _open(self) -> None:
        with self._reader.snapshot() as snapshot:
            self._position = self._read = self._reader.resolve(self._after, snapshot)
            if isinstance(self._after, Cursor):
                self._epoch = self._after.epoch
            else:
                self._epoch = self._reader.epoch_of(0) if self._after is START else snapshot.epoch
            reset = None
            if isinstance(self._after, Cursor):
                reset = self._reader.stale(self._after, self._workspace, self._sessions)
        self._state = "catching up"
        if reset is not None:
            self._end_with(reset)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._detach()
        self._state = "ended"

    def _detach(self) -> None:
        if self._subscriber is not None and self._hub is not None:
            self._hub.detach(self._subscriber)
        self._subscriber = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogItem:
        if self._state == "new":
            raise ClosedError("the log stream: it is used before `async with`; it")
        while True:
            if self._ready:
                await trio.lowlevel.checkpoint()
                return self._deliver(self._ready.popleft())
            if self._state == "ended":
                raise StopAsyncIteration
            if self._state == "catching up":
                await self._ports.step(self._catch_up)
            else:
                await self._live()

    def _deliver(self, item: LogItem) -> LogItem:
        if isinstance(item, RecordedEvent):
            self._position, self._epoch = item.position, item.cursor.epoch
        return item

    def _end_with(self, reset: Reset) -> None:
        self._ready.append(reset)
        self._detach()
        self._state = "ended"

    def _catch_up(self) -> None:
        """Read the next page of the log; when there is none, go live."""
        # One that does not follow is attached too, to hear of a replacement between two pages.
        if self._hub is not None and self._subscriber is None:
            self._subscriber = self._hub.attach(self._workspace, self._sessions)
        if self._subscriber is not None:
            self._subscriber.restart()
            if self._subscriber.replaced:
                self._end_with(Reset("imported events before this cursor were replaced", None))
                return
        upto = self._hub.published if self._hub is not None else None
        with self._reader.snapshot() as snapshot:
            events = self._reader.events(workspace=self._workspace, after=self._read, upto=upto, sessions=self._sessions)
            top = snapshot.head if upto is None else min(upto, snapshot.head)
            epoch = self._reader.epoch_of(top) if top else snapshot.epoch
        if events:
            self._ready.extend(event for event in events if self._skipped or not isinstance(event.outcome, Skipped))
            self._read = events[-1].position
            return
        if top > self._position:
            self._position, self._epoch = top, epoch
        self._read = self._position
        self._ready.append(CaughtUp(self.cursor))
        if self._follow and self._subscriber is not None:
            self._state = "live"
        else:
            self._detach()
            self._state = "ended"

    async def _live(self) -> None:
        subscriber = self._subscriber
        assert subscriber is not None
        await subscriber.wait()
        if subscriber.replaced:
            self._end_with(Reset("imported events before this cursor were replaced", None))
            return
        while len(self._ready) < LIVE_TAKEN and (recorded := subscriber.take()) is not None:
            if recorded.position <= self._read:
                continue
            self._read = recorded.position
            if self._skipped or not isinstance(recorded.outcome, Skipped):
                self._ready.append(recorded)
            elif not self._ready:
                self._position, self._epoch = recorded.position, recorded.cursor.epoch
        if self._ready:
            return
        if subscriber.dropped:
            dropped = subscriber.restart()
            self._ready.append(Lagging(self.cursor, dropped))
            self._state = "catching up"
        elif subscriber.closed:
            self._detach()
            self._state = "ended"
