"""Replacing a session's imported events: clearing the old ones by a scan that trusts no secondary index.

Owns: the statements of a replace, inside the writer's open transaction. Must not know: where the new events come from.
Invariants: rows are found by one pass over the table and deleted by primary key; the unique indexes are checked afterwards
and rebuilt, in the same transaction, when they drifted, so that the file is never without them; heads are kept, so no seq
or position is given twice; live events are kept and go behind the new ones.

Source for the drift: an index entry may be missing or left over (https://sqlite.org/howtocorrupt.html); deleting by rowid
then raises SQLITE_CORRUPT_INDEX unless writable_schema is on, which makes the deletion correct itself
(https://sqlite.org/opcode.html#IdxDelete).
"""

from __future__ import annotations

from typing import Any

from engine.errors import StorageCorruptError
from engine.events import Cursor, PreparedEvent, Registry, decode
from engine.store import OUTCOMES, Log, SqlError, StreamState


def clear(store: Log, registry: Registry, state: StreamState) -> list[tuple[PreparedEvent, str]]:
    """Delete the events of the session's live incarnation; return those that were appended live, with outcomes."""
    connection = store.connection
    rows: list[Any] = connection.execute(
        "SELECT position, seq, origin FROM event NOT INDEXED WHERE stream_key = ? AND incarnation = ? ORDER BY position",
        (state.key, state.incarnation),
    ).fetchall()
    kept = [_kept(store, registry, position) for position, _, origin in rows if origin == 0]
    _delete(store, [position for position, _, _ in rows])
    _mend_indexes(store, state)
    return [entry for entry in kept if entry is not None]


def _kept(store: Log, registry: Registry, position: int) -> tuple[PreparedEvent, str] | None:
    row: Any = store.connection.execute(
        "SELECT t.name, t.version, e.occurred_at, e.recorded_at, e.event_id, e.causation_id, e.outcome, e.data "
        "FROM event e JOIN event_type t ON t.key = e.type_key WHERE e.position = ?",
        (position,),
    ).fetchone()
    name, version, occurred_at, recorded_at, event_id, causation_id, outcome, data = row
    definition = registry.named(name)
    if definition is None or not definition.reads(version):
        raise StorageCorruptError(
            "replace imported events", f"live event {name!r} version {version} at position {position} cannot be read"
        )
    event = decode(registry, name, version, data)
    if name == "session.started":
        return None
    moment = recorded_at if occurred_at is None else occurred_at
    # The id that its appender was told stays its id.
    known_as = event_id or str(Cursor(store.epoch_of(position), position))
    return PreparedEvent(definition, event, data.encode(), known_as, moment, causation_id), OUTCOMES[outcome]


def _delete(store: Log, positions: list[int]) -> None:
    connection = store.connection
    connection.pragma("writable_schema", "ON")
    try:
        connection.executemany("DELETE FROM event WHERE position = ?", ((position,) for position in positions))
    finally:
        connection.pragma("writable_schema", "OFF")


def _mend_indexes(store: Log, state: StreamState) -> None:
    """Rebuild the unique indexes when they still list rows of the cleared incarnation."""
    connection = store.connection
    left = connection.execute(
        "SELECT (SELECT count(*) FROM event INDEXED BY event_by_id WHERE stream_key = ?1 AND incarnation = ?2 "
        "AND event_id IS NOT NULL) + (SELECT count(*) FROM event INDEXED BY event_by_seq WHERE stream_key = ?1 "
        "AND seq > ?3)",
        (state.key, state.incarnation, store.head(state)),
    ).get
    if not left:
        return
    try:
        connection.execute("REINDEX event_by_seq")
        connection.execute("REINDEX event_by_id")
    except SqlError as problem:
        raise StorageCorruptError(
            "replace imported events", f"the log's indexes drifted and cannot be rebuilt ({problem})"
        ) from None


def mark(store: Log, stream_key: int, position: int) -> None:
    """Record that cursors before this position are stale for this session."""
    store.connection.execute("UPDATE stream SET replaced_at = ? WHERE key = ?", (position, stream_key))
