"""The engine's own statements, recorded while it works and run again without it.

Owns: recording what the writing connection executes, and replaying it. Must not know: what the statements mean.
Invariants: a replay starts from an empty file and executes the same statements with the same values in the same
transactions, so it makes the same rows; only the recorded measurement is timed, not what set it up.

This is the second floor: what the SQL costs, whoever asks for it. It cannot drift from the engine, which writes it anew
in every run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import attrs

from bench.report import Settings
from engine.store import connect

Statement = tuple[str, Any]


@attrs.define
class Recording:
    """Statements in order; `mark` is the number of them that only set up."""

    path: str
    statements: list[Statement] = attrs.field(factory=list)
    mark: int = 0

    def begin(self) -> None:
        """What comes now is the measurement."""
        self.mark = len(self.statements)

    def hook(self, connection: apsw.Connection) -> None:
        """Called for every new connection; traces the one that writes the log."""
        if connection.filename == self.path and not connection.readonly("main"):
            connection.exec_trace = self._trace

    def _trace(self, _cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        self.statements.append((sql, values))
        return True


@contextmanager
def recorded(path: str) -> Iterator[Recording]:
    """Record what is executed on the writing connection to a file that is opened inside the block."""
    recording = Recording(path)
    apsw.connection_hooks.append(recording.hook)
    try:
        yield recording
    finally:
        apsw.connection_hooks.remove(recording.hook)


def everything(_sql: str) -> bool:
    """Replay every statement."""
    return True


def replay(
    recording: Recording,
    settings: Settings,
    *,
    vfs: str | None = None,
    keep: Callable[[str], bool] = everything,
    begin: Callable[[], None] = lambda: None,
) -> float:
    """Run the statements on a fresh file; returns the seconds that the measured part took.

    `keep` says which statements of the measured part to run; `begin` is called between the set-up and that part.
    """
    connection = connect(settings.file("replay"), vfs=vfs, write=True)
    try:
        connection.pragma("wal_autocheckpoint", 1_000)
        execute = connection.cursor().execute
        for sql, values in recording.statements[: recording.mark]:
            if not sql.lstrip().upper().startswith("PRAGMA") or "application_id" in sql:
                execute(sql, values).fetchall()
        chosen = [statement for statement in recording.statements[recording.mark :] if keep(statement[0])]
        begin()
        started = time.perf_counter()
        for sql, values in chosen:
            execute(sql, values).fetchone()
        return time.perf_counter() - started
    finally:
        connection.close()
