"""The server: listening, accepting, shutting down.

Owns: the listeners, the nurseries, the order of the end. Must not know: what connections say.

    serve ---- listening -> started(Server) -> waiting for: close(), cancellation, the engine's end
      host (shielded: it ends when everything has been said)
        connections: a task each, with its own nursery
        work:        commands, whose connection may be gone; given up after `shutdown_s`, which ends no connection

Invariants: whatever ends the server, clients are told where to go on; a command that was read is carried out, or given up
only after `shutdown_s`; a connection's failure is its own.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Final

import trio

from engine.errors import InvalidArgumentError
from engine.limits import ServerLimits
from engine.ports import Listening, Ports
from engine.server.access import Grant, Token, Tokens, check_host, check_origins
from engine.server.connection import Connection
from engine.server.frames import Access
from engine.server.served import Served
from engine.server.shared import Shared, log
from engine.server.statistics import ServerStatistics
from engine.server.stopping import Stops
from engine.server.texts import Texts

TURNED_AWAY_MAX: Final = 100
"""Connections beyond `connections_max` that are being told so; further ones are hung up on."""


class Server:
    """A server that listens. `serve` gives it; `close` ends it."""

    def __init__(self, shared: Shared, listening: Listening, host: str, *, tls: bool) -> None:
        self._shared = shared
        self._listening = listening
        self._host = host
        self._tls = tls
        self._connections: dict[Connection, None] = {}
        self._numbers = 0
        self._until: float | None = None
        """When the last connection ends, once it is being ended."""
        self.ending = trio.Event()
        """Set to end it."""
        self.ended = trio.Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listening.port

    @property
    def url(self) -> str:
        """Where clients connect to."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'wss' if self._tls else 'ws'}://{host}:{self.port}"

    def statistics(self) -> ServerStatistics:
        """What it is doing, and has done."""
        texts = self._shared.texts
        return self._shared.counters.told(
            connections=len(self._connections),
            subscriptions=sum(len(connection.protocol.subscriptions) for connection in self._connections),
            bytes_sent=sum(connection.bytes_sent for connection in self._connections),
            frames_malformed=sum(connection.protocol.malformed for connection in self._connections),
            encoded=texts.made,
            encoded_again=texts.found,
            encoded_bytes=texts.size_bytes,
        )

    async def close(self) -> None:
        """End it, and wait until it has ended: nobody is accepted any more, every client is told where each of its
        subscriptions may go on, what was read is carried out (within `shutdown_s`), and connections are closed with 1001.

        Idempotent. Cancelled, only the wait ends.
        """
        self.ending.set()
        await self.ended.wait()

    # --- inner ----------------------------------------------------------------------------------------

    async def run(
        self, connections: trio.Nursery, ssl_context: ssl.SSLContext | None, task_status: trio.TaskStatus[Server]
    ) -> None:
        """Accept connections until it is to end, and let everything end then."""
        listeners: list[trio.abc.Listener[trio.abc.Stream]] = list(self._listening.listeners)
        if ssl_context is not None:
            # Browsers hang up without TLS's own goodbye.
            listeners = [trio.SSLListener(listener, ssl_context, https_compatible=True) for listener in listeners]
        accepting = trio.CancelScope()

        async def accept() -> None:
            with accepting:
                await trio.serve_listeners(self._accept, listeners, handler_nursery=connections)

        self._shared.spawn(connections, accept, "server: accepting")
        task_status.started(self)
        await self.ending.wait()
        accepting.cancel()
        self._until = until = trio.current_time() + self._shared.limits.shutdown_s
        for connection in list(self._connections):
            connection.say_farewell(until)
        self._shared.work.cancel_scope.deadline = until

    async def _accept(self, stream: trio.abc.Stream) -> None:
        limits = self._shared.limits
        count = len(self._connections)
        if count >= limits.connections_max + TURNED_AWAY_MAX:
            self._shared.counters.refused["connections_max"] += 1
            return
        self._numbers += 1
        connection = Connection(self._shared, stream, self._numbers, full=count >= limits.connections_max)
        self._connections[connection] = None
        if self._until is not None:
            # It was accepted in the moment when everybody else was told.
            connection.say_farewell(self._until)
        try:
            await connection.run()
        finally:
            del self._connections[connection]


@trio.lowlevel.enable_ki_protection
async def _host(
    make: Callable[[trio.Nursery], Server], ssl_context: ssl.SSLContext | None, task_status: trio.TaskStatus[Server]
) -> None:
    """Run a server where the cancellation of its user does not reach it: it ends when everything has been said."""
    server: Server | None = None
    try:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as connections, trio.open_nursery() as work:
                server = make(work)
                await server.run(connections, ssl_context, task_status)
    finally:
        if server is not None:
            server.ending.set()
            server.ended.set()


async def _follow(engine: Served, server: Server) -> None:
    await engine.wait_closing()
    server.ending.set()


async def serve(
    engine: Served,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    tokens: Iterable[Token] = (),
    origins: Iterable[str] = (),
    ssl_context: ssl.SSLContext | None = None,
    limits: ServerLimits | None = None,
    workspace: str = "default",
    access: Access = "write",
    ports: Ports | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an open engine over WebSockets: `server = await nursery.start(partial(serve, engine, port=0))`.

    Args:
        host: where to listen: loopback by default, and anywhere else only with `tokens`.
        port: 0 is any that is free; `server.port` says which.
        tokens: who may connect, to which workspace, to read or to write. Without any, everybody who reaches the socket may,
            with `workspace` and `access`.
        origins: the pages that browsers may connect from, such as `https://app.example`; `*` is every one.
        ssl_context: serve TLS with it.
        limits: see `ServerLimits`.
        ports: the primitives to use; None: the engine's own.

    Runs until `server.close()`, until it is cancelled, or until the engine closes; each of them ends it in order (see
    `Server.close`). Open it inside the engine's block, so that it ends before the engine does.

    Raises `InvalidArgumentError` for arguments that make no sense, and `OSError` where it cannot listen; nothing is left.
    """
    limits = limits or ServerLimits()
    ports = ports or engine.ports
    known = Tokens(tokens)
    pages = check_origins(origins)
    check_host(host, tokens=len(known))
    if type(port) is not int or not 0 <= port <= 65_535:
        raise InvalidArgumentError("port", f"expected 0 to 65535, found {port!r:.60}")
    if access not in ("read", "write"):
        raise InvalidArgumentError("access", f"expected 'read' or 'write', found {access!r:.60}")
    engine.workspace(workspace)
    listening = await ports.network.listen(host, port)

    def make(work: trio.Nursery) -> Server:
        shared = Shared(
            engine=engine,
            limits=limits,
            ports=ports,
            tokens=known,
            grant=Grant(workspace, access),
            origins=pages,
            work=work,
            texts=Texts(limits.encoded_bytes_max),
            stops=Stops(limits.answers_kept_max),
        )
        return Server(shared, listening, host, tls=ssl_context is not None)

    async with trio.open_nursery() as outer:
        # Cancelled in here, the host would run on with nobody left to end it; it starts without waiting for anything.
        with trio.CancelScope(shield=True):
            server: Server = await outer.start(_host, make, ssl_context)
        outer.start_soon(_follow, engine, server)
        try:
            log.info("serving on %s", server.url)
            task_status.started(server)
            await server.ending.wait()
        finally:
            server.ending.set()
            with trio.CancelScope(shield=True):
                await server.ended.wait()
            outer.cancel_scope.cancel()
