"""Reading a log without owning it."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from engine import HEAD, CaughtUp, RecordedEvent, open_engine, open_reader
from engine.errors import (
    ClosedError,
    CursorError,
    InvalidArgumentError,
    NotADatabaseError,
    RegistrationError,
    SchemaTooNewError,
    StorageError,
    StorageIOError,
)
from engine.events import Cursor, MessageUpdated, PartUpdated, UsageRecorded
from engine.runtime import rebuild


async def test_a_reader_sees_what_the_owner_has_committed_while_it_owns_the_file(tmp_path: Path) -> None:
    """Each read sees one committed state, also one that is newer than the reader."""
    path = tmp_path / "a.db"
    async with open_engine(path) as engine, open_reader(path) as reader:
        # given
        session = await engine.create_session("s1", title="one")
        # when
        before = (await reader.read.messages("s1")).items
        await session.append(MessageUpdated("m1", "user"), PartUpdated("p1", "m1", "text", {"text": "hello"}))
        after = (await reader.read.messages("s1")).items
        # then
        assert before == ()
        assert [message.text for message in after] == ["hello"]
        assert [view.title for view in (await reader.read.sessions()).items] == ["one"]


async def test_a_reader_leaves_the_file_free_to_be_owned(tmp_path: Path) -> None:
    """Whoever only reads keeps nobody from owning."""
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        await engine.create_session("s1")
    # when
    async with open_reader(path) as reader:
        async with open_engine(path) as engine:
            await engine.create_session("s2")
        # then
        assert [view.session_id for view in (await reader.read.sessions()).items] == ["s1", "s2"]


async def test_a_readers_log_ends_when_everything_committed_was_read(tmp_path: Path) -> None:
    """The stream ends with `CaughtUp`, whose cursor is where the next one goes on."""
    path = tmp_path / "a.db"
    async with open_engine(path) as engine, open_reader(path) as reader:
        await engine.create_session("s1")
        # when
        async with reader.log() as log:
            first = [item async for item in log]
        await engine.create_session("s2")
        async with reader.log(after=first[-1].cursor) as log:  # type: ignore[union-attr,arg-type]
            second = [item async for item in log]
        async with reader.log(after=HEAD) as log:
            third = [item async for item in log]
    # then
    assert [type(item) for item in first] == [RecordedEvent, CaughtUp]
    assert [item.session_id for item in second if isinstance(item, RecordedEvent)] == ["s2"]
    assert [type(item) for item in third] == [CaughtUp]


async def test_a_reader_sees_one_workspace_at_a_time(tmp_path: Path) -> None:
    """What is in another workspace is not there: in reads, in the log, in counts."""
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        session = await engine.workspace("acme").create_session("s1")
        await session.append(UsageRecorded("st", cost_nanousd=5))
    async with open_reader(path) as reader:
        acme = reader.workspace("acme")
        # then
        assert (await reader.read.sessions()).items == ()
        assert (await reader.read.log()).items == ()
        assert ((await reader.statistics()).events, (await acme.statistics()).events) == (0, 2)
        assert ((await reader.read.usage()).total.steps, (await acme.read.usage()).total.steps) == (0, 1)
        with pytest.raises(InvalidArgumentError):
            reader.workspace("")


async def test_statistics_count_rows_types_and_sizes(tmp_path: Path) -> None:
    """Counts are by status, by type and outcome; the log and the read models have sizes of their own."""
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        session = await engine.create_session("s1")
        await session.append(MessageUpdated("m1", "user"), MessageUpdated("m2", "assistant"))
        async with open_reader(path) as reader:
            # when
            found = await reader.statistics()
    # then
    assert (found.rows.sessions, found.rows.messages, found.rows.unfinished) == (1, {"completed": 1, "streaming": 1}, 1)
    assert [(c.type, c.outcome, c.events, c.known) for c in found.types] == [
        ("message.updated", "applied", 2, True),
        ("session.started", "applied", 1, True),
    ]
    assert (found.sizes.log or 0) > 0
    assert (found.sizes.read_models or 0) > 0
    assert found.sizes.wal > 0
    assert set(found.projections) == {"sessions", "messages", "parts", "tools", "usage"}


async def test_what_cannot_be_read_is_refused_with_its_reason_and_left_unchanged(tmp_path: Path) -> None:
    """No file, no database, another program's database, an empty one, a newer schema, another read model."""
    text, empty, foreign, newer, other = (tmp_path / name for name in ("text", "empty", "foreign", "newer", "other"))
    text.write_text("this is no database, however long one reads in it " * 100)
    empty.write_bytes(b"")
    apsw.Connection(str(foreign)).execute("CREATE TABLE t(x)").connection.close()
    for path, sql in (
        (newer, "INSERT INTO migration VALUES(99, 'from the future', 0)"),
        (other, "UPDATE projection SET version = 99 WHERE name = 'parts'"),
    ):
        async with open_engine(path):
            pass
        apsw.Connection(str(path)).execute(sql).connection.close()
    cases = [
        (tmp_path / "nothing", StorageIOError, "no such file"),
        (tmp_path, NotADatabaseError, "it is a directory"),
        (text, NotADatabaseError, "not a database"),
        (empty, NotADatabaseError, "it holds no log yet"),
        (foreign, NotADatabaseError, "another program"),
        (newer, SchemaTooNewError, "its schema has version 99, this code knows 1"),
        (other, StorageError, "projection 'parts' has version 99, this code reads 1"),
    ]
    for path, error, words in cases:
        before = path.read_bytes() if path.is_file() else None
        # when
        with pytest.raises(error, match=words):
            async with open_reader(path):
                pass
        # then
        assert (path.read_bytes() if path.is_file() else None) == before
    assert not (tmp_path / "nothing").exists()


