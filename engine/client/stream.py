"""The byte stream under a WebSocket, watched: how much went over it, whether anything moves, when it ended.

Owns: these observations. Must not know: WebSockets, frames.
Invariant: a large send goes out in pieces, so that a slow line that does move is told from a dead one.
"""

from __future__ import annotations

from typing import Final

import trio

PIECE_BYTES: Final = 64 * 1024
"""A send is handed to the system in pieces of this size."""


class WatchedStream(trio.abc.Stream):
    """A stream that counts."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.sent = 0
        """Bytes handed over."""
        self.received = 0
        """Bytes that came."""
        self.signs = 0
        """Signs of life: something came, or a send that waits got a piece further."""
        self.ended = trio.Event()
        """Nothing will come any more."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            try:
                await self._stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # The library stops reading then, so that nobody else would find out.
                self.ended.set()
                raise
            self.sent += len(piece)
            # The first piece may have gone no further than this machine's own buffer.
            self.signs += start > 0

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not wait."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """What came."""
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.ended.set()
            raise
        self.received += len(data)
        self.signs += 1
        if not data:
            self.ended.set()
        return data

    async def aclose(self) -> None:
        """Hang up."""
        self.ended.set()
        await self._stream.aclose()
