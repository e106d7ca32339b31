"""Race 1: a late part after a cascade delete.

Tasks: a turn streams parts of message M; somebody removes M (or its session); the aborted turn still writes a part of M.
The naive store is rebuilt here, small, in both of its forms; it must fail as it did in the field, or the scenario proves
nothing. The engine meets every order and both batchings: the gate decides what reaches the writer when.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import apsw
import pytest
import trio

from engine import Applied, Skipped
from engine.events import (
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartEdited,
    PartRemoved,
    PartUpdated,
    SessionNoted,
    SessionRemoved,
    ToolUpdated,
    UsageRecorded,
)
from tests.support.engines import Gate, checked_engine, in_one_batch, one_by_one, raw


class NaiveStore:
    """The design that had the bug: an upsert with a foreign key, and whatever it raises goes to the turn."""

    def __init__(self, path: Any, *, deferred: bool) -> None:
        self.connection = apsw.Connection(str(path))
        self.connection.execute("PRAGMA foreign_keys = ON")
        key = "REFERENCES message(id) ON DELETE CASCADE" + (" DEFERRABLE INITIALLY DEFERRED" if deferred else "")
        self.connection.execute(
            f"CREATE TABLE message(id TEXT PRIMARY KEY); CREATE TABLE part(id TEXT PRIMARY KEY, m {key})"
        )

    def announce(self, message_id: str) -> None:
        self.connection.execute("INSERT INTO message VALUES(?)", (message_id,))

    def remove(self, message_id: str) -> None:
        self.connection.execute("DELETE FROM message WHERE id = ?", (message_id,))

    def part(self, part_id: str, message_id: str) -> None:
        self.connection.execute(
            "INSERT INTO part VALUES(?, ?) ON CONFLICT DO UPDATE SET m = excluded.m", (part_id, message_id)
        )

    def batch(self, *steps: Callable[[], None]) -> None:
        """The steps in one transaction."""
        with self.connection:
            for step in steps:
                step()

    def rows(self) -> tuple[list[Any], list[Any]]:
        """(messages, parts)"""
        return (
            self.connection.execute("SELECT id FROM message ORDER BY id").fetchall(),
            self.connection.execute("SELECT id FROM part ORDER BY id").fetchall(),
        )


@pytest.mark.parametrize("deferred", [False, True])
def test_the_naive_store_passes_when_the_part_is_in_time(tmp_path, deferred):
    """In the harmless order the naive design looks right, which is why it was shipped."""
    store = NaiveStore(tmp_path / "naive.db", deferred=deferred)
    store.announce("M")
    store.batch(lambda: store.part("p", "M"), lambda: store.remove("M"))
    assert store.rows() == ([], [])


def test_the_naive_upsert_crashes_on_the_late_part():
    """With an immediate key the late part's statement raises, and the error is the turn's crash."""
    store = NaiveStore(":memory:", deferred=False)
    store.announce("M")
    store.remove("M")
    with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
        store.part("late", "M")


def test_the_naive_deferred_key_loses_the_whole_batch():
    """With a deferred key COMMIT fails, and innocent neighbours of the batch are lost with the late part."""
    store = NaiveStore(":memory:", deferred=True)
    store.announce("M")
    store.announce("other")
    store.remove("M")
    with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
        store.batch(lambda: store.part("innocent", "other"), lambda: store.part("late", "M"))
    assert store.rows() == ([("other",)], [])


LATE = {
    "part": PartUpdated("late", "M", "text", {"text": "x"}),
    "known part": PartUpdated("p", "M", "text", {"text": "x"}),
    "delta": PartDelta("p", "M", "text", 3, "x"),
    "edit": PartEdited("p", "M", {}),
    "tool": ToolUpdated("t", "M", "c", "bash", "completed"),
    "part removal": PartRemoved("p", "M"),
}
REMOVALS = {"message": MessageRemoved("M"), "session": SessionRemoved()}


async def in_order(gate: Gate, session: Any, together: bool, *calls: Any) -> Any:
    """The calls in one batch, or each in its own."""
    if together:
        before = gate.batches
        answers = await in_one_batch(gate, session.drain, *calls)
        assert gate.batches == before + 2, "the calls were to share a batch"
        return answers
    return await one_by_one(*calls)


@pytest.mark.parametrize("together", [True, False], ids=["same batch", "own batches"])
@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("late", LATE)
async def test_the_late_part_is_skipped_and_everybody_goes_on(tmp_path, autojump_clock, caplog, late, removal, together):
    """After the removal the part is a counted skip with one warning; session, batch and neighbours go on."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session, other = await engine.create_session("s"), await engine.create_session("other")
        await session.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "abc"}))
        with caplog.at_level(logging.WARNING):
            removed, skipped, innocent, usage = await in_order(
                gate,
                other,
                together,
                lambda: session.append(REMOVALS[removal]),
                lambda: session.append(LATE[late]),
                lambda: other.append(MessageUpdated("m", "user")),
                lambda: session.append(UsageRecorded("st", "M", cost_nanousd=240_000_000, input_tokens=404_062)),
            )
        reason = "orphan_part" if removal == "message" else "removed"
        assert removed.outcome == innocent.outcome == usage.outcome == Applied()
        assert skipped.outcome == Skipped(reason)
        assert skipped.seq == removed.seq + 1
        entry = skipped.events[0]
        assert [record.getMessage() for record in caplog.records] == [
            f"skipped ({reason}): event {entry.event_id} type {LATE[late].__engine_event__.name} session s seq {entry.seq}"
        ]
        report = await engine.read.usage("s")
        assert (report.own.steps, report.unattributed.cost_nanousd) == (0, 240_000_000)
        stored = (await engine.read.log(session_id="s")).items[-2]
        assert (stored.seq, stored.outcome, stored.event) == (entry.seq, Skipped(reason), LATE[late])
        connection = raw(tmp_path / "a.db")
        assert connection.execute("SELECT count(*) FROM part").get == 0
        connection.close()
        if removal == "message":
            assert (await session.append(MessageUpdated("next", "assistant"))).outcome == Applied()


