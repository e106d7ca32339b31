"""Messages in many pieces: what they cost before they are whole (promise 12)."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import trio

from engine.server import Token
from engine.server.pieces import Pieces
from engine.server.wire import PIECES_MAX
from tests.support.peers import open_stream, peer, served
from tests.support.websocket import CONTINUATION, PING, TEXT, Heard, frame, hear, upgrade

LETTER = "\U0001f600".encode()


async def say(port: int, *chunks: bytes) -> Heard:
    """What the server says to a client that begins with a handshake and goes on with these bytes, whoever closes first."""
    async with await open_stream(port) as stream, trio.open_nursery() as nursery:
        await stream.send_all(upgrade())
        answer = await stream.receive_some()

        async def send() -> None:
            try:
                for chunk in chunks:
                    await stream.send_all(chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        nursery.start_soon(send)
        heard = await hear(stream, quiet_s=2.0, data=bytes(answer))
        nursery.cancel_scope.cancel()
        return heard


async def test_a_message_in_more_pieces_than_the_library_can_keep_cheaply_closes_the_connection(tmp_path: Path) -> None:
    """The pieces of one message, of a single character each, would weigh twenty times what came; beyond their limit the
    connection is closed with 1009, and others go on."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as other:
        pieces = frame(LETTER, CONTINUATION, fin=False) * (PIECES_MAX // 8)
        heard = await say(server.port, frame(LETTER, TEXT, fin=False), *[pieces] * 9)
        assert heard.closed == 1009
        assert (await other.ask("open", session_id="s"))["code"] == "unknown_session"


async def test_many_messages_and_pings_are_not_pieces_of_one(tmp_path: Path) -> None:
    """Whole messages, and pings between the pieces of one, may be as many as they like."""
    async with served(tmp_path / "a.db") as (_, server):
        many = frame(b"", PING) * (PIECES_MAX // 4)
        begun = frame(b'{"type":"op', TEXT, fin=False)
        ended = frame(b'en","id":"o","session_id":"s"}', CONTINUATION)
        heard = await say(server.port, begun, *[many] * 6, ended)
        assert heard.closed is None
        assert any(b"unknown_session" in payload for opcode, payload in heard.messages if opcode == TEXT)


async def test_frames_before_the_handshake_was_answered_are_not_taken(tmp_path: Path) -> None:
    """The library would lose some of them and take the rest for others: the connection ends, and others go on."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as other, await open_stream(server.port) as stream:
        pieces = frame(LETTER, CONTINUATION, fin=False) * 20_000
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(upgrade() + frame(LETTER, TEXT, fin=False) + pieces)
        heard = await hear(stream, quiet_s=2.0)
        assert heard.ended
        assert heard.closed in (None, 1009)
        assert (await other.ask("open", session_id="s"))["code"] == "unknown_session"


async def test_who_has_shown_no_token_cannot_send_much(tmp_path: Path) -> None:
    """A first message larger than any token is refused long before it is whole."""
    token = Token("t" * 20)
    async with served(tmp_path / "a.db", tokens=[token]) as (_, server):
        heard = await say(server.port, frame(b"x" * 400_000, length=4_000_000))
        assert heard.closed == 1009
        async with peer(server, token=token.secret) as known:
            padding = "x" * 1_000_000
            assert (await known.ask("read", session_id="s", id="r", padding=padding))["code"] == "malformed_frame"


def test_pieces_are_counted_however_they_arrive() -> None:
    """Frames cut anywhere: the count is what was sent, or more where one frame arrived in several parts."""
    for seed in range(200):
        chance = random.Random(seed)
        data, frames = upgrade(), 0
        for _ in range(20):
            size, last = chance.choice([0, 1, 125, 126, 70_000]), chance.random() < 0.5
            data += frame(b"x" * size, CONTINUATION if frames else TEXT, fin=last)
            frames = 0 if last else frames + 1
            data += frame(b"p", PING) * chance.randrange(2)
        begun = frame(b"abc", CONTINUATION if frames else TEXT, fin=False)
        whole, cut = Pieces(), Pieces()
        whole.take(data + begun)
        assert whole.count == frames + 1
        data += begun
        while data:
            size = chance.choice([1, 2, 3, 7, 50, 100_000])
            cut.take(data[:size])
            data = data[size:]
        assert cut.count >= frames + 1
        cut.take(frame(b"", CONTINUATION))
        assert cut.count == 0
