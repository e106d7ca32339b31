"""The events of several sessions in the log's order, without reading anybody else's.

Owns: the merge of the sessions' own sequences into the order of positions. Must not know: what an event means.
Invariants: only the index by (stream, seq) and single positions are read, so a page costs what it holds and not what the
log holds; seq and position rise together within a stream; a row's data is read only when it is its turn, so what waits is
numbers. The heap says, for each session that may have more, a position that its next event is not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from engine.errors import StorageCorruptError
from engine.events import RecordedEvent

Query = Callable[..., Any]
At = Callable[[int], RecordedEvent | None]

NAMES_MAX = 500
"""Session ids in one statement: far below what SQLite takes, and few enough that its text stays small."""

_LAST_OF = (
    "SELECT s.key, e.seq, e.position FROM stream s JOIN event e ON e.stream_key = s.key "
    "AND e.seq = (SELECT max(seq) FROM event WHERE stream_key = s.key) WHERE s.workspace = ? AND s.session_id IN "
)
_AFTER_SEQ = "SELECT seq, position FROM event WHERE stream_key = ? AND seq > ? ORDER BY seq"
_LAST_UPTO_SEQ = "SELECT seq, position FROM event WHERE stream_key = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"


def for_each(query: Query, sql: str, workspace: str, sessions: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a statement that ends in `session_id IN`, for all of the sessions, a few hundred at a time."""
    for start in range(0, len(sessions), NAMES_MAX):
        names = sessions[start : start + NAMES_MAX]
        yield from query(f"{sql}({', '.join('?' * len(names))})", (workspace, *names))


class SessionMerge:
    """One reader's way through the events of its sessions. What it knows is kept from page to page."""

    def __init__(self, query: Query, at: At, workspace: str, sessions: Sequence[str]) -> None:
        self._query = query
        self._at = at
        self._workspace = workspace
        self._sessions = sessions
        self._heap: list[tuple[int, int, int]] = []
        """(a position its next event is not before, stream, last seq taken)."""
        self._top = -1
        """Up to here the heap leads to every event that was not taken."""

    def page(self, after: int, upto: int, events_max: int, bytes_max: int) -> list[RecordedEvent]:
        """The events after a position, not beyond another, in order; it ends with the event that reaches a bound.

        Each call goes on where the one before ended, or, where that one found nothing, anywhere after it; `upto` never goes
        back. Empty only where there are none. In a snapshot. Raises `StorageCorruptError` where the index contradicts the
        log; after an error the same call may be made again.
        """
        try:
            found = self._take(events_max, bytes_max)
            if not found and self._top < upto:
                self._look(after, upto)
                found = self._take(events_max, bytes_max)
        except BaseException:
            # What was taken is lost with the error, so the heap is wrong: look anew.
            self._heap, self._top = [], -1
            raise
        return found

    def _look(self, after: int, upto: int) -> None:
        """Find where each session goes on."""
        rows = for_each(self._query, _LAST_OF, self._workspace, self._sessions)
        self._heap = [(after + 1, key, self._seq_at(key, seq, after)) for key, seq, last in rows if last > after]
        heapify(self._heap)
        self._top = upto

    def _seq_at(self, key: int, last_seq: int, after: int) -> int:
        """A seq such that the stream's events beyond it are those after the position. Bisects; seqs may have holes."""
        low, high = 0, last_seq - 1 if after else 0
        while low < high:
            middle = (low + high + 1) // 2
            row = self._query(_LAST_UPTO_SEQ, (key, middle)).fetchone()
            if row is None or row[1] <= after:
                low = middle
            else:
                high = row[0] - 1
        return low

    def _take(self, events_max: int, bytes_max: int) -> list[RecordedEvent]:
        """Take from the session whose turn it is until it is another's."""
        found: list[RecordedEvent] = []
        size = 0
        heap = self._heap
        while heap:
            _, key, seq = heappop(heap)
            for next_seq, position in self._query(_AFTER_SEQ, (key, seq)):
                if position > self._top:
                    break
                if heap and position > heap[0][0]:
                    heappush(heap, (position, key, seq))
                    break
                recorded = self._at(position)
                if recorded is None or recorded.seq != next_seq:
                    problem = f"position {position} should hold seq {next_seq} by the index, found "
                    raise StorageCorruptError("read the log", problem + (f"seq {recorded.seq}" if recorded else "nothing"))
                found.append(recorded)
                size += recorded.size_bytes
                seq = next_seq
                if len(found) >= events_max or size >= bytes_max:
                    heappush(heap, (position + 1, key, seq))
                    return found
        return found
