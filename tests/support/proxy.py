"""A TCP proxy in the test's own loop that cuts, swallows and redirects what goes through it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

Limits = tuple[int | None, int | None]


class Proxy:
    """Listens on loopback and passes bytes on to `target`.

    `plan(n)` says of the n-th connection (from 0) after how many bytes (to the server, to the client) it is cut; None is
    never. A cut passes on exactly so many bytes and then hangs up on both. While `target` is None, who connects is hung up
    on.
    """

    def __init__(self, target: int | None) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        self.plan: Callable[[int], Limits] = lambda _: (None, None)
        self.muted = False
        """Whether what comes is swallowed, in both directions: the connection stays, and is dead."""
        self.deaf = False
        """Whether what comes from the server is swallowed: commands arrive, answers do not."""
        self._scopes: set[trio.CancelScope] = set()
        self._changed = trio.Event()

    @property
    def url(self) -> str:
        """Where a client connects to."""
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Hang up on everybody."""
        for scope in self._scopes:
            scope.cancel()

    async def connected(self, count: int) -> None:
        """Wait until so many connections have come."""
        while self.connections < count:
            self._changed = trio.Event()
            await self._changed.wait()

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection."""
        number, self.connections = self.connections, self.connections + 1
        self._changed.set()
        async with client:
            if self.target is None:
                return
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self.target)
            except OSError:
                return
            async with server:
                with trio.CancelScope() as scope:
                    self._scopes.add(scope)
                    to_server, to_client = self.plan(number)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pass, client, server, to_server, scope, False)
                        nursery.start_soon(self._pass, server, client, to_client, scope, True)
                self._scopes.discard(scope)

    async def _pass(
        self, source: trio.SocketStream, sink: trio.SocketStream, left: int | None, scope: trio.CancelScope, back: bool
    ) -> None:
        try:
            while data := await source.receive_some(65_536):
                if self.muted or (back and self.deaf):
                    continue
                await sink.send_all(data if left is None else data[:left])
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def proxy(target: int | None) -> AsyncIterator[Proxy]:
    """A proxy for the length of a block."""
    made = Proxy(target)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, made.serve, listeners)
        yield made
        nursery.cancel_scope.cancel()
