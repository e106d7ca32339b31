"""`RemoteSession`: what a client holds of one session, with the methods of the embedded `Session`.

Owns: checking events before they go out, receipts, failures of posts. Must not know: sockets, reconnecting.
A handle belongs to one incarnation: after the session was removed, its writes are skipped or refused, never applied to
another life of the id.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import trio

from engine.client.answers import page_of, receipt_of
from engine.client.core import Core
from engine.client.following import ViolationError
from engine.client.posted import post as post_of
from engine.client.posted import wire_event
from engine.errors import EngineError, EventTooLargeError, InvalidArgumentError
from engine.events import MessageRemoved, PreparedEvent, Receipt, SessionRemoved, SessionRewound, prepare
from engine.limits import Limits
from engine.projections.views import MessageView
from engine.server import frames
from engine.store import Page

log = logging.getLogger("engine.client")

_LIMITS = Limits()
_REMOVALS = (MessageRemoved, SessionRemoved, SessionRewound)


class RemoteSession:
    """One incarnation of a session, over a client.

    Every call waits while the connection is lost, and goes on by itself: its command is sent again with the same id, and has
    its effect once. Every method may raise what an earlier `post` of this handle failed with; the errors of the embedded
    `Session`, as the same classes; `ForbiddenError` (a token for reading); `UnauthorizedError` and `ProtocolError` when the
    client has ended by one; `ClosedError` when it was closed and nothing had gone out; `ConnectionLostError` when it was
    closed with the command on its way, or when the server met a fault each of the `ClientLimits.faults_max` times that it
    was sent: only then is it unknown whether it was written.
    Cancelled: a command that has not gone out yet is withdrawn; another is carried out or not, and is not sent again.
    """

    def __init__(self, core: Core, session_id: str, incarnation: int) -> None:
        self._core = core
        self._id = session_id
        self._incarnation = incarnation
        self._failures: deque[EngineError] = deque()

    @property
    def id(self) -> str:
        """The session's id."""
        return self._id

    @property
    def workspace(self) -> str:
        """The workspace it belongs to."""
        return self._core.workspace

    @property
    def incarnation(self) -> int:
        """Which life of the session id this handle writes to: 1, 2, 3 ..."""
        return self._incarnation

    def __repr__(self) -> str:
        return f"<RemoteSession {self.workspace}/{self._id} incarnation {self._incarnation}>"

    # --- writing ------------------------------------------------------------------------------------

    async def append(self, *events: Any, expected_seq: int | None = None, strict: bool = False) -> Receipt:
        """Append events (or `Envelope`s), all or none, and wait until they are durable. See the embedded `Session.append`.

        An event id that the caller brought and that was known answers `Duplicate`; also where it was this very call that
        wrote it and lost the answer with the connection: `original` then is what this call did. Events without an id never
        answer `Duplicate`.
        """
        self._raise_failed()
        prepared = self._prepare(events)
        frame = frames.Append(
            id=self._core.new_id(),
            session_id=self._id,
            incarnation=self._incarnation,
            events=[wire_event(event) for event in prepared],
            expected_seq=expected_seq,
            strict=strict,
        )
        answer = await self._core.call(frame, frames.Receipt)
        return self._receipt(answer, tuple(event.event_id is not None for event in prepared))

    async def post(self, *events: Any) -> None:
        """Hand events over without waiting for their commit; they go out in order, again and again until they are known to
        be durable, and are written once.

        Waits only while `ClientLimits.posts_events_max` or `posts_bytes_max` are not known to be durable. A failure is
        logged, counted, and raised by the next call on this handle. Text that continues a `PartDelta` which has not gone out
        yet is joined to it. Cancelled: not accepted.
        """
        self._raise_failed()
        await trio.lowlevel.checkpoint_if_cancelled()
        prepared = self._prepare(events)
        if any(type(event.event) in _REMOVALS for event in prepared):
            raise InvalidArgumentError("events", "a removal drains the turn it touches, so it is appended, not posted")
        posted = post_of(self._core.ports.ids.new_id("post"), self._id, self._incarnation, prepared, self)
        await self._core.post(posted)

    async def flush(self) -> None:
        """Wait until everything this handle posted is durable; raises what failed."""
        self._raise_failed()
        frame = frames.Flush(id=self._core.new_id(), session_id=self._id, incarnation=self._incarnation)
        try:
            await self._core.call(frame, frames.Flushed)
        finally:
            # A flush that failed has failed the posts before it: that is told once, not twice.
            self._raise_failed()

    async def stop(self, reason: str = "stopped") -> bool:
        """Cancel the live turn, which runs in the server's process, and wait until it has drained. Returns whether there was
        one. `reason`: at most 1,000 characters."""
        frame = frames.Stop(id=self._core.new_id(), session_id=self._id, incarnation=self._incarnation, reason=reason)
        stopped = (await self._core.call(frame, frames.Stopped)).stopped
        self._raise_failed()
        return stopped

    async def remove(self) -> Receipt:
        """Stop the live turn, wait for its drain, then remove the session. Its usage stays counted."""
        return await self._remove(None)

    async def remove_message(self, message_id: str) -> Receipt:
        """Remove a message with its parts, after stopping and draining the turn that streams it, if one does."""
        return await self._remove(message_id)

    async def _remove(self, message_id: str | None) -> Receipt:
        self._raise_failed()
        frame = frames.Remove(
            id=self._core.new_id(), session_id=self._id, incarnation=self._incarnation, message_id=message_id
        )
        return self._receipt(await self._core.call(frame, frames.Receipt), (False,))

    # --- reading --------------------------------------------------------------------------------------

    async def messages(self, *, before: int | None = None, limit: int = 50) -> Page[MessageView]:
        """Messages with their parts, oldest first: the newest, or those just before the one with the key `before`.

        `client.log(after=page.cursor)` continues exactly where the page was read.
        """
        self._raise_failed()
        frame = frames.Read(id=self._core.new_id(), session_id=self._id, before=before, limit=limit)
        answer = await self._core.call(frame, frames.MessagePage)
        try:
            return page_of(answer)
        except ViolationError as problem:
            raise self._core.violated(problem) from None

    # --- inner ----------------------------------------------------------------------------------------

    def _prepare(self, events: tuple[Any, ...]) -> tuple[PreparedEvent, ...]:
        if not events:
            raise InvalidArgumentError("events", "expected at least one")
        if len(events) > _LIMITS.append_events_max:
            raise EventTooLargeError("append", f"{len(events)} events; append_events_max is {_LIMITS.append_events_max}")
        return tuple(prepare(self._core.registry, event, _LIMITS) for event in events)

    def _receipt(self, answer: frames.Receipt, brought: tuple[bool, ...]) -> Receipt:
        try:
            return receipt_of(answer, brought)
        except ViolationError as problem:
            raise self._core.violated(problem) from None

    def failed(self, error: EngineError) -> None:
        """Told that something this handle posted was not written."""
        log.warning("a post to session %r failed: %s", self._id, error)
        self._failures.append(error)

    def _raise_failed(self) -> None:
        if self._failures:
            raise self._failures.popleft()
