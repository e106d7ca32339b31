"""The `part` and `part_text` tables: what a message is made of, and the text that streams into it.

Owns: both tables. Must not know: tool calls, which are parts with a row more.
Streamed text is kept in chunks, one row per delta, so that the bytes written stay proportional to the bytes streamed: a
delta adds a row at the end of `part_text` and never rewrites the part. Text under `text`, `input` and `output` of a
part's data lives there too, as the chunk at 0, so that a delta can continue it.
Invariants: the chunks of a field are gapless from 0; a chunk's key is 4 * position + field, so a rebuild makes the same
rows; streaming writes reach an assistant's message only while it is streaming (or unknown).
"""

from __future__ import annotations

from typing import Any, Final

from engine.errors import InvalidEventError, OffsetError, UnknownMessageError
from engine.events import APPLIED, Applied, PartDelta, PartEdited, PartRemoved, PartUpdated, Skipped, to_json
from engine.projections.builtin import guards
from engine.projections.definition import Projection, Recording
from engine.store import Tx

FIELDS: Final = ("text", "input", "output")

TABLES = {
    "part": (
        "key INTEGER PRIMARY KEY, session_key INTEGER NOT NULL, "
        "message_key INTEGER NOT NULL REFERENCES {message}(key) ON DELETE CASCADE, part_id TEXT NOT NULL, "
        "kind TEXT NOT NULL, data TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, "
        "UNIQUE(session_key, part_id)"
    ),
    "part_text": (
        "key INTEGER PRIMARY KEY, part_key INTEGER NOT NULL REFERENCES {part}(key) ON DELETE CASCADE, "
        "field INTEGER NOT NULL, start INTEGER NOT NULL, until INTEGER NOT NULL, text TEXT NOT NULL"
    ),
}
INDEXES = {
    "part_in_message": "INDEX ON {part}(message_key, key)",
    "part_text_in_order": "UNIQUE INDEX ON {part_text}(part_key, field, start, until)",
}

_LENGTH = "coalesce((SELECT max(t.until) FROM {part_text} t WHERE t.part_key = p.key AND t.field = ?2), 0)"


def _delta(tx: Tx, event: PartDelta, recorded: Recording) -> Applied | Skipped:
    field = FIELDS.index(event.field)
    changed = tx.execute(
        "INSERT INTO {part_text}(key, part_key, field, start, until, text) SELECT ?1, p.key, ?2, ?3, ?4, ?5 "
        "FROM {part} p CROSS JOIN {message} m ON m.key = p.message_key "
        "WHERE p.session_key = ?6 AND p.part_id = ?7 AND m.message_id = ?8 "
        f"AND (m.status = 'streaming' OR m.status IS NULL) AND ?3 = {_LENGTH} AND ?4 > ?3",
        (
            4 * recorded.position + field,
            field,
            event.offset,
            event.offset + len(event.text),
            event.text,
            recorded.session_key,
            event.part_id,
            event.message_id,
        ),
    )
    return APPLIED if changed else _why_no_delta(tx, event, recorded, field)


def _why_no_delta(tx: Tx, event: PartDelta, recorded: Recording, field: int) -> Applied | Skipped:
    message = guards.message_for_part(tx, recorded, event.message_id, event.part_id)
    if isinstance(message, Skipped):
        return message
    part_key = _part_of(tx, recorded, event.part_id, message.key)
    if part_key is None:
        raise UnknownMessageError(recorded.session_id, f"part {event.part_id!r}")
    if guards.is_settled(message.status):
        return Skipped("finished")
    present = read_field(tx, part_key, field) or ""
    if event.offset > len(present):
        problem = f"part {event.part_id!r} {event.field}: expected offset {len(present)}, found {event.offset}"
    elif present.startswith(event.text, event.offset):
        return Skipped("stale_offset" if event.text else "unchanged")
    elif event.text.startswith(present[event.offset :]):
        # Its beginning is there already (delivered twice, joined with what follows): the rest goes on from it.
        _insert_text(
            tx, 4 * recorded.position + field, part_key, field, len(present), event.text[len(present) - event.offset :]
        )
        return APPLIED
    else:
        problem = (
            f"part {event.part_id!r} {event.field}: expected offset {len(present)}, found {event.offset} with other text "
            "than is there"
        )
    raise OffsetError("part.delta", problem, event.part_id, len(present), event.offset)


def _updated(tx: Tx, event: PartUpdated, recorded: Recording) -> Applied | Skipped:
    rest, texts = split(event.data)
    changed = tx.execute(
        "INSERT INTO {part}(key, session_key, message_key, part_id, kind, data, created_at, updated_at) "
        "SELECT ?1, ?2, m.key, ?4, ?5, ?6, ?7, ?7 FROM {message} m WHERE m.session_key = ?2 AND m.message_id = ?3 "
        "AND (m.role <> 'assistant' OR m.status = 'streaming' OR m.status IS NULL) AND NOT EXISTS "
        "(SELECT 1 FROM {tombstone} t WHERE t.session_key = ?2 AND t.kind = 'part' AND t.id = ?4) "
        "ON CONFLICT(session_key, part_id) DO UPDATE "
        "SET kind = excluded.kind, data = excluded.data, updated_at = excluded.updated_at "
        "WHERE {part}.message_key = excluded.message_key "
        "AND ({part}.kind IS NOT excluded.kind OR {part}.data IS NOT excluded.data)",
        (
            recorded.position,
            recorded.session_key,
            event.message_id,
            event.part_id,
            event.kind,
            to_json(rest),
            recorded.occurred_at,
        ),
    )
    if not changed:
        message = guards.message_for_part(tx, recorded, event.message_id, event.part_id)
        if isinstance(message, Skipped):
            return message
        if message.role == "assistant" and guards.is_settled(message.status):
            return Skipped("finished")
        _part_of(tx, recorded, event.part_id, message.key)
    return _write_texts(tx, event, recorded, texts, bool(changed))


