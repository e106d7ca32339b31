"""Streams as a server uses them: several sessions in one, in batches, each with bounds of its own, and to the end."""

from __future__ import annotations

from typing import Any

import apsw
import attrs
import pytest
import trio
import trio.testing

from engine import START, CaughtUp, Limits, RecordedEvent, Reset, Skipped, StreamLimits
from engine.errors import ClosedError, InvalidArgumentError, StorageError
from engine.events import Envelope, MessageRemoved, MessageUpdated, PartUpdated, SessionNoted, SessionStarted
from engine.ports import Ports
from engine.subscriptions import Hub
from tests.support.engines import checked_engine

LARGE = 1_000_000
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


async def test_nothing_beyond_what_may_be_told_is_read(tmp_path, autojump_clock):
    """A reader that may read only so far, and then a little farther, gets each event when it is within, and once."""
    async with checked_engine(tmp_path / "a.db") as engine:
        sessions = {name: await engine.create_session(name) for name in "abc"}
        for name in "abcaabbbbca":
            await note(sessions[name], f"n{engine.statistics().head}")
        expected = [e.position for e in await whole(engine, session_id=["a", "b"])]
        reader = engine._core.files.reader
        for stride in (1, 2, 3, 5):
            scan, seen = reader.scan("default", ["b", "a"]), []
            for upto in range(0, engine.statistics().head + stride, stride):
                with reader.snapshot():
                    while page := scan(seen[-1] if seen else 0, upto, 2, LARGE):
                        seen += [event.position for event in page]
                assert seen == [position for position in expected if position <= upto]


@pytest.mark.parametrize("session_id", [None, "a", ["a", "b"]])
async def test_a_page_costs_what_it_holds_and_not_what_the_log_holds(tmp_path, autojump_clock, session_id):
    """For a page of a log a hundred times as long, at its beginning or in its middle, SQLite takes few more steps."""
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    async with checked_engine(tmp_path / "a.db") as engine:
        sessions = [await engine.create_session(name) for name in "abc"]
        connection = engine._core.files.reader.connection
        costs = []
        for length in (20, 2_000):
            for session in sessions:
                await session.append(*(SessionNoted(f"{length} {number}", "k") for number in range(length)))
            middle = (await engine.read.log(session_id="a", limit=10)).items[-1].cursor
            connection.set_progress_handler(count, 1)
            for after in (START, middle):
                steps = 0
                assert len((await engine.read.log(session_id=session_id, after=after, limit=5)).items) == 5
                costs.append(steps)
            connection.set_progress_handler(None)
        assert max(costs) < 2 * costs[0]


@pytest.mark.parametrize("fails_at", range(1, 22))
async def test_a_read_that_fails_in_the_middle_of_a_page_loses_nothing(tmp_path, autojump_clock, monkeypatch, fails_at):
    """Whichever query fails, the stream goes on afterwards where it was."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        sessions = {name: await engine.create_session(name) for name in "ab"}
        for name in "abbaabab":
            await note(sessions[name], f"n{engine.statistics().head}")
        expected = [e.position for e in await whole(engine, session_id=["a", "b"])]
        reader, calls = engine._core.files.reader, 0
        query = reader._query

        def failing(*given: Any) -> Any:
            nonlocal calls
            calls += "FROM event" in given[0]
            if calls == fails_at:
                calls += 1
                raise apsw.IOError("made up")
            return query(*given)

        monkeypatch.setattr(reader, "_query", failing)
        seen, failures = [], 0
        async with engine.log(session_id=["a", "b"]) as log:
            while log.state != "ended":
                try:
                    seen += await log.batch(2, LARGE)
                except StorageError:
                    failures += 1
        assert [item.position for item in seen if isinstance(item, RecordedEvent)] == expected
        assert failures == 1


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


# --- batches ----------------------------------------------------------------------------------------------


def names(items: list[Any]) -> list[str]:
    """The notes' names, and of other items their type's."""
    return [item.event.note_id if isinstance(item, RecordedEvent) else type(item).__name__ for item in items]


async def test_a_batch_is_what_is_there_up_to_its_bounds(tmp_path, autojump_clock):
    """It waits for the first item only, keeps the order, and its cursor is the place after its last item."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await note(session, *"abcde")
        start = (await engine.read.log(limit=1)).items[0].cursor
        async with engine.log(after=start, follow=True) as log:
            for events_max, expected in ((2, "ab"), (10, "cde")):
                batch = await log.batch(events_max, LARGE)
                assert names(batch) == list(expected)
                assert log.cursor == batch[-1].cursor
            assert names(await log.batch(10, LARGE)) == ["CaughtUp"]
            await note(session, *"fghij")
            assert names(await log.batch(2, LARGE)) == ["f", "g"]
            assert (await anext(log)).event.note_id == "h"
            batch = await log.batch(10, LARGE)
            assert names(batch) == ["i", "j"]
            assert log.cursor == batch[-1].cursor
            with trio.move_on_after(1) as scope:
                await log.batch(10, LARGE)
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(note, session, "k")
                assert names(await log.batch(10, LARGE)) == ["k"]


