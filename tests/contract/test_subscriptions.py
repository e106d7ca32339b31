"""Promises 11 and 12: from any cursor without gap or duplicate; a slow reader costs bounded memory and delays nobody."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from engine import HEAD, START, CaughtUp, Cursor, Envelope, Lagging, Limits, RecordedEvent, Reset, Skipped
from engine.errors import ClosedError, CursorError
from engine.events import MessageRemoved, MessageUpdated, PartUpdated, SessionNoted, SessionStarted
from engine.ports import Ports
from tests.support.engines import checked_engine

PAGES_OF_3 = Limits(page_items_max=3)


async def note(session: Any, *names: str) -> None:
    """Append a note of each name."""
    for name in names:
        await session.append(SessionNoted(name, "k"))


async def read_until_live(stream: Any) -> list[RecordedEvent]:
    """The events up to the next CaughtUp."""
    found: list[RecordedEvent] = []
    async for item in stream:
        if isinstance(item, CaughtUp):
            break
        assert isinstance(item, RecordedEvent)
        found.append(item)
    return found


async def positions(engine: Any, **options: Any) -> list[int]:
    """All positions of the log, read at once."""
    async with engine.log(**options) as log:
        return [item.position async for item in log if isinstance(item, RecordedEvent)]


class Interrupting:
    """A `step` port that lets a publisher run before and after the reader's n-th step."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.publish = at, 0, None

    async def step(self, function: Any) -> Any:
        """Run the step, with the publisher at the chosen place."""
        if trio.lowlevel.current_task().name == "writer" or self.publish is None:
            return function()
        self.count += 1
        if self.count == self.at:
            await self._run()
        result = function()
        if self.count == self.at + 1:
            await self._run()
        return result

    async def _run(self) -> None:
        publish, self.publish = self.publish, None
        await publish()
        self.publish = publish


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("session_id", [None, "s"])
async def test_the_hand_over_from_log_to_live_has_no_gap(tmp_path, autojump_clock, at, session_id):
    """A publisher that commits before or after any step of a reader's catching up is heard once, in order."""
    steps = Interrupting(at)
    published = 0
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3, ports=Ports(step=steps.step)) as engine:
        session = await engine.create_session("s")
        other = await engine.create_session("other")
        await note(session, *"abcdef")

        async def publish() -> None:
            nonlocal published
            published += 1
            await note(session, f"during {published}", f"again {published}")
            await note(other, "elsewhere")

        async with engine.log(follow=True, session_id=session_id) as log:
            steps.publish = publish
            seen = await read_until_live(log)
            steps.publish = None
            await note(session, "live")
            while not seen or getattr(seen[-1].event, "note_id", "") != "live":
                item = await anext(log)
                if isinstance(item, RecordedEvent):
                    seen.append(item)
        expected = await positions(engine, session_id=session_id)
    assert [item.position for item in seen] == expected
    assert published or at > 4


