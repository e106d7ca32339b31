"""You: the call itself is wrong."""

from __future__ import annotations

import attrs

from engine.errors.root import EngineError


@attrs.define(slots=False, eq=False, str=False)
class CallerError(EngineError):
    """The call cannot succeed as made. Siblings: `StorageError` (the world), `ClosedError` (the engine's state)."""


@attrs.define(slots=False, eq=False, str=False)
class RegistrationError(CallerError):
    """An event type, upcaster or projection is defined in a way the engine cannot run."""

    subject: str
    problem: str

    def describe(self) -> str:
        return f"register {self.subject}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class InvalidEventError(CallerError):
    """The event's value cannot be stored: not JSON, a wrong type, out of range, or contradicting what is there."""

    event_type: str
    problem: str

    def describe(self) -> str:
        return f"event {self.event_type!r}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class EventTooLargeError(InvalidEventError):
    """The event or the append is larger than its named limit."""


@attrs.define(slots=False, eq=False, str=False)
class UnregisteredEventError(CallerError):
    """The object's class is no registered event of this engine."""

    class_name: str

    def describe(self) -> str:
        return f"append {self.class_name}: not an event registered with this engine (pass it in open_engine(events=[...]))"


@attrs.define(slots=False, eq=False, str=False)
class OffsetError(InvalidEventError):
    """A delta starts beyond the end of its field, or repeats a stretch with other text."""

    part_id: str
    expected: int
    found: int


@attrs.define(slots=False, eq=False, str=False)
class UnknownSessionError(CallerError):
    """No live session has this id in this workspace."""

    session_id: str

    def describe(self) -> str:
        return f"session {self.session_id!r}: does not exist"


@attrs.define(slots=False, eq=False, str=False)
class SessionExistsError(CallerError):
    """A live session already has this id in this workspace."""

    session_id: str

    def describe(self) -> str:
        return f"create session {self.session_id!r}: it exists already"


@attrs.define(slots=False, eq=False, str=False)
class UnknownMessageError(CallerError):
    """The message (or part) was never announced in this incarnation of the session."""

    session_id: str
    subject: str

    def describe(self) -> str:
        return f"append to {self.session_id!r}: {self.subject} was never announced"


@attrs.define(slots=False, eq=False, str=False)
class WrongExpectedSeqError(CallerError):
    """The session's last seq is not the one the append was made for. Read again, decide again, append again."""

    session_id: str
    expected: int
    found: int

    def describe(self) -> str:
        return f"append to {self.session_id!r}: expected seq {self.expected}, found {self.found}"


@attrs.define(slots=False, eq=False, str=False)
class DuplicateIdError(CallerError):
    """The event id was used before for another content."""

    session_id: str
    event_id: str
    problem: str = "was used before with other content"

    def describe(self) -> str:
        return f"append to {self.session_id!r}: event id {self.event_id!r} {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class SkippedError(CallerError):
    """`append(strict=True)` met an event that would have been skipped."""

    session_id: str
    event_type: str
    reason: str

    def describe(self) -> str:
        return f"append to {self.session_id!r}: {self.event_type!r} would be skipped ({self.reason})"


@attrs.define(slots=False, eq=False, str=False)
class TurnBusyError(CallerError):
    """The session's one running slot is taken, or being drained for a removal."""

    session_id: str

    def describe(self) -> str:
        return f"start a turn in {self.session_id!r}: another turn is running"


@attrs.define(slots=False, eq=False, str=False)
class ProjectionFailedError(CallerError):
    """A projection's handler failed, so the append was refused."""

    projection: str
    event_type: str
    problem: str

    def describe(self) -> str:
        return f"projection {self.projection!r} on {self.event_type!r}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class CursorError(CallerError):
    """The cursor is malformed, from the future, or outside its epoch's range."""

    cursor: str
    problem: str

    def describe(self) -> str:
        return f"cursor {self.cursor!r}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class InvalidArgumentError(CallerError):
    """An argument of a call is out of its documented range."""

    argument: str
    problem: str

    def describe(self) -> str:
        return f"argument {self.argument!r}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class ImportFileError(CallerError):
    """A transcript file cannot be imported at all: unreadable, or of no known format."""

    path: str
    problem: str

    def describe(self) -> str:
        return f"import {self.path}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class ForkedError(CallerError):
    """The handle was opened before a fork of this process and is used in the child. SQLite forbids it."""

    owner_pid: int

    def describe(self) -> str:
        return f"use an engine across fork: it was opened by process {self.owner_pid}; open one in this process"
