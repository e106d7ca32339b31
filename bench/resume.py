"""How long does a client that missed 10,000 events take to be caught up, and does it miss any?"""

from __future__ import annotations

import trio

from bench.live import clients, flood, results, served, sessions_of
from bench.report import Settings, Table, median
from engine import HEAD

SIZE_BYTES = 512


def run(settings: Settings) -> Table:
    """Clients that come back with the cursor they had before the events."""
    table = Table(title="resume: from the subscription after a cursor to the last of the events missed meanwhile")
    count = 100 if settings.smoke else 10_000
    trio.run(_all, settings, table, count)
    return table


async def _all(settings: Settings, table: Table, count: int) -> None:
    async with served(settings, "resume") as (engine, server):
        sessions = await sessions_of(engine, 10)
        async with engine.log(after=HEAD) as log:
            cursor = str(log.cursor)
        await flood(sessions, count, SIZE_BYTES)
        for library in (False, True):
            taken, gaps = [], 0
            for _ in range(settings.rounds):
                async with clients(server, mode="follow", clients=1, events=count, after=cursor, library=library) as made:
                    found = await results(made)
                taken.append(found["last"] - found["first"])
                gaps += found["gaps"] + (found["events"] != count)
            table.rows.append(
                {
                    "through": "the client library" if library else "frames",
                    "missed": count,
                    "caught up ms": 1e3 * median(taken),
                    "events/s": count / median(taken),
                    "gaps": gaps,
                }
            )
