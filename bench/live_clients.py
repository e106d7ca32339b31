"""The clients of the live benchmarks, in a process of their own: `python -m bench.live_clients OPTIONS-AS-JSON`.

Owns: connections that follow, that idle, and that never read. Must not know: what is compared.
It prints `ready` when every client has its subscription, and at the end one line of JSON. A following client decodes every
frame, checks that it follows on the one before it, and notes when each event came. `time.perf_counter` is the system's
monotonic clock on Linux, so that the moment an event carries and the moment it arrives can be compared across processes.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

import attrs
import msgspec
import trio
import trio_websocket

from bench.report import quantile
from engine.client import connect
from engine.events import HEAD, START, CaughtUp, Cursor, RecordedEvent
from engine.limits import ClientLimits
from engine.server.frames import SUBPROTOCOL

FRAME_BYTES_MAX = 64 * 1024 * 1024
RECEIVE_BYTES = 256 * 1024


class Frame(msgspec.Struct):
    """What a client looks at."""

    type: str
    cursor: str = ""
    after: str = ""
    events: list[Any] = []


_decoder = msgspec.json.Decoder(Frame)


@attrs.define(kw_only=True)
class Options:
    """What the clients are asked to do."""

    url: str
    mode: str
    clients: int = 1
    events: int = 0
    """Each following client ends after so many."""
    after: str = "now"
    library: bool = False
    """Follow through the client library, else through a bare connection that decodes frames itself."""
    stalled: int = 0
    """So many more that subscribe and never read."""


@attrs.define
class Found:
    """What the clients saw."""

    latencies_s: list[float] = attrs.field(factory=list)
    events: int = 0
    frames: int = 0
    gaps: int = 0
    lagging: int = 0
    first: float = float("inf")
    last: float = 0.0

    def event(self, content: Any) -> None:
        """One event came."""
        now = time.perf_counter()
        self.events += 1
        self.first, self.last = min(self.first, now), max(self.last, now)
        sent = content.get("sent") if isinstance(content, dict) else None
        if sent is not None:
            self.latencies_s.append(now - sent)


async def _open(url: str, nursery: trio.Nursery) -> trio_websocket.WebSocketConnection:
    host, _, port = url.removeprefix("ws://").partition(":")
    return await trio_websocket.connect_websocket(
        nursery,
        host,
        int(port.rstrip("/")),
        "/",
        use_ssl=False,
        subprotocols=[SUBPROTOCOL],
        max_message_size=FRAME_BYTES_MAX,
        receive_buffer_size=RECEIVE_BYTES,
    )


async def _subscribe(connection: trio_websocket.WebSocketConnection, after: str, sessions: list[str] | None = None) -> str:
    assert _decoder.decode(await connection.get_message()).type == "hello"
    asked = {"type": "subscribe", "id": "bench", "after": after, "sessions": sessions}
    await connection.send_message(json.dumps(asked))
    frame = _decoder.decode(await connection.get_message())
    assert frame.type == "subscribed", frame
    return frame.cursor


async def _follow(options: Options, found: Found, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    async with trio.open_nursery() as nursery:
        connection = await _open(options.url, nursery)
        cursor = await _subscribe(connection, options.after)
        task_status.started()
        seen = 0
        while seen < options.events:
            frame = _decoder.decode(await connection.get_message())
            found.frames += 1
            found.lagging += frame.type == "lagging"
            if frame.type == "events":
                found.gaps += frame.after != cursor
                seen += len(frame.events)
                for event in frame.events:
                    found.event(event["event"].get("data"))
            if frame.cursor:
                cursor = frame.cursor
        await connection.aclose()
        nursery.cancel_scope.cancel()


async def _follow_by_library(
    options: Options, found: Found, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    after = {"start": START, "now": HEAD}.get(options.after) or Cursor.parse(options.after)
    limits = ClientLimits(buffer_events_max=options.events + 1, buffer_bytes_max=2**30)
    async with connect(options.url, limits=limits) as client, client.log(after=after) as log:
        seen, told = 0, False
        async for item in log:
            if not told and (isinstance(item, CaughtUp) or options.after != "now"):
                told = True
                task_status.started()
            if isinstance(item, RecordedEvent):
                seen += 1
                found.event(getattr(item.event, "data", None))
                if seen >= options.events:
                    break


async def _idle(options: Options, number: int, nursery: trio.Nursery) -> None:
    await _subscribe(await _open(options.url, nursery), options.after, [f"nobody-{number}"])


async def _stall(options: Options, nursery: trio.Nursery) -> None:
    host, _, port = options.url.removeprefix("ws://").partition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    # Or the kernel takes megabytes before the server sees that nobody reads.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    # Nobody takes the messages: the library reads one, then stops reading the socket.
    connection = await trio_websocket.wrap_client_stream(
        nursery, stream, options.url.removeprefix("ws://"), "/", subprotocols=[SUBPROTOCOL], max_message_size=FRAME_BYTES_MAX
    )
    await _subscribe(connection, options.after)


async def _main(options: Options) -> None:
    found = Found()
    async with trio.open_nursery() as nursery:
        for _ in range(options.stalled):
            await _stall(options, nursery)
        if options.mode == "idle":
            for number in range(options.clients):
                await _idle(options, number, nursery)
        async with trio.open_nursery() as following:
            if options.mode == "follow":
                one = _follow_by_library if options.library else _follow
                for _ in range(options.clients):
                    await following.start(one, options, found)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            if options.mode == "idle":
                await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    latencies = found.latencies_s
    quantiles = {f"p{name}": quantile(latencies, part) for name, part in (("50", 0.5), ("99", 0.99)) if latencies}
    sys.stdout.write(
        json.dumps(
            {
                "events": found.events,
                "frames": found.frames,
                "gaps": found.gaps,
                "lagging": found.lagging,
                "first": found.first if found.events else 0.0,
                "last": found.last,
                **quantiles,
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    trio.run(_main, Options(**json.loads(sys.argv[1])))
