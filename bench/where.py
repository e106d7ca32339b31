"""Where should the SQL run: on the loop, or in a worker thread?

The same engine with another `step` port. Idle, the thread costs a hop per batch. Beside a busy task it starves: the loop
releases the GIL for an instant at each poll and has it back before the waiting thread woke up, and each release starts the
waiter's 5 ms anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from bench import load
from bench.report import Settings, Table, latencies_ms, median
from engine import open_engine
from engine.ports import Ports, run_inline

TITLE = "where: the SQL step inline or in a worker thread"
SESSIONS = (1, 100)
T = TypeVar("T")


async def run_in_thread(step: Callable[[], T]) -> T:
    """Run a SQL step in a worker thread of trio's."""
    return await trio.to_thread.run_sync(step)


STEPS = {"inline": run_inline, "thread": run_in_thread}


async def _measure(step: str, sessions: int, busy: bool, settings: Settings) -> load.Acknowledged:
    async with open_engine(settings.file("where"), ports=Ports(step=STEPS[step])) as engine:
        made = await load.new_sessions(engine, sessions)
        return await load.acknowledged(engine, made, settings, busy=busy)
    raise AssertionError("unreachable")


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    for sessions in SESSIONS:
        for busy in (False, True):
            runs: dict[str, list[load.Acknowledged]] = {step: [] for step in STEPS}
            ratios = []
            for _ in range(settings.rounds):
                for step, found in runs.items():
                    found.append(trio.run(_measure, step, sessions, busy, settings))
                ratios.append(runs["thread"][-1].per_second / max(1e-9, runs["inline"][-1].per_second))
            for step, found in runs.items():
                table.rows.append(
                    {
                        "sessions": sessions,
                        "loop": "busy" if busy else "idle",
                        "step": step,
                        "events/s": median([one.per_second for one in found]),
                        **latencies_ms([latency for one in found for latency in one.latencies_s]),
                        "of inline": median(ratios) if step == "thread" else None,
                    }
                )
    return table
