"""The client's half of the protocol alone: what it sends, what it makes of frames, what it refuses."""

from __future__ import annotations

import weakref

import msgspec
import pytest

from engine.client.answers import receipt_of
from engine.client.following import Arrived, Following, ReadModelArrived, ViolationError
from engine.client.outbox import DELTA_CHARS_MAX
from engine.client.posted import post
from engine.client.protocol import ClientProtocol, StrangerError
from engine.errors import (
    ClosedError,
    ConnectionLostError,
    EventTooLargeError,
    LimitError,
    StorageFullError,
    UnknownSessionError,
    WrongExpectedSeqError,
)
from engine.events import (
    APPLIED,
    BUILT_IN,
    CaughtUp,
    Cursor,
    Duplicate,
    Envelope,
    Lagging,
    PartDelta,
    Registry,
    Reset,
    SessionNoted,
    Skipped,
    prepare,
)
from engine.limits import ClientLimits, Limits
from engine.server import frames
from engine.server.problems import frame_of
from tests.support.wire import Answers, Failures

REGISTRY = Registry(BUILT_IN)
NO_USAGE = msgspec.Raw(b"{}")
WIRE = frames.WireLimits(
    frame_bytes_max=2_000, subscriptions_max=4, commands_max=3, events_max=8, events_bytes=1_000, ping_s=20, idle_s=300
)


def hello(workspace: str = "default", protocol: str = "engine.v1", limits: frames.WireLimits = WIRE) -> str:
    """A server's first frame."""
    return frames.encode(
        frames.Hello(protocol=protocol, workspace=workspace, access="write", epoch="a", head="a-9", limits=limits)
    )


def opened(limits: ClientLimits | None = None) -> ClientProtocol:
    """A client whose first connection is open."""
    client = ClientProtocol(limits or ClientLimits())
    client.connected()
    client.receive(hello())
    return client


def reconnect(client: ClientProtocol) -> None:
    """Lose the connection, and make another."""
    client.lost()
    client.connected()
    client.receive(hello())


def sent(client: ClientProtocol) -> list[frames.FromClient]:
    """Everything that the client sends now."""
    found = []
    while (text := client.next()) is not None:
        found.append(frames.decode_client(text))
    return found


def arriving(position: int, event_id: str = "e", **changes: object) -> frames.WireRecorded:
    """An event as a server sends it."""
    fields = {
        "cursor": f"a-{position}",
        "session_id": "s",
        "incarnation": 1,
        "seq": position,
        "type": "session.noted",
        "version": 1,
        "event_version": 1,
        "event_id": event_id,
        "occurred_at": 1,
        "recorded_at": 2,
        "causation_id": None,
        "outcome": "applied",
        "event": NO_USAGE,
    }
    return frames.WireRecorded(**{**fields, **changes})


def batch(name: str, after: int, *positions: int, cursor: int | None = None) -> str:
    """An `events` frame."""
    end = cursor if cursor is not None else positions[-1]
    return frames.encode(
        frames.Events(id=name, after=f"a-{after}", cursor=f"a-{end}", events=[arriving(position) for position in positions])
    )


def following(client: ClientProtocol, after: str = "start", **limits: int) -> tuple[Following, str]:
    """A subscription that was sent, and its name."""
    made = Following(ClientLimits(**limits), after=after)
    client.follow(made)
    (frame,) = sent(client)
    assert isinstance(frame, frames.Subscribe)
    return made, frame.id


def begun(client: ClientProtocol, after: str = "start", **limits: int) -> tuple[Following, str]:
    """A subscription that has begun at position 0."""
    made, name = following(client, after, **limits)
    client.receive(frames.encode(frames.Subscribed(id=name, cursor="a-0")))
    return made, name


def taken(client: ClientProtocol, made: Following) -> list[object]:
    """What its reader gets now: positions, and other items as they are."""
    found: list[object] = []
    while (item := client.take(made)) is not None:
        found.append(item.cursor.position if isinstance(item, Arrived) else item)
    return found


