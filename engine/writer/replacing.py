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

from collections.abc import Iterable
from typing import Any

from engine.errors import StorageCorruptError
from engine.events import Cursor, PreparedEvent, Registry, UnknownEvent, decode, encode_checked
from engine.store import OUTCOMES, Log, SqlError, StreamState

_Kept = tuple[PreparedEvent, str]


def clear(store: Log, registry: Registry, state: StreamState) -> list[_Kept]:
    """Delete the events of the session's live incarnation; return those that were appended live, with outcomes."""
    rows: list[Any] = store.connection.execute(
        "SELECT position, incarnation, seq, origin, event_id FROM event NOT INDEXED WHERE stream_key = ? ORDER BY position",
        (state.key,),
    ).fetchall()
    mine = [row for row in rows if row[1] == state.incarnation]
    kept: dict[tuple[Any, ...], _Kept] = {}
    for position, _, seq, origin, event_id in mine:
        entry = _kept(store, registry, position) if origin == 0 else None
        if entry is not None:
            # Of the copies that a drifted index let in, the first stays.
            kept.setdefault((event_id,) if event_id is not None else (seq, entry[0].data), entry)
    _delete(store, [row[0] for row in mine])
    _mend_indexes(store, state.key, [row for row in rows if row[1] != state.incarnation])
    return list(kept.values())


def _kept(store: Log, registry: Registry, position: int) -> _Kept | None:
    row: Any = store.connection.execute(
        "SELECT t.name, t.version, e.occurred_at, e.recorded_at, e.event_id, e.causation_id, e.outcome, e.data "
        "FROM event e JOIN event_type t ON t.key = e.type_key WHERE e.position = ?",
        (position,),
    ).fetchone()
    name, version, occurred_at, recorded_at, event_id, causation_id, outcome, data = row
    definition = registry.named(name)
    event = decode(registry, name, version, data)
    if definition is None or isinstance(event, UnknownEvent):
        raise StorageCorruptError(
            "replace imported events", f"live event {name!r} version {version} at position {position} cannot be read"
        )
    if name == "session.started":
        return None
    moment = recorded_at if occurred_at is None else occurred_at
    # The id that its appender was told stays its id.
    known_as = event_id or str(Cursor(store.epoch_of(position), position))
    # It is stored again, so at the version that this process writes.
    content = data.encode() if version == definition.version else encode_checked(event)
    return PreparedEvent(definition, event, content, known_as, moment, causation_id), OUTCOMES[outcome]


def _delete(store: Log, positions: list[int]) -> None:
    connection = store.connection
    connection.pragma("writable_schema", "ON")
    try:
        connection.executemany("DELETE FROM event WHERE position = ?", ((position,) for position in positions))
    finally:
        connection.pragma("writable_schema", "OFF")


def _mend_indexes(store: Log, stream_key: int, left: list[Any]) -> None:
    """Rebuild the unique indexes unless they list exactly the rows that are left of the stream."""
    query = store.connection.execute
    by_seq = query("SELECT seq, position FROM event INDEXED BY event_by_seq WHERE stream_key = ?", (stream_key,))
    by_id = query(
        "SELECT incarnation, event_id, position FROM event INDEXED BY event_by_id "
        "WHERE stream_key = ? AND event_id IS NOT NULL",
        (stream_key,),
    )
    sound = _lists(by_seq, {(seq, position) for position, _, seq, _, _ in left}) and _lists(
        by_id, {(number, event_id, position) for position, number, _, _, event_id in left if event_id is not None}
    )
    if sound:
        return
    try:
        query("REINDEX event_by_seq")
        query("REINDEX event_by_id")
    except SqlError as problem:
        raise StorageCorruptError(
            "replace imported events", f"the log's indexes drifted and cannot be rebuilt ({problem})"
        ) from None


def _lists(entries: Iterable[Any], expected: set[tuple[Any, ...]]) -> bool:
    """Whether an index lists each of the expected entries once, and nothing else."""
    found = 0
    for entry in entries:
        if entry not in expected:
            return False
        found += 1
    return found == len(expected)


def mark(store: Log, stream_key: int, position: int) -> None:
    """Record that cursors before this position are stale for this session."""
    store.connection.execute("UPDATE stream SET replaced_at = ? WHERE key = ?", (position, stream_key))
