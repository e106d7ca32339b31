"""What a projection's handler may do with the database: statements on its own tables, and nothing else.

Owns: rendering `{table}` names, checking a statement before its first use. Must not know: which events there are.
Invariants: a handler cannot begin, commit or roll back, set a pragma, attach, or touch a table it does not own; names are
rendered here, so that the same handler can fill other tables (a rebuild's).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import apsw
import apsw.ext

from engine.errors import ProjectionFailedError

Value = None | int | float | str | bytes
Row = tuple[Any, ...]

_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_FORBIDDEN = re.compile(r"\b(ROLLBACK|DEFERRED|DEFERRABLE)\b", re.IGNORECASE)
_ON_TABLES: Final = frozenset((apsw.SQLITE_READ, apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE))
_HARMLESS: Final = frozenset((apsw.SQLITE_SELECT, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE))


class Tx:
    """The transaction as one projection sees it.

    `tables` maps the names that the projection uses in braces to the real ones. With `checked`, each statement is examined
    before its first use and refused with `ProjectionFailedError` where it leaves the projection's own tables.
    """

    def __init__(self, connection: apsw.Connection, owner: str, tables: Mapping[str, str], *, checked: bool) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._execute = self._cursor.execute
        self._owner = owner
        self._tables = dict(tables)
        self._checked = checked
        self._rendered: dict[str, str] = {}

    def execute(self, sql: str, values: Sequence[Value] | Mapping[str, Value] = ()) -> int:
        """Run one statement; returns the number of rows it changed itself (cascades not counted)."""
        self._run(sql, values)
        if self._checked:
            self._finish()
        return self._connection.changes()

    def one(self, sql: str, values: Sequence[Value] | Mapping[str, Value] = ()) -> Row | None:
        """The first row of a query, or None."""
        row: Row | None = self._run(sql, values).fetchone()
        if row is not None:
            self._finish()
        return row

    def all(self, sql: str, values: Sequence[Value] | Mapping[str, Value] = ()) -> list[Row]:
        """All rows of a query."""
        rows: list[Row] = self._run(sql, values).fetchall()
        return rows

    def _run(self, sql: str, values: Sequence[Value] | Mapping[str, Value]) -> apsw.Cursor:
        rendered = self._rendered.get(sql) or self.render(sql)
        if self._checked and not self._connection.in_transaction:
            # SQLite undid everything and the handler hid it; on its own, this statement would be committed at once.
            raise self._refuse("the transaction is gone")
        cursor: apsw.Cursor = self._execute(rendered, values)
        return cursor

    def _finish(self) -> None:
        """End the cursor's statement: one with rows left to give fails the next COMMIT, or pins the WAL if it reads."""
        if self._cursor.fetchone() is not None:
            self._execute("")

    def render(self, sql: str) -> str:
        """The statement with real table names, checked once."""
        rendered = _NAME.sub(self._table, sql)
        if self._checked:
            self._examine(rendered)
        self._rendered[sql] = rendered
        return rendered

    def _table(self, match: re.Match[str]) -> str:
        name = self._tables.get(match[1])
        if name is None:
            raise self._refuse(f"uses table {match[1]!r}, which it does not declare")
        return f'"{name}"'

    def _examine(self, sql: str) -> None:
        word = _FORBIDDEN.search(_QUOTED.sub("''", sql))
        if word is not None:
            raise self._refuse(f"{word[1].upper()} is not for projections")
        info = apsw.ext.query_info(self._connection, sql, actions=True)
        if info.query_remaining:
            raise self._refuse("one statement at a time")
        own = set(self._tables.values())
        for action in info.actions or ():
            if action.action in _HARMLESS:
                continue
            table = action.table_name
            if action.action in _ON_TABLES and table in own:
                continue
            what = action.action_name.removeprefix("SQLITE_").lower()
            raise self._refuse(f"{what} {table or ''} is not for it: it owns {', '.join(sorted(own))}".replace("  ", " "))

    def _refuse(self, problem: str) -> ProjectionFailedError:
        return ProjectionFailedError(self._owner, "its SQL", problem)


def check_definition(owner: str, tables: Mapping[str, str]) -> str | None:
    """What is wrong with a projection's table definitions, or None: keys must be immediate, and stay inside it."""
    for name, columns in tables.items():
        bare = _QUOTED.sub("''", columns)
        word = _FORBIDDEN.search(bare)
        if word is not None:
            return f"table {name!r}: {word[1].upper()} is not for projections"
        for target in re.findall(r"\bREFERENCES\b\s*(\S+?)\s*(?:\(|,|\s|$)", bare, re.IGNORECASE):
            if target.strip("{}\"'").lower() not in {known.lower() for known in tables}:
                return f"table {name!r}: references {target!r}, a table outside of the projection"
    return None
