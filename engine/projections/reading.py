"""Reading the built-in tables: sessions, messages with their parts, usage.

Owns: SELECTs on the read model. Must not know: the writer.
Invariants: a call is one snapshot of a read-only connection, begun and ended without an await; pages go by key in both
directions; every query names the workspace, so nothing of another one is ever seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import trio

from engine.errors import InvalidArgumentError, UnknownMessageError, UnknownSessionError
from engine.events import START, After, RecordedEvent
from engine.limits import Limits
from engine.ports import Ports
from engine.projections.builtin.parts import FIELDS
from engine.projections.rows import (
    MESSAGE_COLUMNS,
    SESSION_COLUMNS,
    TOOL_COLUMNS,
    USAGE_SUMS,
    part_view,
    session_view,
    usage_report,
)
from engine.projections.views import (
    MessageView,
    ReadSnapshot,
    SessionSnapshot,
    SessionView,
    UsageReport,
)
from engine.store import LogReader, Page, chosen_sessions

T = TypeVar("T")

_KEY_MAX = 2**63 - 1
_ROW_BYTES = 200
"""What a row weighs in a page beside its texts: its numbers, and the names of its fields."""


class ReadModel:
    """`engine.read`: the read model of one workspace. Reads never wait for the writer, and see every receipt before them."""

    def __init__(self, reader: LogReader, ports: Ports, limits: Limits, workspace: str) -> None:
        self._reader = reader
        self._query: Callable[..., Any] = reader.connection.execute
        self._ports = ports
        self._limits = limits
        self._workspace = workspace

    async def _run(self, step: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return await self._ports.step(step)

    # --- sessions -----------------------------------------------------------------------------

    async def sessions(self, *, before: int | None = None, after: int | None = None, limit: int = 50) -> Page[SessionView]:
        """Live sessions in the order of their creation.

        Without `before` and `after` the newest; `before=key` those created before that one, `after=key` those after it.
        `limit` is 1 to `page_items_max`; a page also ends at `page_bytes_max`. Raises `InvalidArgumentError`.
        """
        return await self._run(lambda: self._sessions(before, after, limit))

    def _sessions(self, before: int | None, after: int | None, limit: int) -> Page[SessionView]:
        with self._reader.snapshot() as snapshot:
            rows, more = self._keyset(
                f"{SESSION_COLUMNS} FROM session WHERE workspace = ?", (self._workspace,), before, after, limit
            )
            return Page(tuple(map(session_view, rows)), snapshot.cursor, more)

    async def session(self, session_id: str) -> SessionView:
        """One live session, or `UnknownSessionError`."""
        return await self._run(lambda: self._session(session_id))

    def _session(self, session_id: str) -> SessionView:
        with self._reader.snapshot():
            return session_view(self._session_row(session_id))

    def _session_row(self, session_id: str) -> tuple[Any, ...]:
        sql = f"SELECT {SESSION_COLUMNS} FROM session WHERE workspace = ? AND session_id = ?"
        row: tuple[Any, ...] | None = self._query(sql, (self._workspace, session_id)).fetchone()
        if row is None:
            raise UnknownSessionError(session_id)
        return row

    # --- messages -----------------------------------------------------------------------------

    async def messages(
        self, session_id: str, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> Page[MessageView]:
        """Messages of a session with their parts, in the order of their first announcement.

        Without `before` and `after` the newest ones; `before=key` the ones just before that one, `after=key` the ones just
        after it (`after=0` begins at the first). A page also ends at `page_bytes_max`. Raises `UnknownSessionError`,
        `InvalidArgumentError`.
        """
        return await self._run(lambda: self._messages(session_id, before, after, limit))

    def _messages(self, session_id: str, before: int | None, after: int | None, limit: int) -> Page[MessageView]:
        with self._reader.snapshot() as snapshot:
            session_key = self._session_row(session_id)[0]
            sql = f"{MESSAGE_COLUMNS} FROM message WHERE session_key = ?"
            rows, more = self._keyset(sql, (session_key,), before, after, limit)
            forward = after is not None
            found: list[MessageView] = []
            size = 0
            for row in rows if forward else reversed(rows):
                view, weight = self._message(row)
                found.append(view)
                size += weight
                if size >= self._limits.page_bytes_max and len(found) < len(rows):
                    more = True
                    break
            return Page(tuple(found if forward else reversed(found)), snapshot.cursor, more)

    async def message(self, session_id: str, message_id: str) -> MessageView:
        """One message with its parts, or `UnknownMessageError`."""
        return await self._run(lambda: self._one_message(session_id, message_id))

    def _one_message(self, session_id: str, message_id: str) -> MessageView:
        with self._reader.snapshot():
            session_key = self._session_row(session_id)[0]
            sql = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE session_key = ? AND message_id = ?"
            row = self._query(sql, (session_key, message_id)).fetchone()
            if row is None:
                raise UnknownMessageError(session_id, f"message {message_id!r}")
            return self._message(row)[0]

    def _message(self, row: tuple[Any, ...]) -> tuple[MessageView, int]:
        key, message_id, role, status, finish_reason, settled_by, metadata, created_at, updated_at = row
        parts = self._query(
            f"SELECT p.key, p.part_id, p.kind, p.data, p.created_at, p.updated_at, {TOOL_COLUMNS} FROM part p "
            "LEFT JOIN tool t ON t.part_key = p.key WHERE p.message_key = ? ORDER BY p.key",
            (key,),
        ).fetchall()
        texts: dict[int, dict[str, str]] = {}
        size = len(metadata) + _ROW_BYTES
        for part_key, field, text in self._query(
            "SELECT t.part_key, t.field, t.text FROM part p JOIN part_text t ON t.part_key = p.key "
            "WHERE p.message_key = ? ORDER BY t.part_key, t.field, t.start",
            (key,),
        ):
            found = texts.setdefault(part_key, {})
            found[FIELDS[field]] = found.get(FIELDS[field], "") + text
            size += len(text)
        views = tuple(part_view(part, texts.get(part[0], {})) for part in parts)
        size += sum(_ROW_BYTES + len(part[3]) + sum(len(text) for text in part[10:13] if text) for part in parts)
        view = MessageView(
            key=key,
            message_id=message_id,
            role=role,
            status=status,
            finish_reason=finish_reason,
            settled_by=settled_by,
            metadata=json.loads(metadata),
            parts=views,
            created_at=created_at,
            updated_at=updated_at,
        )
        return view, size

    def open_tools(self, session_id: str, message_id: str) -> list[tuple[str, str, str]]:
        """(part_id, call_id, name) of a message's tool calls that are not settled. Synchronous: one snapshot."""
        with self._reader.snapshot():
            rows: list[tuple[str, str, str]] = self._query(
                "SELECT p.part_id, t.call_id, t.name FROM session s JOIN message m ON m.session_key = s.key "
                "JOIN part p ON p.message_key = m.key JOIN tool t ON t.part_key = p.key WHERE s.workspace = ? "
                "AND s.session_id = ? AND m.message_id = ? AND t.state IN ('pending', 'running') ORDER BY p.key",
                (self._workspace, session_id, message_id),
            ).fetchall()
        return rows

    # --- usage --------------------------------------------------------------------------------

    async def usage(self, session_id: str | None = None, *, roll_up: bool = True) -> UsageReport:
        """What a session used (None: the whole workspace), each step once, removed messages and lives included.

        With `roll_up`, `children` sums the sessions below it. Raises `UnknownSessionError` when the id was never used.
        """
        return await self._run(lambda: self._usage(session_id, roll_up))

    def _usage(self, session_id: str | None, roll_up: bool) -> UsageReport:
        with self._reader.snapshot():
            if session_id is None:
                rows = self._query(
                    f"SELECT 1, m.key IS NOT NULL, u.model, {USAGE_SUMS} FROM spender p "
                    "JOIN usage u ON u.session_key = p.session_key LEFT JOIN message m "
                    "ON m.session_key = u.session_key AND m.message_id = u.message_id WHERE p.workspace = ? "
                    "GROUP BY 2, 3",
                    (self._workspace,),
                ).fetchall()
                return usage_report(rows)
            sql = "SELECT 1 FROM spender WHERE workspace = ? AND session_id = ?"
            if self._query(sql, (self._workspace, session_id)).fetchone() is None:
                raise UnknownSessionError(session_id)
            return self._usage_of(session_id, roll_up)

    def _usage_of(self, session_id: str, roll_up: bool) -> UsageReport:
        below = "UNION SELECT c.session_id FROM tree JOIN spender c ON c.workspace = ?1 AND c.parent_id = tree.id"
        rows = self._query(
            f"WITH RECURSIVE tree(id) AS (SELECT ?2 {below if roll_up else ''}) "
            f"SELECT p.session_id = ?2, m.key IS NOT NULL, u.model, {USAGE_SUMS} FROM tree "
            "JOIN spender p ON p.workspace = ?1 AND p.session_id = tree.id "
            "JOIN usage u ON u.session_key = p.session_key "
            "LEFT JOIN message m ON m.session_key = u.session_key AND m.message_id = u.message_id GROUP BY 1, 2, 3",
            (self._workspace, session_id),
        ).fetchall()
        return usage_report(rows)

    # --- sessions as they are at one place in the log --------------------------------------------

    async def snapshot(
        self, session_ids: str | Collection[str] | None = None, *, messages: int = 50, sessions: int = 50
    ) -> ReadSnapshot:
        """Live sessions at one place in the log: what somebody shows before following `log(after=snapshot.cursor)`.

        Args:
            session_ids: one or several live sessions (up to `subscription_sessions_max`), answered in the order given, each
                once. None: the newest sessions of the workspace, in the order of their creation, without messages.
            messages: the last ones of each named session, with their parts and tool calls; 0 or more. Sessions times
                messages (a session without any counts as one) is at most `page_items_max`.
            sessions: how many are listed where none is named; 1 to `page_items_max`.

        The messages together end at `page_bytes_max`: each session in its turn gets an equal share of what is left, to be
        reached by its oldest message that is given (so one large message is given whole), and none when nothing is left;
        its `more` says so. So does a list of the workspace's sessions; named ones whose titles and metadata alone are larger
        are refused, unless there is only one. Usage is each session's own, every life of its id, not rolled up.

        Everything is of one read transaction, one step on the loop. Raises `UnknownSessionError` where one of them is not
        live, `InvalidArgumentError`, or a `StorageError`. Cancelled, nothing is left behind.
        """
        return await self._run(lambda: self._snapshot(session_ids, messages, sessions))

    def _snapshot(self, session_ids: str | Collection[str] | None, messages: int, sessions: int) -> ReadSnapshot:
        names = chosen_sessions(session_ids, self._limits.subscription_sessions_max, "session_ids")
        if names is None:
            self._reader.check_limit(sessions, "sessions")
        else:
            self._check_messages(len(names), messages)
        with self._reader.snapshot() as snapshot:
            if names is None:
                rows, more = self._keyset(
                    f"{SESSION_COLUMNS} FROM session WHERE workspace = ?", (self._workspace,), None, None, sessions
                )
                found = [self._session_snapshot(row, 0, 0)[0] for row in rows]
                return ReadSnapshot(sessions=tuple(found), more=more, cursor=snapshot.cursor)
            found = []
            left = heads = self._limits.page_bytes_max
            for index, name in enumerate(names):
                row = self._session_row(name)
                heads -= _weight(row)
                if index and heads < 0:
                    bound = self._limits.page_bytes_max
                    problem = f"the sessions without their messages are larger than {bound} bytes: name fewer"
                    raise InvalidArgumentError("session_ids", problem)
                share = max(1, left // (len(names) - index)) if left > 0 else 0
                view, size = self._session_snapshot(row, messages, share)
                found.append(view)
                left -= size
            return ReadSnapshot(sessions=tuple(found), more=False, cursor=snapshot.cursor)

    def _check_messages(self, sessions: int, messages: int) -> None:
        if type(messages) is not int or messages < 0:
            raise InvalidArgumentError("messages", f"expected 0 or more, found {messages!r:.60}")
        if sessions * max(1, messages) > self._limits.page_items_max:
            problem = (
                f"expected at most {self._limits.page_items_max} in all, found {sessions} sessions of {messages} messages"
            )
            raise InvalidArgumentError("messages", problem)

    def _session_snapshot(self, row: tuple[Any, ...], count: int, share: int) -> tuple[SessionSnapshot, int]:
        """A session with its last messages until their size reaches the share, and that size."""
        session = session_view(row)
        sql = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE session_key = ? ORDER BY key DESC LIMIT ?"
        found: list[MessageView] = []
        size = 0
        more = False
        for message in self._query(sql, (session.key, count + 1)):
            if len(found) == count or size >= share:
                more = True
                break
            view, weight = self._message(message)
            found.append(view)
            size += weight
        snapshot = SessionSnapshot(
            session=session,
            messages=tuple(reversed(found)),
            more=more,
            usage=self._usage_of(session.session_id, roll_up=False),
        )
        return snapshot, size

    # --- the log ------------------------------------------------------------------------------

    async def log(
        self, *, after: After = START, session_id: str | Collection[str] | None = None, limit: int = 100
    ) -> Page[RecordedEvent]:
        """One page of the log after a place: of one session, 1 to `subscription_sessions_max` of them, or the workspace.

        `limit` is 1 to `page_items_max` events; a page also ends at `page_bytes_max`. A session that is not there has no
        events. Raises `CursorError`, `InvalidArgumentError`.
        """
        return await self._run(
            lambda: self._reader.page(workspace=self._workspace, after=after, session_id=session_id, limit=limit)
        )

    async def unknown_types(self) -> dict[str, int]:
        """Stored event types that this process cannot read, with their counts. One pass over the whole log."""
        return await self._run(self._reader.unknown_types)

    def _keyset(
        self, sql: str, values: tuple[Any, ...], before: int | None, after: int | None, limit: int
    ) -> tuple[list[tuple[Any, ...]], bool]:
        """Rows in ascending key order on one side of a key, up to `limit` or `page_bytes_max`; whether there are more."""
        self._reader.check_limit(limit)
        if before is not None and after is not None:
            raise InvalidArgumentError("before", "give either before or after")
        for name, key in (("before", before), ("after", after)):
            if key is not None and (type(key) is not int or abs(key) > _KEY_MAX):
                raise InvalidArgumentError(name, f"expected the key of an item, found {key!r:.60}")
        if after is not None:
            side, order, edge = "key > ?", "ASC", after
        else:
            side, order, edge = "key < ?", "DESC", _KEY_MAX if before is None else before
        found: list[tuple[Any, ...]] = []
        size = 0
        more = False
        for row in self._query(f"SELECT {sql} AND {side} ORDER BY key {order} LIMIT ?", (*values, edge, limit + 1)):
            if len(found) == limit or size >= self._limits.page_bytes_max:
                more = True
                break
            found.append(row)
            size += _weight(row)
        return (found if order == "ASC" else found[::-1]), more


def _weight(row: tuple[Any, ...]) -> int:
    """What a row of a page weighs."""
    return _ROW_BYTES + sum(len(value) for value in row if isinstance(value, str))
