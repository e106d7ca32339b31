"""What the engine says while it runs, for the checks of a run: what it logs, and what it publishes.

Must not know: what is made of it. Invariants: both are put back when their block is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.subscriptions import Hub
from engine.writer import Written


class _Collector(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.records = records

    def handle(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return True


@contextmanager
def heard(hears: Callable[[Hub, Sequence[Written]], None]) -> Iterator[None]:
    """Let what is published be heard, right before it is."""
    publish = Hub.publish

    def published(self: Hub, written: Sequence[Written], replaced: Sequence[tuple[str, str]]) -> None:
        hears(self, written)
        publish(self, written, replaced)

    hub: Any = Hub
    hub.publish = published
    try:
        yield
    finally:
        hub.publish = publish


@contextmanager
def collected(records: list[logging.LogRecord]) -> Iterator[None]:
    """Let what the engine logs in the block go to a list, and nowhere else."""
    log = logging.getLogger("engine")
    handler = _Collector(records)
    propagates, log.propagate = log.propagate, False
    level = log.level
    # What a run finds must not depend on how the process around it has set up its logs.
    log.setLevel(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagates
        log.setLevel(level)
