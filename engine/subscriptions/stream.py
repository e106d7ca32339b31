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

import attrs
import trio

from engine.errors import ClosedError, InvalidArgumentError
from engine.events import START, After, CaughtUp, Cursor, Lagging, LogItem, RecordedEvent, Reset, Skipped
from engine.limits import StreamLimits
from engine.ports import Ports
from engine.store import STRIDE, LogReader
from engine.subscriptions.hub import Hub, Subscriber

REPLACED = "imported events before this cursor were replaced"


class LogStream:
    """`async with engine.log(...) as log: async for item in log: ...`.

    Yields `RecordedEvent`s in position order, `CaughtUp` whenever everything committed was delivered (with `follow`, also
    after each `Lagging`), `Lagging` when the buffer overflowed and the log is read again, and `Reset` at the end when what
    the reader holds is no longer the log's content. Without `follow` it ends after `CaughtUp`; with it, a live stream ends
    when the engine closes, after everything committed, and one that is still catching up then ends after what it has read,
    without a `CaughtUp`. One reader at a time; items and batches may be mixed.

    Entering raises `CursorError` for a cursor that this log cannot have given, and `ClosedError` on a closed engine.
    Reading raises a `StorageError` where the disk fails, and `ClosedError` before entering or, without `follow`, where the
    engine closed before the end: nothing is lost then, another stream at `cursor` goes on. Cancelled between two items,
    nothing is lost either: the next item, or a new stream from the last item's cursor, continues exactly there.

    Memory is bounded by the stream's `StreamLimits`: at most its buffer and one page, each of them with one event more,
    whether or not anybody reads; the buffer holds something only while the stream is live.
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
        limits: StreamLimits,
    ) -> None:
        for name, value in attrs.asdict(limits).items():
            _check_bound(f"limits.{name}", value)
        self._reader = reader
        self._hub = hub
        self._ports = ports
        self._workspace = workspace
        self._after = after
        self._follow = follow
        self._sessions = sessions
        self._skipped = skipped
        self._limits = limits
        self._scan = reader.scan(workspace, sessions)
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
        """Where this reader stands: after the last item it was given, and any events that its filter left out since."""
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
            reset = self._stale()
        self._state = "catching up"
        if reset is not None:
            self._end_with(reset)

    def _stale(self) -> Reset | None:
        """The reset for what was replaced since the cursor that the reader came with. In a snapshot."""
        if not isinstance(self._after, Cursor):
            return None
        return self._reader.stale(self._after, self._workspace, self._sessions)

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
        items = await self._next(1, 1)
        if not items:
            raise StopAsyncIteration
        return items[0]

    async def batch(self, events_max: int, bytes_max: int) -> list[LogItem]:
        """Wait for one item, and return it with what can be had after it without waiting: `[events..., marker or none]`.

        Args:
            events_max: items of the batch, 1 or more.
            bytes_max: bytes of encoded events, 1 or more; one larger event still makes a batch.

        `CaughtUp`, `Lagging` and `Reset` are the last item of the batch they are in. A batch that is not full does not mean
        that there is no more: it ends with the page that was read. An empty one means that the stream has ended.
        `cursor` is the place after the last item of the batch.

        Raises what reading the stream raises, and `InvalidArgumentError`. Cancelled, no item is lost: the next call has
        them. A batch costs one checkpoint, however large it is.
        """
        _check_bound("events_max", events_max)
        _check_bound("bytes_max", bytes_max)
        return await self._next(events_max, bytes_max)

    async def _next(self, events_max: int, bytes_max: int) -> list[LogItem]:
        if self._state == "new":
            raise ClosedError("the log stream: it is used before `async with`; it")
        await trio.lowlevel.checkpoint()
        while True:
            if self._state == "live" and not self._ready:
                items = self._take_live(events_max, bytes_max)
            else:
                items = self._take_ready(events_max, bytes_max)
            if items:
                return items
            if self._ready:
                continue
            if self._state == "ended":
                return items
            if self._state == "live":
                assert self._subscriber is not None
                await self._subscriber.wait()
                continue
            await self._ports.step(self._catch_up)
            if not self._ready:
                # A page of which nothing is wanted; there may be many of them.
                await trio.lowlevel.checkpoint()

    def _wants(self, recorded: RecordedEvent) -> bool:
        return self._skipped or not isinstance(recorded.outcome, Skipped)

    def _take_ready(self, events_max: int, bytes_max: int) -> list[LogItem]:
        """Some of the page that was read: events, or one marker alone."""
        items: list[LogItem] = []
        size = 0
        ready = self._ready
        while ready and len(items) < events_max:
            item = ready[0]
            if isinstance(item, RecordedEvent):
                size += item.size_bytes
                if items and size > bytes_max:
                    break
                self._position, self._epoch = item.position, item.cursor.epoch
            items.append(ready.popleft())
        return items

    def _take_live(self, events_max: int, bytes_max: int) -> list[LogItem]:
        """Some of the buffer; where it is empty, whatever else has happened."""
        subscriber = self._subscriber
        assert subscriber is not None
        items: list[LogItem] = []
        if subscriber.replaced:
            self._end_with(Reset(REPLACED, None))
            return items
        size = 0
        while len(items) < events_max and (recorded := subscriber.peek()) is not None:
            if recorded.position > self._read:
                wanted = self._wants(recorded)
                if wanted:
                    size += recorded.size_bytes
                    if items and size > bytes_max:
                        break
                    items.append(recorded)
                if wanted or not items:
                    self._position, self._epoch = recorded.position, recorded.cursor.epoch
                self._read = recorded.position
            subscriber.take()
        if items:
            return items
        if subscriber.dropped:
            self._ready.append(Lagging(self.cursor, subscriber.restart(listening=False)))
            self._state = "catching up"
        elif subscriber.closed:
            self._detach()
            self._state = "ended"
        return items

    def _end_with(self, reset: Reset) -> None:
        self._ready.append(reset)
        self._detach()
        self._state = "ended"

    def _catch_up(self) -> None:
        """Read the next page of the log; when there is none, go live."""
        # One that does not follow is attached too, to hear of a replacement between two pages.
        if self._hub is not None and self._subscriber is None:
            self._subscriber = self._hub.attach(self._workspace, self._sessions, self._limits)
            # What was replaced after the stream was opened, and before it could hear of it.
            with self._reader.snapshot():
                reset = self._stale()
            if reset is not None:
                self._end_with(reset)
                return
        if self._subscriber is not None:
            # Before anything is read: what is committed from here on is in the buffer or in the page.
            self._subscriber.restart(listening=self._follow)
            if self._subscriber.replaced:
                self._end_with(Reset(REPLACED, None))
                return
        try:
            events, top, whole = self._page()
        except ClosedError:
            if not self._follow or self._hub is None or not self._hub.closed:
                raise
            self._detach()
            self._state = "ended"
            return
        if events:
            if self._subscriber is not None:
                self._subscriber.restart(listening=False)
            self._read = events[-1].position
            self._ready.extend(event for event in events if self._wants(event))
            if not self._ready:
                self._position, self._epoch = self._read, events[-1].cursor.epoch
            return
        if not whole:
            # Nothing but other workspaces' events so far. The reader's own place stays where its last event was.
            self._read = top.position
            if self._subscriber is not None:
                self._subscriber.restart(listening=False)
            return
        if top.position > self._position:
            self._position, self._epoch = top.position, top.epoch
        self._read = self._position
        self._ready.append(CaughtUp(self.cursor))
        if self._follow and self._subscriber is not None:
            self._state = "live"
        else:
            self._detach()
            self._state = "ended"

    def _page(self) -> tuple[list[RecordedEvent], Cursor, bool]:
        """The next events that may be told, the place up to which it was looked, and whether that is all there is."""
        published = self._hub.published if self._hub is not None else None
        with self._reader.snapshot() as snapshot:
            top = snapshot.head if published is None else min(published, snapshot.head)
            upto = top
            if self._sessions is None:
                # Sessions are read by their own index, a workspace's log between everybody else's events.
                upto = min(top, max(self._read, self._position) + STRIDE)
            events = self._scan(self._read, upto, self._limits.page_events_max, self._limits.page_bytes_max)
            return events, Cursor(self._reader.epoch_of(upto) if upto else snapshot.epoch, upto), upto == top


def _check_bound(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise InvalidArgumentError(name, f"expected 1 or more, found {value!r:.60}")
