"""The log read once more by a plain fold: an account of it that shares no code with the projections.

Owns: what follows from the log alone: order, what is settled, removed, used. Must not know: the read model, the ledger.
Invariants: one pass in position order; a rule that the log breaks is a line in `problems`.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs

from engine.cli.demo.ledger import Acked, MessageKey
from engine.events import (
    START,
    After,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    RecordedEvent,
    SessionRemoved,
    SessionStarted,
    Skipped,
    ToolUpdated,
    UsageRecorded,
)

STREAMING: Final = (PartDelta, PartUpdated, MessageUpdated)


@attrs.define
class Fold:
    """What the log says so far."""

    events: dict[int, Acked] = attrs.field(factory=dict)
    heads: dict[str, int] = attrs.field(factory=dict)
    """Last seq of each session."""
    last: dict[str | None, int] = attrs.field(factory=dict)
    """Last position of each session; under None that of the log."""
    skipped: dict[int, str] = attrs.field(factory=dict)
    types: Counter[str] = attrs.field(factory=Counter)
    order: list[str] = attrs.field(factory=list)
    """Where seq or position is not as promised."""
    revived: list[str] = attrs.field(factory=list)
    """Writes to something removed that were applied."""
    unsettled: list[str] = attrs.field(factory=list)
    """Streaming writes to something settled that were applied, and second endings."""
    roles: dict[MessageKey, str] = attrs.field(factory=dict)
    settled: dict[MessageKey, tuple[str, str]] = attrs.field(factory=dict)
    """Status and who said so, of each message that is settled and not removed."""
    removed: set[MessageKey] = attrs.field(factory=set)
    live: dict[str, int] = attrs.field(factory=dict)
    usage: dict[tuple[str, int, str], tuple[int, UsageRecorded]] = attrs.field(factory=dict)
    """The last report of each step, with its position."""
    bytes: int = 0
    cursor: After = START

    def add(self, item: RecordedEvent) -> None:
        """Take in the next event of the log."""
        outcome = item.outcome.reason if isinstance(item.outcome, Skipped) else "applied"
        head = self.heads.get(item.session_id, 0)
        if item.seq != head + 1:
            self.order.append(f"{item.session_id}: seq {item.seq} after {head}")
        if item.position <= self.last.get(None, 0):
            self.order.append(f"position {item.position} after {self.last[None]}")
        self.heads[item.session_id] = item.seq
        self.last[item.session_id] = self.last[None] = item.position
        self.cursor = item.cursor
        self.types[item.type] += 1
        self.bytes += item.size_bytes
        place = (item.session_id, item.incarnation, item.seq, item.position, item.event_id, item.type, outcome)
        self.events[item.position] = Acked(*place)
        if outcome == "applied":
            self._apply(item)
        else:
            self.skipped[item.position] = outcome

    def _apply(self, item: RecordedEvent) -> None:
        event, session = item.event, (item.session_id, item.incarnation)
        if isinstance(event, SessionStarted):
            self.live[item.session_id] = item.incarnation
        elif isinstance(event, UsageRecorded):
            self.usage[*session, event.step_id] = (item.position, event)
        elif self.live.get(item.session_id) != item.incarnation:
            self.revived.append(f"{item.type} at {item.position} was applied to a removed session")
        elif isinstance(event, SessionRemoved):
            del self.live[item.session_id]
        else:
            message_id = getattr(event, "message_id", None)
            if message_id is not None:
                self._apply_to_message(item, (*session, message_id))

    def _apply_to_message(self, item: RecordedEvent, key: MessageKey) -> None:
        event = item.event
        if key in self.removed:
            self.revived.append(f"{item.type} at {item.position} was applied to the removed message {key[2]}")
        elif isinstance(event, MessageRemoved):
            self.removed.add(key)
            self.settled.pop(key, None)
        elif isinstance(event, MessageFinished):
            before = self.settled.get(key)
            if before is not None and (before[1] == "owner" or event.by == "sweep"):
                self.unsettled.append(f"{key[2]} was {before[0]} and was settled again at {item.position}")
            self.settled[key] = (event.status, event.by)
        else:
            if isinstance(event, MessageUpdated):
                self.roles.setdefault(key, event.role)
            late = isinstance(event, STREAMING) or (isinstance(event, ToolUpdated) and event.state == "running")
            if late and key in self.settled and self.roles.get(key) == "assistant":
                self.unsettled.append(f"{item.type} at {item.position} was applied to the settled message {key[2]}")
