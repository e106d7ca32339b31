"""Frames: each one survives the wire, and whatever is none is told in words and as nothing but `ValueError`."""

from __future__ import annotations

import json
from typing import Any, get_args

import attrs
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import event
from engine.events import (
    APPLIED,
    BUILT_IN,
    Cursor,
    MessageUpdated,
    PartDelta,
    RecordedEvent,
    Registry,
    Skipped,
    UnknownEvent,
    decode,
)
from engine.limits import ID_CHARS_MAX
from engine.server import frames
from engine.server.frames.codec import WORDS_CHARS_MAX

RAW = msgspec.Raw(b'{"a":1}')

CLIENT: tuple[frames.ClientFrame, ...] = (
    frames.Auth(token="t"),
    frames.Subscribe(id="a"),
    frames.Subscribe(id="a", sessions=["s", "t"], after="start", skipped=False, messages=0),
    frames.Unsubscribe(id="a"),
    frames.Open(id="a", session_id="s"),
    frames.Create(id="a", session_id="s"),
    frames.Create(id="a", session_id="s", title="é\n\0", parent_id="p", metadata={"a": [1, None, 2.5]}),
    frames.Append(id="a", session_id="s", events=[]),
    frames.Append(
        id="a",
        session_id="s",
        incarnation=2,
        events=[frames.WireEvent(type="x", event=RAW, event_id="e", occurred_at=0, causation_id="c")],
        expected_seq=2**63 - 1,
        strict=True,
    ),
    frames.Post(id="a", session_id="s", incarnation=1, events=[frames.WireEvent(type="x", event=RAW)]),
    frames.Flush(id="a", session_id="s", incarnation=1),
    frames.Stop(id="a", session_id="s", incarnation=1, reason="x" * 1_000),
    frames.Remove(id="a", session_id="s", incarnation=1, message_id="m"),
    frames.Read(id="a", session_id="s", before=1, limit=1_000),
)
LIMITS = frames.WireLimits(
    frame_bytes_max=1, subscriptions_max=2, commands_max=3, events_max=4, events_bytes=5, ping_s=6.5, idle_s=7.0
)
RECORDED = frames.WireRecorded(
    cursor="ab-1",
    session_id="s",
    incarnation=1,
    seq=1,
    type="x",
    version=1,
    event_version=2,
    event_id="e",
    occurred_at=1,
    recorded_at=2,
    causation_id=None,
    outcome="applied",
    event=RAW,
)
SERVER: tuple[frames.ServerFrame, ...] = (
    frames.Hello(protocol="engine.v1", workspace="w", access="read", epoch="ab", head="ab-1", limits=LIMITS),
    frames.Subscribed(id="a", cursor="ab-1"),
    frames.Events(id="a", after="ab-0", cursor="ab-1", events=[RECORDED]),
    frames.CaughtUp(id="a", cursor="ab-1"),
    frames.Lagging(id="a", cursor="ab-1", dropped=3),
    frames.Reset(id="a", reason="r", start="start"),
    frames.Unsubscribed(id="a", cursor=""),
    frames.Snapshot(
        id="a",
        cursor="ab-1",
        sessions=[frames.WireSession(session=RAW, messages=[RAW, RAW], more=True, usage=RAW)],
        more=False,
        last=True,
    ),
    frames.Receipt(
        id="a",
        session_id="s",
        incarnation=1,
        events=[frames.WireReceiptEvent(event_id=None, seq=None, position=None, outcome="duplicate", original="applied")],
    ),
    frames.Opened(id="a", session_id="s", incarnation=1),
    frames.Flushed(id="a"),
    frames.Stopped(id="a", stopped=True),
    frames.MessagePage(id="a", cursor="ab-1", messages=[RAW], more=False),
    frames.Error(id=None, code="x", message="m", written="unknown", details={"found": 1}),
    frames.Closing(reason="r", cursors={"a": "ab-1"}),
)
BOTH = [*((frame, frames.decode_client) for frame in CLIENT), *((frame, frames.decode_server) for frame in SERVER)]


def plain(frame: object) -> Any:
    """A frame as JSON knows it: `Raw` is a view of its text, and equal to nothing else."""
    return json.loads(msgspec.json.encode(frame))


def refused(text: str) -> str:
    """Why this is no client's frame."""
    with pytest.raises(ValueError, match=r".") as caught:
        frames.decode_client(text)
    words = str(caught.value)
    assert len(words) <= WORDS_CHARS_MAX
    assert words.isprintable()
    return words


