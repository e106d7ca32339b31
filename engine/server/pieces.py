"""In how many pieces a message has come so far: the library keeps each of them until the last one is there.

Owns: reading the heads of a client's WebSocket frames (RFC 6455 section 5.2). Must not know: sockets, what frames hold.
What is wrong with a frame is the library's to say; until then the count may be of something else, and that does no harm.
Invariant: what comes in many pieces and is no whole message yet is counted piece by piece, whether the pieces are frames or
only arrived apart; frames of control, which may stand between them, are not counted.
"""

from __future__ import annotations

import re
from typing import Final

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
"""What ends the head of a request, as h11 has it."""
_HEAD_BYTES_MAX: Final = 14


class Pieces:
    """Counts the pieces of the message that is arriving. `take` is given everything that comes, the handshake first."""

    def __init__(self) -> None:
        self.count = 0
        """Pieces of the message that has begun and not ended."""
        self.begun = False
        """Whether the handshake is over, as far as its sender goes."""
        self._head = b""
        self._left = 0
        self._data = self._last = False

    def take(self, data: bytes | bytearray) -> None:
        """Count what came."""
        at = 0
        if not self.begun:
            seen = self._head + data
            found = _BLANK_LINE.search(seen)
            if found is None:
                self._head = seen[-3:]
                return
            self.begun, self._head = True, b""
            data, at = seen, found.end()
        while at < len(data):
            if not self._left:
                at = self._begin(data, at)
                if self._head:
                    return
            here = min(self._left, len(data) - at)
            at += here
            self._left -= here
            if self._data:
                self.count = 0 if self._last and not self._left else self.count + 1

    def _begin(self, data: bytes | bytearray, at: int) -> int:
        """Read a frame's head; where its content begins. With a part of a head only, it is kept for the next time."""
        kept = len(self._head)
        head = self._head + data[at : at + _HEAD_BYTES_MAX - kept]
        self._head = b""
        if len(head) < 2:
            self._head = bytes(head)
            return at
        size, width = head[1] & 127, 0
        if size >= 126:
            width = 2 if size == 126 else 8
        whole = 2 + width + (4 if head[1] & 128 else 0)
        if len(head) < whole:
            self._head = bytes(head)
            return at
        self._left = int.from_bytes(head[2 : 2 + width], "big") if width else size
        self._data, self._last = head[0] & 15 < 8, bool(head[0] & 128)
        return at + whole - kept