def note(client: ClientProtocol, number: int, session_id: str = "s") -> tuple[frames.Append, Answers]:
    """An append that was accepted."""
    event = frames.WireEvent(type="session.noted", event=msgspec.Raw(b'{"note_id":"n","kind":"k"}'))
    frame = frames.Append(id=f"cmd_{number}", session_id=session_id, incarnation=1, events=[event])
    answers = Answers()
    client.command(frame, answers)
    return frame, answers


def posted(number: int, sink: Failures, *events: object, session_id: str = "s"):
    """A post."""
    return post(f"post_{number}", session_id, 1, tuple(prepare(REGISTRY, event, Limits()) for event in events), sink)


def delta(offset: int, text: str, part_id: str = "p") -> PartDelta:
    """Streamed text."""
    return PartDelta(part_id, "m", "text", offset, text)


def receipt(frame_id: str, **changes: object) -> str:
    """An answer to an append of one event."""
    entry = frames.WireReceiptEvent(event_id=frame_id, seq=2, position=5, outcome="applied")
    return frames.encode(frames.Receipt(id=frame_id, session_id="s", incarnation=1, events=[entry]))


# --- connections ----------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_hello_and_everything_after_it():
    """What was asked for without a connection waits for the hello of the first."""
    client = ClientProtocol(ClientLimits())
    client.follow(Following(ClientLimits(), after="now"))
    note(client, 1)
    assert sent(client) == []
    client.connected()
    assert sent(client) == []
    client.receive(hello())
    assert [type(frame) for frame in sent(client)] == [frames.Subscribe, frames.Append]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (hello(protocol="engine.v2"), "expected 'engine.v1', found 'engine.v2'"),
        ('{"type":"caught_up","id":"x","cursor":"a-1"}', "'caught_up' came before 'hello'"),
        ("{}", "no frame"),
        ("[1", "no frame"),
    ],
)
def test_what_comes_instead_of_a_hello_shows_a_stranger(text, problem):
    """A server of another kind or version: connecting again would give the same."""
    client = ClientProtocol(ClientLimits())
    client.connected()
    with pytest.raises(StrangerError, match=problem):
        client.receive(text)
    assert not client.open


def test_a_token_that_stands_for_another_workspace_now_is_a_stranger():
    """Otherwise events of two workspaces would come out of one log."""
    client = opened()
    client.lost()
    client.connected()
    with pytest.raises(StrangerError, match="'default', and stands for 'other' now"):
        client.receive(hello("other"))


def test_what_only_a_newer_server_knows_is_ignored():
    """Unknown fields and unknown frame types change nothing; the latter are counted."""
    client = opened()
    made, name = begun(client)
    client.receive('{"type":"weather","id":"x","sun":true}')
    client.receive(f'{{"type":"caught_up","id":"{name}","cursor":"a-0","new":[1]}}')
    assert taken(client, made) == [CaughtUp(Cursor("a", 0))]
    assert client.counts.ignored == 1


@pytest.mark.parametrize("text", ["no json", "{}", '{"type":"events","id":7}', "[]", '{"type":"hello"}', b"bytes", "\ud800"])
def test_nonsense_breaks_the_connection(text):
    """It is told in words, and is no other exception."""
    client = opened()
    with pytest.raises(ViolationError):
        client.receive(text)


def test_a_second_hello_breaks_the_connection():
    """It is the first frame and no other."""
    with pytest.raises(ViolationError, match="twice"):
        opened().receive(hello())


# --- subscriptions --------------------------------------------------------------------------------------


