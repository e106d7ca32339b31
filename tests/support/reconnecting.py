"""A follower in a process of its own, written with the `websockets` library and its reconnect loop.

`python reconnecting.py URL SESSION COUNT [TOKEN]` prints one line of JSON per event (cursor, seq, type), `connected` on
standard error for every connection, and ends after COUNT events.
"""

from __future__ import annotations

import asyncio
import json
import sys

import websockets


async def follow(url: str, session: str, count: int, token: str | None) -> None:
    """Subscribe after the last cursor, whatever happens to the connection."""
    cursor = "start"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async for socket in websockets.connect(url, subprotocols=["engine.v1"], additional_headers=headers, max_size=None):
        try:
            hello = json.loads(await socket.recv())
            assert hello["type"] == "hello", hello
            sys.stderr.write("connected\n")
            sys.stderr.flush()
            asked = {"type": "subscribe", "id": "s", "sessions": [session], "after": cursor}
            await socket.send(json.dumps(asked))
            held = ""
            async for message in socket:
                frame = json.loads(message)
                if frame["type"] == "events":
                    assert frame["after"] == held, (frame["after"], held)
                    for event in frame["events"]:
                        print(json.dumps([event["cursor"], event["seq"], event["type"]]), flush=True)
                        count -= 1
                assert frame["type"] not in ("error", "reset"), frame
                if "cursor" in frame:
                    cursor = held = frame["cursor"]
                if count <= 0:
                    return
        except websockets.ConnectionClosed:
            continue


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None))
