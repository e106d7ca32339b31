"""Promises 2, 3 and 7: order, seqs and positions that nothing gives twice, parents before children."""

from __future__ import annotations

import apsw
import pytest
import trio

from engine import CaughtUp, RecordedEvent, open_engine
from engine.errors import WrongExpectedSeqError
from engine.events import MessageUpdated, PartUpdated, SessionNoted
from tests.support.engines import checked_engine, raw


async def test_seqs_are_dense_per_session_and_positions_rise(tmp_path, autojump_clock):
    """Many producers of many sessions get dense seqs and one strictly increasing order."""
    receipts = []
    async with checked_engine(tmp_path / "a.db", receipts=receipts) as engine:

        async def produce(session) -> None:
            for number in range(10):
                receipt = await session.append(SessionNoted(f"n{number}", "k"), SessionNoted(f"x{number}", "k"))
                receipts.append(receipt)

        sessions = [await engine.create_session(f"s{n}") for n in range(5)]
        async with trio.open_nursery() as nursery:
            for session in sessions * 2:
                nursery.start_soon(produce, session)
        log = (await engine.read.log(limit=1000)).items
    assert len(receipts) == 100
    for session in sessions:
        assert [e.seq for e in log if e.session_id == session.id] == list(range(1, 42))
    positions = [e.position for e in log]
    assert positions == sorted(set(positions))
    given = [entry.position for receipt in receipts for entry in receipt.events]
    assert len(given) == len(set(given)) == 200


async def test_a_refused_append_leaves_no_gap_in_seqs(tmp_path, autojump_clock):
    """Rolled back and unchanged events give their seq back, because nobody was ever told of it."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        with pytest.raises(WrongExpectedSeqError):
            await session.append(SessionNoted("n", "k"), expected_seq=5)
        await session.append(MessageUpdated("m", "user"))
        assert (await session.append(MessageUpdated("m", "user"))).seq is None
        assert (await session.append(SessionNoted("n", "k"))).seq == 3


async def test_expected_seq_is_the_last_seq(tmp_path, autojump_clock):
    """An append made for the session's last seq passes; one made for an older one names both numbers."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        assert (await session.append(SessionNoted("n1", "k"), SessionNoted("n2", "k"), expected_seq=1)).seq == 3
        with pytest.raises(WrongExpectedSeqError) as caught:
            await session.append(SessionNoted("n3", "k"), expected_seq=1)
        assert str(caught.value) == "append to 's': expected seq 1, found 3; nothing was written"
        assert (await session.append(SessionNoted("n3", "k"), expected_seq=3)).seq == 4


async def test_seq_and_position_are_not_reused_after_the_tail_was_deleted(tmp_path, autojump_clock):
    """Deleting the newest rows by hand and opening again gives neither their seqs nor their positions again."""
    path = tmp_path / "a.db"
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        last = await session.append(SessionNoted("n1", "k"), SessionNoted("n2", "k"))
    connection = raw(path, write=True)
    connection.execute("DELETE FROM event WHERE position >= ?", (last.position - 1,))
    connection.close()
    async with checked_engine(path, dense=False) as engine:
        receipt = await (await engine.session("s")).append(SessionNoted("n3", "k"))
    assert receipt.seq == last.seq + 1
    assert receipt.position > last.position


async def test_seqs_go_on_over_incarnations_and_reopening(tmp_path, autojump_clock):
    """A recreated session continues its id's seqs, also in another process incarnation."""
    path = tmp_path / "a.db"
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        removed = await session.remove()
        assert removed.seq == 2
    async with checked_engine(path) as engine:
        again = await engine.create_session("s")
        assert again.incarnation == 2
        receipt = await again.append(SessionNoted("n", "k"))
        assert (receipt.seq, receipt.incarnation) == (4, 2)
        assert receipt.position > removed.position


async def test_every_open_begins_an_epoch_of_its_own(tmp_path, autojump_clock):
    """Cursors of each writing open carry that open's epoch."""
    path = tmp_path / "a.db"
    epochs = []
    for number in range(3):
        async with checked_engine(path) as engine:
            session = await engine.create_session(f"s{number}")
            receipt = await session.append(SessionNoted("n", "k"))
            epochs.append(engine.epoch)
            assert receipt.events[0].event_id == f"{engine.epoch}-{receipt.position}"
    assert len(set(epochs)) == 3


async def test_subscribers_see_committed_events_in_order_once(tmp_path, autojump_clock):
    """A follower gets each committed event once, in position order, and only when another connection sees it too."""
    path = tmp_path / "a.db"
    seen: list[RecordedEvent] = []

    async def follow(engine, task_status) -> None:
        async with engine.log(follow=True) as log:
            async for item in log:
                if isinstance(item, CaughtUp):
                    task_status.started()
                if isinstance(item, RecordedEvent):
                    connection = raw(path)
                    assert connection.execute("SELECT seq FROM event WHERE position = ?", (item.position,)).get == item.seq
                    connection.close()
                    seen.append(item)
                    if len(seen) == 61:
                        return

    async with checked_engine(path) as engine, trio.open_nursery() as nursery:
        await nursery.start(follow, engine)
        session = await engine.create_session("s")
        for number in range(30):
            await session.append(SessionNoted(f"n{number}", "k"))
            await session.post(SessionNoted(f"p{number}", "k"))
        await session.flush()
    assert [item.seq for item in seen] == list(range(1, 62))
    assert [item.position for item in seen] == sorted({item.position for item in seen})


async def test_a_cancelled_publisher_cannot_lose_a_broadcast(tmp_path, autojump_clock):
    """Whatever a cancelled appender had handed over reaches every follower if it is in the log."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with engine.log(follow=True) as log:
            for after in range(1, 8):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_cancel_after, scope, after)
                        await session.append(SessionNoted(f"n{after}", "k"))
            await session.append(SessionNoted("end", "k"))
            seen = []
            async for item in log:
                if isinstance(item, RecordedEvent):
                    seen.append(item.seq)
                    if getattr(item.event, "note_id", "") == "end":
                        break
        stored = [e.seq for e in (await engine.read.log()).items]
    assert seen == stored


async def _cancel_after(scope: trio.CancelScope, checkpoints: int) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_foreign_keys_are_on_and_immediate(tmp_path, autojump_clock):
    """No table of the engine has a deferred key, and a child without its parent is refused at its statement."""
    path = tmp_path / "a.db"
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "user"), PartUpdated("p", "m", "text"))
        connection = raw(path)
        schema = "\n".join(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"))
        assert "DEFERR" not in schema.upper()
        connection.close()
        writer = engine._core.files.log.connection
        with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
            writer.execute("INSERT INTO part VALUES(99, 1, 77, 'x', 'text', '{}', 0, 0)")


async def test_a_second_connection_never_sees_half_an_append(tmp_path, autojump_clock):
    """An append of many events is visible whole or not at all."""
    path = tmp_path / "a.db"
    async with open_engine(path, durability="normal") as engine:
        session = await engine.create_session("s")
        watcher = raw(path)
        done = trio.Event()

        async def watch() -> None:
            while not done.is_set():
                assert watcher.execute("SELECT count(*) FROM event").get % 50 == 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for number in range(5):
                await session.append(*(SessionNoted(f"n{number}.{i}", "k") for i in range(50)))
            done.set()
        watcher.close()