def test_a_subscription_goes_on_after_what_was_received_in_order():
    """Not after what its reader took, nor after what the server said when it closed."""
    client = opened()
    made, name = begun(client)
    client.receive(batch(name, 0, 1, 2))
    client.receive(frames.encode(frames.Closing(reason="restart", cursors={name: "a-1"})))
    reconnect(client)
    (frame,) = sent(client)
    assert isinstance(frame, frames.Subscribe)
    assert frame.after == "a-2"
    assert frame.id != name
    client.receive(frames.encode(frames.Subscribed(id=frame.id, cursor="a-2")))
    client.receive(batch(frame.id, 2, 3))
    assert taken(client, made) == [1, 2, 3]


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (batch("sub_1", 1, 5), "after a-1 came where a-2"),
        (batch("sub_1", 3, 5), "after a-3 came where a-2"),
        (batch("sub_1", 2, 2), "came behind"),
        (batch("sub_1", 2, 4, 3, cursor=9), "came behind"),
        (batch("sub_1", 2, 4, 5, cursor=4), "goes back"),
        ('{"type":"caught_up","id":"sub_1","cursor":"a-1"}', "goes back"),
        ('{"type":"caught_up","id":"sub_1","cursor":"nothing"}', "is not a cursor"),
        ('{"type":"subscribed","id":"sub_1","cursor":"a-2"}', "twice"),
        ('{"type":"snapshot","id":"sub_1","cursor":"a-2","sessions":[],"more":false,"last":true}', "not asked for"),
        ('{"type":"unsubscribed","id":"sub_1","cursor":"a-2"}', "nobody left"),
        ('{"type":"reset","id":"sub_1","reason":"x","start":"nowhere"}', "is not a cursor"),
    ],
)
def test_a_gap_a_repetition_or_a_frame_out_of_place_breaks_the_connection_and_changes_nothing(frame, problem):
    """The subscription goes on with the next connection from what it had."""
    client = opened()
    made, _ = begun(client)
    client.receive(batch("sub_1", 0, 1, 2))
    with pytest.raises(ViolationError, match=problem):
        client.receive(frame)
    reconnect(client)
    (again,) = sent(client)
    assert isinstance(again, frames.Subscribe)
    assert again.after == "a-2"
    assert taken(client, made) == [1, 2]


def test_a_subscription_that_begins_elsewhere_than_asked_breaks_the_connection():
    """Asked to go on after one cursor, it must not begin after another."""
    client = opened()
    _, name = begun(client)
    client.receive(batch(name, 0, 1, 2))
    reconnect(client)
    (again,) = sent(client)
    with pytest.raises(ViolationError, match="begins after"):
        client.receive(frames.encode(frames.Subscribed(id=again.id, cursor="b-2")))


def test_events_before_subscribed_break_the_connection():
    """Nothing is said of a subscription before it has begun."""
    client = opened()
    _, name = following(client)
    with pytest.raises(ViolationError, match="before 'subscribed'"):
        client.receive(batch(name, 0, 1))


def test_a_snapshot_that_broke_is_begun_again_and_arrives_whole():
    """Parts of two snapshots never meet."""
    client = opened()
    made, name = following(client, "snapshot")

    def part(name: str, number: int, cursor: str, *, last: bool) -> str:
        session = frames.WireSession(session=msgspec.Raw(str(number).encode()), messages=[], more=False, usage=NO_USAGE)
        return frames.encode(frames.Snapshot(id=name, cursor=cursor, sessions=[session], more=False, last=last))

    client.receive(frames.encode(frames.Subscribed(id=name, cursor="a-3")))
    client.receive(part(name, 1, "a-3", last=False))
    assert not made.begun
    with pytest.raises(ViolationError, match="middle of a snapshot"):
        client.receive(batch(name, 3, 4))
    reconnect(client)
    (again,) = sent(client)
    assert isinstance(again, frames.Subscribe)
    assert again.after == "snapshot"
    client.receive(frames.encode(frames.Subscribed(id=again.id, cursor="a-5")))
    with pytest.raises(ViolationError, match="is one of a-6"):
        client.receive(part(again.id, 9, "a-6", last=False))
    client.receive(part(again.id, 2, "a-5", last=False))
    client.receive(part(again.id, 3, "a-5", last=True))
    client.receive(batch(again.id, 5, 6))
    whole, *rest = taken(client, made)
    assert isinstance(whole, ReadModelArrived)
    assert [bytes(session.session) for session in whole.sessions] == [b"2", b"3"]
    assert rest == [6]


def test_a_reader_that_falls_behind_is_told_and_gets_everything_from_what_it_had():
    """What waits stays, what finds no room is let go, and asked for again when its reader has taken the rest."""
    client = opened()
    made, name = begun(client, buffer_events_max=3)
    client.receive(batch(name, 0, 1, 2))
    assert client.take(made) is not None
    client.receive(batch(name, 2, 3, 4, 5))
    assert made.buffered[0] == 1
    (left,) = sent(client)
    assert left == frames.Unsubscribe(id=name)
    client.receive(batch(name, 5, 6))
    client.receive(frames.encode(frames.Unsubscribed(id=name, cursor="a-6")))
    assert sent(client) == []
    assert made.cursor == Cursor("a", 1)
    assert taken(client, made) == [2, Lagging(Cursor("a", 2), 3)]
    (again,) = sent(client)
    assert isinstance(again, frames.Subscribe)
    assert again.after == "a-2"
    assert client.counts.lagging == 1


