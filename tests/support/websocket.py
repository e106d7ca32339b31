"""WebSocket bytes by hand (RFC 6455), for peers that do what no library would: wrong masks, lengths, opcodes, encodings."""

from __future__ import annotations

import base64
import os
import random

import attrs
import trio

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def upgrade(*, path: str = "/", subprotocols: str = "engine.v1", extra: str = "") -> bytes:
    """A handshake. `extra`: more header lines, each ended by CRLF."""
    key = base64.b64encode(os.urandom(16)).decode()
    offered = f"Sec-WebSocket-Protocol: {subprotocols}\r\n" if subprotocols else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{offered}{extra}\r\n"
    ).encode()


def frame(
    payload: bytes,
    opcode: int = TEXT,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """One WebSocket frame; `length` is what its head claims, where that is not the truth."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | (reserved << 4) | opcode])
    mask = 0x80 if masked else 0
    if size < 126:
        head += bytes([mask | size])
    elif size < 65_536:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + (size & (2**64 - 1)).to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    stretched = (key * (len(payload) // 4 + 1))[: len(payload)]
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")).to_bytes(len(payload), "big")


@attrs.frozen
class Heard:
    """What a peer said until it closed, or until nothing more came."""

    head: bytes
    """The HTTP response, without its body."""
    messages: tuple[tuple[int, bytes], ...]
    """(opcode, payload) of each frame after an upgrade."""
    closed: int | None
    """The code of its close frame; 1005 for one without a code, None where it sent none."""
    ended: bool
    """Whether it ended the stream."""

    @property
    def status(self) -> int:
        """The status of the HTTP response; 0 where none came."""
        words = self.head.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[0] == b"HTTP/1.1" else 0


async def hear(stream: trio.abc.Stream, *, quiet_s: float, data: bytes = b"") -> Heard:
    """Read until the peer ends the stream or is quiet for so long. `data`: what was read before."""
    ended = False
    while True:
        with trio.move_on_after(quiet_s) as scope:
            try:
                received = await stream.receive_some(65_536)
            except trio.BrokenResourceError:
                received = b""
            ended = not received
            data += received
        if scope.cancelled_caught or ended:
            break
    head, _, rest = data.partition(b"\r\n\r\n")
    messages, closed = [], None
    if b" 101 " in head.split(b"\r\n")[0]:
        while len(rest) >= 2:
            opcode, size, start = rest[0] & 15, rest[1] & 127, 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(rest[2 : 2 + width], "big"), 2 + width
            payload, rest = rest[start : start + size], rest[start + size :]
            messages.append((opcode, payload))
            if opcode == CLOSE:
                closed = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
    return Heard(head, tuple(messages), closed, ended)


class Fuzzer:
    """Makes frames that are wrong in every way, and some that are right, from one seed."""

    def __init__(self, seed: int, valid: list[str]) -> None:
        self._random = random.Random(seed)
        self._valid = valid

    def handshake(self) -> bytes:
        """A handshake with something wrong in it, or bytes that are none."""
        rng = self._random
        good = upgrade()
        kind = rng.randrange(6)
        if kind == 0:
            return rng.randbytes(rng.randrange(1, 400))
        if kind == 1:
            return good[: rng.randrange(1, len(good))] + b"\r\n\r\n"
        if kind == 2:
            at = rng.randrange(len(good))
            return good[:at] + rng.randbytes(3) + good[at + 3 :]
        if kind == 3:
            return upgrade(subprotocols=rng.choice(["", "engine.v0", "engine.v2, chat", "engine.token.x"]))
        if kind == 4:
            return good.replace(b"Version: 13", b"Version: 8").replace(b"GET", rng.choice([b"GET", b"POST"]))
        return b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * rng.randrange(100_000) + b"\r\n\r\n"

    def frame(self) -> bytes:
        """A text frame that is one for WebSocket, whatever it says."""
        rng = self._random
        if rng.random() < 0.2:
            return frame(rng.choice(self._valid).encode())
        return frame(self._mutated().encode("utf-8", "replace"))

    def last(self) -> tuple[bytes, bool]:
        """What a connection ends with: no WebSocket frame at all, or one out of order; and whether it is complete.

        Behind one that is not, the server has to wait for the rest, so its sender must end the stream.
        """
        rng = self._random
        kind = rng.randrange(10)
        if kind == 0:
            return frame(b'{"type":"auth","token":"\xff\xfe"}'), True
        if kind == 1:
            return frame(rng.randbytes(rng.randrange(100)), rng.choice([BINARY, 3, 5, 11, 15])), True
        if kind == 2:
            return frame(rng.randbytes(rng.randrange(126, 300)), rng.choice([CLOSE, PING, PONG])), True
        if kind == 3:
            return frame(b'{"type":"auth","token":"x"}', masked=False), True
        if kind == 4:
            return frame(rng.randbytes(20), reserved=rng.randrange(1, 8)), True
        if kind == 5:
            return frame(b"late", CONTINUATION), True
        if kind == 6:
            return frame(rng.randbytes(rng.randrange(2, 60)), CLOSE), True
        if kind == 8:
            return frame((1000).to_bytes(2, "big") + b"done", CLOSE), True
        if kind == 7:
            return frame(b"{}", length=rng.choice([126, 2**16, 2**31, 2**63 - 1, 2**64 - 1])), False
        return rng.randbytes(rng.randrange(1, 60)), False

    def _mutated(self) -> str:
        """A valid frame's text with something changed."""
        rng = self._random
        text = rng.choice(self._valid)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text) + 1)
            kind = rng.randrange(6)
            if kind == 0:
                text = text[:at] + text[at + rng.randrange(1, 8) :]
            elif kind == 1:
                text = text[:at] + rng.choice('{}[]",:\\0-e.tfn\u0000\ud800\U0001f600 ') + text[at:]
            elif kind == 2:
                other = rng.choice(self._valid)
                text = text[:at] + other[rng.randrange(len(other) + 1) :]
            elif kind == 3:
                text = text.replace('"', rng.choice(["", "'", '""', '"\\ud800']), 1)
            elif kind == 4:
                text = text.replace(":", rng.choice([":" + "[" * 2_000, ":-1e400,", ":null,", ":9" * 3]), 1)
            else:
                text = text[: at // 2] + text
        return text
