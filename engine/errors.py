"""Every public error of the engine.

Owns: the exception types, the wording of their one line, and what each says about the effect.
Must not know: SQLite, trio, or any other room.
Invariants: one root (`EngineError`); every error says in `written` whether anything was written
(`NOTHING`, `UNKNOWN`); every message reads *operation, subject, expected, found, effect* on one line;
an error can be cloned, so that each waiting caller raises an instance of its own.

Grouped by who must act:

- you (the caller): `CallerError` and below. Retrying the same call gives the same answer.
- the world (disk, other processes): `StorageError` and below. Retrying later may help.
- nobody yet: `ClosedError`, `BrokenError`, `OutcomeUnknownError` say what state the engine is in.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import attrs

NOTHING = "nothing was written"
UNKNOWN = "whether it was written is unknown until the file is opened again"

Written = Literal["nothing", "unknown"]


@attrs.define(slots=False, eq=False, str=False)
class EngineError(Exception):
    """The root of every error that the engine raises on purpose."""

    written: ClassVar[Written] = "nothing"

    def describe(self) -> str:
        """The message without its effect."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.describe()}; {NOTHING if self.written == 'nothing' else UNKNOWN}"

    def clone(self) -> Self:
        """A fresh instance with the same fields and without traceback, cause or context."""
        return attrs.evolve(self)


# --- you: the call itself is wrong ---------------------------------------------------------------


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


# --- the world: disk, file, other processes -------------------------------------------------------


@attrs.define(slots=False, eq=False, str=False)
class StorageError(EngineError):
    """SQLite or the disk refused. `code` is SQLite's extended result code, 0 where there is none."""

    operation: str
    problem: str
    code: int = 0

    def describe(self) -> str:
        suffix = f" (SQLite code {self.code})" if self.code else ""
        return f"{self.operation}: {self.problem}{suffix}"


@attrs.define(slots=False, eq=False, str=False)
class StorageBusyError(StorageError):
    """Another process held a lock for longer than the retry limit."""


@attrs.define(slots=False, eq=False, str=False)
class StorageFullError(StorageError):
    """The disk is full. Reads go on; the first write that fits goes through again."""


@attrs.define(slots=False, eq=False, str=False)
class StorageIOError(StorageError):
    """The device failed."""


@attrs.define(slots=False, eq=False, str=False)
class StorageCorruptError(StorageError):
    """The file's content contradicts itself."""


@attrs.define(slots=False, eq=False, str=False)
class NotADatabaseError(StorageError):
    """The file is no SQLite database, or one of another program."""


@attrs.define(slots=False, eq=False, str=False)
class SchemaTooNewError(StorageError):
    """The file was written by a newer version of the engine."""

    found: int = 0
    supported: int = 0


@attrs.define(slots=False, eq=False, str=False)
class OwnedError(StorageError):
    """A live process (perhaps this one) owns the file. `pid` is None when the owner could not be read."""

    pid: int | None = None


@attrs.define(slots=False, eq=False, str=False)
class OutcomeUnknownError(EngineError):
    """A COMMIT failed half-way and no later commit could rule it out; the engine writes no more.

    Open the file again and send the same event ids: what was written answers `Duplicate`.
    """

    written: ClassVar[Written] = "unknown"
    operation: str
    problem: str

    def describe(self) -> str:
        return f"{self.operation}: {self.problem}"


# --- the engine's own state -------------------------------------------------------------------------


@attrs.define(slots=False, eq=False, str=False)
class ClosedError(EngineError):
    """You (or the engine's `async with`) closed it. Sibling: `BrokenError`, which nobody asked for."""

    subject: str

    def describe(self) -> str:
        return f"{self.subject} is closed"


@attrs.define(slots=False, eq=False, str=False)
class BrokenError(EngineError):
    """The engine stopped writing by itself; `problem` says after what. Reads go on. Sibling: `ClosedError`."""

    subject: str
    problem: str

    def describe(self) -> str:
        return f"{self.subject} is broken: {self.problem}"