def test_a_reader_that_always_comes_late_gets_on():
    """More comes each time than there is room for before it takes anything; it has all of it after finitely many rounds."""
    client = opened()
    made, name = begun(client, buffer_events_max=3)
    found = []
    for _ in range(5):
        for one in range(made.cursor.position, 10):
            client.receive(batch(name, one, one + 1))
        found += taken(client, made)
        for frame in sent(client):
            if isinstance(frame, frames.Subscribe):
                name = frame.id
                client.receive(frames.encode(frames.Subscribed(id=name, cursor=frame.after)))
    assert [item for item in found if not isinstance(item, Lagging)] == list(range(1, 11))


def test_a_reader_that_is_behind_is_not_asked_for_by_a_reconnect():
    """It would only fall behind again; it is asked for once its reader comes, also without a connection meanwhile."""
    client = opened()
    made, name = begun(client, buffer_events_max=1)
    client.receive(batch(name, 0, 1))
    client.receive(batch(name, 1, 2))
    reconnect(client)
    assert sent(client) == []
    client.lost()
    assert taken(client, made) == [1, Lagging(Cursor("a", 1), 1)]
    client.connected()
    client.receive(hello())
    (again,) = sent(client)
    assert isinstance(again, frames.Subscribe)
    assert again.after == "a-1"


def test_a_reader_that_comes_late_each_time_gets_on():
    """A frame fills the buffer and what comes with it overflows it, again and again: each round brings what fitted."""
    client = opened()
    made, name = begun(client, buffer_events_max=2)
    given = []
    for first in (1, 3, 5):
        client.receive(batch(name, first - 1, first, first + 1))
        client.receive(frames.encode(frames.CaughtUp(id=name, cursor=f"a-{first + 1}")))
        given += taken(client, made)
        *_, again = sent(client)
        name = again.id
        client.receive(frames.encode(frames.Subscribed(id=name, cursor=again.after)))
    assert [item for item in given if isinstance(item, int)] == [1, 2, 3, 4, 5, 6]


def test_one_frame_that_is_larger_than_the_buffer_comes_through():
    """A bound below a single frame must not be a loop."""
    client = opened()
    made, name = begun(client, buffer_events_max=2, buffer_bytes_max=1)
    client.receive(batch(name, 0, 1, 2, 3, 4))
    assert taken(client, made) == [1, 2, 3, 4]


def test_a_reset_comes_after_what_was_received_before_it_and_ends_the_log():
    """Its place is passed on; `start` is no cursor."""
    client = opened()
    made, name = begun(client)
    client.receive(batch(name, 0, 1))
    client.receive(frames.encode(frames.Reset(id=name, reason="replaced", start="start")))
    assert taken(client, made) == [1, Reset("replaced", None)]
    assert made.ended
    reconnect(client)
    assert sent(client) == []


def test_a_refused_cursor_is_a_reset_and_another_refusal_an_error():
    """Whatever else the server says ends the log with that error."""
    client = opened()
    made, name = following(client, "a-5")
    client.receive(
        f'{{"type":"error","id":"{name}","code":"cursor","message":"m","written":"nothing","details":'
        '{"cursor":"a-5","problem":"is of another log"}}'
    )
    (reset,) = taken(client, made)
    assert isinstance(reset, Reset)
    assert "another log" in reset.reason
    other, name = following(client)
    client.receive(frames.encode(frame_of(LimitError("subscribe", "subscriptions_max", 4), name)))
    assert other.ended
    assert isinstance(other.error, LimitError)


def test_a_server_that_shuts_down_ends_no_subscription():
    """It is asked for again with the next connection, from where it was."""
    client = opened()
    _, name = begun(client)
    client.receive(batch(name, 0, 1))
    client.receive(frames.encode(frame_of(ClosedError("the engine"), name)))
    assert sent(client) == []
    reconnect(client)
    (again,) = sent(client)
    assert isinstance(again, frames.Subscribe)
    assert again.after == "a-1"


