"""A process whose COMMIT fails in its sync, that says what it was told, and dies by SIGKILL with that.

python -m tests.support.last_words PATH fenced|unknown
"""

from __future__ import annotations

import os
import signal
import sys

import trio

from engine import EngineError, Envelope, open_engine
from engine.events import SessionNoted
from engine.ports import Ports
from tests.support.disk import failing_disk


async def main(path: str, mode: str) -> None:
    with failing_disk() as disk:
        async with open_engine(path, ports=Ports(vfs=disk.name)) as engine:
            session = await engine.create_session("s")
            await session.append(Envelope(SessionNoted("kept", "test"), "kept"))
            disk.fail("sync", "wal", lasting=mode == "unknown")
            doubtful = [Envelope(SessionNoted(f"d{n}", "test", {"x": "y" * 6_000}), f"doubtful-{n}") for n in (1, 2)]
            try:
                await session.append(*doubtful)
            except EngineError as error:
                os.write(sys.stdout.fileno(), f"{type(error).__name__} {error.written}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