def _edited(tx: Tx, event: PartEdited, recorded: Recording) -> Applied | Skipped:
    rest, texts = split(event.data)
    changed = tx.execute(
        "UPDATE {part} SET data = ?1, updated_at = ?2 WHERE session_key = ?3 AND part_id = ?4 AND data IS NOT ?1 "
        "AND message_key = (SELECT m.key FROM {message} m WHERE m.session_key = ?3 AND m.message_id = ?5)",
        (to_json(rest), recorded.occurred_at, recorded.session_key, event.part_id, event.message_id),
    )
    if not changed:
        message = guards.message_for_part(tx, recorded, event.message_id, event.part_id)
        if isinstance(message, Skipped):
            return message
        if _part_of(tx, recorded, event.part_id, message.key) is None:
            raise UnknownMessageError(recorded.session_id, f"part {event.part_id!r}")
    return _write_texts(tx, event, recorded, texts, bool(changed))


def _removed(tx: Tx, event: PartRemoved, recorded: Recording) -> Applied | Skipped:
    message = guards.message_for_part(tx, recorded, event.message_id, event.part_id)
    if isinstance(message, Skipped):
        return message
    part_key = _part_of(tx, recorded, event.part_id, message.key)
    if part_key is None:
        raise UnknownMessageError(recorded.session_id, f"part {event.part_id!r}")
    tx.execute("DELETE FROM {part} WHERE key = ?", (part_key,))
    guards.bury(tx, recorded, "part", event.part_id)
    return APPLIED


def _write_texts(
    tx: Tx, event: PartUpdated | PartEdited, recorded: Recording, texts: dict[int, str | None], changed: bool
) -> Applied | Skipped:
    """Make each given field read exactly as given, writing only what differs."""
    if not texts:
        return APPLIED if changed else Skipped("unchanged")
    row = tx.one(
        "SELECT p.key FROM {part} p JOIN {message} m ON m.key = p.message_key "
        "WHERE p.session_key = ? AND p.part_id = ? AND m.message_id = ?",
        (recorded.session_key, event.part_id, event.message_id),
    )
    if row is None:
        raise InvalidEventError("part.updated", f"part {event.part_id!r} belongs to another message")
    part_key: int = row[0]
    for field, text in texts.items():
        present = read_field(tx, part_key, field)
        if present == text:
            continue
        kept = len(present) if present and text is not None and text.startswith(present) else 0
        if not kept:
            tx.execute("DELETE FROM {part_text} WHERE part_key = ? AND field = ?", (part_key, field))
        if text is not None:
            _insert_text(tx, 4 * recorded.position + field, part_key, field, kept, text[kept:])
        changed = True
    if not changed:
        return Skipped("unchanged")
    return APPLIED


def _insert_text(tx: Tx, key: int, part_key: int, field: int, start: int, text: str) -> None:
    tx.execute("INSERT INTO {part_text} VALUES(?, ?, ?, ?, ?, ?)", (key, part_key, field, start, start + len(text), text))


def _part_of(tx: Tx, recorded: Recording, part_id: str, message_key: int) -> int | None:
    """The part's key; None when there is none. Raises `InvalidEventError` when it is another message's."""
    row = tx.one(
        "SELECT key, message_key FROM {part} WHERE session_key = ? AND part_id = ?", (recorded.session_key, part_id)
    )
    if row is None:
        return None
    if row[1] != message_key:
        raise InvalidEventError("part", f"part {part_id!r} belongs to another message")
    key: int = row[0]
    return key


def read_field(tx: Tx, part_key: int, field: int) -> str | None:
    """The whole text of a field, or None when it has none."""
    rows = tx.all("SELECT text FROM {part_text} WHERE part_key = ? AND field = ? ORDER BY start", (part_key, field))
    return "".join(row[0] for row in rows) if rows else None


def split(data: dict[str, Any]) -> tuple[dict[str, Any], dict[int, str | None]]:
    """A part's data without its streamable texts, and these by field number.

    A field that holds something else than text stays in the data, and takes the place of what was streamed: None.
    """
    texts: dict[int, str | None] = {}
    rest = data
    for index, name in enumerate(FIELDS):
        if name in data:
            value = data[name]
            texts[index] = value if isinstance(value, str) else None
            if isinstance(value, str):
                rest = {key: kept for key, kept in rest.items() if key != name}
    return rest, texts


PARTS = Projection(
    name="parts",
    version=1,
    tables=TABLES,
    indexes=INDEXES,
    built_in=True,
    handlers={PartUpdated: _updated, PartDelta: _delta, PartEdited: _edited, PartRemoved: _removed},
)
