"""What a part's data and its streamed text make together."""

from __future__ import annotations

import pytest

from engine.errors import UnknownMessageError
from engine.events import MessageUpdated, PartDelta, PartUpdated
from tests.support.engines import checked_engine


async def test_a_value_that_is_no_text_takes_the_place_of_what_was_streamed(tmp_path):
    """The newest word on a field holds, whatever its type; a delta then begins anew."""
    async with checked_engine(tmp_path / "a.db") as engine:
        # given streamed text
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "tool", {"output": "lines"}))
        await session.append(PartDelta("p", "m", "output", 5, " more"))
        assert (await engine.read.message("s", "m")).parts[0].data == {"output": "lines more"}
        # when an object is reported in its place, and left out later
        await session.append(PartUpdated("p", "m", "tool", {"output": {"lines": 2}}))
        assert (await engine.read.message("s", "m")).parts[0].data == {"output": {"lines": 2}}
        await session.append(PartUpdated("p", "m", "tool", {}))
        # then nothing of the text comes back, and streaming begins at 0
        assert (await engine.read.message("s", "m")).parts[0].data == {}
        await session.append(PartDelta("p", "m", "output", 0, "new"))
        assert (await engine.read.message("s", "m")).parts[0].data == {"output": "new"}


async def test_stop_stops_before_it_tells_of_an_earlier_failure(tmp_path, autojump_clock):
    """Whoever presses Esc is obeyed first."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn:
            await session.post(PartUpdated("p", "never", "text"))
            await (await engine.session("s")).flush()
            with pytest.raises(UnknownMessageError):
                await session.stop("Esc")
        assert turn.reason == "Esc"


async def test_a_delta_delivered_twice_and_joined_with_the_next_is_applied_once(tmp_path, autojump_clock):
    """Whether the copy waits beside the next delta or is flushed before it, the text comes out the same."""
    for flush_between in (False, True):
        async with checked_engine(tmp_path / f"{flush_between}.db") as engine:
            session = await engine.create_session("s")
            await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"))
            # given a delta that is there
            await session.append(PartDelta("p", "m", "text", 0, "Hel"))
            # when it is delivered again, and the next one follows at once
            await session.post(PartDelta("p", "m", "text", 0, "Hel"))
            if flush_between:
                await session.flush()
            await session.post(PartDelta("p", "m", "text", 3, "lo"))
            await session.flush()
            # then
            assert (await engine.read.message("s", "m")).text == "Hello"
