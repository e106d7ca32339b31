"""A disk that fails on request: a SQLite VFS over the platform's own.

The fault model
- An operation is one call on one file: open, read, write, sync, truncate, delete, lock. Files are told apart by kind:
  `main` (the database), `wal`, `owner` (the ownership lock's side file), `journal`, `temp`.
- A failing sync wrote everything before it: the bytes are in the file, only the promise is missing. The worst case of
  a real disk, on which a COMMIT whose sync failed comes back to life at the next open.
- A failing write, truncate, delete or open did nothing; a short write did its first half and then found the disk full.
- A full disk refuses bytes beyond a file's present end once the budget is used up; overwriting goes on, as on most disks.
- A failing lock is somebody else's: SQLITE_BUSY. WAL locks live in shared memory and are not seen here.
- A fault happens once at the n-th matching operation, or, with `lasting`, at every one from there on.
- Shared memory and memory maps pass through to the platform's VFS, so that several connections share one WAL.

Not modelled: reordered or lost writes after a power failure, bit rot, a shared memory file that cannot grow.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import attrs

WRITING = ("write", "truncate")
CODES = {
    "open": apsw.SQLITE_CANTOPEN,
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "lock": apsw.SQLITE_BUSY,
}


@attrs.define(eq=False)
class Fault:
    """One thing that will go wrong. `how`: `eio`, `full` or `short` (half of a write, then full)."""

    operation: str | None
    kind: str | None
    nth: int
    how: str
    lasting: bool
    seen: int = 0
    hits: int = 0

    def strikes(self, operation: str, kind: str) -> bool:
        """Count the operation if it matches; whether it is to fail."""
        if self.operation not in (None, operation) or self.kind not in (None, kind):
            return False
        if self.operation is None and operation == "lock":
            return False
        if self.how != "eio" and operation not in WRITING:
            return False
        self.seen += 1
        struck = self.seen == self.nth or (self.lasting and self.seen > self.nth)
        self.hits += struck
        return struck


class Disk(apsw.VFS):
    """The VFS. Registered under `name`, which `Ports(vfs=name)` hands to the engine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sync_s = 0.0
        """How much longer every sync takes."""
        self.syncs_really = True
        """Whether a sync reaches the device. Nothing but a power failure can tell, and not syncing is faster."""
        self.budget_bytes: int | None = None
        """Bytes by which files may still grow; None for no bound."""
        self.written_bytes: Counter[str] = Counter()
        """Bytes written by kind of file."""
        self.operations: Counter[tuple[str, str]] = Counter()
        """Operations by name and kind of file."""
        self.struck: list[tuple[str, str]] = []
        """Operations that failed on request, in order."""
        self._faults: list[Fault] = []
        super().__init__(name, base="")

    def fail(
        self, operation: str | None = None, kind: str | None = None, *, nth: int = 1, how: str = "eio", lasting: bool = False
    ) -> Fault:
        """Let the nth matching operation from now on fail; None matches any (but locks)."""
        fault = Fault(operation, kind, nth, how, lasting)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget every fault and bound."""
        self._faults.clear()
        self.budget_bytes = None
        self.sync_s = 0.0

    def meet(self, operation: str, kind: str) -> str | None:
        """Count an operation; how it is to fail, or None."""
        self.operations[operation, kind] += 1
        how = None
        for fault in self._faults:
            if fault.strikes(operation, kind):
                how = how or fault.how
        if how is not None:
            self.struck.append((operation, kind))
        return how

    def check(self, operation: str, kind: str) -> None:
        """Count an operation and raise if it is to fail."""
        how = self.meet(operation, kind)
        if how is not None:
            raise refusal(CODES[operation] if how == "eio" else apsw.SQLITE_FULL)

    # --- what SQLite calls ---------------------------------------------------------------------

    def xOpen(self, name: Any, flags: list[int]) -> DiskFile:  # noqa: N802
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        kind = kind_of(text)
        self.check("open", kind)
        return DiskFile(self, kind, name, flags)

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        self.check("delete", kind_of(name))
        super().xDelete(name, sync_directory)


class DiskFile(apsw.VFSFile):
    """One open file of a `Disk`."""

    def __init__(self, disk: Disk, kind: str, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._kind = kind
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.check("read", self._kind)
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        disk = self._disk
        how = disk.meet("write", self._kind)
        if how == "short":
            super().xWrite(bytes(data[: len(data) // 2]), offset)
            raise refusal(apsw.SQLITE_FULL)
        if how is not None:
            raise refusal(apsw.SQLITE_IOERR_WRITE if how == "eio" else apsw.SQLITE_FULL)
        if disk.budget_bytes is not None:
            growth = max(0, offset + len(data) - super().xFileSize())
            if growth > disk.budget_bytes:
                raise refusal(apsw.SQLITE_FULL)
            disk.budget_bytes -= growth
        disk.written_bytes[self._kind] += len(data)
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.check("truncate", self._kind)
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._disk.sync_s:
            time.sleep(self._disk.sync_s)
        self._disk.check("sync", self._kind)
        if self._disk.syncs_really:
            super().xSync(flags)

    def xLock(self, level: int) -> None:  # noqa: N802
        self._disk.check("lock", self._kind)
        super().xLock(level)


def kind_of(name: str | None) -> str:
    """Which kind of file a name is."""
    if not name:
        return "temp"
    for suffix in ("wal", "owner", "journal"):
        if name.endswith(f"-{suffix}"):
            return suffix
    return "main"


def refusal(code: int) -> apsw.Error:
    """The exception that makes SQLite see this result code."""
    error = apsw.exception_for(code)
    assert isinstance(error, apsw.Error)
    return error


_names = iter(f"disk-{number}" for number in range(1_000_000))


@contextmanager
def failing_disk() -> Iterator[Disk]:
    """A registered `Disk` under a name of its own, gone at the end."""
    disk = Disk(next(_names))
    try:
        yield disk
    finally:
        disk.heal()
        disk.unregister()
