"""Promises 14 and 16, in process: one owner of a file, many readers; malformed input changes nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import apsw
import pytest

from engine import open_engine
from engine.errors import (
    EventTooLargeError,
    InvalidArgumentError,
    InvalidEventError,
    NotADatabaseError,
    OwnedError,
    SchemaTooNewError,
    StorageError,
    StorageIOError,
    UnregisteredEventError,
)
from engine.events import MessageUpdated, SessionNoted
from engine.limits import Limits
from engine.store.schema import APPLICATION_ID
from tests.support.engines import checked_engine, count_rows, raw


def digest(path: Path) -> str:
    """What the file holds, without SQLite's opinion."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_second_engine_is_refused_with_the_owners_name(tmp_path, autojump_clock):
    """A live owner keeps everybody else out, names its pid, and loses nothing by the attempt."""
    path = tmp_path / "a.db"
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        for _ in range(2):
            with pytest.raises(OwnedError) as caught:
                async with open_engine(path):
                    pass
            assert caught.value.pid == os.getpid()
            assert str(caught.value) == f"open {path}: it is owned by this process; nothing was written"
        await session.append(SessionNoted("n", "k"))
    async with checked_engine(path) as engine:
        assert len((await engine.read.log()).items) == 2


async def test_the_owner_is_known_under_another_name_of_the_file(tmp_path, autojump_clock):
    """A symbolic link to the file does not lead around its owner."""
    path = tmp_path / "a.db"
    link = tmp_path / "link.db"
    async with checked_engine(path) as engine:
        await engine.create_session("s")
        link.symlink_to(path)
        with pytest.raises(OwnedError):
            async with open_engine(link):
                pass


async def test_a_file_with_a_second_hard_link_has_no_owner(tmp_path, autojump_clock):
    """Under the other name nobody would find the WAL or the owner: it is refused by either, and read by everybody."""
    path, other = tmp_path / "a.db", tmp_path / "b.db"
    async with open_engine(path) as engine:
        await engine.create_session("s")
        other.hardlink_to(path)
        with pytest.raises(StorageError, match="2 hard links"):
            async with open_engine(other):
                pass
    with pytest.raises(StorageError, match="2 hard links"):
        async with open_engine(path):
            pass
    other.unlink()
    async with checked_engine(path) as engine:
        await engine.session("s")


async def test_readers_may_be_many(tmp_path, autojump_clock):
    """Foreign readers see every commit and stop nobody."""
    path = tmp_path / "a.db"
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        readers = [raw(path) for _ in range(5)]
        for number in range(3):
            await session.append(SessionNoted(f"n{number}", "k"))
            assert [reader.execute("SELECT count(*) FROM event").get for reader in readers] == [number + 2] * 5
        for reader in readers:
            reader.close()


@pytest.mark.parametrize(
    ("name", "content"),
    [("text", b"hello, I am no database" * 100), ("zeroes", b"\0" * 8192), ("short", b"SQLite format 3\0garbage")],
)
async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path, autojump_clock, name, content):
    """Whatever is in the file stays there."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(NotADatabaseError):
        async with open_engine(path):
            pass
    assert path.read_bytes() == content


async def test_a_database_of_another_program_is_refused_and_kept(tmp_path, autojump_clock):
    """A SQLite file with other tables is not ours to migrate."""
    path = tmp_path / "other.db"
    connection = raw(path, write=True) if path.exists() else apsw.Connection(str(path))
    connection.execute("CREATE TABLE things(a); INSERT INTO things VALUES(1)")
    connection.close()
    with pytest.raises(NotADatabaseError, match="another program"):
        async with open_engine(path):
            pass
    assert count_rows(path, "things") == 1


async def test_a_log_of_a_newer_schema_is_refused_and_kept(tmp_path, autojump_clock):
    """The message names both versions."""
    path = tmp_path / "a.db"
    async with checked_engine(path):
        pass
    connection = raw(path, write=True)
    connection.execute("INSERT INTO migration VALUES(99, 'the future', 0)")
    assert connection.pragma("application_id") == APPLICATION_ID
    connection.close()
    before = digest(path)
    with pytest.raises(SchemaTooNewError) as caught:
        async with open_engine(path):
            pass
    assert (caught.value.found, caught.value.supported) == (99, 1)
    assert digest(path) == before


@pytest.mark.parametrize("path", ["", ":memory:", "file:x?mode=memory", "a\0b"])
async def test_what_names_no_file_is_refused(autojump_clock, path):
    """In-memory names and URIs are no durable log."""
    with pytest.raises(InvalidArgumentError):
        async with open_engine(path):
            pass


async def test_a_missing_directory_is_named(tmp_path, autojump_clock):
    """The error says which directory does not exist."""
    with pytest.raises(StorageIOError) as caught:
        async with open_engine(tmp_path / "nowhere" / "a.db"):
            pass
    assert not (tmp_path / "nowhere").exists()
    assert "\n" not in str(caught.value)


async def test_an_unknown_durability_is_refused_before_the_file_is_made(tmp_path, autojump_clock):
    """A wrong argument leaves no file behind."""
    with pytest.raises(InvalidArgumentError):
        async with open_engine(tmp_path / "a.db", durability="maybe"):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_appends_that_cannot_be_stored_write_nothing(tmp_path, autojump_clock):
    """Nothing, too much, too large, unregistered or not an event: refused, and the session goes on."""

    class Stranger:
        pass

    limits = Limits(event_bytes_max=1_000, append_events_max=3, append_bytes_max=1_500)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        session = await engine.create_session("s")
        note = SessionNoted("n", "k", {"text": "x" * 600})
        for events, error in (
            ((), InvalidArgumentError),
            ((note, SessionNoted("n", "k", {"text": "x" * 2_000})), EventTooLargeError),
            ((note, note, note), EventTooLargeError),
            ((SessionNoted("n", "k"),) * 4, EventTooLargeError),
            ((note, Stranger()), UnregisteredEventError),
            ((note, None), UnregisteredEventError),
            ((note, MessageUpdated("", "user")), InvalidEventError),
        ):
            for call in (session.append, session.post):
                with pytest.raises(error):
                    await call(*events)
        assert (await session.append(SessionNoted("n", "k"))).seq == 2
