"""A server on loopback, and raw WebSocket clients of it: trio-websocket's own, that know nothing of this engine."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from engine.server import Server, ServerLimits
from tests.support.serving import served, serving

__all__ = [
    "PROTOCOL",
    "SLOW_S",
    "Chain",
    "Peer",
    "eventually",
    "note",
    "open_stream",
    "peer",
    "refused",
    "served",
    "serving",
    "small",
]

PROTOCOL = "engine.v1"
SLOW_S = 20.0
"""Nothing here waits so long: what does, fails."""


@attrs.define(eq=False)
class Peer:
    """A client that speaks frames."""

    socket: WebSocketConnection
    hello: dict[str, Any] = attrs.field(factory=dict)
    _commands: int = 0

    async def send(self, type: str, **fields: Any) -> None:
        """Send a frame."""
        await self.socket.send_message(json.dumps({"type": type, **fields}))

    async def receive(self) -> dict[str, Any]:
        """The next frame."""
        with trio.fail_after(SLOW_S):
            frame: dict[str, Any] = json.loads(await self.socket.get_message())
        return frame

    async def until(self, **fields: Any) -> dict[str, Any]:
        """The next frame that has these fields; what comes before it is passed over."""
        while True:
            frame = await self.receive()
            if all(frame.get(name) == value for name, value in fields.items()):
                return frame

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a frame with an id, and wait for what comes with that id."""
        self._commands += 1
        fields.setdefault("id", f"ask-{self._commands}")
        await self.send(type, **fields)
        return await self.until(id=fields["id"])

    async def events(self, count: int, subscription: str = "s") -> list[dict[str, Any]]:
        """The next events of a subscription; each frame must follow on the one before it (see `Chain`)."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            frame = await self.until(id=subscription, type="events")
            found.extend(frame["events"])
        assert len(found) == count, "more came in one frame than was expected"
        return found

    async def closed(self) -> tuple[int, str | None]:
        """Wait until the server has closed it: the code and the reason."""
        with trio.fail_after(SLOW_S):
            while True:
                try:
                    await self.socket.get_message()
                except ConnectionClosed:
                    reason = self.socket.closed
                    assert reason is not None
                    return int(reason.code), reason.reason


@asynccontextmanager
async def peer(
    server: Server | str,
    *,
    token: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    protocols: tuple[str, ...] = (PROTOCOL,),
    hello: bool = True,
    ssl_context: ssl.SSLContext | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[Peer]:
    """A client of a server. `token` goes into the header. `hello=False`: nothing is read yet.

    The stream is the test's own, because the library's client leaves it open where the server has closed.
    `receive_buffer` is the size of the kernel's: a small one makes a client that does not read felt soon.
    """
    port = int((server if isinstance(server, str) else server.url).rpartition(":")[2])
    given = [(name.encode(), value.encode()) for name, value in headers]
    if token is not None:
        given.append((b"authorization", f"Bearer {token}".encode()))
    stream = await open_stream(port, receive_buffer, ssl_context)
    leaving = False
    try:
        async with stream, trio.open_nursery() as nursery:
            socket = await wrap_client_stream(
                nursery,
                stream,
                "127.0.0.1",
                "/",
                subprotocols=protocols,
                extra_headers=given,
                max_message_size=64 * 1024 * 1024,
            )
            made = Peer(socket)
            if hello:
                made.hello = await made.receive()
                assert made.hello["type"] == "hello"
            yield made
            leaving = True
            with trio.move_on_after(5):
                await socket.aclose()
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
    except* LocalProtocolError:
        # The library's client answers a ping that crosses its goodbye, and stumbles over itself.
        if not leaving:
            raise


async def open_stream(
    port: int, receive_buffer: int | None = None, ssl_context: ssl.SSLContext | None = None
) -> trio.abc.Stream:
    """A bare stream to a port of this machine."""
    socket = trio.socket.socket()
    if receive_buffer is not None:
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    await socket.connect(("127.0.0.1", port))
    stream: trio.abc.Stream = trio.SocketStream(socket)
    if ssl_context is not None:
        stream = trio.SSLStream(stream, ssl_context, server_hostname="localhost", https_compatible=True)
    return stream


class Chain:
    """Checks one subscription as a client that keeps its cursor would: across connections and servers."""

    def __init__(self) -> None:
        self.cursor = "start"
        self.positions: list[int] = []
        self.events: list[dict[str, Any]] = []
        self._held = ""

    def begin(self, frame: dict[str, Any]) -> None:
        """`subscribed` continues where this reader stands."""
        assert frame["type"] == "subscribed"
        assert self.cursor in ("start", frame["cursor"])
        self._held = frame["cursor"]

    def take(self, frame: dict[str, Any]) -> None:
        """A frame of the subscription follows on the one before it, and brings later positions only."""
        if frame["type"] == "events":
            assert frame["after"] == self._held, "a frame does not follow on the one before it"
            for entry in frame["events"]:
                position = int(entry["cursor"].rpartition("-")[2])
                assert not self.positions or position > self.positions[-1], "an event came twice, or out of order"
                self.positions.append(position)
                self.events.append(entry)
            assert frame["cursor"] == frame["events"][-1]["cursor"]
        self._held = self.cursor = frame["cursor"]


def small(**changes: Any) -> ServerLimits:
    """Limits of a server, some of them changed."""
    return attrs.evolve(ServerLimits(), **changes)


def note(n: int | str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """An event that needs nothing to be there."""
    return {"type": "session.noted", "event": {"note_id": str(n), "kind": "test", "data": data or {}}}


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds that tells nobody when it begins to."""
    with trio.fail_after(SLOW_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def refused(server: Server, **options: Any) -> tuple[int, str]:
    """The HTTP status and the body that a handshake is refused with."""
    with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True, allow_unwrapped=True) as caught:
        async with peer(server, **options):
            pass
    problem = caught.value
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    assert isinstance(problem, ConnectionRejected)
    return problem.status_code, (problem.body or b"").decode()
