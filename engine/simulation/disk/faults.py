"""Faults that a simulated disk shows on request, one operation at a time.

Owns: which operation fails, how, and the result code SQLite then sees. Must not know: files.

How an operation may fail:
- `eio`: any; it did nothing (a sync: nothing is promised about the writes before it).
- `full`: a write or an open that creates; it did nothing.
- `short`: a read that finds the file's end half-way; a write that did its first half and then found the disk full.
- `busy`: a lock; somebody else holds it. (Locks of a WAL live in shared memory and are not operations of the disk.)
- `cantopen`: an open.
- `lie`: a sync that says it succeeded and did nothing.
- `crash`: any; the process dies before it. This operation and every later one of the same process change nothing.
"""

from __future__ import annotations

from typing import Final

import apsw
import attrs

WAYS: Final[dict[str, tuple[str, ...]]] = {
    "open": ("eio", "cantopen", "full", "crash"),
    "read": ("eio", "short", "crash"),
    "write": ("eio", "full", "short", "crash"),
    "sync": ("eio", "lie", "crash"),
    "truncate": ("eio", "crash"),
    "delete": ("eio", "crash"),
    "lock": ("eio", "busy", "crash"),
}
"""The ways in which each operation may fail."""

_EIO: Final = {
    "open": apsw.SQLITE_CANTOPEN,
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "lock": apsw.SQLITE_IOERR_LOCK,
}


@attrs.define(eq=False)
class Fault:
    """One thing that will go wrong: the `nth` operation that matches, with `lasting` every one from there on.

    None as `operation` matches each that can fail in this way; None as `kind` matches files of every kind.
    """

    operation: str | None
    kind: str | None
    nth: int
    how: str
    lasting: bool = False
    seen: int = 0
    """Operations that matched so far."""
    hits: int = 0
    """How many of them failed."""

    def strikes(self, operation: str, kind: str) -> bool:
        """Count the operation if it matches; whether it is to fail."""
        if self.operation not in (None, operation) or self.kind not in (None, kind) or self.how not in WAYS[operation]:
            return False
        self.seen += 1
        struck = self.seen == self.nth or (self.lasting and self.seen > self.nth)
        self.hits += struck
        return struck


def refusal(operation: str, how: str) -> apsw.Error:
    """The exception that makes SQLite see an operation fail in this way.

    Raises `ValueError` for a way in which the operation cannot fail.
    """
    if how not in WAYS[operation]:
        raise ValueError(f"a {operation} can fail as {', '.join(WAYS[operation])}, not as {how!r}")
    if how == "busy":
        return error_of(apsw.SQLITE_BUSY)
    if how == "full" or (how == "short" and operation == "write"):
        return error_of(apsw.SQLITE_FULL)
    return error_of(apsw.SQLITE_CANTOPEN if how == "cantopen" else _EIO[operation])


def error_of(code: int) -> apsw.Error:
    """The exception that makes SQLite see this result code."""
    error = apsw.exception_for(code)
    assert isinstance(error, apsw.Error)
    return error
