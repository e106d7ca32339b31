"""A file whose content contradicts itself: typed errors, no crash, and no guess."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from engine import Engine, EngineError, Limits, open_engine
from engine.errors import StorageCorruptError, StorageError
from engine.events import MessageUpdated, PartUpdated, SessionNoted


async def make_log(path: Path) -> None:
    """A log of some pages, closed."""
    async with open_engine(path) as engine:
        for name in ("a", "b"):
            session = await engine.create_session(name)
            for number in range(40):
                message = f"m{number}"
                await session.append(
                    MessageUpdated(message, "user"), PartUpdated("p" + message, message, "text", {"text": "t" * 400})
                )


def root_page(path: Path, table: str) -> tuple[int, int]:
    """Number and size of a table's root page."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    number = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    size = connection.pragma("page_size")
    connection.close()
    assert isinstance(number, int)
    return number, int(size)


def overwrite(path: Path, page: int, size: int, data: bytes) -> None:
    """Put garbage where a page begins."""
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(data)


def drift(path: Path, change: str) -> None:
    """Change the log behind the back of its index of seqs."""
    connection = apsw.Connection(str(path))
    index = connection.execute("SELECT * FROM sqlite_schema WHERE name = 'event_by_seq'").fetchone()
    assert index is not None
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("DELETE FROM sqlite_schema WHERE name = 'event_by_seq'")
    connection.execute("PRAGMA writable_schema = RESET")
    connection.close()
    connection = apsw.Connection(str(path))
    connection.execute(change)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("INSERT INTO sqlite_schema VALUES(?, ?, ?, ?, ?)", index)
    connection.execute("PRAGMA writable_schema = RESET")
    connection.close()


async def test_a_corrupt_page_of_the_read_model_fails_what_reads_it_and_nothing_else(tmp_path: Path) -> None:
    """Reading messages says StorageCorruptError; sessions can still be listed and the log read."""
    path = tmp_path / "log.db"
    await make_log(path)
    # given
    overwrite(path, *root_page(path, "message"), b"\xff" * 100)
    async with open_engine(path, sweep=False) as engine:
        # then
        with pytest.raises(StorageCorruptError) as caught:
            await engine.read.messages("a")
        assert "malformed" in str(caught.value)
        assert [view.session_id for view in (await engine.read.sessions()).items] == ["a", "b"]
        session = await engine.session("a")
        with pytest.raises(StorageCorruptError) as caught:
            await session.append(MessageUpdated("new", "user"))
        assert caught.value.written == "nothing"
        # An append that needs no corrupt page goes through: the writer goes on.
        assert (await session.append(SessionNoted("n", "test"))).seq == 82


async def test_a_corrupt_page_of_the_log_is_refused_in_words(tmp_path: Path) -> None:
    """Reading or writing events says StorageCorruptError."""
    path = tmp_path / "log.db"
    await make_log(path)
    overwrite(path, *root_page(path, "event"), b"\xff" * 100)
    async with open_engine(path, sweep=False) as engine:
        session = await engine.session("a")
        with pytest.raises(StorageCorruptError):
            await session.append(SessionNoted("n", "test"))
        with pytest.raises(StorageCorruptError):
            await read_log(engine)


async def read_log(engine: Engine) -> int:
    async with engine.log() as log:
        return len([item async for item in log])


@pytest.mark.parametrize("seed", range(12))
async def test_garbage_anywhere_gives_typed_errors_only(tmp_path: Path, seed: int) -> None:
    """Some bytes overwritten at random, the header included: whatever is called, an EngineError or an answer comes back."""
    path = tmp_path / "log.db"
    await make_log(path)
    chance = random.Random(seed)
    _, size = root_page(path, "event")
    pages = path.stat().st_size // size
    # given
    for _ in range(6):
        page = 1 if chance.random() < 0.1 else chance.randrange(2, pages + 1)
        overwrite(path, page, size, chance.randbytes(chance.randrange(4, size)))
    # when
    with trio.fail_after(10):
        # then
        with suppress(StorageError):
            async with open_engine(path, limits=Limits(busy_retry_s=0.05)) as engine:
                await use(engine)


async def use(engine: Engine) -> None:
    """Call what there is; each call answers or refuses in its own words."""

    async def append() -> None:
        session = await engine.session("a")
        await session.append(SessionNoted("n", "test"), MessageUpdated("new", "user"))

    calls = (
        lambda: engine.read.sessions(),
        lambda: engine.read.messages("b"),
        lambda: engine.read.usage("a"),
        lambda: read_log(engine),
        append,
        engine.sweep,
    )
    for call in calls:
        try:
            await call()
        except EngineError:
            pass


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DELETE FROM event WHERE seq = 30 AND stream_key = 1", "found nothing"),
        ("UPDATE event SET seq = seq + 1000 WHERE seq = 30 AND stream_key = 1", "found seq 1030"),
    ],
)
@pytest.mark.parametrize("names", ["a", ["b", "a"]])
async def test_an_index_that_contradicts_the_log_is_never_believed(
    tmp_path: Path, change: str, found: str, names: Any
) -> None:
    """Reading sessions by their index says so at the event that is not as the index says, not once but always."""
    path = tmp_path / "log.db"
    await make_log(path)
    drift(path, change)
    async with open_engine(path, limits=Limits(page_items_max=5)) as engine, engine.log(session_id=names) as log:
        seen: list[Any] = []
        for _ in range(2):
            with pytest.raises(StorageCorruptError, match=f"should hold seq 30 by the index, {found}"):
                seen += [item async for item in log]
    assert not seen
