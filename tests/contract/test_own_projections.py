"""Promises 4, 6 and 13 for projections of the user's own: what their handlers may do, and how their tables come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from engine import Applied, event, open_engine, projection
from engine.errors import EngineError, ProjectionFailedError, RegistrationError
from engine.projections import Recording
from engine.runtime import rebuild
from engine.store import Tx
from tests.support.engines import raw


@event("own.sold", version=1)
@attrs.frozen
class Sold:
    """Something was sold."""

    how: str = ""


def rows(path: Path, sql: str) -> Any:
    """What a foreign connection reads."""
    connection = raw(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# --- what handlers do -----------------------------------------------------------------------------


@projection("ids", 1, {"sale": "id INTEGER PRIMARY KEY, session_id TEXT NOT NULL", "double": "session_id TEXT, id INTEGER"})
class Ids:
    """Asks for the keys of what it inserts, as SQL offers it."""

    def sold(self, tx: Tx, event: Sold, recorded: Recording) -> None:
        """Insert, and take what comes back by whichever verb."""
        two = "INSERT INTO {sale}(session_id) VALUES(?1), (?1) RETURNING id"
        found = tx.execute(two, (recorded.session_id,)) if event.how == "execute" else tx.one(two, (recorded.session_id,))
        assert found == (2 if event.how == "execute" else (1,))


@pytest.mark.parametrize("how", ["one", "execute"])
async def test_a_handler_may_use_returning(tmp_path, autojump_clock, how):
    """A statement with rows left to give is ended, so that the append commits."""
    path = tmp_path / "a.db"
    async with open_engine(path, events=[Sold], projections=[Ids]) as engine:
        session = await engine.create_session("s")
        assert (await session.append(Sold(how))).outcome == Applied()
    assert rows(path, "SELECT id FROM sale") == [(1,), (2,)]


@projection("hiding", 1, {"hidden": "id INTEGER PRIMARY KEY, session_id TEXT, content BLOB"})
class Hiding:
    """Hides an error that made SQLite undo the transaction, and goes on."""

    def sold(self, tx: Tx, event: Sold, recorded: Recording) -> None:
        """Fill the file, then write something small."""
        try:
            tx.execute("INSERT INTO {hidden}(content) VALUES(zeroblob(300000))")
        except Exception:
            tx.execute("INSERT INTO {hidden}(session_id) VALUES(?)", (recorded.session_id,))


async def test_a_handler_that_hides_a_rollback_writes_nothing_on_its_own(tmp_path, autojump_clock):
    """After SQLite undid everything, a handler's next statement is refused; it would be committed by itself."""
    path = tmp_path / "a.db"
    async with open_engine(path, events=[Sold], projections=[Hiding]) as engine:
        session = await engine.create_session("s")
        # given a file that may not grow much more
        connection = engine._core.files.log.connection
        connection.pragma("max_page_count", connection.pragma("page_count") + 3)
        # when
        with pytest.raises(EngineError) as caught:
            await session.append(Sold())
        # then
        assert caught.value.written == "nothing"
    assert rows(path, "SELECT count(*) FROM hidden") == [(0,)]


class _SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@projection("raising", 1, {"raised": "session_id TEXT"})
class Raising:
    """Raises what cannot even be printed."""

    def sold(self, tx: Tx, event: Sold, recorded: Recording) -> None:
        """Fail where asked to."""
        if event.how == "raise":
            raise _SpeechlessError


async def test_an_exception_without_words_refuses_its_append_alone(tmp_path, autojump_clock):
    """Whatever a handler raises is told by its name, and the writer goes on."""
    async with open_engine(tmp_path / "a.db", events=[Sold], projections=[Raising]) as engine:
        session = await engine.create_session("s")
        with pytest.raises(ProjectionFailedError, match="_SpeechlessError"):
            await session.append(Sold("raise"))
        assert (await session.append(Sold())).seq == 2


