"""What is left beside a task that burns CPU in 1 ms slices, each followed by a checkpoint?

The user's own code shares the loop. An engine that needs a thread to be scheduled starves here (see `where`).
"""

from __future__ import annotations

import trio

from bench import load
from bench.report import Settings, Table, latencies_ms, median, quantile
from engine import open_engine

TITLE = "busy: beside a task that burns 1 ms slices"
SESSIONS = (1, 100, 1_000)


async def _measure(sessions: int, busy: bool, settings: Settings) -> load.Acknowledged:
    async with open_engine(settings.file("busy")) as engine:
        made = await load.new_sessions(engine, sessions)
        return await load.acknowledged(engine, made, settings, busy=busy)
    raise AssertionError("unreachable")


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    for sessions in SESSIONS:
        idle, busy, ratios = [], [], []
        for _ in range(settings.rounds):
            idle.append(trio.run(_measure, sessions, False, settings))
            busy.append(trio.run(_measure, sessions, True, settings))
            ratios.append(busy[-1].per_second / idle[-1].per_second)
        for name, runs, ratio in (("idle", idle, None), ("busy", busy, median(ratios))):
            table.rows.append(
                {
                    "sessions": sessions,
                    "loop": name,
                    "events/s": median([found.per_second for found in runs]),
                    **latencies_ms([latency for found in runs for latency in found.latencies_s]),
                    "of idle": ratio,
                }
            )
        if sessions == 100:
            p99 = 1e3 * quantile([latency for found in busy for latency in found.latencies_s], 0.99)
            table.aim("100 sessions, of idle throughput, at least 0.4", median(ratios), at_least=0.4)
            table.aim("100 sessions, p99 in ms, at most 12", p99, at_most=12)
    return table
