"""A message being streamed: announce, text, parts, tool calls, usage, and the settle that ends it.

Owns: offsets, the half of a surrogate pair, which parts are open, how leaving the block settles the message.
Must not know: the writer. Text is posted (it joins group commits); everything else is appended and durable on return.
Invariants: leaving the block settles the message in one transaction, shielded from cancellation, within `settle_s`: as
completed, as error when an exception passes through it, as aborted when only cancellation did; calls that are still open
become aborted with it; a settle that the storage refused is tried again in the background.
"""

from __future__ import annotations

import logging
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import trio

from engine.errors import BrokenError, CallerError, ClosedError, EngineError, InvalidEventError
from engine.events import (
    FinalStatus,
    MessageFinished,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    Receipt,
    ToolState,
    ToolUpdated,
    UsageRecorded,
)

if TYPE_CHECKING:
    from engine.session.turn import Turn

log = logging.getLogger("engine.session")

REPLACEMENT = "\ufffd"


class Message:
    """`async with turn.message(role="assistant") as message:`.

    `finish_reason` may be set at any time before the end. A post that failed is raised by the next call on the message, or
    by leaving it.
    """

    def __init__(self, turn: Turn, message_id: str, role: str, metadata: dict[str, Any]) -> None:
        self._turn = turn
        self._session = turn.session
        self._id = message_id
        self._role = role
        self._metadata = metadata
        self._part_id: str | None = None
        self._part_kind = ""
        self._offset = 0
        self._half = ""
        self._busy = False
        self._line = trio.lowlevel.ParkingLot()
        self._calls: dict[str, tuple[str, str]] = {}
        self._failures: deque[EngineError] = deque()
        self._state = "new"
        self.finish_reason: str | None = None

    @property
    def id(self) -> str:
        """The message's id."""
        return self._id

    # --- content ------------------------------------------------------------------------------

    async def text(self, text: str, *, kind: str = "text") -> None:
        """Stream text into the message's current part of this kind (a new one after a tool call or another kind).

        Half a surrogate pair at the end waits for its other half. Raises `InvalidEventError` for any other lone surrogate;
        nothing of the call was written then.
        """
        if self._busy:
            await self._line.park()
        self._busy = True
        try:
            self._check_open()
            whole, half = join_surrogates(self._half + text if kind == self._part_kind or not self._half else text)
            if kind != self._part_kind:
                await self._end_part()
            before, self._half = self._half, half
            if whole:
                try:
                    await self._stream(whole, kind)
                except BaseException:
                    self._half = before
                    raise
            else:
                self._part_kind = self._part_kind or kind
                await trio.lowlevel.checkpoint()
        finally:
            self._end()

    async def reasoning(self, text: str) -> None:
        """Stream text into a part of kind `reasoning`."""
        await self.text(text, kind="reasoning")

    def _end(self) -> None:
        """Let the next task in line stream. One at a time: one that is cancelled takes back its text before the next one
        counts offsets from there."""
        if self._line:
            # It stays busy: the one that wakes goes on.
            self._line.unpark()
        else:
            self._busy = False

    async def _stream(self, text: str, kind: str) -> None:
        if self._part_id is None:
            part_id = self._new_id("part")
            await self._session.post(PartUpdated(part_id, self._id, kind, {}), sink=self)
            self._part_id, self._part_kind, self._offset = part_id, kind, 0
        await self._session.post(PartDelta(self._part_id, self._id, "text", self._offset, text), sink=self)
        self._offset += len(text)

    async def _close_part(self) -> None:
        if self._busy:
            await self._line.park()
        self._busy = True
        try:
            self._check_open()
            await self._end_part()
        finally:
            self._end()

    async def _end_part(self) -> None:
        """Close the current text part; a half that never got its other half becomes U+FFFD."""
        half, self._half = self._half, ""
        if half:
            await self._stream(REPLACEMENT, self._part_kind or "text")
        self._part_id, self._part_kind = None, ""

    async def part(self, kind: str, data: dict[str, Any], *, part_id: str | None = None) -> str:
        """Add or replace a whole part; durable on return. Returns its id."""
        await self._close_part()
        name = part_id or self._new_id("part")
        await self._session.append(PartUpdated(name, self._id, kind, data))
        return name

    async def tool(
        self,
        *,
        call_id: str,
        state: ToolState,
        name: str | None = None,
        input: Any = None,
        output: Any = None,
        error: str | None = None,
        child_session_id: str | None = None,
        started_at: int | None = None,
        ended_at: int | None = None,
    ) -> Receipt:
        """Create or change a tool call; durable on return, so before the tool runs. `name` is needed the first time."""
        await self._close_part()
        known = self._calls.get(call_id)
        if known is None:
            if name is None:
                raise InvalidEventError("tool.updated", f"call {call_id!r} is new, so it needs a name")
            known = self._calls[call_id] = (self._new_id("part"), name)
        event = ToolUpdated(
            part_id=known[0],
            message_id=self._id,
            call_id=call_id,
            name=name or known[1],
            state=state,
            input=input,
            output=output,
            error=error,
            child_session_id=child_session_id,
            started_at=started_at,
            ended_at=ended_at,
        )
        return await self._session.append(event)

    async def usage(
        self,
        *,
        step_id: str,
        model: str | None = None,
        cost_nanousd: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        reasoning_tokens: int = 0,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> Receipt:
        """Report what a step used; a later report of the same step replaces it. Durable on return."""
        self._check_open()
        event = UsageRecorded(
            step_id=step_id,
            message_id=self._id,
            model=model,
            cost_nanousd=cost_nanousd,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            reasoning_tokens=reasoning_tokens,
            cache_read_tokens=cache_read_tokens,
            cache_write_tokens=cache_write_tokens,
        )
        return await self._session.append(event)

    # --- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise ClosedError(f"message {self._id!r}, which is entered twice,")
        self._state = "open"
        try:
            await self._session.append(MessageUpdated(self._id, self._role, self._metadata))
        except CallerError:
            self._state = "settled"
            raise
        except BaseException as problem:
            # The announcement may be durable all the same: then the message must not stay streaming.
            await self._leave(problem)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        problem = await self._leave(exc)
        if problem is not None and exc is None:
            raise problem

    async def _leave(self, exc: BaseException | None) -> EngineError | None:
        """Settle; returns what the user should hear of if nothing else is on its way."""
        limits = self._session.context.limits
        failure: EngineError | None = None
        with trio.move_on_after(limits.settle_s, shield=True) as scope:
            try:
                await self._flush()
            except EngineError as problem:
                failure = problem
            self._state = "settled"
            failure = failure or (self._failures.popleft() if self._failures else None)
            status = self._status(exc, failure)
            try:
                # Other roles' messages are complete from their announcement on.
                if self._role == "assistant":
                    await self._settle(status)
            except CallerError as problem:
                # Removed, or never announced: there is nothing to settle.
                log.debug("settling message %r: %s", self._id, problem)
            except (ClosedError, BrokenError) as problem:
                failure = failure or problem
            except EngineError as problem:
                failure = failure or problem
                self._later(status)
        if scope.cancelled_caught and self._role == "assistant":
            self._later(self._status(exc, failure))
        self._state = "settled"
        return failure

    def _status(self, exc: BaseException | None, failure: EngineError | None) -> FinalStatus:
        if exc is None:
            return "completed" if failure is None else "error"
        return "aborted" if only_cancelled(exc) else "error"

    async def _flush(self) -> None:
        """Hand over what is in hand and wait until it is durable, and what a cancelled call left on its way too."""
        if self._busy:
            await self._line.park()
        self._busy = True
        try:
            await self._end_part()
        finally:
            self._end()
        await self._session.drain()

    async def _settle(self, status: FinalStatus) -> Receipt:
        session = self._session
        calls = session.context.open_tools(session.workspace, session.id, self._id)
        aborted = [
            ToolUpdated(part_id=part_id, message_id=self._id, call_id=call_id, name=name, state="aborted")
            for part_id, call_id, name in calls
        ]
        reason = self.finish_reason
        if reason is None and status == "aborted":
            reason = self._turn.reason or "cancelled"
        return await session.write(session.prepare((*aborted, MessageFinished(self._id, status, reason))))

    def _later(self, status: FinalStatus) -> None:
        registry = self._session.context.registry
        registry.settle_later(lambda: self._settle(status), f"message {self._id!r} of {self._session.id!r}")

    def failed(self, error: EngineError) -> None:
        """Told by the writer that something this message posted was not written."""
        self._failures.append(error)

    def _check_open(self) -> None:
        if self._failures:
            raise self._failures.popleft()
        if self._state != "open":
            raise ClosedError(f"message {self._id!r}")

    def _new_id(self, prefix: str) -> str:
        return self._session.context.ports.ids.new_id(prefix)


def only_cancelled(exc: BaseException) -> bool:
    """Whether an exception is cancellation and nothing else, also when it comes out of inner nurseries as a group."""
    if isinstance(exc, BaseExceptionGroup):
        return all(only_cancelled(inner) for inner in exc.exceptions)
    return isinstance(exc, trio.Cancelled)


def join_surrogates(text: str) -> tuple[str, str]:
    """The text with surrogate pairs joined, and the half pair at its end that waits for its other half.

    Raises `InvalidEventError` for a lone surrogate anywhere else.
    """
    half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
    whole = text[: len(text) - len(half)]
    if whole.isascii():
        return whole, half
    try:
        whole.encode()
    except UnicodeEncodeError:
        try:
            whole = whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            raise InvalidEventError("part.delta", "text with a lone surrogate cannot be stored") from None
    return whole, half
