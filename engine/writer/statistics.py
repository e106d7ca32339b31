"""What the writer tells of itself, and the counts behind it.

Owns: counting outcomes, batch sizes and latencies. Must not know: the inbox, the WAL.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

import attrs

from engine.errors import EngineError
from engine.events import Receipt, Skipped
from engine.writer.batch import BatchResult

LATENCIES_KEPT = 1_000
"""Commit latencies and batch sizes kept for the statistics: the last minute of a busy engine."""


@attrs.frozen(kw_only=True)
class WriterStatistics:
    """What the writer did since it was opened. Durations in milliseconds, sizes in bytes."""

    state: str
    """`open`, `closing`, `closed` or `broken`."""
    queue_depth: int
    """Commands waiting in the inbox."""
    queue_bytes: int
    """Bytes of encoded events waiting in the inbox."""
    batches: int
    """Transactions committed."""
    events: int
    """Events committed, skipped ones included."""
    outcomes: Mapping[str, int]
    """Answers by what they said: applied, duplicate, each skip reason, each error class."""
    batch_events_p50: int
    """Events of a batch, median of the last thousand."""
    batch_events_max: int
    """Events of the largest of these batches."""
    commit_ms_p50: float
    """Length of a batch's transaction with its sync, median of the last thousand."""
    commit_ms_p99: float
    """The same, 99th percentile."""
    busy_retries: int
    """Times the file was locked by somebody else and the batch was tried again."""
    wal_bytes: int
    """Length of the part of the WAL that is in use."""
    wal_pinned: bool
    """Whether the last checkpoint could not copy everything because a reader (of another process) held a snapshot."""
    checkpoints_failed: int
    """Checkpoints that failed; the data is safe in the WAL, which grows."""


class Tally:
    """Counts what became of batches."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.batches = 0
        self.events = 0
        self.busy_retries = 0
        self.sizes: deque[int] = deque(maxlen=LATENCIES_KEPT)
        self.latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)

    def count(self, result: BatchResult, duration_s: float) -> None:
        """Count one batch that took this long."""
        for _, answer in result.answers:
            if isinstance(answer, EngineError):
                self.outcomes[type(answer).__name__] += 1
            elif isinstance(answer, Receipt):
                for entry in answer.events:
                    outcome = entry.outcome
                    name = outcome.reason if isinstance(outcome, Skipped) else type(outcome).__name__.lower()
                    self.outcomes[name] += 1
        if result.state == "committed" and result.written:
            self.batches += 1
            self.events += len(result.written)
            self.sizes.append(len(result.written))
            self.latencies_s.append(duration_s)


def quantile(values: deque[int] | deque[float], fraction: float) -> float:
    """The value below which this fraction of the values lies; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0