def test_what_is_unfollowed_before_it_was_sent_never_is():
    """And what was sent is unsubscribed; late frames of it are nobody's."""
    client = opened()
    never = Following(ClientLimits(), after="start")
    client.follow(never)
    client.unfollow(never)
    assert sent(client) == []
    made, name = begun(client)
    client.unfollow(made)
    client.receive(batch(name, 0, 1))
    assert sent(client) == [frames.Unsubscribe(id=name)]
    assert made.ended


# --- commands -------------------------------------------------------------------------------------------


def test_commands_are_sent_again_in_their_order_with_their_ids_until_answered():
    """What was answered is not; what is accepted later comes behind."""
    client = opened()
    (_, first), (_, second) = note(client, 1), note(client, 2)
    assert [frame.id for frame in sent(client)] == ["cmd_1", "cmd_2"]
    client.receive(receipt("cmd_1"))
    note(client, 3)
    reconnect(client)
    assert [frame.id for frame in sent(client)] == ["cmd_2", "cmd_3"]
    assert (first.value is not None, second.value) == (True, None)
    assert client.outbox.resent == 1


def test_one_command_less_than_the_server_takes_is_on_its_way_at_a_time():
    """So that the server always reads on; the next goes out when one is answered."""
    client = opened()
    for number in range(4):
        note(client, number)
    assert [frame.id for frame in sent(client)] == ["cmd_0", "cmd_1"]
    client.receive(receipt("cmd_1"))
    assert [frame.id for frame in sent(client)] == ["cmd_2"]


def test_a_withdrawn_command_does_not_go_out_and_never_again():
    """Not sent: never. Sent: not again; its late answer is nobody's."""
    client = opened()
    for number in (1, 2, 3):
        note(client, number)
    pending = [client.outbox._entries[f"cmd_{number}"] for number in (1, 2, 3)]
    assert [frame.id for frame in sent(client)] == ["cmd_1", "cmd_2"]
    client.withdraw(pending[0])
    client.withdraw(pending[2])
    assert sent(client) == []
    reconnect(client)
    assert [frame.id for frame in sent(client)] == ["cmd_2"]
    client.receive(receipt("cmd_1"))


def test_errors_come_as_their_classes_and_a_shutdown_keeps_the_command():
    """`closed` says that nothing was looked at: the next connection carries it."""
    client = opened()
    (_, first), (_, second) = note(client, 1), note(client, 2)
    sent(client)
    client.receive(frames.encode(frame_of(WrongExpectedSeqError("s", 1, 2), "cmd_1")))
    client.receive(frames.encode(frame_of(ClosedError("the engine"), "cmd_2")))
    assert isinstance(first.error, WrongExpectedSeqError)
    assert second.error is None
    assert sent(client) == []
    reconnect(client)
    assert [frame.id for frame in sent(client)] == ["cmd_2"]


def test_a_frame_that_the_server_would_not_read_is_refused_here():
    """Before it is accepted where the limit is known, else before it goes out; it never ends a connection."""
    client = ClientProtocol(ClientLimits())
    big = frames.Stop(id="cmd_1", session_id="s" * 3_000, incarnation=1)
    early = Answers()
    client.command(big, early)
    client.connected()
    client.receive(hello())
    assert sent(client) == []
    assert isinstance(early.error, EventTooLargeError)
    with pytest.raises(EventTooLargeError, match="frame_bytes_max is 2000"):
        client.command(frames.Stop(id="cmd_2", session_id="é" * 1_100, incarnation=1), Answers())


def test_closing_tells_what_went_out_from_what_did_not():
    """Sent once, on whatever connection, is unknown; never sent is nothing."""
    client = opened()
    (_, first), _, (_, third) = note(client, 1), note(client, 2), note(client, 3)
    sent(client)
    client.lost()
    client.fail(None)
    assert isinstance(first.error, ConnectionLostError)
    assert isinstance(third.error, ClosedError)


