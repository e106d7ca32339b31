"""What the demo's agents were told: every acknowledgement, to be found again.

Owns: the notes. Must not know: how they are checked (see `checks`), what is in the log.
Invariants: noted is what a receipt said, never what should have happened.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

from engine.errors import EngineError
from engine.events import Duplicate, Receipt, ReceiptEvent, Skipped, UsageRecorded, definition_of

MessageKey = tuple[str, int, str]
"""(session id, incarnation, message id)."""


@attrs.frozen
class Acked:
    """One event that a receipt said is in the log."""

    session_id: str
    incarnation: int
    seq: int
    position: int
    event_id: str
    type: str
    outcome: str


@attrs.define
class Ledger:
    """What one process's agents were told."""

    acked: list[Acked] = attrs.field(factory=list)
    by_id: dict[tuple[str, int, str], tuple[int, int]] = attrs.field(factory=dict)
    """(session, incarnation, event id) to (seq, position): what a duplicate must be told again."""
    duplicates: int = 0
    contradicted: list[str] = attrs.field(factory=list)
    """Duplicates that were told something else than the first time."""
    unstored: Counter[str] = attrs.field(factory=Counter)
    refused: Counter[str] = attrs.field(factory=Counter)
    usage: dict[tuple[str, int, str], tuple[int, UsageRecorded]] = attrs.field(factory=dict)
    """The last report of each step that was acknowledged, with its position."""
    texts: dict[MessageKey, str] = attrs.field(factory=dict)
    """The text of each message that was left without an exception."""
    removed_messages: set[MessageKey] = attrs.field(factory=set)
    removed_sessions: set[tuple[str, int]] = attrs.field(factory=set)
    turns: int = 0
    stopped: int = 0

    def note(self, receipt: Receipt, *events: Any) -> None:
        """Write down what an append was told."""
        for entry, given in zip(receipt.events, events, strict=True):
            event = getattr(given, "event", given)
            if isinstance(entry.outcome, Duplicate):
                self.duplicates += 1
                self._check_again(receipt, entry.outcome.original)
                continue
            if entry.seq is None or entry.position is None:
                assert isinstance(entry.outcome, Skipped)
                self.unstored[entry.outcome.reason] += 1
                continue
            self._note(receipt, entry, entry.seq, entry.position, event)

    def _note(self, receipt: Receipt, entry: ReceiptEvent, seq: int, position: int, event: Any) -> None:
        definition = definition_of(type(event))
        assert definition is not None
        assert entry.event_id is not None
        outcome = entry.outcome.reason if isinstance(entry.outcome, Skipped) else "applied"
        name, number = receipt.session_id, receipt.incarnation
        self.write(Acked(name, number, seq, position, entry.event_id, definition.name, outcome))
        self.by_id[name, number, entry.event_id] = (seq, position)
        if isinstance(event, UsageRecorded) and outcome == "applied":
            before = self.usage.get((name, number, event.step_id))
            if before is None or before[0] < position:
                self.usage[name, number, event.step_id] = (position, event)

    def write(self, acked: Acked) -> None:
        """Keep an acknowledgement."""
        self.acked.append(acked)

    def _check_again(self, receipt: Receipt, original: ReceiptEvent) -> None:
        known = self.by_id.get((receipt.session_id, receipt.incarnation, original.event_id or ""))
        if known is not None and known != (original.seq, original.position):
            self.contradicted.append(f"{original.event_id}: {known}, then {(original.seq, original.position)}")

    def refuse(self, error: EngineError) -> None:
        """Write down a refusal."""
        self.refused[type(error).__name__] += 1
