"""The format of the log's file: one SQLite database in WAL mode.

Owns: the tables of the log, their migrations and the ledger that records them. Must not know: what events mean, and the
tables of projections (each projection owns and creates its own).
Invariants: every table is STRICT; foreign keys are immediate; positions come from AUTOINCREMENT and heads are stored, so
neither is given twice; a migration is applied in the transaction that records it; `application_id` marks the file as ours.

    migration(version, name, applied_at)
        the one ledger: which steps of MIGRATIONS this file has seen. A version that this code does not know is refused.
    epoch(key, id, first_position, opened_at, pid)
        one row per writing open. The epoch of a position is the last one whose first_position is not beyond it. A cursor
        is valid only inside its epoch's range, so a tail that was lost, or a copy that went its own way, cannot pass.
    stream(key, workspace, session_id, head, incarnation, session_key, replaced_at)
        one row per session id ever used, never deleted. head: last seq given. incarnation: number of the last life.
        session_key: position of its SessionStarted, NULL when it is not live. replaced_at: first position after its
        imported events were last replaced, 0 for never; a cursor before it gets a reset.
    incarnation(stream_key, number, session_key)
        every life of a stream, so that a replay finds the session_key of any event.
    event_type(key, name, version)
        interned type names with versions.
    event(position, stream_key, incarnation, seq, type_key, outcome, origin, recorded_at, occurred_at, event_id,
          causation_id, digest, data)
        the append-only log. seq is unique per stream. outcome: index into OUTCOMES, authoritative for every replay.
        origin: 0 appended live, 1 imported. occurred_at: NULL means recorded_at. event_id: NULL means derived from epoch
        and position. digest: of the content, where event_id is given. data: the event's JSON.
    projection(name, version, position)
        the checkpoint of each projection: every event up to position is applied.
    counter(name, value)
        `fence`: counted up after a COMMIT whose outcome is in doubt.

Times are milliseconds since the Unix epoch.
"""

from __future__ import annotations

from typing import Final

import apsw

from engine.errors import NotADatabaseError, SchemaTooNewError
from engine.events import STORED_SKIPS

APPLICATION_ID: Final = 0x41504531
OUTCOMES: Final = ("applied", *STORED_SKIPS)

_V1 = """
CREATE TABLE epoch(
    key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, first_position INTEGER NOT NULL,
    opened_at INTEGER NOT NULL, pid INTEGER NOT NULL) STRICT;
CREATE TABLE stream(
    key INTEGER PRIMARY KEY AUTOINCREMENT, workspace TEXT NOT NULL, session_id TEXT NOT NULL,
    head INTEGER NOT NULL DEFAULT 0, incarnation INTEGER NOT NULL DEFAULT 0, session_key INTEGER,
    replaced_at INTEGER NOT NULL DEFAULT 0, UNIQUE(workspace, session_id)) STRICT;
CREATE INDEX stream_replaced ON stream(workspace, replaced_at) WHERE replaced_at > 0;
CREATE TABLE incarnation(
    stream_key INTEGER NOT NULL REFERENCES stream(key), number INTEGER NOT NULL, session_key INTEGER NOT NULL,
    PRIMARY KEY(stream_key, number)) STRICT, WITHOUT ROWID;
CREATE TABLE event_type(
    key INTEGER PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL, UNIQUE(name, version)) STRICT;
CREATE TABLE event(
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_key INTEGER NOT NULL REFERENCES stream(key), incarnation INTEGER NOT NULL, seq INTEGER NOT NULL,
    type_key INTEGER NOT NULL REFERENCES event_type(key), outcome INTEGER NOT NULL, origin INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL, occurred_at INTEGER, event_id TEXT, causation_id TEXT, digest BLOB,
    data TEXT NOT NULL) STRICT;
CREATE UNIQUE INDEX event_by_seq ON event(stream_key, seq);
CREATE UNIQUE INDEX event_by_id ON event(stream_key, incarnation, event_id) WHERE event_id IS NOT NULL;
CREATE TABLE projection(
    name TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE counter(name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counter VALUES('fence', 0);
"""

MIGRATIONS: Final[tuple[tuple[int, str, str], ...]] = ((1, "the log", _V1),)
"""Every step: version, name, SQL. Steps are only ever added at the end."""

RESERVED_TABLES: Final = frozenset(
    ("migration", "epoch", "stream", "incarnation", "event_type", "event", "projection", "counter")
)


def check_and_migrate(connection: apsw.Connection, path: str, now_ms: int, *, write: bool) -> None:
    """Bring the file to this code's schema, or refuse it as `check` does and change nothing."""
    found = check(connection, path, write=write)
    if write and found < MIGRATIONS[-1][0]:
        _migrate(connection, found, now_ms)


def check(connection: apsw.Connection, path: str, *, write: bool) -> int:
    """The version of the file's schema, 0 for an empty file. Only looks.

    Raises `NotADatabaseError` for another program's database (or, reading, an empty one) and `SchemaTooNewError`.
    """
    owner = connection.pragma("application_id")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if owner != APPLICATION_ID and (owner or tables):
        raise NotADatabaseError(f"open {path}", "it is a SQLite database of another program")
    if not tables and not write:
        raise NotADatabaseError(f"open {path}", "it holds no log yet")
    known = MIGRATIONS[-1][0]
    found = _version(connection) if tables else 0
    if found > known:
        raise SchemaTooNewError(
            f"open {path}", f"its schema has version {found}, this code knows {known}", found=found, supported=known
        )
    return found


def _migrate(connection: apsw.Connection, found: int, now_ms: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migration("
            "version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
        )
        for version, name, sql in MIGRATIONS:
            if version > found:
                connection.execute(sql)
                connection.execute("INSERT INTO migration VALUES(?, ?, ?)", (version, name, now_ms))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: apsw.Connection) -> int:
    version = connection.execute("SELECT max(version) FROM migration").get
    return version if isinstance(version, int) else 0
