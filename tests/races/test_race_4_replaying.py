"""Race 4: replaying what is already applied.

Tasks: live appends; a rebuild at any moment; a stop between append and append. The strict handlers (`Chats`) are wrong when
they run twice, and nothing in them prevents it: the engine alone decides what is applied.
"""

from __future__ import annotations

from typing import Any

import apsw
import pytest

from engine.errors import ProjectionFailedError
from engine.events import MessageUpdated, PartDelta, PartUpdated
from engine.limits import Limits
from engine.ports import Ports
from engine.runtime import open_files
from engine.simulation.oracles import projection_tables, rows_of
from tests.support.engines import checked_engine, raw
from tests.support.projections import OWN, ChatCounted, ChatOpened, Chats


class NaiveStore:
    """Two public verbs: append, and project everything again."""

    def __init__(self, insert: str) -> None:
        self.insert, self.log = insert, []
        self.connection = apsw.Connection(":memory:")
        self.connection.execute("CREATE TABLE chats(id TEXT PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0)")

    def append(self, kind: str) -> None:
        self.log.append(kind)
        self.project(kind)

    def project(self, kind: str) -> None:
        if kind == "opened":
            self.connection.execute(f"{self.insert} INTO chats(id) VALUES('c')")
        else:
            self.connection.execute("UPDATE chats SET n = n + 1")

    def project_everything(self) -> None:
        for kind in self.log:
            self.project(kind)


def test_the_naive_replay_raises_the_constraint_of_a_raw_insert():
    """Projecting everything over tables that are not empty is the user's 500."""
    store = NaiveStore("INSERT")
    store.append("opened")
    with pytest.raises(apsw.ConstraintError, match=r"UNIQUE constraint failed: chats\.id"):
        store.project_everything()


def test_the_naive_idempotent_replay_clobbers_later_columns_or_doubles_deltas():
    """INSERT OR REPLACE hides the error and loses what later events changed."""
    store = NaiveStore("INSERT OR REPLACE")
    store.append("opened")
    store.append("counted")
    store.project("opened")
    assert store.connection.execute("SELECT n FROM chats").get == 0
    store = NaiveStore("INSERT OR IGNORE")
    store.append("opened")
    store.append("counted")
    store.project_everything()
    assert store.connection.execute("SELECT n FROM chats").get == 2


async def test_a_strict_handler_raises_its_constraint_if_it_is_ever_run_twice(tmp_path, autojump_clock):
    """Pinned: replaying over tables that are not empty is an error that names table and column."""
    path = tmp_path / "a.db"
    async with checked_engine(path, **OWN) as engine:
        await (await engine.create_session("s")).append(ChatOpened("c"))
    files = open_files(path, durability="normal", limits=Limits(), ports=Ports(), **OWN)
    try:
        files.log.begin()
        chats = [p for p in files.projector._projections if p.name == "chats"]
        with pytest.raises(ProjectionFailedError, match=r"UNIQUE constraint failed: chats\.id"):
            files.projector._replay(chats, 0, None)
        files.log.rollback()
    finally:
        files.close()


async def test_a_rebuild_on_a_live_database_gives_the_same_tables(tmp_path, autojump_clock):
    """A rebuild between any two appends changes nothing, and the appends after it go on from there."""
    path = tmp_path / "a.db"
    async with checked_engine(path, **OWN) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"))
        projector = engine._core.files.projector
        connection = raw(path)
        for number in range(10):
            await session.append(ChatOpened(f"c{number}"), ChatCounted(f"c{number}", number))
            await session.append(PartDelta("p", "m", "text", number, "x"))
            before = rows_of(connection, projection_tables(connection))
            projector.rebuild(["chats"] if number % 2 else None)
            assert rows_of(connection, projection_tables(connection)) == before
        assert connection.execute("SELECT sum(n) FROM chats").get == 45
        assert dict(connection.execute("SELECT * FROM totals").fetchall()) == {"sessions": 1, "chars": 10}
        connection.close()


async def test_a_delta_handler_is_applied_once_across_reopening_at_every_point(tmp_path, autojump_clock):
    """Close and open after every append: the count is what was appended."""
    path = tmp_path / "a.db"
    for number in range(8):
        async with checked_engine(path, **OWN) as engine:
            session = await (engine.session("s") if number else engine.create_session("s"))
            await session.append(ChatCounted("c", 1) if number else ChatOpened("c"))
            await session.post(ChatCounted("c", 10))
    connection = raw(path)
    assert connection.execute("SELECT n FROM chats").get == 87
    connection.close()


@pytest.mark.parametrize("behind", range(6))
async def test_a_projection_that_is_behind_catches_up_from_its_checkpoint(tmp_path, autojump_clock, behind):
    """A process without the projection appended events; one with it applies exactly those it missed."""
    path = tmp_path / "a.db"
    async with checked_engine(path, **OWN) as engine:
        session = await engine.create_session("s")
        await session.append(ChatOpened("c"), ChatCounted("c", 100))
    async with checked_engine(path, events=OWN["events"]) as engine:
        session = await engine.session("s")
        for _ in range(behind):
            await session.append(ChatCounted("c", 1))
    async with checked_engine(path, **OWN) as engine:
        session = await engine.session("s")
        await session.append(ChatCounted("c", 1000))
    connection = raw(path)
    assert connection.execute("SELECT n FROM chats").get == 1100 + behind
    connection.close()


async def test_a_failed_append_leaves_no_trace_in_a_projection(tmp_path, autojump_clock):
    """What a handler wrote before a later event of the append was refused is undone with it."""
    async with checked_engine(tmp_path / "a.db", **OWN) as engine:
        session = await engine.create_session("s")
        await session.append(ChatOpened("c"))
        with pytest.raises(ProjectionFailedError):
            await session.append(ChatCounted("c", 5), ChatOpened("c"))
        await session.append(ChatCounted("c", 1))
        connection = raw(tmp_path / "a.db")
        assert connection.execute("SELECT n FROM chats").get == 1
        connection.close()


async def test_a_replace_while_a_projection_is_absent_makes_it_start_anew(tmp_path, autojump_clock):
    """What the absent projection had applied was replaced, so its next process wipes and replays it."""
    from engine import Envelope
    from engine.events import SessionStarted

    path = tmp_path / "a.db"
    old: list[Any] = [Envelope(SessionStarted(), "i0"), Envelope(ChatOpened("c"), "i1"), Envelope(ChatCounted("c", 5), "i2")]
    new: list[Any] = [Envelope(SessionStarted(), "j0"), Envelope(ChatOpened("c", "again"), "j1")]
    async with checked_engine(path, dense=False, **OWN) as engine:
        await engine.import_events("s", old)
    async with checked_engine(path, dense=False, events=OWN["events"]) as engine:
        await engine.replace_imported("s", new)
    async with checked_engine(path, dense=False, **OWN):
        connection = raw(path)
        assert connection.execute("SELECT id, title, n FROM chats").fetchall() == [("c", "again", 0)]
        connection.close()


def test_the_strict_projection_is_what_it_says():
    """The handlers above are not idempotent, or the tests of this file would prove nothing."""
    assert Chats.__engine_projection__.tables["chats"].startswith("id TEXT PRIMARY KEY")
