"""The `message` table and the tombstones: announced, streaming, settled once, removed for good.

Owns: tables `message` and `tombstone`. Must not know: parts, which go with their message by cascade.
Invariants (in SQL, not in memory): a terminal status never changes, except that the owner's finish corrects what only the
sweep guessed; NULL (unknown) is changed by an owner's finish alone; a removed message is never announced again; the key
is the position of the first announcement, and so is the message's place in the order.
"""

from __future__ import annotations

from engine.errors import InvalidEventError
from engine.events import APPLIED, Applied, MessageEdited, MessageFinished, MessageRemoved, MessageUpdated, Skipped, to_json
from engine.projections.builtin import guards
from engine.projections.builtin.sessions import touch
from engine.projections.definition import Projection, Recording
from engine.store import Tx

TABLES = {
    "message": (
        "key INTEGER PRIMARY KEY, session_key INTEGER NOT NULL REFERENCES {session}(key) ON DELETE CASCADE, "
        "message_id TEXT NOT NULL, role TEXT NOT NULL, "
        "status TEXT CHECK(status IN ('streaming', 'completed', 'aborted', 'error')), finish_reason TEXT, "
        "settled_by TEXT, metadata TEXT NOT NULL, announced_at INTEGER NOT NULL, created_at INTEGER NOT NULL, "
        "updated_at INTEGER NOT NULL, UNIQUE(session_key, message_id)"
    ),
    **guards.TABLES,
}
INDEXES = {
    "message_in_order": "INDEX ON {message}(session_key, key)",
    "message_unfinished": "INDEX ON {message}(key) WHERE status = 'streaming'",
}


def _updated(tx: Tx, event: MessageUpdated, recorded: Recording) -> Applied | Skipped:
    known = "streaming" if event.role == "assistant" else "completed"
    status = None if event.state == "unknown" else known
    # announced_at is the position of the latest announcement: the sweep leaves alone what this process announced.
    changed = tx.execute(
        "INSERT INTO {message}(key, session_key, message_id, role, status, metadata, announced_at, created_at, updated_at) "
        "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?1, ?7, ?7 WHERE NOT EXISTS "
        "(SELECT 1 FROM {tombstone} t WHERE t.session_key = ?2 AND t.kind = 'message' AND t.id = ?3) "
        "ON CONFLICT(session_key, message_id) DO UPDATE "
        "SET metadata = excluded.metadata, announced_at = excluded.announced_at, updated_at = excluded.updated_at "
        "WHERE {message}.role = excluded.role AND {message}.metadata IS NOT excluded.metadata "
        "AND ({message}.role <> 'assistant' OR {message}.status = 'streaming' OR {message}.status IS NULL)",
        (
            recorded.position,
            recorded.session_key,
            event.message_id,
            event.role,
            status,
            to_json(event.metadata),
            recorded.occurred_at,
        ),
    )
    if changed:
        touch(tx, recorded)
        return APPLIED
    message = guards.find_message(tx, recorded, event.message_id)
    if message is None:
        return guards.missing_message(tx, recorded, event.message_id)
    if message.role != event.role:
        raise InvalidEventError(
            "message.updated", f"message {event.message_id!r} has role {message.role!r}, found {event.role!r}"
        )
    if message.role == "assistant" and guards.is_settled(message.status):
        return Skipped("finished")
    return Skipped("unchanged")


def _finished(tx: Tx, event: MessageFinished, recorded: Recording) -> Applied | Skipped:
    changed = tx.execute(
        "UPDATE {message} SET status = ?1, finish_reason = ?2, settled_by = ?3, updated_at = ?4 "
        "WHERE session_key = ?5 AND message_id = ?6 AND (status = 'streaming' "
        "OR (?3 = 'owner' AND (status IS NULL OR settled_by = 'sweep')))",
        (
            event.status,
            event.finish_reason,
            event.by,
            recorded.occurred_at,
            recorded.session_key,
            event.message_id,
        ),
    )
    if changed:
        touch(tx, recorded)
        return APPLIED
    if guards.find_message(tx, recorded, event.message_id) is None:
        return guards.missing_message(tx, recorded, event.message_id)
    return Skipped("finished")


def _edited(tx: Tx, event: MessageEdited, recorded: Recording) -> Applied | Skipped:
    changed = tx.execute(
        "UPDATE {message} SET metadata = ?1, updated_at = ?2 WHERE session_key = ?3 AND message_id = ?4 "
        "AND metadata IS NOT ?1",
        (to_json(event.metadata), recorded.occurred_at, recorded.session_key, event.message_id),
    )
    if changed:
        return APPLIED
    if guards.find_message(tx, recorded, event.message_id) is None:
        return guards.missing_message(tx, recorded, event.message_id)
    return Skipped("unchanged")


def _removed(tx: Tx, event: MessageRemoved, recorded: Recording) -> Applied | Skipped:
    changed = tx.execute(
        "DELETE FROM {message} WHERE session_key = ? AND message_id = ?", (recorded.session_key, event.message_id)
    )
    if not changed:
        return guards.missing_message(tx, recorded, event.message_id)
    guards.bury(tx, recorded, "message", event.message_id)
    touch(tx, recorded)
    return APPLIED


MESSAGES = Projection(
    name="messages",
    version=1,
    tables=TABLES,
    indexes=INDEXES,
    built_in=True,
    handlers={
        MessageUpdated: _updated,
        MessageFinished: _finished,
        MessageEdited: _edited,
        MessageRemoved: _removed,
    },
)
