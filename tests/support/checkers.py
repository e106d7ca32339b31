"""The invariants that hold after every scenario, each checked by a query that does not trust what it checks.

`check_log` opens the file of a closed engine and raises `AssertionError` naming the invariant that is broken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import apsw

from engine.events import Receipt, ReceiptEvent
from engine.limits import Limits
from engine.ports import Ports
from engine.runtime import Files, open_files
from engine.store import OUTCOMES

Tables = dict[str, list[tuple[Any, ...]]]
LOG_TABLES = ("epoch", "stream", "incarnation", "event_type", "event", "counter", "migration")


def rows_of(connection: apsw.Connection, tables: Iterable[str]) -> Tables:
    """Every row of the tables, ordered by all columns."""
    return {name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in tables}


def projection_tables(connection: apsw.Connection) -> list[str]:
    """The tables of the read model, the users' own included."""
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall()
    return sorted(name for (name,) in names if name not in LOG_TABLES)


def check_log(
    path: Any,
    *,
    events: Iterable[type[Any]] = (),
    projections: Iterable[type[Any]] = (),
    dense: bool = True,
    receipts: Iterable[Receipt] = (),
) -> None:
    """Every invariant of a closed log. `dense=False` where the scenario deleted or replaced events."""
    files = open_files(
        path, durability="normal", events=tuple(events), projections=tuple(projections), limits=Limits(), ports=Ports()
    )
    try:
        connection = files.log.connection
        check_file(connection)
        check_sequences(connection, dense=dense)
        check_usage(connection)
        check_removed_and_settled(connection)
        check_receipts(connection, receipts)
        check_rebuild(files)
    finally:
        files.close()


def check_file(connection: apsw.Connection) -> None:
    """The file is whole, no child is without its parent, and each index of the log agrees with a scan that avoids it."""
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA foreign_keys").get == 1
    indexes = connection.execute(
        "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND sql NOT LIKE '%WHERE%'"
    ).fetchall()
    for index, table in indexes:
        columns = connection.execute("SELECT name FROM pragma_index_info(?)", (index,)).fetchall()
        listed = ", ".join(f'"{column}"' for (column,) in columns)
        by_index = connection.execute(f'SELECT {listed} FROM "{table}" INDEXED BY "{index}" ORDER BY {listed}').fetchall()
        by_scan = connection.execute(f'SELECT {listed} FROM "{table}" NOT INDEXED ORDER BY {listed}').fetchall()
        assert by_index == by_scan, f"index {index} disagrees with its table"


def check_sequences(connection: apsw.Connection, *, dense: bool) -> None:
    """Seqs are dense per stream and rise with positions; no head or high water lies below what was given."""
    rows = connection.execute("SELECT stream_key, seq FROM event NOT INDEXED ORDER BY position").fetchall()
    seqs: dict[int, list[int]] = {}
    for stream, seq in rows:
        seqs.setdefault(stream, []).append(seq)
    for stream, found in seqs.items():
        head = connection.execute("SELECT head FROM stream WHERE key = ?", (stream,)).get
        assert found == sorted(set(found)), f"stream {stream}: seqs do not rise with positions: {found}"
        assert found[-1] <= head, f"stream {stream}: head {head} is below seq {found[-1]}"
        if dense:
            assert found == list(range(1, head + 1)), f"stream {stream}: seqs {found} are not 1 to {head}"
    top = connection.execute("SELECT coalesce(max(position), 0) FROM event NOT INDEXED").get
    high = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'").get
    assert high >= top
    epochs = connection.execute("SELECT first_position FROM epoch ORDER BY key").fetchall()
    assert epochs == sorted(epochs)
    assert all(position <= high + 1 for (position,) in epochs)


def check_usage(connection: apsw.Connection) -> None:
    """The ledger holds each step of each incarnation once, as its last applied report said."""
    reports = connection.execute(
        "SELECT i.session_key, e.data FROM event e NOT INDEXED JOIN event_type t ON t.key = e.type_key JOIN incarnation i "
        "ON i.stream_key = e.stream_key AND i.number = e.incarnation "
        "WHERE t.name = 'usage.recorded' AND e.outcome = 0 ORDER BY e.position"
    ).fetchall()
    expected: dict[tuple[int, str], tuple[int, int, int]] = {}
    for session_key, data in reports:
        event = json.loads(data)
        numbers = (event.get("cost_nanousd", 0), event.get("input_tokens", 0), event.get("output_tokens", 0))
        expected[session_key, event["step_id"]] = numbers
    columns = "session_key, step_id, cost_nanousd, input_tokens, output_tokens"
    found = connection.execute(f"SELECT {columns} FROM usage").fetchall()
    assert {(key, step): tuple(numbers) for key, step, *numbers in found} == expected
    assert len(found) == len(expected)


def check_removed_and_settled(connection: apsw.Connection) -> None:
    """Nothing that was removed by name has a row; streamed text is gapless; outcomes are of the closed set."""
    assert (
        connection.execute(
            "SELECT m.message_id FROM message m JOIN tombstone t ON t.session_key = m.session_key AND t.kind = 'message' "
            "AND t.id = m.message_id UNION ALL SELECT p.part_id FROM part p JOIN tombstone t ON "
            "t.session_key = p.session_key AND t.kind = 'part' AND t.id = p.part_id"
        ).fetchall()
        == []
    )
    assert (
        connection.execute(
            "SELECT s.session_id FROM session s LEFT JOIN stream t ON t.session_key = s.key WHERE t.key IS NULL"
        ).fetchall()
        == []
    )
    places: dict[tuple[int, int], int] = {}
    for part, field, start, until, text in connection.execute(
        "SELECT part_key, field, start, until, text FROM part_text ORDER BY part_key, field, start, until"
    ):
        assert start == places.get((part, field), 0), f"part {part} field {field}: gap before {start}"
        assert until == start + len(text)
        places[part, field] = until
    bad = connection.execute("SELECT count(*) FROM event WHERE outcome NOT BETWEEN 0 AND ?", (len(OUTCOMES) - 1,)).get
    assert bad == 0


def check_receipts(connection: apsw.Connection, receipts: Iterable[Receipt]) -> None:
    """Every stored entry of every receipt is the row that the log holds."""
    for receipt in receipts:
        for entry in receipt.events:
            original = getattr(entry.outcome, "original", entry)
            assert isinstance(original, ReceiptEvent)
            if original.position is None:
                continue
            row = connection.execute(
                "SELECT s.session_id, e.incarnation, e.seq, e.outcome FROM event e JOIN stream s ON s.key = e.stream_key "
                "WHERE e.position = ?",
                (original.position,),
            ).fetchone()
            name = getattr(original.outcome, "reason", "applied")
            assert row == (receipt.session_id, receipt.incarnation, original.seq, OUTCOMES.index(name))


def check_rebuild(files: Files) -> None:
    """A rebuild gives the same tables, row for row, and moves nothing of the log."""
    connection = files.log.connection
    files.projector.bring_up()
    log = rows_of(connection, LOG_TABLES)
    live = rows_of(connection, projection_tables(connection))
    files.projector.rebuild()
    rebuilt = rows_of(connection, projection_tables(connection))
    for name, rows in live.items():
        assert rebuilt.get(name) == rows, f"table {name!r}: the rebuild differs from the live rows"
    assert rebuilt.keys() == live.keys()
    assert rows_of(connection, LOG_TABLES) == log
