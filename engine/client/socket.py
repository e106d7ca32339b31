"""One WebSocket to a server: the only file of this room that knows trio-websocket.

Owns: dialling, TLS, the handshake, sending and receiving text, pings, closing; what the library's failures mean.
Must not know: frames of the protocol, what is to be sent again.
Invariants: whatever the server or the line does, `open` ends; every failure of theirs is a `LostError`, and one that cannot
be mended by connecting again is marked as final; nothing is left open when `run` has ended.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import Final, Literal

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from engine.client.address import Address
from engine.client.stream import WatchedStream
from engine.ports import Ports
from engine.server.frames import SUBPROTOCOL

RECEIVE_BYTES: Final = 64 * 1024
"""Read from the stream at once."""
BODY_CHARS_MAX: Final = 200
"""Of what a server says with a refusal."""
PASSING: Final = (408, 425, 429)
"""Answers to a handshake that may pass, as every 5xx may (overload, a proxy whose server is away). Any other is final: the
same request will get it again."""


class LostError(Exception):
    """The connection could not be made, or has ended."""

    def __init__(self, problem: str, *, code: int | None = None, final: Literal["protocol", "token"] | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.code = code
        """The server's close code, where there is one."""
        self.final = final
        """What is wrong where trying again cannot help."""


class Socket:
    """A WebSocket that is being made, open, or gone. `run` is its task; only one other task may receive."""

    def __init__(self, address: Address, ports: Ports, *, message_max: int) -> None:
        self._address = address
        self._ports = ports
        self._message_max = message_max
        self._stream: WatchedStream | None = None
        self._connection: WebSocketConnection | None = None
        self._problem: LostError | None = None
        self._ready = trio.Event()
        self._pings = 0

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far."""
        return self._stream.sent if self._stream is not None else 0

    @property
    def received_bytes(self) -> int:
        """Bytes received so far."""
        return self._stream.received if self._stream is not None else 0

    @property
    def signs(self) -> int:
        """Grows whenever the line shows life."""
        return self._stream.signs if self._stream is not None else 0

    # --- its task -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Dial, shake hands, and read from the line until it ends. Never raises but when it is cancelled."""
        try:
            self._stream = await self._dial()
            await self._hold(self._stream)
        except LostError as problem:
            self._problem = problem
        finally:
            self._ready.set()
            if self._stream is not None:
                await trio.aclose_forcefully(self._stream)

    async def _dial(self) -> WatchedStream:
        address = self._address
        try:
            stream = await self._ports.network.connect(address.host, address.port)
        except OSError as problem:
            raise LostError(_words(problem)) from None
        if address.tls is None:
            return WatchedStream(stream)
        secured = WatchedStream(
            tls := trio.SSLStream(stream, address.tls, server_hostname=address.host, https_compatible=True)
        )
        # From here on `run` hangs up.
        self._stream = secured
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as problem:
            cause = problem.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise LostError(f"its certificate is not trusted: {cause.verify_message}", final="protocol") from None
            raise LostError(f"TLS: {_words(cause or problem)}") from None
        return secured

    async def _hold(self, stream: WatchedStream) -> None:
        """Shake hands, and let the library's reader run. It may fail with anything when the server speaks nonsense."""
        address = self._address
        try:
            async with trio.open_nursery() as nursery:
                # The library waits forever where the line ends before the handshake does; the stream tells. (It takes
                # any stream, and is typed for sockets.)
                async with trio.open_nursery() as waiting:
                    ended = partial(_cancel_when, stream.ended, waiting.cancel_scope)
                    self._ports.spawn(waiting, ended, name="client: handshake")
                    self._connection = await wrap_client_stream(
                        nursery,
                        stream,  # type: ignore[arg-type]
                        address.authority,
                        address.target,
                        subprotocols=[SUBPROTOCOL],
                        extra_headers=address.headers,
                        max_message_size=self._message_max,
                        receive_buffer_size=RECEIVE_BYTES,
                    )
                    waiting.cancel_scope.cancel()
                if self._connection is not None:
                    self._ready.set()
        except BaseExceptionGroup as group:
            rejected = group.subgroup(ConnectionRejected)
            if rejected is not None:
                raise _refused(_first(rejected)) from None
            failed = group.subgroup(Exception)
            if failed is None or group.subgroup(KeyboardInterrupt) is not None:
                raise
            final: Literal["protocol"] | None = None if self._ready.is_set() else "protocol"
            raise LostError(f"it does not talk WebSocket: {_words(_first(failed))}", final=final) from None

    # --- what the connection does -----------------------------------------------------------------------

    async def open(self) -> None:
        """Wait until it is open. Raises `LostError`."""
        await self._ready.wait()
        if self._connection is None:
            raise self._problem or LostError("it hung up during the handshake")
        if self._connection.subprotocol != SUBPROTOCOL:
            found = self._connection.subprotocol
            raise LostError(f"expected subprotocol {SUBPROTOCOL!r}, found {found!r}", final="protocol")

    async def receive(self) -> str | bytes:
        """The next message. Raises `LostError`."""
        assert self._connection is not None
        try:
            return await self._connection.get_message()
        except ConnectionClosed:
            raise self._lost() from None

    async def send(self, text: str) -> None:
        """Send a message. Raises `LostError`. Cancelled half-way, the connection is of no use."""
        assert self._connection is not None
        try:
            await self._connection.send_message(text)
        except ConnectionClosed:
            raise self._lost() from None

    async def ping(self) -> None:
        """Send a ping and wait for its pong. Raises `LostError`."""
        assert self._connection is not None
        self._pings += 1
        try:
            await self._connection.ping(self._pings.to_bytes(4, "big"))
        except ConnectionClosed:
            raise self._lost() from None

    async def close(self) -> None:
        """Say goodbye, and wait for the server's. Whoever calls bounds the wait."""
        if self._connection is not None:
            await self._connection.aclose()

    def _lost(self) -> LostError:
        assert self._connection is not None
        reason = self._connection.closed
        if reason is None:
            return LostError("the connection was lost")
        return LostError(f"closed with {reason.code} {reason.reason or ''}".rstrip(), code=reason.code)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _refused(problem: BaseException) -> LostError:
    assert isinstance(problem, ConnectionRejected)
    status = problem.status_code
    said = (problem.body or b"").decode("utf-8", "replace")[:BODY_CHARS_MAX]
    words = f"it refused with HTTP {status}" + (f": {' '.join(said.split())}" if said.strip() else "")
    if status == 401:
        return LostError(words, final="token")
    return LostError(words, final=None if status in PASSING or status >= 500 else "protocol")


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _words(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:BODY_CHARS_MAX] or type(problem).__name__
