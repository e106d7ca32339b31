"""How fast do committed events reach many clients, end to end, against a bare fan-out of the same messages?"""

from __future__ import annotations

import json
import time
from functools import partial

import trio
import trio_websocket

from bench.live import clients, flood, results, served, sessions_of
from bench.report import Settings, Table, median
from engine.server.frames import SUBPROTOCOL

SIZE_BYTES = 8 * 1024


def run(settings: Settings) -> Table:
    """50 clients that follow the workspace, 1,000 events of 8 KiB from 10 sessions."""
    table = Table(title=f"fan out: events of {SIZE_BYTES // 1024} KiB to all, first append to last delivery")
    followers, events = (3, 20) if settings.smoke else (50, 1_000)
    engine_s: list[float] = []
    bare_s: list[float] = []
    shown = {}
    for _ in range(1 if settings.smoke else 3):
        for library in (False, True):
            found = trio.run(_engine, settings, followers, events, library)
            shown[library] = found
            if not library:
                engine_s.append(found["seconds"])
        bare_s.append(trio.run(_bare, followers, events))
    for library, found in shown.items():
        table.rows.append(
            {
                "clients": followers,
                "through": "the client library" if library else "frames",
                "events/s": followers * events / found["seconds"],
                "MB/s": followers * events * SIZE_BYTES / found["seconds"] / 1e6,
                "events/frame": found["events"] / max(1, found["frames"]) if not library else None,
                "gaps": found["gaps"],
                "lagging": found["lagging"],
            }
        )
    table.rows.append(
        {
            "clients": followers,
            "through": "bare: the same bytes, no engine",
            "events/s": followers * events / median(bare_s),
            "MB/s": followers * events * SIZE_BYTES / median(bare_s) / 1e6,
            "events/frame": float(PER_FRAME),
            "gaps": 0,
            "lagging": 0,
        }
    )
    table.aim("of the bare fan-out", median(bare_s) / median(engine_s), at_least=0.5)
    table.notes.append(f"seconds for all: {median(engine_s):.2f}, bare {median(bare_s):.2f}")
    return table


async def _engine(settings: Settings, followers: int, events: int, library: bool) -> dict[str, float]:
    async with served(settings, "fan-out") as (engine, server):
        sessions = await sessions_of(engine, 10)
        async with clients(server, mode="follow", clients=followers, events=events, library=library) as made:
            started = time.perf_counter()
            await flood(sessions, events, SIZE_BYTES)
            found = await results(made)
    assert found["events"] == followers * events
    return {**found, "seconds": found["last"] - started}


PER_FRAME = 8
"""Events in a message of the bare fan-out: what fits the server's frames."""


async def _bare(followers: int, events: int) -> float:
    """The same bytes in messages of the same size, sent to each by a task of its own; nothing else happens."""
    event = {"cursor": "0", "event": {"data": {"body": "x" * SIZE_BYTES}}}
    message = json.dumps({"type": "events", "after": "0", "cursor": "0", "events": [event] * PER_FRAME})
    begin = trio.Event()

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        socket = await request.accept(subprotocol=SUBPROTOCOL)
        await socket.send_message(json.dumps({"type": "hello"}))
        await socket.get_message()
        await socket.send_message(json.dumps({"type": "subscribed", "cursor": "0"}))
        await begin.wait()
        for _ in range(-(-events // PER_FRAME)):
            await socket.send_message(message)

    async with trio.open_nursery() as nursery:
        bare = await nursery.start(partial(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None))
        url = _Url(f"ws://127.0.0.1:{bare.port}")
        async with clients(url, mode="follow", clients=followers, events=events) as made:  # type: ignore[arg-type]
            started = time.perf_counter()
            begin.set()
            found = await results(made)
        nursery.cancel_scope.cancel()
    return float(found["last"] - started)


class _Url:
    def __init__(self, url: str) -> None:
        self.url = url
