"""The typed persist commands: what the writer actor is asked, and where it answers.

Owns: the command classes. Must not know: SQL, how a command is carried out.
Invariants: a command with a reply is answered exactly once; one without tells its `sink` when it failed; `sealed` is set
once, by the writer, when it takes the command into a batch, and nothing changes in it afterwards.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from engine.errors import EngineError
from engine.events import PreparedEvent, Receipt
from engine.ports import Reply


class Sink(Protocol):
    """Who posted: told of a failure that no reply channel carries."""

    def failed(self, error: EngineError) -> None:
        """A posted command was refused or could not be written."""


@attrs.define(eq=False, kw_only=True)
class Command:
    """What every command says: whose session, in which of its lives, and how to answer."""

    workspace: str
    session_id: str
    incarnation: int | None = None
    """The life of the session that the sender knows; None where it knows none (creating, importing)."""
    sealed: bool = False
    size_bytes: int = 0
    """What the command weighs in a queue: the bytes of its encoded events."""


@attrs.define(eq=False, kw_only=True)
class Append(Command):
    """Append events, all or none."""

    events: tuple[PreparedEvent, ...]
    expected_seq: int | None = None
    strict: bool = False
    imported: bool = False
    """The events come from a transcript: each is stored, also one that changes nothing."""
    reply: Reply[Receipt] | None = None
    sink: Sink | None = None


@attrs.define(eq=False, kw_only=True)
class PostDelta(Command):
    """Append streamed text without a reply. While it waits, text that follows on is joined to it."""

    part_id: str
    message_id: str
    field: str
    offset: int
    chars: int
    pieces: list[str]
    joined_bytes: int = 0
    """The part of `size_bytes` that was joined after the command had been queued."""
    sink: Sink | None = None
    reply: None = None

    def joins(self, other: PostDelta, chars_max: int) -> bool:
        """Whether `other` continues this one exactly, so that one event can stand for both."""
        return (
            not self.sealed
            and self.part_id == other.part_id
            and self.message_id == other.message_id
            and self.field == other.field
            and self.offset + self.chars == other.offset
            and self.chars + other.chars <= chars_max
            and self.sink is other.sink
            and self.incarnation == other.incarnation
        )

    def join(self, other: PostDelta) -> None:
        """Take over the text of one that `joins`."""
        self.pieces.extend(other.pieces)
        self.chars += other.chars
        self.size_bytes += other.size_bytes
        self.joined_bytes += other.size_bytes


@attrs.define(eq=False, kw_only=True)
class Flush(Command):
    """Answered once everything sent before it is committed (or was refused)."""

    reply: Reply[None]


@attrs.define(eq=False, kw_only=True)
class Replace(Command):
    """Replace a session's imported events by others, in one transaction; live events are kept behind them."""

    events: tuple[PreparedEvent, ...]
    reply: Reply[Receipt]


AnyCommand = Append | PostDelta | Flush | Replace