def test_an_error_ends_every_wait_with_an_instance_of_its_own():
    """Commands and logs; nothing is sent any more."""
    client = opened()
    (_, first), (_, second) = note(client, 1), note(client, 2)
    made = Following(ClientLimits(), after="start")
    client.follow(made)
    error = UnknownSessionError("x")
    client.fail(error)
    assert {type(found) for found in (first.error, second.error, made.error)} == {UnknownSessionError}
    assert len({id(found) for found in (error, first.error, second.error, made.error)}) == 4
    assert client.next() is None


# --- posts ----------------------------------------------------------------------------------------------


def test_text_that_waits_is_joined_where_it_follows_on():
    """One frame, one event; another part, a gap, another handle, a command between, an id of its own are not joined."""
    client, sink = ClientProtocol(ClientLimits()), Failures()
    client.post(posted(1, sink, delta(0, "ab")))
    client.post(posted(2, sink, delta(2, "c")))
    client.post(posted(3, sink, delta(4, "gap")))
    client.post(posted(4, sink, delta(0, "x", "other")))
    note(client, 5)
    client.post(posted(6, sink, delta(1, "y", "other")))
    client.post(posted(7, Failures(), delta(2, "z", "other")))
    client.post(posted(8, sink, delta(0, "elsewhere"), session_id="t"))
    client.post(posted(9, sink, Envelope(delta(9, "id"), "mine"), session_id="t"))
    assert client.outbox.posted_events == 7
    client.connected()
    client.receive(hello())
    found = sent(client)
    assert [frame.id for frame in found] == ["post_1", "post_3", "post_4", "cmd_5", "post_6", "post_7", "post_8", "post_9"]
    texts = [msgspec.json.decode(frame.events[0].event).get("text") for frame in found]
    assert texts == ["abc", "gap", "x", None, "y", "z", "elsewhere", "id"]


def test_joined_text_stays_below_its_limit():
    """One event stays small, however long the connection is away."""
    client, sink = ClientProtocol(ClientLimits()), Failures()
    half = DELTA_CHARS_MAX // 2 + 1
    for number in range(3):
        client.post(posted(number, sink, delta(number * half, "x" * half)))
    assert client.outbox.posted_events == 3


def test_text_is_not_joined_to_what_went_out():
    """Its id stands for what it was: sent again it is the same text."""
    client, sink = opened(), Failures()
    client.post(posted(1, sink, delta(0, "ab")))
    (first,) = sent(client)
    reconnect(client)
    client.post(posted(2, sink, delta(2, "c")))
    assert [frame.id for frame in sent(client)] == ["post_1", "post_2"]
    assert isinstance(first, frames.Post)
    assert bytes(first.events[0].event).endswith(b'"text":"ab"}')


def test_posts_are_kept_until_a_flush_behind_them_was_answered():
    """Of their session, and of what was posted before it; a post's own failure lets go of it as well."""
    client, sink = opened(), Failures()
    client.post(posted(1, sink, SessionNoted("a", "k")))
    client.post(posted(2, sink, SessionNoted("b", "k"), session_id="t"))
    client.post(posted(3, sink, SessionNoted("c", "k")))
    answers = Answers()
    client.command(frames.Flush(id="cmd_4", session_id="s", incarnation=1), answers)
    client.post(posted(5, sink, SessionNoted("d", "k")))
    sent(client)
    client.receive(frames.encode(frame_of(UnknownSessionError("s"), "post_3")))
    assert [type(error) for error in sink.errors] == [UnknownSessionError]
    client.receive(frames.encode(frames.Flushed(id="cmd_4")))
    assert answers.value is not None
    assert client.outbox.posted_events == 2
    reconnect(client)
    assert [frame.id for frame in sent(client)] == ["post_2", "post_5"]


def test_a_cancelled_flush_still_settles_what_is_before_it():
    """Its answer comes, though nobody waits."""
    client, sink = opened(), Failures()
    client.post(posted(1, sink, SessionNoted("a", "k")))
    pending = client.command(frames.Flush(id="cmd_2", session_id="s", incarnation=1), Answers())
    sent(client)
    client.withdraw(pending)
    client.receive(frames.encode(frames.Flushed(id="cmd_2")))
    assert client.outbox.posted_events == 0


