"""One imported session in the making: envelopes with deterministic ids, messages, parts, tool calls, usage.

Owns: how event, message, part and call ids come from the source's; that a message is finished once and gets no part
afterwards; that a settled tool call keeps its state; the size of an event.
Must not know: any transcript format, files.
Invariants: the same calls give the same envelopes; a longer series of calls gives the envelopes of the shorter one,
then more; no id is given twice in a session. An id is the source's own where it is free, else it gets `~2`, `~3` ...

An event's id is `<record>.<n>`: the source record's own id (or the digest of its content) and the count of the events
that this record gave to this session.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from engine.events import (
    SETTLED_TOOL_STATES,
    Envelope,
    FinalStatus,
    MessageFinished,
    MessageUpdated,
    PartUpdated,
    SessionNoted,
    SessionStarted,
    SessionUpdated,
    ToolState,
    ToolUpdated,
    UsageRecorded,
)
from engine.importers.lines import Record, Report
from engine.importers.values import Ids, clean_id
from engine.limits import Limits

TITLE_CHARS_MAX: Final = 80
ERROR_CHARS_MAX: Final = 200
"""Of a failed tool's output, this much of its first line is its `error`; the whole is its `output`."""
SIZE_CHECK_BYTES: Final = 1024 * 1024
"""Events of records below this size cannot reach the limit, whatever escaping does, and are not measured."""
_EVENT_BYTES_MAX: Final = Limits().event_bytes_max
_CUTTABLE: Final = ("data", "input", "output", "error", "metadata")


@attrs.define
class Call:
    """A tool call: where it is, and what is known of it so far."""

    call_id: str
    part_id: str
    message_id: str
    name: str
    state: ToolState
    answered: bool = False
    child: str | None = None


