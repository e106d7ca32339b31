"""Whatever is sent, it gets a clear error or a close code, and changes nothing (promise 16)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.support.engines import count_rows
from tests.support.peers import Peer, eventually, note, open_stream, peer, served, small

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: engine.v1\r\n\r\n"
)

FRAMES = {
    "no JSON": "hello",
    "empty": "",
    "no object": "[]",
    "a number": "1e999",
    "no type": "{}",
    "unknown type": '{"type": "destroy", "id": "x"}',
    "a server's frame": '{"type": "hello", "id": "x"}',
    "unknown field": '{"type": "open", "id": "x", "session_id": "s", "sesion": 1}',
    "missing field": '{"type": "append", "id": "x", "session_id": "s"}',
    "wrong type": '{"type": "create", "id": "x", "session_id": 5}',
    "empty id": '{"type": "create", "id": "", "session_id": "s2"}',
    "long id": json.dumps({"type": "create", "id": "x" * 513, "session_id": "s2"}),
    "long session": json.dumps({"type": "create", "id": "x", "session_id": "s" * 513}),
    "negative seq": '{"type": "append", "id": "x", "session_id": "s", "events": [], "expected_seq": -1}',
    "huge seq": '{"type": "append", "id": "x", "session_id": "s", "events": [], "expected_seq": 99999999999999999999}',
    "deep": '{"type": "create", "id": "x", "session_id": "s2", "metadata": ' + '{"a":' * 5_000 + "1" + "}" * 5_001,
    "lone surrogate": '{"type": "create", "id": "x", "session_id": "\\ud800"}',
    "event is text": '{"type": "append", "id": "x", "session_id": "s", "events": ["a"]}',
    "NaN": '{"type": "create", "id": "x", "session_id": "s2", "metadata": {"a": NaN}}',
    "trailing": '{"type": "create", "id": "x", "session_id": "s2"} {}',
}

COMMANDS: dict[str, dict[str, Any]] = {
    "event with an unknown field": {"events": [{"type": "session.noted", "event": {"note_id": "n", "kind": "k", "x": 1}}]},
    "event without its fields": {"events": [{"type": "session.noted", "event": {}}]},
    "event that is no object": {"events": [{"type": "session.noted", "event": [1]}]},
    "event of an unknown type": {"events": [{"type": "no.such", "event": {}}]},
    "event with a deep value": {"events": [note(1, json.loads('{"a":' * 150 + "1" + "}" * 150))]},
    "one good, one bad": {"events": [note(1), {"type": "session.noted", "event": {}}]},
    "no events": {"events": []},
    "id in the form of the log's own": {"events": [{**note(1), "event_id": "EPOCH-77"}]},
}


async def ready(client: Peer) -> None:
    """A session `s` to do harm to."""
    await client.ask("create", id="setup", session_id="s")


async def still_works(client: Peer) -> bool:
    """Whether the connection serves as before."""
    return (await client.ask("open", session_id="s"))["type"] == "opened"


@pytest.mark.parametrize("kind", FRAMES)
async def test_what_is_no_frame_gets_an_error_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    """An `error` frame in words, with the frame's id where it can be read; the connection goes on."""
    path = tmp_path / "a.db"
    async with served(path) as (_, server), peer(server) as client:
        await ready(client)
        await client.socket.send_message(FRAMES[kind])
        problem = await client.receive()
        assert (problem["type"], problem["written"]) == ("error", "nothing")
        # How deep a frame may be for the decoder depends on the Python; an event may never be so deep.
        assert problem["code"] in ("malformed_frame", "invalid_argument", "invalid_event")
        assert problem["message"].isprintable()
        assert len(problem["message"]) < 5_000
        assert await still_works(client)
    assert count_rows(path) == 1


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("command", ["append", "post"])
async def test_a_command_whose_events_are_wrong_gets_an_error_and_changes_nothing(
    tmp_path: Path, kind: str, command: str
) -> None:
    """The error has the command's id and says that nothing was written."""
    path = tmp_path / "a.db"
    async with served(path) as (engine, server), peer(server) as client:
        await ready(client)
        fields = json.loads(json.dumps(COMMANDS[kind]).replace("EPOCH", engine.epoch))
        problem = await client.ask(command, session_id="s", **fields)
        assert (problem["type"], problem["written"]) == ("error", "nothing")
        assert await still_works(client)
    assert count_rows(path) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"after": "soon"},
        {"after": ""},
        {"sessions": []},
        {"sessions": [f"s{n}" for n in range(10_000)]},
        {"after": "0123456789ab-99999999999999999999"},
    ],
)
async def test_a_subscription_that_makes_no_sense_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    """An error with its id; there is no subscription then."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        await ready(client)
        problem = await client.ask("subscribe", **fields)
        assert (problem["type"], problem["written"]) == ("error", "nothing")
        assert server.statistics().subscriptions == 0
        assert await still_works(client)


async def test_a_binary_message_closes_with_1003(tmp_path: Path) -> None:
    """Frames are text."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        await client.socket.send_message(b'{"type": "open", "id": "x", "session_id": "s"}')
        assert (await client.closed())[0] == 1003


async def test_too_many_malformed_frames_close_with_4400(tmp_path: Path) -> None:
    """Each of the first `malformed_max` is answered, the next one ends it."""
    async with served(tmp_path / "a.db", limits=small(malformed_max=3)) as (_, server), peer(server) as client:
        for _ in range(3):
            await client.socket.send_message("?")
            assert (await client.receive())["code"] == "malformed_frame"
        await client.socket.send_message("?")
        assert (await client.closed())[0] == 4400
        await eventually(lambda: not server.statistics().connections)
        assert server.statistics().frames_malformed == 4


