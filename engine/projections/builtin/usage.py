"""The usage ledger: what each step used, counted once, whatever happens to its message or session.

Owns: tables `usage` and `spender`. Must not know: messages (whether usage is attributed is asked when it is read).
Invariants: one row per (incarnation, step), the last report wins; rows are never deleted; whole nano-dollars and tokens.
`spender` remembers who spent, with its parent, for longer than the session lives.
"""

from __future__ import annotations

from engine.events import APPLIED, Applied, SessionStarted, Skipped, UsageRecorded
from engine.projections.definition import Projection, Recording
from engine.store import Tx

TABLES = {
    "usage": (
        "key INTEGER PRIMARY KEY, session_key INTEGER NOT NULL, step_id TEXT NOT NULL, message_id TEXT, model TEXT, "
        "cost_nanousd INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, "
        "reasoning_tokens INTEGER NOT NULL, cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, "
        "created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, UNIQUE(session_key, step_id)"
    ),
    "spender": ("session_key INTEGER PRIMARY KEY, workspace TEXT NOT NULL, session_id TEXT NOT NULL, parent_id TEXT"),
}
INDEXES = {
    "spender_by_id": "INDEX ON {spender}(workspace, session_id)",
    "spender_by_parent": "INDEX ON {spender}(workspace, parent_id) WHERE parent_id IS NOT NULL",
}


def _started(tx: Tx, event: SessionStarted, recorded: Recording) -> Applied:
    tx.execute(
        "INSERT INTO {spender} VALUES(?, ?, ?, ?)",
        (recorded.position, recorded.workspace, recorded.session_id, event.parent_id),
    )
    return APPLIED


def _recorded(tx: Tx, event: UsageRecorded, recorded: Recording) -> Applied | Skipped:
    moment = recorded.occurred_at
    changed = tx.execute(
        "INSERT INTO {usage} VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(session_key, step_id) DO UPDATE SET "
        "message_id = coalesce(excluded.message_id, {usage}.message_id), model = coalesce(excluded.model, {usage}.model), "
        "cost_nanousd = excluded.cost_nanousd, input_tokens = excluded.input_tokens, "
        "output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, "
        "cache_read_tokens = excluded.cache_read_tokens, cache_write_tokens = excluded.cache_write_tokens, "
        "updated_at = excluded.updated_at WHERE "
        "coalesce(excluded.message_id, {usage}.message_id) IS NOT {usage}.message_id "
        "OR coalesce(excluded.model, {usage}.model) IS NOT {usage}.model "
        "OR (excluded.cost_nanousd, excluded.input_tokens, excluded.output_tokens, excluded.reasoning_tokens, "
        "excluded.cache_read_tokens, excluded.cache_write_tokens) <> ({usage}.cost_nanousd, {usage}.input_tokens, "
        "{usage}.output_tokens, {usage}.reasoning_tokens, {usage}.cache_read_tokens, {usage}.cache_write_tokens)",
        (
            recorded.position,
            recorded.session_key,
            event.step_id,
            event.message_id,
            event.model,
            event.cost_nanousd,
            event.input_tokens,
            event.output_tokens,
            event.reasoning_tokens,
            event.cache_read_tokens,
            event.cache_write_tokens,
            moment,
            moment,
        ),
    )
    return APPLIED if changed else Skipped("unchanged")


USAGE = Projection(
    name="usage",
    version=1,
    tables=TABLES,
    indexes=INDEXES,
    built_in=True,
    handlers={SessionStarted: _started, UsageRecorded: _recorded},
)
