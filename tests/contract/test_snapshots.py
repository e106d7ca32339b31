"""Sessions as they are at one place in the log, and following from exactly there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine import CaughtUp, Limits
from engine.errors import InvalidArgumentError, UnknownSessionError
from engine.events import MessageUpdated, PartUpdated, SessionNoted, ToolUpdated, UsageRecorded
from tests.support.engines import checked_engine


async def say(session: Any, *names: str, chars: int = 1) -> None:
    """A user's message of each name, with a text part."""
    for name in names:
        part = PartUpdated(f"p-{name}", name, "text", {"text": "x" * chars})
        await session.append(MessageUpdated(name, "user"), part)


def shown(snapshot: Any) -> list[tuple[str, list[str], bool]]:
    """Per session its id, the ids of its messages, and whether there are more."""
    return [(s.session.session_id, [m.message_id for m in s.messages], s.more) for s in snapshot.sessions]


async def test_a_snapshot_is_what_the_other_reads_say(tmp_path, autojump_clock):
    """Views, messages with parts and tool calls, and usage equal those of the reads of one session each."""
    async with checked_engine(tmp_path / "a.db") as engine:
        for name in ("s", "t", "parent"):
            session = await engine.create_session(name, title=name, parent_id="parent" if name != "parent" else None)
            await say(session, "m1", "m2", "m3")
            await session.append(ToolUpdated("tool", "m3", "c", "bash", "running", input={"x": 1}))
            await session.append(UsageRecorded("st", "m3", cost_nanousd=5), UsageRecorded("st2", "gone", cost_nanousd=2))
        snapshot = await engine.read.snapshot(["t", "s", "t"], messages=2)
        assert shown(snapshot) == [("t", ["m2", "m3"], True), ("s", ["m2", "m3"], True)]
        for found in snapshot.sessions:
            session_id = found.session.session_id
            assert found.session == await engine.read.session(session_id)
            assert found.messages == (await engine.read.messages(session_id, limit=2)).items
            assert found.usage == await engine.read.usage(session_id, roll_up=False)
        assert (await engine.read.snapshot("s", messages=3)).sessions[0].more is False
        assert (await engine.read.snapshot("parent")).sessions[0].usage.children.steps == 0
        assert shown(await engine.read.snapshot("s", messages=0)) == [("s", [], True)]


async def test_the_log_continues_exactly_at_a_snapshot(tmp_path, autojump_clock):
    """Whatever a snapshot shows is not told again, and whatever it does not show is told."""
    async with checked_engine(tmp_path / "a.db") as engine:
        a, b = await engine.create_session("a"), await engine.create_session("b")
        for number in range(6):
            await say(a, f"m{number}")
            if number % 2:
                await a.append(MessageUpdated(f"m{number}", "user"))  # unchanged: takes a position, stores nothing
            snapshot = await engine.read.snapshot(["a", "b"])
            async with engine.log(after=snapshot.cursor, follow=True, session_id=["a", "b"]) as log:
                assert await anext(log) == CaughtUp(snapshot.cursor)
                receipt = await b.append(SessionNoted(f"n{number}", "k"))
                assert (await anext(log)).position == receipt.position
            assert len((await engine.read.log(after=snapshot.cursor)).items) == 1


async def test_a_snapshot_of_the_workspace_lists_its_newest_sessions(tmp_path, autojump_clock):
    """In the order of their creation, without messages, and it says whether there are older ones."""
    async with checked_engine(tmp_path / "a.db") as engine:
        for name in "abcde":
            session = await engine.create_session(name)
            if name > "c":
                await say(session, "m")
                await session.append(UsageRecorded("st", "m", cost_nanousd=3))
        await (await engine.session("e")).remove()
        await engine.workspace("other").create_session("z")
        newest = await engine.read.snapshot(sessions=2)
        assert shown(newest) == [("c", [], False), ("d", [], True)]
        assert newest.more
        assert [found.usage.total.cost_nanousd for found in newest.sessions] == [0, 3]
        everything = await engine.read.snapshot()
        assert [name for name, _, _ in shown(everything)] == list("abcd")
        assert not everything.more
        assert (await engine.workspace("empty").read.snapshot()).sessions == ()


