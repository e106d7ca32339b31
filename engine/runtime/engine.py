"""The composition root's public face: `open_engine`, and what it hands out.

Owns: the surface of an engine and of a workspace. Must not know: how the parts are wired (see `core`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from engine.commands import Append, Replace
from engine.errors import InvalidArgumentError, UnknownSessionError
from engine.events import START, After, Cursor, Envelope, Receipt, SessionStarted, parse, prepare
from engine.limits import ID_CHARS_MAX, Limits, StreamLimits
from engine.maintenance import SweepReport
from engine.ports import Ports
from engine.projections import Progress, Projection, ReadModel
from engine.runtime.core import Core, host
from engine.runtime.files import Durability, SyncBy, open_files
from engine.runtime.importing import Importer
from engine.session import Session, SessionStatistics
from engine.store import chosen_sessions
from engine.subscriptions import HubStatistics, LogStream
from engine.writer import WriterStatistics

DEFAULT_WORKSPACE = "default"


@attrs.frozen(kw_only=True)
class EngineStatistics:
    """What the engine is doing: its writer, its session actors, its followers, the file."""

    writer: WriterStatistics
    sessions: SessionStatistics
    subscriptions: HubStatistics
    head: int
    """The last position published."""
    unknown_events_read: int
    """Stored events of types unknown to this process that were read so far."""
    synced_by: str
    """`commit` (COMMIT syncs), `helper` (a process beside syncs, because the disk is slow), or `nobody` (normal)."""


class Workspace:
    """Everything one workspace sees. `engine` itself is the workspace `default`."""

    def __init__(self, core: Core, name: str) -> None:
        self._core = core
        self._workspace = name
        self.read = ReadModel(core.files.reader, core.ports, core.limits, name)
        """The read model of this workspace."""

    @property
    def name(self) -> str:
        """The workspace's name."""
        return self._workspace

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        parent_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        event_id: str | None = None,
    ) -> Session:
        """Open a session (a new id where none is given) and wait until that is durable.

        Raises `SessionExistsError` when a live session has the id. With `event_id` the same call may be sent again.
        Cancelled: the session exists or not; `session()` tells.
        """
        name = session_id if session_id is not None else self._core.ports.ids.new_id("ses")
        receipt = await self.open_session(name, title=title, parent_id=parent_id, metadata=metadata, event_id=event_id)
        return Session(self._core.context, self._workspace, name, receipt.incarnation)

    async def open_session(
        self,
        session_id: str,
        *,
        title: str | None = None,
        parent_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        event_id: str | None = None,
    ) -> Receipt:
        """As `create_session`, but gives the receipt: for whoever hands it on."""
        self._core.check_fork()
        check_id("session_id", session_id)
        event = SessionStarted(title, parent_id, metadata or {})
        return await self._append(session_id, (Envelope(event, event_id) if event_id else event,))

    async def session(self, session_id: str, *, incarnation: int | None = None) -> Session:
        """A handle on a live session, or `UnknownSessionError`.

        With `incarnation` the handle is bound to that life of the id, and nothing is looked up: for whoever got the number
        from a receipt or from another process. Its writes are skipped as `removed` where that life has ended, and refused
        with `UnknownSessionError` where it never began.
        """
        core = self._core
        core.check_fork()
        if incarnation is not None:
            check_id("session_id", session_id)
            if type(incarnation) is not int or incarnation < 1:
                raise InvalidArgumentError("incarnation", f"expected 1 or more, found {incarnation!r:.60}")
            await trio.lowlevel.checkpoint()
            return Session(core.context, self._workspace, session_id, incarnation)
        await trio.lowlevel.checkpoint()
        reader = core.files.reader
        incarnation = await core.ports.step(lambda: reader.live_session(self._workspace, session_id))
        if incarnation is None:
            raise UnknownSessionError(session_id)
        return Session(core.context, self._workspace, session_id, incarnation)

    async def last_session(self, session_id: str) -> Session:
        """A handle on the latest life of a session id, also where it has ended, or `UnknownSessionError`.

        What is written to a life that has ended is skipped as `removed`, but an event id that it knows still answers
        `Duplicate`: for whoever was not told what became of a write.
        """
        core = self._core
        core.check_fork()
        await trio.lowlevel.checkpoint()
        incarnation = await core.ports.step(lambda: core.files.reader.last_incarnation(self._workspace, session_id))
        if incarnation is None:
            raise UnknownSessionError(session_id)
        return Session(core.context, self._workspace, session_id, incarnation)

    def log(
        self,
        *,
        after: After = START,
        follow: bool = False,
        session_id: str | Collection[str] | None = None,
        skipped: bool = True,
        limits: StreamLimits | None = None,
    ) -> LogStream:
        """`async with engine.log(after=cursor, follow=True) as log: async for item in log: ...`.

        `after`: `START`, `HEAD` or a `Cursor`. `follow` stays and waits for more. `session_id` narrows to one session, or to
        several (a collection of 1 to `Limits.subscription_sessions_max` ids); one that is not there has no events yet.
        `skipped=False` leaves out events that changed nothing. `limits` bounds what the stream holds in memory and reads at
        once (None: the engine's `Limits`). See `LogStream` for what it yields and raises.

        Raises `InvalidArgumentError`; nothing is read before the stream is entered.
        """
        core = self._core
        core.check_fork()
        return LogStream(
            core.files.reader,
            core.hub,
            core.ports,
            workspace=self._workspace,
            after=after,
            follow=follow,
            sessions=chosen_sessions(session_id, core.limits.subscription_sessions_max),
            skipped=skipped,
            limits=limits or StreamLimits.of(core.limits),
        )

    def parse_event(self, type_name: str, data: bytes) -> Any:
        """The event of a JSON object that came from outside, as `append` takes it (see `engine.events.parse`).

        Raises `UnregisteredEventError` and `InvalidEventError`; nothing was written.
        """
        return parse(self._core.files.registry, type_name, data)

    # --- for importers ------------------------------------------------------------------------

    def importer(self) -> Importer:
        """What brings transcripts of real agents into this workspace: `await engine.importer().file(path)`."""
        core = self._core
        core.check_fork()
        return Importer(self, core.files.reader, core.files.registry, core.ports, core.limits)

    async def import_events(self, session_id: str, envelopes: Sequence[Envelope]) -> Receipt:
        """Append events of a transcript: each is stored, also one that changes nothing. Durable on return."""
        _check_import(session_id, envelopes)
        return await self._append(session_id, envelopes, imported=True)

    async def replace_imported(self, session_id: str, envelopes: Sequence[Envelope]) -> Receipt:
        """Replace what was imported into a session, in one transaction; its followers get a `Reset`."""
        _check_import(session_id, envelopes)
        if type(envelopes[0].event) is not SessionStarted:
            raise InvalidArgumentError("envelopes", "what replaces a session begins with its SessionStarted")
        core = self._core
        prepared = tuple(prepare(core.files.registry, envelope, core.limits) for envelope in envelopes)
        command = Replace(
            workspace=self._workspace,
            session_id=session_id,
            events=prepared,
            size_bytes=sum(len(p.data) for p in prepared),
            reply=core.ports.reply(),
        )
        await core.registry.actor(self._workspace, session_id).accept(command)
        return await command.reply.wait()

    async def _append(self, session_id: str, events: Sequence[Any], *, imported: bool = False) -> Receipt:
        core = self._core
        prepared = tuple(prepare(core.files.registry, event, core.limits) for event in events)
        command = Append(
            workspace=self._workspace,
            session_id=session_id,
            events=prepared,
            imported=imported,
            size_bytes=sum(len(p.data) for p in prepared),
            reply=core.ports.reply(),
        )
        await core.registry.actor(self._workspace, session_id).accept(command)
        assert command.reply is not None
        return await command.reply.wait()


