"""Race 2: a late streaming update after the finish.

Tasks: the last step's streaming update is sent without waiting; the finish is sent; a sweep may run. The naive store writes
the whole message each time; the engine's write carries its guard in SQL.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import apsw
import pytest

from engine import Applied, Skipped
from engine.events import MessageFinished, MessageUpdated, PartDelta, PartUpdated, ToolUpdated, UsageRecorded
from tests.support.engines import Gate, checked_engine, in_one_batch, one_by_one


class NaiveStore:
    """The last write wins, whole: status, usage and finish reason are columns of the message."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        self.connection.execute("CREATE TABLE message(id TEXT PRIMARY KEY, status TEXT, text TEXT, cost INT, reason TEXT)")

    def write(self, status: str, text: str, cost: int | None, reason: str | None) -> None:
        self.connection.execute("REPLACE INTO message VALUES('M', ?, ?, ?, ?)", (status, text, cost, reason))

    def sweep(self) -> None:
        self.connection.execute("UPDATE message SET status = 'aborted' WHERE status = 'streaming'")

    def row(self) -> Any:
        return self.connection.execute("SELECT status, text, cost, reason FROM message").fetchone()


def test_the_naive_store_loses_the_finish_to_a_late_update():
    """The update commits last: the message streams again, its usage is gone, and the next start calls it aborted."""
    store = NaiveStore()
    store.write("completed", "Hello", 10, "stop")
    store.write("streaming", "Hell", None, None)
    assert store.row() == ("streaming", "Hell", None, None)
    store.sweep()
    assert store.row() == ("aborted", "Hell", None, None)


UPDATES = (PartDelta("p", "M", "text", 4, "o"), MessageUpdated("M", "assistant", {"step": 9}), PartUpdated("q", "M", "text"))


@pytest.mark.parametrize("together", [True, False], ids=["same batch", "own batches"])
@pytest.mark.parametrize("update", UPDATES, ids=lambda event: type(event).__name__)
async def test_the_finish_stands_whatever_the_commit_order(tmp_path, autojump_clock, update, together):
    """Update, finish and sweep in every order: the message ends completed by its owner, with reason and usage."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        plug = await engine.create_session("plug")
        for number, order in enumerate(permutations(("update", "finish", "sweep"))):
            session = await engine.create_session(f"s{number}")
            await session.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "Hell"}))
            events = {
                "update": (update,),
                "finish": (UsageRecorded("st", "M", cost_nanousd=10), MessageFinished("M", "completed", "stop")),
                "sweep": (MessageFinished("M", "aborted", "guessed", by="sweep"),),
            }
            calls = [lambda name=name, session=session, events=events: session.append(*events[name]) for name in order]
            answers = await (in_one_batch(gate, plug.drain, *calls) if together else one_by_one(*calls))
            outcome = dict(zip(order, (answer.events[-1].outcome for answer in answers), strict=True))
            first = order.index("update") == 0
            assert outcome == {
                "update": Applied() if first else Skipped("finished"),
                "finish": Applied(),
                "sweep": Applied() if order.index("sweep") < order.index("finish") else Skipped("finished"),
            }
            view = await engine.read.message(session.id, "M")
            assert (view.status, view.finish_reason, view.settled_by) == ("completed", "stop", "owner")
            if isinstance(update, PartDelta):
                assert view.text == ("Hello" if first else "Hell")
            assert (await engine.read.usage(session.id)).own.cost_nanousd == 10


async def test_the_first_real_finish_wins_over_a_second(tmp_path, autojump_clock):
    """Two owners finish: the first stands, the second is Skipped finished."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("M", "assistant"), MessageFinished("M", "error", "boom"))
        assert (await session.append(MessageFinished("M", "completed"))).outcome == Skipped("finished")
        assert (await engine.read.message("s", "M")).finish_reason == "boom"


async def test_unawaited_text_is_settled_with_its_message(tmp_path, autojump_clock):
    """Text that was posted and not waited for is in the message when the block is left."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message(message_id="M") as message:
            for piece in "Hello":
                await message.text(piece)
        view = await engine.read.message("s", "M")
        assert (view.status, view.text) == ("completed", "Hello")


async def test_late_results_pass_where_streaming_writes_do_not(tmp_path, autojump_clock):
    """A tool result and usage reach a settled message; its status stays."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("M", "assistant"), ToolUpdated("t", "M", "c", "bash", "running"))
        await session.append(MessageFinished("M", "completed"))
        receipt = await session.append(
            ToolUpdated("t", "M", "c", "bash", "completed", output="x"), UsageRecorded("st", "M", cost_nanousd=1)
        )
        assert [e.outcome for e in receipt.events] == [Applied(), Applied()]
        assert (await engine.read.message("s", "M")).status == "completed"


async def test_a_null_status_is_not_swept(tmp_path, autojump_clock):
    """The sweep's finish of a message of unknown state is skipped, and the status stays NULL."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("M", "assistant", state="unknown"))
        assert (await session.append(MessageFinished("M", "aborted", by="sweep"))).outcome == Skipped("finished")
        assert (await engine.read.message("s", "M")).status is None
