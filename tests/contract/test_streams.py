"""Streams as a server uses them: several sessions in one."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import CaughtUp, Limits, RecordedEvent, Reset
from engine.errors import InvalidArgumentError
from engine.events import Envelope, SessionNoted, SessionStarted
from engine.subscriptions import Hub
from tests.support.engines import checked_engine

PAGES_OF_3 = Limits(page_items_max=3)


async def note(session: Any, *names: str) -> None:
    """Append a note of each name."""
    for name in names:
        await session.append(SessionNoted(name, "k"))


async def until_live(stream: Any) -> list[RecordedEvent]:
    """The events up to the next CaughtUp."""
    found: list[RecordedEvent] = []
    async for item in stream:
        if isinstance(item, CaughtUp):
            break
        assert isinstance(item, RecordedEvent)
        found.append(item)
    return found


async def whole(engine: Any, **options: Any) -> list[RecordedEvent]:
    """All events of the log, read at once."""
    async with engine.log(**options) as log:
        return await until_live(log)


# --- several sessions in one stream -----------------------------------------------------------------------


async def test_a_stream_of_several_sessions_is_the_log_without_the_others(tmp_path, autojump_clock):
    """From every cursor, in pages of every size and live, the named sessions' events come in the log's order."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        sessions = {name: await engine.create_session(name) for name in "abcd"}
        for name in "abcaadbbbccccabdabc":
            await note(sessions[name], f"n{engine.statistics().head}")
        wanted = ["c", "a", "unheard of", "a"]
        log = await whole(engine)
        expected = [e for e in log if e.session_id in "ac"]
        assert await whole(engine, session_id=wanted) == expected
        assert await whole(engine, session_id=["c"]) == await whole(engine, session_id="c")
        for event in log:
            after = [e for e in expected if e.position > event.position]
            assert await whole(engine, session_id=wanted, after=event.cursor) == after
            for limit in (1, 2, 3):
                page = await engine.read.log(session_id=wanted, after=event.cursor, limit=limit)
                assert (list(page.items), page.more) == (after[:limit], len(after) > limit)
        async with engine.log(session_id=set(wanted), follow=True) as stream:
            assert await until_live(stream) == expected
            await note(sessions["b"], "not this")
            await note(sessions["a"], "this")
            await engine.create_session("unheard of")
            assert [((await anext(stream)).session_id) for _ in range(2)] == ["a", "unheard of"]


async def test_a_page_of_several_sessions_ends_at_its_bytes(tmp_path, autojump_clock):
    """The event that reaches the byte bound is the page's last, also where several sessions are merged."""
    async with checked_engine(tmp_path / "a.db", limits=Limits(page_bytes_max=3_000)) as engine:
        for name in "ab":
            session = await engine.create_session(name)
            for number in range(4):
                await session.append(SessionNoted(f"n{number}", "k", {"text": "x" * 1_000}))
        page = await engine.read.log(session_id=["a", "b"])
        assert (len(page.items), page.more) == (4, True)
        assert len(await whole(engine, session_id=["b", "a"])) == 10


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([], "expected 1 to 3 sessions, found 0"),
        (list("abcd"), "expected 1 to 3 sessions, found 4"),
        (["a", None], "expected ids, which are text, found None"),
        ([["a"]], "expected ids, which are text, found ['a']"),
        (b"a", "expected ids, which are text, found 97"),
        (7, "expected an id, a collection of ids or None, found 7"),
    ],
)
async def test_a_filter_that_names_no_sessions_is_refused(tmp_path, autojump_clock, found, problem):
    """None, too many, or what is no id: refused where the stream or the page is asked for."""
    async with checked_engine(tmp_path / "a.db", limits=Limits(subscription_sessions_max=3)) as engine:
        with pytest.raises(InvalidArgumentError) as caught:
            engine.log(session_id=found)
        assert problem in str(caught.value)
        with pytest.raises(InvalidArgumentError):
            await engine.read.log(session_id=found)


async def test_replacing_any_of_its_sessions_resets_a_stream(tmp_path, autojump_clock):
    """Live, catching up and from an old cursor, a stream over several sessions hears of each replacement, and only those."""

    def transcript(*names: str) -> list[Envelope]:
        return [Envelope(SessionStarted(), "start")] + [Envelope(SessionNoted(n, "k"), f"id {n}") for n in names]

    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3, dense=False) as engine:
        for name in "abc":
            await engine.import_events(name, transcript(*"vwxyz"))
        cursor = (await engine.read.log(limit=3)).items[1].cursor
        async with (
            engine.log(follow=True, session_id=["b", "a"]) as live,
            engine.log(follow=True, session_id=["a", "b", "c"]) as catching_up,
            engine.log(follow=True, session_id=["a", "c"]) as untouched,
        ):
            await until_live(live)
            await until_live(untouched)
            await anext(catching_up)
            await engine.replace_imported("b", transcript("new"))
            for stream in (live, catching_up):
                assert isinstance([item async for item in stream][-1], Reset)
            await note(await engine.session("c"), "n")
            assert (await anext(untouched)).session_id == "c"
        for names, resets in ((["a", "b"], True), (["a", "c"], False)):
            async with engine.log(after=cursor, session_id=names) as log:
                assert isinstance(await anext(log), Reset) == resets


async def test_publishing_asks_only_who_wants_the_event(tmp_path, autojump_clock):
    """Followers of other sessions and workspaces are not touched by an append, and leaving leaves nothing behind."""
    async with checked_engine(tmp_path / "a.db") as engine, trio.open_nursery() as nursery:
        hub: Hub = engine._core.hub
        session = await engine.create_session("s")
        other = engine.workspace("other")

        def refuse(_event: object) -> None:
            raise AssertionError("it was asked")

        async def idle(space: Any, names: Any) -> None:
            async with space.log(follow=True, session_id=names) as log:
                await until_live(log)
                log._subscriber.offer = refuse
                await trio.sleep_forever()

        for space, names in ((engine, "t"), (engine, ["t", "u"]), (other, None), (other, "s"), (other, ["s", "t"])):
            nursery.start_soon(idle, space, names)
        async with (
            engine.log(follow=True) as all_of_it,
            engine.log(follow=True, session_id="s") as one,
            engine.log(follow=True, session_id=["s", "t"]) as several,
        ):
            for stream in (all_of_it, one, several):
                await until_live(stream)
            await trio.testing.wait_all_tasks_blocked()
            await note(session, "n")
            assert {(await anext(stream)).seq for stream in (all_of_it, one, several)} == {2}
        nursery.cancel_scope.cancel()
    assert not hub._wanting
    assert hub.statistics().subscribers == 0
