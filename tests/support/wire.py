"""The two pure halves of the protocol, joined by a link in memory that loses what it is told to lose, over a model of a log.

Nothing here waits: every step (a frame sent, received, carried out, lost) is the test's choice.
"""

from __future__ import annotations

from collections import deque

import attrs
import msgspec

from engine.client.following import Arrived, Following, Item, ReadModelArrived
from engine.client.outbox import Answer, Pending
from engine.client.posted import post
from engine.client.protocol import ClientProtocol
from engine.errors import ClosedError, EngineError
from engine.events import BUILT_IN, Applied, CaughtUp, Cursor, Lagging, PartDelta, RecordedEvent, Registry, prepare
from engine.limits import ClientLimits, Limits, ServerLimits
from engine.server import frames
from engine.server.access import Grant
from engine.server.protocol import Close, Say, ServerProtocol

REGISTRY = Registry(BUILT_IN)
SESSIONS = ("s", "t")
CLIENT_LIMITS = ClientLimits(commands_max=3, buffer_events_max=4, buffer_bytes_max=2_000, posts_events_max=6)
SERVER_LIMITS = ServerLimits(commands_max=4, subscriptions_max=8)


class Answers:
    """A reply channel that remembers: it must be answered once."""

    def __init__(self) -> None:
        self.value: Answer | None = None
        self.error: BaseException | None = None

    def resolve(self, value: Answer) -> None:
        """Answered."""
        assert self.value is None
        assert self.error is None
        self.value = value

    def reject(self, error: BaseException) -> None:
        """Refused."""
        assert self.value is None
        assert self.error is None
        self.error = error


class Failures:
    """Who posts."""

    def __init__(self) -> None:
        self.errors: list[EngineError] = []

    def failed(self, error: EngineError) -> None:
        """A post was not written."""
        self.errors.append(error)


@attrs.define(eq=False)
class ModelLog:
    """What a file holds: events in order, ids written once."""

    events: list[RecordedEvent] = attrs.field(factory=list)
    epoch: int = 1
    position: int = 0
    ids: dict[str, RecordedEvent] = attrs.field(factory=dict)

    def head(self) -> Cursor:
        """After the last event."""
        return self.events[-1].cursor if self.events else Cursor("1", 0)

    def append(self, session_id: str, event_id: str, event: PartDelta) -> tuple[RecordedEvent, bool]:
        """Write an event unless its id is known. Returns it, and whether it was."""
        known = self.ids.get(event_id)
        if known is not None:
            assert known.event == event, "an id came again with another content"
            return known, True
        self.position += 1 + len(self.events) % 3
        cursor = Cursor(f"{self.epoch}", self.position)
        seq = 1 + sum(recorded.session_id == session_id for recorded in self.events)
        recorded = RecordedEvent(
            self.position, cursor, "default", session_id, 1, seq, "part.delta", 1, event, event_id, 0, 0, None, Applied(), 0
        )
        self.events.append(recorded)
        self.ids[event_id] = recorded
        return recorded, False


@attrs.define
class ServerSide:
    """One connection as the server has it."""

    protocol: ServerProtocol
    received: deque[frames.Command] = attrs.field(factory=deque)
    positions: dict[str, int] = attrs.field(factory=dict)
    filters: dict[str, list[str] | None] = attrs.field(factory=dict)
    parts: dict[str, int] = attrs.field(factory=dict)
    """Parts of a snapshot that are still to come."""


@attrs.define(eq=False)
class Reader:
    """Who reads a subscription, and what he got."""

    following: Following
    sessions: list[str] | None
    after: str
    begun_at: Cursor | None = None
    events: list[str] = attrs.field(factory=list)
    items: list[Item] = attrs.field(factory=list)


