"""The `tool` table: one row per tool call, beside the part that stands for it in its message.

Owns: table `tool`. Must not know: who runs tools.
Invariants: a settled call (`completed`, `error`, `aborted`) keeps its state, except that the owner corrects what only the
sweep guessed; an update that names the same settled state may fill gaps and change nothing; results of a call reach it
also when its message is settled; None in an update leaves the column as it is.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from engine.errors import InvalidEventError
from engine.events import APPLIED, SETTLED_TOOL_STATES, Applied, Skipped, ToolUpdated, to_json
from engine.projections.builtin import guards
from engine.projections.definition import Projection, Recording
from engine.store import Tx

TABLES = {
    "tool": (
        "part_key INTEGER PRIMARY KEY REFERENCES {part}(key) ON DELETE CASCADE, session_key INTEGER NOT NULL, "
        "call_id TEXT NOT NULL, name TEXT NOT NULL, "
        "state TEXT NOT NULL CHECK(state IN ('pending', 'running', 'completed', 'error', 'aborted')), "
        "settled_by TEXT NOT NULL, input TEXT, output TEXT, error TEXT, child_session_id TEXT, started_at INTEGER, "
        "ended_at INTEGER, touched INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL"
    )
}
INDEXES = {
    "tool_by_call": "INDEX ON {tool}(session_key, call_id)",
    "tool_unfinished": "INDEX ON {tool}(part_key) WHERE state IN ('pending', 'running')",
}

_OPEN: Final = ("pending", "running")
_FILLABLE: Final = ("input", "output", "error", "child_session_id", "started_at", "ended_at")


@attrs.frozen
class _Stored:
    call_id: str
    name: str
    state: str
    settled_by: str
    input: str | None
    output: str | None
    error: str | None
    child_session_id: str | None
    started_at: int | None
    ended_at: int | None


def _updated(tx: Tx, event: ToolUpdated, recorded: Recording) -> Applied | Skipped:
    message = guards.message_for_part(tx, recorded, event.message_id, event.part_id)
    if isinstance(message, Skipped):
        return message
    part_key = _part(tx, event, recorded, message.key)
    row = tx.one(
        "SELECT call_id, name, state, settled_by, input, output, error, child_session_id, started_at, ended_at "
        "FROM {tool} WHERE part_key = ?",
        (part_key,),
    )
    given = {
        "input": None if event.input is None else to_json(event.input),
        "output": None if event.output is None else to_json(event.output),
        "error": event.error,
        "child_session_id": event.child_session_id,
        "started_at": event.started_at,
        "ended_at": event.ended_at,
    }
    if row is None:
        _insert(tx, event, recorded, part_key, given)
        return APPLIED
    stored = _Stored(*row)
    if stored.call_id != event.call_id:
        raise InvalidEventError(
            "tool.updated", f"part {event.part_id!r} is call {stored.call_id!r}, found call {event.call_id!r}"
        )
    return _change(tx, event, recorded, part_key, stored, given)


def _change(
    tx: Tx, event: ToolUpdated, recorded: Recording, part_key: int, stored: _Stored, given: dict[str, Any]
) -> Applied | Skipped:
    guessed = stored.settled_by == "sweep" and event.by != "sweep" and event.state in SETTLED_TOOL_STATES
    if stored.state in _OPEN or guessed:
        # A call that runs does not go back to pending by a late update.
        state = "running" if (stored.state, event.state) == ("running", "pending") else event.state
        wanted = {name: getattr(stored, name) if value is None else value for name, value in given.items()}
        if guessed:
            # What the sweep wrote there was its guess, not the call's error.
            wanted["error"] = given["error"]
        name = event.name
    elif stored.state == event.state:
        state, name = stored.state, stored.name
        wanted = {
            column: value if getattr(stored, column) is None else getattr(stored, column) for column, value in given.items()
        }
    else:
        return Skipped("finished")
    by = event.by if state != stored.state or guessed else stored.settled_by
    before = (stored.name, stored.state, stored.settled_by, *(getattr(stored, column) for column in _FILLABLE))
    after = (name, state, by, *(wanted[column] for column in _FILLABLE))
    if after == before:
        differs = any(value is not None and value != getattr(stored, column) for column, value in given.items())
        return Skipped("finished") if differs else Skipped("unchanged")
    changed = tx.execute(
        "UPDATE {tool} SET name = ?, state = ?, settled_by = ?, input = ?, output = ?, error = ?, child_session_id = ?, "
        "started_at = ?, ended_at = ?, touched = ?, updated_at = ? WHERE part_key = ? AND state = ? AND settled_by = ?",
        (*after, recorded.position, recorded.occurred_at, part_key, stored.state, stored.settled_by),
    )
    return APPLIED if changed else Skipped("finished")


def _insert(tx: Tx, event: ToolUpdated, recorded: Recording, part_key: int, given: dict[str, Any]) -> None:
    tx.execute(
        "INSERT INTO {tool} VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            part_key,
            recorded.session_key,
            event.call_id,
            event.name,
            event.state,
            event.by,
            *(given[column] for column in _FILLABLE),
            recorded.position,
            recorded.occurred_at,
            recorded.occurred_at,
        ),
    )


def _part(tx: Tx, event: ToolUpdated, recorded: Recording, message_key: int) -> int:
    """The key of the part that stands for the call, made where there is none."""
    row = tx.one(
        "SELECT key, message_key FROM {part} WHERE session_key = ? AND part_id = ?", (recorded.session_key, event.part_id)
    )
    if row is not None:
        if row[1] != message_key:
            raise InvalidEventError("tool.updated", f"part {event.part_id!r} belongs to another message")
        key: int = row[0]
        return key
    moment = recorded.occurred_at
    tx.execute(
        "INSERT INTO {part} VALUES(?, ?, ?, ?, 'tool', '{}', ?, ?)",
        (recorded.position, recorded.session_key, message_key, event.part_id, moment, moment),
    )
    return recorded.position


TOOLS = Projection(name="tools", version=1, tables=TABLES, indexes=INDEXES, built_in=True, handlers={ToolUpdated: _updated})