@pytest.mark.parametrize("together", [True, False], ids=["same batch", "own batches"])
@pytest.mark.parametrize("removal", REMOVALS)
async def test_the_part_in_time_is_applied_and_goes_with_its_message(tmp_path, autojump_clock, removal, together):
    """In the other order the part is applied, then removed with its message: nothing is skipped."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "abc"}))
        answers = await in_order(
            gate,
            session,
            together,
            lambda: session.append(LATE["part"]),
            lambda: session.append(REMOVALS[removal]),
        )
        assert [answer.outcome for answer in answers] == [Applied(), Applied()]


@pytest.mark.parametrize("together", [True, False], ids=["same batch", "own batches"])
async def test_a_message_announced_again_stays_removed(tmp_path, autojump_clock, together):
    """A late announcement is Skipped removed, and so is all that follows it."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("M", "assistant"))
        answers = await in_order(
            gate,
            session,
            together,
            lambda: session.append(MessageRemoved("M")),
            lambda: session.append(MessageUpdated("M", "assistant", {"again": 1})),
            lambda: session.append(LATE["part"]),
            lambda: session.append(MessageFinished("M", "completed")),
        )
        assert [answer.outcome for answer in answers] == [
            Applied(),
            Skipped("removed"),
            Skipped("orphan_part"),
            Skipped("removed"),
        ]
        assert (await engine.read.messages("s")).items == ()


@pytest.mark.parametrize("together", [True, False], ids=["same batch", "own batches"])
async def test_late_writes_of_an_earlier_life_do_not_reach_the_next(tmp_path, autojump_clock, together):
    """A recreated session with the same message ids keeps its own content."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        old = await engine.create_session("s")
        plug = await engine.create_session("plug")
        await old.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "abc"}))
        await old.remove()
        new = await engine.create_session("s")
        answers = await in_order(
            gate,
            plug,
            together,
            lambda: new.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "new"})),
            lambda: old.append(LATE["delta"]),
            lambda: old.append(MessageRemoved("M")),
            lambda: old.append(SessionRemoved()),
            lambda: new.append(PartDelta("p", "M", "text", 3, " text")),
        )
        assert [[e.outcome for e in answer.events] for answer in answers] == [
            [Applied(), Applied()],
            [Skipped("removed")],
            [Skipped("removed")],
            [Skipped("removed")],
            [Applied()],
        ]
        assert (await engine.read.message("s", "M")).text == "new text"
        log = (await engine.read.log(session_id="s")).items
        assert [e.seq for e in log] == list(range(1, len(log) + 1))


async def test_removal_and_late_part_in_one_append(tmp_path, autojump_clock):
    """Even inside one atomic append the part after the removal is skipped, and the rest applied."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        receipt = await session.append(
            MessageUpdated("M", "assistant"), MessageRemoved("M"), LATE["part"], SessionNoted("n", "k")
        )
        assert [e.outcome for e in receipt.events] == [Applied(), Applied(), Skipped("orphan_part"), Applied()]
        assert receipt.skipped == (receipt.events[2],)


@pytest.mark.parametrize("removal", ["remove", "remove_message"])
async def test_a_live_turn_writes_its_trailing_part_before_the_removal(tmp_path, autojump_clock, removal):
    """The source-side half: the removal drains the turn, so nothing of it comes late."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        ready = trio.Event()

        async def agent() -> None:
            async with session.turn() as turn, turn.message(message_id="M") as message:
                for number in range(1_000):
                    await message.text(f"{number} ")
                    if number == 20:
                        ready.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent)
            await ready.wait()
            await (session.remove() if removal == "remove" else session.remove_message("M"))
        log = (await engine.read.log(limit=1000)).items
        assert {e.outcome for e in log} == {Applied()}
        assert log[-1].type == ("session.removed" if removal == "remove" else "message.removed")
