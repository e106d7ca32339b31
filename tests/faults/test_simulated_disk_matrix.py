"""SQLite's durability promises, journal mode by synchronous setting, on the simulated disk.

The promises are SQLite's (https://sqlite.org/pragma.html#pragma_synchronous), so this tests the disk: one that loses too
little would break no promise anywhere, one that loses too much would break them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import attrs
import pytest

from engine.simulation.disk import CrashReport, Disk, OperationLog, PowerModel, SqlCheck, Verdict, crash_campaign

SCHEMA = """
CREATE TABLE event(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE message(id INTEGER PRIMARY KEY, event_id INTEGER NOT NULL REFERENCES event(id), body TEXT NOT NULL) STRICT;
CREATE INDEX message_by_event ON message(event_id);
"""
TRANSACTIONS = 12
CHECKPOINTS = (4, 9)


class PairCheck(SqlCheck):
    """Every transaction wrote one event and one message of the same number, and marked the number when it was committed."""

    def inspect(self, connection: apsw.Connection) -> Any:
        events = connection.execute("SELECT id FROM event ORDER BY id").fetchall()
        messages = connection.execute("SELECT event_id FROM message ORDER BY id").fetchall()
        return tuple(events), tuple(messages)

    def judge_found(self, found: Any, marks: Sequence[Any]) -> Verdict | None:
        events, messages = found
        if events != messages:
            return "half"
        if events != tuple((number + 1,) for number in range(len(events))):
            return "gap"
        return "lost" if len(events) < len(marks) else None


def workload(disk: Disk, journal: str, synchronous: str) -> OperationLog:
    """Twelve marked transactions on a new database, with two checkpoints where there is a WAL."""
    connection = apsw.Connection("log.db", vfs=disk.name)
    try:
        assert connection.pragma("journal_mode", journal) == journal
        connection.pragma("wal_autocheckpoint", 0)
        connection.execute(SCHEMA)
        connection.pragma("synchronous", synchronous)
        log = disk.record()
        for number in range(1, TRANSACTIONS + 1):
            with connection:
                connection.execute("INSERT INTO event VALUES(?, ?)", (number, f"key {number * 7919 % 97}"))
                connection.execute("INSERT INTO message VALUES(?, ?, ?)", (number, number, "x" * (number * 130)))
            disk.mark(number)
            if journal == "wal" and number in CHECKPOINTS:
                connection.pragma("wal_checkpoint", "passive")
        disk.stop()
        return log
    finally:
        connection.close()


def crash(journal: str, synchronous: str, model: PowerModel, images_per_point: int = 6) -> CrashReport:
    with Disk(seed=1) as disk, disk.default():
        log = workload(disk, journal, synchronous)
        return crash_campaign(log, PairCheck("log.db"), disk=disk, images_per_point=images_per_point, model=model)


@attrs.frozen
class Promise:
    """What is seen in one row of the matrix: whether acknowledged commits go, whether the file breaks."""

    journal: str
    synchronous: str
    loses: bool
    breaks: bool = False
    images_per_point: int = 12


MATRIX = (
    Promise("delete", "off", loses=True, breaks=True),
    # The journal is deleted without syncing the directory, so it may come back and undo the last commit.
    Promise("delete", "full", loses=True),
    Promise("delete", "extra", loses=False),
    Promise("truncate", "full", loses=False),
    Promise("truncate", "extra", loses=False),
    Promise("persist", "full", loses=False),
    Promise("wal", "off", loses=True, breaks=True),
    Promise("wal", "normal", loses=True),
    Promise("wal", "full", loses=False),
    Promise("wal", "extra", loses=False),
    # With one sync for the journal's header and its pages, a torn page may pass for a good one: its checksum looks at every
    # 200th byte. SQLite calls the chance very small; it takes more images to see it.
    Promise("delete", "normal", loses=True, breaks=True, images_per_point=40),
    Promise("truncate", "normal", loses=True, breaks=True, images_per_point=40),
    Promise("persist", "normal", loses=False, breaks=True, images_per_point=40),
)


@pytest.mark.parametrize("promise", MATRIX, ids=lambda promise: f"{promise.journal}-{promise.synchronous}")
@pytest.mark.parametrize("garbage", [False, True], ids=["torn", "garbage"])
def test_each_setting_loses_and_breaks_exactly_what_sqlite_says(promise: Promise, garbage: bool) -> None:
    """Acknowledged commits go only where SQLite says they may, and there they do; the same for the file's soundness."""
    report = crash(promise.journal, promise.synchronous, PowerModel(garbage=garbage), promise.images_per_point)
    assert report.distinct > 400
    assert (report.lost > 0) == promise.loses, report
    assert (report.corrupt > 0) == promise.breaks, report
    if not promise.breaks:
        assert report.half_applied == 0, report
        assert report.gaps == 0, report


def test_a_transaction_is_torn_only_without_syncs() -> None:
    """With synchronous=OFF half of a transaction survives somewhere, although the file passes SQLite's own checks."""
    assert crash("delete", "off", PowerModel()).half_applied > 0


@pytest.mark.parametrize("journal", ["delete", "truncate", "wal"])
def test_a_dying_process_loses_nothing_even_without_syncs(journal: str) -> None:
    """What a process wrote before it died is all there: no setting is needed for that."""
    report = crash(journal, "off", PowerModel(), images_per_point=1)
    assert report.distinct > 100
    assert not report.wrong