def test_the_client_flushes_by_itself_at_half_of_the_bound():
    """Once for each session at a time; and there is no room beyond the bound."""
    client, sink = ClientProtocol(ClientLimits(posts_events_max=4)), Failures()
    client.connected()
    client.receive(hello(limits=msgspec.structs.replace(WIRE, commands_max=64)))
    client.post(posted(1, sink, SessionNoted("a", "k")))
    client.post(posted(2, sink, SessionNoted("b", "k"), session_id="t"))
    client.post(posted(3, sink, SessionNoted("c", "k")))
    found = sent(client)
    assert [type(frame).__name__ for frame in found] == ["Post", "Post", "Flush", "Flush", "Post"]
    client.post(posted(4, sink, SessionNoted("d", "k")))
    assert not client.outbox.has_room(posted(5, sink, SessionNoted("e", "k")))
    sent(client)
    client.receive(frames.encode(frames.Flushed(id=found[2].id)))
    assert client.outbox.posted_events == 3
    assert [type(frame).__name__ for frame in sent(client)] == ["Flush"]


def test_a_flush_that_fails_fails_the_posts_before_it_once_for_each_handle():
    """Nobody knows whether they are durable: who posted them is told, and the client does not ask for ever."""
    client, mine, other = opened(), Failures(), Failures()
    for number, sink in enumerate((mine, mine, other)):
        client.post(posted(number, sink, SessionNoted(f"{number}", "k")))
    answers = Answers()
    client.command(frames.Flush(id="cmd_9", session_id="s", incarnation=1), answers)
    sent(client)
    client.receive(frames.encode(frame_of(StorageFullError("commit", "the disk is full", 13), "cmd_9")))
    assert isinstance(answers.error, StorageFullError)
    assert [type(error) for error in mine.errors] == [StorageFullError]
    assert [type(error) for error in other.errors] == [StorageFullError]
    assert client.outbox.posted_events == 0
    assert client.outbox.failed_posts == 3


# --- receipts -------------------------------------------------------------------------------------------


def test_a_duplicate_of_the_clients_own_id_is_the_original_and_of_the_callers_a_duplicate():
    """He asked once: an id that only this command can have used shows what became of its first copy."""
    entries = [
        frames.WireReceiptEvent(event_id="cmd.0", seq=3, position=7, outcome="duplicate", original="applied"),
        frames.WireReceiptEvent(event_id="cmd.1", seq=4, position=8, outcome="duplicate", original="finished"),
        frames.WireReceiptEvent(event_id="mine", seq=5, position=9, outcome="duplicate", original="applied"),
        frames.WireReceiptEvent(event_id=None, seq=None, position=None, outcome="unchanged"),
    ]
    frame = frames.Receipt(id="cmd", session_id="s", incarnation=2, events=entries)
    receipt = receipt_of(frame, (False, False, True, False))
    assert [entry.outcome for entry in receipt.events] == [
        APPLIED,
        Skipped("finished"),
        Duplicate(receipt.events[2].outcome.original),
        Skipped("unchanged"),
    ]
    assert receipt.events[2].outcome.original.outcome == APPLIED
    assert (receipt.seq, receipt.position, receipt.incarnation) == (5, 9, 2)
    with pytest.raises(ViolationError, match="a receipt for 4 events, where 1 were sent"):
        receipt_of(frame, (False,))


def test_what_was_withdrawn_before_it_went_out_is_kept_nowhere():
    """A line that takes nothing and callers who give up and try again: neither their commands nor their logs pile up."""
    client = opened()
    pending = client.command(frames.Open(id="c", session_id="s"), Answers())
    made = Following(ClientLimits(), after="start")
    client.follow(made)
    gone = [weakref.ref(pending), weakref.ref(made)]
    client.withdraw(pending)
    client.unfollow(made)
    del pending, made
    assert [ref() for ref in gone] == [None, None]


def test_what_was_on_its_way_when_the_client_was_closed_is_no_fault_of_the_servers():
    """It is not looked at: the connection ends in order, and no error is told."""
    client = opened()
    _, name = begun(client)
    client.fail(None)
    client.receive(batch(name, 0, 1))
    client.receive(frames.encode(frames.Closing(reason="x", cursors={})))
    assert client.closing is None
