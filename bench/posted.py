"""How much can 100 sessions stream without waiting for receipts?

`text`: pieces of text through turns; what waits is joined, so events are fewer than calls. `events`: posted events that
cannot be joined. Each burst counts until its last event is durable and its messages are settled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from bench import floor, load
from bench.report import Settings, Table, median
from engine import Engine, Session, open_engine

TITLE = "posted: 100 sessions stream without waiting"
SESSIONS = 100


Burst = Callable[[Engine, list[Session], int], Awaitable[load.Posted]]


async def _measure(what: Burst, calls: int, settings: Settings) -> load.Posted:
    async with open_engine(settings.file("posted")) as engine:
        sessions = await load.new_sessions(engine, SESSIONS)
        await what(engine, sessions, max(1, calls // 10))
        return await what(engine, sessions, calls)
    raise AssertionError("unreachable")


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    for name, what, calls in (("text", load.stream_text, 1_000), ("events", load.post_parts, 300)):
        runs, ratios = [], []
        for _ in range(settings.rounds):
            found = trio.run(_measure, what, 10 if settings.smoke else calls, settings)
            runs.append(found)
            rows = max(1, round(found.events / max(1, found.batches)))
            bare = floor.bare(rows, SESSIONS, settings, seconds=settings.seconds / 2)
            ratios.append(found.events / found.seconds / bare)
        table.rows.append(
            {
                "posted": name,
                "calls/s": median([found.calls / found.seconds for found in runs]),
                "chars/s": median([found.chars / found.seconds for found in runs]),
                "events/s": median([found.events / found.seconds for found in runs]),
                "calls/event": median([found.calls / found.events for found in runs]),
                "mean batch": median([found.events / max(1, found.batches) for found in runs]),
                "events of bare floor": median(ratios),
            }
        )
    return table
