"""Ends that come at the worst moment: while somebody is being accepted, and while a socket takes nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import attrs
import trio
import trio.testing

from engine.ports import Listening, Ports
from engine.server import Server, ServerLimits, serve
from tests.support.engines import checked_engine
from tests.support.websocket import hear, upgrade


class Held(trio.abc.Stream):
    """A stream that takes nothing while it is held."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner
        self.free = trio.Event()
        self.free.set()
        self.tried = trio.Event()
        self._closed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.free.is_set():
            self.tried.set()
            async with trio.open_nursery() as nursery:

                async def ended() -> None:
                    await self._closed.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(ended)
                await self.free.wait()
            if self._closed.is_set():
                raise trio.ClosedResourceError
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        self._closed.set()
        await self._inner.aclose()


class OneCaller(trio.abc.Listener[trio.abc.Stream]):
    """A listener whom somebody reaches when the test says so."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.client, server = trio.testing.memory_stream_pair()
        self.stream = Held(server)

    async def accept(self) -> trio.abc.Stream:
        await self.reached.wait()
        self.reached = trio.Event()
        return self.stream

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@attrs.frozen
class OneCallerNetwork:
    """A network with a single listener."""

    listener: OneCaller

    async def listen(self, host: str, port: int) -> Listening:
        await trio.lowlevel.checkpoint()
        return Listening(listeners=(self.listener,), port=1)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        raise NotImplementedError


async def test_whoever_is_accepted_while_the_server_ends_is_sent_away_too(tmp_path: Path) -> None:
    """A connection that was accepted in the moment of `close`, and whose task had not begun, does not hold it up."""
    caller = OneCaller()
    ports = Ports(network=OneCallerNetwork(caller))
    limits = ServerLimits(handshake_s=1_000.0, shutdown_s=0.5)
    async with checked_engine(tmp_path / "a.db") as engine, trio.open_nursery() as nursery:
        server: Server = await nursery.start(partial(serve, engine, ports=ports, limits=limits))
        await trio.testing.wait_all_tasks_blocked()
        caller.reached.set()
        server.ending.set()
        with trio.fail_after(20):
            await server.close()
        assert server.statistics().connections == 0


async def test_a_socket_that_takes_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The last words get stuck on their way: the connection is cut when `shutdown_s` is over, and not only when it would be
    called stalled."""
    caller = OneCaller()
    ports = Ports(network=OneCallerNetwork(caller))
    limits = ServerLimits(stalled_s=1_000.0, shutdown_s=0.5)
    async with checked_engine(tmp_path / "a.db") as engine, trio.open_nursery() as nursery:
        server: Server = await nursery.start(partial(serve, engine, ports=ports, limits=limits))
        caller.reached.set()
        await caller.client.send_all(upgrade())
        heard = await hear(caller.client, quiet_s=0.5)
        assert heard.status == 101
        caller.stream.free = trio.Event()
        with trio.fail_after(20):
            await server.close()
        assert caller.stream.tried.is_set()
        assert server.statistics().connections == 0
