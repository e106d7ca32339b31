"""The sweep: settling what a dead process left streaming or running, as events.

Owns: finding it. Must not know: who appends the events it proposes.
Invariants: it costs O(unfinished) by partial indexes, never O(log); it proposes only for what was announced or changed
before this process's epoch; a status of NULL and the calls of an import are nobody's business to change; a second sweep
finds nothing; an owner's real finish still wins over what the sweep guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from engine.events import MessageFinished, ToolUpdated
from engine.store import LogReader

REASON = "the process that streamed it ended"


@attrs.frozen(kw_only=True)
class SweepReport:
    """What a sweep settled."""

    messages: int = 0
    tools: int = 0


@attrs.frozen
class Unfinished:
    """What one incarnation of a session left open, as the events that settle it."""

    workspace: str
    session_id: str
    incarnation: int
    events: tuple[Any, ...]


def find_unfinished(reader: LogReader, first_position: int) -> list[Unfinished]:
    """What was left open before a position, session by session. One snapshot."""
    found: dict[tuple[str, str, int], list[Any]] = {}
    query: Callable[..., Any] = reader.connection.execute
    with reader.snapshot():
        tools = query(
            "SELECT s.workspace, s.session_id, s.incarnation, p.part_id, m.message_id, t.call_id, t.name FROM tool t "
            "JOIN part p ON p.key = t.part_key JOIN message m ON m.key = p.message_key "
            "JOIN session s ON s.key = m.session_key "
            "WHERE t.state IN ('pending', 'running') AND t.touched < ? AND t.settled_by <> 'import' "
            "AND m.status IS NOT NULL ORDER BY t.part_key",
            (first_position,),
        ).fetchall()
        for *place, part_id, message_id, call_id, name in tools:
            event = ToolUpdated(part_id, message_id, call_id, name, "aborted", error=REASON, by="sweep")
            found.setdefault(tuple(place), []).append(event)
        messages = query(
            "SELECT s.workspace, s.session_id, s.incarnation, m.message_id FROM message m "
            "JOIN session s ON s.key = m.session_key WHERE m.status = 'streaming' AND m.announced_at < ? ORDER BY m.key",
            (first_position,),
        ).fetchall()
        for *place, message_id in messages:
            found.setdefault(tuple(place), []).append(MessageFinished(message_id, "aborted", REASON, by="sweep"))
    return [Unfinished(*place, tuple(events)) for place, events in found.items()]


def count(unfinished: list[Unfinished]) -> SweepReport:
    """What the proposals settle."""
    events = [event for item in unfinished for event in item.events]
    messages = sum(isinstance(event, MessageFinished) for event in events)
    return SweepReport(messages=messages, tools=len(events) - messages)
