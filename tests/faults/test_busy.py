"""A foreign process holds the write lock: the writer tries again without stopping the loop, up to its limit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from engine import Engine, Limits, open_engine
from engine.errors import StorageBusyError
from engine.events import SessionNoted
from tests.support.logs import examine

ROOT = Path(__file__).parents[2]
LIMITS = Limits(busy_retry_s=0.4, busy_pause_s=0.005)


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process has begun to write and does not end."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.locker", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"held\n"
        yield child
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait(10)


async def count_ticks(ticks: list[float]) -> None:
    while True:
        ticks.append(trio.current_time())
        await trio.sleep(0.005)


async def retries(engine: Engine, count: int) -> None:
    """Wait until the writer has met the lock this often."""
    while engine.statistics().writer.busy_retries < count:  # noqa: ASYNC110
        await trio.sleep(0.002)


async def test_a_locked_file_gives_busy_after_the_limit_while_the_loop_goes_on(tmp_path: Path) -> None:
    """StorageBusyError after busy_retry_s, "nothing was written", and other tasks run all the time."""
    path = tmp_path / "log.db"
    async with open_engine(path, limits=LIMITS) as engine:
        # given
        session = await engine.create_session("s")
        ticks: list[float] = []
        with locked_by_another_process(path):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count_ticks, ticks)
                # when
                started = trio.current_time()
                with pytest.raises(StorageBusyError) as caught:
                    await session.append(SessionNoted("n", "test"))
                took = trio.current_time() - started
                nursery.cancel_scope.cancel()
            # then
            assert str(caught.value).startswith("begin a transaction: busy: database is locked")
            assert caught.value.written == "nothing"
            assert 0.4 <= took < 2
            assert len(ticks) > 20
            assert engine.statistics().writer.busy_retries > 5
            assert (await engine.read.session("s")).session_id == "s"
        assert (await session.append(SessionNoted("n", "test"))).seq == 2
    assert len(examine(path).places) == 2


async def test_a_lock_that_is_released_in_time_only_delays_the_append(tmp_path: Path) -> None:
    """The append waits for the foreign process and then succeeds; commands behind it keep their order."""
    path = tmp_path / "log.db"
    async with open_engine(path, limits=Limits(busy_retry_s=10, busy_pause_s=0.005)) as engine:
        # given
        session = await engine.create_session("s")
        seqs: list[int | None] = []

        async def append(number: int) -> None:
            seqs.append((await session.append(SessionNoted(f"n{number}", "test"))).seq)

        with locked_by_another_process(path) as other, trio.fail_after(8):
            # when
            async with trio.open_nursery() as nursery:
                nursery.start_soon(append, 1)
                await retries(engine, 3)
                nursery.start_soon(append, 2)
                assert seqs == []
                assert other.stdin is not None
                other.stdin.write(b"x")
                other.stdin.flush()
        # then
        assert seqs == [2, 3]


async def test_closing_behind_a_lock_answers_whoever_waits_and_does_not_hang(tmp_path: Path) -> None:
    """Leaving the block while the file is locked: the waiting append gets its busy error, and the file stays whole."""
    path = tmp_path / "log.db"
    answers: list[str] = []
    with trio.fail_after(8), ExitStack() as stack:
        async with trio.open_nursery() as nursery, open_engine(path, limits=LIMITS) as engine:
            # given
            session = await engine.create_session("s")

            async def append() -> None:
                try:
                    await session.append(SessionNoted("n", "test"))
                except StorageBusyError as error:
                    answers.append(error.written)

            stack.enter_context(locked_by_another_process(path))
            nursery.start_soon(append)
            await retries(engine, 1)
            # when the block is left
        # then
        assert answers == ["nothing"]
    assert len(examine(path).places) == 1
