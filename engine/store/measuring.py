"""How large the file is and what the log holds: passes over the whole file, for people who ask.

Owns: SELECTs that count. Must not know: projections, beyond that every table which is not the log's belongs to one.
Invariants: each call is one snapshot; the WAL's length is asked of the file system, never by opening the file.
"""

from __future__ import annotations

import os
from typing import Any

import apsw
import attrs

from engine.store.reading import LogReader
from engine.store.schema import OUTCOMES, RESERVED_TABLES


@attrs.frozen(kw_only=True)
class FileSizes:
    """Octets. `log` and `read_models` count their tables with indexes; None where this SQLite cannot tell (no dbstat)."""

    file: int
    wal: int
    free: int
    log: int | None
    read_models: int | None


@attrs.frozen(kw_only=True)
class TypeCount:
    """How many events of one type, version and outcome a workspace has."""

    type: str
    version: int
    outcome: str
    events: int
    known: bool


def file_sizes(reader: LogReader, path: str) -> FileSizes:
    """How large the file, its WAL, the log and the read models are. One pass over the file's pages."""
    query = reader.connection.execute
    with reader.snapshot():
        page: int = reader.connection.pragma("page_size")
        pages: int = reader.connection.pragma("page_count")
        free: int = reader.connection.pragma("freelist_count")
        log: int | None = 0
        models: int | None = 0
        try:
            rows: list[Any] = query(
                "SELECT coalesce(s.tbl_name, d.name), sum(d.pgsize) FROM dbstat d "
                "LEFT JOIN sqlite_schema s ON s.name = d.name WHERE d.aggregate = TRUE GROUP BY 1"
            ).fetchall()
        except apsw.SQLError:
            log = models = None
        else:
            log = sum(size for name, size in rows if name in RESERVED_TABLES)
            models = sum(size for name, size in rows if name not in RESERVED_TABLES and not name.startswith("sqlite_"))
    try:
        wal = os.stat(f"{path}-wal").st_size
    except OSError:
        wal = 0
    return FileSizes(file=page * pages, wal=wal, free=page * free, log=log, read_models=models)


def count_types(reader: LogReader, workspace: str) -> list[TypeCount]:
    """The workspace's events by type, version and outcome, the most frequent first. One pass over the log."""
    with reader.snapshot():
        rows: list[Any] = reader.connection.execute(
            "SELECT t.name, t.version, e.outcome, count(*) FROM event e JOIN stream s ON s.key = e.stream_key "
            "JOIN event_type t ON t.key = e.type_key WHERE s.workspace = ? GROUP BY t.key, e.outcome "
            "ORDER BY 4 DESC, 1, 2, 3",
            (workspace,),
        ).fetchall()
    return [
        TypeCount(type=name, version=version, outcome=OUTCOMES[outcome], events=count, known=reader.can_read(name, version))
        for name, version, outcome, count in rows
    ]


def checkpoints(reader: LogReader) -> dict[str, tuple[int, int]]:
    """The version and the position of every projection that this file has tables of."""
    with reader.snapshot():
        rows: list[Any] = reader.connection.execute("SELECT name, version, position FROM projection").fetchall()
    return {name: (version, position) for name, version, position in rows}
