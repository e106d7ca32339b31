"""How long after an append does its event reach a client, beside the commit's own latency?"""

from __future__ import annotations

from typing import Any

import trio

from bench.live import clients, paced, results, served, sessions_of
from bench.report import Settings, Table, quantile

PER_S = 200.0
SIZE_BYTES = 512


def run(settings: Settings) -> Table:
    """Appends at a steady pace from 10 sessions, to 1, 10 and 50 clients of the workspace."""
    table = Table(title=f"delivery: from append to the client's decoded event, {PER_S:.0f} appends/s of {SIZE_BYTES} B")
    count = 40 if settings.smoke else 2_000
    for followers in (2,) if settings.smoke else (1, 10, 50):
        found, commit = trio.run(_one, settings, followers, count)
        table.rows.append(
            {
                "clients": followers,
                "commit p50 ms": 1e3 * quantile(commit, 0.5),
                "commit p99 ms": 1e3 * quantile(commit, 0.99),
                "client p50 ms": 1e3 * found["p50"],
                "client p99 ms": 1e3 * found["p99"],
                "beyond p50 ms": 1e3 * (found["p50"] - quantile(commit, 0.5)),
                "gaps": found["gaps"],
            }
        )
    return table


async def _one(settings: Settings, followers: int, count: int) -> tuple[dict[str, Any], list[float]]:
    async with served(settings, "delivery") as (engine, server):
        sessions = await sessions_of(engine, 10)
        async with clients(server, mode="follow", clients=followers, events=count) as made:
            commit = await paced(sessions, count, SIZE_BYTES, PER_S)
            return await results(made), commit
