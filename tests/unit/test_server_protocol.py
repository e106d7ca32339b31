"""The server's half of the protocol: a state machine beside a simple model, and what its rules look like one by one."""

from __future__ import annotations

import json
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import CursorError, InvalidEventError, WrongExpectedSeqError
from engine.events import Cursor
from engine.limits import ServerLimits
from engine.server import frames
from engine.server.access import Grant
from engine.server.problems import CODES
from engine.server.protocol import Close, Pace, Say, ServerProtocol

LIMITS = ServerLimits(malformed_max=6, subscriptions_max=2, commands_max=3, commands_bytes_max=400)
WRITES, READS = Grant("acme", "write"), Grant("acme", "read")
CLOSE_REASON_BYTES_MAX = 123
"""RFC 6455 section 5.5: a control frame has 125 bytes, and two of a close frame's are its code."""


def at(position: int) -> Cursor:
    """A place in the log."""
    return Cursor("ab", position)


def opened(grant: Grant = WRITES, limits: ServerLimits = LIMITS) -> ServerProtocol:
    """A connection that has its token."""
    protocol = ServerProtocol(limits, None)
    protocol.open(grant, epoch="ab", head=at(0))
    return protocol


def sent(protocol: ServerProtocol, frame: frames.ClientFrame) -> Any:
    """What is to be done about a frame."""
    return protocol.receive(frames.encode(frame))


def said(found: Any) -> Any:
    """What is said at once about what came."""
    assert isinstance(found, Say), found
    return frames.decode_server(found.text)


def refusal(protocol: ServerProtocol, frame: frames.ClientFrame) -> tuple[str | None, str]:
    """The id and the code of an error that is said at once."""
    error = said(sent(protocol, frame))
    assert isinstance(error, frames.Error)
    return error.id, error.code


@attrs.define
class Followed:
    """What the model knows of a subscription: where its client is; None until it has begun."""

    cursor: Cursor | None = None
    parts_left: bool = False


