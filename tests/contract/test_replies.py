"""Promises 1 and 4: a reply comes after COMMIT, every accepted command gets one, and one that fails fails alone."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import trio
import trio.testing

from engine import EngineError, Limits, Receipt, open_engine
from engine.errors import ClosedError, StorageBusyError, UnknownMessageError, WrongExpectedSeqError
from engine.events import MessageUpdated, PartUpdated, SessionNoted
from engine.ports import Ports, Reply
from tests.support.engines import Gate, checked_engine, count_rows, in_one_batch, raw


class WatchedReply(Reply[Any]):
    """A reply channel that looks at the file, through a connection of its own, in the moment of the answer."""

    path: Any = None
    rows_seen: list[tuple[int, int]] = []
    answers: list[object] = []

    def resolve(self, value: Any) -> None:
        self.rows_seen.append((getattr(value, "position", 0), count_rows(self.path)))
        self.answers.append(self)
        super().resolve(value)

    def reject(self, error: BaseException) -> None:
        self.answers.append(self)
        super().reject(error)


@pytest.fixture
def watched(tmp_path: Any) -> type[WatchedReply]:
    """A fresh class of watched replies on the test's own file."""
    return type("Watched", (WatchedReply,), {"path": tmp_path / "a.db", "rows_seen": [], "answers": []})


async def test_reply_never_precedes_commit(tmp_path, watched, autojump_clock):
    """When a reply is resolved, a second connection already sees the event it acknowledges."""
    async with checked_engine(tmp_path / "a.db", ports=Ports(reply=watched)) as engine:
        session = await engine.create_session("s")
        for number in range(5):
            await session.append(SessionNoted(f"n{number}", "k"))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(session.append, SessionNoted(f"more {number}", "k"))
    assert len(watched.rows_seen) == 26
    assert all(position <= rows for position, rows in watched.rows_seen)


async def test_a_read_begun_after_a_receipt_sees_it(tmp_path, autojump_clock):
    """Reads after a receipt see what it acknowledged, from the engine and from another process."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        for number in range(10):
            await session.append(MessageUpdated(f"m{number}", "user"))
            page = await engine.read.messages("s")
            assert [view.message_id for view in page.items][-1] == f"m{number}"
            assert count_rows(tmp_path / "a.db", "message") == number + 1


async def test_every_accepted_command_is_answered_once(tmp_path, watched, autojump_clock):
    """Good, refused and strict appends in one batch each get exactly one answer."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports(reply=watched)) as engine:
        session = await engine.create_session("s")
        answers = await in_one_batch(
            gate,
            session.drain,
            lambda: session.append(SessionNoted("n1", "k")),
            lambda: session.append(SessionNoted("n2", "k"), expected_seq=99),
            lambda: session.append(PartUpdated("p", "never", "text")),
            lambda: session.append(SessionNoted("n3", "k")),
        )
    assert [type(answer) for answer in answers] == [Receipt, WrongExpectedSeqError, UnknownMessageError, Receipt]
    assert len(watched.answers) == len(set(watched.answers)) == 6


async def test_a_failing_command_of_a_batch_is_undone_alone_and_whole(tmp_path, autojump_clock):
    """The first event of a refused append leaves no trace, and its neighbours in the batch get dense seqs."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        other = await engine.create_session("t")
        batches = gate.batches
        answers = await in_one_batch(
            gate,
            session.drain,
            lambda: session.append(MessageUpdated("m1", "user")),
            lambda: session.append(MessageUpdated("half", "user"), PartUpdated("p", "never", "text")),
            lambda: other.append(MessageUpdated("m1", "user")),
            lambda: session.append(MessageUpdated("m2", "user")),
        )
        assert gate.batches == batches + 2
        assert [getattr(answer, "seq", type(answer)) for answer in answers] == [2, UnknownMessageError, 2, 3]
        assert [m.message_id for m in (await engine.read.messages("s")).items] == ["m1", "m2"]
        assert [e.seq for e in (await engine.read.log(session_id="s")).items] == [1, 2, 3]


async def test_what_was_accepted_is_committed_at_shutdown(tmp_path, watched, autojump_clock):
    """Leaving the engine with posts and appends in hand commits and answers all of them."""
    gate = Gate()
    answers: list[object] = []
    async with (
        trio.open_nursery() as nursery,
        checked_engine(tmp_path / "a.db", ports=gate.ports(reply=watched)) as engine,
    ):
        session = await engine.create_session("s")
        gate.close()

        async def append(number: int) -> None:
            answers.append(await session.append(SessionNoted(f"a{number}", "k")))

        for number in range(10):
            nursery.start_soon(append, number)
            await session.post(SessionNoted(f"p{number}", "k"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(_open_when_blocked, gate)
    assert len(answers) == 10
    assert len(watched.answers) == len(set(watched.answers))
    assert count_rows(tmp_path / "a.db") == 21


async def _open_when_blocked(gate: Gate) -> None:
    await trio.testing.wait_all_tasks_blocked()
    gate.open()


async def test_what_was_accepted_is_committed_when_the_engines_scope_is_cancelled(tmp_path, autojump_clock):
    """Cancelling the scope around the engine writes what it had accepted, and answers who still waits outside."""
    gate = Gate()
    answers: list[object] = []
    async with trio.open_nursery() as outside:
        with trio.CancelScope() as scope:
            async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
                session = await engine.create_session("s")
                gate.close()

                async def append(number: int) -> None:
                    answers.append(await session.append(SessionNoted(f"a{number}", "k")))

                for number in range(5):
                    outside.start_soon(append, number)
                await session.post(SessionNoted("posted", "k"))
                await trio.testing.wait_all_tasks_blocked()
                outside.start_soon(_open_when_blocked, gate)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
    assert len(answers) == 5
    assert count_rows(tmp_path / "a.db") == 7


async def test_handles_of_a_closed_engine_are_refused(tmp_path, autojump_clock):
    """After the engine was closed every call says so, and nothing waits."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
    for call in (
        lambda: session.append(SessionNoted("n", "k")),
        lambda: session.post(SessionNoted("n", "k")),
        session.flush,
        session.remove,
        lambda: engine.create_session("t"),
        lambda: engine.read.messages("s"),
        lambda: engine.session("s"),
    ):
        with pytest.raises(ClosedError):
            await call()


