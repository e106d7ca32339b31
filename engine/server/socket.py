"""One WebSocket, as a connection sees it: the only file of this room that knows trio-websocket.

Owns: the handshake's two sides, receiving, closing. Must not know: frames of the protocol, the engine.
Invariants: whatever the peer does, a handshake ends; every failure of the peer or of the line is a `GoneError`; a message
is never larger than its limit, also in many small pieces.
"""

from __future__ import annotations

from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from engine.server.wire import Wire, close_frame

RECEIVE_BYTES: Final = 16 * 1024
"""Read from the stream at once."""
QUEUED_MESSAGES: Final = 1
"""Messages that the library reads ahead: one is being handled, one waits, the others stay in the socket."""
PIECES_BYTES: Final = 1024 * 1024
"""What pieces of messages may weigh beside their content, and pings between them."""
STRANGER_BYTES: Final = 256 * 1024
"""What may come of one message before a token has been shown: a request's head, or the frame with the token."""
LINGER_S: Final = 1.0
"""How long a peer that broke the rules may take to notice the answer."""
TOO_BIG: Final = 1009
FAULTS: Final = (1002, 1007)
"""What the library closes with when frames are broken. It hangs up without saying so."""


class GoneError(Exception):
    """The connection has ended; there is nobody to send to or to receive from."""


class Socket:
    """A WebSocket over a stream. Only one task may receive."""

    def __init__(self, stream: trio.abc.Stream, *, message_bytes_max: int) -> None:
        self.wire = Wire(stream, heard_bytes_max=STRANGER_BYTES)
        self._bytes_max = message_bytes_max
        self._request: WebSocketRequest | None = None
        self._connection: WebSocketConnection | None = None

    # --- handshake --------------------------------------------------------------------------------

    async def handshake(self, nursery: trio.Nursery) -> bool:
        """Wait for the request to upgrade. False where the peer sent something else (it was answered) or nothing.

        The library waits forever where its reader ends first; the stream tells.
        """
        async with trio.open_nursery() as waiting:

            async def ended() -> None:
                await self.wire.ended.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(ended)
            self._request = await wrap_server_stream(
                nursery,
                self.wire,
                message_queue_size=QUEUED_MESSAGES,
                max_message_size=self._bytes_max,
                receive_buffer_size=RECEIVE_BYTES,
            )
            waiting.cancel_scope.cancel()
        return self._request is not None

    @property
    def request(self) -> WebSocketRequest:
        """What the peer asked for."""
        assert self._request is not None, "the handshake was not made"
        return self._request

    async def accept(self, subprotocol: str) -> None:
        """Upgrade. Raises `GoneError`."""
        try:
            self._connection = await self.request.accept(subprotocol=subprotocol)
        except ConnectionClosed:
            raise GoneError from None

    async def reject(self, status: int, body: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse to upgrade. Raises `GoneError`."""
        given = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Connection", b"close"), *headers]
        try:
            await self.request.reject(status, extra_headers=given, body=body.encode())
        except ConnectionClosed:
            raise GoneError from None

    async def reject_malformed(self) -> None:
        """Answer what was no request, where nothing was answered yet. The library's reader must have ended."""
        if self.wire.sent_bytes:
            return
        try:
            await self.wire.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            await self.wire.discard()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass

    # --- messages ---------------------------------------------------------------------------------

    def trust(self) -> None:
        """Let messages be as large as they may be."""
        # The library counts characters, reads two messages ahead, and keeps every piece of a third, also empty ones.
        self.wire.heard_bytes_max = 16 * self._bytes_max + PIECES_BYTES

    async def receive(self) -> str | bytes:
        """The next message. Raises `GoneError`; one that is too large closes the connection with 1009."""
        assert self._connection is not None
        try:
            message = await self._connection.get_message()
        except ConnectionClosed:
            raise GoneError from None
        self.wire.heard_bytes = 0
        # The library counts characters.
        if 4 * len(message) > self._bytes_max and not isinstance(message, bytes) and self._size(message) > self._bytes_max:
            await self.close(TOO_BIG, f"a message has at most {self._bytes_max} bytes", LINGER_S)
            raise GoneError
        return message

    @staticmethod
    def _size(message: str) -> int:
        return len(message) if message.isascii() else len(message.encode())

    # --- the end ----------------------------------------------------------------------------------

    async def close(self, code: int, reason: str, seconds: float) -> None:
        """Say why, wait so long for the peer to agree, then hang up."""
        if self._connection is not None and not self.wire.torn:
            with trio.move_on_after(seconds, shield=True):
                try:
                    await self._connection.aclose(code, reason)
                    if not self.wire.closing_sent:
                        # The library has met a broken frame meanwhile, and calls that the end without saying so.
                        await self.wire.send_all(close_frame(code, reason))
                        await self.wire.discard()
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    pass
        await self.wire.hang_up()

    async def finish(self) -> None:
        """The peer has ended it, or the library has because of the peer: let it see why, then hang up."""
        reason = self._connection.closed if self._connection is not None else None
        words: bytes | None = None
        if self.wire.flooded:
            words = close_frame(TOO_BIG, "more came than any message may have")
        elif reason is not None and reason.code in FAULTS:
            words = close_frame(reason.code, reason.reason or "")
        if words is not None or self._connection is None or (reason is not None and reason.code == TOO_BIG):
            with trio.move_on_after(LINGER_S):
                try:
                    if words is not None and not self.wire.closing_sent:
                        await self.wire.send_all(words)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    pass
                await self.wire.discard()
        await self.wire.hang_up()
