"""Events: definition, registry, and which values are refused before they reach the writer."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from engine import Envelope, event
from engine.errors import EventTooLargeError, InvalidEventError, RegistrationError, UnregisteredEventError
from engine.events import (
    BUILT_IN,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    Registry,
    SessionNoted,
    SessionStarted,
    UnknownEvent,
    UsageRecorded,
    decode,
    digest,
    prepare,
)
from engine.limits import JSON_DEPTH_MAX, Limits

REGISTRY = Registry(BUILT_IN)


def nested(depth: int) -> Any:
    """A JSON object of that many levels."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


REFUSED: dict[str, Any] = {
    "lone surrogate in text": PartDelta("p", "m", "text", 0, "\ud800"),
    "lone surrogate in data": PartUpdated("p", "m", "text", {"a": ["\udfff"]}),
    "lone surrogate in a key": PartUpdated("p", "m", "text", {"\ud800": 1}),
    "NaN": SessionNoted("n", "k", {"a": math.nan}),
    "infinity": SessionNoted("n", "k", {"a": [math.inf]}),
    "tuple": SessionNoted("n", "k", {"a": (1, 2)}),
    "set": SessionNoted("n", "k", {"a": {1}}),
    "bytes": SessionNoted("n", "k", {"a": b"x"}),
    "object": SessionNoted("n", "k", {"a": object()}),
    "number as key": SessionNoted("n", "k", {1: 2}),  # type: ignore[dict-item]
    "a level too deep": SessionNoted("n", "k", nested(JSON_DEPTH_MAX + 1)),
    "far too deep": SessionNoted("n", "k", nested(JSON_DEPTH_MAX + 5_000)),
    "lists too deep": SessionNoted("n", "k", {"a": [nested(JSON_DEPTH_MAX - 1)]}),
    "empty id": MessageUpdated("", "user"),
    "long id": MessageUpdated("x" * 513, "user"),
    "id of another type": MessageUpdated(7, "user"),  # type: ignore[arg-type]
    "None as id": MessageUpdated(None, "user"),  # type: ignore[arg-type]
    "empty role": MessageUpdated("m", ""),
    "list for an object": MessageUpdated("m", "user", []),  # type: ignore[arg-type]
    "unknown field": PartDelta("p", "m", "body", 0, "x"),  # type: ignore[arg-type]
    "negative offset": PartDelta("p", "m", "text", -1, "x"),
    "float offset": PartDelta("p", "m", "text", 1.0, "x"),  # type: ignore[arg-type]
    "boolean count": UsageRecorded("st", cost_nanousd=True),
    "text count": UsageRecorded("st", cost_nanousd="1"),  # type: ignore[arg-type]
    "title of another type": SessionStarted(title=7),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_cannot_be_stored_is_refused(name):
    """What JSON cannot carry unchanged, or the field's type does not allow, is refused on one line that says so."""
    with pytest.raises(InvalidEventError) as caught:
        prepare(REGISTRY, REFUSED[name], Limits())
    assert str(caught.value).endswith("; nothing was written")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1.5, "b": [None, True, "\u0000", "\U0001f600"]},
        {"": {"x" * 1000: []}},
        {"n": 2**70},
        nested(JSON_DEPTH_MAX),
        {"a": [{}] * 200, "b": "{[" * 200},
        {"e": 1e308},
    ],
)
def test_what_is_accepted_comes_back_equal(value):
    """Accepted values decode to an equal event."""
    prepared = prepare(REGISTRY, SessionNoted("n", "k", value), Limits())
    assert decode(REGISTRY, "session.noted", 1, prepared.data.decode()) == prepared.event


def test_an_event_larger_than_its_limit_is_refused_with_both_numbers():
    """The message names the size and the limit."""
    with pytest.raises(EventTooLargeError, match="bytes encoded, limit event_bytes_max is 100"):
        prepare(REGISTRY, SessionNoted("n", "k", {"a": "x" * 200}), Limits(event_bytes_max=100))


@pytest.mark.parametrize("bad", ["", "x" * 513, 7, "\ud800"])
@pytest.mark.parametrize("field", ["event_id", "causation_id"])
def test_an_envelope_with_a_bad_id_is_refused(field, bad):
    """Ids given by the caller follow the rule of ids."""
    with pytest.raises(InvalidEventError, match=field):
        prepare(REGISTRY, Envelope(SessionNoted("n", "k"), **{field: bad}), Limits())


