"""Promises 8 and 9: what every event type does to what is streaming, settled, unknown, removed or never announced.

The table is the contract (section 6, "Skips" and "Late and legitimate"); it was written before the engine was asked.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from engine import Applied, Skipped
from engine.errors import InvalidEventError, SessionExistsError, UnknownMessageError
from engine.events import (
    BUILT_IN,
    ContextCompacted,
    MessageEdited,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartEdited,
    PartRemoved,
    PartUpdated,
    SessionForked,
    SessionNoted,
    SessionRemoved,
    SessionRewound,
    SessionStarted,
    SessionUpdated,
    ToolUpdated,
    UsageRecorded,
)
from engine.simulation.oracles import projection_tables, rows_of
from tests.support.engines import checked_engine, raw

MESSAGES = ("streaming", "completed", "swept", "unknown", "user", "removed", "never")
PARTS = ("there", "gone", "never")
WORDS = {"A": "applied", "O": "orphan_part", "R": "removed", "F": "finished", "U": "unchanged", "X": "refused"}

# One letter for each state in MESSAGES; where the part matters, one word for each state in PARTS.
MATRIX: dict[str, tuple[Any, str | tuple[str, str, str]]] = {
    "announce or change": (MessageUpdated("m", "assistant", {"new": 1}), "AFFA-RA"),
    "user changed": (MessageUpdated("m", "user", {"new": 1}), "----ARA"),
    "owner finishes": (MessageFinished("m", "error"), "AFAAFRX"),
    "sweep finishes": (MessageFinished("m", "aborted", by="sweep"), "AFFFFRX"),
    "message edited": (MessageEdited("m", {"new": 1}), "AAAAARX"),
    "message removed": (MessageRemoved("m"), "AAAAARX"),
    "part updated": (PartUpdated("p", "m", "text", {"new": 1}), ("AFFAAOX", "RRRRROX", "AFFAAOX")),
    "part delta": (PartDelta("p", "m", "text", 3, "def"), ("AFFAFOX", "RRRRROX", "XXXXXOX")),
    "part edited": (PartEdited("p", "m", {"new": 1}), ("AAAAAOX", "RRRRROX", "XXXXXOX")),
    "part removed": (PartRemoved("p", "m"), ("AAAAAOX", "RRRRROX", "XXXXXOX")),
    "tool result": (ToolUpdated("p", "m", "c", "bash", "completed", output="x"), ("AAAAAOX", "RRRRROX", "AAAAAOX")),
    "usage": (UsageRecorded("st", "m", cost_nanousd=1), "AAAAAAA"),
    "session updated": (SessionUpdated(title="new"), "AAAAAAA"),
    "compacted": (ContextCompacted("m", 1), "AAAAAAA"),
    "noted": (SessionNoted("n", "k"), "AAAAAAA"),
}


async def _prepare(session: Any, message: str, part: str, *, tool: bool) -> None:
    """Bring message `m` and its part `p` into the states named."""
    if message == "never":
        return
    role = "user" if message == "user" else "assistant"
    await session.append(MessageUpdated("m", role, state="unknown" if message == "unknown" else None))
    if part != "never":
        if tool:
            await session.append(ToolUpdated("p", "m", "c", "bash", "running"))
        else:
            await session.append(PartUpdated("p", "m", "text", {"text": "abc"}))
    if part == "gone":
        await session.append(PartRemoved("p", "m"))
    last = {
        "completed": MessageFinished("m", "completed", "stop"),
        "swept": MessageFinished("m", "aborted", by="sweep"),
        "removed": MessageRemoved("m"),
    }.get(message)
    if last is not None:
        await session.append(last)


async def _outcome(session: Any, event: Any) -> str:
    try:
        outcome = (await session.append(event)).outcome
    except UnknownMessageError:
        return "refused"
    return outcome.reason if isinstance(outcome, Skipped) else "applied"


@pytest.mark.parametrize("name", MATRIX)
async def test_every_event_type_meets_every_state(tmp_path, autojump_clock, name):
    """Each event type has exactly the outcome that the contract names, for each state of its message and part."""
    event, row = MATRIX[name]
    expected, found = {}, {}
    async with checked_engine(tmp_path / "a.db") as engine:
        for part, letters in zip(PARTS, (row, row, row) if isinstance(row, str) else row, strict=True):
            for message, letter in zip(MESSAGES, letters, strict=True):
                if letter == "-":
                    continue
                session = await engine.create_session(f"{message} {part}")
                await _prepare(session, message, part, tool=isinstance(event, ToolUpdated))
                expected[message, part] = WORDS[letter]
                found[message, part] = await _outcome(session, event)
    assert found == expected


async def test_the_matrix_covers_the_vocabulary():
    """Every built-in event type has a row, or a test of its own below."""
    alone = {SessionStarted, SessionRemoved, SessionRewound, SessionForked}
    assert {type(event) for event, _ in MATRIX.values()} | alone == set(BUILT_IN)


async def test_nothing_reaches_a_removed_session_but_usage(tmp_path, autojump_clock):
    """Every late write of a removed incarnation is Skipped removed, stored at its seq; usage is applied."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await _prepare(session, "streaming", "there", tool=False)
        await session.remove()
        found = {name: await _outcome(session, event) for name, (event, _) in MATRIX.items()}
        assert found == {name: "applied" if name == "usage" else "removed" for name in MATRIX}
        assert await _outcome(session, SessionRemoved()) == "removed"
        assert await _outcome(session, SessionStarted()) == "removed"
        log = (await engine.read.log(session_id="s")).items
        assert [e.seq for e in log] == list(range(1, len(log) + 1))
        assert (await engine.read.sessions()).items == ()


