"""`open_reader`: reading a log without owning it, also while another process writes it.

Owns: opening one read-only connection and what reads through it. Must not know: the writer, sessions, live following.
Invariants: nothing is written, no lock is held between two calls; the file may be written by its owner meanwhile, and each
call sees one committed state.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from engine.errors import StorageError
from engine.events import START, After, Registry
from engine.limits import Limits, StreamLimits
from engine.maintenance import Fingerprint, fingerprint, integrity
from engine.ports import Ports
from engine.projections import ReadModel, RowCounts, count_rows
from engine.projections.builtin import BUILT_IN_PROJECTIONS
from engine.runtime.engine import DEFAULT_WORKSPACE, check_id
from engine.runtime.files import checked_path, registry_of
from engine.store import (
    FileSizes,
    LogReader,
    SqlError,
    TypeCount,
    check_and_migrate,
    checkpoints,
    chosen_sessions,
    connect,
    count_types,
    file_sizes,
    translate,
)
from engine.subscriptions import LogStream


@attrs.frozen(kw_only=True)
class LogStatistics:
    """What a workspace holds and how large the file is."""

    rows: RowCounts
    types: Sequence[TypeCount]
    sizes: FileSizes
    projections: dict[str, tuple[int, int]]
    """Version and position of every projection of the file."""

    @property
    def events(self) -> int:
        """Events of the workspace, skipped ones included."""
        return sum(count.events for count in self.types)


class ReaderWorkspace:
    """What one workspace holds, read only. See `Workspace` for the same surface with writing."""

    def __init__(self, reader: LogReader, ports: Ports, limits: Limits, path: str, name: str) -> None:
        self._reader = reader
        self._ports = ports
        self._limits = limits
        self._path = path
        self._name = name
        self.read = ReadModel(reader, ports, limits, name)
        """The read model of this workspace."""

    @property
    def name(self) -> str:
        """The workspace's name."""
        return self._name

    @property
    def path(self) -> str:
        """The database file."""
        return self._path

    def log(
        self,
        *,
        after: After = START,
        session_id: str | Collection[str] | None = None,
        skipped: bool = True,
        limits: StreamLimits | None = None,
    ) -> LogStream:
        """`async with reader.log(after=cursor) as log: async for item in log: ...`: everything committed, then the end.

        There is no `follow`: only the owner's process knows of a commit when it happens. To poll, open another stream at
        the cursor of the `CaughtUp` that this one ends with.
        """
        return LogStream(
            self._reader,
            None,
            self._ports,
            workspace=self._name,
            after=after,
            follow=False,
            sessions=chosen_sessions(session_id, self._limits.subscription_sessions_max),
            skipped=skipped,
            limits=limits or StreamLimits.of(self._limits),
        )

    async def data_version(self) -> int:
        """A number that is another one once somebody has committed, to any workspace; cheap enough to be asked often.

        (https://sqlite.org/pragma.html#pragma_data_version) Raises a `StorageError`.
        """
        await trio.lowlevel.checkpoint()
        return await self._ports.step(self._reader.data_version)

    async def statistics(self) -> LogStatistics:
        """Counts and sizes: passes over the whole file. Raises a `StorageError`."""
        await trio.lowlevel.checkpoint()
        reader, step = self._reader, self._ports.step
        return LogStatistics(
            rows=await step(lambda: count_rows(reader, self._name)),
            types=await step(lambda: count_types(reader, self._name)),
            sizes=await step(lambda: file_sizes(reader, self._path)),
            projections=await step(lambda: checkpoints(reader)),
        )


class Reader(ReaderWorkspace):
    """A log opened for reading. Also the workspace `default`; `workspace(name)` gives the others."""

    async def fingerprint(self) -> dict[str, Fingerprint]:
        """Rows and a digest of every built-in table: equal before and after a rebuild. Reads them whole."""
        await trio.lowlevel.checkpoint()
        return await self._ports.step(lambda: fingerprint(self._reader))

    async def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file: empty when nothing is. Reads it whole."""
        await trio.lowlevel.checkpoint()
        return await self._ports.step(lambda: integrity(self._reader))

    def workspace(self, name: str) -> ReaderWorkspace:
        """The same surface for another workspace. Workspaces never see each other."""
        check_id("workspace", name)
        return ReaderWorkspace(self._reader, self._ports, self._limits, self._path, name)


@asynccontextmanager
async def open_reader(
    path: str | os.PathLike[str],
    events: Sequence[type[Any]] = (),
    limits: Limits | None = None,
    ports: Ports | None = None,
) -> AsyncIterator[Reader]:
    """Open an existing log for reading, whoever owns it.

    Raises `NotADatabaseError`, `SchemaTooNewError`, `RegistrationError`, `InvalidArgumentError` or another `StorageError`
    (there is no such file, or the read model has another version than this code reads); nothing is changed, ever.
    """
    limits = limits or Limits()
    ports = ports or Ports()
    vfs, chosen = ports.vfs, limits
    name = checked_path(path)
    registry = registry_of(events)
    reader = await ports.step(lambda: _open(name, vfs, registry, chosen))
    try:
        yield Reader(reader, ports, limits, name, DEFAULT_WORKSPACE)
    finally:
        reader.connection.close()


def _open(path: str, vfs: str | None, registry: Registry, limits: Limits) -> LogReader:
    connection = connect(path, vfs=vfs, write=False)
    try:
        check_and_migrate(connection, path, 0, write=False)
        reader = LogReader(connection, registry, limits)
        _check_versions(path, checkpoints(reader))
    except SqlError as problem:
        connection.close()
        raise translate(problem, f"open {path}") from None
    except BaseException:
        connection.close()
        raise
    return reader


def _check_versions(path: str, stored: dict[str, tuple[int, int]]) -> None:
    """Refuse a read model of another version than this code reads: only an owner may rebuild it."""
    for projection in BUILT_IN_PROJECTIONS:
        found = stored.get(projection.name, (0, 0))[0]
        if found != projection.version:
            raise StorageError(
                f"read {path}",
                f"projection {projection.name!r} has version {found or 'none'}, this code reads {projection.version}; "
                "its owner brings it up when it opens the file",
            )