def test_every_frame_has_an_example() -> None:
    """What is added to the protocol is added here."""
    assert {type(frame) for frame in CLIENT} == set(get_args(frames.FromClient))
    assert {type(frame) for frame in SERVER} == set(get_args(frames.FromServer))


@pytest.mark.parametrize(("frame", "decoder"), BOTH, ids=lambda value: type(value).__name__)
def test_a_frame_survives_the_wire(frame: Any, decoder: Any) -> None:
    """The same class with the same fields."""
    found = decoder(frames.encode(frame))
    assert type(found) is type(frame)
    assert plain(found) == plain(frame)


@pytest.mark.parametrize(("frame", "decoder"), BOTH, ids=lambda value: type(value).__name__)
def test_a_field_that_must_be_there_and_is_not_refuses_the_frame(frame: Any, decoder: Any) -> None:
    """Whichever field without a default is left out, decoding says which."""
    for field in msgspec.structs.fields(frame):
        if field.required:
            whole = plain(frame)
            del whole[field.name]
            with pytest.raises(ValueError, match=field.name):
                decoder(json.dumps(whole))


@pytest.mark.parametrize(("frame", "decoder"), BOTH, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrong", [[[]], {"a": {}}, -1.5], ids=str)
def test_a_field_of_a_wrong_type_refuses_the_frame(frame: Any, decoder: Any, wrong: Any) -> None:
    """Strictly: text is no number, and a number no text. (What is `Raw` is looked at later.)"""
    for field in msgspec.structs.fields(frame):
        open_to_it = ("metadata", "details") if isinstance(wrong, dict) else ("messages",)
        if field.name not in open_to_it or isinstance(frame, frames.Subscribe):
            with pytest.raises(ValueError, match=r"."):
                decoder(json.dumps({**plain(frame), field.name: wrong}))


@pytest.mark.parametrize("frame", CLIENT, ids=lambda frame: type(frame).__name__)
def test_an_unknown_field_of_a_client_is_refused(frame: frames.ClientFrame) -> None:
    """It may be a misspelt one, also within an event."""
    assert "expectd_seq" in refused(json.dumps({**plain(frame), "expectd_seq": 1}))
    if isinstance(frame, frames.Append) and frame.events:
        whole = plain(frame)
        whole["events"][0]["eventid"] = "x"
        assert "eventid" in refused(json.dumps(whole))


def with_more(value: Any) -> Any:
    """A JSON value with an unknown field in every object."""
    if isinstance(value, dict):
        return {"a_later_field": [{"x": None}], **{key: with_more(item) for key, item in value.items()}}
    return [with_more(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("frame", SERVER, ids=lambda frame: type(frame).__name__)
def test_unknown_fields_of_a_server_are_ignored(frame: frames.ServerFrame) -> None:
    """A server of a later date may say more, at every level."""
    whole = plain(frame)
    more = {**with_more(whole), **({"cursors": whole["cursors"]} if "cursors" in whole else {})}
    found = frames.decode_server(json.dumps(more))
    assert type(found) is type(frame)
    if not isinstance(frame, frames.Events | frames.Snapshot | frames.MessagePage | frames.Error):
        assert found == frame


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "truncated"),
        ("nothing", "malformed"),
        ("[]", "Expected `object`"),
        ("null", "Expected `object`"),
        ('"flush"', "Expected `object`"),
        ("{}", "missing required field `type`"),
        ('{"type":"dance","id":"a"}', "'dance'"),
        ('{"type":5,"id":"a"}', "$.type"),
        ('{"type":"events","id":"a","after":"","cursor":"","events":[]}', "'events'"),
        ('{"type":"flush","session_id":"s"}', "`id`"),
        ('{"type":"flush","id":"","session_id":"s"}', "length >= 1"),
        ('{"type":"flush","id":"a","session_id":"%s"}' % ("x" * (ID_CHARS_MAX + 1)), "length <= 512"),
        ('{"type":"flush","id":7,"session_id":"s"}', "Expected `str`, got `int`"),
        ('{"type":"flush","id":"a","session_id":"s","incarnation":0}', "`int` >= 1"),
        ('{"type":"flush","id":"a","session_id":"s","incarnation":1.0}', "got `float`"),
        ('{"type":"flush","id":"a","session_id":"s","incarnation":true}', "got `bool`"),
        ('{"type":"flush","id":"a","session_id":"s","incarnation":9223372036854775808}', "<= 9223372036854775807"),
        ('{"type":"flush","id":"a","session_id":"s","incarnation":%s}' % ("9" * 5_000), "out of range"),
        ('{"type":"flush","id":"a","session_id":"s"} {}', "trailing"),
        ('{"type":"flush","id":"a","session_id":"s"}\0', "trailing"),
        ('{"type":"flush","id":"a","session_id":"s\x01"}', "malformed"),
        ('\ufeff{"type":"flush","id":"a","session_id":"s"}', "malformed"),
        ('{"type":"flush","id":"\ud800","session_id":"s"}', "a lone surrogate"),
        ('{"type":"flush","id":"\\ud800","session_id":"s"}', "surrogate"),
        ('{"type":"flush","type":"stop","id":"a","session_id":"s"}', "$.type"),
        ('{"type":"create","id":"a","session_id":"s","metadata":{"a":NaN}}', "malformed"),
        ('{"type":"create","id":"a","session_id":"s","metadata":{"a":1e999}}', "out of range"),
        ('{"type":"create","id":"a","session_id":"s","metadata":[]}', "Expected `object`"),
        ('{"type":"create","id":"a","session_id":"s","metadata":%s}' % ('{"a":' * 200_000 + "1" + "}" * 200_000), "deeply"),
        ('{"type":"post","id":"a","session_id":"s","events":[{"type":"x"}]}', "`event`"),
        ('{"type":"post","id":"a","session_id":"s","events":[{"type":"x","event":{"a":}}]}', "malformed"),
        ('{"type":"post","id":"a","session_id":"s","events":[{"type":"x","event":%s}]}' % ("[" * 200_000), "deeply"),
        ('{"type":"stop","id":"a","session_id":"s","reason":"%s"}' % ("x" * 1_001), "length <= 1000"),
        ('{"type":"%s","id":"a"}' % ("x\\n\\u001b" * 200_000), "Invalid value"),
    ],
)
def test_what_is_no_frame_is_told_in_words(text: str, words: str) -> None:
    """On one line of bounded length, whatever was sent."""
    assert words in refused(text)


