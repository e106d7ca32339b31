"""How many rows of what state the built-in tables have.

Owns: SELECTs that count on the read model. Must not know: who asks.
Invariants: one snapshot; one workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from engine.store import LogReader


@attrs.frozen(kw_only=True)
class RowCounts:
    """Live rows of one workspace. The status of a message that nobody knows counts as `unknown`."""

    sessions: int
    messages: Mapping[str, int]
    parts: int
    tools: Mapping[str, int]

    @property
    def unfinished(self) -> int:
        """Messages that stream and tool calls that are open."""
        return self.messages.get("streaming", 0) + self.tools.get("pending", 0) + self.tools.get("running", 0)


def count_rows(reader: LogReader, workspace: str) -> RowCounts:
    """Count the read model of a workspace."""
    query: Callable[..., Any] = reader.connection.execute
    from_messages = "FROM session s JOIN message m ON m.session_key = s.key"
    from_parts = f"{from_messages} JOIN part p ON p.message_key = m.key"
    where = "WHERE s.workspace = ?"
    with reader.snapshot():
        sessions = query(f"SELECT count(*) FROM session s {where}", (workspace,)).get
        messages = query(
            f"SELECT coalesce(m.status, 'unknown'), count(*) {from_messages} {where} GROUP BY 1 ORDER BY 1", (workspace,)
        ).fetchall()
        parts = query(f"SELECT count(*) {from_parts} {where}", (workspace,)).get
        tools = query(
            f"SELECT t.state, count(*) {from_parts} JOIN tool t ON t.part_key = p.key {where} GROUP BY 1 ORDER BY 1",
            (workspace,),
        ).fetchall()
    return RowCounts(sessions=sessions, messages=dict(messages), parts=parts, tools=dict(tools))
