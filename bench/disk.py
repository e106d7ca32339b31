"""Disks to measure on: one whose sync is slow, one that counts what is written to it.

Owns: two SQLite VFSs that inherit from the platform's. Must not know: the engine.
Invariants: what is written and synced is really written and synced; the VFS is gone when its block is left.
The fault model of `slow_sync` is a device, not a file system: only the sync waits, and whoever calls it waits with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import attrs


@attrs.define
class Written:
    """Bytes handed to the file system, by kind of file."""

    wal: int = 0
    database: int = 0
    syncs: int = 0


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], delay_s: float, written: Written) -> None:
        super().__init__("", name, flags)
        self._is_wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        self._is_database = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        self._delay_s = delay_s
        self._written = written

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._written.syncs += 1
        if self._delay_s:
            time.sleep(self._delay_s)
        super().xSync(flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        if self._is_wal:
            self._written.wal += len(data)
        elif self._is_database:
            self._written.database += len(data)
        super().xWrite(data, offset)


class _Vfs(apsw.VFS):
    def __init__(self, name: str, delay_s: float, written: Written) -> None:
        self._delay_s = delay_s
        self._written = written
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _File(name, flags, self._delay_s, self._written)


@contextmanager
def measured_disk(*, sync_delay_s: float = 0.0) -> Iterator[tuple[str, Written]]:
    """Register a VFS; gives its name and what is written through it. Its connections are closed before the block ends."""
    written = Written()
    name = f"bench-{time.monotonic_ns()}"
    vfs = _Vfs(name, sync_delay_s, written)
    try:
        yield name, written
    finally:
        vfs.unregister()
