"""Race 3: sequences computed outside the database.

Tasks: several producers of one session append while another restarts; a flush fails; subscribers watch.
"""

from __future__ import annotations

from typing import Any

import apsw
import pytest
import trio

from engine import CaughtUp, Limits, Receipt
from engine.errors import StorageBusyError
from engine.events import MessageUpdated, SessionNoted
from tests.support.engines import Gate, checked_engine, in_one_batch, raw


class NaiveProducer:
    """Keeps its own counter, and tells its followers before it knows of a commit."""

    def __init__(self, connection: apsw.Connection, told: list[int]) -> None:
        self.connection, self.told, self.seq = connection, told, 0

    def append(self, *, fails: bool = False) -> None:
        seq, self.seq = self.seq, self.seq + 1
        self.told.append(seq)
        if not fails:
            self.connection.execute("INSERT INTO event(seq) VALUES(?)", (seq,))


def test_naive_producers_give_the_same_seq_and_tell_what_is_not_there():
    """After a restart the counter begins at 0 again, and a failed flush was broadcast all the same."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE event(id INTEGER PRIMARY KEY, seq INTEGER)")
    told: list[int] = []
    for _ in range(3):
        NaiveProducer(connection, told).append()
    NaiveProducer(connection, told).append(fails=True)
    assert connection.execute("SELECT seq FROM event").fetchall() == [(0,), (0,), (0,)]
    assert len(told) == 4


def test_a_naive_max_plus_one_gives_a_deleted_seq_again():
    """MAX + 1 (or a rowid without AUTOINCREMENT) forgets what was deleted."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE event(id INTEGER PRIMARY KEY, seq INTEGER)")
    add = "INSERT INTO event(seq) SELECT coalesce(max(seq), 0) + 1 FROM event RETURNING id, seq"
    connection.execute(add).fetchall()
    newest = connection.execute(add).fetchone()
    connection.execute("DELETE FROM event WHERE id = ?", (newest[0],))
    assert connection.execute(add).fetchone() == newest


async def test_producers_of_one_session_get_what_the_database_assigned(tmp_path, autojump_clock):
    """Several handles in one batch and over restarts: each receipt names the row that is there; followers hear the same."""
    path = tmp_path / "a.db"
    receipts: list[Receipt] = []
    heard: list[tuple[int, int]] = []
    for round_ in range(3):
        gate = Gate()
        async with checked_engine(path, ports=gate.ports(), receipts=receipts) as engine:
            if not round_:
                await engine.create_session("s")
            handles = [await engine.session("s") for _ in range(3)]
            async with engine.log(after=(await engine.read.sessions()).cursor, follow=True) as log:
                assert isinstance(await anext(log), CaughtUp)
                calls = [lambda h=h, n=n: h.append(SessionNoted(f"{n}", "k")) for n, h in enumerate(handles * 2)]
                answers = await in_one_batch(gate, handles[0].drain, *calls)
                receipts += answers
                for _ in answers:
                    item = await anext(log)
                    heard.append((item.seq, item.position))
    assert [receipt.seq for receipt in receipts] == list(range(2, 20))
    assert heard == [(receipt.seq, receipt.position) for receipt in receipts]


async def test_a_failed_flush_tells_nobody_and_answers_everybody(tmp_path, autojump_clock):
    """The failure goes to every waiting command and to no follower; the next flush works and leaves no gap."""
    path = tmp_path / "a.db"
    gate = Gate()
    async with checked_engine(path, ports=gate.ports(), limits=Limits(busy_retry_s=0)) as engine:
        session = await engine.create_session("s")
        async with engine.log(after=(await engine.read.sessions()).cursor, follow=True) as log:
            assert isinstance(await anext(log), CaughtUp)
            foreign = raw(path, write=True)
            foreign.execute("BEGIN IMMEDIATE")
            calls = [lambda n=n: session.append(SessionNoted(f"{n}", "k")) for n in range(5)]
            answers = await in_one_batch(gate, session.drain, *calls)
            assert [type(answer) for answer in answers] == [StorageBusyError] * 5
            await session.post(SessionNoted("posted", "k"))
            with pytest.raises(StorageBusyError):
                await session.flush()
            with trio.move_on_after(1) as waiting:
                await anext(log)
            assert waiting.cancelled_caught
            foreign.close()
            assert (await session.append(SessionNoted("next", "k"))).seq == 2
            assert (await anext(log)).seq == 2


async def test_an_upsert_keeps_the_place_of_the_first_announcement(tmp_path, autojump_clock):
    """A message that changes later stays where it was announced, live and in a rebuild."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        for name in ("m1", "m2", "m3"):
            await session.append(MessageUpdated(name, "assistant"))
        await session.append(MessageUpdated("m1", "assistant", {"changed": 1}))
        assert [m.message_id for m in (await engine.read.messages("s")).items] == ["m1", "m2", "m3"]


async def test_pages_of_messages_go_both_ways_without_gap_or_overlap(tmp_path, autojump_clock):
    """Keyset pages in both directions give each message once, while others are appended."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        names = [f"m{n}" for n in range(10)]
        for name in names:
            await session.append(MessageUpdated(name, "user"))

        async def pages(**start: Any) -> list[str]:
            found: list[str] = []
            where = start
            while True:
                page = await engine.read.messages("s", limit=3, **where)
                if "after" in where:
                    found += [m.message_id for m in page.items]
                    where = {"after": page.items[-1].key}
                else:
                    found = [m.message_id for m in page.items] + found
                    where = {"before": page.items[0].key}
                if not page.more:
                    return found

        assert await pages(after=0) == names
        assert await pages(before=None) == names