async def test_a_live_session_is_not_started_again(tmp_path, autojump_clock):
    """A second SessionStarted is refused with the session's name, by handle and by `create_session`."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        for call in (lambda: session.append(SessionStarted()), lambda: engine.create_session("s")):
            with pytest.raises(SessionExistsError) as caught:
                await call()
            assert str(caught.value) == "create session 's': it exists already; nothing was written"


@pytest.mark.parametrize("event", [SessionRewound(1), SessionForked("p", 1)])
async def test_rewind_and_fork_are_refused_until_the_read_model_follows_them(tmp_path, autojump_clock, event):
    """An event that this version could not project is refused, not stored and forgotten."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        with pytest.raises(InvalidEventError):
            await session.append(event)


@pytest.mark.parametrize("late", ["a", ""])
async def test_a_settled_message_keeps_everything(tmp_path, autojump_clock, late):
    """Status, reason, content and usage of a finished message stay, whatever streaming write comes late."""
    path = tmp_path / "a.db"
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        await _prepare(session, "streaming", "there", tool=False)
        await session.append(UsageRecorded("st", "m", cost_nanousd=7), MessageFinished("m", "completed", "stop"))
        connection = raw(path)
        before = rows_of(connection, projection_tables(connection))
        for event in (
            MessageUpdated("m", "assistant", {"late": 1}),
            PartUpdated("p", "m", "text", {"text": "late"}),
            PartUpdated("q", "m", "text", {"text": "late"}),
            PartDelta("p", "m", "text", 3, late),
            MessageFinished("m", "aborted"),
            MessageFinished("m", "aborted", by="sweep"),
        ):
            assert await _outcome(session, event) == "finished"
        after = rows_of(connection, projection_tables(connection))
        connection.close()
        del before["projection"], after["projection"]
        assert after == before