@pytest.mark.parametrize("bad", [-1, 1.5, True, "now", 2**63])
def test_an_envelope_with_a_bad_time_is_refused(bad):
    """Times are whole milliseconds since 1970."""
    with pytest.raises(InvalidEventError, match="occurred_at"):
        prepare(REGISTRY, Envelope(SessionNoted("n", "k"), occurred_at=bad), Limits())


def test_what_is_no_registered_event_is_refused():
    """Strangers, subclasses of events and events of another registry are named."""

    @attrs.frozen
    class Sub(SessionNoted):
        pass

    for item in (None, 7, object(), SessionNoted, Sub("n", "k")):
        with pytest.raises(UnregisteredEventError):
            prepare(REGISTRY, item, Limits())


def test_equal_content_has_equal_digests_whatever_the_order_of_keys():
    """The digest is of the content: type, version and data."""
    one = prepare(REGISTRY, SessionNoted("n", "k", {"a": 1, "b": 2}), Limits()).data
    two = prepare(REGISTRY, SessionNoted("n", "k", {"b": 2, "a": 1}), Limits()).data
    assert digest("t", 1, one) == digest("t", 1, two)
    assert len({digest("t", 1, one), digest("u", 1, one), digest("t", 2, one), digest("t", 1, b"{}")}) == 4


@pytest.mark.parametrize(
    ("name", "version", "data"),
    [
        ("nobody.knows", 1, "{}"),
        ("session.noted", 99, "{}"),
        ("session.noted", 1, "{"),
        ("session.noted", 1, '{"note_id": 1}'),
    ],
)
def test_what_cannot_be_read_becomes_an_unknown_event(name, version, data):
    """A stored event of an unknown type or version, or broken, is raw and never an exception."""
    assert decode(REGISTRY, name, version, data) == UnknownEvent(name, version, data)


def test_an_upcaster_that_fails_makes_the_event_unknown():
    """Old data that an upcaster cannot read is kept raw."""

    @event("old.thing", version=2)
    @attrs.frozen
    class Thing:
        a: int

    @Thing.upcaster(from_version=1)
    def up(value):
        return {"a": value["b"]}

    registry = Registry([Thing])
    assert decode(registry, "old.thing", 1, '{"b": 1}') == Thing(1)
    for data in ("{}", '{"b": "x"}', "[]"):
        assert decode(registry, "old.thing", 1, data) == UnknownEvent("old.thing", 1, data)


def test_a_class_that_cannot_be_an_event_is_refused():
    """Not attrs, not frozen, no name, a version below 1, a field that cannot be decoded."""

    class Plain:
        pass

    @attrs.define
    class Mutable:
        a: int

    @attrs.frozen
    class Fine:
        a: int

    @attrs.frozen
    class Callback:
        a: "NoSuchType"  # type: ignore[name-defined]  # noqa: F821, UP037

    for cls, name, version in ((Plain, "x", 1), (Mutable, "x", 1), (Fine, "", 1), (Fine, "x", 0), (Callback, "x", 1)):
        with pytest.raises(RegistrationError):
            event(name, version)(cls)


def test_upcasters_form_an_unbroken_chain():
    """A missing step, a second one for a version, or one from the future is refused."""

    def made(*steps: int) -> Any:
        @event("chained", version=4)
        @attrs.frozen
        class Chained:
            a: int = 0

        for step in steps:
            Chained.upcaster(from_version=step)(lambda value: value)
        return Chained

    Registry([made()])
    Registry([made(2, 3)])
    with pytest.raises(RegistrationError, match="no upcaster from version 2"):
        Registry([made(1, 3)])
    for steps in ((4,), (0,), (1, 1)):
        with pytest.raises(RegistrationError):
            made(*steps)


def test_two_classes_of_one_type_name_are_refused():
    """A registry gives a stored name to one class."""

    @event("session.noted")
    @attrs.frozen
    class Mine:
        a: int

    with pytest.raises(RegistrationError, match="both claim the type"):
        Registry([*BUILT_IN, Mine])
    with pytest.raises(RegistrationError, match="not decorated"):
        Registry([object])
