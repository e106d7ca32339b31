"""How many appends can sessions wait for, and for how long, against the floor of the same SQL?

Each session's task appends one event (an event row and a part upsert), waits for its receipt, and appends again. The
floor is measured in turns with the engine, at the mean batch size that the engine's run just had.
"""

from __future__ import annotations

import trio

from bench import floor, load
from bench.report import Settings, Table, latencies_ms, median
from engine import open_engine

TITLE = "acknowledged: each session waits for its receipt"
SESSIONS = (1, 10, 100, 1_000)


async def measure(sessions: int, settings: Settings) -> load.Acknowledged:
    """One window on a fresh file."""
    async with open_engine(settings.file("acknowledged")) as engine:
        return await load.acknowledged(engine, await load.new_sessions(engine, sessions), settings)


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    for sessions in SESSIONS:
        recording, events = floor.record(sessions, settings)
        runs, bares, owns = [], [], []
        for _ in range(settings.rounds):
            found = trio.run(measure, sessions, settings)
            runs.append(found)
            rows = max(1, round(found.mean_batch))
            bares.append(found.per_second / floor.bare(rows, sessions, settings, seconds=settings.seconds / 2))
            owns.append(found.per_second / floor.own(recording, events, settings))
        table.rows.append(
            {
                "sessions": sessions,
                "events/s": median([found.per_second for found in runs]),
                **latencies_ms([latency for found in runs for latency in found.latencies_s]),
                "mean batch": median([found.mean_batch for found in runs]),
                "of bare floor": median(bares),
                "of own SQL": median(owns),
            }
        )
        table.aim(f"{sessions} sessions, of the bare floor, at least 0.5", median(bares), at_least=0.5)
    return table
