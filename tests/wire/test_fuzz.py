"""Garbage from raw sockets: it is answered or the connection is closed with a code, nothing changes or leaks."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path

import attrs
import trio

from engine import START, Engine, RecordedEvent
from engine.errors import EngineError
from engine.events import MessageUpdated
from engine.limits import ServerLimits
from engine.server import Token, serve
from engine.server.problems import CODES
from tests.support.budget import pick
from tests.support.engines import checked_engine
from tests.support.peers import eventually
from tests.support.websocket import CLOSE, TEXT, Fuzzer, Heard, frame, hear, upgrade

FRAMES = pick(10_000, 100_000)
PER_CONNECTION = 25
SECRET = "the-token-of-the-fuzzed-workspace"
VALID = [
    '{"type":"auth","token":"the-token-of-the-fuzzed-workspace"}',
    '{"type":"subscribe","id":"s1","sessions":["a","b"],"after":"start","skipped":true}',
    '{"type":"subscribe","id":"s2","after":"snapshot","messages":10}',
    '{"type":"subscribe","id":"s3","after":"0123456789ab-7"}',
    '{"type":"unsubscribe","id":"s1"}',
    '{"type":"open","id":"c1","session_id":"a"}',
    '{"type":"create","id":"c2","session_id":"a","title":"t","metadata":{"k":[1,2.5,null,"x"]}}',
    '{"type":"append","id":"c3","session_id":"a","events":[{"type":"message.updated","event":{"message_id":"m","role":"user"}}]}',
    '{"type":"append","id":"c4","session_id":"a","incarnation":1,"expected_seq":3,"strict":true,"events":[{"type":"part.delta",'
    '"event":{"part_id":"p","message_id":"m","field":"text","offset":0,"text":"hi"},"event_id":"e1","occurred_at":1}]}',
    '{"type":"post","id":"c5","session_id":"a","events":[{"type":"session.noted","event":{"kind":"k","data":{"a":1}}}]}',
    '{"type":"flush","id":"c6","session_id":"a"}',
    '{"type":"stop","id":"c7","session_id":"a","reason":"because"}',
    '{"type":"remove","id":"c8","session_id":"a","message_id":"m"}',
    '{"type":"read","id":"c9","session_id":"a","before":9,"limit":5}',
]


async def everything(engine: Engine, workspace: str) -> list[RecordedEvent]:
    """The log of a workspace."""
    async with engine.workspace(workspace).log(after=START) as log:
        return [item async for item in log if isinstance(item, RecordedEvent)]


@attrs.define
class Tally:
    """What came back."""

    connections: int = 0
    answered: int = 0
    codes: set[int] = attrs.field(factory=set)
    statuses: set[int] = attrs.field(factory=set)
    silent: list[bytes] = attrs.field(factory=list)

    def add(self, heard: Heard, sent: bytes, complete: bool) -> None:
        """Count one connection that has ended."""
        self.connections += 1
        self.statuses.add(heard.status)
        if heard.closed is not None:
            self.codes.add(heard.closed)
        self.answered += sum(opcode == TEXT for opcode, _ in heard.messages)
        told = heard.closed is not None or heard.status >= 400
        if not heard.ended or (complete and not told):
            self.silent.append(sent)


async def one(port: int, head: bytes, sent: bytes, complete: bool, tally: Tally, limiter: trio.CapacityLimiter) -> None:
    """Send a handshake and these bytes, and hear what comes until the server ends the stream.

    Nothing is sent behind what must end the connection: a socket that is closed with something unread resets the stream, and
    what the server said last would be lost on its way.
    """
    async with limiter:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            answer = b""
            try:
                await stream.send_all(head)
                # Nobody may send a frame before the handshake was answered (RFC 6455 section 4.1).
                while sent and b"\r\n\r\n" not in answer:
                    answer += await stream.receive_some()
                await stream.send_all(sent)
                if not complete:
                    await stream.send_all(frame((1000).to_bytes(2, "big"), CLOSE))
                    await stream.send_eof()
            except trio.BrokenResourceError:
                pass  # it has closed already; what it said before is read below
            tally.add(await hear(stream, quiet_s=20, data=answer), sent, complete)


def connection(fuzzer: Fuzzer, head: bytes, number: int) -> tuple[bytes, bytes, bool]:
    """What one connection sends: its handshake, what comes after it, and whether the last of that is complete."""
    if number % 10 == 0:
        return fuzzer.handshake(), b"", False
    last, complete = fuzzer.last()
    return head, b"".join(fuzzer.frame() for _ in range(PER_CONNECTION - 1)) + last, complete


async def test_garbage_is_answered_or_closed_with_a_code_and_changes_nothing(tmp_path: Path) -> None:
    """Mutated frames, wrong lengths, masks, opcodes and encodings, from sockets that may write in their own workspace."""
    tally, limiter = Tally(), trio.CapacityLimiter(20)
    limits = ServerLimits(handshake_s=5, stalled_s=5, shutdown_s=5)
    async with checked_engine(tmp_path / "fuzz.db") as engine, trio.open_nursery() as nursery:
        other = await engine.workspace("other").create_session("a")
        await other.append(MessageUpdated("m", "user"))
        before = await everything(engine, "other")
        tokens = [Token(SECRET, workspace="fuzz", access="write")]
        server = await nursery.start(partial(serve, engine, port=0, tokens=tokens, limits=limits))
        tasks = trio.lowlevel.current_statistics().tasks_living
        fuzzer = Fuzzer(1, VALID)
        head = upgrade(extra=f"Authorization: Bearer {SECRET}\r\n")
        async with trio.open_nursery() as clients:
            for number in range(FRAMES // PER_CONNECTION):
                clients.start_soon(one, server.port, *connection(fuzzer, head, number), tally, limiter)
        assert tally.silent == []
        assert tally.connections == FRAMES // PER_CONNECTION
        assert {101, 400} <= tally.statuses
        assert {1000, 1002, 1003, 1007, 4400} <= tally.codes
        assert tally.answered > tally.connections / 2
        # Nothing of them is left, and the one who was not meant is as before.
        await eventually(lambda: server.statistics().connections == 0)
        gc.collect()
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + engine.statistics().sessions.live
        assert await everything(engine, "other") == before
        session = await engine.workspace("fuzz").create_session("after all of it")
        await session.append(MessageUpdated("m", "user"))
        await server.close()


async def test_a_mutated_frame_never_writes_what_a_valid_one_would_not(tmp_path: Path) -> None:
    """With a token for reading, no bytes whatever write anything."""
    tally, limiter = Tally(), trio.CapacityLimiter(10)
    async with checked_engine(tmp_path / "fuzz.db") as engine, trio.open_nursery() as nursery:
        await (await engine.create_session("a")).append(MessageUpdated("m", "assistant"))
        before = await everything(engine, "default")
        server = await nursery.start(partial(serve, engine, port=0, tokens=[Token(SECRET, access="read")]))
        fuzzer = Fuzzer(2, VALID)
        head = upgrade(extra=f"Authorization: Bearer {SECRET}\r\n")
        async with trio.open_nursery() as clients:
            for number in range(40):
                clients.start_soon(one, server.port, *connection(fuzzer, head, number), tally, limiter)
        assert tally.silent == []
        assert await everything(engine, "default") == before
        await server.close()


def test_every_code_that_an_error_frame_can_have_is_an_error_of_the_engine() -> None:
    """A client can map each of them."""
    assert all(issubclass(cls, EngineError) for cls in CODES.values())
