"""The one apply path: an event is shown to every projection once, in the transaction that appends or replays it.

Owns: the projections' tables and checkpoints, dispatch to handlers, catching up and rebuilding. Must not know: commands,
the inbox, replies.
Invariants: nobody else calls a handler; the built-in projections decide first and their outcome is the event's; a skipped
event is shown to no handler; a replay starts from empty tables or from the checkpoint, never over what is applied; replay
never decides anew: the stored outcome holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from engine.errors import EngineError, ProjectionFailedError, RegistrationError, StorageCorruptError
from engine.events import APPLIED, Applied, Registry, Skipped, UnknownEvent, decode
from engine.projections.builtin import BUILT_IN_PROJECTIONS
from engine.projections.definition import Handler, Projection, Recording
from engine.store import OUTCOMES, RESERVED_TABLES, Log, SqlError, Tx, is_constraint

Progress = Callable[[int, int], None]
"""Called with (events replayed, events to replay)."""

PROGRESS_EVENTS: Final = 1_000
"""Events replayed between two progress reports."""

_Bound = tuple[Projection, Tx, Handler]


class Projector:
    """The projections of one engine on its writing connection."""

    def __init__(self, log: Log, registry: Registry, projections: Sequence[Projection]) -> None:
        self._log = log
        self._registry = registry
        self._projections = (*BUILT_IN_PROJECTIONS, *projections)
        self._check_names()
        built_in_tables = {name: name for p in BUILT_IN_PROJECTIONS for name in p.tables}
        self._built_in_tx = Tx(log.connection, "built-in", built_in_tables, checked=False)
        self._txs = {
            p.name: self._built_in_tx
            if p.built_in
            else Tx(log.connection, p.name, {name: name for name in p.tables}, checked=True)
            for p in self._projections
        }
        self._deciding = self._dispatch(built_in=True)
        self._following = self._dispatch(built_in=False)
        self.names = tuple(p.name for p in self._projections)

    def _check_names(self) -> None:
        names: set[str] = set()
        tables: set[str] = set()
        for projection in self._projections:
            if projection.name in names:
                raise RegistrationError(f"projection {projection.name!r}", "another projection has this name")
            names.add(projection.name)
            for table in projection.tables:
                if table.lower() in tables:
                    raise RegistrationError(f"projection {projection.name!r}", f"table {table!r} belongs to another one")
                tables.add(table.lower())
            for handled in projection.handlers:
                if handled not in self._registry:
                    raise RegistrationError(
                        f"projection {projection.name!r}", f"handles {handled.__name__}, which is not in events=[...]"
                    )

    def _dispatch(self, *, built_in: bool) -> dict[type[Any], list[_Bound]]:
        found: dict[type[Any], list[_Bound]] = {}
        for projection in self._projections:
            if projection.built_in is built_in:
                for cls, handler in projection.handlers.items():
                    found.setdefault(cls, []).append((projection, self._txs[projection.name], handler))
        return found

    # --- live ---------------------------------------------------------------------------------

    def decide(self, event: Any, recorded: Recording) -> Applied | Skipped:
        """Let the built-in projections apply the event, or say why it changes nothing.

        Raises the refusal of one of them; the caller undoes its savepoint.
        """
        for _, tx, handler in self._deciding.get(type(event), ()):
            outcome = handler(tx, event, recorded)
            if isinstance(outcome, Skipped):
                return outcome
        return APPLIED

    def follow(self, event: Any, recorded: Recording) -> None:
        """Show an applied event to the users' projections. Raises `ProjectionFailedError`."""
        following = self._following.get(type(event))
        if following:
            self._follow(following, event, recorded)

    def _follow(self, bound: list[_Bound], event: Any, recorded: Recording) -> None:
        for projection, tx, handler in bound:
            try:
                handler(tx, event, recorded)
            except SqlError as problem:
                if not is_constraint(problem):
                    raise
                raise ProjectionFailedError(projection.name, self._registry.of(event).name, str(problem)) from None
            except EngineError:
                raise
            except Exception as problem:
                raise ProjectionFailedError(projection.name, self._registry.of(event).name, _told(problem)) from problem
            if not self._log.in_transaction:
                # The handler swallowed an error that made SQLite undo everything: the writer must not go on.
                raise ProjectionFailedError(projection.name, self._registry.of(event).name, "the transaction is gone")

    @contextmanager
    def replacing(self, session_key: int) -> Iterator[None]:
        """Wipe one incarnation's read model, let the block append it anew, then bring the users' projections along.

        A user's tables cannot be told apart by incarnation, so they are wiped and replayed whole, in this transaction;
        those of projections that this process does not know, when one comes that does: their checkpoints go.
        """
        self._forget_unknown()
        for table, column in (
            ("session", "key"),
            ("tombstone", "session_key"),
            ("usage", "session_key"),
            ("spender", "session_key"),
        ):
            self._built_in_tx.execute(f"DELETE FROM {{{table}}} WHERE {column} = ?", (session_key,))
        following, self._following = self._following, {}
        try:
            yield
        finally:
            self._following = following
        users = [projection for projection in self._projections if not projection.built_in]
        if users:
            self._wipe_and_replay(users, None)

    def _forget_unknown(self) -> None:
        """Drop the checkpoints of projections that this process does not know: they begin anew when one comes that does."""
        self._log.connection.execute(
            "DELETE FROM projection WHERE name NOT IN (SELECT value FROM json_each(?))", (json.dumps(self.names),)
        )

    # --- opening and replaying ------------------------------------------------------------------

    def stale(self) -> list[Projection]:
        """The projections whose tables are missing, of another version, or behind the log."""
        stored = self._stored_checkpoints()
        found = []
        for projection in self._projections:
            version, position = stored.get(projection.name, (0, 0))
            if version != projection.version or self._is_behind(position):
                found.append(projection)
        if any(projection.built_in for projection in found):
            # The built-in tables depend on each other, so they are rebuilt together.
            return [p for p in self._projections if p.built_in or p in found]
        return found

    def _is_behind(self, position: int) -> bool:
        # Positions that were assigned and not kept are no reason to look at the log itself.
        return position < self._log.last_position() and position < self._log.last_event()

    def _stored_checkpoints(self) -> dict[str, tuple[int, int]]:
        rows: list[Any] = self._log.connection.execute("SELECT name, version, position FROM projection").fetchall()
        return {name: (version, position) for name, version, position in rows}

    def bring_up(self, progress: Progress | None = None) -> int:
        """Create, catch up or rebuild what is stale, in one transaction; returns the number of events replayed."""
        stale = self.stale()
        if not stale:
            return 0
        self._log.begin()
        try:
            replayed = self._bring_up(stale, progress)
            self._log.commit()
        except BaseException:
            self._log.rollback()
            raise
        return replayed

    def _bring_up(self, stale: list[Projection], progress: Progress | None) -> int:
        stored = self._stored_checkpoints()
        behind: dict[int, list[Projection]] = {}
        fresh: list[Projection] = []
        for projection in stale:
            version, position = stored.get(projection.name, (0, 0))
            if version == projection.version:
                behind.setdefault(position, []).append(projection)
            else:
                fresh.append(projection)
        replayed = 0
        if any(self._exists(table) for projection in fresh if not projection.built_in for table in projection.tables):
            # It may have been another projection's until now, and what that one comes back to is not what it left.
            self._forget_unknown()
        if fresh:
            replayed += self._wipe_and_replay(fresh, progress)
        for position, projections in behind.items():
            replayed += self._replay(projections, position, progress)
        return replayed

    def rebuild(self, names: Sequence[str] | None = None, progress: Progress | None = None) -> int:
        """Wipe and replay the named projections (all of them by default) in one transaction.

        Readers see the old tables until it commits. Raises `RegistrationError` for an unknown name, and
        `StorageCorruptError` when an event that a handler may need cannot be read by this process.
        """
        chosen = self._covered(names)
        self._log.begin()
        try:
            replayed = self._wipe_and_replay(chosen, progress)
            self._log.commit()
        except BaseException:
            self._log.rollback()
            raise
        return replayed

    def covered(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """The projections that a rebuild of the named ones covers."""
        return tuple(projection.name for projection in self._covered(names))

    def _covered(self, names: Sequence[str] | None) -> list[Projection]:
        known = [projection.name for projection in self._projections]
        for name in names or ():
            if name not in known:
                raise RegistrationError(f"projection {name!r}", f"unknown; known are {', '.join(known)}")
        chosen = [p for p in self._projections if names is None or p.name in names]
        if any(p.built_in for p in chosen):
            chosen = [p for p in self._projections if p.built_in or p in chosen]
        return chosen

    def _wipe_and_replay(self, projections: Sequence[Projection], progress: Progress | None) -> int:
        connection = self._log.connection
        self._drop(projections)
        for projection in projections:
            tx = self._txs[projection.name]
            # DDL is not for handlers: it is rendered by an unchecked twin.
            maker = (
                tx
                if projection.built_in
                else Tx(connection, projection.name, {n: n for n in projection.tables}, checked=False)
            )
            for statement in projection.create_statements(maker):
                connection.execute(statement)
            self._check_columns(projection)
        return self._replay(projections, 0, progress)

    def _exists(self, table: str) -> bool:
        sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?)"
        return self._log.connection.execute(sql, (table,)).get is not None

    def _drop(self, projections: Sequence[Projection]) -> None:
        """Drop the tables, and what an earlier version left behind that still refers to them."""
        connection = self._log.connection
        known = {table.lower() for projection in self._projections for table in projection.tables}
        going = {table.lower() for projection in projections for table in projection.tables}
        referring: list[Any] = connection.execute(
            "SELECT DISTINCT s.name FROM sqlite_schema s JOIN pragma_foreign_key_list(s.name) f WHERE s.type = 'table' "
            'AND lower(f."table") IN (SELECT value FROM json_each(?))',
            (json.dumps(sorted(going)),),
        ).fetchall()
        statements = [f'DROP TABLE "{name}"' for (name,) in referring if name.lower() not in known | RESERVED_TABLES]
        statements += [statement for projection in reversed(projections) for statement in projection.drop_statements()]
        # A drop deletes the rows first, and they may be declared in any order, or refer to each other: what counts is that
        # in the end all are gone. Nothing else is written meanwhile.
        connection.pragma("defer_foreign_keys", "ON")
        try:
            for statement in statements:
                connection.execute(statement)
        finally:
            connection.pragma("defer_foreign_keys", "OFF")

    def _check_columns(self, projection: Projection) -> None:
        if projection.built_in or projection.scope != "session":
            return
        for table in projection.tables:
            rows = self._log.connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
            if ("session_id",) not in rows:
                raise RegistrationError(f"projection {projection.name!r}", f"table {table!r} has no column session_id")

    def _replay(self, projections: Sequence[Projection], after: int, progress: Progress | None) -> int:
        connection = self._log.connection
        names = {projection.name for projection in projections}
        deciding = _only(self._deciding, names)
        following = _only(self._following, names)
        total = connection.execute("SELECT count(*) FROM event WHERE position > ?", (after,)).get
        total = total if isinstance(total, int) else 0
        replayed = 0
        for event, outcome, recorded in self._stored(after):
            replayed += 1
            if progress is not None and replayed % PROGRESS_EVENTS == 0:
                progress(replayed, total)
            if outcome != 0:
                continue
            if isinstance(event, UnknownEvent):
                if self._registry.named(event.type) is not None:
                    raise StorageCorruptError(
                        "replay",
                        f"event {event.type!r} version {event.version} at position {recorded.position} cannot be read",
                    )
                continue
            for _, tx, handler in deciding.get(type(event), ()):
                if isinstance(handler(tx, event, recorded), Skipped):
                    break
            bound = following.get(type(event))
            if bound:
                self._follow(bound, event, recorded)
        if progress is not None:
            progress(replayed, total)
        for projection in projections:
            connection.execute(
                "REPLACE INTO projection VALUES(?, ?, ?)", (projection.name, projection.version, self._log.last_event())
            )
        return replayed

    def _stored(self, after: int) -> Iterator[tuple[Any, int, Recording]]:
        """Every event after a position, in order, as a handler needs it."""
        rows = self._log.connection.execute(
            "SELECT e.position, e.seq, s.workspace, s.session_id, e.incarnation, i.session_key, e.occurred_at, "
            "e.recorded_at, e.outcome, t.name, t.version, e.data FROM event e JOIN stream s ON s.key = e.stream_key "
            "JOIN incarnation i ON i.stream_key = e.stream_key AND i.number = e.incarnation "
            "JOIN event_type t ON t.key = e.type_key WHERE e.position > ? ORDER BY e.position",
            (after,),
        )
        for row in rows:
            position, seq, workspace, session_id, incarnation, session_key, occurred_at, recorded_at = row[:8]
            outcome, name, version, data = row[8:]
            moment = recorded_at if occurred_at is None else occurred_at
            recorded = Recording(position, seq, workspace, session_id, incarnation, session_key, moment, recorded_at)
            event = decode(self._registry, name, version, data) if OUTCOMES[outcome] == "applied" else None
            yield event, outcome, recorded


def _told(problem: Exception) -> str:
    name = type(problem).__name__
    try:
        return f"{name}: {problem}"
    except Exception:
        # An exception of the user's own that cannot say what it is.
        return name


def _only(bound: dict[type[Any], list[_Bound]], names: set[str]) -> dict[type[Any], list[_Bound]]:
    return {cls: [entry for entry in entries if entry[0].name in names] for cls, entries in bound.items()}
