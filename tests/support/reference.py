"""A second opinion: what an append does to the read model, in plain Python, written from the contract.

No SQL, no clocks, no batches: a session is a list of lives, a life is a few dictionaries. `Model.append` gives the outcome
of each event, or None when the append is refused (and then changes nothing).
"""

from __future__ import annotations

import copy
from typing import Any

import attrs

from engine.events import (
    MessageEdited,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartEdited,
    PartRemoved,
    PartUpdated,
    SessionNoted,
    SessionRemoved,
    SessionUpdated,
    ToolUpdated,
    UsageRecorded,
)

SETTLED = ("completed", "aborted", "error")


class Refused(Exception):  # noqa: N818
    """The append cannot be made."""


@attrs.define
class Tool:
    state: str
    by: str
    output: Any


@attrs.define
class Part:
    message_id: str
    kind: str
    data: dict[str, Any]
    tool: Tool | None = None


@attrs.define
class Message:
    role: str
    status: str | None
    metadata: dict[str, Any]
    reason: str | None = None
    by: str | None = None

    @property
    def guarded(self) -> bool:
        """Whether streaming writes come too late."""
        return self.role == "assistant" and self.status in SETTLED


@attrs.define
class Life:
    title: str | None = None
    live: bool = True
    messages: dict[str, Message] = attrs.field(factory=dict)
    parts: dict[str, Part] = attrs.field(factory=dict)
    removed_messages: set[str] = attrs.field(factory=set)
    removed_parts: set[str] = attrs.field(factory=set)
    usage: dict[str, tuple[str | None, int]] = attrs.field(factory=dict)

    def event(self, event: Any) -> str:
        """Apply one event; its outcome by name. Raises `Refused`."""
        if isinstance(event, UsageRecorded):
            return self._usage(event)
        if not self.live:
            return "removed"
        return getattr(self, f"_{type(event).__name__}")(event)

    def _usage(self, event: UsageRecorded) -> str:
        before = self.usage.get(event.step_id)
        message = event.message_id or (before[0] if before else None)
        self.usage[event.step_id] = message, event.cost_nanousd
        return "unchanged" if before == self.usage[event.step_id] else "applied"

    def _SessionNoted(self, event: SessionNoted) -> str:  # noqa: N802
        return "applied"

    def _SessionUpdated(self, event: SessionUpdated) -> str:  # noqa: N802
        if event.title in (None, self.title):
            return "unchanged"
        self.title = event.title
        return "applied"

    def _SessionRemoved(self, event: SessionRemoved) -> str:  # noqa: N802
        self.live = False
        self.messages.clear()
        self.parts.clear()
        return "applied"

    def _known(self, message_id: str) -> Message | None:
        """The message; None when it was removed."""
        if message_id in self.removed_messages:
            return None
        if message_id not in self.messages:
            raise Refused
        return self.messages[message_id]

    def _MessageUpdated(self, event: MessageUpdated) -> str:  # noqa: N802
        if event.message_id in self.removed_messages:
            return "removed"
        message = self.messages.get(event.message_id)
        if message is None:
            status = "streaming" if event.role == "assistant" else "completed"
            status = None if event.state == "unknown" else status
            self.messages[event.message_id] = Message(event.role, status, event.metadata)
            return "applied"
        if message.role != event.role:
            raise Refused
        if message.guarded:
            return "finished"
        if message.metadata == event.metadata:
            return "unchanged"
        message.metadata = event.metadata
        return "applied"

    def _MessageFinished(self, event: MessageFinished) -> str:  # noqa: N802
        message = self._known(event.message_id)
        if message is None:
            return "removed"
        owner = event.by == "owner"
        if not (message.status == "streaming" or (owner and (message.status is None or message.by == "sweep"))):
            return "finished"
        message.status, message.reason, message.by = event.status, event.finish_reason, event.by
        return "applied"

    def _MessageEdited(self, event: MessageEdited) -> str:  # noqa: N802
        message = self._known(event.message_id)
        if message is None:
            return "removed"
        if message.metadata == event.metadata:
            return "unchanged"
        message.metadata = event.metadata
        return "applied"

    def _MessageRemoved(self, event: MessageRemoved) -> str:  # noqa: N802
        if self._known(event.message_id) is None:
            return "removed"
        del self.messages[event.message_id]
        self.removed_messages.add(event.message_id)
        self.parts = {name: part for name, part in self.parts.items() if part.message_id != event.message_id}
        return "applied"

    def _late(self, event: Any) -> str | None:
        """The outcome of a write to a part whose message or itself was removed."""
        if self._known(event.message_id) is None:
            return "orphan_part"
        return "removed" if event.part_id in self.removed_parts else None

    def _own(self, event: Any) -> Part | None:
        """The part, if it is there; it must be its message's."""
        part = self.parts.get(event.part_id)
        if part is not None and part.message_id != event.message_id:
            raise Refused
        return part

    def _needed(self, event: Any) -> Part:
        part = self._own(event)
        if part is None:
            raise Refused
        return part

    def _PartUpdated(self, event: PartUpdated) -> str:  # noqa: N802
        late = self._late(event)
        if late:
            return late
        if self.messages[event.message_id].guarded:
            return "finished"
        part = self._own(event)
        if part is None:
            self.parts[event.part_id] = Part(event.message_id, event.kind, dict(event.data))
            return "applied"
        return self._replace(part, event.kind, event.data)

    def _PartEdited(self, event: PartEdited) -> str:  # noqa: N802
        late = self._late(event)
        if late:
            return late
        part = self._needed(event)
        return self._replace(part, part.kind, event.data)

    @staticmethod
    def _replace(part: Part, kind: str, data: dict[str, Any]) -> str:
        # Data is replaced; a streamed text that the update does not name stays.
        after = {**({"text": part.data["text"]} if "text" in part.data else {}), **data}
        if (part.kind, part.data) == (kind, after):
            return "unchanged"
        part.kind, part.data = kind, after
        return "applied"

    def _PartDelta(self, event: PartDelta) -> str:  # noqa: N802
        late = self._late(event)
        if late:
            return late
        part = self._needed(event)
        if self.messages[event.message_id].status in SETTLED:
            return "finished"
        text = part.data.get("text", "")
        if event.offset == len(text) and event.text:
            part.data = {**part.data, "text": text + event.text}
            return "applied"
        if event.offset <= len(text) and text[event.offset :].startswith(event.text):
            return "stale_offset" if event.text else "unchanged"
        if event.offset < len(text) and event.text.startswith(text[event.offset :]):
            part.data = {**part.data, "text": text[: event.offset] + event.text}
            return "applied"
        raise Refused

    def _PartRemoved(self, event: PartRemoved) -> str:  # noqa: N802
        late = self._late(event)
        if late:
            return late
        self._needed(event)
        del self.parts[event.part_id]
        self.removed_parts.add(event.part_id)
        return "applied"

    def _ToolUpdated(self, event: ToolUpdated) -> str:  # noqa: N802
        late = self._late(event)
        if late:
            return late
        part = self._own(event)
        if part is None:
            part = self.parts[event.part_id] = Part(event.message_id, "tool", {})
        tool = part.tool
        if tool is None:
            part.tool = Tool(event.state, event.by, event.output)
            return "applied"
        guessed = tool.by == "sweep" and event.by == "owner" and event.state in SETTLED
        if tool.state in SETTLED and not guessed:
            if tool.state != event.state:
                return "finished"
            if event.output is None or event.output == tool.output:
                return "unchanged"
            if tool.output is not None:
                return "finished"
            tool.output = event.output
            return "applied"
        before = copy.copy(tool)
        if (tool.state, event.state) != ("running", "pending"):
            tool.by = event.by if tool.state != event.state or guessed else tool.by
            tool.state = event.state
        tool.output = tool.output if event.output is None else event.output
        return "unchanged" if tool == before else "applied"


@attrs.define
class Model:
    """Sessions by id, each with its lives."""

    sessions: dict[str, list[Life]] = attrs.field(factory=dict)

    def create(self, session_id: str, title: str | None) -> None:
        self.sessions.setdefault(session_id, []).append(Life(title))

    def append(self, session_id: str, life: int, events: list[Any]) -> list[str] | None:
        """The outcome of each event, or None for a refusal."""
        before = copy.deepcopy(self.sessions[session_id][life])
        try:
            return [self.sessions[session_id][life].event(event) for event in events]
        except Refused:
            self.sessions[session_id][life] = before
            return None