class Connection(RuleBasedStateMachine):
    """A client that sends anything, and a shell that answers what is due, in any order."""

    names = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])

    def __init__(self) -> None:
        super().__init__()
        self.commands: dict[str, int] = {}
        self.followed: dict[str, Followed] = {}
        self.malformed = 0
        self.position = 0
        self.closed = False

    @initialize(writes=st.sampled_from([True, True, False]), at_once=st.sampled_from([True, True, True, False]))
    def connect(self, writes: bool, at_once: bool) -> None:
        """With a token in the handshake, or without."""
        self.grant = WRITES if writes else READS
        self.open = at_once
        self.protocol = ServerProtocol(LIMITS, self.grant if at_once else None)
        if at_once:
            self.protocol.open(self.grant, epoch="ab", head=at(0))

    def send(self, frame: frames.ClientFrame) -> Any:
        """One message from the client; None where the connection was closed for want of a token."""
        found = sent(self.protocol, frame)
        if self.open:
            return found
        assert found == Close(frames.UNAUTHORIZED, found.reason)
        self.closed = True
        return None

    def count_malformed(self, found: Any, frame_id: str | None) -> None:
        """It is said which frame it was, until there were too many."""
        self.malformed += 1
        if self.malformed > LIMITS.malformed_max:
            assert isinstance(found, Close)
            assert found.code == frames.MALFORMED
            self.closed = True
        else:
            error = said(found)
            assert (error.id, error.code, error.written) == (frame_id, "malformed_frame", "nothing")

    def in_use(self, name: str) -> bool:
        return name in self.commands or name in self.followed

    def some(self, data: st.DataObject) -> str:
        """A subscription, mostly one that there is."""
        return data.draw(st.sampled_from([*sorted(self.followed) * 3, "a", "e"]))

    # --- the client ---------------------------------------------------------------------------------

    @precondition(lambda self: not self.closed and not self.open)
    @rule()
    def authenticate(self) -> None:
        """The token comes as the first frame."""
        assert sent(self.protocol, frames.Auth(token="t")) == frames.Auth(token="t")
        self.open = True
        hello = frames.decode_server(self.protocol.open(self.grant, epoch="ab", head=at(9)))
        assert isinstance(hello, frames.Hello)
        assert (hello.workspace, hello.access, hello.head) == ("acme", self.grant.access, "ab-9")

    @precondition(lambda self: not self.closed and self.open)
    @rule()
    def authenticate_again(self) -> None:
        """A connection has one token."""
        self.count_malformed(self.send(frames.Auth(token="t")), None)

    @precondition(lambda self: not self.closed)
    @rule(text=st.sampled_from(["", "[]", '{"type":"flush"}', '{"type":"open","id":"a"}', '{"type":"read","id":"z"}']))
    def send_what_is_no_frame(self, text: str) -> None:
        """The refusal names the frame, unless its id belongs to something else."""
        found = self.protocol.receive(text)
        if not self.open:
            assert found == Close(frames.UNAUTHORIZED, found.reason)  # type: ignore[union-attr]
            self.closed = True
            return
        name = json.loads(text).get("id") if text.startswith("{") else None
        self.count_malformed(found, None if name is None or self.in_use(name) else name)

    @precondition(lambda self: not self.closed)
    @rule(name=names, kind=st.sampled_from([frames.Open, frames.Flush, frames.Stop, frames.Remove, frames.Read]))
    def command(self, name: str, kind: Any) -> None:
        """It is on its way, unless its id is in use or the token does not allow it."""
        frame = kind(id=name, session_id="sé")
        found = self.send(frame)
        if found is None:
            return
        if self.in_use(name):
            self.count_malformed(found, None)
        elif kind in (frames.Flush, frames.Stop, frames.Remove) and self.grant is READS:
            error = said(found)
            assert (error.id, error.code) == (name, "forbidden")
        else:
            assert found == frame
            self.commands[name] = len(frames.encode(frame).encode())

    @precondition(lambda self: not self.closed)
    @rule(name=names, after=st.sampled_from(["start", "now", "snapshot", "ab-3", "nowhere"]))
    def subscribe(self, name: str, after: str) -> None:
        """It is on its way, unless there are enough or the place is none."""
        frame = frames.Subscribe(id=name, after=after)
        found = self.send(frame)
        if found is None:
            return
        if self.in_use(name):
            self.count_malformed(found, None)
        elif len(self.followed) >= LIMITS.subscriptions_max:
            assert (said(found).id, said(found).code) == (name, "limit")
        elif after == "nowhere":
            assert (said(found).id, said(found).code) == (name, "cursor")
        else:
            assert found == frame
            self.followed[name] = Followed()

    @precondition(lambda self: not self.closed)
    @rule(name=names)
    def unsubscribe(self, name: str) -> None:
        """Answered once, whether or not it had ended by itself."""
        found = self.send(frames.Unsubscribe(id=name))
        if found is None:
            return
        if name not in self.followed:
            assert said(found) == frames.Unsubscribed(id=name, cursor="")
            return
        assert found == frames.Unsubscribe(id=name)
        followed = self.followed.pop(name)
        place = "" if followed.cursor is None or followed.parts_left else str(followed.cursor)
        answer = frames.decode_server(self.protocol.unsubscribe(name))
        assert answer == frames.Unsubscribed(id=name, cursor=place)

    # --- the shell: about commands --------------------------------------------------------------------

    @precondition(lambda self: self.commands)
    @rule(data=st.data(), how=st.sampled_from(["answer", "posted", "refuse"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        """A command is answered once; then its id is free."""
        name = data.draw(st.sampled_from(sorted(self.commands)))
        del self.commands[name]
        if how == "answer":
            flushed = frames.Flushed(id=name)
            assert frames.decode_server(self.protocol.answer(flushed)) == flushed
            with pytest.raises(KeyError):
                self.protocol.answer(flushed)
        elif how == "posted":
            self.protocol.posted(name)
        else:
            error: Any = frames.decode_server(self.protocol.refuse(name, WrongExpectedSeqError("s", 1, 2)) or "")
            assert (error.id, error.code) == (name, "wrong_expected_seq")

    @rule(name=names)
    def fail_later(self, name: str) -> None:
        """What a post brought may fail when its id belongs to something else already."""
        error: Any = frames.decode_server(self.protocol.failed_later(name, InvalidEventError("x", "y")))
        assert (error.id, error.code) == (None if self.in_use(name) else name, "invalid_event")

    # --- the shell: about subscriptions ---------------------------------------------------------------

    @rule(data=st.data(), snapshot=st.booleans())
    def begin(self, data: st.DataObject, snapshot: bool) -> None:
        """`subscribed` is the first that is said."""
        name = self.some(data)
        followed = self.followed.get(name)
        if followed is not None and followed.cursor is not None:
            return
        text = self.protocol.begin(name, at(self.position), snapshot=snapshot)
        if followed is None:
            assert text is None
            return
        assert frames.decode_server(text or "") == frames.Subscribed(id=name, cursor=f"ab-{self.position}")
        followed.cursor, followed.parts_left = at(self.position), snapshot

    @rule(data=st.data(), last=st.booleans())
    def tell_snapshot(self, data: st.DataObject, last: bool) -> None:
        """Its parts come right after `subscribed`, all at the one place."""
        name = self.some(data)
        followed = self.followed.get(name)
        if followed is not None and not followed.parts_left:
            return
        text = self.protocol.snapshot(name, [], last=last)
        if followed is None:
            assert text is None
            return
        assert followed.cursor is not None
        expected = frames.Snapshot(id=name, cursor=str(followed.cursor), sessions=[], more=False, last=last)
        assert frames.decode_server(text or "") == expected
        followed.parts_left = not last

    @rule(data=st.data(), how=st.sampled_from(["events", "caught_up", "lagging"]))
    def tell(self, data: st.DataObject, how: str) -> None:
        """Each frame of events follows on the place that the one before it left; nothing after the end."""
        name = self.some(data)
        followed = self.followed.get(name)
        if followed is not None and (followed.cursor is None or followed.parts_left):
            return
        self.position += 1
        cursor = at(self.position)
        if how == "events":
            text = self.protocol.events(name, [], cursor)
        elif how == "caught_up":
            text = self.protocol.caught_up(name, cursor)
        else:
            text = self.protocol.lagging(name, cursor, 3)
        if followed is None:
            assert text is None
            return
        frame: Any = frames.decode_server(text or "")
        assert (frame.id, frame.cursor) == (name, str(cursor))
        if isinstance(frame, frames.Events):
            assert frame.after == str(followed.cursor)
        followed.cursor = cursor

    @rule(data=st.data(), how=st.sampled_from(["reset", "refuse"]))
    def end(self, data: st.DataObject, how: str) -> None:
        """It ends once."""
        name = self.some(data)
        followed = self.followed.get(name)
        if name in self.commands or (how == "reset" and followed is not None and followed.cursor is None):
            return
        if how == "reset":
            text = self.protocol.reset(name, "replaced", None)
        else:
            text = self.protocol.refuse(name, CursorError("x", "y"))
        assert (text is None) == (followed is None)
        if text is not None:
            del self.followed[name]
            frame: Any = frames.decode_server(text)
            assert frame.id == name
            assert isinstance(frame, frames.Reset if how == "reset" else frames.Error)

    @precondition(lambda self: self.closed or len(self.followed) == LIMITS.subscriptions_max)
    @rule()
    def shut_down(self) -> None:
        """Whoever has begun, and is not inside a snapshot, learns where to go on; nothing more is said of any of them."""
        frame: Any = frames.decode_server(self.protocol.closing("bye"))
        assert frame.cursors == {
            name: str(followed.cursor)
            for name, followed in self.followed.items()
            if followed.cursor is not None and not followed.parts_left
        }
        self.followed.clear()

    # --- always ---------------------------------------------------------------------------------------

    @invariant()
    def it_knows_what_the_model_knows(self) -> None:
        """Ids, counts, room."""
        assert set(self.protocol.subscriptions) == set(self.followed)
        assert self.protocol.commands == len(self.commands)
        assert self.protocol.malformed >= self.malformed
        room = len(self.commands) < LIMITS.commands_max and sum(self.commands.values()) < LIMITS.commands_bytes_max
        assert self.protocol.has_room == room


Connection.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
test_a_connection_keeps_to_its_model = Connection.TestCase


# --- one by one ---------------------------------------------------------------------------------------


def test_nothing_but_a_token_is_looked_at_before_the_token() -> None:
    """A frame that would be refused closes just the same as one that would not."""
    for message in ('{"type":"open","id":"a","session_id":"s"}', "nonsense", '{"type":"auth"}'):
        found = ServerProtocol(LIMITS, None).receive(message)
        assert isinstance(found, Close)
        assert found.code == frames.UNAUTHORIZED
        assert "s" not in found.reason.split()


def test_every_close_reason_fits_a_close_frame() -> None:
    """Else the socket would fail instead of closing."""
    protocol = opened()
    found = [
        ServerProtocol(LIMITS, None).receive(""),
        ServerProtocol(LIMITS, None).receive('{"type":"open","id":"a","session_id":"s"}'),
        ServerProtocol(LIMITS, None).receive(b""),
        *(protocol.receive("") for _ in range(LIMITS.malformed_max + 1)),
    ]
    closes = [close for close in found if isinstance(close, Close)]
    assert len(closes) == 4
    assert all(close.code in frames.CLOSE_CODES for close in closes)
    assert all(len(close.reason.encode()) <= CLOSE_REASON_BYTES_MAX for close in closes)


@pytest.mark.parametrize(
    "frame",
    [
        frames.Create(id="a", session_id="s"),
        frames.Append(id="a", session_id="s", events=[]),
        frames.Post(id="a", session_id="s", events=[]),
        frames.Flush(id="a", session_id="s"),
        frames.Stop(id="a", session_id="s"),
        frames.Remove(id="a", session_id="s"),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_token_for_reading_changes_nothing(frame: frames.ClientFrame) -> None:
    """Whatever writes is forbidden, whatever else is wrong with it; the connection goes on."""
    protocol = opened(READS)
    assert refusal(protocol, frame) == ("a", "forbidden")
    assert (protocol.commands, protocol.malformed) == (0, 0)
    assert sent(protocol, frames.Open(id="a", session_id="s")) == frames.Open(id="a", session_id="s")


def test_what_says_nothing_is_refused() -> None:
    """An append of no events, a subscription to no sessions."""
    protocol = opened()
    assert refusal(protocol, frames.Append(id="a", session_id="s", events=[])) == ("a", "invalid_argument")
    assert refusal(protocol, frames.Post(id="a", session_id="s", events=[])) == ("a", "invalid_argument")
    assert refusal(protocol, frames.Subscribe(id="a", sessions=[])) == ("a", "invalid_argument")
    assert (protocol.commands, protocol.subscriptions) == (0, ())


def test_room_is_counted_in_bytes_of_utf_8() -> None:
    """As the limit says, and not in characters."""
    protocol = opened(limits=ServerLimits(commands_bytes_max=1_000))
    sent(protocol, frames.Open(id="a", session_id="é" * 450))
    assert protocol.has_room
    sent(protocol, frames.Open(id="b", session_id="é" * 30))
    assert not protocol.has_room
    protocol.answer(frames.Opened(id="a", session_id="s", incarnation=1))
    assert protocol.has_room


@pytest.mark.parametrize("name", ['"', "\\", "\n", "é\0", "\u2028", "</script>"])
def test_an_id_comes_back_as_it_was_given(name: str) -> None:
    """Also in frames that are put together from parts."""
    protocol = opened()
    sent(protocol, frames.Subscribe(id=name))
    protocol.begin(name, at(1))
    text = protocol.events(name, [], at(2))
    assert text is not None
    assert frames.decode_server(text) == frames.Events(id=name, after="ab-1", cursor="ab-2", events=[])


def test_nothing_is_said_of_a_subscription_before_it_began() -> None:
    """A shell that tries is stopped: its client would not know where the first frame follows on."""
    protocol = opened()
    sent(protocol, frames.Subscribe(id="a"))
    for say in (
        lambda: protocol.events("a", [], at(1)),
        lambda: protocol.caught_up("a", at(1)),
        lambda: protocol.lagging("a", at(1), 1),
        lambda: protocol.reset("a", "r", None),
        lambda: protocol.snapshot("a", [], last=True),
    ):
        with pytest.raises(AssertionError):
            say()
    protocol.begin("a", at(1))
    with pytest.raises(AssertionError):
        protocol.begin("a", at(1))
    with pytest.raises(AssertionError):
        protocol.snapshot("a", [], last=True)


def test_the_middle_of_a_snapshot_is_no_place_to_go_on() -> None:
    """Neither for who leaves there, nor for who is sent away; after the last part it is one."""
    for parts, place in (([], ""), ([False], ""), ([False, False], ""), ([False, True], "ab-4"), ([True], "ab-4")):
        for leaves in (True, False):
            protocol = opened()
            sent(protocol, frames.Subscribe(id="a", after="snapshot"))
            protocol.begin("a", at(4), snapshot=True)
            for last in parts:
                assert protocol.snapshot("a", [], last=last) is not None
            if leaves:
                assert said(Say(protocol.unsubscribe("a"))) == frames.Unsubscribed(id="a", cursor=place)
            else:
                cursors = {"a": place} if place else {}
                assert said(Say(protocol.closing("bye"))) == frames.Closing(reason="bye", cursors=cursors)


def test_a_reset_says_where_to_start() -> None:
    """At the first event kept, or after a cursor."""
    protocol = opened()
    for start, expected in ((None, "start"), (at(3), "ab-3")):
        sent(protocol, frames.Subscribe(id="a"))
        protocol.begin("a", at(9))
        assert said(Say(protocol.reset("a", "r", start) or "")) == frames.Reset(id="a", reason="r", start=expected)


def test_a_refusal_of_a_malformed_frame_never_answers_another_one() -> None:
    """The id of a frame that cannot be read may be in use: then the refusal carries none."""
    protocol = opened()
    sent(protocol, frames.Open(id="a", session_id="s"))
    assert said(protocol.receive('{"type":"dance","id":"a"}')).id is None
    assert said(protocol.receive('{"type":"dance","id":"b"}')).id == "b"
    assert protocol.commands == 1


def test_the_codes_that_the_protocol_says_are_errors_of_the_engine() -> None:
    """A client can look each of them up."""
    assert {"forbidden", "limit", "cursor", "malformed_frame", "invalid_argument"} <= set(CODES)


# --- pace -----------------------------------------------------------------------------------------------


def test_a_burst_goes_at_once_and_then_the_rate_holds() -> None:
    """After as many frames as a burst has, the next one waits its turn."""
    pace = Pace(per_s=10, burst=3, now=0)
    assert [pace.take(0), pace.take(0)] == [0, 0]
    assert pace.take(0) == pytest.approx(0.1)
    assert pace.take(0.1) == pytest.approx(0.1)
    assert pace.take(0.2) == pytest.approx(0.1)


def test_a_pause_refills_the_burst_and_no_more() -> None:
    """However long it was."""
    pace = Pace(per_s=10, burst=2, now=0)
    pace.take(0)
    assert pace.take(0) > 0
    assert pace.take(1_000) == 0
    assert pace.take(1_000) == pytest.approx(0.1)


def test_who_waits_as_told_keeps_the_rate() -> None:
    """A thousand frames, each sent as soon as it may be, take as long as the rate says."""
    pace, now = Pace(per_s=100, burst=10, now=0), 0.0
    for _ in range(1_000):
        now += pace.take(now)
    assert now == pytest.approx((1_000 - 10 + 1) / 100)


def test_a_command_has_so_many_events_and_a_subscription_so_many_sessions() -> None:
    """More of them would be one long step on the loop, or wait in memory: they are refused before anybody looks at them,
    and the connection goes on."""
    limits = attrs.evolve(LIMITS, append_events_max=2, subscription_sessions_max=2, commands_bytes_max=4_000)
    protocol = opened(limits=limits)
    event = frames.WireEvent(type="session.noted", event=msgspec.Raw(b"{}"))
    for kind, word in ((frames.Append, "append"), (frames.Post, "post")):
        found = said(sent(protocol, kind(id="c", session_id="s", events=[event] * 3)))
        assert (found.id, found.code, found.written) == ("c", "limit", "nothing")
        assert found.details == {"operation": word, "limit": "append_events_max", "allowed": 2}
        assert isinstance(sent(protocol, kind(id=word, session_id="s", events=[event] * 2)), kind)
    found = said(sent(protocol, frames.Subscribe(id="q", sessions=["a", "b", "c"])))
    assert found.details == {"operation": "subscribe", "limit": "subscription_sessions_max", "allowed": 2}
    assert isinstance(sent(protocol, frames.Subscribe(id="q", sessions=["a", "b"])), frames.Subscribe)
