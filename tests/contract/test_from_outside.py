"""What a caller brings from outside: events as JSON, and a session's life by its number."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Skipped, event
from engine.errors import (
    EngineError,
    EventTooLargeError,
    InvalidArgumentError,
    InvalidEventError,
    UnknownSessionError,
    UnregisteredEventError,
)
from engine.events import BUILT_IN, MessageUpdated, PartDelta, Registry, SessionNoted, ToolUpdated, parse
from engine.limits import Limits
from tests.support.engines import checked_engine


@event("odd.said", version=2)
@attrs.frozen
class OddSaid:
    """An event of somebody's own whose validator is careless."""

    value: int

    def __attrs_post_init__(self) -> None:
        if self.value == 0:
            raise KeyError("no such value")
        if self.value < 0:
            raise ValueError("below zero")


REGISTRY = Registry([*BUILT_IN, OddSaid])


def test_json_becomes_the_event_that_it_says() -> None:
    """With the defaults of the fields that it leaves out."""
    found = parse(REGISTRY, "part.delta", b'{"part_id":"p","message_id":"m","field":"text","offset":3,"text":"\\u00e9"}')
    assert found == PartDelta("p", "m", "text", 3, "é")
    assert parse(REGISTRY, "message.updated", b' {"message_id":"m","role":"user"}\n') == MessageUpdated("m", "user")
    tool = parse(
        REGISTRY,
        "tool.updated",
        b'{"part_id":"p","message_id":"m","call_id":"c","name":"n","state":"running","input":[1e2,null]}',
    )
    assert tool == ToolUpdated("p", "m", "c", "n", "running", input=[100.0, None])
    assert parse(REGISTRY, "odd.said", b'{"value":1}') == OddSaid(1)


