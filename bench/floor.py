"""What does the SQL alone cost, in bare APSW, by rows per transaction?

Two floors. `bare`: one event row and one part upsert per event on the least schema that could hold them, executed row by
row: nobody can do less and still have a log and a read model. `own`: the statements that the engine itself executes for
the same events (heads, savepoints, guards, checkpoints), recorded and run again without the engine: what is above it is
Python, what is between the two is promises.
"""

from __future__ import annotations

import time

import trio

from bench import load
from bench.recording import Recording, recorded, replay
from bench.report import Settings, Table, median
from engine import Session, open_engine
from engine.events import to_json
from engine.store import connect

TITLE = "floor: the SQL alone, WAL, synchronous=FULL"
SIZES = (1, 10, 100, 1_000)

_SCHEMA = """
CREATE TABLE event(position INTEGER PRIMARY KEY, session_key INTEGER NOT NULL, seq INTEGER NOT NULL,
    type_key INTEGER NOT NULL, recorded_at INTEGER NOT NULL, data TEXT NOT NULL, UNIQUE(session_key, seq)) STRICT;
CREATE TABLE part(key INTEGER PRIMARY KEY, session_key INTEGER NOT NULL, part_id TEXT NOT NULL, data TEXT NOT NULL,
    UNIQUE(session_key, part_id)) STRICT;
"""
_EVENT = "INSERT INTO event(session_key, seq, type_key, recorded_at, data) VALUES(?, ?, ?, ?, ?)"
_PART = (
    "INSERT INTO part(session_key, part_id, data) VALUES(?, ?, ?) "
    "ON CONFLICT(session_key, part_id) DO UPDATE SET data = excluded.data"
)


def bare(rows: int, sessions: int, settings: Settings, *, seconds: float | None = None) -> float:
    """Events per second with `rows` events in a transaction, spread over as many sessions as the engine's run has."""
    connection = connect(settings.file("floor"), vfs=None, write=True)
    try:
        connection.execute(_SCHEMA)
        # As often as the engine does: at 4 MiB of WAL, between two transactions.
        connection.pragma("wal_autocheckpoint", 1_000)
        execute = connection.cursor().execute
        data = to_json(load.part(1))
        kept = to_json(load.part(1).data)
        done = 0
        begun, elapsed = 0, 1.0
        for window in (settings.warm_up_s, seconds or settings.seconds):
            begun = done
            started = time.perf_counter()
            until = started + window
            while time.perf_counter() < until:
                execute("BEGIN IMMEDIATE")
                for _ in range(rows):
                    session = done % sessions
                    seq = done // sessions
                    execute(_EVENT, (session, seq, 1, 1_700_000_000_000 + done, data))
                    execute(_PART, (session, f"p{seq % load.PARTS}", kept))
                    done += 1
                execute("COMMIT")
            elapsed = time.perf_counter() - started
        return (done - begun) / elapsed
    finally:
        connection.close()


def record(sessions: int, settings: Settings) -> tuple[Recording, int]:
    """The statements of an engine whose batches hold one append of each session, and the number of their events."""
    path = settings.file("recorded")
    rounds = max(2, min(2_000, (100 if settings.smoke else 5_000) // sessions))

    async def work() -> None:
        async with open_engine(path) as engine:
            made = await load.new_sessions(engine, sessions)
            recording.begin()

            async def one(session: Session) -> None:
                for n in range(rounds):
                    await session.append(load.part(n))

            async with trio.open_nursery() as nursery:
                for session in made:
                    nursery.start_soon(one, session)

    with recorded(path) as recording:
        trio.run(work)
    return recording, rounds * sessions


def own(recording: Recording, events: int, settings: Settings) -> float:
    """Events per second of the engine's recorded statements."""
    return events / replay(recording, settings)


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    for size in SIZES:
        recording, events = record(size, settings)
        bares, owns = [], []
        for _ in range(settings.rounds):
            bares.append(bare(size, size, settings, seconds=settings.seconds / 2))
            owns.append(own(recording, events, settings))
        table.rows.append(
            {
                "rows/transaction": size,
                "bare events/s": median(bares),
                "own events/s": median(owns),
                "own us/event": 1e6 / median(owns),
                "statements/event": (len(recording.statements) - recording.mark) / events,
                "own/bare": median([b / a for a, b in zip(bares, owns, strict=True)]),
            }
        )
    return table
