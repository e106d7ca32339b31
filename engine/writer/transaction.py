"""One batch of commands as one SQLite transaction: synchronous, from BEGIN to COMMIT.

Owns: savepoints, running a batch again, and what a failure of any statement means for whom. Must not know: what an append
means (see `appending`), the inbox, tasks, who waits.
Invariants: nothing is answered here; a refused command is undone alone; a storage failure undoes and fails the whole
batch; after a COMMIT that failed in doubt, nobody is told "nothing was written" before a fence commit has succeeded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Literal

from engine.commands import AnyCommand, Append, Flush, PostDelta, Replace
from engine.errors import (
    EngineError,
    OutcomeUnknownError,
    StorageError,
    UnknownSessionError,
)
from engine.events import (
    PartDelta,
    PreparedEvent,
    Receipt,
    Registry,
    SessionStarted,
    encode_checked,
)
from engine.limits import Limits
from engine.projections import Projector
from engine.store import Log, SqlError, is_busy, is_constraint, is_full, translate
from engine.writer import replacing
from engine.writer.appending import Ground, OneAppend
from engine.writer.batch import BatchResult

log = logging.getLogger("engine.writer")

CAREFUL_BATCHES: Final = 100
"""Batches that run with savepoints after one met a refusal: where there is one there may be more."""

Guard = Literal["alone", "none", "savepoint"]
"""What undoes a refused command: the transaction (it is the only one), nothing (the batch runs again), its savepoint."""


class _RolledBackError(Exception):
    """SQLite undid the whole transaction in mid-batch, because of `error`."""

    def __init__(self, error: EngineError) -> None:
        self.error = error


class _NeedsSavepointsError(Exception):
    """A command was refused in a batch that runs without savepoints."""


class _RefusedAloneError(Exception):
    """The only command of a batch was refused."""

    def __init__(self, error: EngineError) -> None:
        self.error = error


class Transactor:
    """Runs batches on the writing connection."""

    def __init__(
        self, store: Log, projector: Projector, registry: Registry, now_ms: Callable[[], int], limits: Limits
    ) -> None:
        self._log = store
        self._ground = Ground(store, projector, registry)
        self._projector = projector
        self._registry = registry
        self._now_ms = now_ms
        self._limits = limits
        self._careful = 0
        self._delta_type = registry.of(PartDelta("p", "m", "text", 0, ""))

    def run(self, batch: Sequence[AnyCommand]) -> BatchResult:
        """Run the batch in one transaction.

        Refusals are rare and savepoints cost a tenth of an append (measured), so a batch is run without them first; one that
        meets a refusal is undone whole and run again with a savepoint around every command.
        """
        if all(isinstance(command, Flush) for command in batch):
            return BatchResult("committed", [(command, None) for command in batch])
        careful = self._careful > 0
        try:
            return self._run(batch, careful)
        except _NeedsSavepointsError:
            self._careful = CAREFUL_BATCHES
            return self._run(batch, careful=True)

    def _run(self, batch: Sequence[AnyCommand], careful: bool) -> BatchResult:
        result = BatchResult("committed", [])
        try:
            self._log.begin()
        except SqlError as problem:
            self._log.rollback()
            return self._failed(batch, "busy" if is_busy(problem) else "nothing", translate(problem, "begin a transaction"))
        now = self._now_ms()
        guard: Guard = "alone" if len(batch) == 1 else "savepoint" if careful else "none"
        self._careful -= careful
        try:
            for command in batch:
                self._run_command(command, now, result, guard)
            if result.written or result.replaced:
                self._log.save_checkpoints(self._projector.names, result.written[-1].recorded.position)
        except SqlError as problem:
            self._roll_back()
            return self._failed(batch, "nothing", translate(problem, "write a batch"))
        except _RolledBackError as problem:
            self._roll_back()
            why = f"SQLite undid all of it after: {problem.error.describe()}"
            return self._failed(batch, "nothing", StorageError("write a batch", why))
        except _RefusedAloneError as refused:
            self._roll_back()
            return BatchResult("committed", [(batch[0], refused.error)])
        except BaseException:
            self._roll_back()
            raise
        return self._commit(batch, result)

    def _roll_back(self) -> None:
        try:
            self._log.rollback()
        except SqlError as problem:
            log.warning("rollback failed: %s", problem)

    def _commit(self, batch: Sequence[AnyCommand], result: BatchResult) -> BatchResult:
        try:
            self._log.commit()
        except SqlError as problem:
            error = translate(problem, "commit")
            # A constraint or a lock leaves the transaction open; anything else has closed it.
            open_still = self._log.in_transaction
            self._roll_back()
            if is_constraint(problem) and len(batch) > 1:
                return self._one_by_one(batch)
            if open_still or is_full(problem) or is_constraint(problem):
                # A full disk fails while the frames are written, before the one that would commit them is whole.
                return self._failed(batch, "nothing", error)
            return self._fence(batch, error)
        return result

    def _one_by_one(self, batch: Sequence[AnyCommand]) -> BatchResult:
        """A constraint that only COMMIT checks failed: find whose it is by giving each command its own transaction."""
        combined = BatchResult("committed", [])
        for command in batch:
            single = self.run([command])
            if single.state == "unknown":
                return self._failed(batch, "unknown", self._unknown("a later COMMIT of the batch failed in doubt"))
            combined.answers += single.answers
            combined.written += single.written
            combined.replaced += single.replaced
        return combined

    def _fence(self, batch: Sequence[AnyCommand], error: StorageError) -> BatchResult:
        try:
            self._log.fence()
        except SqlError as problem:
            self._roll_back()
            log.error("%s; the fence failed too (%s): the outcome is unknown", error.describe(), problem)  # noqa: TRY400
            return self._failed(
                batch, "unknown", self._unknown(f"{error.problem} (code {error.code}), and the fence failed too")
            )
        return self._failed(batch, "nothing", error)

    @staticmethod
    def _unknown(problem: str) -> OutcomeUnknownError:
        return OutcomeUnknownError("commit", problem)

    @staticmethod
    def _failed(
        batch: Sequence[AnyCommand], state: Literal["nothing", "busy", "unknown"], error: EngineError
    ) -> BatchResult:
        return BatchResult(state, [(command, error.clone()) for command in batch])

    # --- one command --------------------------------------------------------------------------

    def _run_command(self, command: AnyCommand, now: int, result: BatchResult, guard: Guard) -> None:
        if isinstance(command, Flush):
            result.answers.append((command, None))
            return
        marks = len(result.written), len(result.replaced)
        if guard == "savepoint":
            self._log.savepoint()
        try:
            receipt = self._carry_out(command, now, result)
        except EngineError as error:
            # A caller's mistake, or stored events of this session that cannot be read: nobody else's business.
            self._refuse(command, error, result, marks, guard)
        except SqlError as problem:
            if not is_constraint(problem):
                raise
            refusal = translate(problem, f"append to {command.session_id!r}")
            self._refuse(command, refusal, result, marks, guard)
        else:
            if guard == "savepoint":
                self._log.release()
            result.answers.append((command, receipt))

    def _refuse(
        self, command: AnyCommand, error: EngineError, result: BatchResult, marks: tuple[int, int], guard: Guard
    ) -> None:
        """Undo one command and answer it alone."""
        if not self._log.in_transaction:
            raise _RolledBackError(error)
        if guard == "none":
            raise _NeedsSavepointsError
        if guard == "alone":
            raise _RefusedAloneError(error)
        self._undo(marks, result, error)
        result.answers.append((command, error))

    def _undo(self, marks: tuple[int, int], result: BatchResult, error: EngineError) -> None:
        del result.written[marks[0] :]
        del result.replaced[marks[1] :]
        try:
            self._log.undo_savepoint()
        except SqlError:
            if self._log.in_transaction:
                raise
            raise _RolledBackError(error) from None

    def _carry_out(self, command: Append | PostDelta | Replace, now: int, result: BatchResult) -> Receipt:
        if isinstance(command, Append):
            return self._append(command, now, result)
        if isinstance(command, PostDelta):
            return self._append(self._as_append(command), now, result)
        return self._replace(command, now, result)

    def _as_append(self, command: PostDelta) -> Append:
        text = "".join(command.pieces)
        event = PartDelta(command.part_id, command.message_id, command.field, command.offset, text)  # type: ignore[arg-type]
        prepared = PreparedEvent(self._delta_type, event, encode_checked(event))
        return Append(
            workspace=command.workspace, session_id=command.session_id, incarnation=command.incarnation, events=(prepared,)
        )

    # --- append -------------------------------------------------------------------------------

    def _append(self, command: Append, now: int, result: BatchResult) -> Receipt:
        state = self._log.stream(command.workspace, command.session_id)
        if state is None:
            if type(command.events[0].event) is not SessionStarted:
                raise UnknownSessionError(command.session_id)
            state = self._log.create_stream(command.workspace, command.session_id)
        return OneAppend(self._ground, command, state, now, result).run()

    def _replace(self, command: Replace, now: int, result: BatchResult) -> Receipt:
        state = self._log.stream(command.workspace, command.session_id)
        if state is None or state.session_key is None:
            raise UnknownSessionError(command.session_id)
        kept = replacing.clear(self._log, self._registry, state)
        imported = Append(workspace=command.workspace, session_id=command.session_id, events=command.events, imported=True)
        start = len(result.written)
        with self._projector.replacing(state.session_key):
            state.session_key = None
            receipt = OneAppend(self._ground, imported, state, now, result, reopening=True).run()
            for prepared, outcome in kept:
                if self._ground.holds(state, command.session_id, prepared):
                    continue
                again = Append(workspace=command.workspace, session_id=command.session_id, events=(prepared,))
                OneAppend(self._ground, again, state, now, result, keep=outcome).run()
        first = result.written[start].recorded.position
        replacing.mark(self._log, state.key, first)
        result.replaced.append((command.workspace, command.session_id))
        return receipt