@pytest.mark.parametrize("text", ["x" * 10_001, "ü" * 5_001, "x" * 5_000_000])
async def test_a_message_that_is_too_large_closes_with_1009_and_changes_nothing(tmp_path: Path, text: str) -> None:
    """`frame_bytes_max` counts bytes of UTF-8, not characters."""
    path = tmp_path / "a.db"
    async with served(path, limits=small(frame_bytes_max=10_000)) as (_, server), peer(server) as client:
        await ready(client)
        with trio.fail_after(10):
            try:
                frame = {"type": "append", "id": "a", "session_id": "s", "events": [note(1, {"text": text})]}
                await client.socket.send_message(json.dumps(frame, ensure_ascii=False))
            except ConnectionClosed:
                pass
            code, _reason = await client.closed()
        assert code in (1009, 1006) if len(text) > 1_000_000 else code == 1009
    assert count_rows(path) == 1


async def test_a_message_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    """The limit itself is allowed."""
    async with served(tmp_path / "a.db", limits=small(frame_bytes_max=10_000)) as (_, server), peer(server) as client:
        await ready(client)
        frame = {"type": "append", "id": "a", "session_id": "s", "events": [note(1, {"text": ""})]}
        room = 10_000 - len(json.dumps(frame))
        frame["events"] = [note(1, {"text": "x" * room})]
        await client.socket.send_message(json.dumps(frame))
        assert (await client.receive())["type"] == "receipt"


RAW = {
    "unmasked": b"\x81\x02{}",
    "reserved bits": b"\xf1\x80\x00\x00\x00\x00",
    "unknown opcode": b"\x83\x80\x00\x00\x00\x00",
    "ping that is too long": b"\x89\xfe\x00\x7e\x00\x00\x00\x00",
    "continuation of nothing": b"\x80\x80\x00\x00\x00\x00",
    "text that is no UTF-8": b"\x81\x82\x00\x00\x00\x00\xff\xfe",
    "close with half a code": b"\x88\x81\x00\x00\x00\x00\x03",
}


@pytest.mark.parametrize("kind", RAW)
async def test_broken_websocket_frames_close_with_their_code(tmp_path: Path, kind: str) -> None:
    """1002 or 1007 as RFC 6455 has them, and the server goes on."""
    async with served(tmp_path / "a.db") as (_, server):
        stream = await open_stream(server.port)
        async with stream:
            await stream.send_all(UPGRADE)
            answer = b""
            while b'"type":"hello"' not in answer:
                answer += await stream.receive_some()
            await stream.send_all(RAW[kind])
            with trio.fail_after(10):
                try:
                    while data := await stream.receive_some():
                        answer += data
                except trio.BrokenResourceError:
                    pass
            code = int.from_bytes(answer[answer.rindex(b"\x88") + 2 :][:2], "big")
            assert code == (1007 if "UTF-8" in kind else 1002)
        await eventually(lambda: not server.statistics().connections)
        assert server.statistics().closed_failed == 0
        async with peer(server) as client:
            await ready(client)


async def test_a_message_in_endless_empty_pieces_is_ended(tmp_path: Path) -> None:
    """A client cannot make the server keep piece after piece of a message that never ends."""
    async with served(tmp_path / "a.db", limits=small(frame_bytes_max=1_000)) as (_, server):
        stream = await open_stream(server.port)
        async with stream:
            await stream.send_all(UPGRADE)
            answer = b""
            while b'"type":"hello"' not in answer:
                answer += await stream.receive_some()
            await stream.send_all(b"\x01\x80\x00\x00\x00\x00")
            with trio.fail_after(20), pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await _send_for_ever(stream, b"\x00\x80\x00\x00\x00\x00" * 10_000)
        await eventually(lambda: not server.statistics().connections)
        assert server.statistics().closed_failed == 0


async def _send_for_ever(stream: trio.abc.Stream, data: bytes) -> None:
    while True:
        await stream.send_all(data)


async def test_random_bytes_and_random_frames_change_nothing(tmp_path: Path) -> None:
    """A seeded flood of mutated frames: every one is answered or closes; no event is written; others are served."""
    chance, path = random.Random(11), tmp_path / "a.db"
    valid = [
        {"type": "open", "id": "x", "session_id": "s"},
        {"type": "subscribe", "id": "y", "after": "start", "sessions": ["s"]},
        {"type": "read", "id": "z", "session_id": "s", "limit": 5},
        {"type": "unsubscribe", "id": "y"},
        {"type": "flush", "id": "f", "session_id": "s"},
    ]
    async with served(path, limits=small(malformed_max=10**6)) as (engine, server):
        await engine.create_session("s")
        async with peer(server) as steady:
            for _ in range(20):
                async with peer(server) as client:
                    try:
                        for _ in range(30):
                            text = list(json.dumps(chance.choice(valid)))
                            for _ in range(chance.randrange(4)):
                                text[chance.randrange(len(text))] = chr(chance.choice((34, 58, 91, 0, 125, 233, 9_999)))
                            await client.socket.send_message("".join(text))
                    except ConnectionClosed:
                        pass
            assert await still_works(steady)
        assert server.statistics().closed_failed == 0
    assert count_rows(path) == 1
