"""What the writer says in its log: what was skipped, and what could not be written.

Owns: the wording of these lines. Must not know: the inbox, the batch.
"""

from __future__ import annotations

import logging

from engine.commands import AnyCommand, Append, PostDelta, Replace
from engine.errors import EngineError, OutcomeUnknownError, StorageError
from engine.events import Skipped
from engine.writer.batch import Written

log = logging.getLogger("engine.writer")


def log_failure(command: AnyCommand, error: EngineError) -> None:
    """Say of every event of a failed command that it was not written: nobody else does where no caller waits."""
    if isinstance(error, StorageError | OutcomeUnknownError):
        level = logging.ERROR
    elif command.reply is None:
        level = logging.WARNING
    else:
        return
    if isinstance(command, PostDelta):
        log.log(level, "not written: event - type part.delta session %s seq -: %s", _line(command.session_id), error)
    elif isinstance(command, Append | Replace):
        for event in command.events:
            log.log(
                level,
                "not written: event %s type %s session %s seq -: %s",
                _line(event.event_id or "-"),
                event.definition.name,
                _line(command.session_id),
                error,
            )


def log_skip(item: Written) -> None:
    """Say once that a late write was skipped, with its event id, type, session and seq."""
    log.warning(
        "skipped (%s): event %s type %s session %s seq %d",
        item.outcome.reason if isinstance(item.outcome, Skipped) else "-",
        _line(item.event_id),
        item.prepared.definition.name,
        _line(item.recorded.session_id),
        item.recorded.seq,
    )


def _line(text: str) -> str:
    """An id as it stands in a line of the log: it came from outside, and must not begin a line of its own."""
    return text if text.isprintable() else repr(text)
