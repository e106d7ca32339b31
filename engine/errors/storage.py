"""The world: disk, file, other processes; and the state the engine is in after them."""

from __future__ import annotations

from typing import ClassVar

import attrs

from engine.errors.root import EngineError, Written


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
