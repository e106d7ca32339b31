"""Where the items of `engine tail --url` come from: a server.

Owns: the client, what is asked of it, telling of lost connections. Must not know: how anything is shown.
Invariants: those of `following`: each event comes once and in order, over any number of connections and servers; a `Reset`
is given, and everything begins as it did at first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from engine.cli.tail.following import PAGE_MESSAGES, Connected, Item, Recalled, Request, again
from engine.client import Client, ReadSnapshot, connect
from engine.errors import CursorError, UnknownSessionError
from engine.events import HEAD, After, CaughtUp, Cursor, Reset

WATCH_S: Final = 0.2
"""How often it is looked whether there is a connection."""

Give = Callable[[Item], None]


async def follow_server(url: str, token: str | None, request: Request, give: Give) -> None:
    """Give what happens at a server, until the end of time (or, without `follow`, until everything committed was given).

    Raises what `connect` raises; `CursorError`, `UnknownSessionError` for a request that the server cannot meet. Cancelled
    at any time: the connection is closed in order.
    """
    async with connect(url, token=token, events=request.events) as client, trio.open_nursery() as nursery:
        nursery.start_soon(_watch, client, give)
        place, begun = request.after, False
        while await _follow_one(client, request, place, give, begun=begun):
            place, begun = again(request), True
        nursery.cancel_scope.cancel()


async def _follow_one(client: Client, request: Request, place: After | None, give: Give, *, begun: bool) -> bool:
    """Whether what was given is no longer the log's content, so that everything begins anew."""
    after = HEAD if place is None else place
    async with client.log(after=after, session_id=request.filter, skipped=request.skipped) as log:
        if place is None:
            for session_id in request.sessions:
                await _recall(client, session_id, request.last, give, begun=begun)
        async for item in log:
            assert not isinstance(item, ReadSnapshot), "none was asked for"
            if isinstance(item, Reset) and isinstance(place, Cursor) and log.cursor is None:
                # Refused before it began: nothing was shown that could have become untrue.
                raise CursorError(str(place), item.reason.removeprefix(f"cursor '{place}': "))
            give(item)
            if isinstance(item, Reset):
                return True
            if isinstance(item, CaughtUp) and not request.follow:
                return False
    return False


async def _recall(client: Client, session_id: str, last: int, give: Give, *, begun: bool) -> None:
    """The newest messages of a session. It must be there at first; later it may have been removed."""
    try:
        session = await client.session(session_id)
        page = await session.messages(limit=max(1, min(last, PAGE_MESSAGES)))
        messages, position = list(page.items), page.cursor.position
        while page.more and page.items and len(messages) < last:
            page = await session.messages(before=messages[0].key, limit=min(last - len(messages), PAGE_MESSAGES))
            messages[:0] = page.items
    except UnknownSessionError:
        if not begun:
            raise
    else:
        give(Recalled(session_id, session.incarnation, messages[-last:] if last else (), position))


async def _watch(client: Client, give: Give) -> None:
    """Tell when the connection is lost, and when there is one again."""
    reconnects, connected = 0, True
    while True:
        await trio.sleep(WATCH_S)
        found = client.statistics()
        if connected and (not found.connected or found.reconnects != reconnects):
            give(Connected(False))
            connected = False
        if found.connected and not connected:
            give(Connected(True))
            connected = True
        reconnects = found.reconnects
