"""What does one client that never reads do to the others, and to memory?"""

from __future__ import annotations

from typing import Any

import trio

from bench.live import clients, memory_bytes, paced, results, served, sessions_of
from bench.report import Settings, Table, median
from engine.limits import ServerLimits

PER_S = 200.0
SIZE_BYTES = 8 * 1024
FOLLOWERS = 20


def run(settings: Settings) -> Table:
    """20 clients that read, with and without one that subscribes and never reads, in turns."""
    table = Table(
        title=f"stalled: {FOLLOWERS} readers, {PER_S:.0f} appends/s of {SIZE_BYTES // 1024} KiB, one that never reads"
    )
    count = 40 if settings.smoke else 1_500
    without: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []
    for _ in range(1 if settings.smoke else 3):
        without.append(trio.run(_one, settings, count, 0))
        beside.append(trio.run(_one, settings, count, 1))
    for name, rounds in (("without", without), ("with one stalled", beside)):
        table.rows.append(
            {
                "readers": name,
                "p50 ms": 1e3 * median([found["p50"] for found in rounds]),
                "p99 ms": 1e3 * median([found["p99"] for found in rounds]),
                "memory MB": median([found["memory"] for found in rounds]) / 1e6,
                "lagging": sum(found["told"] for found in rounds),
                "gaps": sum(found["gaps"] for found in rounds),
            }
        )
    ratios = [b["p99"] / a["p99"] for a, b in zip(without, beside, strict=True)]
    table.aim("p99 beside one that never reads, of without", median(ratios), at_most=1.2)
    limits = ServerLimits()
    bound = limits.buffer_bytes_max + limits.page_bytes_max + 2 * limits.events_bytes
    grown = median([b["memory"] - a["memory"] for a, b in zip(without, beside, strict=True)])
    table.aim("memory it costs, of what is documented (buffer, page, frame)", grown / bound, at_most=1.0)
    table.notes.append(f"documented: {bound / 1e6:.2f} MB for one subscription")
    return table


async def _one(settings: Settings, count: int, stalled: int) -> dict[str, Any]:
    async with served(settings, "stalled") as (engine, server):
        sessions = await sessions_of(engine, 10)
        async with clients(server, mode="follow", clients=FOLLOWERS, events=count, stalled=stalled) as made:
            before = memory_bytes()
            await paced(sessions, count, SIZE_BYTES, PER_S)
            grown = memory_bytes() - before
            told = server.statistics().lagging
            found = await results(made)
    return {**found, "memory": grown, "told": told}
