"""Opening and closing what one engine holds of a log: the ownership lock, the writing and the reading connection.

Owns: the order in which these are opened and closed. Must not know: tasks.
Invariants: whatever fails while opening, everything opened before is closed again, and the file is unchanged.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final, Literal

import attrs

from engine.errors import ForkedError, InvalidArgumentError, StorageFullError
from engine.events import BUILT_IN, Registry
from engine.limits import Limits
from engine.ports import ForkGuard, Ports
from engine.projections import Progress, Projection, Projector, definition_for
from engine.store import (
    NO_SHARED_MEMORY,
    Log,
    LogReader,
    Ownership,
    SqlError,
    check,
    check_and_migrate,
    close,
    connect,
    set_synchronous,
    translate,
)
from engine.writer import Transactor

log = logging.getLogger("engine")

Durability = Literal["full", "normal"]
SyncBy = Literal["auto", "commit", "helper"]

SYNC_PROBES: Final = 5
"""Commits made at open to learn how fast the disk syncs; the fastest counts, as others may be using the disk."""


_inherited: list[ExitStack] = []
"""What a forked child inherited open: kept, because letting go of a connection closes it."""


@attrs.define(eq=False, kw_only=True)
class Files:
    """An open log: what the actors work on."""

    path: str
    registry: Registry
    ownership: Ownership
    log: Log
    projector: Projector
    transactor: Transactor
    reader: LogReader
    durability: Durability
    ports: Ports
    on_progress: Progress | None = None
    wal_bytes: Callable[[int], None] = lambda _: None
    _stack: ExitStack = attrs.field(factory=ExitStack)
    _fork: ForkGuard = attrs.field(factory=ForkGuard)

    def begin(self) -> None:
        """What a writing open owes the file: the owner told, projections brought up, a new epoch.

        Raises what the storage says, also later than at open: a full disk puts it off to the first write that fits.
        """
        self.ownership.tell()
        self.projector.bring_up(self.on_progress)
        self.log.start_epoch(self.ports.ids.new_epoch(), self.ports.clock.now_ms())

    def sync_in_commit(self, yes: bool) -> None:
        """Whether COMMIT itself syncs the WAL."""
        set_synchronous(self.log.connection, full=yes)

    def sync_now(self) -> None:
        """Have COMMIT sync from now on, and sync what was committed without."""
        self.sync_in_commit(True)
        self.log.fence()

    def sync_seconds(self) -> float:
        """How long a commit with its sync takes here: the fastest of a few."""
        best = float("inf")
        for _ in range(SYNC_PROBES):
            begun = time.perf_counter()
            self.log.fence()
            best = min(best, time.perf_counter() - begun)
        return best

    def close(self) -> None:
        """Close everything, the ownership last. Idempotent. In a forked child: touch nothing, it is the parent's."""
        try:
            self._fork.check()
        except ForkedError:
            _inherited.append(self._stack.pop_all())
        self._stack.close()


def registry_of(events: Iterable[type[Any]]) -> Registry:
    """The vocabulary and the user's events."""
    return Registry((*BUILT_IN, *events))


def open_files(
    path: str | os.PathLike[str],
    *,
    durability: Durability,
    events: Sequence[type[Any]],
    projections: Sequence[type[Any] | Projection],
    limits: Limits,
    ports: Ports,
    on_progress: Progress | None = None,
) -> Files:
    """Own, open, check and migrate a log for writing.

    Raises `OwnedError`, `NotADatabaseError`, `SchemaTooNewError`, `RegistrationError`, `InvalidArgumentError` or another
    `StorageError`; the file is unchanged then.
    """
    if durability not in ("full", "normal"):
        raise InvalidArgumentError("durability", f"expected 'full' or 'normal', found {durability!r}")
    name = checked_path(path)
    registry = registry_of(events)
    chosen = [entry if isinstance(entry, Projection) else definition_for(entry) for entry in projections]
    with ExitStack() as stack:
        ownership = Ownership(name, vfs=ports.vfs)
        stack.callback(ownership.close)
        connection, alone = _connect(name, ports.vfs, full=durability == "full")
        stack.callback(close, connection)
        try:
            check_and_migrate(connection, name, ports.clock.now_ms(), write=True)
            store = Log(connection)
            projector = Projector(store, registry, chosen)
        except SqlError as problem:
            raise translate(problem, f"open {name}") from None
        # Reads and batches are synchronous steps that never overlap, so one connection can serve both where it has to.
        reading = connection if alone else connect(name, vfs=ports.vfs, write=False)
        stack.callback(close, reading)
        files = Files(
            path=name,
            registry=registry,
            ownership=ownership,
            log=store,
            projector=projector,
            transactor=Transactor(store, projector, registry, ports.clock.now_ms, limits),
            reader=LogReader(reading, registry, limits),
            durability=durability,
            ports=ports,
            on_progress=on_progress,
        )
        page_bytes = int(connection.pragma("page_size")) + 24

        # Only remembers a number: a hook that raised would make a good COMMIT raise.
        def note_wal(_connection: Any, _name: str, pages: int) -> int:
            files.wal_bytes(32 + pages * page_bytes)
            return 0

        connection.set_wal_hook(note_wal)
        files._stack = stack.pop_all()
        return files
    raise AssertionError("unreachable")


def _connect(name: str, vfs: str | None, *, full: bool) -> tuple[Any, bool]:
    """The writing connection, and whether it is alone: a full disk may have no room for the memory that several share."""

    def open_it(alone: bool) -> Any:
        return connect(name, vfs=vfs, write=True, full=full, alone=alone, check=lambda found: check(found, name, write=True))

    try:
        return open_it(False), False
    except StorageFullError as problem:
        if problem.code != NO_SHARED_MEMORY:
            raise
    log.warning("open %s: no room for shared memory; until it is opened again, no other process can read it", name)
    return open_it(True), True


def checked_path(path: str | os.PathLike[str]) -> str:
    """The path as text, or `InvalidArgumentError` for one that names no file."""
    name: object = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str) or not name or name == ":memory:" or name.startswith("file:") or "\0" in name:
        raise InvalidArgumentError("path", f"expected the path of a file, found {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError("path", f"SQLite opens paths in UTF-8 only, found {name!r}") from None
    return name
