"""One process writes a file: the ownership lock.

Owns: the side file `<path>-owner`, a small SQLite database in which the owner keeps a write transaction open for life.
Must not know: the log.
Invariants: the lock goes with the process, however it dies (SQLite's POSIX locks do); a second engine is refused in the
same process too (SQLite counts locks per process and file); the owner's pid can be read while the lock is held.
"""

from __future__ import annotations

import os

import apsw

from engine.errors import OwnedError
from engine.store.connection import is_busy, translate


class Ownership:
    """The lock on one log file, held from construction to `close`.

    Raises `OwnedError` with the owner's pid when somebody live holds it.
    """

    def __init__(self, path: str, *, vfs: str | None = None) -> None:
        self._path = path
        operation = f"own {path}"
        try:
            # SQLite follows symbolic links to the database, so the lock must stand beside the file they lead to.
            real = os.path.realpath(path) if vfs is None else path
            self._connection = apsw.Connection(f"{real}-owner", vfs=vfs)
        except apsw.Error as problem:
            raise translate(problem, operation) from None
        try:
            self._acquire()
        except apsw.Error as problem:
            error = self._refused() if is_busy(problem) else translate(problem, operation)
            self._connection.close()
            raise error from None

    def _acquire(self) -> None:
        connection = self._connection
        connection.pragma("journal_mode", "memory")
        connection.pragma("synchronous", "off")
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("CREATE TABLE IF NOT EXISTS owner(one INTEGER PRIMARY KEY CHECK(one = 1), pid INTEGER)")
            connection.execute("REPLACE INTO owner VALUES(1, ?)", (os.getpid(),))
            connection.execute("COMMIT")
            # Between the two a rival may take the lock; then this BEGIN fails and the rival is named.
            connection.execute("BEGIN IMMEDIATE")
        except apsw.FullError:
            # A full disk must not keep an owner from reading; the lock is held, only its pid is not told.
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")

    def _refused(self) -> OwnedError:
        pid: int | None = None
        try:
            found = self._connection.execute("SELECT pid FROM owner").get
            pid = found if isinstance(found, int) else None
        except apsw.Error:
            pass
        who = "a live process" if pid is None else "this process" if pid == os.getpid() else f"process {pid}"
        return OwnedError(f"open {self._path}", f"it is owned by {who}", pid=pid)

    def close(self) -> None:
        """Give the file up. Idempotent."""
        self._connection.close()
