"""One batch of commands as one SQLite transaction: synchronous, from BEGIN to COMMIT.

Owns: what an append means (ids, expected seq, incarnations, skips), savepoints per command, and what a failure of any
statement means for whom. Must not know: the inbox, tasks, who waits.
Invariants: nothing is answered here; a refused command is undone alone; a storage failure undoes and fails the whole
batch; after a COMMIT that failed in doubt, nobody is told "nothing was written" before a fence commit has succeeded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs

from engine.commands import AnyCommand, Append, Flush, PostDelta, Replace
from engine.errors import (
    CallerError,
    DuplicateIdError,
    EngineError,
    OutcomeUnknownError,
    SessionExistsError,
    SkippedError,
    StorageError,
    UnknownSessionError,
    WrongExpectedSeqError,
)
from engine.events import (
    APPLIED,
    RECEIPT_SKIPS,
    STORED_SKIPS,
    Applied,
    Cursor,
    Duplicate,
    EventType,
    PartDelta,
    PreparedEvent,
    Receipt,
    ReceiptEvent,
    Registry,
    SessionRemoved,
    SessionStarted,
    Skipped,
    UsageRecorded,
    decode,
    digest,
    encode_checked,
)
from engine.limits import Limits
from engine.projections import Projector, Recording
from engine.store import OUTCOMES, Log, SqlError, StoredEvent, StreamState, is_busy, is_constraint, is_full, translate
from engine.writer import replacing

log = logging.getLogger("engine.writer")

OUTLIVES_SESSION = (UsageRecorded,)
"""Events that count also after their session was removed: usage is never lost."""


@attrs.define(eq=False)
class Written:
    """One event as this transaction stored it, for whoever follows the log."""

    prepared: PreparedEvent
    recorded: Recording
    outcome: Applied | Skipped
    event_id: str


@attrs.define(eq=False)
class BatchResult:
    """What became of a batch. `answers` pairs every command with its receipt, None (a flush) or error.

    `state`: `committed`; `nothing` (undone, and that is certain); `busy` (somebody else holds the lock: try again);
    `unknown` (COMMIT failed in doubt and the fence too: no further writes).
    """

    state: Literal["committed", "nothing", "busy", "unknown"]
    answers: list[tuple[AnyCommand, Receipt | EngineError | None]]
    written: list[Written] = attrs.field(factory=list)
    replaced: list[tuple[str, str]] = attrs.field(factory=list)
    duplicates: int = 0


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
        marks = len(result.written), len(result.replaced), result.duplicates
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
        self, command: AnyCommand, error: EngineError, result: BatchResult, marks: tuple[int, int, int], guard: Guard
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

    def _undo(self, marks: tuple[int, int, int], result: BatchResult, error: EngineError) -> None:
        del result.written[marks[0] :]
        del result.replaced[marks[1] :]
        result.duplicates = marks[2]
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
        return _OneAppend(self, command, state, now, result).run()

    def duplicate_of(
        self, stream_key: int, incarnation: int, session_id: str, prepared: PreparedEvent
    ) -> ReceiptEvent | None:
        """What an event id was given before, or None. Raises `DuplicateIdError` for other content."""
        event_id = prepared.event_id
        assert event_id is not None
        stored = self._log.by_event_id(stream_key, incarnation, event_id)
        if stored is None:
            stored = self._derived(stream_key, incarnation, session_id, event_id)
        if stored is None:
            return None
        if not self._same_content(stored, prepared):
            raise DuplicateIdError(session_id, event_id)
        name = OUTCOMES[stored.outcome]
        outcome = APPLIED if name == "applied" else Skipped(name)  # type: ignore[arg-type]
        return ReceiptEvent(event_id, stored.seq, stored.position, outcome)

    def _derived(self, stream_key: int, incarnation: int, session_id: str, event_id: str) -> StoredEvent | None:
        """The event whose id the engine derived from its epoch and position."""
        try:
            cursor = Cursor.parse(event_id)
        except CallerError:
            return None
        if all(epoch.id != cursor.epoch for epoch in self._log.epochs):
            return None
        stored = None
        if self._log.epoch_of(cursor.position) == cursor.epoch:
            stored = self._log.by_position(stream_key, incarnation, cursor.position)
        if stored is None:
            raise DuplicateIdError(session_id, event_id, "has the form of an id that only this log assigns")
        return stored

    def _same_content(self, stored: StoredEvent, prepared: PreparedEvent) -> bool:
        definition = prepared.definition
        if stored.type != definition.name:
            return False
        if stored.digest == digest(definition.name, definition.version, prepared.data):
            return True
        return bool(decode(self._registry, stored.type, stored.version, stored.data) == prepared.event)

    def _replace(self, command: Replace, now: int, result: BatchResult) -> Receipt:
        state = self._log.stream(command.workspace, command.session_id)
        if state is None or state.session_key is None:
            raise UnknownSessionError(command.session_id)
        kept = replacing.clear(self._log, self._registry, state)
        imported = Append(
            workspace=command.workspace, session_id=command.session_id, events=command.events, imported=True, creates=True
        )
        start = len(result.written)
        with self._projector.replacing(state.session_key):
            state.session_key = None
            receipt = _OneAppend(self, imported, state, now, result, reopening=True).run()
            for prepared, outcome in kept:
                if self._came_with(state, command.session_id, prepared):
                    continue
                again = Append(workspace=command.workspace, session_id=command.session_id, events=(prepared,))
                _OneAppend(self, again, state, now, result, keep=outcome).run()
        first = result.written[start].recorded.position
        replacing.mark(self._log, state.key, first)
        result.replaced.append((command.workspace, command.session_id))
        return receipt

    def _came_with(self, state: StreamState, session_id: str, prepared: PreparedEvent) -> bool:
        """Whether the new import holds what was appended live under this id. Raises `DuplicateIdError` for other content."""
        assert prepared.event_id is not None
        stored = self._log.by_event_id(state.key, state.incarnation, prepared.event_id)
        if stored is not None and not self._same_content(stored, prepared):
            raise DuplicateIdError(session_id, prepared.event_id)
        return stored is not None

    @property
    def store(self) -> Log:
        return self._log

    @property
    def projector(self) -> Projector:
        return self._projector


class _OneAppend:
    """One append being carried out: the stream's state as it moves on from event to event."""

    def __init__(
        self,
        transactor: Transactor,
        command: Append,
        state: StreamState,
        now: int,
        result: BatchResult,
        *,
        reopening: bool = False,
        keep: str | None = None,
    ) -> None:
        self._transactor = transactor
        self._log = transactor.store
        self._command = command
        self._now = now
        self._result = result
        self._stream = state
        self._number = state.incarnation if command.incarnation is None else command.incarnation
        self._checked = command.expected_seq is None
        self._reopening = reopening
        self._keep = keep

    def run(self) -> Receipt:
        if self._number > self._stream.incarnation:
            raise UnknownSessionError(self._command.session_id)
        entries = tuple(self._one(prepared) for prepared in self._command.events)
        return Receipt(self._command.session_id, self._number, entries)

    @property
    def _alive(self) -> bool:
        return self._stream.session_key is not None and self._number == self._stream.incarnation

    def _one(self, prepared: PreparedEvent) -> ReceiptEvent:
        # What a replace keeps was checked when it was first appended, and has the id that its appender was told.
        if prepared.event_id is not None and self._keep is None:
            original = self._transactor.duplicate_of(self._stream.key, self._number, self._command.session_id, prepared)
            if original is not None:
                self._result.duplicates += 1
                return ReceiptEvent(original.event_id, original.seq, original.position, Duplicate(original))
        if not self._checked:
            self._check_expected()
        if type(prepared.event) is SessionStarted and (self._command.incarnation is None or self._alive):
            return self._start(prepared)
        if not self._alive and not isinstance(prepared.event, OUTLIVES_SESSION):
            return self._store(prepared, Skipped("removed"))
        if type(prepared.event) is SessionStarted:
            raise SessionExistsError(self._command.session_id)
        return self._apply(prepared)

    def _check_expected(self) -> None:
        expected = self._command.expected_seq
        assert expected is not None
        head = self._log.head(self._stream)
        if expected != head:
            raise WrongExpectedSeqError(self._command.session_id, expected, head)
        self._checked = True

    def _start(self, prepared: PreparedEvent) -> ReceiptEvent:
        if self._stream.session_key is not None:
            raise SessionExistsError(self._command.session_id)
        self._number = self._stream.incarnation + (0 if self._reopening else 1)
        return self._apply(prepared)

    def _insert(self, prepared: PreparedEvent, outcome: str) -> tuple[int, int]:
        definition = prepared.definition
        content = None
        if prepared.event_id is not None:
            content = digest(definition.name, definition.version, prepared.data)
        return self._log.insert(
            self._stream.key,
            self._number,
            prepared,
            recorded_at=self._now,
            digest=content,
            outcome=outcome,
            origin=1 if self._command.imported else 0,
        )

    def _recording(self, prepared: PreparedEvent, seq: int, position: int, session_key: int) -> Recording:
        moment = self._now if prepared.occurred_at is None else prepared.occurred_at
        command = self._command
        return Recording(position, seq, command.workspace, command.session_id, self._number, session_key, moment, self._now)

    def _store(self, prepared: PreparedEvent, skip: Skipped) -> ReceiptEvent:
        """Keep an event that is known to change nothing."""
        self._refuse_if_strict(prepared.definition, skip)
        seq, position = self._insert(prepared, skip.reason)
        key = self._log.session_key_of(self._stream.key, self._number)
        return self._done(prepared, self._recording(prepared, seq, position, key or 0), skip)

    def _apply(self, prepared: PreparedEvent) -> ReceiptEvent:
        seq, position = self._insert(prepared, "applied")
        event = prepared.event
        if type(event) is SessionStarted and self._command.incarnation is None:
            self._log.open_incarnation(self._stream, self._number, position)
        key = self._stream.session_key
        if key is None or self._number != self._stream.incarnation:
            key = self._log.session_key_of(self._stream.key, self._number)
        if key is None:
            raise UnknownSessionError(self._command.session_id)
        recorded = self._recording(prepared, seq, position, key)
        outcome = self._decide(event, recorded)
        if outcome is not APPLIED and isinstance(outcome, Skipped):
            if outcome.reason in RECEIPT_SKIPS and not self._command.imported and self._keep is None:
                self._log.forget(self._stream.key, position)
                return ReceiptEvent(prepared.event_id, None, None, outcome)
            if outcome.reason in STORED_SKIPS:
                self._refuse_if_strict(prepared.definition, outcome)
                self._log.set_outcome(position, outcome.reason)
            else:
                # An import stores also what changes nothing, so that the next import finds every record again.
                outcome = APPLIED
        if outcome is APPLIED:
            self._transactor.projector.follow(event, recorded)
            if type(event) is SessionRemoved:
                self._log.close_incarnation(self._stream)
        return self._done(prepared, recorded, outcome)

    def _decide(self, event: Any, recorded: Recording) -> Applied | Skipped:
        if self._keep is None:
            return self._transactor.projector.decide(event, recorded)
        if self._keep != "applied":
            return Skipped(self._keep)  # type: ignore[arg-type]
        try:
            return self._transactor.projector.decide(event, recorded)
        except CallerError:
            # A live event that no longer finds what the replaced import had: kept, and skipped.
            return Skipped("removed")

    def _refuse_if_strict(self, definition: EventType, skip: Skipped) -> None:
        if self._command.strict:
            raise SkippedError(self._command.session_id, definition.name, skip.reason)

    def _done(self, prepared: PreparedEvent, recorded: Recording, outcome: Applied | Skipped) -> ReceiptEvent:
        # What this process writes belongs to its own epoch, the last one.
        event_id = prepared.event_id or f"{self._log.epochs[-1].id}-{recorded.position}"
        self._result.written.append(Written(prepared, recorded, outcome, event_id))
        return ReceiptEvent(event_id, recorded.seq, recorded.position, outcome)
