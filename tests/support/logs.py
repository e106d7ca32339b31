"""Looking at a log from outside, after something went wrong with it: what every run must leave behind.

Owns: the invariants of the file. Must not know: what happened to it. Nothing here trusts the engine's own answers but the
names of events, which its reader derives.
"""

from __future__ import annotations

import os
from typing import Any

import attrs

from engine import Limits
from engine.ports import Ports
from engine.runtime import Files, open_files
from engine.store import RESERVED_TABLES

Place = tuple[str, int, int]
"""(session id, seq, position)."""


@attrs.frozen
class Seen:
    """What a log holds: each event's place by (session, event id), and each type's number of events."""

    places: dict[tuple[str, str], Place]
    types: list[tuple[str, str, str]]
    """(session id, stored type, event id) in the order of position."""


def open_bare(path: str | os.PathLike[str], vfs: str | None = None) -> Files:
    """The log without actors, its epoch begun."""
    ports = Ports(vfs=vfs)
    files = open_files(path, durability="full", events=(), projections=(), limits=Limits(), ports=ports)
    files.begin()
    return files


def read_model(files: Files) -> dict[str, list[Any]]:
    """Every row of every table of every projection."""
    query = files.log.connection.execute
    names = [name for (name,) in query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()]
    found = {}
    for name in names:
        if name.startswith("sqlite_") or name in RESERVED_TABLES - {"projection"}:
            continue
        found[name] = sorted(query(f'SELECT * FROM "{name}"').fetchall(), key=repr)
    return found


def examine(path: str | os.PathLike[str], vfs: str | None = None) -> Seen:
    """Assert what holds of every log at any time, and return what is in it."""
    files = open_bare(path, vfs)
    try:
        query = files.log.connection.execute
        assert query("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert query("PRAGMA foreign_key_check").fetchall() == []
        gaps = query(
            "SELECT s.session_id, s.head, count(e.seq), min(e.seq), max(e.seq) FROM stream s LEFT JOIN event e "
            "ON e.stream_key = s.key GROUP BY s.key HAVING s.head <> count(e.seq) OR s.head <> coalesce(max(e.seq), 0)"
        ).fetchall()
        assert gaps == [], "seqs are not dense"
        live = read_model(files)
        files.projector.rebuild()
        assert read_model(files) == live, "the read model is not the fold of the log"
        return _seen(files)
    finally:
        files.close()


def _seen(files: Files) -> Seen:
    places: dict[tuple[str, str], Place] = {}
    types: list[tuple[str, str, str]] = []
    after = 0
    while True:
        with files.reader.snapshot():
            page = files.reader.events(workspace="default", after=after)
        if not page:
            return Seen(places, types)
        for item in page:
            places[item.session_id, item.event_id] = (item.session_id, item.seq, item.position)
            types.append((item.session_id, item.type, item.event_id))
        after = page[-1].position
