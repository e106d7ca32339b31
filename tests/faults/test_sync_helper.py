"""Who makes a COMMIT durable on a slow disk: the helper process, its verdicts, and its death."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import HEAD, Limits, RecordedEvent, open_engine
from engine.errors import BrokenError, InvalidArgumentError, OutcomeUnknownError
from engine.events import SessionNoted
from engine.ports import Ports, SyncUnavailableError
from engine.store.sync_helper import WalFile
from engine.writer import SyncHelper


def note(number: int) -> SessionNoted:
    """An event that is easy to count."""
    return SessionNoted(f"n{number}", "test", {"text": "x" * 1_000})


class Gate:
    """A sync port under the test's control: it waits until told, or fails as told."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.error: Exception | None = None
        self.asked = 0

    async def start(self, _path: str) -> "Gate":
        return self

    async def sync(self) -> None:
        self.asked += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_neither_a_reply_nor_a_follower_precedes_the_sync(tmp_path: Path) -> None:
    """COMMIT has returned, the device has not answered: nobody is told."""
    # given an engine whose sync does not come back
    gate = Gate()
    gate.open.set()
    async with open_engine(tmp_path / "a.db", sync="helper", ports=Ports(start_sync=gate.start)) as engine:
        session = await engine.create_session("s")
        gate.open = trio.Event()
        seen: list[int] = []
        replied: list[int | None] = []

        async def follow() -> None:
            async with engine.log(after=HEAD, follow=True) as log:
                async for item in log:
                    if isinstance(item, RecordedEvent):
                        seen.append(item.seq)
                        return

        async def append() -> None:
            replied.append((await session.append(note(1))).seq)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            asked = gate.asked
            nursery.start_soon(append)
            # when the commit is done and the sync is asked for
            with trio.fail_after(5):
                while gate.asked == asked:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            # then nobody has heard of it, and everybody does once the device has answered
            assert (seen, replied) == ([], [])
            gate.open.set()
        assert (seen, replied) == ([2], [2])


async def test_a_sync_that_failed_leaves_the_outcome_unknown_and_stops_the_writer(tmp_path: Path) -> None:
    """The commit is visible and may not be durable: neither answer would be true, and no later one could be trusted."""
    gate = Gate()
    gate.open.set()
    async with open_engine(tmp_path / "a.db", sync="helper", ports=Ports(start_sync=gate.start)) as engine:
        session = await engine.create_session("s")
        gate.error = OSError(errno.EIO, "Input/output error")
        with pytest.raises(OutcomeUnknownError) as unknown:
            await session.append(note(1))
        assert unknown.value.written == "unknown"
        gate.error = None
        with pytest.raises(BrokenError):
            await session.append(note(2))
        assert (await engine.read.session("s")).session_id == "s"
    # Opened again, the log says what became of it, and nothing is half there.
    async with open_engine(tmp_path / "a.db") as engine:
        page = await engine.read.log()
        assert [event.seq for event in page.items] in ([1], [1, 2])


async def test_a_helper_that_cannot_be_asked_any_more_is_done_without(tmp_path: Path) -> None:
    """Its death says nothing of the device: a commit that syncs makes up for it, and the reply is good."""
    gate = Gate()
    gate.open.set()
    async with open_engine(tmp_path / "a.db", sync="helper", ports=Ports(start_sync=gate.start)) as engine:
        session = await engine.create_session("s")
        assert engine.statistics().synced_by == "helper"
        gate.error = SyncUnavailableError("gone")
        assert (await session.append(note(1))).seq == 2
        assert engine.statistics().synced_by == "commit"
        assert (await session.append(note(2))).seq == 3


async def test_the_real_helper_syncs_checkpoints_and_may_be_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process beside the engine syncs every commit, keeps the WAL small, and is replaced by COMMIT when it dies."""
    # given an engine with the real helper and a small WAL
    path = tmp_path / "a.db"
    started: list[SyncHelper] = []

    async def start(log: str) -> SyncHelper:
        started.append(await SyncHelper.start(log))
        return started[-1]

    limits = Limits(wal_checkpoint_bytes=200_000)
    async with open_engine(path, sync="helper", limits=limits, ports=Ports(start_sync=start)) as engine:
        session = await engine.create_session("s")
        # when more is written than the WAL may hold
        for number in range(150):
            await session.append(note(number))
        statistics = engine.statistics()
        assert statistics.synced_by == "helper"
        assert statistics.writer.checkpoints_failed == 0
        assert os.stat(f"{path}-wal").st_size < 2_000_000
        assert os.stat(path).st_size > 150_000
        # and when the helper is killed
        os.kill(started[0].pid, signal.SIGKILL)
        with caplog.at_level(logging.WARNING, "engine.writer"):
            assert (await session.append(note(150))).seq == 152
        # then nothing is lost and COMMIT syncs
        assert engine.statistics().synced_by == "commit"
        assert any("COMMIT syncs from now on" in record.message for record in caplog.records)
    async with open_engine(path) as engine:
        assert (await engine.read.log(limit=1_000)).items[-1].seq == 152


async def test_a_helper_that_cannot_start_is_said_and_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A program that leaves at once is no helper; COMMIT syncs."""

    async def start(log: str) -> SyncHelper:
        return await SyncHelper.start(log, (sys.executable, "-c", "pass"))

    with caplog.at_level(logging.WARNING, "engine"):
        async with open_engine(tmp_path / "a.db", sync="helper", ports=Ports(start_sync=start)) as engine:
            assert engine.statistics().synced_by == "commit"
            await engine.create_session("s")
    assert any("COMMIT syncs" in record.message for record in caplog.records)


