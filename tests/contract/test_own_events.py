"""Promises 5, 6 and 16 for what a caller makes up: its event objects, its ids, its upcasters."""

from __future__ import annotations

import attrs
import pytest

from engine import Applied, Envelope, event, open_engine
from engine.errors import DuplicateIdError
from engine.events import MessageUpdated, PartUpdated, SessionNoted, UnknownEvent
from tests.support.engines import checked_engine


async def test_what_a_caller_changes_after_the_call_reaches_nobody(tmp_path, autojump_clock):
    """The read model holds what the log holds, also when a posted object is changed while it waits."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"))
        data = {"text": "as posted", "step": 1}
        await session.post(PartUpdated("p", "m", "text", data))
        data["text"], data["step"] = "changed later", 2
        await session.flush()
        recorded = (await engine.read.log()).items[-1]
        message = await engine.read.message("s", "m")
        assert recorded.event.data == message.parts[0].data == {"text": "as posted", "step": 1}


@pytest.mark.parametrize("position", [2**63, 10**19 - 1])
async def test_an_id_that_names_an_impossible_position_harms_nobody(tmp_path, autojump_clock, position):
    """An id like those the log derives, with a position beyond SQLite's integers, is an id as any other."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        receipt = await session.append(Envelope(SessionNoted("n", "k"), f"{engine.epoch}-{position}"))
        assert receipt.outcome == Applied()
        with pytest.raises(DuplicateIdError):
            await session.append(Envelope(SessionNoted("n", "k"), f"{engine.epoch}-{2**63 - 1}"))
        assert (await session.append(SessionNoted("after", "k"))).outcome == Applied()


async def test_an_upcaster_that_raises_anything_breaks_nothing(tmp_path, autojump_clock):
    """An event whose upcaster fails is delivered raw, its id stays taken, and the writer goes on."""

    @event("own.thing", version=1)
    @attrs.frozen
    class First:
        number: int

    @event("own.thing", version=2)
    @attrs.frozen
    class Second:
        number: int

    @Second.upcaster(from_version=1)
    def _fail(_stored):
        raise AttributeError("a bug of the embedder")

    async with open_engine(tmp_path / "a.db", events=[First]) as engine:
        session = await engine.create_session("s")
        await session.append(Envelope(First(1), "e1"))
    async with open_engine(tmp_path / "a.db", events=[Second]) as engine:
        session = await engine.session("s")
        with pytest.raises(DuplicateIdError):
            await session.append(Envelope(Second(1), "e1"))
        receipt = await session.append(Second(2))
        assert receipt.outcome == Applied()
        found = [item.event for item in (await engine.read.log()).items[1:]]
        assert found == [UnknownEvent("own.thing", 1, '{"number":1}'), Second(2)]