async def test_a_publisher_at_every_item_leaves_no_gap(tmp_path, autojump_clock):
    """Something is committed after each item delivered, until the reader is live; nothing is missed or doubled."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        session = await engine.create_session("s")
        await note(session, *"abcdefgh")
        seen = []
        async with engine.log(follow=True) as log:
            async for item in log:
                if isinstance(item, RecordedEvent):
                    seen.append(item.position)
                if len(seen) == 40:
                    break
                if len(seen) < 20:
                    await note(session, f"after {len(seen)}")
                elif len(seen) == 20 or isinstance(item, CaughtUp):
                    await note(session, *(f"burst {n}" for n in range(20)))
        assert seen == (await positions(engine))[:40]


async def test_a_lagging_reader_goes_back_to_the_log(tmp_path, autojump_clock):
    """A buffer that overflows is emptied; the reader is told, re-reads the log, and is live again without a gap."""
    limits = Limits(subscriber_events_max=4, page_items_max=3)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        session = await engine.create_session("s")
        async with engine.log(follow=True) as log:
            seen = [item.position for item in await read_until_live(log)]
            for round_ in range(3):
                await note(session, *(f"{round_} {n}" for n in range(11)))
                assert log.state == "live"
                first = await anext(log)
                assert isinstance(first, Lagging)
                assert first.dropped == 11
                assert first.cursor.position == seen[-1]
                seen += [item.position for item in await read_until_live(log)]
            await note(session, "fits", "too")
            seen += [(await anext(log)).position, (await anext(log)).position]
        assert seen == await positions(engine)
        assert engine.statistics().subscriptions.lagged == 3


async def test_the_byte_bound_makes_a_reader_lag_too(tmp_path, autojump_clock):
    """A few large events overflow the buffer as many small ones do."""
    async with checked_engine(tmp_path / "a.db", limits=Limits(subscriber_bytes_max=5_000)) as engine:
        session = await engine.create_session("s")
        async with engine.log(after=HEAD, follow=True) as log:
            assert await read_until_live(log) == []
            for number in range(4):
                await session.append(SessionNoted(f"n{number}", "k", {"text": "x" * 2_000}))
            assert isinstance(await anext(log), Lagging)
            assert [item.seq for item in await read_until_live(log)] == [2, 3, 4, 5]


async def test_a_subscriber_that_never_reads_costs_bounded_memory_and_others_go_on(tmp_path, autojump_clock):
    """Its buffer never exceeds its bounds, while another reader stays live and the writer waits for nobody."""
    limits = Limits(subscriber_events_max=10, subscriber_bytes_max=100_000)
    largest = 0
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        session = await engine.create_session("s")
        async with engine.log(follow=True) as dead, engine.log(follow=True) as quick:
            await read_until_live(dead)
            await read_until_live(quick)
            began = trio.current_time()
            for number in range(200):
                await note(session, f"n{number}")
                item = await anext(quick)
                assert isinstance(item, RecordedEvent)
                assert item.seq == number + 2
                statistics = engine.statistics().subscriptions
                largest = max(largest, statistics.buffered_events)
                assert statistics.buffered_bytes <= limits.subscriber_bytes_max
            assert trio.current_time() == began
        assert largest <= 11
        assert engine.statistics().subscriptions.subscribers == 0


async def test_a_reader_that_is_cancelled_between_items_loses_none(tmp_path, autojump_clock):
    """A cancelled wait for the next item leaves the stream where it was."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        session = await engine.create_session("s")
        await note(session, *"abcdefg")
        seen = []
        async with engine.log(follow=True) as log:
            while len(seen) < 8:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await anext(log)
                item = await anext(log)
                if isinstance(item, RecordedEvent):
                    seen.append(item.seq)
            with trio.move_on_after(1):
                while True:
                    assert isinstance(await anext(log), CaughtUp)
            await note(session, "live")
            assert (await anext(log)).seq == 9
        assert seen == list(range(1, 9))


async def test_start_head_and_cursor_begin_where_they_say(tmp_path, autojump_clock):
    """START gives everything, HEAD only what comes, a cursor exactly what came after it."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await note(session, *"abc")
        log = (await engine.read.log()).items
        assert await positions(engine, after=START) == [e.position for e in log]
        assert await positions(engine, after=HEAD) == []
        for index, event in enumerate(log):
            assert await positions(engine, after=event.cursor) == [e.position for e in log[index + 1 :]]
            assert await positions(engine, after=Cursor.parse(str(event.cursor))) == [e.position for e in log[index + 1 :]]


async def test_the_log_after_a_pages_cursor_continues_exactly_there(tmp_path, autojump_clock):
    """Whatever a page shows is not told again, and whatever it does not show is told."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        for number in range(10):
            await session.append(MessageUpdated(f"m{number}", "user"))
            await session.append(MessageUpdated(f"m{number}", "user"))  # unchanged: takes a position, stores nothing
            page = await engine.read.messages("s")
            async with engine.log(after=page.cursor, follow=True) as log:
                assert await read_until_live(log) == []
                receipt = await session.append(SessionNoted(f"n{number}", "k"))
                assert (await anext(log)).position == receipt.position
            assert await positions(engine, after=page.cursor) == [receipt.position]