async def test_a_snapshot_shares_its_bytes_among_the_sessions(tmp_path, autojump_clock):
    """A session with much to say leaves the others theirs; what one does not use, the later ones may."""
    async with checked_engine(tmp_path / "a.db", limits=Limits(page_bytes_max=30_000)) as engine:
        loud, quiet, last = [await engine.create_session(name) for name in ("loud", "quiet", "last")]
        await say(loud, *(f"m{number}" for number in range(10)), chars=4_000)
        await say(quiet, "m0", "m1", chars=10)
        await say(last, *(f"m{number}" for number in range(10)), chars=1_500)
        # a third of 30,000; nearly nothing; what is left of 30,000 - 3 x 4,000 and what rows weigh
        found = shown(await engine.read.snapshot(["loud", "quiet", "last"]))
        assert [(name, len(messages), more) for name, messages, more in found] == [
            ("loud", 3, True),
            ("quiet", 2, False),
            ("last", 9, True),
        ]
        assert found[0][1] == ["m7", "m8", "m9"]
        await say(loud, "huge", chars=100_000)
        found = shown(await engine.read.snapshot(["loud", "quiet"]))
        assert found == [("loud", ["huge"], True), ("quiet", [], True)]


async def test_a_snapshot_that_is_too_large_or_makes_no_sense_is_refused(tmp_path, autojump_clock):
    """The error says what was asked for and what there may be; nothing is read."""
    limits = Limits(page_items_max=10, subscription_sessions_max=5)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        for name in "abc":
            await engine.create_session(name)
        for call, problem in (
            (lambda: engine.read.snapshot("a", messages=11), "at most 10 in all, found 1 sessions of 11 messages"),
            (lambda: engine.read.snapshot([*"abc"], messages=4), "at most 10 in all, found 3 sessions of 4 messages"),
            (lambda: engine.read.snapshot("a", messages=-1), "messages: expected 0 or more, found -1"),
            (lambda: engine.read.snapshot("a", messages=None), "messages: expected 0 or more, found None"),
            (lambda: engine.read.snapshot([]), "expected 1 to 5 sessions, found 0"),
            (lambda: engine.read.snapshot([*"abcdef"], messages=1), "expected 1 to 5 sessions, found 6"),
            (lambda: engine.read.snapshot(sessions=0), "sessions: expected 1 to 10, found 0"),
            (lambda: engine.read.snapshot(["\ud800"], messages=1), "lone surrogate"),
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                await call()
            assert problem in str(caught.value).replace("'", "")
        assert len((await engine.read.snapshot([*"abc"], messages=3)).sessions) == 3


async def test_a_snapshot_of_a_session_that_is_not_live_says_which(tmp_path, autojump_clock):
    """Never there, removed, or another workspace's: all are unknown, and the others are not answered."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await engine.create_session("s")
        await (await engine.create_session("removed")).remove()
        await engine.workspace("other").create_session("theirs")
        for name in ("never", "removed", "theirs"):
            with pytest.raises(UnknownSessionError) as caught:
                await engine.read.snapshot(["s", name])
            assert caught.value.session_id == name


async def test_a_snapshot_is_encodable_as_it_is(tmp_path, autojump_clock):
    """A server sends it without a mapping of its own."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s", metadata={"a": [1]})
        await say(session, "m")
        await session.append(ToolUpdated("tool", "m", "c", "bash", "completed", output={"y": None}))
        await session.append(UsageRecorded("st", "m", model="x", cost_nanousd=5))
        for snapshot in (await engine.read.snapshot("s"), await engine.read.snapshot()):
            decoded = msgspec.json.decode(msgspec.json.encode(snapshot))
            assert decoded["cursor"] == {"epoch": snapshot.cursor.epoch, "position": snapshot.cursor.position}
            assert decoded["sessions"][0]["session"]["metadata"] == {"a": [1]}
            assert decoded["sessions"][0]["usage"]["by_model"]["x"]["cost_nanousd"] == 5
            assert len(decoded["sessions"][0]["messages"]) == len(snapshot.sessions[0].messages)
