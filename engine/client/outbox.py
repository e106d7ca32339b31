"""What the client has to send to sessions: commands until they are answered, posts until they are known to be durable.

Owns: the order, what goes out again on a new connection, joining posted text, which posts an answered flush covers.
Must not know: sockets, time, who waits.
Invariants: on every connection, what was accepted first goes out first, and what went out once goes out again as the same
text under the same id until it is answered; a post is let go only by an answered flush behind it or by its own failure;
what was withdrawn before it went out never goes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import attrs

from engine.client.posted import Posted
from engine.errors import ClosedError, ConnectionLostError, EngineError, EventTooLargeError
from engine.limits import ClientLimits, Limits
from engine.server import frames

Answer = frames.Receipt | frames.Opened | frames.Flushed | frames.Stopped | frames.MessagePage
Sendable = frames.Open | frames.Create | frames.Append | frames.Flush | frames.Stop | frames.Remove | frames.Read
DELTA_CHARS_MAX: Final = Limits().delta_chars_max
"""Waiting text of one part is joined up to this many characters, as the engine itself does."""


class Answering(Protocol):
    """Who waits for an answer; a reply channel (`engine.ports.Reply`) is one."""

    def resolve(self, value: Answer, /) -> None:
        """The server's answer."""

    def reject(self, error: BaseException, /) -> None:
        """There will be none."""


@attrs.define(eq=False)
class Pending:
    """A command that was not answered yet."""

    frame: Sendable
    text: str
    reply: Answering | None
    """None for a flush of the client's own."""
    number: int
    """The place in the order of everything that was accepted."""
    sent: bool = False
    """Whether it ever went out."""
    gone: bool = False
    """It is not to go out (again)."""
    faults: int = 0
    """Connections that the server ended with a fault while this was on its way."""


