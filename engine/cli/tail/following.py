"""Where the items of `engine tail --db` come from: a file that another process owns and writes.

Owns: asking for changes, going on after a pause of the owner's or a new owner, noticing that the file is another one.
Must not know: how anything is shown.
Invariants: each event comes once and in order, whatever the owner does; what was given is never silently contradicted: when
the log no longer holds it, `Reset` says so and everything begins as it did at first; nothing is written, and no snapshot is
held while it waits.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import attrs
import trio

from engine.errors import CursorError, NotADatabaseError, StorageBusyError, StorageIOError, UnknownSessionError
from engine.events import HEAD, START, After, CaughtUp, Cursor, LogItem, Reset
from engine.projections import MessageView
from engine.runtime import Reader, ReaderWorkspace, open_reader

POLL_S: Final = 0.1
"""How often the file is asked whether it has changed: below what a reader of streaming text finds slow."""
PATIENCE_S: Final = 10.0
"""How long a file that was followed may be unreadable: its owner may be closing it, or making another one of that name."""
PAGE_MESSAGES: Final = 100


@attrs.frozen
class Recalled:
    """What a session held when the tail began: its newest messages, as of a position."""

    session_id: str
    incarnation: int
    messages: Sequence[MessageView]
    position: int


@attrs.frozen
class Connected:
    """The connection to a server was lost (False), or is there again."""

    yes: bool


Item = Recalled | Connected | LogItem


@attrs.frozen(kw_only=True)
class Request:
    """What to follow. `after` None: the newest `last` messages of each session, and what comes after them."""

    workspace: str
    sessions: Sequence[str]
    after: After | None
    last: int
    skipped: bool
    follow: bool
    events: Sequence[type[Any]] = ()

    @property
    def filter(self) -> Sequence[str] | None:
        """The sessions as a stream takes them: None for all."""
        return self.sessions or None


def again(request: Request) -> After | None:
    """Where to begin after a reset: as at first; a cursor of the log that was would be none of the log that is."""
    return START if isinstance(request.after, Cursor) else request.after


async def follow_file(path: str, request: Request, give: Callable[[Item], None]) -> None:
    """Give what happens in a file, until the end of time (or, without `follow`, until everything committed was given).

    Raises what `open_reader` raises at the first opening; `CursorError`, `UnknownSessionError` for a request that the log
    cannot meet. Cancelled at any time: nothing is left open.
    """
    async with aclosing(_items(path, request)) as items:
        async for item in items:
            give(item)


async def _items(path: str, request: Request) -> AsyncGenerator[Recalled | LogItem, None]:
    place: After | None = request.after
    begun, failing_since = False, 0.0
    while True:
        try:
            file = _identity(path)
            async with open_reader(path, request.events) as reader:
                workspace = reader.workspace(request.workspace)
                async with aclosing(_follow_one(path, file, reader, workspace, request, place)) as items:
                    async for item in items:
                        begun, failing_since = True, 0.0
                        if isinstance(item, Recalled):
                            place = None
                        elif isinstance(item, Reset):
                            place = again(request)
                        else:
                            place = item.cursor
                        yield item
        except CursorError as problem:
            # Of the place that this reader was given, not of the one it was asked for: the log is another one now.
            if not begun or place is request.after:
                raise
            yield Reset(f"the log is another one now ({problem.problem})", None)
            place = again(request)
        except (StorageBusyError, StorageIOError, NotADatabaseError):
            # Its owner may be closing it, or making another one of that name.
            failing_since = failing_since or trio.current_time()
            if not begun or trio.current_time() > failing_since + PATIENCE_S:
                raise
        if not request.follow and begun:
            return
        await trio.sleep(POLL_S)


async def _follow_one(
    path: str, file: object, reader: Reader, workspace: ReaderWorkspace, request: Request, place: After | None
) -> AsyncGenerator[Recalled | LogItem, None]:
    """What happens in one file, until there is another one of that name, or a `Reset`."""
    if place is None:
        async with workspace.log(after=HEAD) as stream:
            place = stream.cursor
        for session_id in request.sessions:
            yield await _recall(workspace, session_id, request.last)
    version: int | None = None
    while True:
        found = await reader.data_version()
        if found != version:
            news = version is None
            async with workspace.log(after=place, session_id=request.filter, skipped=request.skipped) as stream:
                async for item in stream:
                    # What others committed moves the place, and is no news.
                    if news or not isinstance(item, CaughtUp):
                        news = True
                        yield item
                    if isinstance(item, Reset):
                        return
                    place = item.cursor
            version = found
        if not request.follow or _identity(path) not in (file, None):
            return
        await trio.sleep(POLL_S)


async def _recall(workspace: ReaderWorkspace, session_id: str, last: int) -> Recalled:
    """The newest messages of a session. One that was removed has none, and its log may still be followed."""
    try:
        session = await workspace.read.session(session_id)
        page = await workspace.read.messages(session_id, limit=max(1, min(last, PAGE_MESSAGES)))
    except UnknownSessionError:
        seen = await workspace.read.log(session_id=session_id, limit=1)
        if not seen.items:
            raise
        return Recalled(session_id, seen.items[0].incarnation, (), 0)
    messages, position = list(page.items), page.cursor.position
    while page.more and page.items and len(messages) < last:
        left = min(last - len(messages), PAGE_MESSAGES)
        page = await workspace.read.messages(session_id, before=messages[0].key, limit=left)
        messages[:0] = page.items
    return Recalled(session_id, session.incarnation, messages[-last:] if last else (), position)


def _identity(path: str) -> tuple[int, int] | None:
    """Which file has this name now; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
