"""The words around an event: envelope, outcome, receipt, cursor, recorded event, and what a follower is told.

Owns: these value types. Must not know: how any of them comes about.
Invariants: all frozen; a `Skipped` reason is one of `SKIP_REASONS`; order is by `position` only.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import attrs

from engine.errors import CursorError

StoredSkip = Literal["orphan_part", "removed", "finished", "rewound"]
SkipReason = Literal["orphan_part", "removed", "finished", "rewound", "unchanged", "stale_offset"]

STORED_SKIPS: Final[tuple[StoredSkip, ...]] = ("orphan_part", "removed", "finished", "rewound")
"""Skips that are stored in the log with the event: it arrived, and it changed nothing."""
RECEIPT_SKIPS: Final = ("unchanged", "stale_offset")
"""Skips that only the receipt tells: there was nothing to store."""
SKIP_REASONS: Final = STORED_SKIPS + RECEIPT_SKIPS


@attrs.frozen
class Applied:
    """The event is in the log and was shown to the projections."""


@attrs.frozen
class Skipped:
    """The event changed nothing.

    `orphan_part`: the part's message was removed. `removed`: its message or session was removed, or it came from an
    earlier incarnation. `finished`: a streaming write to a settled message, or a state change of a settled tool call.
    `rewound`: what it writes to was rewound. These four are stored in the log. `unchanged` and `stale_offset` (a delta
    that was applied before) are not: seq and position are None.
    """

    reason: SkipReason


@attrs.frozen
class Duplicate:
    """The event id was written before; nothing happened again. `original` is the first receipt's entry."""

    original: ReceiptEvent


Outcome = Applied | Skipped | Duplicate
APPLIED: Final = Applied()


@attrs.frozen
class ReceiptEvent:
    """What the database assigned to one event. `seq` and `position` are None where nothing was stored."""

    event_id: str | None
    seq: int | None
    position: int | None
    outcome: Outcome


@attrs.frozen
class Receipt:
    """The answer to an append, given after COMMIT: one entry per event, in the order of the call."""

    session_id: str
    incarnation: int
    events: tuple[ReceiptEvent, ...]

    def _last(self) -> ReceiptEvent | None:
        entries = [e.outcome.original if isinstance(e.outcome, Duplicate) else e for e in self.events]
        return next((entry for entry in reversed(entries) if entry.seq is not None), None)

    @property
    def seq(self) -> int | None:
        """Seq of the last event that is in the log; None when none of them is."""
        last = self._last()
        return None if last is None else last.seq

    @property
    def position(self) -> int | None:
        """Position of the last event that is in the log; None when none of them is."""
        last = self._last()
        return None if last is None else last.position

    @property
    def outcome(self) -> Outcome:
        """The outcome of the only event. Raises `ValueError` when the append had several."""
        if len(self.events) != 1:
            raise ValueError(f"the receipt has {len(self.events)} events; ask each for its outcome")
        return self.events[0].outcome

    @property
    def skipped(self) -> tuple[ReceiptEvent, ...]:
        """The entries that changed nothing, duplicates not among them."""
        return tuple(entry for entry in self.events if isinstance(entry.outcome, Skipped))


@attrs.frozen
class Envelope:
    """An event with what the caller knows about it.

    `event_id`: opaque, scoped to the incarnation of the session; the same id again answers `Duplicate`.
    `occurred_at`: milliseconds since the Unix epoch, when it differs from the time of recording.
    `causation_id`: opaque id of what caused it.
    """

    event: Any
    event_id: str | None = None
    occurred_at: int | None = None
    causation_id: str | None = None


_POSITION_MAX = 2**63 - 1
_TOKEN = re.compile(r"([0-9a-f]{1,32})-(0|[1-9][0-9]{0,18})", re.ASCII)


@attrs.frozen
class Cursor:
    """A place in the log: `(epoch, position)`. Opaque to its holder; `str()` gives a token, `parse` takes it back."""

    epoch: str
    position: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}"

    @classmethod
    def parse(cls, token: str) -> Cursor:
        """The cursor of a token, or `CursorError`."""
        match = _TOKEN.fullmatch(token)
        # A position beyond SQLite's integers was never assigned, and could not even be looked for.
        if match is None or int(match[2]) > _POSITION_MAX:
            raise CursorError(token[:100], "is not a cursor")
        return cls(match[1], int(match[2]))


@attrs.frozen
class _Place:
    """A place that is no cursor: the beginning or the end of the log."""

    name: str

    def __repr__(self) -> str:
        return self.name


START: Final = _Place("START")
"""Before the first event that is kept."""
HEAD: Final = _Place("HEAD")
"""After the last committed event."""
After = Cursor | _Place


@attrs.frozen
class UnknownEvent:
    """Stands for a stored event whose type or version this process does not know; `data` is its stored JSON."""

    type: str
    version: int
    data: str


@attrs.frozen
class RecordedEvent:
    """One committed event as the log holds it.

    `outcome` is `Applied` or a stored `Skipped`. `event` is the decoded object, upcast to the current version, or an
    `UnknownEvent`. Times are milliseconds since the Unix epoch. `cursor` is where to resume after it.
    """

    position: int
    cursor: Cursor
    workspace: str
    session_id: str
    incarnation: int
    seq: int
    type: str
    version: int
    event: Any
    event_id: str
    occurred_at: int
    recorded_at: int
    causation_id: str | None
    outcome: Applied | Skipped
    size_bytes: int


@attrs.frozen
class CaughtUp:
    """Everything committed before now was delivered; what follows is live."""

    cursor: Cursor


@attrs.frozen
class Lagging:
    """The reader fell behind its bounds; `dropped` buffered events are read again from the log, from `cursor`."""

    cursor: Cursor
    dropped: int


@attrs.frozen
class Reset:
    """What the reader holds is no longer the log's content: it must drop it and start anew. Ends the stream.

    `cursor` None: begin anywhere, best with `read.snapshot` and its cursor, or at `START`. Anything else is a place at which
    what the reader holds is right again, and a new stream from there continues. A replaced import leaves no such place,
    because what it removed may lie anywhere before the cursor.
    """

    reason: str
    cursor: Cursor | None


LogItem = RecordedEvent | CaughtUp | Lagging | Reset
