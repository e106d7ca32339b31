"""One subscription as the client holds it: where it stands, what waits for its reader, what it must be asked again.

Owns: the cursor, the check that every frame follows on it, the bounded buffer, falling behind. Must not know: sockets, time,
who waits, the other subscriptions.

    idle ---> asked ---> [snapshot parts] ---> live ---> ended (reset, refused, closed by its reader)
     ^          |                               |
     |          +------ connection lost --------+---> asked again after the last cursor received in order
     +--- the buffer is full: asked again after what is in it, once its reader has taken that

Invariants: what reaches the buffer follows on what reached it before, without gap, duplicate or reorder, whatever happens to
connections; a snapshot reaches it whole or not at all; the buffer is bounded in events and bytes (a single frame that finds
it empty fits always); what reached it stays until it is taken, so that the slowest reader gets on; nothing comes after the
end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from engine.errors import CursorError, EngineError
from engine.events import CaughtUp, Cursor, Lagging, Reset
from engine.limits import ClientLimits
from engine.server import frames


class ViolationError(Exception):
    """What the server sent contradicts the protocol: something was missed, or comes where it may not."""


@attrs.frozen
class Arrived:
    """An event as it came, and the place after it. It is decoded only when its reader takes it."""

    cursor: Cursor
    event: frames.WireRecorded


@attrs.frozen
class ReadModelArrived:
    """A whole snapshot, its parts in the order they came."""

    cursor: Cursor
    sessions: tuple[frames.WireSession, ...]
    more: bool


Item = Arrived | ReadModelArrived | CaughtUp | Lagging | Reset


class Following:
    """A subscription. `after` is where it begins, as the wire says it: a cursor, `start`, `now` or `snapshot`."""

    def __init__(
        self,
        limits: ClientLimits,
        *,
        after: str,
        sessions: list[str] | None = None,
        skipped: bool = True,
        messages: int = 50,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._after = after
        self._sessions = sessions
        self._skipped = skipped
        self._messages = messages
        self._wake = wake
        self._items: deque[Item] = deque()
        self._events = 0
        self._bytes = 0
        self._dropped = 0
        self._parts: list[frames.WireSession] = []
        self._held: Cursor | None = None
        """After the last thing received in order; None until it has begun, and until a snapshot is whole."""
        self._delivered: Cursor | None = None
        """After the last thing that its reader was given."""
        self._place: Cursor | None = None
        """Where the subscription of this connection stands; None before `subscribed`."""
        self.begun = False
        """Whether the server has ever accepted it."""
        self.ended = False
        """Whether anything will still come."""
        self.error: EngineError | None = None
        """Why it ended, where that is an error."""

    @property
    def resumes(self) -> bool:
        """Whether asking it again continues something."""
        return self._held is not None

    @property
    def idle(self) -> bool:
        """Whether it waits for its reader, and need not be asked for."""
        return self.ended or self._dropped > 0

    @property
    def cursor(self) -> Cursor | None:
        """Where its reader stands; None until it has begun."""
        return self._delivered if self._items or self._dropped else self._held

    @property
    def buffered(self) -> tuple[int, int]:
        """(items, bytes) that wait for the reader."""
        return self._events, self._bytes

    # --- what the connection does ---------------------------------------------------------------------

    def ask(self, name: str) -> frames.Subscribe:
        """The frame that asks for it on a connection, under this name."""
        self._place = None
        return frames.Subscribe(
            id=name,
            sessions=self._sessions,
            after=self._after if self._held is None else str(self._held),
            skipped=self._skipped,
            messages=self._messages,
        )

    def begin(self, frame: frames.Subscribed) -> None:
        """The server accepted it."""
        if self._place is not None:
            raise ViolationError("'subscribed' came twice")
        place = _cursor(frame.cursor)
        if self._held is not None and place != self._held:
            raise ViolationError(f"asked to go on after {self._held}, and it begins after {place}")
        self._place = place
        if self._after != "snapshot" or self._held is not None:
            self._hold(place)
            self._begin()

    def snapshot(self, frame: frames.Snapshot) -> None:
        """A part of the read model that it begins with."""
        place = self._placed("snapshot")
        if self._after != "snapshot" or self._held is not None:
            raise ViolationError("a snapshot came that was not asked for")
        if _cursor(frame.cursor) != place:
            raise ViolationError(f"a part of the snapshot at {place} is one of {frame.cursor}")
        self._parts.extend(frame.sessions)
        if frame.last:
            self._hold(place)
            whole = ReadModelArrived(place, tuple(self._parts), frame.more)
            self._put(whole, _size(whole))
            self._parts.clear()
            self._begin()

    def events(self, frame: frames.Events) -> bool:
        """Committed events. Returns whether the buffer overflowed: then nothing more of this subscription is wanted."""
        place = self._whole("events")
        if frame.after != str(place):
            raise ViolationError(f"events after {frame.after} came where {place} was reached")
        arrived: list[Arrived] = []
        last = place
        for event in frame.events:
            cursor = _cursor(event.cursor)
            if cursor.position <= last.position:
                raise ViolationError(f"the event at {cursor} came behind {last}")
            arrived.append(Arrived(cursor, event))
            last = cursor
        reached = self._reached(frame.cursor, last)
        size = sum(weight(event) for event in frame.events)
        limits = self._limits
        if self._items and (
            self._events + len(arrived) > limits.buffer_events_max or self._bytes + size > limits.buffer_bytes_max
        ):
            self._overflow(len(arrived))
            return True
        self._hold(reached)
        for item in arrived:
            self._put(item, weight(item.event))
        self._wake()
        return False

    def caught_up(self, frame: frames.CaughtUp) -> bool:
        """Everything committed was sent. Returns whether the buffer overflowed."""
        return self._mark(CaughtUp(self._move(frame.cursor, self._whole("caught_up"))))

    def lagging(self, frame: frames.Lagging) -> bool:
        """The server let go of what waited, and reads it again. Returns whether the buffer overflowed."""
        return self._mark(Lagging(self._move(frame.cursor, self._whole("lagging")), frame.dropped))

    def reset(self, reason: str, start: Cursor | None) -> None:
        """What was received is no longer the log's content."""
        self._put(Reset(reason, start), 0)
        self._end()

    def refuse(self, error: EngineError) -> None:
        """The server ended it with an error. A cursor that it refuses is a reset: it must never be papered over."""
        if isinstance(error, CursorError):
            self.reset(str(error.describe()), None)
        else:
            self.error = error
            self._end()

    def lost(self) -> None:
        """The connection is gone."""
        self._place = None
        self._parts.clear()

    def close(self) -> None:
        """Nothing more is wanted."""
        if not self.ended:
            self._end()

    # --- what its reader does ---------------------------------------------------------------------------

    def take(self) -> Item | None:
        """The next item, or None where there is none yet. After `Lagging` it must be asked for again."""
        if not self._items:
            if not self._dropped:
                return None
            dropped, self._dropped = self._dropped, 0
            assert self._held is not None, "it overflowed before it began"
            return Lagging(self._held, dropped)
        item = self._items.popleft()
        self._events -= 1
        if isinstance(item, Arrived):
            self._bytes -= weight(item.event)
        elif isinstance(item, ReadModelArrived):
            self._bytes -= _size(item)
        if not isinstance(item, Reset):
            self._delivered = item.cursor
        return item

    # --- inner ------------------------------------------------------------------------------------------

    def _placed(self, what: str) -> Cursor:
        if self._place is None:
            raise ViolationError(f"{what!r} came before 'subscribed'")
        return self._place

    def _whole(self, what: str) -> Cursor:
        place = self._placed(what)
        if self._held is None:
            raise ViolationError(f"{what!r} came in the middle of a snapshot")
        return place

    def _hold(self, place: Cursor) -> None:
        self._held = self._place = place

    def _reached(self, token: str, least: Cursor) -> Cursor:
        cursor = _cursor(token)
        if cursor.position < least.position:
            raise ViolationError(f"the cursor {cursor} goes back behind {least}")
        return cursor

    def _move(self, token: str, least: Cursor) -> Cursor:
        cursor = self._reached(token, least)
        self._hold(cursor)
        return cursor

    def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            self._delivered = self._held
        self._wake()

    def _put(self, item: Item, size: int) -> None:
        self._items.append(item)
        self._events += 1
        self._bytes += size

    def _mark(self, item: CaughtUp | Lagging) -> bool:
        if self._events >= self._limits.buffer_events_max:
            self._overflow(0)
            return True
        self._put(item, 0)
        self._wake()
        return False

    def _overflow(self, more: int) -> None:
        """Let go of what finds no room: it comes again, after what waits already."""
        self._dropped = more or 1
        self._place = None
        self._wake()

    def _end(self) -> None:
        self.ended = True
        self._place = None
        self._parts.clear()
        self._wake()


def weight(event: frames.WireRecorded) -> int:
    """What an event weighs: the bytes of its content."""
    return len(event.event)


def _size(item: ReadModelArrived) -> int:
    return sum(len(view) for part in item.sessions for view in (part.session, *part.messages))


def _cursor(token: str) -> Cursor:
    try:
        return Cursor.parse(token)
    except CursorError as problem:
        raise ViolationError(problem.describe()) from None
