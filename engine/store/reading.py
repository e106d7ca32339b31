"""The reading half of the log: pages of recorded events, cursors, epochs, on a read-only connection.

Owns: SELECTs on the log. Must not know: projections.
Invariants: a snapshot begins and ends inside one synchronous call, so no read pins the WAL across an await; order is by
position; a page's cursor is that of its snapshot; nothing of another workspace is ever returned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import apsw
import attrs

from engine.errors import ClosedError, CursorError, InvalidArgumentError
from engine.events import APPLIED, HEAD, START, After, Cursor, RecordedEvent, Registry, Reset, Skipped, UnknownEvent, decode
from engine.limits import Limits
from engine.ports import ForkGuard
from engine.store.connection import translate
from engine.store.log import Epoch, epoch_at
from engine.store.merging import SessionMerge, for_each
from engine.store.schema import OUTCOMES

T = TypeVar("T")

_COLUMNS = (
    "e.position, s.workspace, s.session_id, e.incarnation, e.seq, t.name, t.version, e.outcome, e.recorded_at, "
    "e.occurred_at, e.event_id, e.causation_id, e.data"
)
_FROM = "FROM event e JOIN stream s ON s.key = e.stream_key JOIN event_type t ON t.key = e.type_key"
_AT = f"SELECT {_COLUMNS} {_FROM} WHERE e.position = ?"
# CROSS JOIN keeps the order of the tables: from the streams' side SQLite would collect and sort the whole rest of the log.
_BETWEEN = (
    f"SELECT {_COLUMNS} FROM event e CROSS JOIN stream s ON s.key = e.stream_key "
    "CROSS JOIN event_type t ON t.key = e.type_key "
    "WHERE e.position > ? AND e.position <= ? AND s.workspace = ? ORDER BY e.position"
)
_POSITION_MAX = 2**63 - 1
_SKIPS = tuple(APPLIED if name == "applied" else Skipped(name) for name in OUTCOMES)  # type: ignore[arg-type]


Scan = Callable[[int, int, int, int], list[RecordedEvent]]
"""(after, upto, events_max, bytes_max) -> the next events in order; none only where there are none. In a snapshot."""


def chosen_sessions(session_id: object, sessions_max: int, argument: str = "session_id") -> tuple[str, ...] | None:
    """The sessions that a filter names, each once: None is all of the workspace.

    Raises `InvalidArgumentError` for what is neither an id nor a collection of 1 to `sessions_max` ids.
    """
    if session_id is None:
        return None
    if not isinstance(session_id, str | Collection):
        problem = f"expected an id, a collection of ids or None, found {session_id!r:.60}"
        raise InvalidArgumentError(argument, problem)
    names = (session_id,) if isinstance(session_id, str) else tuple(session_id)
    for name in names:
        if not isinstance(name, str):
            raise InvalidArgumentError(argument, f"expected ids, which are text, found {name!r:.60}")
    chosen = tuple(dict.fromkeys(names))
    if not 1 <= len(chosen) <= sessions_max:
        raise InvalidArgumentError(argument, f"expected 1 to {sessions_max} sessions, found {len(chosen)}")
    return chosen


@attrs.frozen
class Page(Generic[T]):
    """One page of a read. `cursor` is the place in the log of the snapshot it was read from: `log(after=page.cursor)`
    continues exactly there. `more` says whether the direction of the read holds further items."""

    items: tuple[T, ...]
    cursor: Cursor
    more: bool


@attrs.frozen
class Snapshot:
    """The log's state in one read transaction. `head` is the last committed position ever assigned."""

    epoch: str
    head: int

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.epoch, self.head)


@attrs.frozen
class ImportedRow:
    """What tells whether an imported event is the one a transcript has now. `event_id` and `digest` are always given."""

    position: int
    session_id: str
    seq: int
    event_id: str | None
    digest: bytes | None


