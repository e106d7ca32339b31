"""The writer actor: the one task that writes.

Messages it accepts (commands): `Append`, `PostDelta`, `Flush`, `Replace`.
State: the bounded inbox; how many commands in it carry a reply; whether it is open, closing, closed or broken; counts.
Invariants: a batch is cut right away when a command in hand carries a reply, else at `batch_events_max` or after
`flush_delay_s`; a batch is one synchronous step that nothing cancels; committed events are published before their replies
are resolved, and neither happens before COMMIT (and, with a sync port, the sync) has returned; every accepted command is
answered once; after an outcome that stayed unknown it writes no more and says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import trio

from engine.commands import AnyCommand, Append, Flush, PostDelta, Replace
from engine.errors import BrokenError, ClosedError, EngineError, ForkedError, OutcomeUnknownError, StorageError
from engine.events import APPLIED, Receipt
from engine.limits import Limits
from engine.ports import ForkGuard, Mailbox, Ports, Sync, SyncUnavailableError
from engine.store import SqlError, clean, translate
from engine.writer.batch import BatchResult, Written
from engine.writer.statistics import Tally, WriterStatistics, quantile
from engine.writer.telling import log_failure, log_skip
from engine.writer.transaction import Transactor

log = logging.getLogger("engine.writer")

Publish = Callable[[list[Written], list[tuple[str, str]]], None]


class Writer:
    """The handle and the loop of the writer actor."""

    def __init__(
        self,
        transactor: Transactor,
        *,
        ports: Ports,
        limits: Limits,
        opening: Callable[[], None],
        checkpoint: Callable[[], tuple[int, int]],
        publish: Publish,
        fence: Callable[[], None],
    ) -> None:
        self._transactor = transactor
        self._ports = ports
        self._limits = limits
        self._opening = opening
        self._opened = False
        self._fence = fence
        self._checkpoint = checkpoint
        self._publish = publish
        self.sync: Sync | None = None
        """Who syncs beside the loop: checkpoints, and commits where COMMIT itself does not."""
        self.sync_commits = False
        """Whether a commit is answered only after `sync` has made it durable."""
        self._fork = ForkGuard()
        self.owed: Callable[[], list[AnyCommand]] | None = None
        """What an opening that had to wait owes beside its epoch: commands that go into the first batch that fits."""
        self._inbox: Mailbox[AnyCommand] = ports.mailbox(
            "writer", items_max=limits.inbox_commands_max, bytes_max=limits.inbox_bytes_max
        )
        self._urgent = 0
        self._joined_bytes = 0
        self._state = "open"
        self._why_broken = ""
        self._deadline = math.inf
        self._syncing = trio.CancelScope()
        self._ending = False
        self._tally = Tally()
        self._checkpoints_failed = 0
        self._wal_bytes = 0
        self._wal_next = limits.wal_checkpoint_bytes
        self._wal_pinned = False
        self.closed = trio.Event()

    # --- handle -------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, command: AnyCommand) -> None:
        """Accept a command, or raise `trio.WouldBlock`, `ClosedError` or `BrokenError`."""
        self._refuse_when_not_open()
        self._inbox.put_nowait(command, command.size_bytes)
        self._urgent += command.reply is not None

    @trio.lowlevel.enable_ki_protection
    async def send(self, command: AnyCommand) -> None:
        """Accept a command, waiting while the inbox is full. Cancelled while waiting: it was not accepted."""
        self._refuse_when_not_open()
        # Counted before it is in, so that the loop never waits for company while it is.
        self._urgent += command.reply is not None
        try:
            await self._inbox.put(command, command.size_bytes)
        except BaseException:
            self._urgent -= command.reply is not None
            raise

    def holds_more(self, size_bytes: int) -> bool:
        """Whether there is room to join so much to a command that waits; it counts from then on."""
        if self._inbox.size_bytes + self._joined_bytes + size_bytes > self._limits.inbox_bytes_max:
            return False
        self._joined_bytes += size_bytes
        return True

    def _refuse_when_not_open(self) -> None:
        self._fork.check()
        if self._state == "broken":
            raise BrokenError("the writer", self._why_broken)
        if self._state != "open":
            raise ClosedError("the engine")

    @property
    def opened(self) -> bool:
        """Whether the epoch of this open has begun."""
        return self._opened

    @property
    def broken(self) -> bool:
        """Whether it stopped writing by itself."""
        return self._state == "broken"

    def close(self, deadline: float) -> None:
        """Accept nothing more; the loop writes what it has accepted, then ends.

        A locked file, and a sync beside the loop, are waited for until the deadline.
        """
        self._deadline = self._syncing.deadline = deadline
        self._ending = True
        if self._state == "open":
            self._state = "closing"
        self._inbox.poke()

    def statistics(self) -> WriterStatistics:
        """What it did so far."""
        tally = self._tally
        return WriterStatistics(
            state=self._state,
            queue_depth=len(self._inbox),
            queue_bytes=self._inbox.size_bytes + self._joined_bytes,
            batches=tally.batches,
            events=tally.events,
            outcomes=dict(tally.outcomes),
            batch_events_p50=int(quantile(tally.sizes, 0.5)),
            batch_events_max=max(tally.sizes, default=0),
            commit_ms_p50=round(1e3 * quantile(tally.latencies_s, 0.5), 3),
            commit_ms_p99=round(1e3 * quantile(tally.latencies_s, 0.99), 3),
            busy_retries=tally.busy_retries,
            wal_bytes=self._wal_bytes,
            wal_pinned=self._wal_pinned,
            checkpoints_failed=self._checkpoints_failed,
        )

    def note_wal(self, size_bytes: int) -> None:
        """Told by the store after each COMMIT how long the WAL is."""
        self._wal_bytes = size_bytes

    # --- loop ---------------------------------------------------------------------------------

    # An interrupt from the keyboard belongs to the main task: here it would lose what was accepted.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Write until closed and drained. Cancelled, it answers what it had accepted with `ClosedError`."""
        try:
            while True:
                if not len(self._inbox):
                    # A broken writer stays to refuse: the engine lives on for its readers.
                    if self._ending:
                        break
                    await self._inbox.wait()
                    continue
                await self._wait_for_company()
                await self._write(self._cut())
        finally:
            self._answer_the_rest()
            if self._state != "broken":
                self._state = "closed"
            self.closed.set()

    async def _wait_for_company(self) -> None:
        deadline = trio.current_time() + self._limits.flush_delay_s
        while (
            not self._urgent
            and self._state == "open"
            and len(self._inbox) < self._limits.batch_events_max
            and not self._inbox.senders_waiting
        ):
            with trio.move_on_at(deadline) as waiting:
                await self._inbox.wait()
            if waiting.cancelled_caught:
                break

    def _cut(self) -> list[AnyCommand]:
        """Take a batch: at least one command, and no more than the limits allow."""
        batch: list[AnyCommand] = []
        events = size = 0
        while (command := self._inbox.peek()) is not None:
            weight = len(command.events) if isinstance(command, Append | Replace) else 1
            if batch and (
                events + weight > self._limits.batch_events_max or size + command.size_bytes > self._limits.batch_bytes_max
            ):
                break
            self._inbox.take()
            self._urgent -= command.reply is not None
            command.sealed = True
            if isinstance(command, PostDelta):
                self._joined_bytes -= command.joined_bytes
            events += weight
            size += command.size_bytes
            batch.append(command)
        return batch

    async def _write(self, batch: list[AnyCommand]) -> None:
        with trio.CancelScope(shield=True):
            if self._state == "broken":
                self._answer_all(batch, BrokenError("the writer", self._why_broken))
                return
            try:
                self._fork.check()
            except ForkedError as error:
                # What was accepted before the fork is the parent's to write.
                self._answer_all(batch, error)
                return
            started = trio.current_time()
            result = await self._attempt(batch)
            if result.state == "committed" and result.written and self.sync is not None and self.sync_commits:
                result = await self._sync_result(result, self.sync)
            self._tally.count(result, trio.current_time() - started)
            self._finish(result)
            if self._wal_bytes >= self._wal_next:
                await self._make_room_in_wal()
            # Let the others run before the next batch, also when the inbox is never empty.
            await trio.lowlevel.checkpoint()

    async def _attempt(self, batch: list[AnyCommand]) -> BatchResult:
        give_up = trio.current_time() + self._limits.busy_retry_s
        while True:
            try:
                result = await self._ports.step(lambda: self._step(batch))
            except Exception as bug:
                log.exception("the writer failed on a batch of %d commands", len(batch))
                self._break(f"an internal error: {type(bug).__name__}: {bug}")
                error = OutcomeUnknownError("write a batch", f"internal error {type(bug).__name__}: {bug}")
                return BatchResult("unknown", [(command, error.clone()) for command in batch])
            if result.state != "busy" or trio.current_time() >= min(give_up, self._deadline):
                return result
            self._tally.busy_retries += 1
            await trio.sleep(self._limits.busy_pause_s)

    def _step(self, batch: list[AnyCommand]) -> BatchResult:
        """What runs as one synchronous step: catching up with the opening, where that had to wait, and the batch."""
        if all(isinstance(command, Flush) for command in batch):
            return self._transactor.run(batch)
        try:
            self.ensure_opened()
            owed = self.owed() if self.owed is not None else []
        except (SqlError, EngineError) as problem:
            error = translate(problem, "begin an epoch") if isinstance(problem, SqlError) else problem
            state = "busy" if type(error).__name__ == "StorageBusyError" else "nothing"
            return BatchResult(state, [(command, clean(error.clone())) for command in batch])  # type: ignore[arg-type]
        result = self._transactor.run([*owed, *batch])
        if result.state == "committed":
            self.owed = None
        return result

    def ensure_opened(self) -> None:
        """Do what a writing open owes the file (epoch, projections), once. Raises what the storage says."""
        if not self._opened:
            self._opening()
            self._opened = True

    async def _sync_result(self, result: BatchResult, sync: Sync) -> BatchResult:
        try:
            with trio.CancelScope(deadline=self._deadline) as self._syncing:
                await sync.sync()
        except OSError as problem:
            # The COMMIT is visible already and the kernel may report the error only once: nothing can undo or prove it.
            error = OutcomeUnknownError("sync the log", str(problem))
        except SyncUnavailableError as problem:
            log.warning("%s; COMMIT syncs from now on", problem)
            await sync.aclose()
            try:
                await self._ports.step(self._sync_inline)
            except SqlError as failure:
                error = OutcomeUnknownError("sync the log", f"{problem}, and then {failure}")
            else:
                return result
        else:
            if not self._syncing.cancelled_caught:
                return result
            error = OutcomeUnknownError("sync the log", "the device had not answered when the engine had to be closed")
        return BatchResult("unknown", [(command, error.clone()) for command, _ in result.answers])

    def _sync_inline(self) -> None:
        """Go on without the helper: a commit that syncs makes everything before it durable too."""
        self._fence()
        self.sync = None

    async def _make_room_in_wal(self) -> None:
        if self.sync is not None:
            try:
                with trio.CancelScope(deadline=self._deadline) as self._syncing:
                    await self.sync.checkpoint()
            except OSError as problem:
                self._checkpoint_failed(problem)
            except SyncUnavailableError as problem:
                self._checkpoint_failed(problem)
                if not self.sync_commits:
                    # No commit would ever find out that it is gone, and the WAL would grow without end.
                    await self.sync.aclose()
                    self.sync = None
                    await self._ports.step(self._run_checkpoint)
            else:
                # What is left of the WAL is known after the next commit.
                self._wal_next = self._limits.wal_checkpoint_bytes
                self._wal_bytes = 0
        else:
            await self._ports.step(self._run_checkpoint)

    def _run_checkpoint(self) -> None:
        try:
            frames, copied = self._checkpoint()
        except SqlError as problem:
            self._checkpoint_failed(problem)
            return
        self._wal_pinned = copied < frames
        step = self._limits.wal_checkpoint_bytes
        self._wal_next = self._wal_bytes + step if self._wal_pinned else step

    def _checkpoint_failed(self, problem: Exception) -> None:
        self._checkpoints_failed += 1
        self._wal_next = self._wal_bytes + self._limits.wal_checkpoint_bytes
        log.warning("checkpoint failed, the log is safe in its WAL: %s", problem)

    # --- answers ------------------------------------------------------------------------------

    def _finish(self, result: BatchResult) -> None:
        if result.state == "unknown" and self._state != "broken":
            self._break("the outcome of a COMMIT is unknown")
        if result.state == "committed" and (result.written or result.replaced):
            self._publish(result.written, result.replaced)
            for item in result.written:
                if item.outcome is not APPLIED:
                    log_skip(item)
        for command, answer in result.answers:
            self._answer(command, answer)

    def _answer(self, command: AnyCommand, answer: Receipt | EngineError | None) -> None:
        reply: Any = command.reply
        if isinstance(command, Flush) and isinstance(answer, StorageError | OutcomeUnknownError):
            # It had nothing to write: those whose events could not be are told through their own channel or sink.
            answer = None
        if isinstance(answer, EngineError):
            log_failure(command, answer)
            answer = clean(answer)
            if reply is not None:
                reply.reject(answer)
            elif isinstance(command, Append | PostDelta) and command.sink is not None:
                command.sink.failed(answer)
        elif reply is not None:
            reply.resolve(answer)

    def _break(self, why: str) -> None:
        self._state = "broken"
        self._why_broken = why
        log.error("the writer stopped: %s; reads go on", why)

    def _answer_all(self, commands: list[AnyCommand], error: EngineError) -> None:
        for command in commands:
            self._answer(command, error.clone())

    def _answer_the_rest(self) -> None:
        while (command := self._inbox.take()) is not None:
            broken = self._state == "broken"
            self._answer(command, BrokenError("the writer", self._why_broken) if broken else ClosedError("the engine"))