@pytest.mark.parametrize("live", [False, True])
async def test_a_batch_never_exceeds_its_bytes_but_for_one_larger_event(tmp_path, autojump_clock, live):
    """Live and from the log, a batch ends before the event that would not fit; an event that fits nowhere goes alone."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")

        async def publish() -> None:
            for name, chars in (("a", 400), ("b", 400), ("c", 400), ("large", 9_000), ("d", 400)):
                await session.append(SessionNoted(name, "k", {"text": "x" * chars}))

        if not live:
            await publish()
        start = (await engine.read.log(limit=1)).items[0].cursor
        async with engine.log(after=start, follow=True) as log:
            if live:
                await until_live(log)
                await publish()
            found = [names(await log.batch(100, 1_000)) for _ in range(4)]
        assert found == [["a", "b"], ["c"], ["large"], ["d"]]


async def test_markers_end_their_batch_and_an_ended_stream_gives_empty_ones(tmp_path, autojump_clock):
    """CaughtUp, Lagging and Reset are the last of their batch; after the end there are only empty batches."""
    limits = StreamLimits(buffer_events_max=3, buffer_bytes_max=LARGE, page_events_max=3, page_bytes_max=LARGE)
    async with checked_engine(tmp_path / "a.db", dense=False) as engine:
        session = await engine.create_session("s")
        await engine.import_events("t", [Envelope(SessionStarted(), "start")])
        async with engine.log(follow=True, limits=limits) as log:
            assert len(await log.batch(10, LARGE)) == 2
            assert names(await log.batch(10, LARGE)) == ["CaughtUp"]
            await note(session, *"abcd")
            found = [names(await log.batch(10, LARGE)) for _ in range(4)]
            assert found == [["Lagging"], ["a", "b", "c"], ["d"], ["CaughtUp"]]
            await engine.replace_imported("t", [Envelope(SessionStarted("new"), "other")])
            assert names(await log.batch(10, LARGE)) == ["Reset"]
            assert [await log.batch(10, LARGE) for _ in range(2)] == [[], []]
            with pytest.raises(StopAsyncIteration):
                await anext(log)
        async with engine.log() as log:
            batches = [await log.batch(100, LARGE) for _ in range(3)]
            assert isinstance(batches[1][-1], CaughtUp)
            assert batches[2] == []


async def test_a_cancelled_batch_loses_nothing(tmp_path, autojump_clock):
    """Whatever a cancelled call would have returned, the next one does."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        session = await engine.create_session("s")
        await note(session, *"abcdefg")
        seen: list[Any] = []
        async with engine.log(follow=True) as log:
            while len(seen) < 12:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await log.batch(2, LARGE)
                seen += await log.batch(2, LARGE)
                if len(seen) == 9:
                    await note(session, *"hij")
        assert [item.seq for item in seen if isinstance(item, RecordedEvent)] == list(range(1, 12))


async def test_what_a_filter_leaves_out_moves_the_cursor(tmp_path, autojump_clock):
    """Skipped events that nobody wants are passed, from the log and live, and a reader from the cursor does not miss any."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageRemoved("m"))

        async def late(count: int) -> None:
            for number in range(count):
                receipt = await session.append(PartUpdated(f"late {number}", "m", "text"))
                assert receipt.outcome == Skipped("orphan_part")

        await late(8)
        async with engine.log(follow=True, skipped=False) as log:
            assert [e.seq for e in await log.batch(10, LARGE)] == [1, 2, 3]
            assert log.cursor.position == 3
            assert names(await log.batch(10, LARGE)) == ["CaughtUp"]
            assert log.cursor.position == 11
            await late(2)
            with trio.move_on_after(1):
                await log.batch(10, LARGE)
            assert log.cursor.position == 13
            await late(1)
            await note(session, "a")
            await late(1)
            await note(session, "b")
            await late(1)
            batch = await log.batch(10, LARGE)
            assert names(batch) == ["a", "b"]
            assert log.cursor == batch[-1].cursor
        assert names(await whole(engine, after=batch[0].cursor, skipped=False)) == ["b"]


async def test_pages_of_which_nothing_is_wanted_move_the_cursor_and_let_others_run(tmp_path, autojump_clock):
    """A reader that is cancelled while it passes them has not passed them in vain."""
    scope = trio.CancelScope()
    steps = 0

    async def step(function: Any) -> Any:
        nonlocal steps
        steps += trio.lowlevel.current_task().name != "writer"
        if steps == 4:
            scope.cancel()
        return function()

    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3, ports=Ports(step=step)) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageRemoved("m"))
        for number in range(20):
            await session.append(PartUpdated(f"late {number}", "m", "text"))
        steps = 0
        async with engine.log(skipped=False) as log:
            with scope:
                while True:
                    await log.batch(10, LARGE)
            assert log.cursor.position == 9
            assert names(await log.batch(10, LARGE)) == ["CaughtUp"]


@pytest.mark.parametrize(("events_max", "bytes_max"), [(0, 1), (1, 0), (-1, 1), (True, 1), (1, 1.5), ("1", 1)])
async def test_a_batch_without_bounds_is_refused(tmp_path, autojump_clock, events_max, bytes_max):
    """Bounds are whole numbers of 1 or more; refused, the stream is where it was."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await engine.create_session("s")
        async with engine.log() as log:
            with pytest.raises(InvalidArgumentError, match="expected 1 or more, found"):
                await log.batch(events_max, bytes_max)
            assert len(await log.batch(1, 1)) == 1
        with pytest.raises(ClosedError):
            await engine.log().batch(1, 1)


