"""The agent-session vocabulary: the events every engine knows.

Owns: these classes and their stored type names. Must not know: what projections make of them.
Rules: ids are opaque text of 1 to 512 characters, scoped to an incarnation of a session. `metadata` and `data` are JSON
objects, replaced and not merged. `kind` is open text. Token counts are whole and not negative; costs are whole
nano-dollars. Times are milliseconds since the Unix epoch. None in an update means: leave it as it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import attrs
from msgspec import Meta

from engine.events.definition import event
from engine.limits import ID_CHARS_MAX

Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Role = Annotated[str, Meta(min_length=1, max_length=100)]
Json = dict[str, Any]

TextField = Literal["text", "input", "output"]
FinalStatus = Literal["completed", "aborted", "error"]
ToolState = Literal["pending", "running", "completed", "error", "aborted"]
SETTLED_TOOL_STATES: Final = ("completed", "error", "aborted")


@event("session.started", version=1)
@attrs.frozen
class SessionStarted:
    """Opens an incarnation of a session. `parent_id` is soft: a child outlives its parent."""

    title: str | None = None
    parent_id: Id | None = None
    metadata: Json = attrs.field(factory=dict)


@event("session.updated", version=1)
@attrs.frozen
class SessionUpdated:
    """Changes a session's title or metadata."""

    title: str | None = None
    metadata: Json | None = None


@event("session.removed", version=1)
@attrs.frozen
class SessionRemoved:
    """Ends the incarnation: its messages, parts and tools go, its usage stays."""


@event("message.updated", version=1)
@attrs.frozen
class MessageUpdated:
    """Announces a message, or replaces its metadata.

    An assistant's message starts `streaming`, every other role's is complete at once. With `state="unknown"` (an
    importer that cannot tell) the status is stored as NULL, and the sweep leaves it alone. The role never changes.
    """

    message_id: Id
    role: Role
    metadata: Json = attrs.field(factory=dict)
    state: Literal["unknown"] | None = None


@event("message.finished", version=1)
@attrs.frozen
class MessageFinished:
    """Settles a message. The owner's first finish wins, also over one that the sweep guessed."""

    message_id: Id
    status: FinalStatus
    finish_reason: str | None = None
    by: Literal["owner", "sweep"] = "owner"


@event("message.edited", version=1)
@attrs.frozen
class MessageEdited:
    """Replaces a message's metadata on purpose, settled or not. Never touches its status."""

    message_id: Id
    metadata: Json


@event("message.removed", version=1)
@attrs.frozen
class MessageRemoved:
    """Removes a message with its parts and tools. What comes late for them is skipped."""

    message_id: Id


@event("part.updated", version=1)
@attrs.frozen
class PartUpdated:
    """Creates a part or replaces its data.

    Text under the keys `text`, `input` and `output` of `data` is the whole content of the field of that name, to which
    later `PartDelta` events append.
    """

    part_id: Id
    message_id: Id
    kind: str
    data: Json = attrs.field(factory=dict)


@event("part.delta", version=1)
@attrs.frozen
class PartDelta:
    """Appends text to a field of a part. `offset` is the field's length before it, in code points.

    One that is there already is `stale_offset`; of one whose beginning is there, the rest is applied; other text at the
    same place, or an offset beyond the end, is refused.
    """

    part_id: Id
    message_id: Id
    field: TextField
    offset: Count
    text: str


@event("part.edited", version=1)
@attrs.frozen
class PartEdited:
    """Replaces a part's data on purpose, also in a settled message."""

    part_id: Id
    message_id: Id
    data: Json


@event("part.removed", version=1)
@attrs.frozen
class PartRemoved:
    """Removes one part. What comes late for it is skipped."""

    part_id: Id
    message_id: Id


@event("tool.updated", version=1)
@attrs.frozen
class ToolUpdated:
    """Creates or changes a tool call; the call is a part of its message.

    A settled call (`completed`, `error`, `aborted`) keeps its state. `by` says who knows: the owner, the sweep's guess
    (which the owner may still correct), or an import (which the sweep leaves alone).
    """

    part_id: Id
    message_id: Id
    call_id: Id
    name: str
    state: ToolState
    input: Any = None
    output: Any = None
    error: str | None = None
    child_session_id: Id | None = None
    started_at: Count | None = None
    ended_at: Count | None = None
    by: Literal["owner", "sweep", "import"] = "owner"


@event("usage.recorded", version=1)
@attrs.frozen
class UsageRecorded:
    """What one step used: the only door to the ledger. A later report of the same step replaces the earlier one."""

    step_id: Id
    message_id: Id | None = None
    model: str | None = None
    cost_nanousd: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    reasoning_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0


@event("context.compacted", version=1)
@attrs.frozen
class ContextCompacted:
    """The agent replaced its context up to a seq by a summary. Nothing is removed from the log."""

    summary_message_id: Id | None = None
    through_seq: Count | None = None


@event("session.noted", version=1)
@attrs.frozen
class SessionNoted:
    """Anything else worth keeping in the log: raw records, patches, retries."""

    note_id: Id
    kind: str
    data: Json = attrs.field(factory=dict)


@event("session.rewound", version=1)
@attrs.frozen
class SessionRewound:
    """Takes the read model of the session back to what it was at `to_seq`. The log keeps every event."""

    to_seq: Count


@event("session.forked", version=1)
@attrs.frozen
class SessionForked:
    """Says that the session continues another one from its `to_seq` on. Usage is not copied."""

    parent_session_id: Id
    to_seq: Count


BUILT_IN: Final[tuple[type[Any], ...]] = (
    SessionStarted,
    SessionUpdated,
    SessionRemoved,
    MessageUpdated,
    MessageFinished,
    MessageEdited,
    MessageRemoved,
    PartUpdated,
    PartDelta,
    PartEdited,
    PartRemoved,
    ToolUpdated,
    UsageRecorded,
    ContextCompacted,
    SessionNoted,
    SessionRewound,
    SessionForked,
)