class Outbox:
    """Commands and posts in the order in which they were accepted."""

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._entries: dict[str, Pending | Posted] = {}
        self._waiting: deque[Pending | Posted] = deque()
        self._posts: dict[str, deque[Posted]] = {}
        self._last: dict[str, Pending | Posted] = {}
        """The newest of each session, unless it went out already: only to that may text be joined."""
        self._flying: dict[str, Pending] = {}
        self._flushing: dict[str, str] = {}
        """Sessions that a flush of the client's own is on its way for, and its id."""
        self._numbers = 0
        self._window = 0
        self._frame_bytes_max = 0
        self._open = False
        self.posted_events = 0
        """Posted events that are not known to be durable."""
        self.posted_bytes = 0
        self.resent = 0
        """Frames that went out once more on a later connection."""
        self.failed_posts = 0
        self.settled: Callable[[], None] = _nobody
        """Called when there is more room for posts."""

    def __len__(self) -> int:
        """Commands that wait for their answer."""
        return sum(isinstance(entry, Pending) for entry in self._entries.values())

    # --- what callers do ------------------------------------------------------------------------------

    def command(self, frame: Sendable, reply: Answering | None) -> Pending:
        """Accept a command. Raises `EventTooLargeError` where the server would not read it."""
        text = frames.encode(frame)
        problem = self._too_large(frame, text)
        if problem is not None:
            raise problem
        self._numbers += 1
        pending = Pending(frame, text, reply, self._numbers)
        self._entries[frame.id] = pending
        self._last[frame.session_id] = pending
        if self._open:
            self._waiting.append(pending)
        return pending

    def withdraw(self, pending: Pending) -> None:
        """Nobody waits any more: it does not go out if it did not yet, and never again."""
        if self._entries.get(pending.frame.id) is pending:
            del self._entries[pending.frame.id]
        pending.gone = pending.gone or not pending.sent
        pending.reply = None
        if not pending.sent and pending in self._waiting:
            # Behind a line that takes nothing, those who try again and again would fill the memory.
            self._waiting.remove(pending)
        self._forget_last(pending)

    def has_room(self, posted: Posted) -> bool:
        """Whether a post may be accepted now."""
        limits = self._limits
        return not self.posted_events or (
            self.posted_events + posted.count <= limits.posts_events_max
            and self.posted_bytes + posted.size <= limits.posts_bytes_max
        )

    def post(self, posted: Posted) -> None:
        """Accept a post: joined to one that waits, or in its own place."""
        self.posted_bytes += posted.size
        last = self._last.get(posted.session_id)
        if isinstance(last, Posted) and last.joins(posted, DELTA_CHARS_MAX):
            last.pieces.append(posted.pieces[0])
            last.chars += posted.chars
            last.size += posted.size
            return
        self._numbers += 1
        posted.number = self._numbers
        self.posted_events += posted.count
        self._entries[posted.id] = posted
        self._posts.setdefault(posted.session_id, deque()).append(posted)
        self._last[posted.session_id] = posted
        if self._open:
            self._waiting.append(posted)

    def to_flush(self, *, all_of_them: bool = False) -> Iterator[tuple[str, int]]:
        """The sessions (and their lives) that the client should flush by itself now."""
        limits = self._limits
        if (
            all_of_them
            or 2 * self.posted_events >= limits.posts_events_max
            or 2 * self.posted_bytes >= limits.posts_bytes_max
        ):
            for session_id, posts in self._posts.items():
                if session_id not in self._flushing:
                    yield session_id, posts[-1].incarnation

    def flush(self, flush_id: str, session_id: str, incarnation: int) -> None:
        """A flush of the client's own."""
        self.command(frames.Flush(id=flush_id, session_id=session_id, incarnation=incarnation), None)
        self._flushing[session_id] = flush_id

    # --- what the connection does -----------------------------------------------------------------------

    def connected(self, window: int, frame_bytes_max: int) -> None:
        """A connection is there: everything that is not answered goes out, in its order."""
        self._open = True
        self._window = window
        self._frame_bytes_max = frame_bytes_max
        self._flying.clear()
        self._waiting = deque(self._entries.values())

    def lost(self, *, fault: bool = False) -> None:
        """The connection is gone; `fault`: because the server met one, which may be the fault of what was on its way."""
        if fault:
            self._suspect()
        self._open = False
        self._waiting.clear()
        self._flying.clear()

    def next(self) -> str | None:
        """The next text to send, or None: there is nothing, or as many commands as may be are on their way."""
        while self._waiting:
            entry = self._waiting[0]
            if entry.gone:
                self._waiting.popleft()
                continue
            if isinstance(entry, Posted):
                again = bool(entry.text)
                text = entry.seal()
                problem = self._too_large(None, text)
            else:
                if len(self._flying) >= self._window:
                    return None
                again, text = entry.sent, entry.text
                problem = self._too_large(entry.frame, text)
            self._waiting.popleft()
            self._forget_last(entry)
            if problem is not None:
                self._refuse(entry, problem)
                continue
            self.resent += again
            if isinstance(entry, Pending):
                entry.sent = True
                self._flying[entry.frame.id] = entry
            return text
        return None

    def answer(self, frame: Answer) -> None:
        """The server answered a command."""
        pending = self._take(frame.id)
        if pending is None:
            return
        if isinstance(pending.frame, frames.Flush):
            self._flushed(pending, None)
        if pending.reply is not None:
            pending.reply.resolve(frame)

    def refuse(self, frame_id: str, error: EngineError) -> bool:
        """The server refused a command or a post. Returns whether there was one of this id.

        A server that shuts down has not looked at it (`ClosedError`): it stays, for the next connection.
        """
        entry: Pending | Posted | None = self._flying.get(frame_id) or self._entries.get(frame_id)
        if entry is None:
            return False
        if isinstance(error, ClosedError):
            self._flying.pop(frame_id, None)
        else:
            self._refuse(entry, error)
        return True

    def fail(self, error: EngineError | None) -> None:
        """Nothing will be sent any more: because of an error, or because the client is closed (None)."""
        entries, self._entries = self._entries, {}
        self._waiting.clear()
        for entry in entries.values():
            if isinstance(entry, Pending) and entry.reply is not None:
                entry.reply.reject(error.clone() if error is not None else _closed(entry))
        self.settled()

    # --- inner --------------------------------------------------------------------------------------

    def _suspect(self) -> None:
        waiting = set(map(id, self._waiting))
        for entry in tuple(self._entries.values()):
            if id(entry) in waiting or entry.gone:
                continue
            entry.faults += 1
            if entry.faults >= self._limits.faults_max:
                name = "post" if isinstance(entry, Posted) else str(entry.frame.__struct_config__.tag)
                session_id = entry.session_id if isinstance(entry, Posted) else entry.frame.session_id
                problem = f"the server met a fault each of {entry.faults} times that it was sent"
                self._refuse(entry, ConnectionLostError(f"{name} {session_id!r}", problem))

    def _refuse(self, entry: Pending | Posted, error: EngineError) -> None:
        if isinstance(entry, Posted):
            self._drop(entry)
            posts = self._posts[entry.session_id]
            posts.remove(entry)
            if not posts:
                del self._posts[entry.session_id]
            self.failed_posts += 1
            entry.sink.failed(error)
            return
        pending = self._take(entry.frame.id) or entry
        if isinstance(pending.frame, frames.Flush):
            self._flushed(pending, error)
        if pending.reply is not None:
            pending.reply.reject(error)

    def _take(self, frame_id: str) -> Pending | None:
        """A command that is answered now, also one that nobody waits for any more."""
        entry = self._entries.get(frame_id)
        if isinstance(entry, Pending):
            entry.gone = True
            del self._entries[frame_id]
        return self._flying.pop(frame_id, entry if isinstance(entry, Pending) else None)

    def _flushed(self, flush: Pending, error: EngineError | None) -> None:
        """The posts before an answered flush are settled: durable, or refused with an error of their own.

        Where the flush itself failed, nobody knows of them: their callers are told so, once each.
        """
        session_id = flush.frame.session_id
        if self._flushing.get(session_id) == flush.frame.id:
            del self._flushing[session_id]
        posts = self._posts.get(session_id)
        told: set[int] = set()
        while posts and posts[0].number < flush.number:
            posted = posts.popleft()
            self._drop(posted)
            if error is not None:
                self.failed_posts += 1
                if id(posted.sink) not in told:
                    told.add(id(posted.sink))
                    posted.sink.failed(error.clone())
        if posts is not None and not posts:
            del self._posts[session_id]

    def _drop(self, posted: Posted) -> None:
        del self._entries[posted.id]
        posted.gone = True
        self.posted_events -= posted.count
        self.posted_bytes -= posted.size
        self._forget_last(posted)
        self.settled()

    def _forget_last(self, entry: Pending | Posted) -> None:
        session_id = entry.frame.session_id if isinstance(entry, Pending) else entry.session_id
        if self._last.get(session_id) is entry:
            del self._last[session_id]

    def _too_large(self, frame: Sendable | None, text: str) -> EngineError | None:
        size = len(text) if text.isascii() else len(text.encode())
        if not self._frame_bytes_max or size <= self._frame_bytes_max:
            return None
        name = "post" if frame is None else str(frame.__struct_config__.tag)
        return EventTooLargeError(name, f"a frame of {size} bytes; the server's frame_bytes_max is {self._frame_bytes_max}")


def _nobody() -> None:
    """Nobody waits for room."""


def _closed(pending: Pending) -> EngineError:
    name = str(pending.frame.__struct_config__.tag)
    if pending.sent:
        return ConnectionLostError(f"{name} {pending.frame.session_id!r}", "the client was closed before the answer came")
    return ClosedError("the client")