# --- bounds of one stream ---------------------------------------------------------------------------------


async def test_a_stream_has_bounds_of_its_own(tmp_path, autojump_clock):
    """A small buffer lags where the engine's does not, pages are as small as asked, and nothing is lost by either."""
    small = StreamLimits(buffer_events_max=100, buffer_bytes_max=2_000, page_events_max=4, page_bytes_max=1_000)
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with engine.log(follow=True, limits=small) as log, engine.log(follow=True) as wide:
            await until_live(log)
            await until_live(wide)
            for number in range(12):
                await session.append(SessionNoted(f"n{number}", "k", {"text": "x" * (300 if number < 6 else 10)}))
            assert names(await log.batch(100, LARGE)) == ["Lagging"]
            sizes = []
            while len(batch := await log.batch(100, LARGE)) and not isinstance(batch[-1], CaughtUp):
                sizes.append(len(batch))
            assert sizes == [3, 3, 4, 2]
            assert len(await wide.batch(100, LARGE)) == 12


async def test_a_stream_that_reads_the_log_buffers_nothing(tmp_path, autojump_clock):
    """While catching up only its page is held: what is committed meanwhile is read with the next page."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        session = await engine.create_session("s")
        await note(session, *"abcdefg")
        async with engine.log(follow=True) as log:
            await anext(log)
            await note(session, *(f"n{number}" for number in range(50)))
            assert engine.statistics().subscriptions.buffered_events == 0
            assert [e.seq for e in await until_live(log)] == list(range(2, 59))
            await note(session, "live")
            assert engine.statistics().subscriptions.buffered_events == 1
        assert engine.statistics().subscriptions.lagged == 0


@pytest.mark.parametrize("name", ["buffer_events_max", "buffer_bytes_max", "page_events_max", "page_bytes_max"])
@pytest.mark.parametrize("value", [0, -1, None, 2.0])
async def test_bounds_that_bound_nothing_are_refused(tmp_path, autojump_clock, name, value):
    """The error names the bound."""
    limits = attrs.evolve(StreamLimits.of(Limits()), **{name: value})
    async with checked_engine(tmp_path / "a.db") as engine:
        with pytest.raises(InvalidArgumentError, match=f"limits.{name}.*expected 1 or more, found {value}"):
            engine.log(limits=limits)


# --- the end ----------------------------------------------------------------------------------------------


async def test_a_follower_that_is_still_catching_up_ends_when_the_engine_closes(tmp_path, autojump_clock):
    """It gets what it has read, then the end, item by item and in batches; another stream goes on from its cursor."""
    path = tmp_path / "a.db"
    async with checked_engine(path, limits=PAGES_OF_3) as engine:
        session = await engine.create_session("s")
        await note(session, *"abcdefg")
        items, batches = engine.log(follow=True), engine.log(follow=True)
        async with items, batches:
            first = [await anext(items), *await batches.batch(1, LARGE)]
            await engine._core.close()
            engine._core.files.close()
            assert [e.seq for e in first] == [1, 1]
            assert [item.seq async for item in items] == [2, 3]
            assert [e.seq for e in await batches.batch(10, LARGE)] == [2, 3]
            assert [await batches.batch(10, LARGE) for _ in range(2)] == [[], []]
            assert (items.state, batches.state) == ("ended", "ended")
    async with checked_engine(path) as engine:
        assert [e.seq for e in await whole(engine, after=items.cursor)] == [4, 5, 6, 7, 8]


async def test_a_reader_that_does_not_follow_is_told_when_the_engine_closes_before_its_end(tmp_path, autojump_clock):
    """An end without CaughtUp would look like the whole log, so it is an error."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        session = await engine.create_session("s")
        await note(session, *"abcdefg")
        log = engine.log()
        await log.__aenter__()
        await anext(log)
    assert [e.seq for e in await log.batch(10, LARGE)] == [2, 3]
    with pytest.raises(ClosedError):
        await log.batch(10, LARGE)