class Engine(Workspace):
    """An open engine. Also the workspace `default`; `workspace(name)` gives the others."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, DEFAULT_WORKSPACE)

    @property
    def path(self) -> str:
        """The database file."""
        return self._core.files.path

    @property
    def epoch(self) -> str:
        """The id of this writing open; empty while a full disk keeps it from beginning."""
        return self._core.epoch

    @property
    def ports(self) -> Ports:
        """The primitives it was opened with."""
        return self._core.ports

    async def head(self) -> Cursor:
        """The cursor after the last committed event of all workspaces."""
        core = self._core
        core.check_fork()
        await trio.lowlevel.checkpoint()

        def step() -> Cursor:
            with core.files.reader.snapshot() as snapshot:
                return snapshot.cursor

        return await core.ports.step(step)

    async def wait_closing(self) -> None:
        """Wait until the engine begins to close: its block is being left."""
        await self._core.closing.wait()

    def workspace(self, name: str) -> Workspace:
        """The same surface for another workspace. Workspaces never see each other."""
        check_id("workspace", name)
        return Workspace(self._core, name)

    async def sweep(self) -> SweepReport:
        """Settle what other process incarnations left streaming or running. Returns what it settled."""
        self._core.check_fork()
        return await self._core.sweep()

    def statistics(self) -> EngineStatistics:
        """What the engine is doing."""
        core = self._core
        return EngineStatistics(
            writer=core.writer.statistics(),
            sessions=core.registry.statistics(),
            subscriptions=core.hub.statistics(),
            head=core.hub.published,
            unknown_events_read=core.files.reader.unknown_events,
            synced_by="nobody" if core.files.durability == "normal" else "commit" if core.writer.sync is None else "helper",
        )


def check_id(argument: str, value: object) -> None:
    """Refuse what cannot be an id: `InvalidArgumentError`."""
    if not isinstance(value, str) or not 1 <= len(value) <= ID_CHARS_MAX:
        raise InvalidArgumentError(argument, f"expected text of 1 to {ID_CHARS_MAX} characters, found {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(argument, "a lone surrogate cannot be stored") from None


def _check_import(session_id: str, envelopes: Sequence[Envelope]) -> None:
    check_id("session_id", session_id)
    if not envelopes:
        raise InvalidArgumentError("envelopes", "expected at least one")


@asynccontextmanager
async def open_engine(
    path: str | os.PathLike[str],
    *,
    durability: Durability = "full",
    events: Sequence[type[Any]] = (),
    projections: Sequence[type[Any] | Projection] = (),
    sweep: bool = True,
    sync: SyncBy = "auto",
    limits: Limits | None = None,
    ports: Ports | None = None,
    on_progress: Progress | None = None,
) -> AsyncIterator[Engine]:
    """Open (or create) a log and run its actors until the block is left.

    `durability="full"`: what a receipt acknowledged survives power loss; COMMIT syncs the WAL. `"normal"`: it survives a
    crash or `kill -9` of the process, but a power loss or crash of the operating system may take back the latest commits,
    newest first, never a part of one, and never the consistency of the file (synchronous=FULL and NORMAL in WAL mode:
    https://sqlite.org/pragma.html#pragma_synchronous). Cursors notice such a loss: their epoch ended earlier. On a device
    that drops what a failed sync could not write, a power loss in the checkpoint after a failed one may break a `"normal"`
    file (https://wiki.postgresql.org/wiki/Fsync_Errors); a `"full"` one survives that too.

    `sync` says who syncs: `"commit"` is SQLite itself, inside the loop; `"helper"` a small process beside it, so that a slow
    disk never stops the loop (with `"normal"` it only checkpoints); `"auto"` tries the disk and takes the helper where a
    sync takes longer than `Limits.slow_sync_s`. With the helper a read may see a commit a moment before it is durable;
    receipts and followers never do.

    `events` and `projections`: the user's own, beside the vocabulary. `sweep=False` leaves settling to `engine.sweep()`.
    `limits` bounds every queue, batch and wait (see `Limits`); `ports` are the clock, ids and mailboxes, for tests.
    `on_progress(done, total)` hears of a rebuild that a changed projection version makes necessary.

    Raises `OwnedError`, `NotADatabaseError`, `SchemaTooNewError`, `RegistrationError`, `InvalidArgumentError` or another
    `StorageError`; nothing was changed then. On a full disk it opens for reading and catches up with the first write that
    fits. The body's exceptions come out as they are. Leaving the block, also by cancellation, commits or answers everything
    that was accepted, within `shutdown_s`.
    """
    if sync not in ("auto", "commit", "helper"):
        raise InvalidArgumentError("sync", f"expected 'auto', 'commit' or 'helper', found {sync!r}")
    limits = limits or Limits()
    ports = ports or Ports()
    chosen = ports
    files = await ports.step(
        lambda: open_files(
            path,
            durability=durability,
            events=events,
            projections=projections,
            limits=limits,
            ports=chosen,
            on_progress=on_progress,
        )
    )
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            # Cancelled in here, the host would run on with nobody left to close it; it starts without waiting for anything.
            with trio.CancelScope(shield=True):
                core: Core = await nursery.start(host, files, limits, ports)
            try:
                await core.begin()
                await core.choose_sync(sync)
                if sweep:
                    await core.sweep_at_open()
                yield Engine(core)
            except BaseException as problem:
                # Raised again below, outside of the nursery, so that it does not come out in a group.
                failure = problem
            try:
                await core.close()
            except KeyboardInterrupt as interrupt:
                failure = interrupt
            nursery.cancel_scope.cancel()
    finally:
        files.close()
    if failure is not None:
        raise failure
