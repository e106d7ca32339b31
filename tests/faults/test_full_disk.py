"""A full disk: writes are refused, reads go on, and the first write that fits goes through, with all that an open owes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
import trio

from engine import Engine, Envelope, Limits, Session, open_engine
from engine.errors import StorageFullError
from engine.events import MessageUpdated, SessionNoted, ToolUpdated
from engine.ports import Ports
from tests.support.disk import Disk, failing_disk
from tests.support.logs import examine


def note(event_id: str, size: int = 6_000) -> Envelope:
    return Envelope(SessionNoted(f"note-{event_id}", "test", {"x": "y" * size}), event_id)


async def append_many(session: Session, written: list[str]) -> None:
    """Append until it is refused, remembering what was not."""
    for number in range(20):
        await session.append(note(f"n{number}"))
        written.append(f"n{number}")


async def make_unfinished(path: Path, kept: Path) -> None:
    """A log at `kept` as a killed process leaves it: a message streaming, a call running."""
    async with open_engine(path) as engine:
        session = await engine.create_session("s")
        await session.append(
            MessageUpdated("m", "assistant"), ToolUpdated("t", "m", "c", "bash", "running"), MessageUpdated("u", "user")
        )
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{kept}{suffix}")


async def status(engine: Engine) -> tuple[str | None, str | None]:
    """The states of the message and the call that the killed process left."""
    page = await engine.read.messages("s")
    message = next(view for view in page.items if view.message_id == "m")
    tool = message.parts[0].tool
    return message.status, tool.state if tool is not None else None


async def test_a_full_disk_refuses_writes_and_lets_reads_go_on_until_there_is_room(tmp_path: Path) -> None:
    """StorageFullError while it is full; the same engine writes again once there is room; nothing refused is there."""
    path = tmp_path / "log.db"
    with failing_disk() as disk:
        async with open_engine(path, ports=Ports(vfs=disk.name)) as engine:
            # given
            session = await engine.create_session("s")
            disk.budget_bytes = 100_000
            written: list[str] = []
            # when
            with pytest.raises(StorageFullError) as caught:
                await append_many(session, written)
            # then
            assert written
            assert caught.value.written == "nothing"
            assert (await engine.read.session("s")).session_id == "s"
            async with engine.log() as log:
                assert len([item async for item in log if hasattr(item, "seq")]) == 1 + len(written)
            await session.post(note("posted"))
            with pytest.raises(StorageFullError):
                await session.flush()
            await session.flush()
            # when
            disk.budget_bytes = None
            receipt = await session.append(note("after"))
            # then
            assert receipt.seq == len(written) + 2
        seen = examine(path, disk.name)
    assert [event_id for _, _, event_id in seen.types][1:] == [*written, "after"]


async def test_every_budget_opens_or_refuses_and_the_next_open_is_whole(tmp_path: Path) -> None:
    """A new log on a disk with any little room: opened or refused with a typed error, and never in the way afterwards."""
    limits = Limits(busy_retry_s=0.02)
    for number, budget in enumerate(range(0, 240_000, 16_000)):
        path = tmp_path / f"{number}.db"
        with failing_disk() as disk:
            # given
            disk.budget_bytes = budget
            acknowledged = 0
            # when
            try:
                async with open_engine(path, ports=Ports(vfs=disk.name), limits=limits) as engine:
                    session = await engine.create_session("s")
                    for turn in range(3):
                        await session.append(note(f"n{turn}"))
                        acknowledged += 1
            except StorageFullError:
                pass
            # then
            disk.heal()
            seen = examine(path, disk.name)
            assert len([event_id for _, _, event_id in seen.types if event_id.startswith("n")]) == acknowledged


async def test_a_full_disk_opens_for_reading_and_the_first_write_that_fits_begins_the_epoch_and_sweeps(
    tmp_path: Path,
) -> None:
    """Owner, epoch and sweep are caught up with the first write that fits, before its answer."""
    path = tmp_path / "log.db"
    await make_unfinished(tmp_path / "first.db", path)
    with failing_disk() as disk:
        # given
        disk.budget_bytes = 0
        async with open_engine(path, ports=Ports(vfs=disk.name)) as engine:
            # then
            assert engine.epoch == ""
            assert await status(engine) == ("streaming", "running")
            session = await engine.session("s")
            await session.flush()
            for _ in range(2):
                with pytest.raises(StorageFullError):
                    await session.append(note("refused"))
            assert await status(engine) == ("streaming", "running")
            # when
            disk.budget_bytes = None
            receipt = await session.append(note("first"))
            # then
            assert await status(engine) == ("aborted", "aborted")
            assert receipt.seq == 7
            assert engine.epoch != ""
            assert (await engine.sweep()).messages == 0
            assert owner_of(path) == os.getpid()
        seen = examine(path, disk.name)
    assert [kind for _, kind, _ in seen.types][-3:] == ["tool.updated", "message.finished", "session.noted"]
    assert ("s", "refused") not in seen.places


async def test_a_sweep_asked_for_on_a_full_disk_is_refused_and_done_once_there_is_room(tmp_path: Path) -> None:
    """`engine.sweep()` before the epoch has begun settles what others left, and a second one finds nothing."""
    path = tmp_path / "log.db"
    await make_unfinished(tmp_path / "first.db", path)
    with failing_disk() as disk:
        disk.budget_bytes = 0
        async with open_engine(path, ports=Ports(vfs=disk.name), sweep=False) as engine:
            # given
            with pytest.raises(StorageFullError):
                await engine.sweep()
            # when
            disk.budget_bytes = None
            report = await engine.sweep()
            # then
            assert (report.messages, report.tools) == (1, 1)
            assert await status(engine) == ("aborted", "aborted")
            second = await engine.sweep()
            assert (second.messages, second.tools) == (0, 0)
        examine(path, disk.name)


async def test_sweep_false_leaves_the_sweep_also_to_be_asked_for_when_the_epoch_begins_late(tmp_path: Path) -> None:
    """The first write that fits begins the epoch and nothing more."""
    path = tmp_path / "log.db"
    await make_unfinished(tmp_path / "first.db", path)
    with failing_disk() as disk:
        disk.budget_bytes = 0
        async with open_engine(path, ports=Ports(vfs=disk.name), sweep=False) as engine:
            disk.budget_bytes = None
            await (await engine.session("s")).append(note("first"))
            assert engine.epoch != ""
            assert await status(engine) == ("streaming", "running")


async def test_a_message_that_meets_a_full_disk_is_settled_once_there_is_room(tmp_path: Path) -> None:
    """Leaving the block says what failed; the settle is tried again in the background."""
    with failing_disk() as disk:
        limits = Limits(settle_retry_s=0.01)
        async with open_engine(tmp_path / "log.db", ports=Ports(vfs=disk.name), limits=limits) as engine:
            # given
            session = await engine.create_session("s")
            # when
            with pytest.raises(StorageFullError):
                await stream_into_full(session, disk)
            assert engine.statistics().sessions.settles_pending == 1
            disk.budget_bytes = None
            while engine.statistics().sessions.settles_pending:
                await session.drain()
                await wait_a_little()
            # then
            assert [view.status for view in (await engine.read.messages("s")).items] == ["error"]


async def stream_into_full(session: Session, disk: Disk) -> None:
    async with session.turn() as turn, turn.message() as message:
        disk.budget_bytes = 0
        await message.text("lost")


async def wait_a_little() -> None:
    await trio.sleep(0.005)


def owner_of(path: Path) -> int:
    """The pid that the ownership lock's side file tells."""
    connection = apsw.Connection(f"{path}-owner", flags=apsw.SQLITE_OPEN_READONLY)
    pid = connection.pragma("user_version")
    connection.close()
    assert isinstance(pid, int)
    return pid


