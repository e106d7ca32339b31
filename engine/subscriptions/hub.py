"""The fan-out: committed events to the bounded buffers of whoever follows.

Owns: the list of subscribers, their buffers, what overflow does. Must not know: SQL, sockets.
Invariants: `publish` is synchronous, never waits and never fails because of a subscriber; events arrive in position order;
what a filter leaves out is not buffered, and a subscriber that does not want an event costs its publishing nothing; a buffer
is bounded in events and bytes, and one that overflows is emptied and marked, so that its reader goes back to the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import attrs
import trio

from engine.events import RecordedEvent
from engine.limits import StreamLimits
from engine.writer import Written

Want = tuple[str, str | None]
"""A workspace and one of its sessions; None stands for every session."""
Record = Callable[[Written], RecordedEvent]


@attrs.frozen(kw_only=True)
class HubStatistics:
    """Who follows, and how they keep up."""

    subscribers: int
    """Readers that follow now."""
    buffered_events: int
    """Events in their buffers, each counted per buffer."""
    buffered_bytes: int
    """Bytes of these events."""
    lagged: int
    """Times a buffer overflowed and its reader went back to the log."""


class Subscriber:
    """One follower's buffer, with its filter."""

    def __init__(self, hub: Hub, workspace: str, sessions: Sequence[str] | None, limits: StreamLimits) -> None:
        self._hub = hub
        names = (None,) if sessions is None else sessions
        self.wants: tuple[Want, ...] = tuple((workspace, name) for name in names)
        self._limits = limits
        self._events: deque[RecordedEvent] = deque()
        self._bytes = 0
        self.listening = False
        """Whether events are buffered. A reader of the log needs none of those that its next page will hold."""
        self.dropped = 0
        self.replaced = False
        self.closed = False
        self._wake = trio.Event()

    def offer(self, recorded: RecordedEvent) -> None:
        """Buffer one event, or overflow."""
        if not self.listening:
            return
        if self.dropped:
            self.dropped += 1
            return
        self._events.append(recorded)
        self._bytes += recorded.size_bytes
        if len(self._events) > self._limits.buffer_events_max or self._bytes > self._limits.buffer_bytes_max:
            self.dropped = len(self._events)
            self._clear()
            self._hub.lagged += 1
        self.wake()

    def wake(self) -> None:
        """Let the reader look."""
        self._wake.set()

    def peek(self) -> RecordedEvent | None:
        """The next buffered event, left where it is, or None."""
        return self._events[0] if self._events else None

    def take(self) -> None:
        """Drop the event that `peek` showed."""
        self._bytes -= self._events.popleft().size_bytes

    def restart(self, *, listening: bool) -> int:
        """Empty the buffer, and listen from now on or not; returns how many events were dropped by an overflow."""
        dropped, self.dropped = self.dropped, 0
        self.listening = listening
        self._clear()
        return dropped

    def _clear(self) -> None:
        self._events.clear()
        self._bytes = 0

    @property
    def size(self) -> tuple[int, int]:
        """(events, bytes) in the buffer."""
        return len(self._events), self._bytes

    async def wait(self) -> None:
        """Wait until there may be something to see."""
        if not self._events and not self.dropped and not self.replaced and not self.closed:
            self._wake = trio.Event()
            await self._wake.wait()
        else:
            await trio.lowlevel.checkpoint()


class Hub:
    """Everybody who follows this engine's log in this process."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._subscribers: dict[Subscriber, None] = {}
        self._wanting: dict[Want, dict[Subscriber, None]] = {}
        """Who wants a session's events, or a workspace's. A subscriber names sessions or none, so nobody is in both."""
        self.published = 0
        self.lagged = 0
        self.closed = False
        """Whether nothing will be published any more."""

    def attach(self, workspace: str, sessions: Sequence[str] | None, limits: StreamLimits) -> Subscriber:
        """A new subscriber to these sessions (None: to the workspace). It hears of replacements at once, and gets everything
        published while it listens."""
        subscriber = Subscriber(self, workspace, sessions, limits)
        # One that comes while the engine closes must not wait for what nobody will publish.
        subscriber.closed = self.closed
        self._subscribers[subscriber] = None
        for want in subscriber.wants:
            self._wanting.setdefault(want, {})[subscriber] = None
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        """Drop a subscriber. Idempotent."""
        if subscriber not in self._subscribers:
            return
        del self._subscribers[subscriber]
        for want in subscriber.wants:
            others = self._wanting[want]
            del others[subscriber]
            if not others:
                del self._wanting[want]

    def publish(self, written: Sequence[Written], replaced: Sequence[tuple[str, str]]) -> None:
        """Hand committed events, in position order, to whoever wants them."""
        if self._subscribers:
            for workspace, session_id in replaced:
                for subscriber in self._wanted_by(workspace, session_id):
                    subscriber.replaced = True
                    subscriber.wake()
            for item in written:
                self._offer(item)
        if written:
            self.published = written[-1].recorded.position

    def _wanted_by(self, workspace: str, session_id: str) -> Iterator[Subscriber]:
        for want in ((workspace, None), (workspace, session_id)):
            yield from self._wanting.get(want, ())

    def _offer(self, item: Written) -> None:
        recorded: RecordedEvent | None = None
        for subscriber in self._wanted_by(item.recorded.workspace, item.recorded.session_id):
            if not subscriber.replaced:
                recorded = recorded or self._record(item)
                subscriber.offer(recorded)

    def close(self) -> None:
        """Let every reader end after what it has."""
        self.closed = True
        for subscriber in self._subscribers:
            subscriber.closed = True
            subscriber.wake()

    def statistics(self) -> HubStatistics:
        """Who follows now."""
        sizes = [subscriber.size for subscriber in self._subscribers]
        return HubStatistics(
            subscribers=len(sizes),
            buffered_events=sum(events for events, _ in sizes),
            buffered_bytes=sum(size for _, size in sizes),
            lagged=self.lagged,
        )
