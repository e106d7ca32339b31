"""Rows of the built-in tables as the views that readers get.

Owns: the order of columns that the reads select. Must not know: how the rows are found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from engine.projections.views import PartView, SessionView, ToolView, UsageReport, UsageTotals

SESSION_COLUMNS = "key, session_id, incarnation, title, parent_id, metadata, created_at, updated_at"
MESSAGE_COLUMNS = "key, message_id, role, status, finish_reason, settled_by, metadata, created_at, updated_at"
TOOL_COLUMNS = "call_id, name, state, settled_by, input, output, error, child_session_id, started_at, ended_at"
USAGE_SUMS = (
    "count(*), sum(u.cost_nanousd), sum(u.input_tokens), sum(u.output_tokens), sum(u.reasoning_tokens), "
    "sum(u.cache_read_tokens), sum(u.cache_write_tokens)"
)


def session_view(row: tuple[Any, ...]) -> SessionView:
    """A live session."""
    key, session_id, incarnation, title, parent_id, metadata, created_at, updated_at = row
    return SessionView(
        key=key,
        session_id=session_id,
        incarnation=incarnation,
        title=title,
        parent_id=parent_id,
        metadata=json.loads(metadata),
        created_at=created_at,
        updated_at=updated_at,
    )


def part_view(row: tuple[Any, ...], texts: dict[str, str]) -> PartView:
    """A part with its streamed texts, and its tool call where it has one."""
    key, part_id, kind, data, created_at, updated_at = row[:6]
    tool = _tool_view(row[6:], texts) if row[6] is not None else None
    return PartView(
        key=key,
        part_id=part_id,
        kind=kind,
        data={**json.loads(data), **texts},
        tool=tool,
        created_at=created_at,
        updated_at=updated_at,
    )


def _tool_view(row: tuple[Any, ...], texts: dict[str, str]) -> ToolView:
    """A tool call."""
    call_id, name, state, settled_by, given, output, error, child_session_id, started_at, ended_at = row
    return ToolView(
        call_id=call_id,
        name=name,
        state=state,
        settled_by=settled_by,
        input=texts.get("input") if given is None else json.loads(given),
        output=texts.get("output") if output is None else json.loads(output),
        error=error,
        child_session_id=child_session_id,
        started_at=started_at,
        ended_at=ended_at,
    )


def usage_report(rows: Iterable[tuple[Any, ...]]) -> UsageReport:
    """Sums by whether they are the session\'s own, by whether their message is there, and by model."""
    sums: dict[str, UsageTotals] = {"own": UsageTotals(), "unattributed": UsageTotals(), "children": UsageTotals()}
    models: dict[str, UsageTotals] = {}
    for own, attributed, model, *values in rows:
        totals = UsageTotals(
            steps=values[0],
            cost_nanousd=values[1],
            input_tokens=values[2],
            output_tokens=values[3],
            reasoning_tokens=values[4],
            cache_read_tokens=values[5],
            cache_write_tokens=values[6],
        )
        kind = "children" if not own else "own" if attributed else "unattributed"
        sums[kind] += totals
        name = model or "unknown"
        models[name] = models.get(name, UsageTotals()) + totals
    return UsageReport(**sums, by_model=models)
