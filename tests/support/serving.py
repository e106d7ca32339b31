"""Real servers on loopback for tests: an engine on a file, served until the block is left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from engine import Engine
from engine.client import Client, connect
from engine.limits import ClientLimits
from engine.server import Server, serve
from tests.support.engines import checked_engine
from tests.support.proxy import Proxy

QUICK = ClientLimits(retry_first_s=0.005, retry_max_s=0.05, close_s=5.0)


@asynccontextmanager
async def serving(engine: Engine, **options: Any) -> AsyncIterator[Server]:
    """A server for an engine, on a free port; closed at the end of the block, whatever happened in it."""
    options.setdefault("port", 0)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(partial(serve, engine, **options))
        try:
            yield server
        except BaseException as problem:
            # A failed assertion is easier to read outside of the nursery's group.
            failure = problem
        with trio.CancelScope(shield=True):
            await server.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    statistics = server.statistics()
    assert (statistics.connections, statistics.commands, statistics.subscriptions) == (0, 0, 0)


@asynccontextmanager
async def served(
    path: str | os.PathLike[str], *, engine_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Engine, Server]]:
    """An engine and its server; the file's invariants are checked when both have ended."""
    async with checked_engine(path, **(engine_options or {})) as engine, serving(engine, **options) as server:
        yield engine, server


class Backend:
    """What stands behind a proxy: one server at a time, started and stopped while clients stay."""

    def __init__(self, nursery: trio.Nursery, between: Proxy) -> None:
        self._nursery = nursery
        self._between = between
        self._stop = trio.Event()
        self._stopped = trio.Event()

    async def start(self, path: str | os.PathLike[str], **options: Any) -> Engine:
        """Serve a file."""
        self._stop, self._stopped = trio.Event(), trio.Event()
        engine: Engine = await self._nursery.start(partial(self._host, path, options))
        return engine

    async def stop(self) -> None:
        """End the server in order."""
        self._stop.set()
        await self._stopped.wait()

    async def _host(
        self, path: str | os.PathLike[str], options: dict[str, Any], *, task_status: trio.TaskStatus[Engine]
    ) -> None:
        async with served(path, **options) as (engine, server):
            self._between.target = server.port
            task_status.started(engine)
            await self._stop.wait()
            self._between.target = None
        self._stopped.set()


@asynccontextmanager
async def connected(url: str, *, limits: ClientLimits = QUICK, **options: Any) -> AsyncIterator[Client]:
    """A client that reconnects quickly."""
    async with connect(url, limits=limits, **options) as client:
        yield client
