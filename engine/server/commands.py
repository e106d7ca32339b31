"""Carrying out commands: in lanes, one after the other in a session, side by side otherwise.

Owns: the order of one connection's commands, event ids that are made of command ids, what each command asks of the engine.
Must not know: sockets, subscriptions. Commands run in the server's nursery: what was read is carried out, whether or not
anybody is left to hear the answer.

    append, post, flush, create, remove, open, read  --> the lane of their session (a task while there is something in it)
    stop                                             --> at once: what is in the lane may wait for the turn that it ends

Invariants: the commands of a connection for one session take effect in the order they came; each is answered once; a command
that is sent again with its id has its effect once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import msgspec
import trio

from engine.errors import EngineError, SkippedError, UnknownSessionError
from engine.events import Duplicate, Envelope, MessageRemoved, Receipt, SessionRemoved, Skipped
from engine.server import frames
from engine.server.served import ServedSession, ServedWorkspace
from engine.server.shared import Shared, log

Answer = frames.Receipt | frames.Opened | frames.Flushed | frames.Stopped | frames.MessagePage


class Asker(Protocol):
    """The connection that sent the commands."""

    @property
    def name(self) -> str: ...

    def answered(self, answer: Answer) -> None:
        """A command was carried out."""

    def posted(self, frame_id: str) -> None:
        """A post was handed over."""

    def refused(self, frame_id: str, error: EngineError) -> None:
        """A command failed."""

    def failed_later(self, frame_id: str, error: EngineError) -> None:
        """A post that was handed over could not be written."""

    def broke(self, problem: Exception) -> None:
        """A bug was met."""

    async def room(self) -> None:
        """Wait until a large answer may be made."""


class Commands:
    """The commands of one connection."""

    def __init__(self, shared: Shared, workspace: ServedWorkspace, name: str, asker: Asker) -> None:
        self._shared = shared
        self._workspace = workspace
        self._name = name
        self._asker = asker
        self._lanes: dict[str, deque[frames.Command]] = {}
        self._reading = trio.StrictFIFOLock()
        self._tasks = 0
        self._at_rest = trio.Event()

    def accept(self, frame: frames.Command) -> None:
        """Take on a command."""
        self._shared.counters.commands += 1
        if isinstance(frame, frames.Stop):
            self._start(partial(self._carry_out, frame), "stop")
            return
        lane = self._lanes.get(frame.session_id)
        if lane is not None:
            lane.append(frame)
            return
        self._lanes[frame.session_id] = deque([frame])
        self._start(partial(self._lane, frame.session_id), "commands")

    def _start(self, function: Callable[[], Awaitable[object]], what: str) -> None:
        self._tasks += 1
        self._shared.spawn(self._shared.work, partial(self._counted, function), f"{self._asker.name}: {what}")

    async def _counted(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        finally:
            self._tasks -= 1
            if not self._tasks:
                self._at_rest.set()
                self._at_rest = trio.Event()

    async def rest(self) -> None:
        """Wait until nothing is being carried out."""
        while self._tasks:
            await self._at_rest.wait()

    async def _lane(self, session_id: str) -> None:
        lane = self._lanes[session_id]
        try:
            while lane:
                await self._carry_out(lane.popleft())
        finally:
            del self._lanes[session_id]

    async def _carry_out(self, frame: frames.Command) -> None:
        counters = self._shared.counters
        try:
            answer = await self._do(frame)
        except EngineError as problem:
            counters.commands_refused += 1
            self._asker.refused(frame.id, problem)
        except Exception as problem:
            log.exception("%s: a bug in %s", self._asker.name, type(frame).__name__)
            self._asker.broke(problem)
        else:
            counters.commands_answered += 1
            if answer is None:
                self._asker.posted(frame.id)
            else:
                self._asker.answered(answer)
        finally:
            counters.commands -= 1

    async def _do(self, frame: frames.Command) -> Answer | None:
        match frame:
            case frames.Append():
                return await self._append(frame)
            case frames.Post():
                await self._post(frame)
                return None
            case frames.Flush():
                await (await self._session(frame)).drain()
                return frames.Flushed(id=frame.id)
            case frames.Open():
                session = await self._workspace.session(frame.session_id)
                return frames.Opened(id=frame.id, session_id=frame.session_id, incarnation=session.incarnation)
            case frames.Create():
                return await self._create(frame)
            case frames.Remove():
                return await self._remove(frame)
            case frames.Stop():
                return await self._stop(frame)
            case frames.Read():
                return await self._read(frame)

    # --- one command each -----------------------------------------------------------------------------

    async def _append(self, frame: frames.Append) -> Answer:
        envelopes = self._envelopes(frame)
        return receipt_frame(frame.id, await self._write(frame, envelopes, frame.expected_seq, frame.strict))

    async def _post(self, frame: frames.Post) -> None:
        envelopes = self._envelopes(frame)
        session = await self._session(frame)
        await session.post(*envelopes, sink=_Sink(self._asker, frame.id))

    async def _create(self, frame: frames.Create) -> Answer:
        receipt = await self._workspace.open_session(
            frame.session_id,
            title=frame.title,
            parent_id=frame.parent_id,
            metadata=frame.metadata,
            event_id=frame.id,
        )
        return receipt_frame(frame.id, receipt)

    async def _remove(self, frame: frames.Remove) -> Answer:
        event = SessionRemoved() if frame.message_id is None else MessageRemoved(frame.message_id)
        return receipt_frame(frame.id, await self._write(frame, [Envelope(event, frame.id)]))

    async def _stop(self, frame: frames.Stop) -> Answer:
        async def stop() -> bool:
            return await (await self._session(frame)).stop(frame.reason)

        key = (self._name, frame.session_id, frame.incarnation, frame.id)
        return frames.Stopped(id=frame.id, stopped=await self._shared.stops.once(key, stop))

    async def _read(self, frame: frames.Read) -> Answer:
        # One at a time, and only while there is room for it: a page is large, and its reader may be slow.
        async with self._reading:
            await self._asker.room()
            page = await self._workspace.read.messages(frame.session_id, before=frame.before, limit=frame.limit)
            messages = [msgspec.Raw(frames.encode_part(view).encode()) for view in page.items]
            return frames.MessagePage(id=frame.id, cursor=str(page.cursor), messages=messages, more=page.more)

    # --- inner ----------------------------------------------------------------------------------------

    async def _session(
        self, frame: frames.Append | frames.Post | frames.Flush | frames.Stop | frames.Remove
    ) -> ServedSession:
        return await self._workspace.session(frame.session_id, incarnation=frame.incarnation)

    async def _write(
        self,
        frame: frames.Append | frames.Remove,
        envelopes: list[Envelope],
        expected_seq: int | None = None,
        strict: bool = False,
    ) -> Receipt:
        try:
            session = await self._session(frame)
        except UnknownSessionError as unknown:
            return await self._again(frame, envelopes, unknown)
        return await session.append(*envelopes, expected_seq=expected_seq, strict=strict)

    async def _again(
        self, frame: frames.Append | frames.Remove, envelopes: list[Envelope], unknown: UnknownSessionError
    ) -> Receipt:
        """What was written before the session was removed is answered as such; anything new is refused."""
        session = await self._workspace.last_session(frame.session_id)
        try:
            return await session.append(*envelopes, strict=True)
        except SkippedError:
            raise unknown from None

    def _envelopes(self, frame: frames.Append | frames.Post) -> list[Envelope]:
        alone = len(frame.events) == 1
        parse = self._workspace.parse_event
        return [
            Envelope(
                parse(given.type, bytes(given.event)),
                given.event_id or (frame.id if alone else f"{frame.id}.{number}"),
                given.occurred_at,
                given.causation_id,
            )
            for number, given in enumerate(frame.events)
        ]


class _Sink:
    """Tells the one who posted that it was not written."""

    def __init__(self, asker: Asker, frame_id: str) -> None:
        self._asker = asker
        self._id = frame_id

    def failed(self, error: EngineError) -> None:
        self._asker.failed_later(self._id, error)


def receipt_frame(frame_id: str, receipt: Receipt) -> frames.Receipt:
    """The frame that tells a receipt."""
    entries: list[frames.WireReceiptEvent] = []
    for entry in receipt.events:
        outcome, original = entry.outcome, None
        if isinstance(outcome, Duplicate):
            original = _word(outcome.original.outcome)
        entries.append(
            frames.WireReceiptEvent(
                event_id=entry.event_id,
                seq=entry.seq,
                position=entry.position,
                outcome="duplicate" if original is not None else _word(outcome),
                original=original,
            )
        )
    return frames.Receipt(id=frame_id, session_id=receipt.session_id, incarnation=receipt.incarnation, events=entries)


def _word(outcome: Any) -> str:
    return outcome.reason if isinstance(outcome, Skipped) else "applied"