async def test_a_reader_refuses_wrong_events_and_foreign_cursors(tmp_path: Path) -> None:
    """The same refusals as an engine's."""
    path = tmp_path / "a.db"
    async with open_engine(path):
        pass
    with pytest.raises(RegistrationError):
        async with open_reader(path, events=[str]):
            pass
    async with open_reader(path) as reader:
        with pytest.raises(CursorError):
            await reader.read.log(after=Cursor("ffff", 3))


async def test_a_rebuild_gives_the_same_tables_and_says_how_many_events_it_replayed(tmp_path: Path) -> None:
    """Offline, with progress; the log is as before."""
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        session = await engine.create_session("s1")
        await session.append(MessageUpdated("m1", "user"), PartUpdated("p1", "m1", "text", {"text": "hello"}))
        await session.remove_message("m1")
    async with open_reader(path) as reader:
        before = await reader.fingerprint()
    heard: list[tuple[int, int]] = []
    # when
    report = await rebuild(path, ["parts"], on_progress=lambda done, total: heard.append((done, total)))
    # then
    async with open_reader(path) as reader:
        assert await reader.fingerprint() == before
        assert await reader.integrity() == []
    assert (report.replayed_events, heard) == (4, [(4, 4)])
    assert report.projections == ("sessions", "messages", "parts", "tools", "usage")


async def test_a_rebuild_of_nothing_known_or_nowhere_changes_nothing(tmp_path: Path) -> None:
    """An unknown projection and a missing file are refused; no file appears."""
    path = tmp_path / "a.db"
    async with open_engine(path):
        pass
    with pytest.raises(RegistrationError, match="unknown; known are sessions"):
        await rebuild(path, ["nope"])
    with pytest.raises(StorageIOError, match="no such file"):
        await rebuild(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


async def test_a_rebuild_repairs_a_read_model_that_somebody_changed(tmp_path: Path) -> None:
    """The log is the truth: the tables are made from it."""
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        await engine.create_session("s1", title="true")
    async with open_reader(path) as reader:
        before = await reader.fingerprint()
    apsw.Connection(str(path)).execute("UPDATE session SET title = 'false'").connection.close()
    # when
    await rebuild(path)
    # then
    async with open_reader(path) as reader:
        assert await reader.fingerprint() == before


async def test_a_reader_learns_cheaply_whether_anything_was_committed(tmp_path: Path) -> None:
    """The number changes with each commit of the owner's, also in other workspaces, and with nothing else."""
    path = tmp_path / "a.db"
    async with open_engine(path, durability="normal") as engine:
        session = await engine.create_session("s1")
        async with open_reader(path) as reader:
            before = await reader.data_version()
            await reader.read.log()
            assert await reader.data_version() == before
            # when
            await session.append(MessageUpdated("m1", "user"))
            after = await reader.data_version()
            await engine.workspace("acme").create_session("s1")
            # then
            assert len({before, after, await reader.workspace("acme").data_version()}) == 3
            closed = reader
    with pytest.raises(ClosedError):
        await closed.data_version()
