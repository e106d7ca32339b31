"""The `session` table: one row per live incarnation. Its children (messages, parts, tools) go with it.

Owns: table `session`. Must not know: messages. The key is the position of the SessionStarted.
"""

from __future__ import annotations

from engine.errors import InvalidEventError
from engine.events import (
    APPLIED,
    Applied,
    SessionForked,
    SessionRemoved,
    SessionRewound,
    SessionStarted,
    SessionUpdated,
    Skipped,
    to_json,
)
from engine.projections.definition import Projection, Recording
from engine.store import Tx

TABLES = {
    "session": (
        "key INTEGER PRIMARY KEY, workspace TEXT NOT NULL, session_id TEXT NOT NULL, incarnation INTEGER NOT NULL, "
        "title TEXT, parent_id TEXT, metadata TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, "
        "UNIQUE(workspace, session_id)"
    )
}
INDEXES = {
    "session_by_workspace": "INDEX ON {session}(workspace, key)",
    "session_by_parent": "INDEX ON {session}(workspace, parent_id) WHERE parent_id IS NOT NULL",
}


def _started(tx: Tx, event: SessionStarted, recorded: Recording) -> Applied:
    moment = recorded.occurred_at
    tx.execute(
        "INSERT INTO {session} VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            recorded.position,
            recorded.workspace,
            recorded.session_id,
            recorded.incarnation,
            event.title,
            event.parent_id,
            to_json(event.metadata),
            moment,
            moment,
        ),
    )
    return APPLIED


def _updated(tx: Tx, event: SessionUpdated, recorded: Recording) -> Applied | Skipped:
    metadata = None if event.metadata is None else to_json(event.metadata)
    changed = tx.execute(
        "UPDATE {session} SET title = coalesce(?1, title), metadata = coalesce(?2, metadata), updated_at = ?3 "
        "WHERE key = ?4 AND (coalesce(?1, title) IS NOT title OR coalesce(?2, metadata) IS NOT metadata)",
        (event.title, metadata, recorded.occurred_at, recorded.session_key),
    )
    return APPLIED if changed else Skipped("unchanged")


def _removed(tx: Tx, _event: SessionRemoved, recorded: Recording) -> Applied:
    tx.execute("DELETE FROM {session} WHERE key = ?", (recorded.session_key,))
    tx.execute("DELETE FROM {tombstone} WHERE session_key = ?", (recorded.session_key,))
    return APPLIED


def _not_yet(_tx: Tx, event: SessionRewound | SessionForked, _recorded: Recording) -> Applied:
    name = "session.rewound" if isinstance(event, SessionRewound) else "session.forked"
    raise InvalidEventError(name, "this version stores no rewind or fork: its read model could not follow")


def touch(tx: Tx, recorded: Recording) -> None:
    """Note that the session changed."""
    tx.execute("UPDATE {session} SET updated_at = ? WHERE key = ?", (recorded.occurred_at, recorded.session_key))


SESSIONS = Projection(
    name="sessions",
    version=1,
    tables=TABLES,
    indexes=INDEXES,
    built_in=True,
    handlers={
        SessionStarted: _started,
        SessionUpdated: _updated,
        SessionRemoved: _removed,
        SessionRewound: _not_yet,
        SessionForked: _not_yet,
    },
)