def test_of_a_field_that_is_there_twice_the_last_counts() -> None:
    """For the frame and for the id that its refusal names alike."""
    text = '{"type":"flush","id":"a","id":"b","session_id":"s"}'
    assert frames.decode_client(text) == frames.Flush(id="b", session_id="s")
    assert frames.id_of(text) == "b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id":"a","type":"dance","x":[{}]}', "a"),
        ('{"id":5}', None),
        ('{"id":""}', None),
        ('{"id":null}', None),
        ('{"id":"%s"}' % ("x" * 513), None),
        ('{"id":"a"', None),
        ('{"id":"a","x":%s}' % ("[" * 200_000), None),
        ('{"id":"\ud800"}', None),
        ("[]", None),
    ],
)
def test_the_id_of_a_refused_frame_is_found_where_it_has_one(text: str, expected: str | None) -> None:
    """Whatever else is wrong with it."""
    assert frames.id_of(text) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def only_value_errors(text: str) -> None:
    """Both decoders give a frame that can be sent again, or `ValueError`; the id's reader never raises."""
    for decoder in (frames.decode_client, frames.decode_server):
        try:
            frame = decoder(text)
        except ValueError:
            continue
        assert plain(decoder(frames.encode(frame))) == plain(frame)
    found = frames.id_of(text)
    assert found is None or 1 <= len(found) <= ID_CHARS_MAX


@given(st.text(alphabet=st.characters(exclude_categories=())))
@example("\ud83d")
def test_any_text_is_a_frame_or_refused(text: str) -> None:
    """Also with lone surrogates."""
    only_value_errors(text)


@given(json_values)
def test_any_json_is_a_frame_or_refused(value: Any) -> None:
    """Also with numbers that JSON does not have."""
    only_value_errors(json.dumps(value))


@settings(max_examples=300)
@given(st.data())
def test_any_mutation_of_a_frame_is_a_frame_or_refused(data: st.DataObject) -> None:
    """A field replaced, dropped or doubled, or characters changed anywhere."""
    whole = plain(data.draw(st.sampled_from([frame for frame, _ in BOTH])))
    name = data.draw(st.sampled_from(sorted(whole)))
    how = data.draw(st.sampled_from(["replace", "drop", "double", "cut", "insert"]))
    if how == "replace":
        whole[name] = data.draw(json_values)
    elif how == "drop":
        del whole[name]
    text = json.dumps(whole, ensure_ascii=data.draw(st.booleans()))
    if how == "double":
        text = f"{text[:-1]},{json.dumps(name)}:{json.dumps(data.draw(json_values))}}}"
    elif how == "cut":
        text = text[: data.draw(st.integers(0, len(text)))]
    elif how == "insert":
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.text(alphabet=st.characters(exclude_categories=()), max_size=3)) + text[place:]
    only_value_errors(text)


