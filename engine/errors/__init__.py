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
- between two processes: `WireError` and below, of a server, of a client, of the connection between them.
"""

from __future__ import annotations

from engine.errors.caller import (
    CallerError,
    CursorError,
    DuplicateIdError,
    EventTooLargeError,
    ForkedError,
    ImportFileError,
    InvalidArgumentError,
    InvalidEventError,
    OffsetError,
    ProjectionFailedError,
    RegistrationError,
    SessionExistsError,
    SkippedError,
    TurnBusyError,
    UnknownMessageError,
    UnknownSessionError,
    UnregisteredEventError,
    WrongExpectedSeqError,
)
from engine.errors.root import (
    NOTHING,
    UNKNOWN,
    EngineError,
    Written,
)
from engine.errors.storage import (
    BrokenError,
    ClosedError,
    NotADatabaseError,
    OutcomeUnknownError,
    OwnedError,
    SchemaTooNewError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageIOError,
)
from engine.errors.wire import (
    UNANSWERED,
    ConnectionLostError,
    ForbiddenError,
    LimitError,
    MalformedFrameError,
    ProtocolError,
    RemoteError,
    UnauthorizedError,
    UnreachableError,
    WireError,
)

__all__ = [
    "NOTHING",
    "UNANSWERED",
    "UNKNOWN",
    "BrokenError",
    "CallerError",
    "ClosedError",
    "ConnectionLostError",
    "CursorError",
    "DuplicateIdError",
    "EngineError",
    "EventTooLargeError",
    "ForbiddenError",
    "ForkedError",
    "ImportFileError",
    "InvalidArgumentError",
    "InvalidEventError",
    "LimitError",
    "MalformedFrameError",
    "NotADatabaseError",
    "OffsetError",
    "OutcomeUnknownError",
    "OwnedError",
    "ProjectionFailedError",
    "ProtocolError",
    "RegistrationError",
    "RemoteError",
    "SchemaTooNewError",
    "SessionExistsError",
    "SkippedError",
    "StorageBusyError",
    "StorageCorruptError",
    "StorageError",
    "StorageFullError",
    "StorageIOError",
    "TurnBusyError",
    "UnauthorizedError",
    "UnknownMessageError",
    "UnknownSessionError",
    "UnreachableError",
    "UnregisteredEventError",
    "WireError",
    "Written",
    "WrongExpectedSeqError",
]
