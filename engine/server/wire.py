"""The byte stream under a connection: watched, written by one task at a time, and closed by its owner.

Owns: the lock before the stream, the frame around a text, what was heard and sent when, the order of what is said.
Must not know: the WebSocket library (it reads and answers pings through this stream), what the texts mean.

Why texts do not go through the library: it copies each message five times and needs a second lock. A server's text frame
is a header of 2 to 10 bytes and the text (RFC 6455 section 5.2: unmasked, unfragmented), and the library's state does not
change by one. Its own frames (pong, close) wait for the same lock.

Invariants: frames leave whole and in the order in which they were decided; what is said about a state is decided when the
stream is free, so that nothing older comes after it; a stream that was left in the middle of a frame is never written again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from engine.server.pieces import Pieces

PIECES_MAX: Final = 16_384
"""Pieces of one message: four times what the largest takes in small segments. The library keeps each until the message is
whole, and one of a single character weighs 88 bytes in memory."""
CHUNK_BYTES: Final = 64 * 1024
"""Written at once: progress on a slow line shows after each."""
SLOW_S: Final = 0.05
"""A chunk that took longer waited for the peer to read: that the stream took it then is a sign of life."""
TEXT: Final = 0x81
CLOSE: Final = 0x88
PING: Final = b"\x89\x00"


def frame(first: int, payload: bytes) -> bytes:
    """A server's WebSocket frame: not masked, not fragmented."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to the 123 bytes that a control frame has for it."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(CLOSE, code.to_bytes(2, "big") + text)


class Wire(trio.abc.Stream):
    """A stream that the WebSocket library reads, and that connections write their texts to.

    `aclose` (the library calls it) only ends the use of it; its owner closes the stream itself with `hang_up`.
    """

    def __init__(self, stream: trio.abc.Stream, *, heard_bytes_max: int) -> None:
        self._stream = stream
        self.heard_bytes_max = heard_bytes_max
        self._pieces = Pieces()
        self._lock = trio.StrictFIFOLock()
        self._said: deque[str] = deque()
        self._said_chars = 0
        self.ended = trio.Event()
        """Set once nothing more is read from it."""
        self.heard_at = self.moved_at = trio.current_time()
        self.heard_bytes = 0
        """Bytes since the last whole message: set to 0 by whoever takes the messages."""
        self.sending_since: float | None = None
        """Since when the stream has taken nothing of what is being written."""
        self.sent_bytes = 0
        self.closing_sent = False
        self.torn = False
        """A write was left in the middle: only an abort is left."""

    # --- for the library --------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read; see `trio.abc.ReceiveStream`."""
        if self.ended.is_set():
            raise trio.ClosedResourceError
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.ended.set()
            raise
        self.heard_at = trio.current_time()
        self.heard_bytes += len(data)
        if data and self._pieces.begun and not self.sent_bytes:
            # Not allowed (RFC 6455 section 4.1), and the library loses some of it: it and the count of pieces would part.
            self.ended.set()
            raise trio.BrokenResourceError("frames came before the handshake was answered")
        self._pieces.take(data)
        if not data:
            self.ended.set()
        elif self.flooded:
            self.ended.set()
            raise trio.BrokenResourceError("more came than any message may have")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write one frame (or the handshake's answer); see `trio.abc.SendStream`."""
        async with self._lock:
            await self._write(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Read no more. The stream stays open until `hang_up`."""
        self.ended.set()
        await trio.lowlevel.checkpoint()

    # --- for its connection -----------------------------------------------------------------------

    @property
    def said_count(self) -> int:
        """Texts that wait to be written."""
        return len(self._said)

    @property
    def said_chars(self) -> int:
        """Their characters."""
        return self._said_chars

    def say(self, text: str) -> None:
        """Queue a text; `flush` writes it, or the next `send` does."""
        self._said.append(text)
        self._said_chars += len(text)

    @property
    def flooded(self) -> bool:
        """Whether more came than any message may have, and no message."""
        return self.heard_bytes > self.heard_bytes_max or self._pieces.count > PIECES_MAX

    async def flush(self) -> None:
        """Write what was said. Cancelled in the middle of a frame, the stream is torn."""
        async with self._lock:
            await self._flush()

    async def send(self, make: Callable[[], str | None], *, to_its_end: bool = True) -> bool:
        """Wait until the stream is free, and write the text that `make` then gives; False where it gives none.

        Cancelled while waiting for its turn: nothing was written. The writing itself is not cancelled: `hang_up` ends it;
        without `to_its_end` it is, and the stream is torn.
        """
        async with self._lock:
            with trio.CancelScope(shield=to_its_end):
                await self._flush()
                text = make()
                if text is not None:
                    await self._write(frame(TEXT, text.encode()))
            return text is not None

    async def ping(self) -> None:
        """Write a ping."""
        await self.send_all(PING)

    async def _flush(self) -> None:
        while self._said:
            text = self._said.popleft()
            self._said_chars -= len(text)
            await self._write(frame(TEXT, text.encode()))

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self.torn or self.closing_sent:
            raise trio.ClosedResourceError
        self.closing_sent = data[0] == CLOSE
        self.sending_since = trio.current_time()
        self.torn = True
        try:
            with memoryview(data) as view:
                for start in range(0, len(view), CHUNK_BYTES):
                    await self._stream.send_all(view[start : start + CHUNK_BYTES])
                    now = trio.current_time()
                    if now - self.sending_since > SLOW_S:
                        self.moved_at = now
                    self.sending_since = now
            self.torn = False
            self.sent_bytes += len(data)
        finally:
            self.sending_since = None

    async def discard(self) -> None:
        """Read until the peer has no more to say. A stream that is closed with bytes unread is reset, and what was written
        last may then never be seen (RFC 1122 section 4.2.2.13)."""
        half_close = getattr(self._stream, "send_eof", None)
        try:
            if half_close is not None and not self.torn:
                await half_close()
            while await self._stream.receive_some(CHUNK_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass

    async def hang_up(self) -> None:
        """Close the stream at once. Whoever waits on it gets `trio.ClosedResourceError`."""
        self.ended.set()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)
