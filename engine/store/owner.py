"""One process writes a file: the ownership lock.

Owns: the side file `<path>-owner`, a small SQLite database in which the owner keeps a write transaction open for life.
Must not know: the log.
Invariants: the lock goes with the process, however it dies (SQLite's POSIX locks do); a second engine is refused in the
same process too (SQLite counts locks per process and file), also under another name that leads to the same file by
symbolic links; a file with several hard links is refused, as neither this lock nor SQLite's WAL would be found under the
other name (https://sqlite.org/howtocorrupt.html section 2.5), and two owners would overwrite each other; the owner's pid
can be read while the lock is held.

    user_version
        the owner's pid (https://sqlite.org/fileformat2.html#user_version_number). The file has no table and one page of one
        disk sector, so no dying process and no full disk leaves it torn. A power failure may leave zeros or garbage in a
        file that is never synced; nothing in it is worth keeping, so the next owner empties it.
"""

from __future__ import annotations

import os

import apsw

from engine.errors import NotADatabaseError, OwnedError, StorageError, StorageIOError
from engine.store.connection import close, is_busy, translate

_SECTOR_BYTES = 512


class Ownership:
    """The lock on one log file, held from construction to `close`.

    Raises `OwnedError` with the owner's pid when somebody live holds it, and another `StorageError`, which makes no side
    file, where the path cannot be that of a log.
    """

    def __init__(self, path: str, *, vfs: str | None = None) -> None:
        self._path = path
        self._told = False
        operation = f"own {path}"
        _check_place(path)
        try:
            # SQLite follows symbolic links to the database, so the lock must stand beside the file they lead to.
            real = os.path.realpath(path) if vfs is None else path
            self._connection = apsw.Connection(f"{real}-owner", vfs=vfs)
        except apsw.Error as problem:
            raise translate(problem, operation) from None
        try:
            try:
                self._acquire()
            except (apsw.NotADBError, apsw.CorruptError):
                self._empty()
                self._acquire()
        except apsw.Error as problem:
            error = self._refused() if is_busy(problem) else translate(problem, operation)
            close(self._connection)
            raise error from None

    def _acquire(self) -> None:
        connection = self._connection
        connection.pragma("page_size", _SECTOR_BYTES)
        connection.pragma("journal_mode", "memory")
        connection.pragma("synchronous", "off")
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.pragma("user_version", os.getpid())
            connection.execute("COMMIT")
            self._told = True
            # Between the two a rival may take the lock; then this BEGIN fails and the rival is named.
            connection.execute("BEGIN IMMEDIATE")
        except apsw.FullError:
            # A full disk must not keep an owner from reading; the lock is held, only its pid is not told yet.
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")

    def _empty(self) -> None:
        """Make an empty database of whatever a power failure left, under SQLite's own locks.

        Source: https://sqlite.org/c3ref/c_dbconfig_defensive.html (SQLITE_DBCONFIG_RESET_DATABASE).
        """
        connection = self._connection
        connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 1)
        try:
            connection.execute("VACUUM")
        finally:
            connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 0)

    def tell(self) -> None:
        """Write the pid, where a full disk was in the way when the lock was taken.

        Raises `OwnedError` when a rival took the file in the instant between giving the lock up and taking it again (then
        this owner has written nothing so far, and must not), or what the storage says.
        """
        if self._told and self._connection.in_transaction:
            return
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._acquire()
        except apsw.Error as problem:
            raise (self._refused() if is_busy(problem) else translate(problem, f"own {self._path}")) from None

    def _refused(self) -> OwnedError:
        pid: int | None = None
        try:
            found = self._connection.pragma("user_version")
            pid = found if isinstance(found, int) and _alive(found) else None
        except apsw.Error:
            pass
        who = "a live process" if pid is None else "this process" if pid == os.getpid() else f"process {pid}"
        return OwnedError(f"open {self._path}", f"it is owned by {who}", pid=pid)

    def close(self) -> None:
        """Give the file up. Idempotent."""
        close(self._connection)


def _alive(pid: int) -> bool:
    """Whether the pid that the file tells can be the owner's: a full disk may have kept the last one's."""
    if pid <= 0:
        return False
    if pid == os.getpid():
        return True
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _check_place(path: str) -> None:
    operation = f"open {path}"
    if os.path.isdir(path):
        raise NotADatabaseError(operation, "it is a directory")
    links = os.stat(path).st_nlink if os.path.exists(path) else 1
    if links > 1:
        raise StorageError(operation, f"it has {links} hard links; an owner of one name would not see that of another")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise StorageIOError(operation, f"the directory {parent} does not exist")