class World:
    """A client, a server, the link between them, the log behind."""

    def __init__(self) -> None:
        self.log = ModelLog()
        self.client = ClientProtocol(CLIENT_LIMITS)
        self.server: ServerSide | None = None
        self.to_server: deque[str] = deque()
        self.to_client: deque[str] = deque()
        self.readers: list[Reader] = []
        self.commands: list[tuple[Pending, Answers]] = []
        self.sent = 0
        self.sink = Failures()
        self.texts = dict.fromkeys(SESSIONS, "")
        """What was posted to each session, in its order."""
        self.flushes: list[tuple[str, str, Answers]] = []

    # --- callers --------------------------------------------------------------------------------------

    def follow(self, after: str, sessions: list[str] | None) -> Reader:
        """A new reader."""
        reader = Reader(Following(CLIENT_LIMITS, after=after, sessions=sessions), sessions, after)
        self.client.follow(reader.following)
        self.readers.append(reader)
        return reader

    def append(self, session_id: str) -> Pending:
        """An append of two events."""
        self.sent += 1
        name = f"cmd_{self.sent}"
        event = frames.WireEvent(type="part.delta", event=msgspec.Raw(_json(f"a{self.sent}", 0, "x")))
        frame = frames.Append(id=name, session_id=session_id, incarnation=1, events=[event, event])
        answers = Answers()
        pending = self.client.command(frame, answers)
        self.commands.append((pending, answers))
        return pending

    def post(self, session_id: str, text: str) -> bool:
        """Post text, where there is room."""
        offset = len(self.texts[session_id])
        event = prepare(REGISTRY, PartDelta("posted", "m", "text", offset, text), Limits())
        self.sent += 1
        posted = post(f"post_{self.sent}", session_id, 1, (event,), self.sink)
        if not self.client.outbox.has_room(posted):
            return False
        self.client.post(posted)
        self.texts[session_id] += text
        return True

    def flush(self, session_id: str) -> None:
        """Ask for everything posted in a session so far."""
        self.sent += 1
        answers = Answers()
        self.client.command(frames.Flush(id=f"cmd_{self.sent}", session_id=session_id, incarnation=1), answers)
        self.flushes.append((session_id, self.texts[session_id], answers))

    def read(self, reader: Reader) -> bool:
        """Take one item."""
        item = self.client.take(reader.following)
        if item is None:
            return False
        reader.items.append(item)
        if isinstance(item, Arrived):
            reader.events.append(item.event.event_id)
        elif isinstance(item, ReadModelArrived):
            assert reader.begun_at is None
            assert [bytes(part.session) for part in item.sessions] == [b"0", b"1", b"2"]
            reader.begun_at = item.cursor
        else:
            assert isinstance(item, CaughtUp | Lagging)
        return True

    # --- the link ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        """A new connection, where there is none."""
        if self.server is None:
            self.client.connected()
            self.server = ServerSide(ServerProtocol(SERVER_LIMITS, Grant()))
            self.to_client.append(self.server.protocol.open(Grant(), epoch=str(self.log.epoch), head=self.log.head()))

    def client_sends(self) -> bool:
        """The client puts one frame on the link."""
        text = self.client.next() if self.server is not None else None
        if text is not None:
            self.to_server.append(text)
        return text is not None

    def client_receives(self) -> bool:
        """The client takes one frame from the link."""
        if not self.to_client:
            return False
        self.client.receive(self.to_client.popleft())
        self.note_beginnings()
        return True

    def note_beginnings(self) -> None:
        """Remember where readers began; a flush that was answered left its posts in the log."""
        for reader in self.readers:
            if reader.begun_at is None and reader.after != "snapshot":
                reader.begun_at = reader.following.cursor
        for session_id, text, answers in self.flushes:
            if answers.value is not None:
                assert self.posted(session_id).startswith(text)

    def lose(self, *, server_gets: int, client_gets: int) -> None:
        """The connection breaks; of what is on its way some still arrives, at the server first."""
        for _ in range(server_gets):
            self.server_receives()
            self.server_works()
        for _ in range(client_gets):
            self.client_receives()
        self.to_server.clear()
        self.to_client.clear()
        self.server = None
        self.client.lost()

    def close(self) -> None:
        """The server shuts down in an orderly way: what it has not begun is refused, then the connection ends."""
        if self.server is not None:
            server = self.server.protocol
            while self.server.received:
                text = server.refuse(self.server.received.popleft().id, ClosedError("the engine"))
                assert text is not None
                self.to_client.append(text)
            self.to_client.append(server.closing("restart"))
            self.lose(server_gets=0, client_gets=len(self.to_client))

    def restart(self) -> None:
        """Another process serves the same file."""
        if self.server is not None:
            self.lose(server_gets=0, client_gets=0)
        self.log.epoch += 1

    # --- the server -------------------------------------------------------------------------------------

    def server_receives(self) -> bool:
        """The server takes one frame from the link."""
        server = self.server
        if server is None or not self.to_server or not server.protocol.has_room:
            return False
        got = server.protocol.receive(self.to_server.popleft())
        assert not isinstance(got, Close), got
        if isinstance(got, Say):
            assert '"unsubscribed"' in got.text, got.text
            self.to_client.append(got.text)
        elif isinstance(got, frames.Subscribe):
            self._begin(server, got)
        elif isinstance(got, frames.Unsubscribe):
            server.positions.pop(got.id, None)
            self.to_client.append(server.protocol.unsubscribe(got.id))
        else:
            assert not isinstance(got, frames.Auth)
            server.received.append(got)
        return True

    def _begin(self, server: ServerSide, frame: frames.Subscribe) -> None:
        if frame.after in ("now", "snapshot"):
            cursor = self.log.head()
        else:
            cursor = Cursor("1", 0) if frame.after == "start" else Cursor.parse(frame.after)
        assert cursor.position <= self.log.position, "a cursor from the future"
        server.positions[frame.id], server.filters[frame.id] = cursor.position, frame.sessions
        if frame.after == "snapshot":
            server.parts[frame.id] = 3
        self._say(server.protocol.begin(frame.id, cursor, snapshot=frame.after == "snapshot"))

    def server_works(self) -> bool:
        """The server carries out the oldest command."""
        server = self.server
        if server is None or not server.received:
            return False
        frame = server.received.popleft()
        if isinstance(frame, frames.Flush):
            self._say(server.protocol.answer(frames.Flushed(id=frame.id)))
            return True
        assert isinstance(frame, frames.Append | frames.Post)
        entries = []
        for index, wire in enumerate(frame.events):
            event = msgspec.json.decode(wire.event, type=PartDelta)
            event_id = frame.id if len(frame.events) == 1 else f"{frame.id}.{index}"
            recorded, known = self.log.append(frame.session_id, event_id, event)
            outcome, original = ("duplicate", "applied") if known else ("applied", None)
            entries.append(
                frames.WireReceiptEvent(
                    event_id=event_id, seq=recorded.seq, position=recorded.position, outcome=outcome, original=original
                )
            )
        if isinstance(frame, frames.Post):
            server.protocol.posted(frame.id)
        else:
            answer = frames.Receipt(id=frame.id, session_id=frame.session_id, incarnation=1, events=entries)
            self._say(server.protocol.answer(answer))
        return True

    def server_publishes(self, which: int, events_max: int) -> bool:
        """The server sends to one subscription: a part of its snapshot, or up to so many events. False where it has all."""
        server = self.server
        if server is None or not server.positions:
            return False
        name = list(server.positions)[which % len(server.positions)]
        if server.parts.get(name):
            part = frames.WireSession(
                session=msgspec.Raw(str(3 - server.parts[name]).encode()), messages=[], more=False, usage=msgspec.Raw(b"{}")
            )
            server.parts[name] -= 1
            self._say(server.protocol.snapshot(name, [part], last=not server.parts[name]))
            return True
        wanted = server.filters[name]
        ahead = [recorded for recorded in self.log.events if recorded.position > server.positions[name]]
        chosen = ahead[:events_max]
        if not chosen:
            return False
        server.positions[name] = chosen[-1].position
        texts = [frames.encode_event(recorded) for recorded in chosen if wanted is None or recorded.session_id in wanted]
        if texts:
            self._say(server.protocol.events(name, texts, chosen[-1].cursor))
        return True

    def server_marks(self, which: int, *, lagging: bool) -> None:
        """The server says that a subscription has everything, or that it reads too slowly."""
        server = self.server
        if server is None or not server.positions:
            return
        name = list(server.positions)[which % len(server.positions)]
        if server.parts.get(name):
            return
        place = max(
            (r for r in self.log.events if r.position <= server.positions[name]), key=lambda r: r.position, default=None
        )
        cursor = place.cursor if place is not None else Cursor("1", 0)
        if lagging:
            self._say(server.protocol.lagging(name, cursor, 3))
        elif server.positions[name] == self.log.position:
            self._say(server.protocol.caught_up(name, cursor))

    def _say(self, text: str | None) -> None:
        assert text is not None
        self.to_client.append(text)

    # --- the end ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything go on until nothing more happens."""
        self.connect()
        busy = True
        while busy:
            busy = False
            while self.client_sends() or self.server_receives() or self.server_works():
                busy = True
            for which in range(len(self.server.positions) if self.server is not None else 0):
                busy |= self.server_publishes(which, 4)
            while self.client_receives():
                busy = True
            for reader in self.readers:
                while self.read(reader):
                    busy = True

    def posted(self, session_id: str) -> str:
        """The posted text that is in the log."""
        text = ""
        for recorded in self.log.events:
            if recorded.session_id == session_id and recorded.event.part_id == "posted":
                assert recorded.event.offset == len(text), "posted text is out of order, doubled or lost"
                text += recorded.event.text
        return text

    def check(self) -> None:
        """After `settle`: every reader has exactly the events after his place; every command and post had its one effect."""
        for reader in self.readers:
            assert reader.begun_at is not None
            expected = [
                recorded.event_id
                for recorded in self.log.events
                if recorded.position > reader.begun_at.position
                and (reader.sessions is None or recorded.session_id in reader.sessions)
            ]
            assert reader.events == expected
        for pending, answers in self.commands:
            effect = sum(recorded.event_id.startswith(f"{pending.frame.id}.") for recorded in self.log.events)
            cancelled = pending.reply is None
            # What was cancelled on its way may have arrived or not; before it went out, it must not.
            assert effect in ((0, 2) if cancelled and pending.sent else (0,) if cancelled else (2,))
            assert answers.error is None
            assert (answers.value is None) == cancelled
        for session_id in SESSIONS:
            assert self.posted(session_id) == self.texts[session_id]
        assert all(answers.value is not None for _, _, answers in self.flushes)
        assert self.sink.errors == []


def _json(part_id: str, offset: int, text: str) -> bytes:
    return msgspec.json.encode(PartDelta(part_id, "m", "text", offset, text))