@pytest.mark.parametrize("reference", ['REFERENCES"session"(key)', "REFERENCES/**/session(key)", "REFERENCES[session](key)"])
def test_no_spelling_of_a_key_reaches_another_projection(reference):
    """A foreign key to a table of others is refused however it is written."""
    with pytest.raises(RegistrationError):

        @projection("keyed", 1, {"keyed": f"session_id TEXT, session_key INTEGER {reference}"})
        class Keyed:
            def sold(self, tx: Tx, event: Sold, recorded: Recording) -> None:
                """Nothing."""


# --- how tables come and go -----------------------------------------------------------------------

PARENT = "id INTEGER PRIMARY KEY, session_id TEXT"
CHILD = "id INTEGER PRIMARY KEY, session_id TEXT, parent_id INTEGER NOT NULL REFERENCES {parent}(id)"


class _Family:
    def sold(self, tx: Tx, event: Sold, recorded: Recording) -> None:
        """A parent with its child."""
        tx.execute("INSERT INTO {parent} VALUES(?, ?)", (recorded.position, recorded.session_id))
        tx.execute("INSERT INTO {child} VALUES(?, ?, ?)", (recorded.position, recorded.session_id, recorded.position))


async def test_tables_are_wiped_in_whichever_order_they_are_declared(tmp_path, autojump_clock):
    """A child that is declared before its parent can be rebuilt."""
    path = tmp_path / "a.db"
    family = projection("family", 1, {"child": CHILD, "parent": PARENT})(type("ChildFirst", (_Family,), {}))
    async with open_engine(path, events=[Sold], projections=[family]) as engine:
        session = await engine.create_session("s")
        await session.append(Sold())
    await rebuild(path, events=[Sold], projections=[family])
    assert rows(path, "SELECT id, parent_id FROM child") == [(2, 2)]


async def test_a_version_without_one_of_the_tables_opens(tmp_path, autojump_clock):
    """A child table that the new version does not declare goes, with its foreign key, instead of keeping its parent."""
    path = tmp_path / "a.db"
    family = projection("family", 1, {"parent": PARENT, "child": CHILD})(type("Family", (_Family,), {}))

    @projection("family", 2, {"parent": PARENT})
    class Childless:
        def sold(self, tx: Tx, event: Sold, recorded: Recording) -> None:
            """A parent."""
            tx.execute("INSERT INTO {parent} VALUES(?, ?)", (recorded.position, recorded.session_id))

    async with open_engine(path, events=[Sold], projections=[family]) as engine:
        session = await engine.create_session("s")
        await session.append(Sold())
    async with open_engine(path, events=[Sold], projections=[Childless]) as engine:
        session = await engine.session("s")
        await session.append(Sold())
    assert rows(path, "SELECT id FROM parent") == [(2,), (3,)]
    assert rows(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'child'") == [(0,)]
    assert rows(path, "PRAGMA foreign_key_check") == []


async def test_a_projection_that_gets_its_old_name_back_applies_nothing_twice(tmp_path, autojump_clock):
    """Renamed and renamed back, with its table under the same name: every event counts once."""
    path = tmp_path / "a.db"

    class Counting:
        def sold(self, tx: Tx, event: Sold, recorded: Recording) -> None:
            """Count one more."""
            sql = "INSERT INTO {sales} VALUES(?, 1) ON CONFLICT DO UPDATE SET number = number + 1"
            tx.execute(sql, (recorded.session_id,))

    table = {"sales": "session_id TEXT PRIMARY KEY, number INTEGER NOT NULL"}
    before = projection("before", 1, table)(type("Before", (Counting,), {}))
    after = projection("after", 1, table)(type("After", (Counting,), {}))
    async with open_engine(path) as engine:
        await engine.create_session("s")
    for chosen in (before, after, before):
        async with open_engine(path, events=[Sold], projections=[chosen]) as engine:
            session = await engine.session("s")
            await session.append(Sold(), Sold())
    assert rows(path, "SELECT number FROM sales") == [(6,)]