class SessionBuilder:
    """Collects one session's envelopes. `at` says which record speaks; everything after belongs to it."""

    def __init__(self, session_id: str, format_name: str, report: Report) -> None:
        self.session_id = session_id
        self.format = format_name
        self.envelopes: list[Envelope] = []
        self.open_id: str | None = None
        """The assistant's message that is not proven ended."""
        self.open_reason: str | None = None
        """What the source said about why it ended, before it was proven that it did."""
        self.calls: dict[str, list[Call]] = {}
        self._report = report
        self._key, self._count, self._line, self._size = "", 0, 0, 0
        self._moment: int | None = None
        self._titled = False
        self._records, self._events, self._messages, self._parts, self._call_ids, self._notes = (Ids() for _ in range(6))
        self._current: dict[str, str] = {}
        self._finished: set[str] = set()
        self._usage: dict[str, UsageRecorded] = {}

    def at(self, key: str, moment: int | None, record: Record) -> str:
        """Begin a record: `key` is its own id or its digest, `moment` its time. Returns its unique key."""
        self._key, self._count, self._moment = self._records.fresh(key), 0, moment
        self._line, self._size = record.line, record.size_bytes
        return self._key

    def at_same(self, other: SessionBuilder) -> None:
        """Begin the record that another session is at: it says something about both."""
        self._key, self._count, self._moment = self._records.fresh(other._key), 0, other._moment
        self._line, self._size = other._line, other._size

    def emit(self, event: Any) -> None:
        """Append an event of the current record."""
        if self._size > SIZE_CHECK_BYTES:
            event = self._fit(event)
        self._count += 1
        self.envelopes.append(Envelope(event, self._events.fresh(f"{self._key}.{self._count}"), self._moment))

    def report(self, problem: str) -> None:
        """Say something about the current record."""
        self._report(self._line, problem)

    def start(self, parent_id: str | None, metadata: dict[str, Any]) -> None:
        """Emit the session's first event."""
        self.emit(SessionStarted(None, parent_id and clean_id(parent_id), {"format": self.format, **metadata}))

    def title(self, text: str, *, again: bool = False) -> None:
        """Name the session by its first prompt, once; `again` where the source itself names it."""
        line = " ".join(text[: 4 * TITLE_CHARS_MAX].split())
        if line and (again or not self._titled):
            self._titled = True
            self.emit(SessionUpdated(line if len(line) <= TITLE_CHARS_MAX else line[: TITLE_CHARS_MAX - 1] + "…"))

    # --- messages and parts ---

    def announce(self, source_id: str, role: str, metadata: dict[str, Any]) -> str:
        """Announce a message that is new even where its source id is not. Returns its id."""
        message_id = self._messages.fresh(source_id)
        state = "unknown" if role == "assistant" else None
        self.emit(MessageUpdated(message_id, role[:100], metadata, state))  # type: ignore[arg-type]
        return message_id

    def assistant(self, source_id: str, metadata: dict[str, Any]) -> str:
        """The assistant's message of that id, announced when new. One that is open and another is thereby proven ended.

        What comes for a message that was finished goes to a message of its own, which names it: no part is lost.
        """
        known = self._current.get(source_id)
        if known is not None and known not in self._finished:
            return known
        self.close()
        if known is not None:
            metadata = {**metadata, "continues": known}
        self.open_id = self._current[source_id] = self.announce(source_id, "assistant", metadata)
        self.open_reason = None
        return self.open_id

    def close(self, status: FinalStatus = "completed", reason: str | None = None) -> None:
        """Finish the open message, if there is one."""
        if self.open_id is not None:
            self._finished.add(self.open_id)
            self.emit(MessageFinished(self.open_id, status, reason or self.open_reason))
            self.open_id = None

    def part(self, wanted_id: str, message_id: str, kind: str, data: dict[str, Any]) -> None:
        """Add a part."""
        self.emit(PartUpdated(self._parts.fresh(wanted_id), message_id, kind, data))

    def note(self, kind: str, data: Any) -> None:
        """Keep a value raw."""
        kept = data if isinstance(data, dict) else {"value": data}
        self.emit(SessionNoted(self._notes.fresh(self._key), kind, kept))

    def raw(self, record: Record) -> None:
        """Keep a record that is no JSON object."""
        if record.malformed is not None:
            self.note("malformed", {"text": record.malformed, "line": record.line})
        else:
            self.note("record", record.value)

    # --- tool calls ---

    def call(
        self,
        source_id: str,
        message_id: str,
        name: str,
        value: Any,
        *,
        part_id: str | None = None,
        state: ToolState = "running",
        started_at: int | None = None,
    ) -> Call:
        """Add a tool call. A source id that was there before makes another call."""
        call_id = self._call_ids.fresh(source_id)
        call = Call(call_id, self._parts.fresh(part_id or call_id), message_id, name, state)
        self.calls.setdefault(source_id, []).append(call)
        self._tool(call, input=value, started_at=started_at if started_at is not None else self._moment)
        return call

    def settle(
        self,
        source_id: str,
        state: ToolState,
        output: Any,
        *,
        child: str | None = None,
        ended_at: int | None = None,
        error: str | None = None,
    ) -> Call | None:
        """Answer the first call of that id that has no answer. Returns None when there is none.

        A call that an interrupt settled before keeps its state and still gets its output.
        """
        call = next((call for call in self.calls.get(source_id, ()) if not call.answered), None)
        if call is None:
            return None
        call.answered = True
        if call.state not in SETTLED_TOOL_STATES:
            call.state = state
        call.child = child or call.child
        if call.state == "error" and error is None:
            error = _first_line(output)
        self._tool(
            call, output=output, error=error, child=child, ended_at=ended_at if ended_at is not None else self._moment
        )
        return call

    def abort_calls(self) -> None:
        """Settle what has no answer, because the source says that it was stopped."""
        for calls in self.calls.values():
            for call in calls:
                if call.state not in SETTLED_TOOL_STATES:
                    call.state = "aborted"
                    self._tool(call, ended_at=self._moment)

    def link(self, source_id: str, child: str) -> bool:
        """Say which session a call started. False where the call is not known."""
        calls = self.calls.get(source_id)
        if not calls:
            return False
        if calls[-1].child != child:
            calls[-1].child = child
            self._tool(calls[-1], child=child)
        return True

    def _tool(self, call: Call, *, child: str | None = None, **fields: Any) -> None:
        self.emit(
            ToolUpdated(
                call.part_id,
                call.message_id,
                call.call_id,
                call.name,
                call.state,
                child_session_id=child,
                by="import",
                **fields,
            )
        )

    # --- usage ---

    def usage(self, usage: UsageRecorded) -> None:
        """Record a step's usage unless it is what was recorded last."""
        if self._usage.get(usage.step_id) != usage:
            self._usage[usage.step_id] = usage
            self.emit(usage)

    # --- size ---

    def _fit(self, event: Any) -> Any:
        size = len(msgspec.json.encode(event))
        if size <= _EVENT_BYTES_MAX:
            return event
        self.report(f"an event of {size} bytes is larger than the limit {_EVENT_BYTES_MAX}; its longest texts were cut")
        names = [name for name in _CUTTABLE if getattr(event, name, None)]
        for chars in (1_000_000, 100_000, 1_000, 100):
            smaller = attrs.evolve(event, **{name: _cut(getattr(event, name), chars) for name in names})
            if len(msgspec.json.encode(smaller)) <= _EVENT_BYTES_MAX:
                return smaller
        return attrs.evolve(event, **{name: {"left_out_bytes": size} for name in names if name != "error"})


def _cut(value: Any, chars: int) -> Any:
    if isinstance(value, str) and len(value) > chars:
        return f"{value[:chars]}… [{len(value) - chars} characters left out by the import]"
    if isinstance(value, dict):
        return {key: _cut(item, chars) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, chars) for item in value]
    return value


def _first_line(output: Any) -> str | None:
    if isinstance(output, list):
        output = next((item.get("text") for item in output if isinstance(item, dict) and item.get("text")), None)
    if not isinstance(output, str):
        return None
    return output[: 4 * ERROR_CHARS_MAX].strip().partition("\n")[0][:ERROR_CHARS_MAX] or None