async def test_reopening_with_an_old_cursor_continues_without_gap_or_duplicate(tmp_path, autojump_clock):
    """A cursor survives restarts: what was seen before and after them is the log, once."""
    path = tmp_path / "a.db"
    seen: list[int] = []
    cursor: Any = START
    for round_ in range(4):
        async with checked_engine(path) as engine:
            session = await (engine.session("s") if round_ else engine.create_session("s"))
            async with engine.log(after=cursor, follow=True) as log:
                await note(session, f"{round_} a", f"{round_} b")
                items = await read_until_live(log)
                await note(session, f"{round_} live")
                items.append(await anext(log))
                # The last item is handled, but its cursor is not kept: the next round sees it again.
                seen += [item.position for item in items[:-1]]
                cursor = items[-2].cursor
            expected = await positions(engine)
    assert seen == expected[:-1]


async def test_cursors_that_this_log_cannot_have_given_are_refused(tmp_path, autojump_clock):
    """From the future, of another log, before or beyond their epoch: refused in words, by streams and by pages."""
    path = tmp_path / "a.db"
    async with checked_engine(tmp_path / "other.db") as engine:
        await engine.create_session("s")
        foreign = (await engine.read.log()).items[-1].cursor
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        await note(session, *"abc")
        closed = (await engine.read.log()).items[-1].cursor
    async with checked_engine(path) as engine:
        await note(await engine.session("s"), *"defg")
        head = (await engine.read.log()).items[-1].cursor
        for cursor, problem in (
            (Cursor(head.epoch, head.position + 1), "from the future"),
            (Cursor(closed.epoch, closed.position + 1), "tail that was lost"),
            (Cursor(head.epoch, closed.position - 1), "its epoch begins at"),
            (foreign, "another log"),
            (Cursor("0", 3), "another log"),
        ):
            with pytest.raises(CursorError, match=problem) as caught:
                async with engine.log(after=cursor):
                    pass
            assert str(caught.value).endswith("nothing was written")
            with pytest.raises(CursorError):
                await engine.read.log(after=cursor)
        assert len(await positions(engine, after=closed)) == 4


@pytest.mark.parametrize(
    "token",
    ["", "x", "abc", "abc-", "-5", "abc-01", "ABC-1", "abc-1 ", "abc-1\n", "abc-" + "9" * 20, "a" * 33 + "-1", "abc-١"],
)
async def test_malformed_cursors_are_refused(token):
    """A token that is no cursor is refused by name, and never guessed at."""
    with pytest.raises(CursorError, match="is not a cursor"):
        Cursor.parse(token)


async def test_a_session_filter_gives_that_session_only(tmp_path, autojump_clock):
    """Catching up, live and from a cursor, only the named session's events come; CaughtUp comes all the same."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3) as engine:
        a, b = await engine.create_session("a"), await engine.create_session("b")
        for name in "123456":
            await note(a, name)
            await note(b, name)
        async with engine.log(session_id="a", follow=True) as log:
            seen = await read_until_live(log)
            await note(b, "not this")
            await note(a, "this")
            seen.append(await anext(log))
            assert [(e.session_id, e.seq) for e in seen] == [("a", seq) for seq in range(1, 9)]
        assert await positions(engine, session_id="a", after=seen[3].cursor) == [e.position for e in seen[4:]]
        assert await positions(engine, session_id="unheard of") == []


async def test_the_skipped_filter_leaves_out_what_changed_nothing(tmp_path, autojump_clock):
    """`skipped=False` hides skipped events in the log and live, and the cursor still moves past them."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageRemoved("m"), PartUpdated("p", "m", "text"))
        async with engine.log(follow=True, skipped=False) as log, engine.log(follow=True) as whole:
            assert [e.seq for e in await read_until_live(log)] == [1, 2, 3]
            assert [e.seq for e in await read_until_live(whole)] == [1, 2, 3, 4]
            await session.append(PartUpdated("late", "m", "text"))
            await note(session, "n")
            assert (await anext(log)).seq == 6
            late = await anext(whole)
            assert (late.seq, late.outcome) == (5, Skipped("orphan_part"))