# --- events -------------------------------------------------------------------------------------------


@event("note.taken", version=3)
@attrs.frozen
class NoteTaken:
    """An event of somebody's own that has changed twice."""

    title: str
    words: int = 0


@NoteTaken.upcaster(from_version=1)  # type: ignore[attr-defined]
def _second(value: dict[str, Any]) -> dict[str, Any]:
    return {"title": value["name"] + "!"}


@NoteTaken.upcaster(from_version=2)  # type: ignore[attr-defined]
def _third(value: dict[str, Any]) -> dict[str, Any]:
    return {"title": value["title"] + "?", "words": 1}


def recorded(content: Any, **changes: Any) -> RecordedEvent:
    """A committed event."""
    made = RecordedEvent(
        position=7,
        cursor=Cursor("ab", 7),
        workspace="w",
        session_id="s\n\"'",
        incarnation=2,
        seq=5,
        type="part.delta",
        version=1,
        event=content,
        event_id="e",
        occurred_at=1,
        recorded_at=2,
        causation_id=None,
        outcome=APPLIED,
        size_bytes=1,
    )
    return attrs.evolve(made, **changes)


def received(item: RecordedEvent) -> frames.WireRecorded:
    """What a client gets of it."""
    text = f'{{"type":"events","id":"a","after":"ab-6","cursor":"ab-7","events":[{frames.encode_event(item)}]}}'
    frame = frames.decode_server(text)
    assert isinstance(frame, frames.Events)
    return frame.events[0]


def test_an_event_arrives_with_everything_that_the_log_says_of_it() -> None:
    """Place, ids, times, outcome, and its fields."""
    delta = PartDelta("p", "m", "text", 3, "héllo\0\n")
    found = received(recorded(delta, outcome=Skipped("finished"), causation_id="c"))
    assert decode(Registry(BUILT_IN), found.type, found.event_version, bytes(found.event).decode()) == delta
    assert (found.cursor, found.session_id, found.incarnation, found.seq) == ("ab-7", "s\n\"'", 2, 5)
    assert (found.event_id, found.occurred_at, found.recorded_at, found.causation_id) == ("e", 1, 2, "c")
    assert (found.outcome, received(recorded(delta)).outcome) == ("finished", "applied")


def test_an_event_of_an_older_version_arrives_as_it_was_read_and_is_not_upcast_again() -> None:
    """It says the version it was stored in, and the one its fields are in."""
    registry = Registry([NoteTaken])
    content = decode(registry, "note.taken", 1, '{"name":"x"}')
    assert content == NoteTaken("x!?", 1)
    found = received(recorded(content, type="note.taken", version=1))
    assert (found.version, found.event_version) == (1, 3)
    assert decode(registry, found.type, found.event_version, bytes(found.event).decode()) == content


def test_an_event_of_an_unknown_type_arrives_as_it_is_stored() -> None:
    """Its own text, in its own version."""
    found = received(recorded(UnknownEvent("x", 4, '{"b":2, "a":1e2}'), type="x", version=4))
    assert (found.version, found.event_version, bytes(found.event)) == (4, 4, b'{"b":2, "a":1e2}')


def test_defaults_are_left_out_of_what_a_client_sends() -> None:
    """A command costs what it says."""
    assert frames.encode(frames.Subscribe(id="a")) == '{"type":"subscribe","id":"a"}'
    assert plain(frames.Post(id="a", session_id="s", events=[frames.WireEvent(type="x", event=RAW)]))["events"] == [
        {"type": "x", "event": {"a": 1}}
    ]


def test_the_built_in_events_survive_the_wire_in_their_own_version() -> None:
    """Encoding is the store's: what one decodes, the other encoded."""
    found = received(recorded(MessageUpdated("m", "user", {"a": [1]}), type="message.updated"))
    assert decode(Registry(BUILT_IN), found.type, found.event_version, bytes(found.event).decode()) == MessageUpdated(
        "m", "user", {"a": [1]}
    )
