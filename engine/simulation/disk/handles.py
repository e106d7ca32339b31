"""Open files of a simulated disk: what SQLite calls for each read and write.

Owns: the work of one operation. Must not know: which operation is to fail (the disk decides), or what a crash leaves.
Invariants: a handle whose process died changes nothing; an operation that fails changes nothing, but for the first half of
a short write. Nothing is looked at but one flag while nobody records and no fault is set.

A database file inherits the locks and the shared memory of the platform's VFS, through an empty placeholder file; WALs,
journals and temporary files are never locked and need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import apsw

from engine.simulation.disk.faults import error_of, refusal
from engine.simulation.disk.files import StoredFile

if TYPE_CHECKING:
    from engine.simulation.disk.vfs import Disk

BASE_VFS: Final = "unix-excl"
"""Its shared memory is this process's own, without a file, so a crash leaves none behind
(https://sqlite.org/vfs.html#standard_unix_vfses)."""
SECTOR_BYTES: Final = 512


class Handle:
    """The work of an open file; the VFS's own classes add what SQLite asks besides."""

    attended: bool
    """Whether somebody looks: the disk records, a fault is set, or the process died."""
    dead: bool

    def attach(self, disk: Disk, file: StoredFile, kind: str, *, syncs_directory: bool) -> None:
        """Become a handle of this file. `syncs_directory`: its first sync makes the directory durable too."""
        self._disk = disk
        self._file = file
        self._data = file.data
        self._kind = kind
        self._syncs_directory = syncs_directory
        self.dead = False
        disk.opened(self, file)

    def xRead(self, amount: int, offset: int) -> Any:  # noqa: N802
        if self.attended:
            amount = self._attend_read(amount)
        return self._data[offset : offset + amount]

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        if self.attended:
            self._attend_write(data, offset)
        buffer = self._data
        if offset > len(buffer):
            buffer.extend(bytes(offset - len(buffer)))
        buffer[offset : offset + len(data)] = data

    def xTruncate(self, size: int) -> None:  # noqa: N802
        if self.attended:
            self._meet("truncate")
            self._disk.note("truncate", self._file.number, size)
        resize(self._data, size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self.attended:
            self._attend_sync()
        else:
            self._syncs_directory = False

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._data)

    def _meet(self, operation: str) -> str | None:
        """How the operation is to fail, where it still does something; raises where it does nothing."""
        if self.dead:
            raise refusal(operation, "eio")
        how = self._disk.meet(operation, self._kind)
        if how is not None and how not in ("short", "lie"):
            raise refusal(operation, how)
        return how

    def _attend_read(self, amount: int) -> int:
        # A dead process may read on: what it sees is the file as it was.
        return amount // 2 if not self.dead and self._meet("read") == "short" else amount

    def _attend_write(self, data: Any, offset: int) -> None:
        how = self._meet("write")
        disk = self._disk
        if how == "short":
            half = bytes(data[: len(data) // 2])
            disk.note("write", self._file.number, offset, half)
            overwrite(self._data, half, offset)
            raise refusal("write", "short")
        if disk.budget_bytes is not None:
            growth = max(0, offset + len(data) - len(self._data))
            if growth > disk.budget_bytes:
                raise refusal("write", "full")
            disk.budget_bytes -= growth
        disk.note("write", self._file.number, offset, data)

    def _attend_sync(self) -> None:
        try:
            how = self._meet("sync")
        except apsw.Error:
            if not self.dead:
                self._disk.note("failed sync", self._file.number)
            raise
        if how != "lie":
            self._disk.note("sync", self._file.number, int(self._syncs_directory))
            self._syncs_directory = False


class DatabaseFile(Handle, apsw.VFSFile):
    """An open database: its content in memory, its locks and shared memory with the platform's VFS."""

    def __init__(self, disk: Disk, file: StoredFile, kind: str, anchor: str) -> None:
        self._closed = False
        # Also a reader opens the placeholder for writing: the platform would give it another kind of shared memory.
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_MAIN_DB
        super().__init__(BASE_VFS, anchor, [flags, 0])
        self.attach(disk, file, kind, syncs_directory=False)

    def xLock(self, level: int) -> None:  # noqa: N802
        if self.attended and not self.dead:
            self._meet("lock")
        super().xLock(level)

    def xClose(self) -> None:  # noqa: N802
        super().xClose()
        if not self._closed:
            self._closed = True
            self._disk.closed(self, self._file)


class PlainFile(Handle):
    """An open WAL, journal or temporary file."""

    def __init__(self, disk: Disk, file: StoredFile, kind: str, name: str | None, flags: int) -> None:
        journals = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
        owed = bool(flags & apsw.SQLITE_OPEN_CREATE) and bool(flags & journals)
        self._doomed = name if flags & apsw.SQLITE_OPEN_DELETEONCLOSE else None
        self._closed = False
        self.attach(disk, file, kind, syncs_directory=owed)

    def xClose(self) -> None:  # noqa: N802
        if not self._closed:
            self._closed = True
            self._disk.closed(self, self._file)
            if self._doomed is not None and not self.dead:
                self._disk.forget(self._doomed)

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


def overwrite(buffer: bytearray, data: bytes, offset: int) -> None:
    """Put bytes into a file, filling what lies between its end and them with zeros."""
    if offset > len(buffer):
        buffer.extend(bytes(offset - len(buffer)))
    buffer[offset : offset + len(data)] = data


def resize(buffer: bytearray, size: int) -> None:
    """Cut a file, or extend it with zeros."""
    if size < len(buffer):
        del buffer[size:]
    else:
        buffer.extend(bytes(size - len(buffer)))


def missing() -> apsw.Error:
    """What deleting a file that is not there raises."""
    return error_of(apsw.SQLITE_IOERR_DELETE_NOENT)