# --- a real one -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as problem:
        pytest.skip(f"no tmpfs can be mounted: {problem}")
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    """Use up every byte."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return filler


async def test_a_really_full_file_system_refuses_writes_reads_on_opens_and_recovers(small_disk: Path) -> None:
    """The whole promise on a tmpfs without a free byte, where not even shared memory can grow."""
    path = small_disk / "log.db"
    # given
    async with open_engine(path) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), ToolUpdated("t", "m", "c", "bash", "running"))
        filler = fill(small_disk)
        # then
        with pytest.raises(StorageFullError):
            await append_many(session, [])
        assert await status(engine) == ("streaming", "running")
        filler.unlink()
        await session.append(note("room"))
    filler = fill(small_disk)
    # when
    async with open_engine(path) as engine:
        # then
        assert engine.epoch == ""
        assert await status(engine) == ("streaming", "running")
        session = await engine.session("s")
        with pytest.raises(StorageFullError):
            await session.append(note("refused"))
        # when
        filler.unlink()
        await session.append(note("again"))
        # then
        assert await status(engine) == ("aborted", "aborted")
        async with engine.log() as log:
            ids = [item.event_id async for item in log if hasattr(item, "seq")]
        assert ids[-1] == "again"
        assert "room" in ids
        assert "refused" not in ids
    examine(path)
