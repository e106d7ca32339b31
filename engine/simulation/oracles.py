"""What must hold of a log after every run, each checked by a query that does not trust what it checks.

Owns: the checks of a log's file (sequences, usage, removed and settled things, receipts, indexes, rebuild). Must not know:
schedules, how the run went.

`check_log` opens the file of a closed engine, checks every invariant, and raises `InvariantError` naming the first that is
broken: 3 (sequences), 4 and 5 (receipts are rows, ids are unique), 6 (read model = fold of the log, rebuild = live),
7 (no child without its parent), 8 and 9 (settled and removed stay so), 10 (usage once a step), of the engine's promises.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, Final

import apsw

from engine.events import Receipt, ReceiptEvent
from engine.limits import Limits
from engine.ports import Ports
from engine.runtime import Files, open_files
from engine.simulation.errors import InvariantError
from engine.store import OUTCOMES

Tables = dict[str, list[tuple[Any, ...]]]
LOG_TABLES: Final = ("epoch", "stream", "incarnation", "event_type", "event", "counter", "migration")


def must(holds: bool, oracle: str, detail: object = "") -> None:
    """Raise `InvariantError` where it does not hold."""
    if not holds:
        raise InvariantError(oracle, str(detail) or "it does not hold")


def found_by(connection: apsw.Connection, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
    """All rows of a query."""
    return connection.execute(sql, values).fetchall()


def rows_of(connection: apsw.Connection, tables: Iterable[str]) -> Tables:
    """Every row of the tables, ordered by all columns."""
    return {name: sorted(found_by(connection, f'SELECT * FROM "{name}"'), key=repr) for name in tables}


def projection_tables(connection: apsw.Connection) -> list[str]:
    """The tables of the read model, the users' own included."""
    names = found_by(connection, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return sorted(name for (name,) in names if name not in LOG_TABLES)


def check_log(
    path: str | os.PathLike[str],
    *,
    events: Iterable[type[Any]] = (),
    projections: Iterable[type[Any]] = (),
    dense: bool = True,
    receipts: Iterable[Receipt] = (),
    vfs: str | None = None,
) -> None:
    """Check every invariant of a closed log, and rebuild it.

    `events` and `projections` are those it was opened with; `dense=False` where the scenario deleted or replaced events;
    `receipts` are those that were acknowledged and must be found; `vfs` names the SQLite VFS it lies on. Raises
    `InvariantError`, or what `open_engine` raises for a file that cannot be opened. The log is owned and rebuilt meanwhile.
    """
    files = open_files(
        path,
        durability="normal",
        events=tuple(events),
        projections=tuple(projections),
        limits=Limits(),
        ports=Ports(vfs=vfs),
    )
    try:
        connection = files.log.connection
        check_file(connection)
        check_sequences(connection, dense=dense)
        check_usage(connection)
        check_removed_and_settled(connection)
        check_ids(connection)
        check_receipts(connection, receipts)
        check_rebuild(files)
    finally:
        files.close()


def check_file(connection: apsw.Connection) -> None:
    """The file is whole, no child is without its parent, and each index of the log agrees with a scan that avoids it."""
    problems = found_by(connection, "PRAGMA integrity_check")
    must(problems == [("ok",)], "integrity", problems)
    orphans = found_by(connection, "PRAGMA foreign_key_check")
    must(not orphans, "no child without its parent", orphans)
    must(connection.execute("PRAGMA foreign_keys").get == 1, "foreign keys are on")
    indexes = found_by(
        connection,
        "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND sql NOT LIKE '%WHERE%'",
    )
    for index, table in indexes:
        columns = found_by(connection, "SELECT name FROM pragma_index_info(?)", (index,))
        listed = ", ".join(f'"{column}"' for (column,) in columns)
        by_index = found_by(connection, f'SELECT {listed} FROM "{table}" INDEXED BY "{index}" ORDER BY {listed}')
        by_scan = found_by(connection, f'SELECT {listed} FROM "{table}" NOT INDEXED ORDER BY {listed}')
        must(by_index == by_scan, "indexes", f"{index} disagrees with its table")


def check_sequences(connection: apsw.Connection, *, dense: bool) -> None:
    """Seqs are dense per stream and rise with positions; no head or high water lies below what was given."""
    rows = found_by(connection, "SELECT stream_key, seq FROM event NOT INDEXED ORDER BY position")
    seqs: dict[int, list[int]] = {}
    for stream, seq in rows:
        seqs.setdefault(stream, []).append(seq)
    for stream, found in seqs.items():
        head: Any = connection.execute("SELECT head FROM stream WHERE key = ?", (stream,)).get
        must(found == sorted(set(found)), "sequences", f"stream {stream}: seqs do not rise with positions: {found}")
        must(found[-1] <= head, "sequences", f"stream {stream}: head {head} is below seq {found[-1]}")
        if dense:
            must(found == list(range(1, head + 1)), "sequences", f"stream {stream}: seqs {found} are not 1 to {head}")
    top: Any = connection.execute("SELECT coalesce(max(position), 0) FROM event NOT INDEXED").get
    high: Any = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'").get
    must(high >= top, "positions", f"high water {high} is below position {top}")
    epochs = found_by(connection, "SELECT first_position FROM epoch ORDER BY key")
    rising = epochs == sorted(epochs) and all(position <= high + 1 for (position,) in epochs)
    must(rising, "epochs", f"first positions {epochs}, high water {high}")


def check_usage(connection: apsw.Connection) -> None:
    """The ledger holds each step of each incarnation once, as its last applied report said."""
    reports = found_by(
        connection,
        "SELECT i.session_key, e.data FROM event e NOT INDEXED JOIN event_type t ON t.key = e.type_key JOIN incarnation i "
        "ON i.stream_key = e.stream_key AND i.number = e.incarnation "
        "WHERE t.name = 'usage.recorded' AND e.outcome = 0 ORDER BY e.position",
    )
    expected: dict[tuple[int, str], tuple[int, int, int]] = {}
    for session_key, data in reports:
        event = json.loads(data)
        numbers = (event.get("cost_nanousd", 0), event.get("input_tokens", 0), event.get("output_tokens", 0))
        expected[session_key, event["step_id"]] = numbers
    columns = "session_key, step_id, cost_nanousd, input_tokens, output_tokens"
    found = found_by(connection, f"SELECT {columns} FROM usage")
    ledger = {(key, step): tuple(numbers) for key, step, *numbers in found}
    must(ledger == expected and len(found) == len(expected), "usage", f"ledger {ledger}, last reports {expected}")


def check_removed_and_settled(connection: apsw.Connection) -> None:
    """Nothing that was removed by name has a row; streamed text is gapless; outcomes are of the closed set."""
    risen = found_by(
        connection,
        "SELECT m.message_id FROM message m JOIN tombstone t ON t.session_key = m.session_key AND t.kind = 'message' "
        "AND t.id = m.message_id UNION ALL SELECT p.part_id FROM part p JOIN tombstone t ON "
        "t.session_key = p.session_key AND t.kind = 'part' AND t.id = p.part_id",
    )
    must(not risen, "what was removed stays removed", risen)
    strays = found_by(
        connection, "SELECT s.session_id FROM session s LEFT JOIN stream t ON t.session_key = s.key WHERE t.key IS NULL"
    )
    must(not strays, "sessions have streams", strays)
    unsettled = found_by(
        connection,
        "SELECT m.message_id FROM message m WHERE m.status = 'streaming' AND EXISTS (SELECT 1 FROM event e "
        "JOIN event_type t ON t.key = e.type_key "
        "JOIN incarnation i ON i.stream_key = e.stream_key AND i.number = e.incarnation "
        "WHERE t.name = 'message.finished' AND e.outcome = 0 AND i.session_key = m.session_key "
        "AND json_extract(e.data, '$.message_id') = m.message_id)",
    )
    must(not unsettled, "what was settled stays settled", unsettled)
    places: dict[tuple[int, int], int] = {}
    for part, field, start, until, text in found_by(
        connection, "SELECT part_key, field, start, until, text FROM part_text ORDER BY part_key, field, start, until"
    ):
        whole = start == places.get((part, field), 0) and until == start + len(text)
        must(whole, "streamed text has no gap", f"part {part} field {field}: {start} to {until} holds {len(text)}")
        places[part, field] = until
    bad = connection.execute("SELECT count(*) FROM event WHERE outcome NOT BETWEEN 0 AND ?", (len(OUTCOMES) - 1,)).get
    must(bad == 0, "outcomes", f"{bad} events have an unknown one")


def check_ids(connection: apsw.Connection) -> None:
    """No event id stands twice in one life of a session."""
    twice = found_by(
        connection,
        "SELECT stream_key, incarnation, event_id, count(*) FROM event NOT INDEXED WHERE event_id IS NOT NULL "
        "GROUP BY 1, 2, 3 HAVING count(*) > 1",
    )
    must(not twice, "an event id is applied once", twice)


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
            told = (receipt.session_id, receipt.incarnation, original.seq, OUTCOMES.index(name))
            must(row == told, "acknowledged is durable", f"position {original.position}: told {told}, found {row}")


def check_rebuild(files: Files) -> None:
    """A rebuild gives the same tables, row for row, and moves nothing of the log."""
    connection = files.log.connection
    files.projector.bring_up()
    log = rows_of(connection, LOG_TABLES)
    live = rows_of(connection, projection_tables(connection))
    files.projector.rebuild()
    rebuilt = rows_of(connection, projection_tables(connection))
    for name, rows in live.items():
        must(rebuilt.get(name) == rows, "rebuild equals live", f"table {name!r} differs")
    must(rebuilt.keys() == live.keys(), "rebuild equals live", "the tables are others")
    must(rows_of(connection, LOG_TABLES) == log, "rebuild equals live", "the rebuild moved something in the log")
