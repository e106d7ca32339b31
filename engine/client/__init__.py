"""The WebSocket client: the same surface as the embedded engine, over a connection that comes and goes.

    async with connect("ws://127.0.0.1:8765", token=...) as client:
        session = await client.create_session("ses_1", title="x")
        await session.append(MessageUpdated("m1", "user"))
        async with client.log(after=START) as log:
            async for item in log: ...

`protocol`, `following` and `outbox` decide everything and do no I/O; `socket` is the only file that knows a WebSocket.
"""

from engine.client.client import SNAPSHOT, Client, ClientStatistics, connect
from engine.client.log import RemoteLog
from engine.client.session import RemoteSession
from engine.projections.views import ReadSnapshot, SessionSnapshot

__all__ = [
    "SNAPSHOT",
    "Client",
    "ClientStatistics",
    "ReadSnapshot",
    "RemoteLog",
    "RemoteSession",
    "SessionSnapshot",
    "connect",
]
