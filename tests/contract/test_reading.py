"""Promises 11 and 16 for reads: pages say whether there is more, and a wrong argument gets a clear error."""

from __future__ import annotations

from typing import Any

import pytest

from engine import START, Cursor, Limits, open_engine, open_reader
from engine.errors import CursorError, InvalidArgumentError
from engine.events import SessionNoted
from tests.support.engines import checked_engine


@pytest.mark.parametrize("session_id", [None, "s"])
async def test_a_page_of_the_log_that_is_full_of_bytes_says_that_there_is_more(tmp_path, autojump_clock, session_id):
    """Whoever pages until there is no more has read the whole log, whichever bound ended a page."""
    limits = Limits(page_bytes_max=2_000)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        session = await engine.create_session("s")
        for number in range(7):
            await session.append(SessionNoted(f"n{number}", "k", {"text": "x" * (5_000 if number == 3 else 700)}))
        found: list[Any] = []
        after: Any = START
        while True:
            page = await engine.read.log(after=after, session_id=session_id, limit=4)
            assert 1 <= len(page.items) <= 4
            found += page.items
            if not page.more:
                break
            after = page.items[-1].cursor
        assert [item.seq for item in found] == list(range(1, 9))


@pytest.mark.parametrize("key", [2**63, -(2**70), 1.5, "1", True])
async def test_a_page_is_asked_for_by_the_key_of_an_item(tmp_path, autojump_clock, key):
    """A key that no item can have is refused by name, and not compared with those that are there."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await engine.create_session("s")
        for name in ("before", "after"):
            with pytest.raises(InvalidArgumentError, match=name):
                await engine.read.messages("s", **{name: key})
            with pytest.raises(InvalidArgumentError, match=name):
                await engine.read.sessions(**{name: key})


@pytest.mark.parametrize("limit", [0, 1_001, 1.5, "1", None, True])
async def test_a_limit_is_a_whole_number_within_its_bounds(tmp_path, autojump_clock, limit):
    """A limit of another kind is refused like one that is too large."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await engine.create_session("s")
        for read in (engine.read.log(limit=limit), engine.read.messages("s", limit=limit)):
            with pytest.raises(InvalidArgumentError, match="limit"):
                await read


async def test_an_id_that_is_no_text_of_unicode_names_nothing(tmp_path, autojump_clock):
    """A lone surrogate in an id is a typed refusal in every read."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await engine.create_session("s")
        for read in (
            engine.session("\ud800"),
            engine.read.session("\ud800"),
            engine.read.messages("\ud800"),
            engine.read.message("s", "\ud800"),
            engine.read.usage("\ud800"),
            engine.read.log(session_id="\ud800"),
        ):
            with pytest.raises(InvalidArgumentError):
                await read


@pytest.mark.parametrize("after", [None, 5, "START"])
async def test_a_place_that_is_none_is_not_taken_for_the_end(tmp_path, autojump_clock, after):
    """Neither a page nor a stream begins silently at the end of the log because it was asked for something else."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await engine.create_session("s")
        with pytest.raises(InvalidArgumentError, match="after"):
            await engine.read.log(after=after)
        with pytest.raises(InvalidArgumentError, match="after"):
            async with engine.log(after=after):
                pass
        with pytest.raises(CursorError):
            await engine.read.log(after=Cursor(engine.epoch, "1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [b"a.db", None, 5, "bad\udcff.db"])
async def test_a_path_that_sqlite_cannot_open_is_refused(autojump_clock, path):
    """A path that is no text in UTF-8 is an invalid argument, for an engine and a reader."""
    for opening in (open_engine(path), open_reader(path)):
        with pytest.raises(InvalidArgumentError, match="path"):
            async with opening:
                pass
