"""Checks for crash campaigns: what SQLite makes of a crash, and what of it is wrong.

Owns: opening what a crash left, the checks by SQL that hold of any database and of an engine's log. Must not know: how the
images came about.
Invariants: SQLite itself recovers each image, through the disk it was restored to; the recovered database is looked at
once per distinct content, since equal pages give equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw
import attrs

from engine.events import Receipt
from engine.simulation.disk.campaign import Verdict
from engine.simulation.disk.vfs import Disk


def recover(disk: Disk, name: str) -> bytes:
    """Let SQLite open a database of the disk and close it: journals are rolled back, a WAL is copied into the file.

    Returns the content of the database file then. Raises `apsw.Error` where SQLite refuses.
    """
    connection = apsw.Connection(name, vfs=disk.name)
    try:
        # The cheapest statement that begins a read transaction: it needs no schema.
        connection.execute("PRAGMA user_version").fetchall()
    finally:
        connection.close()
    return disk.content(name)


@attrs.frozen
class Damaged:
    """Found where a database does not open, or SQLite's own checks complain."""

    problem: str


class SqlCheck:
    """A campaign's check by SQL. Subclasses say what they look for in `inspect`, and what is wrong with it in `judge_found`.

    `name` is the database's name on the disk.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.inspected = 0
        """Distinct recovered contents looked at."""
        self._known: dict[int, Any] = {}

    def inspect(self, connection: apsw.Connection) -> Any:
        """What is in a recovered database that passed SQLite's own checks, hashable. It may have no tables at all."""
        raise NotImplementedError

    def judge_found(self, found: Any, marks: Sequence[Any]) -> Verdict | None:
        """What is wrong with what `inspect` found."""
        raise NotImplementedError

    def examine(self, disk: Disk) -> Any:
        """Recover what the crash left and look at it."""
        try:
            key = hash(recover(disk, self.name))
        except apsw.Error as problem:
            return Damaged(f"{type(problem).__name__}: {problem}")
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._look(disk)
            self.inspected += 1
        return found

    def _look(self, disk: Disk) -> Any:
        connection = apsw.Connection(self.name, vfs=disk.name)
        try:
            problem = damage(connection)
            return Damaged(problem) if problem else self.inspect(connection)
        except apsw.Error as error:
            return Damaged(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    def judge(self, found: Any, marks: Sequence[Any]) -> Verdict | None:
        """What is wrong: `corrupt` where SQLite says so, else what `judge_found` says."""
        return "corrupt" if isinstance(found, Damaged) else self.judge_found(found, marks)


def damage(connection: apsw.Connection) -> str | None:
    """The first thing that SQLite finds wrong with a database: pages, indexes against tables, foreign keys."""
    text = connection.execute("PRAGMA integrity_check(1)").get
    if text != "ok":
        return str(text)
    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    return None if orphan is None else f"row {orphan[1]} of {orphan[0]} has no parent in {orphan[2]}"


_HALF: Final = """
SELECT 'stream ' || s.key || ' has head ' || s.head || ' and ' || count(e.seq) || ' events up to ' || coalesce(max(e.seq), 0)
  FROM stream s LEFT JOIN event e ON e.stream_key = s.key GROUP BY s.key
  HAVING s.head <> count(e.seq) OR s.head <> coalesce(max(e.seq), 0)
UNION ALL
SELECT 'projection ' || name || ' stands at ' || position || ' of ' || (SELECT max(position) FROM event) FROM projection
  WHERE position <> (SELECT max(position) FROM event)
"""


@attrs.frozen
class LogFound:
    """What a crash left of an engine's log."""

    positions: tuple[int, ...]
    """The positions of its events."""
    half: str | None
    """The first stream or projection that disagrees with the events, if any."""


class LogCheck(SqlCheck):
    """The check of an engine's log: no acknowledged event is missing, no append and no batch is there in part.

    `marks` are all marks of the run, in order: receipts, and what else the caller marked, which is passed over. A campaign's
    marks are the first ones of them. Verdicts: `lost` an acknowledged event is missing; `gap` an event is missing and a
    later one is there; `half` some events of one append without the others, a stream's head or a projection's checkpoint
    without its events.
    """

    def __init__(self, name: str, marks: Sequence[Any]) -> None:
        super().__init__(name)
        self._groups = [
            tuple(e.position for e in mark.events if e.position is not None) if isinstance(mark, Receipt) else ()
            for mark in marks
        ]
        self._judged: dict[LogFound, tuple[Verdict | None, int]] = {}

    def inspect(self, connection: apsw.Connection) -> LogFound:
        """The events' positions, and the first disagreement."""
        if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'event'").get == 0:
            return LogFound((), None)
        positions: list[Any] = connection.execute("SELECT position FROM event ORDER BY position").fetchall()
        half = connection.execute(_HALF).fetchone()
        return LogFound(tuple(position for (position,) in positions), None if half is None else str(half[0]))

    def judge_found(self, found: LogFound, marks: Sequence[Any]) -> Verdict | None:
        """See the class."""
        judged = self._judged.get(found)
        if judged is None:
            judged = self._judged[found] = self._compare(found)
        verdict, complete = judged
        return verdict or ("lost" if len(marks) > complete else None)

    def _compare(self, found: LogFound) -> tuple[Verdict | None, int]:
        """What is wrong in any case, and how many of the marks are there before the first that is missing."""
        there = set(found.positions)
        last = max(there, default=0)
        missing = [[position for position in group if position not in there] for group in self._groups]
        complete = next((index for index, gone in enumerate(missing) if gone), len(missing))
        if found.half is not None or any(0 < len(gone) < len(g) for gone, g in zip(missing, self._groups, strict=True)):
            return "half", complete
        if any(position < last for gone in missing for position in gone):
            return "gap", complete
        return None, complete
