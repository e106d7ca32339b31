"""How many bytes does streamed text cost, beyond the log itself?

One part of 1 MB, posted in 10,000 deltas without pause and then, in a second run, at 100 deltas a second. Counted is what
SQLite writes to the WAL, by a VFS. The log's own share is measured, not computed: the run's own statements are executed
again in the same transactions, once all of them (which must give the same number, as a check) and once without those on
tables of projections; the tables share no page, so the difference is what the read model costs.
"""

from __future__ import annotations

import re

import attrs
import trio

from bench.disk import Written, measured_disk
from bench.recording import Recording, everything, recorded, replay
from bench.report import Settings, Table
from engine import Engine, open_engine
from engine.ports import Ports
from engine.store import RESERVED_TABLES

TITLE = "streaming: bytes of WAL for one part's text"
PIECE = "0123456789" * 10
MB = 1_000_000

_TABLE = re.compile(r"\b(?:INTO|UPDATE|FROM)\s+\"?(\w+)", re.IGNORECASE)
_LOG_TABLES = RESERVED_TABLES - {"projection"}


@attrs.frozen(kw_only=True)
class _Run:
    events: int
    transactions: int
    text_bytes: int
    wal_bytes: int
    log_bytes: int
    replayed_bytes: int
    database_bytes: int

    @property
    def beyond(self) -> int:
        return self.wal_bytes - self.log_bytes


def of_the_log(sql: str) -> bool:
    """Whether a statement would be executed if there were no projection: on a table of the log, or on none."""
    table = _TABLE.search(sql)
    return table is None or table[1].lower() in _LOG_TABLES


async def _stream(
    engine: Engine, recording: Recording, written: Written, deltas: int, pause_s: float
) -> tuple[Written, Written]:
    session = await engine.create_session("s")
    recording.begin()
    before = attrs.evolve(written)
    async with session.turn() as turn, turn.message(message_id="m") as message:
        due = trio.current_time()
        for _ in range(deltas):
            await message.text(PIECE)
            if pause_s:
                due += pause_s
                await trio.sleep_until(due)
    after = attrs.evolve(written)
    page = await engine.read.messages("s")
    text = "".join(part.data["text"] for found in page.items for part in found.parts)
    if text != PIECE * deltas:
        raise AssertionError(f"read back {len(text)} characters of {len(PIECE) * deltas}, or others")
    return before, after


def _measure(settings: Settings, deltas: int, pause_s: float) -> _Run:
    path = settings.file("streaming")
    with measured_disk() as (vfs, written), recorded(path) as recording:

        async def work() -> tuple[Written, Written]:
            async with open_engine(path, ports=Ports(vfs=vfs)) as engine:
                return await _stream(engine, recording, written, deltas, pause_s)
            raise AssertionError("unreachable")

        before, after = trio.run(work)
    measured = [sql for sql, _ in recording.statements[recording.mark :]]
    return _Run(
        events=sum("INTO event(" in sql for sql in measured),
        transactions=measured.count("COMMIT"),
        text_bytes=deltas * len(PIECE),
        wal_bytes=after.wal - before.wal,
        database_bytes=after.database - before.database,
        log_bytes=_replayed(recording, settings, log_only=True),
        replayed_bytes=_replayed(recording, settings, log_only=False),
    )


def _replayed(recording: Recording, settings: Settings, *, log_only: bool) -> int:
    with measured_disk() as (vfs, written):
        start = Written()

        def begin() -> None:
            start.wal = written.wal

        replay(recording, settings, vfs=vfs, keep=of_the_log if log_only else everything, begin=begin)
        return written.wal - start.wal


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    full = 100 if settings.smoke else 10_000
    slow = 10 if settings.smoke else 1_000
    for name, deltas, pause_s in (("without pause", full, 0.0), ("100 a second", slow, 0.01)):
        found = _measure(settings, deltas, pause_s)
        per_mb = MB / found.text_bytes
        table.rows.append(
            {
                "posted": name,
                "deltas": deltas,
                "events": found.events,
                "transactions": found.transactions,
                "text MB": found.text_bytes / MB,
                "WAL MB": found.wal_bytes / MB,
                "log's own MB": found.log_bytes / MB,
                "beyond MB": found.beyond / MB,
                "beyond per MB of text": found.beyond / MB * per_mb,
                "all replayed MB": found.replayed_bytes / MB,
                "database MB": found.database_bytes / MB,
            }
        )
        if not pause_s:
            table.aim("WAL beyond the log for 1 MB without pause in MB, below 4", found.beyond / MB * per_mb, at_most=4)
    table.notes.append("every text was read back whole")
    return table