def imported(*names: str) -> list[Envelope]:
    """A transcript: its session and a note for each name."""
    return [Envelope(SessionStarted(), "start")] + [Envelope(SessionNoted(n, "k"), f"id {n}") for n in names]


async def test_replacing_a_session_resets_its_followers(tmp_path, autojump_clock):
    """Live, catching up and by an old cursor, whoever may hold replaced events gets a Reset as the last item."""
    async with checked_engine(tmp_path / "a.db", limits=PAGES_OF_3, dense=False) as engine:
        await engine.import_events("s", imported(*"abcdefgh"))
        other = await engine.create_session("other")
        cursor = (await engine.read.log(limit=3)).items[1].cursor
        async with (
            engine.log(follow=True) as live,
            engine.log(follow=True, session_id="s") as catching_up,
            engine.log() as paging,
            engine.log(follow=True, session_id="other") as untouched,
        ):
            await read_until_live(live)
            await read_until_live(untouched)
            await anext(catching_up)
            await anext(paging)
            await engine.replace_imported("s", imported(*"xy"))
            for stream in (live, catching_up, paging):
                rest = [item async for item in stream]
                assert isinstance(rest[-1], Reset)
                assert not [item for item in rest if getattr(getattr(item, "event", None), "note_id", "") in ("x", "y")]
                assert stream.state == "ended"
            await note(other, "n")
            assert (await anext(untouched)).session_id == "other"
        async with engine.log(after=cursor, session_id="s") as log:
            assert [type(item) for item in [item async for item in log]] == [Reset]
        async with engine.log(session_id="s") as log:
            items = [item async for item in log]
        assert [getattr(item.event, "note_id", None) for item in items[:-1]] == [None, "x", "y"]


@pytest.mark.parametrize("session_id", ["s", None])
async def test_a_replacement_right_after_a_stream_was_opened_resets_it(tmp_path, autojump_clock, session_id):
    """A cursor was good when the stream was opened; before it read anything, what lies before the cursor was replaced."""
    async with checked_engine(tmp_path / "a.db", dense=False) as engine:
        await engine.import_events("s", imported(*"ab"))
        cursor = (await engine.read.log(limit=2)).items[1].cursor
        async with engine.log(after=cursor, follow=True, session_id=session_id) as log:
            await engine.replace_imported("s", imported(*"xy"))
            with trio.fail_after(60):
                assert [type(item) for item in [item async for item in log]] == [Reset]


async def test_a_follower_ends_after_what_it_has_when_the_engine_closes(tmp_path, autojump_clock):
    """Closing delivers what is buffered, then ends the iteration; a stream that was never entered says so."""
    seen = []

    async def follow(engine: Any, task_status: Any) -> None:
        async with engine.log(follow=True) as log:
            async for item in log:
                if isinstance(item, CaughtUp):
                    task_status.started()
                else:
                    seen.append(item.seq)

    async with trio.open_nursery() as nursery, checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await nursery.start(follow, engine)
        await session.post(SessionNoted("n", "k"))
    assert seen == [1, 2]
    with pytest.raises(ClosedError):
        await anext(engine.log())


async def test_a_follower_that_comes_while_the_engine_closes_ends_too(tmp_path, autojump_clock):
    """Nobody will publish any more, so it must not wait for that."""

    class SlowToLeave:
        async def sync(self) -> None: ...

        async def checkpoint(self) -> None: ...

        async def aclose(self) -> None:
            await trio.sleep(2)

    async def start(_path: str) -> SlowToLeave:
        return SlowToLeave()

    seen: list[Any] = []

    async def follow() -> None:
        await trio.sleep(1)
        async with engine.log(follow=True) as log:
            seen.extend([type(item) async for item in log])

    # given an engine that closes slowly, and a follower that comes meanwhile
    with trio.fail_after(100):
        async with (
            trio.open_nursery() as nursery,
            checked_engine(tmp_path / "a.db", sync="helper", ports=Ports(start_sync=start)) as engine,
        ):
            await engine.create_session("s")
            nursery.start_soon(follow)
    # then
    assert seen == [RecordedEvent, CaughtUp]
