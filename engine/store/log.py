"""The writing half of the log: all SQL that appends.

Owns: transactions and savepoints of the one writing connection, streams and their heads, event rows, ids, epochs.
Must not know: projections; who asks.
Invariants: seq comes from `stream.head` and position from AUTOINCREMENT, both given by the database inside the
transaction that uses them; nothing here commits by itself, except the epoch and the fence.
Caches (keys, which incarnation is live) save queries and decide nothing that this connection did not write itself; they
are dropped on any rollback.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import apsw
import attrs

from engine.events import PreparedEvent
from engine.store.schema import OUTCOMES

STREAMS_CACHED = 20_000
"""Streams remembered between transactions; beyond, all are forgotten and asked for again."""

_OUTCOME_INDEX = {name: index for index, name in enumerate(OUTCOMES)}


@attrs.define(eq=False)
class StreamState:
    """A stream as the open transaction sees it. `session_key` is None when no incarnation is live.

    Kept from transaction to transaction (only this connection writes), moved on by the methods of `Log`, and forgotten on
    any rollback. Its head is not kept: the database alone counts.
    """

    key: int
    incarnation: int
    session_key: int | None


@attrs.frozen
class StoredEvent:
    """Where and as what an event id was stored."""

    position: int
    seq: int
    type: str
    version: int
    outcome: int
    digest: bytes | None
    data: str


@attrs.frozen
class Epoch:
    """One writing open: its id and the first position that it may assign."""

    id: str
    first_position: int


def epoch_at(epochs: list[Epoch], position: int) -> str:
    """The id of the epoch, of these in their order, in which a position was assigned; `0` where there is none."""
    index = bisect_right(epochs, position, key=lambda epoch: epoch.first_position) - 1
    return epochs[max(index, 0)].id if epochs else "0"


class Log:
    """The log through its one writing connection. Every method but the transaction verbs needs an open transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._execute: Callable[..., Any] = connection.cursor().execute
        self._streams: dict[tuple[str, str], StreamState] = {}
        self._types: dict[tuple[str, int], int] = {}
        self.epochs: list[Epoch] = []
        self.load_epochs()

    # --- transactions -------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the write lock now: a deferred transaction that reads and then writes ignores the busy timeout."""
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Undo the open transaction, if SQLite has not done so already."""
        self.forget_cached()
        if self.connection.in_transaction:
            self._execute("ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def savepoint(self) -> None:
        self._execute("SAVEPOINT command")

    def release(self) -> None:
        self._execute("RELEASE command")

    def undo_savepoint(self) -> None:
        """Undo and drop the innermost savepoint."""
        self.forget_cached()
        self._execute("ROLLBACK TO command")
        self._execute("RELEASE command")

    def forget_cached(self) -> None:
        """Drop what is kept in memory of the file."""
        self._streams.clear()
        self._types.clear()

    # --- streams ------------------------------------------------------------------------------

    def stream(self, workspace: str, session_id: str) -> StreamState | None:
        """The stream of a session id, or None when the id was never used."""
        state = self._streams.get((workspace, session_id))
        if state is None:
            row = self._execute(
                "SELECT key, incarnation, session_key FROM stream WHERE workspace = ? AND session_id = ?",
                (workspace, session_id),
            ).fetchone()
            if row is None:
                return None
            if len(self._streams) >= STREAMS_CACHED:
                self._streams.clear()
            state = self._streams[workspace, session_id] = StreamState(*row)
        return state

    def create_stream(self, workspace: str, session_id: str) -> StreamState:
        """A stream for a session id that was never used."""
        self._execute("INSERT INTO stream(workspace, session_id) VALUES(?, ?)", (workspace, session_id))
        state = self._streams[workspace, session_id] = StreamState(self.connection.last_insert_rowid(), 0, None)
        return state

    def head(self, stream: StreamState) -> int:
        """The last seq given in a stream, 0 for none."""
        row = self._execute("SELECT head FROM stream WHERE key = ?", (stream.key,)).fetchone()
        head: int = row[0]
        return head

    def open_incarnation(self, stream: StreamState, number: int, session_key: int) -> None:
        """Make the incarnation live; `session_key` is the position of its SessionStarted. One that is replaced by a new
        import begins anew under its old number."""
        stream.incarnation, stream.session_key = number, session_key
        self._execute("UPDATE stream SET incarnation = ?, session_key = ? WHERE key = ?", (number, session_key, stream.key))
        self._execute("REPLACE INTO incarnation VALUES(?, ?, ?)", (stream.key, number, session_key))

    def close_incarnation(self, stream: StreamState) -> None:
        """End the live incarnation."""
        stream.session_key = None
        self._execute("UPDATE stream SET session_key = NULL WHERE key = ?", (stream.key,))

    def session_key_of(self, stream_key: int, number: int) -> int | None:
        """The session_key of any incarnation, live or not."""
        row = self._execute(
            "SELECT session_key FROM incarnation WHERE stream_key = ? AND number = ?", (stream_key, number)
        ).fetchone()
        return None if row is None else row[0]

    # --- events -------------------------------------------------------------------------------

    def insert(
        self,
        stream_key: int,
        incarnation: int,
        prepared: PreparedEvent,
        *,
        recorded_at: int,
        digest: bytes | None,
        outcome: str = "applied",
        origin: int = 0,
    ) -> tuple[int, int]:
        """Append one event; the database assigns and returns (seq, position)."""
        seq = self._execute("UPDATE stream SET head = head + 1 WHERE key = ? RETURNING head", (stream_key,)).fetchone()[0]
        definition = prepared.definition
        type_key = self._types.get((definition.name, definition.version)) or self._intern(
            definition.name, definition.version
        )
        self._execute(
            "INSERT INTO event(stream_key, incarnation, seq, type_key, outcome, origin, recorded_at, occurred_at, "
            "event_id, causation_id, digest, data) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                stream_key,
                incarnation,
                seq,
                type_key,
                _OUTCOME_INDEX[outcome],
                origin,
                recorded_at,
                prepared.occurred_at,
                prepared.event_id,
                prepared.causation_id,
                digest,
                prepared.data.decode(),
            ),
        )
        return seq, self.connection.last_insert_rowid()

    def _intern(self, name: str, version: int) -> int:
        self._execute("INSERT INTO event_type(name, version) VALUES(?, ?) ON CONFLICT DO NOTHING", (name, version))
        row = self._execute("SELECT key FROM event_type WHERE name = ? AND version = ?", (name, version)).fetchone()
        key: int = row[0]
        self._types[name, version] = key
        return key

    def set_outcome(self, position: int, outcome: str) -> None:
        """Store what became of an event inserted in this transaction."""
        self._execute("UPDATE event SET outcome = ? WHERE position = ?", (_OUTCOME_INDEX[outcome], position))

    def forget(self, stream_key: int, position: int) -> None:
        """Take back the newest event of this transaction: there was nothing to store. Its seq was never committed."""
        self._execute("DELETE FROM event WHERE position = ?", (position,))
        self._execute("UPDATE stream SET head = head - 1 WHERE key = ?", (stream_key,))

    def by_event_id(self, stream_key: int, incarnation: int, event_id: str) -> StoredEvent | None:
        """The event that a caller stored under this id in this incarnation."""
        return self._stored("e.stream_key = ? AND e.incarnation = ? AND e.event_id = ?", (stream_key, incarnation, event_id))

    def by_position(self, stream_key: int, incarnation: int, position: int) -> StoredEvent | None:
        """The event without an id of its own at this position, if this incarnation wrote it."""
        return self._stored(
            "e.position = ? AND e.stream_key = ? AND e.incarnation = ? AND e.event_id IS NULL",
            (position, stream_key, incarnation),
        )

    def _stored(self, where: str, values: tuple[int | str, ...]) -> StoredEvent | None:
        row = self._execute(
            "SELECT e.position, e.seq, t.name, t.version, e.outcome, e.digest, e.data "
            f"FROM event e JOIN event_type t ON t.key = e.type_key WHERE {where}",
            values,
        ).fetchone()
        return None if row is None else StoredEvent(*row)

    def last_event(self) -> int:
        """The position of the newest event that is there, 0 for none."""
        row = self._execute("SELECT max(position) FROM event").fetchone()
        return row[0] or 0

    def last_position(self) -> int:
        """The largest position ever assigned and kept, 0 for none; survives the deletion of its row."""
        row = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
        return 0 if row is None else row[0]

    # --- epochs and fences --------------------------------------------------------------------

    def load_epochs(self) -> None:
        """Read the recorded epochs anew."""
        rows = self._execute("SELECT id, first_position FROM epoch ORDER BY key").fetchall()
        self.epochs = [Epoch(*row) for row in rows]

    def start_epoch(self, epoch_id: str, now_ms: int) -> Epoch:
        """Record a new epoch that begins after everything there is, in a transaction of its own."""
        self.begin()
        try:
            epoch = Epoch(epoch_id, self.last_position() + 1)
            self._execute(
                "INSERT INTO epoch(id, first_position, opened_at, pid) VALUES(?, ?, ?, ?)",
                (epoch.id, epoch.first_position, now_ms, os.getpid()),
            )
            self.commit()
        except apsw.Error:
            self.rollback()
            raise
        self.epochs.append(epoch)
        return epoch

    def epoch_of(self, position: int) -> str:
        """The id of the epoch in which a position was assigned."""
        return epoch_at(self.epochs, position)

    def fence(self) -> None:
        """Commit something harmless. Success proves that an earlier COMMIT that failed can never come back to life:
        its frames in the WAL are overwritten (measured; see also https://sqlite.org/walformat.html section 4)."""
        before = self._execute("PRAGMA synchronous").fetchone()[0]
        self._execute("PRAGMA synchronous = FULL")
        try:
            self.begin()
            self._execute("UPDATE counter SET value = value + 1 WHERE name = 'fence'")
            self.commit()
        except apsw.Error:
            # The setting cannot be put back inside a transaction.
            self.rollback()
            raise
        finally:
            self._execute(f"PRAGMA synchronous = {before}")

    def save_checkpoints(self, names: tuple[str, ...], position: int) -> None:
        """Move the checkpoints of these projections to a position."""
        marks = ", ".join("?" * len(names))
        self._execute(f"UPDATE projection SET position = ? WHERE name IN ({marks})", (position, *names))