@pytest.mark.parametrize(
    ("type_name", "data", "words"),
    [
        ("message.updated", b"", "truncated"),
        ("message.updated", b"null", "Expected `object`"),
        ("message.updated", b"[]", "Expected `object`"),
        ("message.updated", b'"x"', "Expected `object`"),
        ("message.updated", b"{", "truncated"),
        ("message.updated", b'{"message_id":"m","role":"user"} x', "trailing"),
        ("message.updated", b'{"message_id":"m"}', "`role`"),
        ("message.updated", b'{"message_id":5,"role":"user"}', "message_id"),
        ("message.updated", b'{"message_id":"","role":"user"}', "length >= 1"),
        ("message.updated", b'{"message_id":"m","role":"user","rolle":1}', "it has no field 'rolle'"),
        ("message.updated", b'{"message_id":"m","role":"user","a\\n":1}', "it has no field 'a\\\\n'"),
        ("message.updated", b'{"message_id":"\\ud800","role":"user"}', "surrogate"),
        ("message.updated", b'{"message_id":"\xff","role":"user"}', "utf-8"),
        ("message.updated", b'{"message_id":"m","role":"user","metadata":{"a":1e999}}', "out of range"),
        (
            "session.noted",
            b'{"note_id":"n","kind":"k","data":%s}' % (b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
            "recursion",
        ),
        ("part.delta", b'{"part_id":"p","message_id":"m","field":"text","offset":-1,"text":""}', ">= 0"),
        ("part.delta", b'{"part_id":"p","message_id":"m","field":"other","offset":0,"text":""}', "'other'"),
        ("odd.said", b'{"value":-1}', "below zero"),
        ("odd.said", b'{"value":0}', "KeyError: 'no such value'"),
    ],
)
def test_json_that_is_no_such_event_is_refused_in_words(type_name: str, data: bytes, words: str) -> None:
    """Whatever a class's validators raise, too."""
    with pytest.raises(InvalidEventError, match=words) as caught:
        parse(REGISTRY, type_name, data)
    assert caught.value.event_type == type_name


@pytest.mark.parametrize("name", ["", "nope", "message.updated ", "\0"])
def test_a_type_that_the_engine_does_not_know_is_refused(name: str) -> None:
    """It could not be applied."""
    with pytest.raises(UnregisteredEventError):
        parse(REGISTRY, name, b"{}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.sampled_from([definition.name for definition in REGISTRY.types]), st.data())
def test_any_bytes_are_an_event_or_refused(type_name: str, data: st.DataObject) -> None:
    """Nothing else is raised, whatever the fields hold."""
    definition = REGISTRY.named(type_name)
    assert definition is not None
    names = st.sampled_from([field.name for field in attrs.fields(definition.cls)] or ["x"])
    raw = data.draw(st.binary() | st.dictionaries(names, json_values).map(msgspec.json.encode))
    try:
        found = parse(REGISTRY, type_name, raw)
    except InvalidEventError:
        return
    assert type(found) is definition.cls


async def test_an_event_that_was_parsed_is_appended_like_any_other(tmp_path: Any, autojump_clock: Any) -> None:
    """And what the store could not keep is still refused: nested too deeply, or too large."""
    async with checked_engine(tmp_path / "a.db", events=[OddSaid], limits=Limits(event_bytes_max=2_000)) as engine:
        session = await engine.create_session("s")
        acme = engine.workspace("acme")
        # when
        receipt = await session.append(engine.parse_event("odd.said", b'{"value":7}'))
        # then
        assert receipt.seq == 2
        for error, data in (
            (InvalidEventError, b'{"note_id":"n","kind":"k","data":%s}' % (b'{"a":' * 200 + b"1" + b"}" * 200)),
            (EventTooLargeError, b'{"note_id":"n","kind":"%s"}' % (b"x" * 2_001)),
        ):
            with pytest.raises(error):
                await session.append(acme.parse_event("session.noted", data))
        assert (await session.append(SessionNoted("n", "k"))).seq == 3


# --- a life by its number -------------------------------------------------------------------------------


async def test_a_handle_on_a_life_writes_to_that_life_only(tmp_path: Any, autojump_clock: Any) -> None:
    """One that has ended skips as removed, also beside a later life of the id; the live one is written to."""
    async with checked_engine(tmp_path / "a.db") as engine:
        first = await engine.create_session("s")
        await first.remove()
        late = await engine.session("s", incarnation=1)
        assert (await late.append(SessionNoted("n", "k"))).outcome == Skipped("removed")
        await engine.create_session("s")
        # when
        old = await (await engine.session("s", incarnation=1)).append(SessionNoted("n", "k"))
        new = await (await engine.session("s", incarnation=2)).append(SessionNoted("n", "k"))
        # then
        assert (old.outcome, old.incarnation) == (Skipped("removed"), 1)
        assert (new.skipped, new.incarnation) == ((), 2)


@pytest.mark.parametrize("incarnation", [2, 2**31, 2**63 - 1, 2**63, 2**70])
async def test_a_life_that_never_began_is_an_unknown_session(tmp_path: Any, autojump_clock: Any, incarnation: int) -> None:
    """Whatever its number, and whether or not the id was ever used; nothing was written, and the engine goes on."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        for name in ("s", "t"):
            handle = await engine.session(name, incarnation=incarnation)
            # when, then
            with pytest.raises(UnknownSessionError):
                await handle.append(SessionNoted("n", "k"))
            await handle.post(SessionNoted("n", "k"))
            with pytest.raises(UnknownSessionError):
                await handle.flush()
            assert await handle.stop() is False
            with pytest.raises(UnknownSessionError):
                await handle.remove()
        assert (await session.append(SessionNoted("n", "k"))).seq == 2


@pytest.mark.parametrize("incarnation", [0, -1, True, 1.0, "1"])
async def test_what_is_no_number_of_a_life_is_refused(tmp_path: Any, autojump_clock: Any, incarnation: Any) -> None:
    """At once, with the argument's name; so is an id that is none."""
    async with checked_engine(tmp_path / "a.db") as engine:
        with pytest.raises(InvalidArgumentError, match="incarnation"):
            await engine.session("s", incarnation=incarnation)
        for name in ("", "x" * 513, "\ud800"):
            with pytest.raises(EngineError):
                await engine.session(name, incarnation=1)


async def test_a_turn_of_a_life_that_has_ended_takes_nobodys_slot(tmp_path: Any, autojump_clock: Any) -> None:
    """The live one runs beside whoever holds an old number."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await (await engine.create_session("s")).remove()
        live = await engine.create_session("s")
        async with live.turn() as turn, turn.message(role="assistant") as message:
            await message.text("on")
            old = await engine.session("s", incarnation=1)
            # when
            assert await old.stop() is False
            assert (await old.remove()).outcome == Skipped("removed")
            await message.text(" and on")
        assert (await engine.read.messages("s")).items[0].text == "on and on"
