"""Opening connections, and apsw's errors in the engine's words.

Owns: pragmas, the translation of every SQLite result code. Must not know: tables.
Invariants: nobody outside this room sees an apsw exception; the file itself, its -wal and its -shm are never opened here
by anything but SQLite (closing any descriptor of them would drop this process's POSIX locks:
https://sqlite.org/howtocorrupt.html section 2.2).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

import apsw

from engine.errors import (
    EngineError,
    NotADatabaseError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageIOError,
)

log = logging.getLogger("engine.store")

SqlError = apsw.Error
"""What SQL raises; other rooms catch it by this name and hand it to `translate`."""

STATEMENT_CACHE: Final = 400
"""Prepared statements per connection: all of the engine's and a few hundred of the embedder's projections."""
CACHE_KIB: Final = 16 * 1024
"""Page cache per connection."""
WAL_KEEP_BYTES: Final = 8 * 1024 * 1024
"""A WAL that grew beyond this is cut back to it when it starts anew."""

_KINDS: Final[dict[int, type[StorageError]]] = {
    apsw.SQLITE_BUSY: StorageBusyError,
    apsw.SQLITE_LOCKED: StorageBusyError,
    apsw.SQLITE_FULL: StorageFullError,
    apsw.SQLITE_IOERR: StorageIOError,
    apsw.SQLITE_CANTOPEN: StorageIOError,
    apsw.SQLITE_CORRUPT: StorageCorruptError,
    apsw.SQLITE_NOTADB: NotADatabaseError,
}
NO_SHARED_MEMORY: Final = apsw.SQLITE_IOERR_SHMSIZE
"""The code of a -shm file that cannot grow: on a full disk nobody can open the log in company."""


def result_code(error: apsw.Error) -> int:
    """The extended result code of an apsw exception; 0 when SQLite was not the one who refused."""
    code = getattr(error, "extendedresult", 0) or getattr(error, "result", 0)
    return code if isinstance(code, int) else 0


def translate(error: apsw.Error, operation: str) -> StorageError:
    """The engine's error for an apsw exception. It carries SQLite's text and code, but no traceback, cause or context."""
    code = result_code(error)
    kind = StorageFullError if code == NO_SHARED_MEMORY else _KINDS.get(code & 0xFF, StorageError)
    return kind(operation, f"{type(error).__name__.removesuffix('Error').lower()}: {error}", code)


def is_constraint(error: apsw.Error) -> bool:
    """Whether the SQL, not the storage, is at fault: a constraint, a type, a size, a wrong statement."""
    return isinstance(
        error,
        apsw.ConstraintError | apsw.MismatchError | apsw.TooBigError | apsw.SQLError | apsw.RangeError | apsw.BindingsError,
    )


def is_busy(error: apsw.Error) -> bool:
    """Whether somebody else's lock was in the way."""
    return isinstance(error, apsw.BusyError | apsw.LockedError)


def is_full(error: apsw.Error) -> bool:
    """Whether the disk is full."""
    return isinstance(error, apsw.FullError)


def clean(error: EngineError) -> EngineError:
    """Cut an exception loose from the frames that raised it, so that its receiver holds nothing of the writer."""
    error.__cause__ = None
    error.__context__ = None
    return error.with_traceback(None)


def connect(
    path: str,
    *,
    vfs: str | None,
    write: bool,
    full: bool = True,
    alone: bool = False,
    check: Callable[[apsw.Connection], object] | None = None,
) -> apsw.Connection:
    """Open a connection with the engine's settings. `full` decides `synchronous` of a writing one.

    `check` may refuse the file before anything in it is changed: a writing connection turns it to WAL mode.

    One that is `alone` keeps the WAL's index in its own memory and everybody else out
    (https://sqlite.org/wal.html#use_of_wal_without_shared_memory).
    Raises a `StorageError`; a file that is no database is a `NotADatabaseError`.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE if write else apsw.SQLITE_OPEN_READONLY
    operation = f"open {path}"
    try:
        connection = apsw.Connection(path, flags=flags, vfs=vfs, statementcachesize=STATEMENT_CACHE)
    except apsw.Error as problem:
        raise _cannot_open(path, problem, write=write) from None
    try:
        if alone:
            connection.pragma("locking_mode", "EXCLUSIVE")
        _configure(connection, write=write)
        if check is not None:
            check(connection)
        if write:
            _prepare_writing(connection, full=full)
    except apsw.Error as problem:
        close(connection)
        raise translate(problem, operation) from None
    except BaseException:
        close(connection)
        raise
    return connection


def close(connection: apsw.Connection) -> None:
    """Close a connection. Idempotent.

    What fails in it (the last checkpoint, removing the WAL) is logged, not raised: every commit stands in the WAL, and the
    next open goes on from there.
    """
    try:
        connection.close()
    except apsw.Error as problem:
        log.warning("closing: %s", translate(problem, "close").describe())


def _cannot_open(path: str, problem: apsw.Error, *, write: bool) -> StorageError:
    if os.path.isdir(path):
        return NotADatabaseError(f"open {path}", "it is a directory")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        return StorageIOError(f"open {path}", f"the directory {parent} does not exist", result_code(problem))
    if not os.path.exists(path):
        why = f"it cannot be created: {problem}" if write else "no such file"
        return StorageIOError(f"open {path}", why, result_code(problem))
    return translate(problem, f"open {path}")


def _configure(connection: apsw.Connection, *, write: bool) -> None:
    # With sqlite_stat4 compiled in, SQLite prepares a statement anew after each binding that could change its plan;
    # the stability guarantee turns that off (https://sqlite.org/queryplanner-ng.html#qpstab). Measured: 21 to 5.5 us.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.set_busy_timeout(0 if write else 2_000)
    for pragma, value in (("foreign_keys", "ON"), ("temp_store", "MEMORY"), ("cache_size", -CACHE_KIB)):
        connection.pragma(pragma, value)
    if not write:
        connection.pragma("query_only", "ON")


def _prepare_writing(connection: apsw.Connection, *, full: bool) -> None:
    mode = connection.pragma("journal_mode")
    if mode != "wal":
        mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise StorageError("open", f"the file system gives journal mode {mode!r}, WAL is needed")
    set_synchronous(connection, full=full)
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("journal_size_limit", WAL_KEEP_BYTES)


def set_synchronous(connection: apsw.Connection, *, full: bool) -> None:
    """FULL syncs the WAL in every COMMIT; NORMAL leaves that to checkpoints (https://sqlite.org/pragma.html)."""
    connection.pragma("synchronous", "FULL" if full else "NORMAL")


def checkpoint(connection: apsw.Connection) -> tuple[int, int]:
    """Copy what can be copied of the WAL into the file without waiting for anybody. Returns (frames, frames copied)."""
    frames, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    return frames, copied
