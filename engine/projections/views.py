"""What a read of the read model returns: frozen records. Times are milliseconds since the Unix epoch.

Owns: these records. Must not know: how they are read. `key` is the place in the order, and what `before` and `after` of the
next page take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from engine.events import Cursor


@attrs.frozen(kw_only=True)
class SessionView:
    """A live session."""

    key: int
    session_id: str
    incarnation: int
    title: str | None
    parent_id: str | None
    metadata: Mapping[str, Any]
    created_at: int
    updated_at: int


@attrs.frozen(kw_only=True)
class ToolView:
    """A tool call. `input` is the streamed text where no object was reported."""

    call_id: str
    name: str
    state: str
    settled_by: str
    input: Any
    output: Any
    error: str | None
    child_session_id: str | None
    started_at: int | None
    ended_at: int | None


@attrs.frozen(kw_only=True)
class PartView:
    """A part of a message. `data` holds its streamed texts under `text`, `input` and `output`."""

    key: int
    part_id: str
    kind: str
    data: Mapping[str, Any]
    tool: ToolView | None
    created_at: int
    updated_at: int


@attrs.frozen(kw_only=True)
class MessageView:
    """A message with its parts in order. `status` is None where nobody knows it (an import)."""

    key: int
    message_id: str
    role: str
    status: str | None
    finish_reason: str | None
    settled_by: str | None
    metadata: Mapping[str, Any]
    parts: tuple[PartView, ...]
    created_at: int
    updated_at: int

    @property
    def text(self) -> str:
        """The text of its parts of kind `text`, joined."""
        return "".join(str(part.data.get("text", "")) for part in self.parts if part.kind == "text")


@attrs.frozen(kw_only=True)
class UsageTotals:
    """Sums over steps. Costs are whole nano-dollars."""

    steps: int = 0
    cost_nanousd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, cached ones included; reasoning is part of the output."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens

    def __add__(self, other: UsageTotals) -> UsageTotals:
        return UsageTotals(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in attrs.fields(UsageTotals)})


@attrs.frozen(kw_only=True)
class UsageReport:
    """The usage of a session (every life of its id) or of a workspace.

    `own` is attributed to messages that are there; `unattributed` belongs to steps whose message is not; `children` is all
    usage of the sessions below it. `by_model` splits `total`.
    """

    own: UsageTotals
    unattributed: UsageTotals
    children: UsageTotals
    by_model: Mapping[str, UsageTotals]

    @property
    def total(self) -> UsageTotals:
        """Everything, each step once."""
        return self.own + self.unattributed + self.children


@attrs.frozen(kw_only=True)
class SessionSnapshot:
    """A live session with its last messages, in their order, and its usage (its own and unattributed; no children)."""

    session: SessionView
    messages: tuple[MessageView, ...]
    more: bool
    """Whether there are messages before these: `read.messages(session_id, before=messages[0].key)` has them."""
    usage: UsageReport


@attrs.frozen(kw_only=True)
class ReadSnapshot:
    """Live sessions as they were at one place in the log: `log(after=cursor)` continues exactly there."""

    sessions: tuple[SessionSnapshot, ...]
    more: bool
    """Whether the workspace has sessions before these; False where they were named."""
    cursor: Cursor
