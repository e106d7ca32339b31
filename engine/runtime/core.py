"""The wired parts of one engine: its writer, its session actors, its followers, on one open log.

Owns: how the parts are connected, what an opening does before its user gets it, the order of closing.
Must not know: the public surface.
"""

from __future__ import annotations

import logging
import os

import trio

from engine import maintenance
from engine.commands import AnyCommand, Append
from engine.errors import StorageBusyError, StorageFullError
from engine.events import Cursor, RecordedEvent, prepare
from engine.limits import Limits
from engine.maintenance import SweepReport
from engine.ports import ForkGuard, Ports, SyncUnavailableError
from engine.projections import ReadModel
from engine.runtime.files import Files, SyncBy
from engine.session import Registry, SessionContext
from engine.store import SqlError, checkpoint, translate
from engine.subscriptions import Hub
from engine.writer import SyncHelper, Writer, Written

log = logging.getLogger("engine")


class Core:
    """The wired parts of one engine."""

    def __init__(self, files: Files, nursery: trio.Nursery, limits: Limits, ports: Ports) -> None:
        self.files = files
        self.limits = limits
        self.ports = ports
        self._fork = ForkGuard()
        self.closing = trio.Event()
        """Set when it begins to close."""
        self.hub = Hub(self._record)
        self.writer = Writer(
            files.transactor,
            ports=ports,
            limits=limits,
            opening=files.begin,
            checkpoint=lambda: checkpoint(files.log.connection),
            publish=self.hub.publish,
            fence=files.sync_now,
        )
        files.wal_bytes = self.writer.note_wal
        self.registry = Registry(nursery, self.writer, ports, limits)
        self.context = SessionContext(
            registry=self.registry, events=files.registry, ports=ports, limits=limits, open_tools=self._open_tools
        )

    @property
    def epoch(self) -> str:
        """The id of this writing open; empty while it could not begin."""
        epochs = self.files.log.epochs
        return epochs[-1].id if epochs and self.writer.opened else ""

    def check_fork(self) -> None:
        """Raise `ForkedError` in a forked child."""
        self._fork.check()

    def _open_tools(self, workspace: str, session_id: str, message_id: str) -> list[tuple[str, str, str]]:
        return ReadModel(self.files.reader, self.ports, self.limits, workspace).open_tools(session_id, message_id)

    def _record(self, item: Written) -> RecordedEvent:
        place, prepared = item.recorded, item.prepared
        cursor = Cursor(self.files.log.epoch_of(place.position), place.position)
        return RecordedEvent(
            position=place.position,
            cursor=cursor,
            workspace=place.workspace,
            session_id=place.session_id,
            incarnation=place.incarnation,
            seq=place.seq,
            type=prepared.definition.name,
            version=prepared.definition.version,
            event=prepared.event,
            event_id=item.event_id,
            occurred_at=place.occurred_at,
            recorded_at=place.recorded_at,
            causation_id=prepared.causation_id,
            outcome=item.outcome,
            size_bytes=len(prepared.data),
        )

    async def begin(self) -> None:
        """Begin the epoch now where the disk lets us; on a full disk the first write that fits does it."""

        def step() -> None:
            try:
                try:
                    self.writer.ensure_opened()
                finally:
                    self.hub.published = self.files.log.last_position()
            except SqlError as problem:
                raise translate(problem, f"open {self.files.path}") from None

        give_up = trio.current_time() + self.limits.busy_retry_s
        while True:
            try:
                await self.ports.step(step)
            except StorageFullError as problem:
                log.warning("%s; reads work, the first write that fits catches up", problem.describe())
            except StorageBusyError:
                if trio.current_time() < give_up:
                    await trio.sleep(self.limits.busy_pause_s)
                    continue
                raise
            return

    async def choose_sync(self, sync: SyncBy) -> None:
        """Decide who syncs, and start the helper where it is the one."""
        files = self.files
        if not self.writer.opened:
            return
        if sync == "auto":
            if os.name != "posix" or self.ports.vfs is not None:
                return
            try:
                seconds = await self.ports.step(files.sync_seconds)
            except SqlError as problem:
                log.warning("%s; COMMIT syncs", translate(problem, "try the disk").describe())
                return
            if seconds <= self.limits.slow_sync_s:
                return
        if sync != "commit":
            start = self.ports.start_sync or SyncHelper.start
            try:
                self.writer.sync = await start(files.path)
            except SyncUnavailableError as problem:
                log.warning("%s; COMMIT syncs", problem)
                return
            if files.durability == "full":
                self.writer.sync_commits = True
                await self.ports.step(lambda: files.sync_in_commit(False))

    async def sweep_at_open(self) -> None:
        """Sweep now where the disk lets us; on a full disk the sweep goes with the first write that fits."""
        self.writer.owed = self._owed_sweep
        if self.writer.opened:
            try:
                await self.sweep()
            except StorageFullError as problem:
                log.warning("sweep: %s; the first write that fits sweeps", problem.describe())

    async def sweep(self) -> SweepReport:
        """Settle what other process incarnations left open, now."""
        owed, self.writer.owed = self.writer.owed, None
        try:
            unfinished = await self.ports.step(self._unfinished)
            for item in unfinished:
                command = self._settling(item)
                command.reply = self.ports.reply()
                await self.registry.actor(item.workspace, item.session_id).accept(command)
                await command.reply.wait()
        except BaseException:
            self.writer.owed = owed
            raise
        return maintenance.count(unfinished)

    def _unfinished(self) -> list[maintenance.Unfinished]:
        # Before this process's epoch has begun, all there is was left by others.
        first = self.files.log.epochs[-1].first_position if self.writer.opened else 2**63 - 1
        return maintenance.find_unfinished(self.files.reader, first)

    def _owed_sweep(self) -> list[AnyCommand]:
        return [self._settling(item) for item in self._unfinished()]

    def _settling(self, item: maintenance.Unfinished) -> Append:
        prepared = tuple(prepare(self.files.registry, event, self.limits) for event in item.events)
        return Append(
            workspace=item.workspace,
            session_id=item.session_id,
            incarnation=item.incarnation,
            events=prepared,
            size_bytes=sum(len(p.data) for p in prepared),
        )

    async def close(self) -> None:
        """Commit or answer everything accepted, then let the followers end."""
        self.closing.set()
        deadline = trio.current_time() + self.limits.shutdown_s
        try:
            with trio.CancelScope(deadline=deadline, shield=True):
                await self.registry.close()
        finally:
            # Also after an interrupt from the keyboard, which no shield stops: the host ends only with the writer.
            self.writer.close(deadline)
        with trio.CancelScope(shield=True):
            await self.writer.closed.wait()
        self.hub.close()
        if self.writer.sync is not None:
            with trio.CancelScope(shield=True):
                await self.writer.sync.aclose()


@trio.lowlevel.enable_ki_protection
async def host(files: Files, limits: Limits, ports: Ports, task_status: trio.TaskStatus[Core]) -> None:
    """Run the actors where cancellation of the engine's user does not reach them: they end when they are drained."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            core = Core(files, nursery, limits, ports)
            ports.spawn(nursery, core.writer.run, name="writer")
            task_status.started(core)
            await core.writer.closed.wait()
            nursery.cancel_scope.cancel()
