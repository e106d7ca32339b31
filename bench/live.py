"""What the live benchmarks share: a served engine, clients in another process, a load at a pace, memory.

Owns: starting and ending these. Must not know: what is compared.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from bench.report import Settings
from engine import Engine, Session, open_engine
from engine.events import MessageUpdated, PartUpdated
from engine.limits import ServerLimits
from engine.server import Server, serve

ROOT = Path(__file__).resolve().parents[1]


@asynccontextmanager
async def served(settings: Settings, name: str, limits: ServerLimits | None = None) -> AsyncIterator[tuple[Engine, Server]]:
    """An engine on a fresh file, and a server for it on loopback."""
    async with open_engine(settings.file(name)) as engine, trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, engine, port=0, limits=limits))
        yield engine, server
        nursery.cancel_scope.cancel()


@attrs.define
class Clients:
    """A process of clients."""

    process: subprocess.Popen[str]

    def ready(self) -> None:
        """Wait until each has its subscription."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", f"the clients failed: {line!r}"

    def found(self) -> dict[str, Any]:
        """Wait for their end, and what they saw."""
        out, _ = self.process.communicate()
        assert self.process.returncode == 0, "the clients failed"
        found: dict[str, Any] = json.loads(out)
        return found


@asynccontextmanager
async def clients(server: Server, **options: Any) -> AsyncIterator[Clients]:
    """Clients in a process of their own, each with its subscription. They are killed when the block is left."""
    command = [sys.executable, "-m", "bench.live_clients", json.dumps({"url": server.url, **options})]
    with _started(command) as process:
        made = Clients(process)
        try:
            await trio.to_thread.run_sync(made.ready)
            yield made
        finally:
            process.kill()


def _started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def results(made: Clients) -> dict[str, Any]:
    """What the clients saw, once they have ended."""
    return await trio.to_thread.run_sync(made.found)


async def sessions_of(engine: Engine, count: int) -> list[Session]:
    """Sessions with one announced message each."""
    made = []
    for n in range(count):
        session = await engine.create_session(f"live-{n}")
        await session.append(MessageUpdated("m", "assistant"))
        made.append(session)
    return made


def stamped(n: int, size_bytes: int) -> PartUpdated:
    """An event of about this size that carries the moment it was made."""
    body = (f"{n} the quick brown fox jumps over the lazy dog. " * (size_bytes // 46 + 1))[:size_bytes]
    return PartUpdated(f"p{n % 8}", "m", "note", {"n": n, "sent": time.perf_counter(), "body": body})


async def flood(sessions: list[Session], count: int, size_bytes: int) -> None:
    """Append so many events as fast as they are acknowledged, spread over the sessions."""

    async def one(session: Session, share: int) -> None:
        for n in range(share):
            await session.append(stamped(n, size_bytes))

    async with trio.open_nursery() as nursery:
        for index, session in enumerate(sessions):
            nursery.start_soon(one, session, count // len(sessions) + (index < count % len(sessions)))


async def paced(sessions: list[Session], count: int, size_bytes: int, per_s: float) -> list[float]:
    """Append so many events at a steady pace, each in a task of its own; how long each acknowledgement took, in seconds."""
    latencies: list[float] = []

    async def one(session: Session, n: int) -> None:
        event = stamped(n, size_bytes)
        started = time.perf_counter()
        await session.append(event)
        latencies.append(time.perf_counter() - started)

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for n in range(count):
            await trio.sleep_until(begin + n / per_s)
            nursery.start_soon(one, sessions[n % len(sessions)], n)
    return latencies


def memory_bytes() -> int:
    """Resident memory of this process, after a collection; 0 where the system does not tell."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
