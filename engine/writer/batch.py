"""What a batch of commands comes to: the answers, and what was written for whoever follows the log.

Owns: these two records. Must not know: how they come about.
"""

from __future__ import annotations

from typing import Literal

import attrs

from engine.commands import AnyCommand
from engine.errors import EngineError
from engine.events import Applied, PreparedEvent, Receipt, Skipped
from engine.projections import Recording


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
