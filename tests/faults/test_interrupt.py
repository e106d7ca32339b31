"""Ctrl-C at the worst moments: it reaches the main task, bare, and costs nothing that was accepted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from engine import open_engine
from engine.ports import Mailbox, Ports
from engine.simulation.oracles import check_log
from tests.support.engines import raw

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Interrupts as on a terminal, also where the tests run in the background, which ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(main: Callable[[], Awaitable[Any]]) -> None:
    """Run to the interrupt, which must come out bare."""
    with pytest.raises(KeyboardInterrupt):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("when", ["before the transaction", "after the commit"])
def test_an_interrupt_in_the_writers_step_loses_nothing_that_was_accepted(tmp_path: Path, when: str) -> None:
    """The batch is written and answered, the turn settles, and the interrupt ends the main task."""
    path = tmp_path / "a.db"
    armed = False

    # given a writer that is interrupted in its own step
    async def step(function: Callable[[], T]) -> T:
        nonlocal armed
        here = armed and trio.lowlevel.current_task().name == "writer"
        armed = armed and not here
        if here and when == "before the transaction":
            signal.raise_signal(signal.SIGINT)
        result = function()
        if here and when == "after the commit":
            signal.raise_signal(signal.SIGINT)
        return result

    async def main() -> None:
        nonlocal armed
        async with open_engine(path, durability="normal", sync="commit", ports=Ports(step=step)) as engine:
            session = await engine.create_session("s")
            async with session.turn() as turn, turn.message(message_id="m") as message:
                await message.text("accepted")
                # when
                armed = True
                await trio.sleep_forever()

    interrupted(main)
    # then
    connection = raw(path)
    assert connection.execute("SELECT status FROM message").fetchall() == [("error",)]
    assert connection.execute("SELECT text FROM part_text").fetchall() == [("accepted",)]
    connection.close()
    check_log(path)


def test_an_interrupt_never_falls_between_a_wake_and_its_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender interrupted as it wakes the receiver does not wake it again later, which trio would not survive."""
    wake = trio.lowlevel.reschedule

    def wake_and_interrupt(task: trio.lowlevel.Task) -> None:
        wake(task)
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox("m", items_max=10, bytes_max=10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailbox.wait)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(trio.lowlevel, "reschedule", wake_and_interrupt)
            try:
                mailbox.put_nowait(1)
            finally:
                mailbox.put_nowait(2)
                assert (mailbox.take(), mailbox.take()) == (1, 2)

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.value.split(KeyboardInterrupt)[1] is None


CLOSING = """
import signal, sys, trio
from engine import open_engine

@trio.lowlevel.enable_ki_protection
async def interrupt():
    await trio.sleep(0.2)
    signal.raise_signal(signal.SIGINT)

async def main(path, nursery):
    async with open_engine(path, durability="normal", sync="commit") as engine:
        session = await engine.create_session("s")
        async def stubborn(task_status):
            with trio.CancelScope(shield=True):
                async with session.turn():
                    task_status.started()
                    with trio.CancelScope(shield=True):
                        await trio.sleep(0.5)
        await nursery.start(stubborn)
        nursery.start_soon(interrupt)

async def outer():
    async with trio.open_nursery() as nursery:
        try:
            await main(sys.argv[1], nursery)
        except KeyboardInterrupt:
            print("bare")

signal.signal(signal.SIGINT, signal.default_int_handler)
trio.run(outer)
"""


def test_an_interrupt_while_the_engine_closes_does_not_hang_it(tmp_path: Path) -> None:
    """Closing waits for a turn that does not end; the interrupt ends that wait, and comes out bare."""
    command = [sys.executable, "-c", CLOSING, str(tmp_path / "a.db")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bare\n", "")
    check_log(tmp_path / "a.db")