async def test_a_turn_that_runs_at_shutdown_is_stopped_and_settled(tmp_path, autojump_clock):
    """Leaving the engine stops another task's turn; its message is settled, and closing does not hang."""
    ended: list[bool] = []

    async def agent(session: Any, ready: trio.Event) -> None:
        async with session.turn() as turn, turn.message() as message:
            await message.text("half a sent")
            ready.set()
            await trio.sleep_forever()
        ended.append(turn.stopped)

    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        async with checked_engine(tmp_path / "a.db") as engine:
            session = await engine.create_session("s")
            nursery.start_soon(agent, session, ready)
            await ready.wait()
        assert ended == [True]
    async with checked_engine(tmp_path / "a.db", sweep=False) as engine:
        (message,) = (await engine.read.messages("s")).items
        assert (message.status, message.text, message.settled_by) == ("aborted", "half a sent", "owner")


async def test_a_file_locked_at_shutdown_answers_with_an_error_in_time(tmp_path, autojump_clock, caplog):
    """A foreign lock that outlasts `shutdown_s` turns what is left into errors; nobody waits for ever."""
    limits = Limits(busy_retry_s=60, shutdown_s=2, batch_events_max=1)
    answers: list[object] = []
    foreign = None
    async with trio.open_nursery() as nursery:
        async with open_engine(tmp_path / "a.db", limits=limits) as engine:
            session = await engine.create_session("s")
            foreign = raw(tmp_path / "a.db", write=True)
            foreign.execute("BEGIN IMMEDIATE")

            async def append(number: int) -> None:
                try:
                    answers.append(await session.append(SessionNoted(f"a{number}", "k")))
                except EngineError as error:
                    answers.append(error)

            for number in range(5):
                nursery.start_soon(append, number)
            await trio.testing.wait_all_tasks_blocked(0.001)
            began = trio.current_time()
        assert trio.current_time() - began < 3
    foreign.close()
    assert [type(answer) for answer in answers] == [StorageBusyError] * 5
    async with checked_engine(tmp_path / "a.db"):
        assert count_rows(tmp_path / "a.db") == 1


async def test_errors_in_replies_carry_nothing_of_the_writer(tmp_path, autojump_clock):
    """An error that came through a reply channel holds no frame, cause or context of the writer's task."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        with pytest.raises(WrongExpectedSeqError) as caught:
            await session.append(SessionNoted("n", "k"), expected_seq=7)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append(step.tb_frame.f_code.co_filename)
        step = step.tb_next
    assert not [name for name in frames if "/engine/writer/" in name or "/engine/store/" in name]
    assert str(error) == "append to 's': expected seq 7, found 1; nothing was written"


async def test_each_caller_gets_an_exception_of_its_own(tmp_path, autojump_clock):
    """Two callers of one failed batch never share an exception object."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", limits=Limits(busy_retry_s=0), ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        foreign = raw(tmp_path / "a.db", write=True)
        foreign.execute("BEGIN IMMEDIATE")
        answers = await in_one_batch(
            gate,
            session.drain,
            lambda: session.append(SessionNoted("n1", "k")),
            lambda: session.append(SessionNoted("n2", "k")),
        )
        foreign.close()
        assert [type(answer) for answer in answers] == [StorageBusyError, StorageBusyError]
        assert answers[0] is not answers[1]
        assert (await session.append(SessionNoted("n1", "k"))).seq == 2


async def test_a_caller_that_is_cancelled_withdraws_its_wait_only(tmp_path, autojump_clock):
    """A cancelled append is durable all the same once it was accepted; its id then answers Duplicate."""
    from engine import Duplicate, Envelope

    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        gate.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.append, Envelope(SessionNoted("n", "k"), "e1"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        gate.open()
        receipt = await session.append(Envelope(SessionNoted("n", "k"), "e1"))
        assert isinstance(receipt.outcome, Duplicate)
        assert receipt.seq == 2


async def test_failures_without_a_reply_are_logged_with_type_and_session(tmp_path, autojump_clock, caplog):
    """A refused post leaves a log line that names its type and session."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        with caplog.at_level(logging.WARNING, "engine.writer"):
            await session.post(PartUpdated("p", "never", "text"))
            with pytest.raises(UnknownMessageError):
                await session.flush()
    assert "type part.updated session s" in caplog.text
    gc.collect()