class LogReader:
    """Reads through one read-only connection. Every call is one snapshot. Raises `StorageError` where the disk fails."""

    def __init__(self, connection: apsw.Connection, registry: Registry, limits: Limits) -> None:
        self.connection = connection
        self._query: Callable[..., Any] = connection.execute
        self._registry = registry
        self._limits = limits
        self._fork = ForkGuard()
        self._epochs: list[Epoch] = []
        self._epoch_key = 0
        self.unknown_events = 0

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One read transaction, begun and ended in this block. The block must not await."""
        self._fork.check()
        connection = self.connection
        try:
            connection.execute("BEGIN")
            try:
                yield self._state()
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except apsw.ConnectionClosedError:
            raise ClosedError("the engine's reader") from None
        except UnicodeEncodeError:
            # No id that is stored has one, and SQLite cannot even be asked.
            raise InvalidArgumentError("id", "text with a lone surrogate names nothing") from None
        except apsw.Error as problem:
            raise translate(problem, "read") from None

    def _state(self) -> Snapshot:
        row = self._query("SELECT max(key) FROM epoch").get
        if row != self._epoch_key:
            rows = self._query("SELECT id, first_position FROM epoch ORDER BY key").fetchall()
            self._epochs = [Epoch(*found) for found in rows]
            self._epoch_key = row if isinstance(row, int) else 0
        head = self._query("SELECT seq FROM sqlite_sequence WHERE name = 'event'").get
        return Snapshot(self._epochs[-1].id if self._epochs else "0", head if isinstance(head, int) else 0)

    def data_version(self) -> int:
        """SQLite's count of what other connections committed. Not in a snapshot."""
        self._fork.check()
        try:
            found = self._query("PRAGMA data_version").get
        except apsw.ConnectionClosedError:
            raise ClosedError("the engine's reader") from None
        except apsw.Error as problem:
            raise translate(problem, "read") from None
        assert isinstance(found, int)
        return found

    def epoch_of(self, position: int) -> str:
        """The epoch in which a position was assigned."""
        return epoch_at(self._epochs, position)

    def check(self, cursor: Cursor, snapshot: Snapshot) -> None:
        """Refuse a cursor that this log cannot have given: `CursorError` says why."""
        for index, epoch in enumerate(self._epochs):
            if epoch.id != cursor.epoch:
                continue
            last = self._epochs[index + 1].first_position - 1 if index + 1 < len(self._epochs) else snapshot.head
            if cursor.position < epoch.first_position - 1:
                problem = f"its epoch begins at position {epoch.first_position}, so it was not given by this log"
                raise CursorError(str(cursor), problem)
            if cursor.position > last:
                raise CursorError(
                    str(cursor), f"is from the future or from a tail that was lost: its epoch ends at position {last}"
                )
            return
        if cursor.epoch == "0" and cursor.position == 0:
            return
        raise CursorError(str(cursor), "belongs to another log, or to a copy of this one that went its own way")

    def stale(self, cursor: Cursor, workspace: str, sessions: Sequence[str] | None) -> Reset | None:
        """The reset that a reader at this cursor is due because events it may hold were replaced. In a snapshot."""
        if cursor.position == 0:
            return None
        if sessions is None:
            sql = "SELECT max(replaced_at) FROM stream WHERE workspace = ? AND replaced_at > 0"
            rows = self._query(sql, (workspace,))
        else:
            sql = "SELECT max(replaced_at) FROM stream WHERE workspace = ? AND session_id IN "
            rows = for_each(self._query, sql, workspace, sessions)
        if any(at is not None and at > cursor.position for (at,) in rows):
            return Reset("imported events before this cursor were replaced", None)
        return None

    def scan(self, workspace: str, sessions: Sequence[str] | None) -> Scan:
        """What reads a workspace or some of its sessions page after page: each call goes on where the one before ended.

        A call reads at most one event beyond `bytes_max`. It remembers where each session goes on, so that a page costs
        what it holds, however long the sessions are and however many others the log has.
        """
        if sessions is not None:
            return SessionMerge(self._query, self._at, workspace, sessions).page

        def pages(after: int, upto: int, events_max: int, bytes_max: int) -> list[RecordedEvent]:
            found: list[RecordedEvent] = []
            size = 0
            for row in self._query(_BETWEEN, (after, upto, workspace)):
                recorded = self.record(row)
                found.append(recorded)
                size += recorded.size_bytes
                if len(found) >= events_max or size >= bytes_max:
                    break
            return found

        return pages

    def events(
        self,
        *,
        workspace: str,
        after: int = 0,
        upto: int | None = None,
        sessions: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[RecordedEvent]:
        """Events after a position in order, bounded by `limit` items and `page_bytes_max`. In a snapshot."""
        count = self._limits.page_items_max if limit is None else limit
        top = _POSITION_MAX if upto is None else upto
        return self.scan(workspace, sessions)(after, top, count, self._limits.page_bytes_max)

    def _at(self, position: int) -> RecordedEvent | None:
        row = self._query(_AT, (position,)).fetchone()
        return None if row is None else self.record(row)

    def record(self, row: tuple[Any, ...]) -> RecordedEvent:
        """A row of the log as its reader sees it."""
        position, workspace, session_id, incarnation, seq, name, version, outcome = row[:8]
        recorded_at, occurred_at, event_id, causation_id, data = row[8:]
        cursor = Cursor(self.epoch_of(position), position)
        event = decode(self._registry, name, version, data)
        if isinstance(event, UnknownEvent):
            self.unknown_events += 1
        return RecordedEvent(
            position=position,
            cursor=cursor,
            workspace=workspace,
            session_id=session_id,
            incarnation=incarnation,
            seq=seq,
            type=name,
            version=version,
            event=event,
            event_id=event_id or str(cursor),
            occurred_at=recorded_at if occurred_at is None else occurred_at,
            recorded_at=recorded_at,
            causation_id=causation_id,
            outcome=_SKIPS[outcome],
            size_bytes=len(data),
        )

    def page(
        self,
        *,
        workspace: str,
        after: After = START,
        session_id: str | Collection[str] | None = None,
        limit: int = 100,
    ) -> Page[RecordedEvent]:
        """One page of the log of a workspace, or of one or several of its sessions, after a place."""
        self.check_limit(limit)
        sessions = chosen_sessions(session_id, self._limits.subscription_sessions_max)
        with self.snapshot() as snapshot:
            scan, bytes_max = self.scan(workspace, sessions), self._limits.page_bytes_max
            items = scan(self.resolve(after, snapshot), snapshot.head, limit, bytes_max)
            # A page may be full of items or of bytes: only another look tells whether there is more.
            more = bool(items) and bool(scan(items[-1].position, snapshot.head, 1, bytes_max))
            return Page(tuple(items), snapshot.cursor, more)

    def resolve(self, after: After, snapshot: Snapshot) -> int:
        """The position of a place, or `CursorError`."""
        if isinstance(after, Cursor):
            if type(after.position) is not int:
                raise CursorError(str(after), "is not a cursor")
            self.check(after, snapshot)
            return after.position
        if after is not START and after is not HEAD:
            raise InvalidArgumentError("after", f"expected START, HEAD or a Cursor, found {after!r:.60}")
        return 0 if after is START else snapshot.head

    def check_limit(self, limit: int, argument: str = "limit") -> None:
        """Refuse a page size that no page may have."""
        if type(limit) is not int or not 1 <= limit <= self._limits.page_items_max:
            raise InvalidArgumentError(argument, f"expected 1 to {self._limits.page_items_max}, found {limit!r:.60}")

    def live_session(self, workspace: str, session_id: str) -> int | None:
        """The number of the session's live incarnation, or None. One snapshot."""
        with self.snapshot():
            row = self._query(
                "SELECT incarnation FROM stream WHERE workspace = ? AND session_id = ? AND session_key IS NOT NULL",
                (workspace, session_id),
            ).get
        return row if isinstance(row, int) else None

    def last_incarnation(self, workspace: str, session_id: str) -> int | None:
        """The number of the session's latest incarnation, live or not; None where the id was never used. One snapshot."""
        with self.snapshot():
            row = self._query(
                "SELECT incarnation FROM stream WHERE workspace = ? AND session_id = ?", (workspace, session_id)
            ).get
        return row if isinstance(row, int) and row > 0 else None

    def imported(
        self, workspace: str, *, after: int = 0, session_id: str | None = None, limit: int | None = None
    ) -> list[ImportedRow]:
        """Imported events of live incarnations after a position, by one pass that trusts no secondary index of the log."""
        count = self._limits.page_items_max if limit is None else limit
        with self.snapshot():
            rows = self._query(
                "SELECT e.position, s.session_id, e.seq, e.event_id, e.digest FROM event e NOT INDEXED CROSS JOIN stream s "
                "ON s.key = e.stream_key AND s.incarnation = e.incarnation WHERE e.position > ?1 AND e.origin = 1 "
                "AND s.workspace = ?2 AND s.session_key IS NOT NULL AND s.session_id = coalesce(?3, s.session_id) "
                "ORDER BY e.position LIMIT ?4",
                (after, workspace, session_id, count),
            ).fetchall()
        return [ImportedRow(*row) for row in rows]

    def unknown_types(self) -> dict[str, int]:
        """Stored types this process cannot read, with how many events of each there are: one pass over the log."""
        with self.snapshot():
            rows = self._query(
                "SELECT t.name, t.version, count(*) FROM event e JOIN event_type t ON t.key = e.type_key GROUP BY t.key"
            ).fetchall()
        return {f"{name} v{version}": count for name, version, count in rows if not self.can_read(name, version)}

    def can_read(self, name: str, version: int) -> bool:
        """Whether this process knows the stored type at this version."""
        definition = self._registry.named(name)
        return definition is not None and version <= definition.version and definition.reads(version)