async def test_the_owners_finish_overrides_the_sweeps_guess_and_its_reason(tmp_path, autojump_clock):
    """After a sweep guessed, the owner's finish and tool result stand as if nobody had guessed."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(
            MessageUpdated("m", "assistant"),
            ToolUpdated("t", "m", "c", "bash", "running"),
            ToolUpdated("t", "m", "c", "bash", "aborted", error="guessed", by="sweep"),
            MessageFinished("m", "aborted", "guessed", by="sweep"),
        )
        await session.append(ToolUpdated("t", "m", "c", "bash", "completed", output=1), MessageFinished("m", "completed"))
        message = await engine.read.message("s", "m")
        assert (message.status, message.finish_reason, message.settled_by) == ("completed", None, "owner")
        tool = message.parts[0].tool
        assert (tool.state, tool.error, tool.output, tool.settled_by) == ("completed", None, 1, "owner")
        assert await _outcome(session, MessageFinished("m", "error")) == "finished"


STATES = ("pending", "running", "completed", "error", "aborted")
TOOLS = {
    # state before -> outcome of an update to each of STATES
    ("pending", "owner"): "UAAAA",
    ("running", "owner"): "UUAAA",
    ("completed", "owner"): "FFUFF",
    ("error", "owner"): "FFFUF",
    ("aborted", "owner"): "FFFFU",
    ("aborted", "sweep"): "FFAAA",
}


async def test_a_settled_tool_call_keeps_its_state(tmp_path, autojump_clock):
    """The outcome of every tool state after every other; only the sweep's guess is corrected, and only by a result."""
    expected, found = {}, {}
    async with checked_engine(tmp_path / "a.db") as engine:
        for (before, by), letters in TOOLS.items():
            for after, letter in zip(STATES, letters, strict=True):
                session = await engine.create_session(f"{before} {by} {after}")
                await session.append(MessageUpdated("m", "assistant"), ToolUpdated("t", "m", "c", "x", before, by=by))
                expected[before, by, after] = WORDS[letter]
                found[before, by, after] = await _outcome(session, ToolUpdated("t", "m", "c", "x", after))
    assert found == expected


async def test_a_result_fills_gaps_of_a_settled_call_and_changes_nothing_else(tmp_path, autojump_clock):
    """The same settled state may add what was missing; other content of what is there is Skipped finished."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), ToolUpdated("t", "m", "c", "x", "completed", output="one"))
        filled = ToolUpdated("t", "m", "c", "x", "completed", input={"a": 1}, output="two")
        assert await _outcome(session, filled) == "applied"
        assert await _outcome(session, ToolUpdated("t", "m", "c", "x", "completed", output="two")) == "finished"
        tool = (await engine.read.message("s", "m")).parts[0].tool
        assert (tool.input, tool.output) == ({"a": 1}, "one")


async def test_a_part_does_not_move_to_another_message(tmp_path, autojump_clock):
    """Every event that names a part under another message is refused, and nothing is written."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageUpdated("other", "assistant"))
        await session.append(PartUpdated("p", "m", "text"), ToolUpdated("t", "m", "c", "x", "running"))
        for event in (
            PartUpdated("p", "other", "text"),
            PartUpdated("p", "other", "text", {"text": "x"}),
            PartDelta("p", "other", "text", 0, "x"),
            PartEdited("p", "other", {"a": 1}),
            PartRemoved("p", "other"),
            ToolUpdated("t", "other", "c", "x", "completed"),
            ToolUpdated("t", "m", "another call", "x", "completed"),
        ):
            with pytest.raises(InvalidEventError):
                await session.append(event)


async def test_a_delta_beyond_the_end_or_with_other_text_is_refused(tmp_path, autojump_clock):
    """Offsets are code points; a gap or a contradiction is an error that names both numbers."""
    from engine.errors import OffsetError

    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text", {"text": "a\U0001f600"}))
        with pytest.raises(OffsetError) as caught:
            await session.append(PartDelta("p", "m", "text", 3, "x"))
        assert str(caught.value) == ("event 'part.delta': part 'p' text: expected offset 2, found 3; nothing was written")
        with pytest.raises(OffsetError, match="with other text"):
            await session.append(PartDelta("p", "m", "text", 1, "x"))
        await session.append(PartDelta("p", "m", "text", 2, "b"))
        assert (await engine.read.message("s", "m")).text == "a\U0001f600b"


async def test_a_skip_is_logged_once_with_id_type_session_and_seq(tmp_path, autojump_clock, caplog):
    """One warning per skipped event, with everything needed to find it; the skip is counted."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageRemoved("m"))
        with caplog.at_level(logging.WARNING):
            receipt = await session.append(PartUpdated("p", "m", "text"))
        assert engine.statistics().writer.outcomes["orphan_part"] == 1
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == [f"skipped (orphan_part): event {receipt.events[0].event_id} type part.updated session s seq 4"]


async def test_skipped_events_are_in_the_log_with_their_outcome(tmp_path, autojump_clock):
    """A skipped event is stored at its seq, and read back with its reason."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageRemoved("m"), PartUpdated("p", "m", "text"))
        outcomes = [e.outcome for e in (await engine.read.log()).items]
        assert outcomes == [Applied(), Applied(), Applied(), Skipped("orphan_part")]
