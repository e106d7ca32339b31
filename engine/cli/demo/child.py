"""The process that is killed: agents that print every acknowledgement, and the parent's side of it.

Owns: the child's main, killing it in mid-burst, what it had said by then. Must not know: what is checked.
Invariants: a line is printed after its acknowledgement, before the agent goes on: what was printed was acknowledged.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys

import attrs
import msgspec
import trio

from engine.cli.demo.agents import Agent
from engine.cli.demo.ledger import Acked, Ledger
from engine.cli.demo.script import made_up
from engine.errors import BrokenError
from engine.runtime import open_engine

ACKS_BEFORE_KILL = (300, 900)
"""So many acknowledgements after its start the process is killed, by the seed."""
PATIENCE_S = 30.0
DRAIN_S = 3.0


class PrintingLedger(Ledger):
    """A ledger that says every acknowledgement on standard output at once."""

    def write(self, acked: Acked) -> None:
        """Print it; a line that is not written whole does not count."""
        try:
            os.write(1, msgspec.json.encode(attrs.astuple(acked)) + b"\n")
        except BrokenPipeError:
            # Nobody listens any more, so nobody is left to kill it.
            os.kill(os.getpid(), signal.SIGKILL)


async def work(path: str, workspace: str, seed: str, sessions: int) -> None:
    """Run agents until killed."""
    async with open_engine(path) as engine, trio.open_nursery() as nursery:
        ledger = PrintingLedger()
        for number in range(sessions):
            name = f"killed-{number}"
            agent = Agent(engine.workspace(workspace), ledger, name, made_up(f"{seed}/{name}"), f"{seed}/{name}")
            nursery.start_soon(agent.run, lambda: True)


async def run_and_kill(path: str, workspace: str, seed: str, sessions: int) -> list[Acked]:
    """Start the process, kill it in mid-burst, and return what it said was acknowledged."""
    wanted = random.Random(f"{seed}/kill").randint(*ACKS_BEFORE_KILL)
    command = [sys.executable, "-c", f"from {__name__} import main; main()", path, workspace, seed, str(sessions)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = bytearray()
    try:
        with trio.move_on_after(PATIENCE_S):
            async for chunk in process.stdout:
                said += chunk
                if said.count(b"\n") >= wanted:
                    break
        process.kill()
        # A helper of the killed process may hold the pipe open a moment longer than the process.
        with trio.move_on_after(DRAIN_S):
            async for chunk in process.stdout:
                said += chunk
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()
    if process.returncode != -signal.SIGKILL:
        raise BrokenError("the process to be killed", f"it ended by itself, with status {process.returncode}")
    return [Acked(*msgspec.json.decode(line)) for line in bytes(said).split(b"\n")[:-1]]


def main() -> None:
    """The process: file, workspace, seed, sessions."""
    # An interrupt of the terminal reaches both processes; the parent decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("engine").addHandler(logging.NullHandler())
    trio.run(work, sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
