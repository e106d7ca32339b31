"""`Session`: what a user holds of one session, and the only way to write to it.

Owns: preparing events, choosing between append and post, draining before a removal, failures of posts.
Must not know: SQL, the batch. A handle belongs to one incarnation: after the session was removed, its writes are skipped.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

from engine.commands import Append, Flush, PostDelta
from engine.errors import EngineError, EventTooLargeError, InvalidArgumentError
from engine.events import (
    MessageRemoved,
    PartDelta,
    PreparedEvent,
    Receipt,
    SessionRemoved,
    SessionRewound,
    prepare,
)
from engine.events import Registry as EventRegistry
from engine.limits import Limits
from engine.ports import ForkGuard, Ports
from engine.session.actor import SessionActor
from engine.session.registry import Registry
from engine.session.turn import Turn, inside

log = logging.getLogger("engine.session")

OpenTools = Callable[[str, str, str], list[tuple[str, str, str]]]
"""(workspace, session, message) -> (part_id, call_id, name) of its calls that are not settled."""


@attrs.frozen(eq=False, kw_only=True)
class SessionContext:
    """What every handle of one engine shares."""

    registry: Registry
    events: EventRegistry
    ports: Ports
    limits: Limits
    open_tools: OpenTools
    fork: ForkGuard = attrs.field(factory=ForkGuard)


class Session:
    """One incarnation of a session.

    Every method may raise what an earlier `post` of this handle failed with; `ClosedError` and `BrokenError` say what state
    the engine is in; a `StorageError` says that nothing was written; `OutcomeUnknownError` that nobody knows yet.
    """

    def __init__(self, context: SessionContext, workspace: str, session_id: str, incarnation: int) -> None:
        self._context = context
        self._workspace = workspace
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
        return self._workspace

    @property
    def incarnation(self) -> int:
        """Which life of the session id this handle writes to: 1, 2, 3 ..."""
        return self._incarnation

    def __repr__(self) -> str:
        return f"<Session {self._workspace}/{self._id} incarnation {self._incarnation}>"

    # --- writing ------------------------------------------------------------------------------

    async def append(self, *events: Any, expected_seq: int | None = None, strict: bool = False) -> Receipt:
        """Append events (or `Envelope`s), all or none, and wait until they are durable.

        `expected_seq` is the session's last seq that the append was decided on (0 for none). `strict` refuses the append
        where an event would be skipped. Removals stop and drain the turn they touch first.

        Raises a `CallerError` when an event or the call is wrong (nothing was written); see the class for the others.
        Cancelled: what was accepted is written or not; send the same `event_id`s again to learn which.
        """
        self.raise_failed()
        prepared = self.prepare(events)
        removals = [item.event for item in prepared if type(item.event) in _REMOVALS]
        if removals:
            return await self._remove(removals, prepared, expected_seq, strict)
        return await self.write(prepared, expected_seq, strict)

    async def write(
        self, prepared: tuple[PreparedEvent, ...], expected_seq: int | None = None, strict: bool = False
    ) -> Receipt:
        """Append what is prepared, draining nothing and raising no failure of an earlier post."""
        context = self._context
        command = Append(
            workspace=self._workspace,
            session_id=self._id,
            incarnation=self._incarnation,
            events=prepared,
            expected_seq=expected_seq,
            strict=strict,
            size_bytes=sum([len(p.data) for p in prepared]),
            reply=(reply := context.ports.reply()),
        )
        await self.actor().accept(command)
        receipt: Receipt = await reply.wait()
        return receipt

    async def post(self, *events: Any, sink: Any = None) -> None:
        """Hand events over without waiting for their commit; they join the next group commit, in order.

        Waits only while the engine has too much in hand. A failure is logged, counted, and raised by the next call on this
        handle. Text that continues a waiting `PartDelta` is joined to it. Cancelled: not accepted.
        """
        self.raise_failed()
        await trio.lowlevel.checkpoint_if_cancelled()
        prepared = self.prepare(events)
        if any(type(p.event) in _REMOVALS for p in prepared):
            raise InvalidArgumentError("events", "a removal drains the turn it touches, so it is appended, not posted")
        actor = self.actor()
        if len(prepared) == 1 and type(prepared[0].event) is PartDelta and _is_bare(prepared[0]):
            await actor.accept_delta(self._delta(prepared[0].event, sink or self))
        else:
            await actor.accept(
                Append(
                    workspace=self._workspace,
                    session_id=self._id,
                    incarnation=self._incarnation,
                    events=prepared,
                    size_bytes=sum([len(p.data) for p in prepared]),
                    sink=sink or self,
                )
            )
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _delta(self, event: PartDelta, sink: Any) -> PostDelta:
        return PostDelta(
            workspace=self._workspace,
            session_id=self._id,
            incarnation=self._incarnation,
            part_id=event.part_id,
            message_id=event.message_id,
            field=event.field,
            offset=event.offset,
            chars=len(event.text),
            pieces=[event.text],
            size_bytes=4 * len(event.text),
            sink=sink,
        )

    async def flush(self) -> None:
        """Wait until everything this handle posted is durable; raises what failed."""
        self.raise_failed()
        try:
            await self.drain()
        finally:
            # A batch that failed with this flush in it failed the posts before it: that is told once, not twice.
            self.raise_failed()

    async def drain(self) -> None:
        """Wait until everything posted in this session is written or refused; raises no failure of a post."""
        command = Flush(
            workspace=self._workspace,
            session_id=self._id,
            incarnation=self._incarnation,
            reply=self._context.ports.reply(),
        )
        await self.actor().accept(command)
        await command.reply.wait()

    # --- turns and removals -------------------------------------------------------------------

    def turn(self) -> Turn:
        """`async with session.turn() as turn:` takes the session's one running slot, or raises `TurnBusyError`."""
        return Turn(self)

    async def stop(self, reason: str = "stopped") -> bool:
        """Cancel the live turn and wait until it has drained. Returns whether there was one.

        It stops first and in any case: what an earlier post failed with is raised when that is done.

        Called from inside that turn it only cancels: the turn ends at its next checkpoint. Cancelled: the turn stays
        cancelled, only the wait ends.
        """
        turn = self._live_turn()
        if turn is not None:
            turn.stop(reason)
        if turn is None or inside(turn):
            await trio.lowlevel.checkpoint()
        else:
            await turn.drained.wait()
        self.raise_failed()
        return turn is not None

    async def remove(self) -> Receipt:
        """Stop the live turn, wait for its drain, then remove the session. Its usage stays counted."""
        return await self.append(SessionRemoved())

    async def remove_message(self, message_id: str) -> Receipt:
        """Remove a message with its parts, after stopping and draining the turn that streams it, if one does."""
        return await self.append(MessageRemoved(message_id))

    async def _remove(
        self, removals: list[Any], prepared: tuple[PreparedEvent, ...], expected_seq: int | None, strict: bool
    ) -> Receipt:
        actor = self.actor()
        actor.begin_removal()
        try:
            turn = self._live_turn()
            touching = [removal for removal in removals if turn is not None and turn.is_touched_by(removal)]
            if turn is not None and touching and not inside(turn):
                turn.stop(type(touching[0]).__name__)
                with trio.move_on_after(self._context.limits.drain_s):
                    await turn.drained.wait()
                if not turn.drained.is_set():
                    log.warning("session %r: the turn did not drain in time; what it writes late is skipped", self._id)
            receipt = await self.write(prepared, expected_seq, strict)
            ending = next((removal for removal in touching if not isinstance(removal, MessageRemoved)), None)
            if turn is not None and ending is not None and inside(turn):
                turn.stop(type(ending).__name__)
            return receipt
        finally:
            actor.end_removal()

    def _live_turn(self) -> Turn | None:
        """The turn that runs in this incarnation: one of a later life of the id is nobody's business here."""
        actor = self._context.registry.live(self._workspace, self._id)
        turn = actor.turn if actor is not None else None
        return turn if turn is not None and turn.session.incarnation == self._incarnation else None

    # --- inner --------------------------------------------------------------------------------

    def prepare(self, events: tuple[Any, ...]) -> tuple[PreparedEvent, ...]:
        """Check and encode what a call was given."""
        context = self._context
        limits = context.limits
        if not events:
            raise InvalidArgumentError("events", "expected at least one")
        if len(events) > limits.append_events_max:
            raise EventTooLargeError(
                "append", f"{len(events)} events, limit append_events_max is {limits.append_events_max}"
            )
        prepared = tuple([prepare(context.events, event, limits) for event in events])
        if len(prepared) > 1:
            size = sum(len(p.data) for p in prepared)
            if size > limits.append_bytes_max:
                raise EventTooLargeError("append", f"{size} bytes, limit append_bytes_max is {limits.append_bytes_max}")
        return prepared

    def actor(self) -> SessionActor:
        """The session's live actor. Raises `ForkedError` in a forked child, `ClosedError` once the engine is closing."""
        self._context.fork.check()
        return self._context.registry.actor(self._workspace, self._id)

    @property
    def context(self) -> SessionContext:
        """What it shares with the engine's other handles."""
        return self._context

    def failed(self, error: EngineError) -> None:
        """Told by the writer that something this handle posted was not written."""
        self._failures.append(error)

    def raise_failed(self) -> None:
        """Raise the oldest failure of a post that was not raised yet."""
        if self._failures:
            raise self._failures.popleft()


_REMOVALS = frozenset((MessageRemoved, SessionRemoved, SessionRewound))


def _is_bare(prepared: PreparedEvent) -> bool:
    return prepared.event_id is None and prepared.occurred_at is None and prepared.causation_id is None