async def test_an_unknown_way_to_sync_is_refused(tmp_path: Path) -> None:
    """The argument is checked before the file is touched."""
    with pytest.raises(InvalidArgumentError, match="argument 'sync'"):
        async with open_engine(tmp_path / "a.db", sync="maybe"):  # type: ignore[arg-type]
            pass
    assert not (tmp_path / "a.db").exists()


def test_the_helper_leaves_with_its_engine(tmp_path: Path) -> None:
    """An engine killed with SIGKILL leaves no helper behind, and the next open just works."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "a.db")], stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    assert child.stdout is not None
    helper = int(child.stdout.readline())
    assert child.stdout.readline() == "acknowledged\n"
    child.kill()
    child.wait()
    child.stdout.close()

    async def reopen() -> int:
        async with open_engine(tmp_path / "a.db") as engine:
            with trio.fail_after(10):
                while _alive(helper):  # noqa: ASYNC110 - another process's child has no event here
                    await trio.sleep(0.01)
            return len((await engine.read.log()).items)

    assert trio.run(reopen) == 2


def test_the_wal_file_is_opened_again_when_sqlite_made_a_new_one(tmp_path: Path) -> None:
    """The helper never syncs a file that is no longer the WAL."""
    wal = tmp_path / "a.db-wal"
    wal.write_bytes(b"one")
    synced = WalFile(str(tmp_path / "a.db"))
    synced.sync()
    wal.unlink()
    with pytest.raises(FileNotFoundError):
        synced.sync()
    wal.write_bytes(b"two")
    synced.sync()
    synced.close()


_ROOT = Path(__file__).resolve().parents[2]
_CHILD = """
import sys, trio
from engine import open_engine
from engine.events import SessionNoted
from engine.ports import Ports
from engine.writer import SyncHelper

async def start(path):
    helper = await SyncHelper.start(path)
    print(helper.pid, flush=True)
    return helper

async def main():
    async with open_engine(sys.argv[1], sync="helper", ports=Ports(start_sync=start)) as engine:
        session = await engine.create_session("s")
        await session.append(SessionNoted("n", "test", {}))
        print("acknowledged", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_a_helper_that_died_under_normal_durability_does_not_let_the_wal_grow(tmp_path: Path) -> None:
    """No commit asks it there, so a checkpoint that finds it gone is made by the writer, now and later."""
    # given a helper that only checkpoints, and is gone
    gate = Gate()

    async def gone() -> None:
        await trio.lowlevel.checkpoint()
        raise SyncUnavailableError("gone")

    gate.checkpoint = gone  # type: ignore[method-assign]
    path = tmp_path / "a.db"
    limits = Limits(wal_checkpoint_bytes=100_000)
    ports = Ports(start_sync=gate.start)
    async with open_engine(path, durability="normal", sync="helper", limits=limits, ports=ports) as engine:
        session = await engine.create_session("s")
        # when many times the WAL's cap is written
        for number in range(500):
            await session.append(note(number))
        # then
        assert os.stat(f"{path}-wal").st_size < 400_000
        assert engine.statistics().writer.checkpoints_failed == 1


async def test_closing_does_not_wait_for_a_device_that_never_answers(tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    """A sync that hangs is given up at `shutdown_s`: whoever waits is told that the outcome is unknown."""
    gate = Gate()
    ports = Ports(start_sync=gate.start)
    answers: list[Exception] = []

    async def create() -> None:
        try:
            await engine.create_session("s")
        except OutcomeUnknownError as unknown:
            answers.append(unknown)

    async with trio.open_nursery() as nursery:
        async with open_engine(tmp_path / "a.db", sync="helper", sweep=False, ports=ports) as engine:
            nursery.start_soon(create)
            await trio.testing.wait_all_tasks_blocked()
            assert gate.asked == 1
            begun = trio.current_time()
            # What would hang for ever without the limit ends here, late.
            nursery.start_soon(_open_later, gate)
        assert trio.current_time() - begun == Limits().shutdown_s
        nursery.cancel_scope.cancel()
    assert [str(answer) for answer in answers] == [
        "sync the log: the device had not answered when the engine had to be closed; whether it was written is unknown "
        "until the file is opened again"
    ]


async def _open_later(gate: Gate) -> None:
    await trio.sleep(100)
    gate.open.set()
