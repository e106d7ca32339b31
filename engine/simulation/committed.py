"""What any crash of one recorded run may leave: only what the run committed, and nothing older than what it acknowledged.

Owns: `CommittedCheck`. Must not know: schedules, what the tables mean.

A process that dies leaves everything it wrote, so what SQLite makes of that, from the first write to the last, are the
committed contents in order. After any other crash the content must be one of these, all tables, row for row (else it is
`half`), and, where an answer had been given, one that was still the newest when it was given or later (else what it
acknowledged is `lost`). This holds of a log whose rows are replaced, too, and of projections that are behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from engine.simulation.disk import Damaged, Disk, Image, Medium, OperationLog, SqlCheck, Verdict, crash_points
from engine.simulation.errors import InvariantError


class CommittedCheck(SqlCheck):
    """A campaign's check of one log: what is found was committed, and nothing acknowledged is missing.

    `known` are contents by their pages, shared between the checks of many logs. Any mark counts as an acknowledgement of
    everything that was committed before it.
    """

    def __init__(self, name: str, known: dict[int, Any]) -> None:
        super().__init__(name)
        self._known = known
        self._last: dict[str, int] = {}
        self._marks: list[int] = []

    @property
    def committed(self) -> Iterable[str]:
        """The contents that were committed."""
        return self._last

    def learn(self, disk: Disk, log: OperationLog, images: dict[int, Any]) -> dict[str, Image]:
        """Find out what a dying process leaves at each point of the log; returns each content with an image that has it.

        `images`: what was found in images before, by their hashes; these are added. Raises `InvariantError` where one is
        damaged: then the run itself broke the file.
        """
        self._marks = [index for index, record in enumerate(log.records) if record[0] == "mark"]
        medium = Medium(log)
        first: dict[str, Image] = {}
        content: Any = None
        for point in crash_points(log):
            changed = any(record[0] not in ("mark", "sync", "failed sync") for record in log.records[medium.at : point])
            medium.advance(point)
            if changed or content is None:
                image = medium.kept()
                key = hash(image)
                if key not in images:
                    disk.restore(image)
                    images[key] = self.examine(disk)
                content = images[key]
                if isinstance(content, Damaged):
                    raise InvariantError("a dying process leaves a log that opens", content.problem)
                first.setdefault(content, image)
            self._last[content] = point
        return first

    def inspect(self, connection: apsw.Connection) -> str:
        """A hash of every row of every table."""
        return content_of(connection)

    def judge_found(self, found: str, marks: Sequence[Any]) -> Verdict | None:
        """`half` where it was never committed, `lost` where something newer had been acknowledged."""
        last = self._last.get(found)
        if last is None:
            return "half"
        return "lost" if marks and last < self._marks[len(marks) - 1] else None


def content_of(connection: apsw.Connection) -> str:
    """A hash of every row of every table of a database."""
    state = hashlib.blake2b(digest_size=16)
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%' ORDER BY name"
    ).fetchall()
    for (name,) in names:
        rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
        state.update(repr((name, rows)).encode())
    return state.hexdigest()
