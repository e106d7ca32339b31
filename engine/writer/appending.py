"""What an append means, event by event, inside the writer's open transaction.

Owns: ids and duplicates, expected seq, incarnations, skips, what is stored with which outcome.
Must not know: savepoints, batches, who waits.
Invariants: ids are looked up before the expected seq is checked; the database assigns seq and position; the built-in
projections decide an event's outcome before the users' see it; nothing is undone here, an exception leaves that to the
caller.
"""

from __future__ import annotations

from typing import Any

import attrs

from engine.commands import Append
from engine.errors import (
    CallerError,
    DuplicateIdError,
    SessionExistsError,
    SkippedError,
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
)
from engine.projections import Projector, Recording
from engine.store import OUTCOMES, Log, StoredEvent, StreamState
from engine.writer.batch import BatchResult, Written

OUTLIVES_SESSION = (UsageRecorded,)
"""Events that count also after their session was removed: usage is never lost."""


@attrs.frozen(eq=False)
class Ground:
    """What every append works on."""

    log: Log
    projector: Projector
    registry: Registry

    def duplicate_of(
        self, stream_key: int, incarnation: int, session_id: str, prepared: PreparedEvent
    ) -> ReceiptEvent | None:
        """What an event id was given before, or None. Raises `DuplicateIdError` for other content."""
        event_id = prepared.event_id
        assert event_id is not None
        stored = self.log.by_event_id(stream_key, incarnation, event_id)
        if stored is None:
            stored = self._derived(stream_key, incarnation, session_id, event_id)
        if stored is None:
            return None
        if not self._same_content(stored, prepared):
            raise DuplicateIdError(session_id, event_id)
        name = OUTCOMES[stored.outcome]
        outcome = APPLIED if name == "applied" else Skipped(name)  # type: ignore[arg-type]
        return ReceiptEvent(event_id, stored.seq, stored.position, outcome)

    def holds(self, state: StreamState, session_id: str, prepared: PreparedEvent) -> bool:
        """Whether the live incarnation holds this very event under its id. Raises `DuplicateIdError` for other content."""
        assert prepared.event_id is not None
        stored = self.log.by_event_id(state.key, state.incarnation, prepared.event_id)
        if stored is not None and not self._same_content(stored, prepared):
            raise DuplicateIdError(session_id, prepared.event_id)
        return stored is not None

    def _derived(self, stream_key: int, incarnation: int, session_id: str, event_id: str) -> StoredEvent | None:
        """The event whose id the engine derived from its epoch and position."""
        try:
            cursor = Cursor.parse(event_id)
        except CallerError:
            return None
        if all(epoch.id != cursor.epoch for epoch in self.log.epochs):
            return None
        stored = None
        if self.log.epoch_of(cursor.position) == cursor.epoch:
            stored = self.log.by_position(stream_key, incarnation, cursor.position)
        if stored is None:
            raise DuplicateIdError(session_id, event_id, "has the form of an id that only this log assigns")
        return stored

    def _same_content(self, stored: StoredEvent, prepared: PreparedEvent) -> bool:
        definition = prepared.definition
        if stored.type != definition.name:
            return False
        if stored.digest == digest(definition.name, definition.version, prepared.data):
            return True
        return bool(decode(self.registry, stored.type, stored.version, stored.data) == prepared.event)


class OneAppend:
    """One append being carried out: the stream's state as it moves on from event to event."""

    def __init__(
        self,
        ground: Ground,
        command: Append,
        state: StreamState,
        now: int,
        result: BatchResult,
        *,
        reopening: bool = False,
        keep: str | None = None,
    ) -> None:
        self._ground = ground
        self._log = ground.log
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
            original = self._ground.duplicate_of(self._stream.key, self._number, self._command.session_id, prepared)
            if original is not None:
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
            self._ground.projector.follow(event, recorded)
            if type(event) is SessionRemoved:
                self._log.close_incarnation(self._stream)
        return self._done(prepared, recorded, outcome)

    def _decide(self, event: Any, recorded: Recording) -> Applied | Skipped:
        if self._keep is None:
            return self._ground.projector.decide(event, recorded)
        if self._keep != "applied":
            return Skipped(self._keep)  # type: ignore[arg-type]
        try:
            return self._ground.projector.decide(event, recorded)
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
