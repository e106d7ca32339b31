"""A walk over everything a log does, that keeps book of what it was told: the load of the fault enumeration.

Each step is one call of the public surface. What was acknowledged, and what was refused with "nothing was written", is
remembered with the event ids that it was sent with, so that the file can be held against it afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from engine import Engine, EngineError, Envelope, Receipt, Session
from engine.events import MessageFinished, MessageUpdated, PartDelta, PartUpdated, SessionNoted, ToolUpdated, UsageRecorded
from tests.support.logs import Seen


@attrs.define(eq=False)
class Book:
    """What the walk was told."""

    acknowledged: list[tuple[str, str, int, int]] = attrs.field(factory=list)
    """(session id, event id, seq, position)."""
    refused: list[tuple[str, str]] = attrs.field(factory=list)
    """(session id, event id) of appends that said "nothing was written"."""
    groups: list[tuple[str, tuple[str, ...]]] = attrs.field(factory=list)
    """(session id, event ids) of every append that was sent: all or none of them."""
    errors: list[EngineError] = attrs.field(factory=list)

    def note(self, receipt: Receipt) -> None:
        for entry in receipt.events:
            if entry.event_id is not None and entry.seq is not None and entry.position is not None:
                self.acknowledged.append((receipt.session_id, entry.event_id, entry.seq, entry.position))

    def check(self, seen: Seen) -> None:
        """Hold a log against the book."""
        for session_id, event_id, seq, position in self.acknowledged:
            assert seen.places.get((session_id, event_id)) == (session_id, seq, position), "an acknowledged event is gone"
        for key in self.refused:
            assert key not in seen.places, "what was refused is there"
        for session_id, event_ids in self.groups:
            found = {event_id for event_id in event_ids if (session_id, event_id) in seen.places}
            assert found in (set(), set(event_ids)), "an append is half there"


class Walk:
    """One walk over an engine, `name` keeping its ids apart from those of other walks on the same file."""

    def __init__(self, book: Book, name: str) -> None:
        self.book = book
        self.name = name
        self._count = 0

    async def run(self, engine: Engine) -> None:
        """Do everything once. Refusals are entered in the book; only an `EngineError` is a refusal."""
        session = await self._create(engine, f"ses-{self.name}")
        if session is None:
            return
        message = f"m-{self.name}"
        await self.append(session, MessageUpdated(message, "assistant"), PartUpdated("p", message, "text"))
        for offset in (0, 5):
            await self._try(lambda at=offset: session.post(PartDelta("p", message, "text", at, "hello")))
        await self._try(session.flush)
        await self.append(session, ToolUpdated("t", message, "c", "bash", "running", input={"x": 1}))
        await self.append(
            session, UsageRecorded("st", message, cost_nanousd=5), SessionNoted("n", "raw", {"blob": "x" * 9000})
        )
        await self.append(session, MessageFinished(message, "completed"))
        await self._try(lambda: engine.read.messages(session.id))
        await self._turn(session)
        await self._removal(session, message)

    async def append(self, session: Session, *events: Any) -> None:
        """Append under ids that the book knows."""
        ids = tuple(self._next() for _ in events)
        self.book.groups.append((session.id, ids))
        envelopes = [Envelope(event, event_id) for event, event_id in zip(events, ids, strict=True)]
        await self._try(lambda: session.append(*envelopes), session.id, ids)

    def _next(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    async def _create(self, engine: Engine, session_id: str) -> Session | None:
        event_id = self._next()
        try:
            session = await engine.create_session(session_id, event_id=event_id)
        except EngineError as error:
            self._refused(error, session_id, (event_id,))
            return None
        self.book.groups.append((session_id, (event_id,)))
        return session

    async def _turn(self, session: Session) -> None:
        async def body() -> None:
            async with session.turn() as turn, turn.message() as message:
                await message.text("streamed ")
                self.book.note(await message.tool(call_id="c2", name="grep", state="running"))
                await message.text("text")
                self.book.note(await message.usage(step_id="st2", cost_nanousd=7))

        await self._try(body)

    async def _removal(self, session: Session, message_id: str) -> None:
        await self._try(lambda: session.remove_message(message_id))

    async def _try(
        self, call: Callable[[], Awaitable[Any]], session_id: str | None = None, event_ids: tuple[str, ...] = ()
    ) -> None:
        try:
            answer = await call()
        except EngineError as error:
            self._refused(error, session_id, event_ids)
        else:
            if isinstance(answer, Receipt):
                self.book.note(answer)

    def _refused(self, error: EngineError, session_id: str | None, event_ids: tuple[str, ...]) -> None:
        self.book.errors.append(error)
        if session_id is not None and error.written == "nothing":
            self.book.refused += [(session_id, event_id) for event_id in event_ids]
