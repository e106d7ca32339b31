"""Looking at a file as a whole: is it sound, and what exactly is in its read model.

Owns: SQLite's own checks, a digest of every table of the read model. Must not know: what the tables mean.
Invariants: changes nothing; two files, or one file before and after a rebuild, have equal fingerprints exactly when their
tables hold the same rows.
"""

from __future__ import annotations

import hashlib
from typing import Any

import attrs

from engine.projections.builtin import BUILT_IN_PROJECTIONS
from engine.store import LogReader


@attrs.frozen
class Fingerprint:
    """How many rows a table has, and a digest of all of them in order."""

    rows: int
    digest: str


def fingerprint(reader: LogReader) -> dict[str, Fingerprint]:
    """The fingerprint of every table of the built-in projections. Reads them whole, in one snapshot."""
    found = {}
    with reader.snapshot():
        for table in (name for projection in BUILT_IN_PROJECTIONS for name in projection.tables):
            columns: list[Any] = reader.connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
            order = ", ".join(f'"{name}"' for (name,) in columns)
            content, count = hashlib.blake2b(digest_size=16), 0
            for row in reader.connection.execute(f'SELECT {order} FROM "{table}" ORDER BY {order}'):
                content.update(repr(row).encode())
                count += 1
            found[table] = Fingerprint(count, content.hexdigest())
    return found


def integrity(reader: LogReader) -> list[str]:
    """What SQLite finds wrong: pages, indexes against their tables, foreign keys. Empty when nothing is."""
    with reader.snapshot():
        found: list[Any] = reader.connection.execute("PRAGMA integrity_check").fetchall()
        orphans: list[Any] = reader.connection.execute("PRAGMA foreign_key_check").fetchall()
    problems = [str(text) for (text,) in found if text != "ok"]
    return problems + [f"row {row[1]} of {row[0]} has no parent in {row[2]}" for row in orphans]
